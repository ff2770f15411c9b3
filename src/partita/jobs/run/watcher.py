"""The watcher of one attempt: a small process that outlives the daemon and needs only the standard library.

It starts the job as its submitter, keeps a log of limited size, detects out-of-memory in it, ends the job when asked
to, ends the processes that the job leaves, and finally writes how the job ended.
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
_OOM_SCORE = 500  # when the host runs out of memory, the kernel kills jobs before services
LEFT_S = 5.0
"""Seconds from SIGTERM to SIGKILL of processes that a job leaves."""
TERM_AT = 0.8
"""Share of the grace after which a job that reports steps, and so reads the checkpoint file, also gets SIGTERM."""
GONE_S = 30.0
"""Seconds after SIGKILL when a process that has not ended (its GPU hangs) is given up."""
_AGAIN_S = 0.1


def main(path: str, digest: str, lock: str) -> None:
    """Watch the attempt of this folder.

    Args:
        path: the folder.
        digest: of the launch document; a document with another digest is not run.
        lock: descriptor of the folder's lock, which is held until this process ends.
    """
    os.umask(0o077)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.set_inheritable(int(lock), False)
    become_subreaper("partita-watcher")
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    data = read_file(folder, LAUNCH)
    launch = json.loads(data)  # without the codec, to be small (see `documents`)
    del launch["record"]  # only the queue needs it
    Watcher(folder, launch).run(genuine=digest_document(data) == digest)


class Watcher:
    """Watches one attempt.

    Args:
        folder: open descriptor of its folder.
        launch: the launch document.
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
        self._terminated = False
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
        """Start the job, watch it, end the processes that it leaves, and write how it ended.

        Args:
            genuine: whether the launch document is the one that the queue wrote.
        """
        self._listen()
        self._own_file(PROGRESS)
        try:
            reserve_room(self._folder, EXIT)
            if not genuine:
                raise NotStartedError(f"{LAUNCH} is not what was submitted; nothing was started")
            self._termination.look()
            if self._termination.asked:
                raise NotStartedError("stopped before it started")
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
        with suppress(OSError):  # over the user's limit for pipes: the default size suffices
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, self._woken)
        signal.signal(signal.SIGTERM, self._woken)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _woken(self, which: int, _frame: object) -> None:
        self._terminated = self._terminated or which == signal.SIGTERM

    def _own_file(self, name: str) -> None:
        """Create a file that the job may write."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            handle = os.open(name, flags, 0o600, dir_fd=self._folder)
        except OSError:
            return  # the job then cannot report
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
                    self._termination.look(signalled=self._terminated)
                elif not self._drain() and what & select.POLLHUP:
                    poll.unregister(self._pipe)
        # Only what the pipe holds now: a detached process may keep its other end open.
        for _ in range(_PIPE // 4096):
            if not self._drain():
                break

    def _reap(self) -> bool:
        """Reap ended processes; return whether any is left that has not been given up."""
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
        """Look for a request to stop, list the processes, and check their memory."""
        self._termination.look(signalled=self._terminated)
        found = self._below()
        used = sum(map(table.memory, found))
        self._peak = max(self._peak, used)
        if found != self._seen:
            self._note(found)
        if self._limit is not None and used > self._limit and not self._over:
            self._over = True
            note = f"partita: its processes use {used} bytes together, but its instance has {self._limit}\n"
            self._log.write(note.encode())
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
        """Read from the pipe; return whether there was anything."""
        try:
            data = os.read(self._pipe, _PIPE)
        except BlockingIOError:
            return False
        self._oom.add(data)
        self._log.write(data)
        return bool(data)

    def _note(self, pids: list[int]) -> None:
        """Write the list of processes, so that they can be found if this watcher is killed."""
        self._seen = pids
        seen = [[pid, table.started_at(pid)] for pid in pids]
        found = {"watcher": os.getpid(), "main": self._main, "began": self._began, "processes": seen}
        try:
            write_document(self._folder, WATCH, json.dumps(found).encode(), durable=False)
        except OSError:
            return  # a full disk; the processes are found by their session and environment

    def _why(self) -> str | None:
        if self._code is None:
            return f"its processes cannot be ended: {self._below()}; is its GPU lost?"
        if self._over:
            return "its processes together used more memory than its instance has"
        if self._code == -signal.SIGKILL and not self._termination.killed:
            return "killed (SIGKILL), but not by Partita; perhaps the host ran out of memory"
        return None

    def _ending(self, code: int | None) -> dict[str, Any]:
        found = self._oom.ending(code)
        return {name: getattr(found, name) for name in ("verdict", "why", "sure", "unclear", "line", "text")}

    def _end(self, *, code: int | None, why: str | None) -> None:
        # A process ended by signal n has code 128 + n, as in a shell.
        code = 128 - code if code is not None and code < 0 else code
        lasted = time.monotonic() - self._clock
        found = {
            "code": code,
            "why": why,
            "out_of_memory": self._over,
            "ending": None if self._over else self._ending(code),
            "timed_out": self._termination.timed_out,
            "began": self._began if self._main else None,
            # Not the time of day, whose clock may have been set meanwhile.
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
                time.sleep(1.0)  # the disk is full, and no space was reserved
            else:
                return


class Termination:
    """Decides when which signal is due; times are of the monotonic clock.

    Args:
        folder: open descriptor of the attempt's folder.
        grace_s: seconds from the request to SIGKILL, unless the request gives another number.

    Attributes:
        timed_out: whether the job was ended at its time limit.
        left: number of processes that were left when the main process ended.
        killed: whether SIGKILL was sent.
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
        """Whether the job was asked to end before it ended by itself."""
        return self._asked is not None

    def limit(self, seconds: float | None) -> None:
        """Set the job's time limit, counted from now."""
        self._limit = None if seconds is None else time.monotonic() + seconds

    def look(self, *, signalled: bool = False) -> None:
        """Check for a request to end the job: the checkpoint file, or a signal to the watcher (`signalled`)."""
        grace_s = self._read()
        if grace_s is None and signalled and self._asked is None:
            grace_s = self._grace_s
            self._create()
        if grace_s is None or (self._main_ended and self._asked is None):
            return
        self._ask(grace_s)

    def _ask(self, grace_s: float) -> None:
        self._asked = time.monotonic() if self._asked is None else self._asked
        # A later request may shorten the grace.
        self._deadline = min(self._asked + grace_s, self._deadline or float("inf"))

    def _apply_limit(self) -> None:
        """End a job at its time limit, unless it is being ended already."""
        if self._limit is None or time.monotonic() < self._limit:
            return
        self._limit = None
        if self._asked is None and not self._main_ended:
            self.timed_out = True
            self._create()
            self._ask(self._grace_s)

    def main_ended(self, left: int) -> None:
        """Note that the main process has ended; processes that it left get `LEFT_S`, or the rest of a grace."""
        self._main_ended = True
        if self._asked is None and left:
            self.left = left
            self._deadline = time.monotonic() + LEFT_S

    def kill_now(self) -> None:
        """Make SIGKILL due now."""
        self._deadline = time.monotonic()

    def act(self, below: Callable[[], list[int]], *, reports: bool) -> None:
        """Send the signal that is due to all processes of the job.

        Args:
            below: returns their pids.
            reports: whether the job reports steps, and so reads the checkpoint file and needs no SIGTERM at once.
        """
        self._apply_limit()
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
        """Return the latest time of the next `act`; `due` if no signal is due before."""
        if self._deadline is None:
            return due if self._limit is None else min(due, self._limit)
        now = time.monotonic()
        return min(due, self._deadline if now < self._deadline else now + _AGAIN_S)

    def given_up(self) -> bool:
        """Return whether processes were killed long ago but have not ended."""
        return self._deadline is not None and time.monotonic() > self._deadline + GONE_S

    def _term_at(self, *, reports: bool) -> float:
        if self._asked is None or self._deadline is None or self._main_ended or not reports:
            return 0.0
        return self._asked + TERM_AT * (self._deadline - self._asked)

    def _send(self, pids: list[int], which: signal.Signals) -> None:
        for pid in pids:
            table.send(pid, which)
            if which is signal.SIGTERM:
                table.send(pid, signal.SIGCONT)  # a stopped process would not receive SIGTERM

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
            pass  # a full disk: an empty file is a request, too
        finally:
            os.close(handle)


class OomDetector:
    """Keeps the end of a job's output, and classifies the end of the job by it.

    Args:
        ours: whether the job runs on a simulated instance, where host memory stands in for GPU memory.
        patterns: the user's regular expressions that mean that memory ran out.
    """

    def __init__(self, *, ours: bool, patterns: Sequence[str] = ()) -> None:
        self._ours = ours
        self._patterns = tuple(patterns)
        self._parts: deque[bytes] = deque()
        self._bytes = 0
        self._dropped_lines = 0

    def add(self, data: bytes) -> None:
        """Add the next part of the output."""
        self._parts.append(data)
        self._bytes += len(data)
        while self._bytes - len(self._parts[0]) >= END:
            dropped = self._parts.popleft()
            self._bytes -= len(dropped)
            self._dropped_lines += dropped.count(b"\n")

    def ending(self, code: int | None) -> Ending:
        """Return how a job ended that exited with this code."""
        text = b"".join(self._parts)
        before, end = text[:-END], text[-END:]
        first = 1 + self._dropped_lines + before.count(b"\n")
        return classify(code, end, first=first, host_memory=self._ours, patterns=self._patterns)
