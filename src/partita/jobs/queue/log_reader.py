"""Reads the bounded log of an attempt by the place in its output, whether it still runs or has ended."""

from __future__ import annotations

import os
from contextlib import contextmanager
from stat import S_ISREG
from typing import TYPE_CHECKING

from partita.files import json_value
from partita.jobs.run.folder import EXIT, LAUNCH, LOG, PART

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHUNK = 48 * 1024


def read_log(folder: Path, offset: int, owners: frozenset[int]) -> tuple[bytes, int]:
    """Return a piece of the output from a place on, and the place after it; nothing if there is no more yet.

    What was left out, because the output is longer than what is kept of it, is skipped. The folder's files belong to
    the job's user, who could put anything there: only plain files of theirs are read, and no link is followed.

    Args:
        folder: the attempt's.
        offset: bytes of output before it.
        owners: users whose files are read.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return b"", offset
    try:
        joined = _joined(handle)
        if joined is not None:
            return _from_joined(handle, offset, owners, *joined)
        return _from_parts(handle, offset, owners)
    finally:
        os.close(handle)


def _from_joined(folder: int, offset: int, owners: frozenset[int], tail: int, at: int) -> tuple[bytes, int]:
    """Read a log whose parts were joined: its tail, from `tail` on in the output, begins at `at` in the file."""
    if offset >= tail:
        data = _read(folder, LOG, at + offset - tail, CHUNK, owners)
        return data, offset + len(data)
    data = _read(folder, LOG, offset, min(CHUNK, max(at - offset, 0)), owners)
    after = offset + len(data)
    return data, tail if after >= at else after


def _from_parts(folder: int, offset: int, owners: frozenset[int]) -> tuple[bytes, int]:
    """Read a log that is being written: a head, and parts named by the bytes before them.

    Its watcher may be joining them just now, so that the head's file is longer than the head.
    """
    head = max(_head(folder) - offset, 0)
    starts = sorted(int(name[len(PART) :]) for name in os.listdir(folder) if name[len(PART) :].isdecimal())
    for start, name in ((0, LOG), *((start, f"{PART}{start}") for start in starts)):
        most = CHUNK if start else min(CHUNK, head)
        data = _read(folder, name, max(offset - start, 0), most, owners)
        if data:
            return data, max(offset, start) + len(data)
    return b"", offset


def _joined(folder: int) -> tuple[int, int] | None:
    """Return where the tail begins in the output and in the file; None while nothing is joined."""
    try:
        with _opened(folder, EXIT) as handle:
            found = json_value(os.read(handle, 65536))["log"]
        return (int(found["tail"]), int(found["tail_at"])) if found else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _head(folder: int) -> int:
    """Return the most bytes that the head of a log has: half of what is kept."""
    try:
        with _opened(folder, LAUNCH) as handle, os.fdopen(os.dup(handle), "rb") as stream:
            return int(json_value(stream.read())["log_bytes"]) // 2
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _read(folder: int, name: str, offset: int, most: int, owners: frozenset[int]) -> bytes:
    try:
        with _opened(folder, name) as handle:
            found = os.fstat(handle)
            if not S_ISREG(found.st_mode) or found.st_uid not in owners:
                return b""
            return os.pread(handle, most, offset)
    except OSError:
        return b""


@contextmanager
def _opened(folder: int, name: str) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(name, flags, dir_fd=folder)
    try:
        yield handle
    finally:
        os.close(handle)
