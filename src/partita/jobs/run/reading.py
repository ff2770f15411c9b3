"""Reads the log of an attempt, while it grows and after."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.jobs.run.folder import EXIT, LAUNCH, LOG, PART

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

MOST = 1 << 16
"""Bytes read at once."""


@dataclass(frozen=True, slots=True)
class LogPart:
    """A part of a job's output.

    Attributes:
        data: what is kept of it from `begins` on; empty if there is no more yet.
        begins: number of bytes of output before it; later than what was asked for if those were dropped.
        follows: where to read on.
    """

    data: bytes
    begins: int
    follows: int

    def dropped(self, asked: int) -> int:
        """Return how many bytes of output before it are no longer there."""
        return self.begins - asked


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of output in a file: from byte `begins` of the output on, at `at` in the file."""

    name: str
    begins: int
    at: int
    length: int


def read_log(folder: Path, start: int = 0, *, most: int = MOST) -> LogPart:
    """Return a job's output from a byte on, or from the first one after it that is kept.

    Offsets count all output, also what was dropped, so that a follower goes on where it was, whatever the watcher
    has dropped or joined meanwhile.

    Args:
        folder: the attempt's.
        start: bytes of output before what is asked for; negative counts from the end.
        most: bytes returned.

    Raises:
        OSError: the log cannot be read.
    """
    pieces = _pieces(folder)
    end = max((each.begins + each.length for each in pieces), default=0)
    start = max(0, end + start) if start < 0 else start
    for piece in pieces:
        if start < piece.begins + piece.length:
            begins = max(start, piece.begins)
            room = min(most, piece.begins + piece.length - begins)
            data = _read(folder / piece.name, piece.at + begins - piece.begins, room)
            if data:
                return LogPart(data, begins, begins + len(data))
    return LogPart(b"", start, start)


def _pieces(folder: Path) -> list[_Piece]:
    """Return where the output lies, in its order."""
    size = _length(folder / LOG)
    joined = _document(folder / EXIT).get("log")
    if joined is not None:
        tail, at = joined["tail"], joined["tail_at"]
        return [
            _Piece(LOG, 0, 0, min(size, joined["head"])),
            _Piece(LOG, tail, at, max(0, size - at)),
        ]
    # The watcher may be joining them just now.
    head = min(size, _document(folder / LAUNCH).get("log_bytes", 2 * size) // 2)
    parts = sorted(int(each.name[len(PART) :]) for each in folder.glob(f"{PART}*"))
    return [
        _Piece(LOG, 0, 0, head),
        *(_Piece(f"{PART}{n}", n, 0, _length(folder / f"{PART}{n}")) for n in parts),
    ]


def _document(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _read(path: Path, at: int, room: int) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:  # dropped or joined just now
        return b""
    try:
        return os.pread(handle, room, at)
    finally:
        os.close(handle)
