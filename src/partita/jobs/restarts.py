"""When a job moves to a larger slice: after it ran out of memory, or before it would.

After an out-of-memory it climbs from slice to slice, a bounded number of times. One that reports its memory is
restarted early, as soon as its growth shows that its slice will not hold it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from partita.jobs.memory.bounds import UNLIMITED, Bounds, holds, slices

if TYPE_CHECKING:
    from partita.jobs.memory.growth import Growth
    from partita.mig.gpu import GpuModel


MOST_ATTEMPTS = 4
"""A whole GPU is the fourth slice from the smallest on most models."""


class AttemptEnd(Enum):
    """How an attempt ended."""

    DONE = "done"
    OUT_OF_MEMORY = "out of memory"
    XID = "GPU fault (Xid)"
    KILLED = "killed"
    TERMINATED = "terminated"
    EARLY_RESTART = "restarted before it ran out of memory"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SliceAttempt:
    """One attempt of a job, which keeps its id: on which profile, and how it ended."""

    profile: str
    end: AttemptEnd


@dataclass(frozen=True, slots=True)
class NextSlice:
    """What follows: another attempt on `profile`, or none if that is None; `reason` says why."""

    profile: str | None
    reason: str


def next_attempt(
    gpu: GpuModel,
    attempts: tuple[SliceAttempt, ...],
    bounds: Bounds | None = None,
    *,
    most: int = MOST_ATTEMPTS,
) -> NextSlice:
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
    if last.end not in (AttemptEnd.OUT_OF_MEMORY, AttemptEnd.EARLY_RESTART):
        return NextSlice(None, last.end.value)
    if len(attempts) >= most:
        return NextSlice(None, f"{last.end.value}, and that was the last of {most} attempts")
    had = gpu.profile(last.profile).memory_mib or 0
    need = (bounds or Bounds()).lower
    for profile in slices(gpu):
        if (profile.memory_mib or 0) > had and holds(profile, need):
            return NextSlice(profile.name, f"{last.end.value} on {last.profile}")
    return NextSlice(None, f"{last.end.value} on {last.profile}, and no larger slice has what it needs")


def early_restart(gpu: GpuModel, profile: str, growth: Growth, *, within: int | None = None) -> str | None:
    """Return the profile to restart a job on, or None to let it run.

    A job that begins anew is restarted as soon as even the lower bound of the peak exceeds its slice: every further
    step would be in vain. One that goes on where it was loses nothing by waiting, so it is restarted only when the
    upper bound of its next steps exceeds the slice, and one whose growth slackens is left alone. It moves to the
    smallest slice that holds the expected peak, or the largest if none does, provided that some slice holds more.

    Args:
        gpu: the model of GPU.
        profile: where it runs.
        growth: of its memory.
        within: steps that it may make before it is looked at again and its checkpoint is written; None if it writes
            none.

    Raises:
        InputError: the GPU has no such profile.
    """
    here = gpu.profile(profile)
    need = growth.bounds().lower if within is None else growth.within(within).upper
    if holds(here, need) or need == UNLIMITED:
        return None
    least = growth.bounds().lower
    larger = [p for p in slices(gpu) if (p.memory_mib or 0) > (here.memory_mib or 0) and holds(p, least)]
    chosen = next((p.name for p in larger if holds(p, growth.expected())), None)
    return chosen or (larger[-1].name if larger else None)
