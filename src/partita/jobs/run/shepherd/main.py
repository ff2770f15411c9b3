"""The watcher's life: start the job, watch it, end what it leaves, write how it ended."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import time
from contextlib import suppress

from partita.jobs.run import folder as names
from partita.jobs.run.shepherd import child, documents, processes
from partita.jobs.run.shepherd.hearing import Hearing
from partita.jobs.run.shepherd.log import BoundedLog
from partita.jobs.run.shepherd.stopping import Stopping

TYPE_CHECKING = False  # typing is a tenth of the watcher's memory
if TYPE_CHECKING:
    from typing import Any

_PIPE = 256 * 1024
_FIRST_S, _MOST_S = 0.02, 1.0
_WRITE_TRIES = 60


def main(path: str, digest: str) -> None:
    """Watch the attempt of this folder, whose lock is open as `LOCK_FD`.

    Args:
        path: the folder.
        digest: of the document that says what is to be run; another one is not.
    """
    os.umask(0o077)
    os.set_inheritable(names.LOCK_FD, False)
    os.closerange(names.LOCK_FD + 1, 4096)
    child.become_watcher()
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    data = documents.contents(folder, names.LAUNCH)
    launch = json.loads(data)
    del launch["record"]  # for the queue
    Watcher(folder, launch).run(genuine=documents.digest(data) == digest)


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
        self._log = BoundedLog(folder, launch["log_bytes"], self._owner)
        self._hearing = Hearing(ours=self._limit is not None, patterns=launch["oom_patterns"])
        self._stopping = Stopping(folder, launch["grace_s"])
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
        """Do all of it.

        Args:
            genuine: whether what is to be run is what the queue wrote.
        """
        self._listen()
        self._own_file(names.PROGRESS)
        try:
            documents.reserve(self._folder, names.EXIT)
            if not genuine:
                raise child.NotStartedError(f"{names.LAUNCH} is not what was submitted; nothing was started")
            self._stopping.look()
            if self._stopping.asked:
                raise child.NotStartedError("stopped before it began")
            self._main = child.start({**self._launch, "watcher": os.getpid()}, self._output)
        except child.NotStartedError as error:
            self._log.write(f"partita: {error.why}\n".encode())
            self._end(code=error.code, why=error.why)
            return
        except OSError as error:
            self._end(code=child.NO_START, why=f"cannot be prepared: {error.strerror}")
            return
        os.close(self._output)
        self._stopping.limit(self._launch["limit_s"])
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
            self._stopping.act(self._below, reports=self._reports)
            timeout = self._stopping.next_look(due) - time.monotonic()
            for handle, what in poll.poll(max(0, int(timeout * 1000)) + 1):
                if handle == self._wake:
                    os.read(self._wake, 4096)
                    self._stopping.look(told=self._told)
                elif not self._drain() and what & select.POLLHUP:
                    poll.unregister(self._pipe)
        # What is in the pipe and no more: someone far away may hold its other end.
        for _ in range(_PIPE // 4096):
            if not self._drain():
                break

    def _reap(self) -> bool:
        """Take in who ended; say whether somebody is left who has not been given up."""
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return not self._stopping.given_up()
            self._cpu_s += used.ru_utime + used.ru_stime
            if pid == self._main and self._code is None:
                self._code = os.waitstatus_to_exitcode(status)
                self._stopping.main_ended(len(self._below()))

    def _look(self) -> None:
        """See what is asked, which processes there are, and what memory they have in sum."""
        self._stopping.look(told=self._told)
        found = self._below()
        used = sum(map(processes.memory, found))
        self._peak = max(self._peak, used)
        if found != self._seen:
            self._note(found)
        if self._limit is not None and used > self._limit and not self._over:
            self._over = True
            said = f"partita: its processes have {used} bytes together, and its instance {self._limit}\n"
            self._log.write(said.encode())
            self._stopping.kill_now()

    def _below(self) -> list[int]:
        return processes.descendants(os.getpid())

    @property
    def _reports(self) -> bool:
        try:
            return os.stat(names.PROGRESS, dir_fd=self._folder).st_size > 0
        except OSError:
            return False

    def _drain(self) -> bool:
        """Read what the pipe has; say whether there was anything."""
        try:
            data = os.read(self._pipe, _PIPE)
        except BlockingIOError:
            return False
        self._hearing.hear(data)
        self._log.write(data)
        return bool(data)

    def _note(self, pids: list[int]) -> None:
        """Write down who there is, for the one who finds that this watcher was killed."""
        self._seen = pids
        seen = [[pid, processes.ticks(pid)] for pid in pids]
        found = {"watcher": os.getpid(), "main": self._main, "began": self._began, "processes": seen}
        try:
            documents.write(self._folder, names.WATCH, found, durable=False)
        except OSError:
            return  # a full disk; the processes are found by their session and environment

    def _why(self) -> str | None:
        if self._code is None:
            return f"its processes do not end: {self._below()}; is its GPU lost?"
        if self._over:
            return "its processes had more memory together than its instance"
        if self._code == -signal.SIGKILL and not self._stopping.killed:
            return "killed (SIGKILL) by somebody else, perhaps the host, out of memory"
        return None

    def _taken_for(self, code: int | None) -> dict[str, Any]:
        found = self._hearing.ending(code)
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
            "timed_out": self._stopping.timed_out,
            "began": self._began if self._main else None,
            "ended": self._began + lasted,
            "peak_bytes": self._peak or None,
            "cpu_s": round(self._cpu_s, 3),
            "left": self._stopping.left,
            "stuck": self._below(),
            "log": self._log.finish(),
        }
        for _ in range(_WRITE_TRIES):
            try:
                documents.write(self._folder, names.EXIT, found)
            except OSError:
                time.sleep(1.0)  # a full disk, and no room was set aside
            else:
                return
