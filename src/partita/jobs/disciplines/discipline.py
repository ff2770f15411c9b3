"""What a queue discipline sees and answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.jobs.job import Job
    from partita.jobs.partition import Change, Partition
    from partita.mig.layout import Placement


@dataclass(frozen=True, slots=True)
class Running:
    """A job in its instance.

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
class State:
    """All that a discipline may look at.

    Attributes:
        now: the time in seconds.
        waiting: jobs that wait, in order of arrival.
        gpus: what stands and is in use on each GPU; all of one model.
        running: jobs that run.
        used: GPU seconds each user has had: compute slices over those of a GPU, times seconds.
    """

    now: float
    waiting: tuple[Job, ...]
    gpus: tuple[Partition, ...]
    running: tuple[Running, ...] = ()
    used: Mapping[str, float] = field(default_factory=dict)


class Discipline(Protocol):
    """Decides which waiting jobs start now."""

    def decide(self, state: State) -> tuple[Start, ...]:
        """Return the jobs that start now, to be carried out in this order."""
        ...
