"""The out-of-memory ladder: try again on a larger slice, a bounded number of times."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from partita.jobs.memory.bounds import Bounds, holds, slices

if TYPE_CHECKING:
    from partita.mig.gpu import GpuModel

MOST_ATTEMPTS = 4
"""A whole GPU is the fourth slice from the smallest on most models."""


class End(Enum):
    """How an attempt ended."""

    DONE = "done"
    OUT_OF_MEMORY = "out of memory"
    XID = "GPU fault (Xid)"
    KILLED = "killed"
    TERMINATED = "terminated"
    EARLY_RESTART = "restarted before it ran out of memory"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a job, which keeps its id: on which profile, and how it ended."""

    profile: str
    end: End


@dataclass(frozen=True, slots=True)
class Next:
    """What follows: another attempt on `profile`, or none if that is None; `reason` says why."""

    profile: str | None
    reason: str


def next_attempt(
    gpu: GpuModel, attempts: tuple[Attempt, ...], bounds: Bounds | None = None, *, most: int = MOST_ATTEMPTS
) -> Next:
    """Return what follows the attempts so far.

    Only out-of-memory and early restart lead to another attempt: on the next larger slice of which the bounds do
    not say that it is too small.

    Args:
        gpu: the model of the GPUs.
        attempts: at least one, the oldest first.
        bounds: what is known of the peak by now.
        most: attempts in all.

    Raises:
        InputError: the GPU has no profile of the last attempt.
    """
    last = attempts[-1]
    if last.end not in (End.OUT_OF_MEMORY, End.EARLY_RESTART):
        return Next(None, last.end.value)
    if len(attempts) >= most:
        return Next(None, f"{last.end.value}, and that was the last of {most} attempts")
    had = gpu.profile(last.profile).memory_mib or 0
    need = (bounds or Bounds()).lower
    for profile in slices(gpu):
        if (profile.memory_mib or 0) > had and holds(profile, need):
            return Next(profile.name, f"{last.end.value} on {last.profile}")
    return Next(None, f"{last.end.value} on {last.profile}, and no larger slice has what it needs")
