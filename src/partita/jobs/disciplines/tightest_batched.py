"""MIGM's scheme A: jobs grouped by the slice they need, group after group, so that layouts change rarely."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.jobs.disciplines.board import Board

if TYPE_CHECKING:
    from partita.jobs.disciplines.discipline import Start, State
    from partita.jobs.job import Job


@dataclass(frozen=True, slots=True)
class TightestBatched:
    """`tightest-batched`: each GPU takes jobs of one tightest slice until none of them waits or runs there.

    An empty GPU takes up the group with the most jobs waiting. Once a job has waited for `patience` seconds its
    group goes first, and no other group is added to, so that none starves.

    Attributes:
        patience: seconds.
    """

    patience: float = 4 * 3600.0

    def decide(self, state: State) -> tuple[Start, ...]:
        """Return the starts of each GPU's group."""
        board = Board(state)
        left: dict[str, list[Job]] = {}
        for job in reversed(state.waiting):
            left.setdefault(job.tightest, []).append(job)
        sizes = Counter({profile: len(jobs) for profile, jobs in left.items()})
        aged = [job for job in state.waiting if state.now - job.arrival >= self.patience]
        first = aged[0].tightest if aged else None
        group: dict[int, str] = {running.gpu: running.job.tightest for running in state.running}
        for gpu in range(len(board.gpus)):
            while True:
                first = first if left.get(first or "") else None
                profile = group.get(gpu) or first or (sizes.most_common(1)[0][0] if sizes else "")
                if (first and profile != first) or not left.get(profile):
                    break
                change = board.gpus[gpu].change(profile)
                if change is None:
                    break
                board.start(left[profile][-1], gpu, change)
                group[gpu] = profile
                left[profile].pop()
                sizes = Counter({each: len(jobs) for each, jobs in left.items() if jobs})
        return tuple(board.starts)
