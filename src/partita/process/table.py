"""Processes in /proc (Linux, proc(5)): identifying them, and finding descendants and marked processes.

A pid alone does not identify a process, as pids are reused. A process is identified by its boot and start time, or by
a mark: `NAME=value` in its environment, which its descendants inherit.
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
    """Return the id of this boot of the host."""
    if not _boot:
        _boot.append(_read("/proc/sys/kernel/random/boot_id").decode().strip())
    return _boot[0]


def started_at(pid: int) -> int | None:
    """Return the start time of a process, in clock ticks since boot; None if it has ended or is a zombie."""
    try:
        stat = _read(f"/proc/{pid}/stat")
    except OSError:
        return None
    # The name, in parentheses, may hold anything; state is the first field after it, start time the twentieth.
    fields = stat.rpartition(b")")[2].split()
    return None if fields[0] in b"ZX" else int(fields[19])


def descendants(pid: int) -> list[int]:
    """Return the descendants of a process, level by level."""
    found = list(_children(pid))
    for each in found:  # `found` grows in the loop
        found.extend(_children(each))
    return found


def memory(pid: int) -> int:
    """Return the resident bytes of a process that are not shared or of files; 0 if it has ended."""
    try:
        fields = _read(f"/proc/{pid}/statm").split()
    except OSError:
        return 0
    return max(0, int(fields[1]) - int(fields[2])) * _PAGE


def carries(pid: int, mark: str) -> bool:
    """Return whether a process has this `NAME=value` in its environment."""
    try:
        return mark.encode() in _read(f"/proc/{pid}/environ").split(b"\0")
    except OSError:
        return False


def carrying(mark: str) -> set[int]:
    """Return the processes of the host that have this `NAME=value` in their environment."""
    return {pid for pid in _all() if carries(pid, mark)}


def session(sid: int) -> set[int]:
    """Return the processes of a session."""
    found = set()
    for pid in _all():
        with suppress(OSError):
            if os.getsid(pid) == sid:
                found.add(pid)
    return found


def send(pid: int, which: int) -> bool:
    """Send a signal to a process; return False if it does not exist or may not be signalled."""
    try:
        os.kill(pid, which)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def send_group(pid: int, which: int) -> None:
    """Send a signal to the group that a process leads, if that still exists."""
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
        # One call suffices for the files in /proc, except for a long environment.
        found = more = os.read(handle, 65536)
        while len(more) == 65536:
            more = os.read(handle, 65536)
            found += more
        return found
    finally:
        os.close(handle)
