"""Addresses of Unix sockets whose path is longer than the kernel takes (108 bytes, unix(7))."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE = "daemon.sock"
"""The daemon's socket, in the queue's folder."""


@contextmanager
def address(path: Path) -> Iterator[str]:
    """Yield a short name of a socket that holds while the block runs: its folder by an open descriptor.

    Raises:
        OSError: the folder cannot be opened.
    """
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
