"""Reads what a job reports of itself, a little at a time; the file is the job's, and nothing in it is trusted."""

from __future__ import annotations

import json
import os
from collections import deque

from partita.jobs.run.folder import PROGRESS
from partita.jobs.run.port import Progress

_MOST_BYTES = 1 << 20
_SAMPLES = 300


class Reports:
    """The reports of one attempt, the newest few hundred."""

    def __init__(self) -> None:
        self._at = 0
        self._step: int | None = None
        self._of: int | None = None
        self._peak: int | None = None
        self._allocated: deque[tuple[int, int]] = deque(maxlen=_SAMPLES)

    def read(self, folder: int) -> None:
        """Take in what was added to the file in the folder that is open as this descriptor."""
        try:
            size = os.stat(PROGRESS, dir_fd=folder, follow_symlinks=False).st_size
        except OSError:
            return
        if size < self._at:  # the helper began it anew, to keep it short
            self._at = 0
        if size == self._at:
            return
        start = max(self._at, size - _MOST_BYTES)
        handle = os.open(PROGRESS, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            data = os.pread(handle, _MOST_BYTES, start)
        finally:
            os.close(handle)
        whole = data.rpartition(b"\n")[0]
        self._at = start + len(whole) + 1 if whole else size if len(data) == _MOST_BYTES else start
        for line in whole.splitlines():
            self._take(line)

    def progress(self, scale: float | None) -> Progress:
        """Return what is known; on simulated instances in bytes of the instance, which has 1/scale as many."""
        factor = 1.0 if scale is None else 1.0 / scale
        peak = None if self._peak is None else int(self._peak * factor)
        steps = tuple(step for step, _ in self._allocated)
        allocated = tuple(int(each * factor) for _, each in self._allocated)
        return Progress(self._step, self._of, steps, allocated, peak)

    def _take(self, line: bytes) -> None:
        try:
            step, of, allocated, peak = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            return
        if not _count(step):
            return
        self._step = step
        self._of = of if _count(of) else None
        if _count(allocated):
            self._allocated.append((step, allocated))
            self._peak = max(self._peak or 0, allocated, peak if _count(peak) else 0)


def _count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 60
