"""Starts processes, learns when they end, knows them again after a restart, and ends them with all they began.

A process leads a session and a group of its own, unless it is to be of ours: Ctrl-C is for us to hand on, and one
signal reaches all of it. It is taken from the kernel's table as soon as it ends (`Child`), though nobody asks. One
that outlives us is known again by a `ProcessIdentity`, which whoever starts it writes down before and after.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from partita.process import table
from partita.process.logs import keep_short

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

PIPE = subprocess.PIPE
KILLED_S = 30.0
"""Seconds after SIGKILL at which a process that does not go (a GPU that hangs) is given up."""
_LOOK_S = 0.05
_SET_DEATH_SIGNAL = 1


def start(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdin: int | None = None,
    output: Path | int | None,
    errors: IO[bytes] | None = None,
    inherited: Collection[int] = (),
    apart: bool = True,
    ended: Callable[[Child], None] | None = None,
) -> Child:
    """Start a process.

    Args:
        command: the program, found in the environment's PATH, and its arguments.
        environment: all of its environment.
        stdin: `PIPE` for a pipe that ends when we do, so that it can end with us; else it has none.
        output: the file that its output is added to, cut down first if it has grown long; `PIPE`; None for ours.
        errors: the file of its standard error; with its output if None.
        inherited: open files that it gets under the same numbers, beside these three.
        apart: whether it leads a session of its own, and may outlive us. Otherwise it is of our group, and the kernel
            kills it when the thread that starts it ends (PR_SET_PDEATHSIG, prctl(2)).
        ended: is called in a thread of the keeper's once it has ended.

    Raises:
        OSError: it cannot be started.
    """
    prctl = ctypes.CDLL(None).prctl  # before it forks
    log = None
    if isinstance(output, Path):
        log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        if log is not None:
            keep_short(log)  # the last one may have died of what it wrote
        process = subprocess.Popen(  # noqa: S603 -- what is run is for the caller to answer
            list(command),
            env=dict(environment),
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=log if isinstance(output, Path) else output,
            stderr=errors if errors is not None or output is None else subprocess.STDOUT,
            pass_fds=tuple(inherited),
            start_new_session=apart,
            # One call of the system, which takes no lock.
            preexec_fn=None if apart else lambda: prctl(_SET_DEATH_SIGNAL, signal.SIGKILL),  # noqa: PLW1509
        )
    finally:
        if log is not None:
            os.close(log)
    child = Child(process, apart=apart, ended=ended)
    _reaper.watch(child)
    return child


class Child:
    """A process that we have started; safe in threads.

    Attributes:
        pid: its number, which is nobody else's until it has ended.
        stdin: the pipe to it, if it was asked for.
        stdout: the pipe from it, likewise.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], *, apart: bool, ended: Callable[[Child], None] | None
    ) -> None:
        self._process = process
        self._apart = apart
        self._told = ended
        # What ended is reaped under the lock alone: while somebody else holds it, the pid cannot become another's.
        self._lock = threading.Lock()
        self._over = threading.Event()
        self.pid = process.pid
        self.stdin = process.stdin
        self.stdout = process.stdout

    @property
    def returncode(self) -> int | None:
        """The exit code, -n after signal n; None while it runs."""
        return self._process.returncode if self._over.is_set() else None

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait until it has ended, or for so many seconds; return `returncode`."""
        self._over.wait(timeout_s)
        return self.returncode

    def signal(self, which: signal.Signals) -> None:
        """Send it a signal, and to nothing that it has started; nothing where it has ended."""
        with self._lock:
            if not self._over.is_set():
                table.send(self.pid, which)

    def kill(self) -> None:
        """End it by force, and its group if it leads one; nothing where it has ended."""
        with self._lock:
            if not self._over.is_set():
                (table.send_group if self._apart else table.send)(self.pid, signal.SIGKILL)

    def end(self, grace_s: float) -> int | None:
        """Ask it to end, then end it by force; return `returncode`, None if it does not even go then."""
        self.signal(signal.SIGTERM)
        if self.wait(grace_s) is None:
            self.kill()
        return self.wait(KILLED_S)

    def close(self) -> None:
        """Let go of the pipes."""
        for stream in (self.stdin, self.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    def reap(self) -> None:
        """Take it from the kernel's table: for the keeper's thread, which knows that it has ended."""
        with self._lock:
            self._process.wait()
            self._over.set()
        if self._told is not None:
            self._told(self)


class _Reaper:
    """One thread that waits for all children; it starts with the first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._epoll: select.epoll | None = None
        self._children: dict[int, Child] = {}

    def watch(self, child: Child) -> None:
        # A handle of the process: it can be read once that has ended (pidfd_open(2)).
        handle = os.pidfd_open(child.pid)
        with self._lock:
            if self._epoll is None:
                self._epoll = select.epoll()
                threading.Thread(target=self._run, args=(self._epoll,), name="reaper", daemon=True).start()
            self._children[handle] = child
            self._epoll.register(handle, select.EPOLLIN)

    def _run(self, epoll: select.epoll) -> None:
        while True:
            for handle, _ in epoll.poll():
                with self._lock:
                    child = self._children.pop(
                        handle
                    )  # first: once it is closed, the number is given out again
                epoll.unregister(handle)
                os.close(handle)
                child.reap()

    def forget(self) -> None:
        """Begin anew in a process that was forked from ours: it has neither the thread nor the children."""
        self.__init__()  # type: ignore[misc]


_reaper = _Reaper()
os.register_at_fork(after_in_child=_reaper.forget)


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """How a process and its descendants are recognized, whoever started them.

    Attributes:
        boot: the boot of the host in which it runs.
        mark: `NAME=value`, carried by its environment.
        pid: of the first process; None until it is known, and then the mark finds it.
        started: when that began, in clock ticks since boot.
        seen: others of its processes that were seen, with when they began.
    """

    boot: str
    mark: str
    pid: int | None = None
    started: int | None = None
    seen: tuple[tuple[int, int], ...] = ()

    def leader(self) -> int | None:
        """Return the pid of its first process if that lives."""
        if self.boot != table.boot_id():
            return None
        if self.pid is None:
            return min(table.carrying(self.mark), default=None)
        began = table.started_at(self.pid)
        return self.pid if began is not None and began == self.started else None

    def owns(self, pid: int) -> bool:
        """Say whether a process is one of its own."""
        return pid == self.pid or table.carries(pid, self.mark)

    def members(self) -> set[int]:
        """Return all its processes that live: those that were seen, carry its mark, or are in its session."""
        if self.boot != table.boot_id():
            return set()
        known = ((self.pid, self.started), *self.seen)
        found = {pid for pid, began in known if pid and began and table.started_at(pid) == began}
        found |= table.carrying(self.mark)
        if self.pid is not None and table.started_at(self.pid) in (None, self.started):
            # The session's leader may be gone: what is in its session began after it, and no pid is given out while a
            # session bears it.
            since = self.started or 0
            found |= {pid for pid in table.session(self.pid) if (table.started_at(pid) or 0) >= since}
        return {pid for pid in found if table.started_at(pid) is not None} - {os.getpid()}

    def terminate(self) -> None:
        """Ask it to end: SIGTERM to the group of its first process, if that lives."""
        leader = self.leader()
        if leader is not None:
            table.send_group(leader, signal.SIGTERM)

    def kill(self, patience_s: float = KILLED_S) -> tuple[set[int], set[int]]:
        """End all its processes by force; return those that were there, and those that do not go."""
        killed: set[int] = set()
        end = time.monotonic() + patience_s
        while found := self.members():
            if time.monotonic() > end:
                return killed, found
            for pid in found:
                table.send(pid, signal.SIGKILL)
            killed |= found
            time.sleep(0.01)
        return killed, set()

    def end(self, grace_s: float) -> bool:
        """Ask it to end, and end by force what is left of it once its first process is gone, or after the grace.

        Returns:
            Whether it is gone.
        """
        self.terminate()
        end = time.monotonic() + grace_s
        while self.leader() is not None and time.monotonic() < end:
            time.sleep(_LOOK_S)
        # What it leaves behind would keep its device in use.
        return not self.kill()[1]


def how_it_ended(code: int) -> str:
    """Return an exit code (-n after signal n) in words that follow "the process"."""
    return f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
