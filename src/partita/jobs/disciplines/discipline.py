"""The interface of queue disciplines, and what they share.

A discipline is called again and again. It sees the queue and the GPUs as a `QueueState`, and returns starts.
While it decides, an `Allocation` holds the GPUs after the starts so far; a `SliceReservation` keeps slices for a job
that must not starve.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from partita.mig.layout import Placement, fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.jobs.job import Job
    from partita.jobs.partition import Change, Partition


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job on its instance.

    Attributes:
        gpu: index of the GPU.
        until: when it is expected to end, in seconds.
    """

    job: Job
    gpu: int
    placement: Placement
    until: float


@dataclass(frozen=True, slots=True)
class Start:
    """A decision: this job, on this GPU, in the instance that the change leaves."""

    job: Job
    gpu: int
    change: Change


@dataclass(frozen=True, slots=True)
class QueueState:
    """All that a discipline may look at.

    Attributes:
        now: the time in seconds.
        waiting: jobs that wait, in order of arrival.
        gpus: the instances of each GPU, and which are in use; all GPUs are of one model.
        running: jobs that run.
        used: GPU seconds of each user so far: the share of a GPU's compute slices, times seconds.
    """

    now: float
    waiting: tuple[Job, ...]
    gpus: tuple[Partition, ...]
    running: tuple[RunningJob, ...] = ()
    used: Mapping[str, float] = field(default_factory=dict)


class Discipline(Protocol):
    """Decides which waiting jobs start now."""

    def decide(self, state: QueueState) -> tuple[Start, ...]:
        """Return the jobs that start now, in this order."""
        ...


class Allocation:
    """Collects starts.

    Args:
        state: where it begins.
    """

    def __init__(self, state: QueueState) -> None:
        self.gpus = list(state.gpus)
        self.starts: list[Start] = []
        self._profiles = [profile.name for profile in state.gpus[0].gpu.profiles]
        self._found: dict[str, tuple[int, Change] | None] = {}
        self._full: bool | None = None  # until the next start

    @property
    def full(self) -> bool:
        """Whether no instance of any profile can be used any more."""
        if self._full is None:
            self._full = all(self.find(profile) is None for profile in self._profiles)
        return self._full

    def find(self, profile: str) -> tuple[int, Change] | None:
        """Return where an instance of a profile can be used; None if nowhere now.

        It is on the fullest GPU (best fit), then the one that keeps the largest instances and the most layouts
        possible, then the one that changes the least.
        """
        if profile not in self._found:
            self._found[profile] = self._search(profile)
        return self._found[profile]

    def start(self, job: Job, gpu: int, change: Change) -> None:
        """Decide that a job starts."""
        self.starts.append(Start(job, gpu, change))
        self.gpus[gpu] = self.gpus[gpu].start(change)
        self._full = None
        # A profile that had no room before has none now.
        self._found = {profile: None for profile, found in self._found.items() if found is None}

    def try_start(self, job: Job, profile: str) -> bool:
        """Start a job on a profile if possible; return whether it was."""
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


@dataclass(frozen=True, slots=True)
class SliceReservation:
    """A placement kept for a job on a GPU, and the instances in use that may outlast its start."""

    gpu: int
    placement: Placement
    beside: frozenset[Placement]

    def leaves_room(self, allocation: Allocation, gpu: int, change: Change) -> bool:
        """Return whether the reserved placement is free as early with a start as without it."""
        if gpu != self.gpu:
            return True
        model = allocation.gpus[gpu].gpu
        return fault(model, (*self.beside, self.placement, change.placement)) is None

    def and_beside(self, change: Change) -> SliceReservation:
        """Return the reservation after a start beside it."""
        return SliceReservation(self.gpu, self.placement, self.beside | {change.placement})


def reserve(state: QueueState, allocation: Allocation, job: Job, profile: str) -> SliceReservation:
    """Reserve the placement for a job that is expected to be free first.

    Instances end in the order of `until`; those that the allocation has just started end last.
    """
    until = {(r.gpu, r.placement): r.until for r in state.running}
    best: tuple[float, SliceReservation] | None = None
    for gpu, partition in enumerate(allocation.gpus):
        by_end = sorted(partition.busy, key=lambda p: (until.get((gpu, p), float("inf")), p))
        for start in partition.gpu.profile(profile).starts:
            placement = Placement(start, profile)
            ends, stay = state.now, list(by_end)
            while fault(partition.gpu, (*stay, placement)) is not None:
                ends = max(ends, until.get((gpu, stay.pop(0)), float("inf")))
            if best is None or ends < best[0]:
                best = (ends, SliceReservation(gpu, placement, frozenset(stay)))
    if best is None:
        raise AssertionError(f"job {job.id} was promised a profile that no GPU has")
    return best[1]


def start_beside(
    allocation: Allocation, job: Job, profile: str, kept: SliceReservation
) -> SliceReservation | None:
    """Start a job on a profile without delaying a reservation; return the new reservation, None if impossible."""
    for gpu, partition in enumerate(allocation.gpus):
        for change in partition.changes(profile):
            if kept.leaves_room(allocation, gpu, change):
                allocation.start(job, gpu, change)
                return kept.and_beside(change) if gpu == kept.gpu else kept
    return None
