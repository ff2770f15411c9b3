"""The GPUs while a discipline decides: what the starts decided so far leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.jobs.disciplines.discipline import Start

if TYPE_CHECKING:
    from partita.jobs.disciplines.discipline import State
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
        self._profiles = [profile.name for profile in state.gpus[0].gpu.profiles]
        self._found: dict[str, tuple[int, Change] | None] = {}
        self._full: bool | None = None  # until the next start

    @property
    def full(self) -> bool:
        """Whether no instance of any profile can be put to use any more."""
        if self._full is None:
            self._full = all(self.find(profile) is None for profile in self._profiles)
        return self._full

    def find(self, profile: str) -> tuple[int, Change] | None:
        """Return where an instance of a profile can be put to use; None if nowhere now.

        Of the GPUs the fullest (best fit), then the one that keeps the most possible, and then the one that
        has to change the least.
        """
        if profile not in self._found:
            self._found[profile] = self._search(profile)
        return self._found[profile]

    def start(self, job: Job, gpu: int, change: Change) -> None:
        """Decide that a job starts."""
        self.starts.append(Start(job, gpu, change))
        self.gpus[gpu] = self.gpus[gpu].start(change)
        self._full = None
        # What had no room before has none now.
        self._found = {profile: None for profile, found in self._found.items() if found is None}

    def try_start(self, job: Job, profile: str) -> bool:
        """Start a job on a profile if that can be; say whether it was."""
        found = self.find(profile)
        if found is not None:
            self.start(job, *found)
        return found is not None

    def _search(self, profile: str) -> tuple[int, Change] | None:
        best: tuple[tuple[int, int, int, int], int, Change] | None = None
        for index, partition in enumerate(self.gpus):
            change = partition.change(profile)
            if change is not None:
                largest, layouts = partition.keeps(change)
                rank = (-partition.used, -largest, -layouts, len(change.destroy) + change.create)
                if best is None or rank < best[0]:
                    best = (rank, index, change)
        return None if best is None else best[1:]
