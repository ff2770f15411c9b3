"""Processes as /proc shows them (Linux, proc(5)): told apart, and found below another or by what they carry.

A pid alone names nobody: it is used again. A process is known again by when it began, in the boot in which it did, or
by a mark that it was given: `NAME=value` in its environment, which what it starts inherits.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress

TYPE_CHECKING = False  # typing is a tenth of a watcher's memory
if TYPE_CHECKING:
    from collections.abc import Iterator

_PAGE = resource.getpagesize()
_boot: list[str] = []


def boot_id() -> str:
    """Return what tells this boot of the host from all others."""
    if not _boot:
        _boot.append(_read("/proc/sys/kernel/random/boot_id").decode().strip())
    return _boot[0]


def started_at(pid: int) -> int | None:
    """Return when a process began, in clock ticks since boot; None if it is no more, or has ended and is a zombie."""
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


def carries(pid: int, mark: str) -> bool:
    """Say whether a process has this `NAME=value` in its environment."""
    try:
        return mark.encode() in _read(f"/proc/{pid}/environ").split(b"\0")
    except OSError:
        return False


def carrying(mark: str) -> set[int]:
    """Return the processes that have this `NAME=value` in their environment: all of the host are looked at."""
    return {pid for pid in _all() if carries(pid, mark)}


def session(sid: int) -> set[int]:
    """Return the processes of a session: all of the host are looked at."""
    found = set()
    for pid in _all():
        with suppress(OSError):
            if os.getsid(pid) == sid:
                found.add(pid)
    return found


def send(pid: int, which: int) -> bool:
    """Send a signal to a process; say whether it was there, and ours to signal."""
    try:
        os.kill(pid, which)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def send_group(pid: int, which: int) -> None:
    """Send a signal to the group that a process leads, if it is there still."""
    with suppress(ProcessLookupError):
        os.killpg(pid, which)


def _children(pid: int) -> Iterator[int]:
    try:
        with os.scandir(f"/proc/{pid}/task") as found:
            threads = [each.name for each in found]
    except OSError:
        return
    for thread in threads:
        with suppress(OSError):
            yield from map(int, _read(f"/proc/{pid}/task/{thread}/children").split())


def _all() -> list[int]:
    with os.scandir("/proc") as found:
        return [int(each.name) for each in found if each.name.isdecimal()]


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
