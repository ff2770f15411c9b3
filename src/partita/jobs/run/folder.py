"""The folder of an attempt: names of its files, its lock, and atomic writes of its documents.

The watcher imports this module, so it imports next to nothing. `documents` has the contents of the documents.
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
"""Locked (flock) from before the watcher starts until it ends: if it can be locked, no watcher runs."""

WATCH = "watch.json"
"""The attempt's processes, written by the watcher."""

EXIT = "exit.json"
"""How the attempt ended, written last."""

LOG = "log"
"""The head of the output while the attempt runs; all that is kept of the output once it has ended."""

PART = "log."
"""Prefix of the parts of the output after the head; the suffix is the number of bytes before the part."""

PROGRESS = "progress.jsonl"
"""The job's own reports."""

CHECKPOINT = "checkpoint"
"""Exists once the job is asked to end; contains the seconds that it has left."""

WISH = "wish"
"""Why the queue ended the job, or what it wanted afterwards; read if the store is lost."""

ERRORS = "watcher.log"
"""Standard error of the watcher."""

ROOM = 4096
"""Bytes reserved for the exit document, so that it can be written on a full disk."""


def exists_in(folder: int, name: str) -> bool:
    """Return whether the folder that is open as this descriptor has such a file."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def open_folder(folder: Path) -> Iterator[int]:
    """Open a folder for a block; yield its descriptor.

    Raises:
        OSError: it does not exist or cannot be opened.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def is_watched(path: Path) -> bool:
    """Return whether a watcher holds the lock of the attempt in a folder; False if there is no such folder."""
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
    """Lock the folder for a block; yield the descriptor of the lock file, None if a watcher holds the lock."""
    handle = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield handle
    finally:
        # A watcher that inherited the descriptor keeps the lock.
        os.close(handle)


try:
    from _blake2 import blake2b  # hashlib's own source; hashlib would load OpenSSL, 3 MB
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
    """Return the digest of a document."""
    return blake2b(data, digest_size=16).hexdigest()


def reserve_room(folder: int, name: str) -> None:
    """Reserve disk space for a document that is written later.

    Raises:
        OSError: the disk is full already.
    """
    handle = _open_part(folder, name)
    try:
        os.write(handle, b" " * ROOM)
        os.fsync(handle)
    finally:
        os.close(handle)


def write_document(folder: int, name: str, data: bytes, *, durable: bool = True) -> None:
    """Write a document atomically, into reserved space if there is some.

    Args:
        folder: open descriptor of the folder.
        name: of the document.
        data: its bytes.
        durable: whether it must survive a crash of the host.

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
    # Not truncated: the reserved blocks are overwritten.
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(_part(name), flags, 0o600, dir_fd=folder)


def _part(name: str) -> str:
    return f".{name}.part"
