"""JSON documents in an attempt's folder, whole or not at all."""

from __future__ import annotations

import json
import os

try:
    from _blake2 import blake2b  # what hashlib has it from, without OpenSSL's three megabytes
except ImportError:
    from hashlib import blake2b

TYPE_CHECKING = False  # typing is a tenth of the watcher's memory
if TYPE_CHECKING:
    from typing import Any

ROOM = 4096
"""Bytes set aside for how the attempt ended, so that a full disk can be told of."""


def read(folder: int, name: str) -> dict[str, Any]:
    """Return a document of the folder that is open as this descriptor.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON.
    """
    try:
        found: dict[str, Any] = json.loads(contents(folder, name))
    except RecursionError:  # the job's user can write there too
        raise ValueError("nested too deep") from None
    return found


def contents(folder: int, name: str) -> bytes:
    """Return a small file of the folder.

    Raises:
        OSError: it cannot be read.
    """
    handle = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder)
    with os.fdopen(handle, "rb") as stream:
        return stream.read()


def encoded(document: dict[str, Any]) -> bytes:
    """Return a document as it is written."""
    return json.dumps(document).encode() + b"\n"


def digest(data: bytes | dict[str, Any]) -> str:
    """Return what tells a document, or its bytes, from all others."""
    return blake2b(data if isinstance(data, bytes) else encoded(data), digest_size=16).hexdigest()


def reserve(folder: int, name: str) -> None:
    """Set room aside for a document that is to be written when the disk may be full.

    Raises:
        OSError: it is full already.
    """
    handle = _open(folder, name)
    try:
        os.write(handle, b" " * ROOM)
        os.fsync(handle)
    finally:
        os.close(handle)


def write(folder: int, name: str, document: dict[str, Any], *, durable: bool = True) -> None:
    """Write a document, in the room set aside if there is some; a durable one survives a crash of the host.

    Raises:
        OSError: it cannot be written.
    """
    data = encoded(document)
    handle = _open(folder, name)
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


def _open(folder: int, name: str) -> int:
    # Not truncated: the blocks that were set aside are written over.
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(_part(name), flags, 0o600, dir_fd=folder)


def _part(name: str) -> str:
    return f".{name}.part"
