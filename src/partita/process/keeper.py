"""Starts processes, notices their end, finds them again after a restart, and ends them with all their descendants.

A process leads a session and a group of its own by default: Ctrl-C does not reach it directly, and one signal reaches
the whole group. It is reaped as soon as it ends (`Child`). A process that outlives its parent is found again by its
`ProcessIdentity`, which the parent records.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, TYPE_CHECKING

from partita.process import table
from partita.process.logs import keep_short

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

PIPE = subprocess.PIPE
KILLED_S = 30.0
"""Seconds after SIGKILL when a process that has not ended (its GPU hangs) is given up."""
_LOOK_S = 0.05
_SET_DEATH_SIGNAL = 1


def ending_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that ask a program to end: SIGHUP is none where the program was begun with `nohup`."""
    hung_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGTERM, signal.SIGINT, *hung_up)


class SignalEvent(threading.Event):
    """An event that the handler of a signal may set; the main thread alone waits for it, and it is never cleared.

    `threading.Event.set` takes a lock. A handler runs in the main thread, which may hold that lock in `wait` at this
    moment: it would wait for itself for ever. `SimpleQueue.put` may interrupt `SimpleQueue.get`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told = False
        self._news: SimpleQueue[None] = SimpleQueue()

    def is_set(self) -> bool:
        """Say whether it was set."""
        return self._told

    def set(self) -> None:
        """Set it, and wake who waits for it."""
        self._told = True
        self._news.put(None)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, for at most so many seconds; say whether it is set."""
        if not self._told:
            with suppress(Empty):
                self._news.get(timeout=timeout)
        return self._told


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Have Ctrl-C wait until the block ends, and never reach processes that begin in it: their parent ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdin: int | None = None,
    output: Path | int | None,
    errors: IO[bytes] | None = None,
    inherited: Collection[int] = (),
    apart: bool = True,
    orphaned: signal.Signals | None = None,
    ended: Callable[[Child], None] | None = None,
) -> Child:
    """Start a process.

    Args:
        command: the program, found in the environment's PATH, and its arguments.
        environment: all of its environment.
        stdin: `PIPE` for a pipe that closes when this process ends, so that the child can end, too; None for no
            input.
        output: the file to which its output is appended, first shortened if it is long; `PIPE`; None for our own.
        errors: the file for its standard error; None sends it to the output.
        inherited: further open descriptors that it gets, under the same numbers.
        apart: whether it leads a session of its own. Otherwise it is in our group.
        orphaned: the signal that the kernel sends it when the thread that starts it ends, however that ends
            (PR_SET_PDEATHSIG, prctl(2)); None if it may outlive this process.
        ended: called in the reaper's thread once it has ended.

    Raises:
        OSError: it cannot be started.
    """
    prepare = None if orphaned is None else _tied(orphaned)
    log = None
    if isinstance(output, Path):
        log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        if log is not None:
            keep_short(log)
        process = subprocess.Popen(  # noqa: S603 -- the caller is responsible for the command
            list(command),
            env=dict(environment),
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=log if isinstance(output, Path) else output,
            stderr=errors if errors is not None or output is None else subprocess.STDOUT,
            pass_fds=tuple(inherited),
            start_new_session=apart,
            preexec_fn=prepare,  # noqa: PLW1509 -- system calls alone, which take no lock
        )
    finally:
        if log is not None:
            os.close(log)
    child = Child(process, apart=apart, ended=ended)
    _reaper.watch(child)
    return child


def _tied(which: signal.Signals) -> Callable[[], None]:
    """Return what a child calls so that it gets a signal when this thread ends."""
    prctl = ctypes.CDLL(None).prctl  # loaded before the fork
    parent = os.getpid()

    def tie() -> None:
        prctl(_SET_DEATH_SIGNAL, which)
        if os.getppid() != parent:  # it ended before the call above
            os._exit(1)

    return tie


def end_with_parent() -> None:
    """Have this process end with the one that started it, however that ends; for those of `multiprocessing`.

    Those of a pool would else wait for work for ever: they hold both ends of the pipe that it comes by.
    """
    from multiprocessing import parent_process  # noqa: PLC0415 -- workers of services import this file, and are many

    parent = parent_process()
    if parent is None:
        raise AssertionError("multiprocessing did not start this process")

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


class Child:
    """A child process; thread-safe.

    Attributes:
        pid: its pid, which is not reused before it has ended.
        stdin: the pipe to it, if `PIPE` was given.
        stdout: the pipe from it, if `PIPE` was given.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], *, apart: bool, ended: Callable[[Child], None] | None
    ) -> None:
        self._process = process
        self._apart = apart
        self._on_end = ended
        # Reaping holds this lock, so that the pid cannot be reused while another thread holds it.
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
        """Wait until it has ended, or for at most `timeout_s` seconds; return `returncode`."""
        self._over.wait(timeout_s)
        return self.returncode

    def signal(self, which: signal.Signals) -> None:
        """Send a signal to it alone, not to its descendants, unless it has ended."""
        with self._lock:
            if not self._over.is_set():
                table.send(self.pid, which)

    def kill(self) -> None:
        """Kill it, and its group if it leads one, unless it has ended."""
        with self._lock:
            if not self._over.is_set():
                (table.send_group if self._apart else table.send)(self.pid, signal.SIGKILL)

    def end(self, grace_s: float) -> int | None:
        """Send SIGTERM, then after the grace SIGKILL; return `returncode`, None if it does not end even then."""
        self.signal(signal.SIGTERM)
        if self.wait(grace_s) is None:
            self.kill()
        return self.wait(KILLED_S)

    def close(self) -> None:
        """Close the pipes."""
        for stream in (self.stdin, self.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    def reap(self) -> None:
        """Reap it after it has ended; only the reaper's thread calls this."""
        with self._lock:
            self._process.wait()
            self._over.set()
        if self._on_end is not None:
            self._on_end(self)


class _Reaper:
    """One thread that reaps all children; it starts with the first child."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._epoll: select.epoll | None = None
        self._children: dict[int, Child] = {}

    def watch(self, child: Child) -> None:
        # A pidfd becomes readable when its process has ended (pidfd_open(2)).
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
                with self._lock:  # before the handle is closed: its number is then reused
                    child = self._children.pop(handle)
                epoll.unregister(handle)
                os.close(handle)
                child.reap()

    def forget(self) -> None:
        """Reset after a fork, in the child: it has neither the thread nor the children."""
        self.__init__()  # type: ignore[misc]


_reaper = _Reaper()
os.register_at_fork(after_in_child=_reaper.forget)


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """Identifies a process and its descendants across restarts of this one.

    Attributes:
        boot: id of the boot of the host in which it runs.
        mark: `NAME=value`, set in its environment.
        pid: of the first process; None until known, when only the mark finds it.
        started: start of the first process, in clock ticks since boot.
        seen: pid and start of further processes that were seen.
    """

    boot: str
    mark: str
    pid: int | None = None
    started: int | None = None
    seen: tuple[tuple[int, int], ...] = ()

    def leader(self) -> int | None:
        """Return the pid of its first process; None if that has ended."""
        if self.boot != table.boot_id():
            return None
        if self.pid is None:
            return min(table.carrying(self.mark), default=None)
        began = table.started_at(self.pid)
        return self.pid if began is not None and began == self.started else None

    def owns(self, pid: int) -> bool:
        """Return whether a process is one of its own."""
        return pid == self.pid or table.carries(pid, self.mark)

    def members(self) -> set[int]:
        """Return its running processes: those that were seen, have its mark, or are in its session."""
        if self.boot != table.boot_id():
            return set()
        known = ((self.pid, self.started), *self.seen)
        found = {pid for pid, began in known if pid and began and table.started_at(pid) == began}
        found |= table.carrying(self.mark)
        if self.pid is not None and table.started_at(self.pid) in (None, self.started):
            # The session's leader may have ended; the members started after it, and its pid is not reused while the
            # session exists.
            since = self.started or 0
            found |= {pid for pid in table.session(self.pid) if (table.started_at(pid) or 0) >= since}
        return {pid for pid in found if table.started_at(pid) is not None} - {os.getpid()}

    def terminate(self) -> None:
        """Send SIGTERM to the group of its first process, if that runs."""
        leader = self.leader()
        if leader is not None:
            table.send_group(leader, signal.SIGTERM)

    def kill(self, patience_s: float = KILLED_S) -> tuple[set[int], set[int]]:
        """Kill all its processes; return the pids of those killed, and of those that do not end."""
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
        """Send SIGTERM, and kill all its processes once the first one has ended, or after the grace.

        Returns:
            Whether all have ended.
        """
        self.terminate()
        end = time.monotonic() + grace_s
        while self.leader() is not None and time.monotonic() < end:
            time.sleep(_LOOK_S)
        # Processes that the first one leaves would keep its device in use.
        return not self.kill()[1]


def how_it_ended(code: int) -> str:
    """Return an exit code (-n after signal n) as a predicate for "the process"."""
    return f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
