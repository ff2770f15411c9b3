"""Who took the energy of a GPU between two readings of its counter (pure).

No counter measures a slice. What the GPU would have drawn idle is shared by size: half by compute slices and half by
memory slices, and what no instance holds stays unallocated. The rest is shared by activity, where that is known of
all who ran, and by their compute slices otherwise. The parts add up to the counter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Kind(StrEnum):
    """Who can take energy."""

    JOB = "job"
    SERVICE = "service"
    UNALLOCATED = "unallocated"


@dataclass(frozen=True, slots=True, order=True)
class Owner:
    """A job's attempt, a service, or nobody.

    Attributes:
        name: the job's id (`12`, or `12_3` of an array) or the service's name.
        attempt: of a job, from 1; 0 for others.
    """

    kind: Kind
    name: str = ""
    attempt: int = 0


NOBODY = Owner(Kind.UNALLOCATED)


@dataclass(frozen=True, slots=True)
class Stay:
    """Somebody on an instance for a time; a GPU without MIG is one instance with all slices.

    Attributes:
        gpu: the GPU's id.
        compute: compute slices of the instance, as a share of the GPU's.
        memory: memory slices, likewise.
        began: seconds; may lie before the interval.
        ended: seconds; infinite while it goes on.
        activity: mean share of the instance's compute that was at work; None where nothing tells.
        start: memory slice at which the instance starts.
    """

    owner: Owner
    gpu: str
    compute: float
    memory: float
    began: float
    ended: float = math.inf
    activity: float | None = None
    start: int = 0

    @property
    def size(self) -> float:
        """Its share of the GPU."""
        return (self.compute + self.memory) / 2.0


@dataclass(frozen=True, slots=True)
class Interval:
    """What a counter said between two readings.

    Attributes:
        joules: at least 0.
        idle_w: watts that the GPU draws without work.
    """

    began: float
    ended: float
    joules: float
    idle_w: float


@dataclass(frozen=True, slots=True)
class Part:
    """What one owner took of an interval, and for how many seconds of it somebody of theirs was there."""

    owner: Owner
    idle_j: float
    active_j: float
    seconds: float


def attribute(interval: Interval, stays: Sequence[Stay]) -> tuple[Part, ...]:
    """Return who took the energy of an interval on one GPU; the parts add up to it.

    The idle part is at most the whole: a GPU that drew less than its idle power did no work.

    Args:
        interval: not empty.
        stays: on this GPU, in any order; those outside of the interval count for nothing.
    """
    lasts = interval.ended - interval.began
    idle = min(interval.joules, interval.idle_w * lasts)
    present = [(stay, during(stay, interval.began, interval.ended)) for stay in stays]
    present = [(stay, seconds) for stay, seconds in present if seconds > 0.0]
    sizes = [stay.size * seconds / lasts for stay, seconds in present]
    by_activity = all(stay.activity is not None for stay, _ in present)
    loads = [
        stay.compute * seconds * ((stay.activity or 0.0) if by_activity else 1.0) for stay, seconds in present
    ]
    # Records overlap by moments where one follows another on an instance.
    held, load = max(1.0, math.fsum(sizes)), math.fsum(loads)
    found: dict[Owner, Part] = {}
    for (stay, seconds), size, weight in zip(present, sizes, loads, strict=True):
        before = found.get(stay.owner, Part(stay.owner, 0.0, 0.0, 0.0))
        active = (interval.joules - idle) * (weight / load) if load > 0.0 else 0.0
        found[stay.owner] = Part(
            stay.owner, before.idle_j + idle * size / held, before.active_j + active, before.seconds + seconds
        )
    return (*found.values(), _rest(interval, idle, found))


def during(stay: Stay, began: float, ended: float) -> float:
    """Return for how many seconds of a time a stay lasts."""
    return max(0.0, min(stay.ended, ended) - max(stay.began, began))


def _rest(interval: Interval, idle: float, found: dict[Owner, Part]) -> Part:
    """Return what is left for nobody; rounding may make it a little less than nothing."""
    left = max(0.0, idle - math.fsum(part.idle_j for part in found.values()))
    active = max(0.0, interval.joules - idle - math.fsum(part.active_j for part in found.values()))
    return Part(NOBODY, left, active, interval.ended - interval.began)
