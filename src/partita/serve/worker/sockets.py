"""Unix sockets in a folder, whatever the length of its path.

An address of AF_UNIX has 107 bytes (unix(7)), which a state folder may well exceed; so the folder is opened, and the
socket named by way of `/proc/self/fd`.
"""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BACKLOG = 64


def listening(folder: Path, name: str) -> socket.socket:
    """Return a socket that listens at a name in a folder; nobody finds it before it does.

    Raises:
        OSError: it cannot be made.
    """
    part = f".{name}.{os.getpid()}"
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short(folder) as base:
            made.bind(f"{base}/{part}")
            # Listens before it has its name: whoever finds a socket that refuses may take it for a dead worker's.
            made.listen(BACKLOG)
            os.rename(f"{base}/{part}", f"{base}/{name}")  # noqa: PTH104 -- pathlib would open the folder again
    except BaseException:
        made.close()
        raise
    return made


def connected(folder: Path, name: str, timeout_s: float | None = None) -> socket.socket:
    """Return a socket connected to a name in a folder.

    Raises:
        OSError: nobody listens there.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(timeout_s)
    try:
        with short(folder) as base:
            made.connect(f"{base}/{name}")
    except BaseException:
        made.close()
        raise
    return made


@contextmanager
def short(folder: Path) -> Iterator[str]:
    """Open a folder; its short name is good while it is open."""
    number = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{number}"
    finally:
        os.close(number)
