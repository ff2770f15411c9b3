"""The folder of an attempt, open and locked: who holds the lock watches it."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from partita.jobs.run.folder import LOCK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def there(folder: int, name: str) -> bool:
    """Say whether a file is in the folder that is open as this descriptor."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def opened(folder: Path) -> Iterator[int]:
    """Open a folder for a block.

    Raises:
        OSError: it is not there, or cannot be opened.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def watched(path: Path) -> bool:
    """Say whether a watcher holds the lock of the attempt in a folder; of one that is not there, nobody does."""
    try:
        with opened(path) as folder:
            if not there(folder, LOCK):
                return False
            with locked(folder, fcntl.LOCK_SH) as lock:
                return lock is None
    except FileNotFoundError:
        return False


@contextmanager
def locked(folder: int, how: int) -> Iterator[int | None]:
    """Yield the open file that is locked now; None if a watcher holds it."""
    handle = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield handle
    finally:
        # A watcher that inherited it holds it on.
        os.close(handle)
