"""One attempt, as it is found in its folder."""

from __future__ import annotations

import fcntl
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from partita.errors import PartitaError
from partita.jobs.run import folder as names
from partita.jobs.run.locking import locked, opened, there
from partita.jobs.run.lost import end_what_is_left
from partita.jobs.run.port import Look, Phase, Progress
from partita.jobs.run.progress import Reports
from partita.jobs.run.shepherd import documents
from partita.oom import OUT_OF_MEMORY, Ending

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

_ASK_S = 1.0
"""Seconds between two questions for the memory in use."""


class Attempt:
    """What is known of an attempt from look to look, so that a look is a few calls of the system.

    Args:
        folder: the attempt's.
        used: returns the bytes in use on a device, None if it does not say.
    """

    def __init__(self, folder: Path, used: Callable[[str], int | None]) -> None:
        self._folder = folder
        self._used = used
        self._device = ""
        self._peak = 0
        self._ask = 0.0
        self._reports = Reports()
        self._began: float | None = None
        self._scale: float | None = None
        self._known = False

    def look(self) -> Look:
        """Return it as it is now; one that nobody watches is ended and lost.

        Raises:
            PartitaError: its folder cannot be read.
        """
        try:
            with opened(self._folder) as folder:
                return self._look(folder)
        except FileNotFoundError:
            return Look(Phase.LOST, why="it never began")
        except (OSError, ValueError, KeyError) as error:
            raise PartitaError(f"an attempt cannot be read: {error}", where=str(self._folder)) from error

    def _look(self, folder: int) -> Look:
        with locked(folder, fcntl.LOCK_EX) as lock:
            if lock is not None and not there(folder, names.EXIT):
                return self._lose(folder)
        if not self._known:
            with suppress(FileNotFoundError, ValueError):  # what a crash of the host has left is no document
                launch = documents.read(folder, names.LAUNCH)
                self._scale = launch["scale"]
                self._device = launch["environment"]["CUDA_VISIBLE_DEVICES"]
                self._known = True
        if lock is None:
            return self._running(folder)
        return _ended(documents.read(folder, names.EXIT), self._progress(folder), self._scale)

    def _lose(self, folder: int) -> Look:
        found = end_what_is_left(folder, self._folder)
        with suppress(OSError):  # on a full disk the next look finds the same again
            documents.write(folder, names.EXIT, found)
        return _ended(found, self._progress(folder), self._scale)

    def _running(self, folder: int) -> Look:
        if self._began is None and there(folder, names.WATCH):
            self._began = documents.read(folder, names.WATCH)["began"]
        if self._began is not None and self._scale is None and time.monotonic() >= self._ask:
            self._ask = time.monotonic() + _ASK_S
            self._peak = max(self._peak, self._used(self._device) or 0)
        stopping = there(folder, names.CHECKPOINT)
        return Look(
            Phase.STOPPING if stopping else Phase.RUNNING, began=self._began, progress=self._progress(folder)
        )

    def _progress(self, folder: int) -> Progress:
        self._reports.read(folder)
        found = self._reports.progress(self._scale)
        return replace(found, peak_bytes=max(found.peak_bytes or 0, self._peak) or None)


def _ended(found: dict[str, Any], progress: Progress, scale: float | None) -> Look:
    peak = progress.peak_bytes
    # A watcher of an older version has said only whether.
    ending = Ending(**found["ending"]) if found.get("ending") else None
    if scale is not None and found["peak_bytes"] is not None:
        peak = max(peak or 0, int(found["peak_bytes"] / scale))
    return Look(
        Phase.LOST if found.get("lost") else Phase.ENDED,
        code=found["code"],
        timed_out=found.get("timed_out", False),
        out_of_memory=found["out_of_memory"] or (ending is not None and ending.verdict == OUT_OF_MEMORY),
        ending=ending,
        why=found["why"],
        began=found["began"],
        ended=found["ended"],
        progress=replace(progress, peak_bytes=peak),
        left=found["left"],
        stuck=tuple(found["stuck"]),
    )
