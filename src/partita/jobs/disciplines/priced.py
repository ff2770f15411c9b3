"""A list rule in which a slice has a price: the jobs that it holds up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from partita.jobs.disciplines.board import Board
from partita.jobs.disciplines.reserve import reserve, start_beside
from partita.jobs.job import shares

if TYPE_CHECKING:
    from partita.jobs.disciplines.discipline import Start, State
    from partita.jobs.disciplines.reserve import Reservation
    from partita.jobs.job import Job

Order = Literal["shortest", "longest", "critical"]


@dataclass(frozen=True, slots=True)
class Priced:
    """Each job takes the slice on which its own time and the time it costs others are least in sum.

    On a slice that is the share w of a GPU, a job that runs t seconds holds up each of those who wait by w t / GPUs.
    With n of them its cost is t (1 + price w n / GPUs): under load the most work per slice wins, which may be a whole
    GPU, and when few wait the fastest slice.

    Attributes:
        order: `shortest` or `longest` first by work, or `critical`: those that alone last much of what remains
            first, then the shortest.
        price: how much others' time counts.
        stretch: how much more than its least cost a job may take rather than wait.
        horizon: no slice on which a job lasts longer than this many times the work that remains, divided by the
            GPUs, unless it lasts as long on every slice.
        critical: a job that alone lasts more than this share of what remains is critical.
        patience: a job goes before those that came this many seconds after it, whatever its work, and reserves its
            slice. So none starves, and a batch without further arrivals is left in the best order.
    """

    order: Order = "shortest"
    price: float = 1.0
    stretch: float = 1.5
    horizon: float = 1.0
    critical: float = 0.3
    patience: float = 24 * 3600.0

    def decide(self, state: State) -> tuple[Start, ...]:
        """Return the jobs that start on a slice at an acceptable cost."""
        board, share = Board(state), shares(state.gpus[0].gpu)
        load = self.price * len(state.waiting) / len(state.gpus)
        remaining = _remaining(state, share)
        kept = self._aged(state, board)
        begun = {start.job for start in board.starts}
        for job in self._sorted(state, remaining):
            if board.full:
                break
            if job not in begun:
                kept = self._start(board, job, self._choices(job, load, remaining, share), kept)
        return tuple(board.starts)

    def _aged(self, state: State, board: Board) -> Reservation | None:
        """Start the jobs that are overtaken for too long; return the reservation of the first that does not fit."""
        newest = max((job.arrival for job in state.waiting), default=0.0)
        for job in state.waiting:
            if newest - job.arrival < self.patience:
                break
            if not board.try_start(job, job.thrifty):
                return reserve(state, board, job, job.thrifty)
        return None

    def _start(
        self, board: Board, job: Job, choices: list[str], kept: Reservation | None
    ) -> Reservation | None:
        """Start a job on the first of its choices that fits; return what is kept then."""
        for profile in choices:
            if kept is None:
                if board.try_start(job, profile):
                    return None
            elif (after := start_beside(board, job, profile, kept)) is not None:
                return after
        return kept

    def _choices(self, job: Job, load: float, remaining: float, share: dict[str, float]) -> list[str]:
        """Return the profiles whose cost is acceptable, the cheapest first."""
        longest = max(self.horizon * remaining, min(job.seconds.values()) * 1.0001)
        costs = {p: t * (1.0 + load * share[p]) for p, t in job.seconds.items() if t <= longest}
        limit = min(costs.values()) * self.stretch
        return [profile for profile in sorted(costs, key=costs.__getitem__) if costs[profile] <= limit]

    def _sorted(self, state: State, remaining: float) -> list[Job]:
        if self.order == "critical":
            return sorted(state.waiting, key=lambda job: _critical_first(job, self.critical * remaining))
        return sorted(state.waiting, key=lambda job: job.work, reverse=self.order == "longest")


def _critical_first(job: Job, longest: float) -> tuple[bool, float]:
    critical = min(job.seconds.values()) > longest
    return (not critical, -job.work if critical else job.work)


def _remaining(state: State, share: dict[str, float]) -> float:
    """Return the GPU seconds of work that remain, divided by the GPUs."""
    running = sum(max(r.until - state.now, 0.0) * share[r.placement.profile] for r in state.running)
    return (sum(job.work for job in state.waiting) + running) / len(state.gpus)
