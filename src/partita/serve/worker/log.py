"""A worker's log: a line for each thing that went wrong, and never longer than a disk can bear."""

from __future__ import annotations

import os
import stat
import sys
import time
from contextlib import suppress

MOST_BYTES = 4 << 20
KEPT_BYTES = 1 << 18


def note(text: str) -> None:
    """Write one line to the log, which is stderr."""
    line = text.replace("\n", " | ")
    with suppress(OSError, ValueError):  # nobody to tell
        sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {line}\n")
        sys.stderr.flush()


def keep_short(number: int, most: int = MOST_BYTES, kept: int = KEPT_BYTES) -> None:
    """Cut a log down to its last `kept` bytes when it is over `most`; left alone if it is no file of its own.

    Args:
        number: descriptor of the log, opened to append, as whatever library writes to it too.
        most: bytes.
        kept: bytes.
    """
    with suppress(OSError):
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode) or found.st_size <= most:
            return
        again = os.open(f"/proc/self/fd/{number}", os.O_RDONLY)
        try:
            tail = os.pread(again, kept, found.st_size - kept)
        finally:
            os.close(again)
        os.ftruncate(number, 0)
        os.write(number, b"[...]\n" + tail.partition(b"\n")[2])
