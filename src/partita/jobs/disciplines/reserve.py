"""A reservation: the slices that an aged job waits for, and who may still start beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.mig.layout import Placement, fault

if TYPE_CHECKING:
    from partita.jobs.disciplines.board import Board
    from partita.jobs.disciplines.discipline import State
    from partita.jobs.job import Job
    from partita.jobs.partition import Change


@dataclass(frozen=True, slots=True)
class Reservation:
    """A placement kept for a job on a GPU, and the instances in use that may outlast its start."""

    gpu: int
    placement: Placement
    beside: frozenset[Placement]

    def leaves_room(self, board: Board, gpu: int, change: Change) -> bool:
        """Say whether a start still lets the reserved placement come as early as without it."""
        if gpu != self.gpu:
            return True
        model = board.gpus[gpu].gpu
        return fault(model, (*self.beside, self.placement, change.placement)) is None

    def and_beside(self, change: Change) -> Reservation:
        """Return the reservation after a start beside it."""
        return Reservation(self.gpu, self.placement, self.beside | {change.placement})


def reserve(state: State, board: Board, job: Job, profile: str) -> Reservation:
    """Return the placement for a job that is expected to come free first.

    Instances end in the order of `until`; those that the board has just started end last.
    """
    until = {(r.gpu, r.placement): r.until for r in state.running}
    best: tuple[float, Reservation] | None = None
    for gpu, partition in enumerate(board.gpus):
        by_end = sorted(partition.busy, key=lambda p: (until.get((gpu, p), float("inf")), p))
        for start in partition.gpu.profile(profile).starts:
            placement = Placement(start, profile)
            ends, stay = state.now, list(by_end)
            while fault(partition.gpu, (*stay, placement)) is not None:
                ends = max(ends, until.get((gpu, stay.pop(0)), float("inf")))
            if best is None or ends < best[0]:
                best = (ends, Reservation(gpu, placement, frozenset(stay)))
    if best is None:
        raise AssertionError(f"job {job.id} was promised a profile that no GPU has")
    return best[1]


def start_beside(board: Board, job: Job, profile: str, kept: Reservation) -> Reservation | None:
    """Start a job on a profile without delaying a reservation; return what is kept then, None if it cannot."""
    for gpu, partition in enumerate(board.gpus):
        for change in partition.changes(profile):
            if kept.leaves_room(board, gpu, change):
                board.start(job, gpu, change)
                return kept.and_beside(change) if gpu == kept.gpu else kept
    return None
