"""Jobs as the disciplines see them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from partita.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.mig.gpu import GpuModel


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A batch job, made by `job_on`. Jobs are equal only if they are one object.

    Attributes:
        id: its number.
        seconds: how long it is expected to run on each profile that holds it, from small to large.
        work: the fewest GPU seconds it takes: seconds times the share of the GPU, least over all profiles.
        thrifty: the profile on which it takes the fewest GPU seconds.
        arrival: when it was submitted, in seconds.
        user: its owner.
        priority: larger goes first, if the discipline has priorities.
    """

    id: int
    seconds: Mapping[str, float]
    work: float
    thrifty: str
    arrival: float = 0.0
    user: str = ""
    priority: int = 0

    @property
    def tightest(self) -> str:
        """The smallest profile that holds it."""
        return next(iter(self.seconds))

    @property
    def largest(self) -> str:
        """The largest profile that holds it."""
        return list(self.seconds)[-1]


def job_on(
    gpu: GpuModel,
    number: int,
    seconds: Mapping[str, float],
    *,
    arrival: float = 0.0,
    user: str = "",
    priority: int = 0,
) -> Job:
    """Return a job for GPUs of one model.

    Args:
        gpu: the model.
        number: the job's id.
        seconds: run time per profile; profiles that do not hold the job are absent.
        arrival: when it was submitted, in seconds.
        user: its owner.
        priority: larger goes first.

    Raises:
        InputError: no profile holds it, the GPU has no such profile, or a run time is not positive.
    """
    for name, t in seconds.items():
        gpu.profile(name)
        if not 0.0 < t < float("inf"):
            raise InputError(f"{t} seconds on {name}", where=f"job {number}", hint="run times are positive")
    ordered = {p.name: seconds[p.name] for p in gpu.profiles if p.name in seconds}
    if not ordered:
        raise InputError(f"no profile of {gpu.name} holds it", where=f"job {number}")
    share = shares(gpu)
    thrifty = min(ordered, key=lambda name: ordered[name] * share[name])
    return Job(number, ordered, ordered[thrifty] * share[thrifty], thrifty, arrival, user, priority)


@lru_cache(maxsize=64)
def shares(gpu: GpuModel) -> dict[str, float]:
    """Return the share of the GPU that each profile takes: of compute or of memory slices, whichever is more."""
    return {p.name: max(p.compute / gpu.compute_slices, p.memory / gpu.memory_slices) for p in gpu.profiles}
