"""Servers as processes: pinned to cores, and ended with all processes that they have started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

from benchmarks.served import children

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from benchmarks.gateway_clients import Asked

_PRIORITY = 1
FRONT, OTHERS = 0, 1
"""Cores, of a machine that has two: the front's, and that of workers and clients."""


@dataclass(frozen=True, slots=True)
class Pinning:
    """Which cores processes run on: the front on one, all else on the other, or all of them anywhere."""

    apart: bool

    @property
    def front(self) -> list[str]:
        """Words before the server's command."""
        return ["taskset", "-c", str(FRONT)] if self.apart else []

    @property
    def client(self) -> list[str]:
        """Words before the client's."""
        first = ["chrt", "--rr", str(_PRIORITY)] if may_come_first() else []
        return [*first, "taskset", "-c", str(OTHERS)] if self.apart else first

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that tell other servers' workers their core."""
        if not self.apart:
            return {}
        return {"BENCH_WORKER_CORE": str(OTHERS), "BENCH_FRONT_CORE": str(FRONT)}

    def __str__(self) -> str:
        return "front on one core" if self.apart else "anywhere"


@contextmanager
def running(
    command: Sequence[str], asked: Asked, environment: Mapping[str, str], folder: Path, patience_s: float
) -> Iterator[int]:
    """Run a server until the block ends, and yield its process once it answers.

    Raises:
        RuntimeError: it does not.
    """
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _await(process, asked, log, patience_s)
        yield process.pid
    finally:
        _end(process)


def _await(process: subprocess.Popen[bytes], asked: Asked, log: Path, patience_s: float) -> None:
    end = time.monotonic() + patience_s
    while time.monotonic() < end and process.poll() is None:
        if answers(asked):
            return
        time.sleep(0.5)
    raise RuntimeError(f"does not get ready: {log.read_text(errors='replace')[-300:]}")


def answers(asked: Asked) -> bool:
    """Return whether a server answers one request rightly."""
    request = Request(asked.url, asked.body.read_bytes(), dict(asked.headers))  # noqa: S310 -- on this host
    try:
        with urlopen(request, timeout=10) as reply:  # noqa: S310
            return int(reply.status) == 200
    except OSError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    family = descendants(process.pid)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(60)
    for pid in (process.pid, *family):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def descendants(pid: int) -> list[int]:
    """Return the processes that a process and those it started have started."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        new = children(waiting.pop())
        found += new
        waiting += new
    return found


def front_seconds(pid: int) -> float:
    """Return the CPU seconds so far of the server's processes that are pinned to the front's core."""
    total = 0
    for each in (pid, *descendants(pid)):
        with suppress(OSError, ValueError):
            if os.sched_getaffinity(each) == {FRONT}:
                for task in Path(f"/proc/{each}/task").iterdir():
                    total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


@cache
def may_come_first() -> bool:
    """Return whether this process may raise priorities: only root may."""
    before = os.sched_getscheduler(0)
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(_PRIORITY))
    except PermissionError:
        return False
    os.sched_setscheduler(0, before, os.sched_param(0))
    return True


def come_first(pid: int) -> None:
    """Give a server and its child processes priority over everything else, if that is allowed."""
    if not may_come_first():
        return
    for each in (pid, *descendants(pid)):
        with suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                os.sched_setscheduler(int(task.name), os.SCHED_RR, os.sched_param(_PRIORITY))


def to_core(pids: Iterable[int], core: int) -> None:
    """Move processes with all their threads to a core."""
    for pid in pids:
        with suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), {core})
