"""The watcher of one attempt: a tiny process that outlives the queue, with the standard library alone.

It starts the job as the one who submitted it, keeps a bounded log, hears out-of-memory in it, ends the job when it is
asked to, ends what the job leaves behind, and writes how it ended as its last act.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import time
from collections import deque
from contextlib import suppress

from partita.jobs.run.folder import (
    CHECKPOINT,
    EXIT,
    LAUNCH,
    LOG,
    PROGRESS,
    WATCH,
    digest_document,
    read_file,
    reserve_room,
    write_document,
)
from partita.oom import END, Ending, classify
from partita.process import table
from partita.process.launch import NO_START, NotStartedError, User, become_subreaper, start_as
from partita.process.logs import BoundedLog

TYPE_CHECKING = False  # typing is a tenth of the watcher's memory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any


_PIPE = 256 * 1024
_FIRST_S, _MOST_S = 0.02, 1.0
_WRITE_TRIES = 60
_OOM_SCORE = 500  # jobs go before services when the host's memory runs out
LEFT_S = 5.0
"""Seconds that what a job leaves behind has between SIGTERM and SIGKILL."""
TERM_AT = 0.8
"""Share of the grace after which a job that reports steps, and so is asked by the file, gets SIGTERM as well."""
GONE_S = 30.0
"""Seconds after SIGKILL at which a process that does not go (a GPU that hangs) is given up."""
_AGAIN_S = 0.1


def main(path: str, digest: str, lock: str) -> None:
    """Watch the attempt of this folder.

    Args:
        path: the folder.
        digest: of the document that says what is to be run; another one is not.
        lock: number of the open file that is the folder's lock; it is held until we end.
    """
    os.umask(0o077)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.set_inheritable(int(lock), False)
    become_subreaper("partita-watcher")
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    data = read_file(folder, LAUNCH)
    launch = json.loads(data)  # plain documents, as `documents` says
    del launch["record"]  # for the queue
    Watcher(folder, launch).run(genuine=digest_document(data) == digest)


class Watcher:
    """Watches one attempt.

    Args:
        folder: open descriptor of its folder.
        launch: what is to be run.
    """

    def __init__(self, folder: int, launch: dict[str, Any]) -> None:
        self._folder = folder
        self._launch = launch
        self._limit: int | None = launch["limit_bytes"]
        owner = launch["owner"]
        self._owner = (owner["uid"], owner["gid"]) if os.geteuid() == 0 else None
        self._log = BoundedLog(folder, LOG, launch["log_bytes"], self._owner)
        self._oom = OomDetector(ours=self._limit is not None, patterns=launch["oom_patterns"])
        self._termination = Termination(folder, launch["grace_s"])
        self._told = False
        self._main = 0
        self._code: int | None = None
        self._peak = 0
        self._over = False
        self._cpu_s = 0.0
        self._seen: list[int] = []
        self._clock = time.monotonic()
        self._began = time.time()
        self._pipe, self._output = os.pipe()
        self._wake, self._waker = os.pipe()

    def run(self, *, genuine: bool = True) -> None:
        """Start the job, watch it, end what it leaves, and write how it ended.

        Args:
            genuine: whether what is to be run is what the queue wrote.
        """
        self._listen()
        self._own_file(PROGRESS)
        try:
            reserve_room(self._folder, EXIT)
            if not genuine:
                raise NotStartedError(f"{LAUNCH} is not what was submitted; nothing was started")
            self._termination.look()
            if self._termination.asked:
                raise NotStartedError("stopped before it began")
            self._main = start_as(
                self._launch["command"],
                self._launch["environment"],
                directory=self._launch["directory"],
                user=User(**self._launch["owner"]),
                umask=self._launch["umask"],
                output=self._output,
                data_bytes=self._limit,
                oom_score=_OOM_SCORE,
            )
        except NotStartedError as error:
            self._log.write(f"partita: {error.why}\n".encode())
            self._end(code=error.code, why=error.why)
            return
        except OSError as error:
            self._end(code=NO_START, why=f"cannot be prepared: {error.strerror}")
            return
        os.close(self._output)
        self._termination.limit(self._launch["limit_s"])
        self._note([self._main])
        self._watch()
        self._end(code=self._code, why=self._why())

    def _listen(self) -> None:
        for handle in (self._pipe, self._wake, self._waker):
            os.set_blocking(handle, False)
        with suppress(OSError):  # a user's share of pipes is used up, and the default will do
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, self._woken)
        signal.signal(signal.SIGTERM, self._woken)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _woken(self, which: int, _frame: object) -> None:
        self._told = self._told or which == signal.SIGTERM

    def _own_file(self, name: str) -> None:
        """Make a file that the job may write to."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            handle = os.open(name, flags, 0o600, dir_fd=self._folder)
        except OSError:
            return  # the job goes without reporting
        if self._owner is not None:
            os.fchown(handle, *self._owner)
        os.close(handle)

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        pause, due = _FIRST_S, 0.0
        while self._reap():
            if time.monotonic() >= due:
                self._look()
                pause = min(2 * pause, _MOST_S)
                due = time.monotonic() + pause
            self._termination.act(self._below, reports=self._reports)
            timeout = self._termination.next_look(due) - time.monotonic()
            for handle, what in poll.poll(max(0, int(timeout * 1000)) + 1):
                if handle == self._wake:
                    os.read(self._wake, 4096)
                    self._termination.look(told=self._told)
                elif not self._drain() and what & select.POLLHUP:
                    poll.unregister(self._pipe)
        # What is in the pipe and no more: someone far away may hold its other end.
        for _ in range(_PIPE // 4096):
            if not self._drain():
                break

    def _reap(self) -> bool:
        """Reap what has ended; say whether a process is left that has not been given up."""
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return not self._termination.given_up()
            self._cpu_s += used.ru_utime + used.ru_stime
            if pid == self._main and self._code is None:
                self._code = os.waitstatus_to_exitcode(status)
                self._termination.main_ended(len(self._below()))

    def _look(self) -> None:
        """Look for a request to stop, list the processes, and add up their memory."""
        self._termination.look(told=self._told)
        found = self._below()
        used = sum(map(table.memory, found))
        self._peak = max(self._peak, used)
        if found != self._seen:
            self._note(found)
        if self._limit is not None and used > self._limit and not self._over:
            self._over = True
            said = f"partita: its processes have {used} bytes together, and its instance {self._limit}\n"
            self._log.write(said.encode())
            self._termination.kill_now()

    def _below(self) -> list[int]:
        return table.descendants(os.getpid())

    @property
    def _reports(self) -> bool:
        try:
            return os.stat(PROGRESS, dir_fd=self._folder).st_size > 0
        except OSError:
            return False

    def _drain(self) -> bool:
        """Read what the pipe has; say whether there was anything."""
        try:
            data = os.read(self._pipe, _PIPE)
        except BlockingIOError:
            return False
        self._oom.hear(data)
        self._log.write(data)
        return bool(data)

    def _note(self, pids: list[int]) -> None:
        """Write down which processes there are, for whoever finds that this watcher was killed."""
        self._seen = pids
        seen = [[pid, table.started_at(pid)] for pid in pids]
        found = {"watcher": os.getpid(), "main": self._main, "began": self._began, "processes": seen}
        try:
            write_document(self._folder, WATCH, json.dumps(found).encode(), durable=False)
        except OSError:
            return  # a full disk; the processes are found by their session and environment

    def _why(self) -> str | None:
        if self._code is None:
            return f"its processes do not end: {self._below()}; is its GPU lost?"
        if self._over:
            return "its processes had more memory together than its instance"
        if self._code == -signal.SIGKILL and not self._termination.killed:
            return "killed (SIGKILL) by somebody else, perhaps the host, out of memory"
        return None

    def _taken_for(self, code: int | None) -> dict[str, Any]:
        found = self._oom.ending(code)
        return {name: getattr(found, name) for name in ("verdict", "why", "sure", "unclear", "line", "text")}

    def _end(self, *, code: int | None, why: str | None) -> None:
        # A process that has ended by signal n has 128 + n, as in a shell.
        code = 128 - code if code is not None and code < 0 else code
        lasted = time.monotonic() - self._clock
        found = {
            "code": code,
            "why": why,
            "out_of_memory": self._over,
            "ending": None if self._over else self._taken_for(code),
            # Not the clock, which may have jumped.
            "timed_out": self._termination.timed_out,
            "began": self._began if self._main else None,
            "ended": self._began + lasted,
            "peak_bytes": self._peak or None,
            "cpu_s": round(self._cpu_s, 3),
            "left": self._termination.left,
            "stuck": self._below(),
            "log": self._log.finish(),
        }
        for _ in range(_WRITE_TRIES):
            try:
                write_document(self._folder, EXIT, json.dumps(found).encode())
            except OSError:
                time.sleep(1.0)  # a full disk, and no room was set aside
            else:
                return


class Termination:
    """When which signal is due; times are of the monotonic clock.

    Args:
        folder: open descriptor of the attempt's folder.
        grace_s: seconds from asking to killing, where the one who asks does not say.
    """

    def __init__(self, folder: int, grace_s: float) -> None:
        self._folder = folder
        self._grace_s = grace_s
        self._asked: float | None = None
        self._deadline: float | None = None
        self._main_ended = False
        self._termed = False
        self._limit: float | None = None
        self.timed_out = False
        self.left = 0
        self.killed = False

    @property
    def asked(self) -> bool:
        """Whether the job was asked to end before it did."""
        return self._asked is not None

    def limit(self, seconds: float | None) -> None:
        """Have the job asked to end when it has run for so long."""
        self._limit = None if seconds is None else time.monotonic() + seconds

    def look(self, *, told: bool = False) -> None:
        """See whether the job is to end, and by when; `told` by a signal to the watcher."""
        grace_s = self._read()
        if grace_s is None and told and self._asked is None:
            grace_s = self._grace_s
            self._create()
        if grace_s is None or (self._main_ended and self._asked is None):
            return
        self._ask(grace_s)

    def _ask(self, grace_s: float) -> None:
        self._asked = time.monotonic() if self._asked is None else self._asked
        # Asked again with less grace, it has less.
        self._deadline = min(self._asked + grace_s, self._deadline or float("inf"))

    def _mind_limit(self) -> None:
        """End a job that has run for as long as it may, unless it is being ended for something else."""
        if self._limit is None or time.monotonic() < self._limit:
            return
        self._limit = None
        if self._asked is None and not self._main_ended:
            self.timed_out = True
            self._create()
            self._ask(self._grace_s)

    def main_ended(self, left: int) -> None:
        """Note that the main process has ended and left others; they have what is left of a grace."""
        self._main_ended = True
        if self._asked is None and left:
            self.left = left
            self._deadline = time.monotonic() + LEFT_S

    def kill_now(self) -> None:
        """Have everything killed."""
        self._deadline = time.monotonic()

    def act(self, below: Callable[[], list[int]], *, reports: bool) -> None:
        """Send what is due to all processes of the job.

        Args:
            below: finds them.
            reports: the job reports steps, and so learns that it is to end without SIGTERM.
        """
        self._mind_limit()
        if self._deadline is None:
            return
        now = time.monotonic()
        if now >= self._deadline:
            self.killed = True
            self._send(below(), signal.SIGKILL)
        elif not self._termed and now >= self._term_at(reports=reports):
            self._termed = True
            self._send(below(), signal.SIGTERM)

    def next_look(self, due: float) -> float:
        """Return when to act next, at the latest."""
        if self._deadline is None:
            return due if self._limit is None else min(due, self._limit)
        now = time.monotonic()
        return min(due, self._deadline if now < self._deadline else now + _AGAIN_S)

    def given_up(self) -> bool:
        """Say whether processes were killed long ago and are still there."""
        return self._deadline is not None and time.monotonic() > self._deadline + GONE_S

    def _term_at(self, *, reports: bool) -> float:
        if self._asked is None or self._deadline is None or self._main_ended or not reports:
            return 0.0
        return self._asked + TERM_AT * (self._deadline - self._asked)

    def _send(self, pids: list[int], which: signal.Signals) -> None:
        for pid in pids:
            table.send(pid, which)
            if which is signal.SIGTERM:
                table.send(pid, signal.SIGCONT)  # a stopped process would never see it

    def _read(self) -> float | None:
        try:
            return float(read_file(self._folder, CHECKPOINT))
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return self._grace_s

    def _create(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            handle = os.open(CHECKPOINT, flags, 0o644, dir_fd=self._folder)
        except OSError:
            return  # SIGTERM asks as well
        try:
            os.write(handle, str(self._grace_s).encode())
        except OSError:
            pass  # a full disk: an empty file asks, too
        finally:
            os.close(handle)


class OomDetector:
    """Keeps the end of a job's output as it streams by, and says in the end what the job is taken for.

    Args:
        ours: the job runs under a memory limit of ours, so that the host's memory stands for the slice's.
        patterns: regular expressions of the user's that say that memory ran out.
    """

    def __init__(self, *, ours: bool, patterns: Sequence[str] = ()) -> None:
        self._ours = ours
        self._patterns = tuple(patterns)
        self._parts: deque[bytes] = deque()
        self._bytes = 0
        self._dropped_lines = 0

    def hear(self, data: bytes) -> None:
        """Take the next part of the output."""
        self._parts.append(data)
        self._bytes += len(data)
        while self._bytes - len(self._parts[0]) >= END:
            dropped = self._parts.popleft()
            self._bytes -= len(dropped)
            self._dropped_lines += dropped.count(b"\n")

    def ending(self, code: int | None) -> Ending:
        """Return the verdict on a job that ended with this code."""
        text = b"".join(self._parts)
        before, end = text[:-END], text[-END:]
        first = 1 + self._dropped_lines + before.count(b"\n")
        return classify(code, end, first=first, host_memory=self._ours, patterns=self._patterns)
