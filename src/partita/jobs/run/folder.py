"""The folder of an attempt: the names of its files, its lock, and its documents, written whole or not at all.

The watcher imports this, and so next to nothing is imported here. What stands in the documents is in `documents`.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager

TYPE_CHECKING = False  # typing is a tenth of the watcher's memory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


LAUNCH = "launch.json"
"""What is to be run, written by the runner before anything starts."""

LOCK = "lock"
"""Locked (flock) from before the watcher starts until it ends: who can lock it knows that nobody watches."""

WATCH = "watch.json"
"""Which processes there are, written by the watcher."""

EXIT = "exit.json"
"""How the attempt ended, written last."""

LOG = "log"
"""The head of the output; all that is kept of it once the attempt has ended."""

PART = "log."
"""Parts of the output after the head, each named by the number of bytes before it."""

PROGRESS = "progress.jsonl"
"""What the job reports of itself."""

CHECKPOINT = "checkpoint"
"""There once the job is to end; holds the seconds it has."""

WISH = "wish"
"""What the queue wanted of the job when it had it end, or after that; for the one who finds it without the queue."""

ERRORS = "watcher.log"
"""What went wrong in the watcher itself."""

ROOM = 4096
"""Bytes set aside for how the attempt ended, so that a full disk can be told of."""


def exists_in(folder: int, name: str) -> bool:
    """Say whether a file is in the folder that is open as this descriptor."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def open_folder(folder: Path) -> Iterator[int]:
    """Open a folder for a block.

    Raises:
        OSError: it is not there, or cannot be opened.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def is_watched(path: Path) -> bool:
    """Say whether a watcher holds the lock of the attempt in a folder; of one that is not there, nobody does."""
    try:
        with open_folder(path) as folder:
            if not exists_in(folder, LOCK):
                return False
            with try_lock(folder, fcntl.LOCK_SH) as lock:
                return lock is None
    except FileNotFoundError:
        return False


@contextmanager
def try_lock(folder: int, how: int) -> Iterator[int | None]:
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


try:
    from _blake2 import blake2b  # what hashlib has it from, without OpenSSL's three megabytes
except ImportError:
    from hashlib import blake2b


def read_file(folder: int, name: str) -> bytes:
    """Return a small file of the folder that is open as this descriptor.

    Raises:
        OSError: it cannot be read.
    """
    handle = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder)
    with os.fdopen(handle, "rb") as stream:
        return stream.read()


def digest_document(data: bytes) -> str:
    """Return what tells a document from all others."""
    return blake2b(data, digest_size=16).hexdigest()


def reserve_room(folder: int, name: str) -> None:
    """Set room aside for a document that is to be written when the disk may be full.

    Raises:
        OSError: it is full already.
    """
    handle = _open_part(folder, name)
    try:
        os.write(handle, b" " * ROOM)
        os.fsync(handle)
    finally:
        os.close(handle)


def write_document(folder: int, name: str, data: bytes, *, durable: bool = True) -> None:
    """Write a document, in the room set aside if there is some; a durable one survives a crash of the host.

    Raises:
        OSError: it cannot be written.
    """
    handle = _open_part(folder, name)
    try:
        while data:
            data = data[os.write(handle, data) :]
        os.ftruncate(handle, os.lseek(handle, 0, os.SEEK_CUR))
        if durable:
            os.fsync(handle)
    finally:
        os.close(handle)
    os.rename(_part(name), name, src_dir_fd=folder, dst_dir_fd=folder)
    if durable:
        os.fsync(folder)


def _open_part(folder: int, name: str) -> int:
    # Not truncated: the blocks that were set aside are written over.
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(_part(name), flags, 0o600, dir_fd=folder)


def _part(name: str) -> str:
    return f".{name}.part"
