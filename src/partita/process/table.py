"""Processes as /proc shows them (Linux, proc(5)): told apart, and found below another."""

from __future__ import annotations

import os
import resource

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Iterator


_PAGE = resource.getpagesize()


def boot_id() -> str:
    """Return what tells this boot of the host from all others."""
    return _read("/proc/sys/kernel/random/boot_id").decode().strip()


def started_at(pid: int) -> int | None:
    """Return when a process began, in clock ticks since boot; None if it is no more."""
    try:
        stat = _read(f"/proc/{pid}/stat")
    except OSError:
        return None
    # The name, in parentheses, may hold anything; state is the first field after it, start time the twentieth.
    fields = stat.rpartition(b")")[2].split()
    return None if fields[0] in b"ZX" else int(fields[19])


def descendants(pid: int) -> list[int]:
    """Return the processes below another, the nearest first."""
    found = list(_children(pid))
    for each in found:  # grows while it is gone through
        found.extend(_children(each))
    return found


def memory(pid: int) -> int:
    """Return the bytes that a process has for itself: what is resident and neither a file's nor shared; 0 if gone."""
    try:
        fields = _read(f"/proc/{pid}/statm").split()
    except OSError:
        return 0
    return max(0, int(fields[1]) - int(fields[2])) * _PAGE


def carrying(variable: bytes) -> list[int]:
    """Return the processes whose environment has this `NAME=value`: all of the host are looked at."""
    return [pid for pid in _all() if variable in _environment(pid).split(b"\0")]


def session(sid: int) -> list[int]:
    """Return the processes of a session: all of the host are looked at."""
    return [pid for pid in _all() if _session(pid) == sid]


def send(pid: int, which: int) -> bool:
    """Send a signal to a process; say whether it was there."""
    try:
        os.kill(pid, which)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _children(pid: int) -> Iterator[int]:
    try:
        with os.scandir(f"/proc/{pid}/task") as found:
            threads = [each.name for each in found]
    except OSError:
        return
    for thread in threads:
        try:
            yield from map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
        except OSError:
            continue


def _all() -> list[int]:
    with os.scandir("/proc") as found:
        return [int(each.name) for each in found if each.name.isdecimal()]


def _environment(pid: int) -> bytes:
    try:
        return _read(f"/proc/{pid}/environ")
    except OSError:
        return b""


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _read(path: str) -> bytes:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # One call gets all of a file below /proc, but for a long environment.
        found = more = os.read(handle, 65536)
        while len(more) == 65536:
            more = os.read(handle, 65536)
            found += more
        return found
    finally:
        os.close(handle)
