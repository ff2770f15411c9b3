"""What is left of jobs that are over goes after a while: a little at a time, and never anything of an active job."""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from partita.errors import PartitaError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from partita.jobs.queue.record import JobRecord
    from partita.jobs.queue.settings import Settings
    from partita.jobs.queue.store import JobStore

EVERY_S = 600.0
"""Seconds between two rounds."""

PAUSE_S = 1.0
"""Seconds between two steps of a round."""

STEP = 16
"""Jobs that are looked at in one step: some milliseconds."""

_MOST_FILES = 256
_GOING = "going-"


class Retention:
    """Goes through the jobs that are over again and again, from the newest to the oldest.

    Those that ended too long ago are forgotten with their files. Of the rest, files are kept while those of newer
    jobs leave room for them; who loses theirs stays in the history. What users and energy are counted by is kept
    elsewhere, and does not change.

    Args:
        store: the open store.
        folder: of the attempts.
        settings: say how long, and how much.

    Attributes:
        due: when it wants to be called next.
    """

    def __init__(self, store: JobStore, folder: Path, settings: Settings) -> None:
        self._store, self._folder, self._settings = store, folder, settings
        self._before: int | None = None
        self._bytes = 0
        self._remover: int | None = None
        self._leftovers = True  # what a killed daemon had begun to remove
        self.due = float("-inf")

    def step(self, now: float) -> None:
        """Look at some jobs, if it is time to, and have removed what goes.

        Raises:
            PartitaError: the store or the folder cannot be used.
        """
        if now < self.due:
            return
        self.due = now + PAUSE_S
        if self._removing():
            return
        jobs = self._store.over(STEP, self._before)
        old = [job for job in jobs if now - _ended(job) > self._settings.keep_s]
        self._remove([*old, *self._beyond([job for job in jobs if job not in old])])
        if old:
            self._store.forget(old)
        self._before = jobs[-1].number if len(jobs) == STEP else None
        if self._before is None:
            self._bytes, self.due = 0, now + EVERY_S

    def _beyond(self, jobs: Sequence[JobRecord]) -> list[JobRecord]:
        """Return the jobs for whose files the newer ones leave no room."""
        found = []
        for job in jobs:
            size = _size(self._folder / job.id)
            if self._bytes + size > self._settings.keep_bytes and size:
                found.append(job)
            else:
                self._bytes += size
        return found

    def _remove(self, jobs: Sequence[JobRecord]) -> None:
        """Have the files of jobs removed by a process of its own: users may have put any number of them there."""
        going = []
        try:
            for job in jobs:
                # Out of the way first: a job that is requeued begins in a folder of its own.
                gone = self._folder / f"{_GOING}{job.id}"
                with suppress(FileNotFoundError):
                    (self._folder / job.id).rename(gone)
                    going.append(str(gone))
            if self._leftovers:
                going = [str(each) for each in self._folder.glob(f"{_GOING}*")]
                self._leftovers = False
            if going:
                # It follows no links, and leaves other file systems alone.
                words = ["rm", "-rf", "--one-file-system", "--", *going]
                self._remover = os.posix_spawnp("rm", words, {"PATH": os.environ.get("PATH", os.defpath)})
        except OSError as error:
            raise PartitaError(
                f"the files of old jobs cannot be removed: {error.strerror}", where=str(self._folder)
            ) from error

    def _removing(self) -> bool:
        if self._remover is None:
            return False
        try:
            done = os.waitpid(self._remover, os.WNOHANG)[0] != 0
        except ChildProcessError:
            done = True
        if done:
            self._remover = None
        return not done


def _ended(job: JobRecord) -> float:
    """Return when a job that is over ended; one that never began, when it was submitted."""
    return max((attempt.ended or 0.0 for attempt in job.attempts), default=0.0) or job.submitted


def _size(folder: Path) -> int:
    """Return the bytes on the disk of the files of a job's attempts."""
    size = 0
    with suppress(OSError), os.scandir(folder) as attempts:
        for attempt in attempts:
            with suppress(OSError), os.scandir(attempt) as files:
                found = (file.stat(follow_symlinks=False) for file in islice(files, _MOST_FILES))
                size += sum(each.st_blocks * 512 for each in found)
    return size
