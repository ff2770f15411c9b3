"""The GPUs while a discipline decides: what the starts decided so far leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.jobs.discipline import Start

if TYPE_CHECKING:
    from collections.abc import Iterable

    from partita.jobs.discipline import State
    from partita.jobs.job import Job
    from partita.jobs.partition import Change


class Board:
    """Collects starts.

    Args:
        state: where it begins.
    """

    def __init__(self, state: State) -> None:
        self.gpus = list(state.gpus)
        self.starts: list[Start] = []
        self._full: set[str] = set()

    @property
    def full(self) -> bool:
        """Whether no instance of any profile can be put to use any more."""
        profiles = self.gpus[0].gpu.profiles
        return len(self._full) == len(profiles) or all(self.find(p.name) is None for p in profiles)

    def find(self, profile: str, among: Iterable[int] | None = None) -> tuple[int, Change] | None:
        """Return where an instance of a profile can be put to use; None if nowhere now.

        Of the GPUs the fullest (best fit), and then the one that has to destroy the least.
        """
        if among is None and profile in self._full:
            return None
        best: tuple[tuple[int, int], int, Change] | None = None
        for index in range(len(self.gpus)) if among is None else among:
            change = self.gpus[index].change(profile)
            if change is not None:
                rank = (-self.gpus[index].used, len(change.destroy) + change.create)
                if best is None or rank < best[0]:
                    best = (rank, index, change)
        if best is None:
            if among is None:
                self._full.add(profile)
            return None
        return best[1], best[2]

    def start(self, job: Job, gpu: int, change: Change) -> None:
        """Decide that a job starts."""
        self.starts.append(Start(job, gpu, change))
        self.gpus[gpu] = self.gpus[gpu].start(change)

    def try_start(self, job: Job, profile: str, among: Iterable[int] | None = None) -> bool:
        """Start a job on a profile if that can be; say whether it was."""
        found = self.find(profile, among)
        if found is not None:
            self.start(job, *found)
        return found is not None
