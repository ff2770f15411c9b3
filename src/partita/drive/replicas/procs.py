"""Processes of this host (Linux): started in a group of their own, and never mistaken for another's.

A pid alone names nobody: it is used again. A process is ours if it began when ours did, in the same boot, or if
its environment carries the token that we gave it.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from partita.drive.port import FailedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

TOKEN = "PARTITA_REPLICA"  # noqa: S105 -- the name of a variable, no secret
_PROC = Path("/proc")
_children: set[int] = set()


def spawn(command: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
    """Start a process as leader of a session and group of its own, its output added to a file; return its pid.

    Raises:
        FailedError: it cannot be started.
    """
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    try:
        pid = os.posix_spawnp(
            command[0],
            list(command),
            dict(environment),
            file_actions=files,
            setsid=True,
            # Python ignores SIGPIPE, and what it starts would inherit that.
            setsigdef=[signal.SIGPIPE],
        )
    except OSError as error:
        raise FailedError(f"cannot be started: {error.strerror}", where=command[0]) from None
    _children.add(pid)
    return pid


@cache
def boot_id() -> str:
    """Return what tells this boot of the host from all others."""
    return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def began(pid: int) -> int | None:
    """Return when a process began, in clock ticks since boot; None if it is no more."""
    if pid in _children:
        with suppress(ChildProcessError):
            # A child that ended stays as a zombie until it is waited for; after that its pid may be another's.
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                _children.discard(pid)
    try:
        stat = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name, in parentheses, may hold anything; state is the first field after it, start time the twentieth.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def carrying(token: str) -> Iterator[int]:
    """Return the pids of the processes whose environment carries a token."""
    wanted = f"{TOKEN}={token}".encode()
    for folder in _PROC.iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    yield int(folder.name)


def send(pid: int, which: signal.Signals) -> None:
    """Send a signal to a process, if it is there still."""
    with suppress(ProcessLookupError):
        os.kill(pid, which)


def send_group(pid: int, which: signal.Signals) -> None:
    """Send a signal to the group that a process leads, if it is there still."""
    with suppress(ProcessLookupError):
        os.killpg(pid, which)
