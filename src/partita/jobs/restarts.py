"""When a job moves to a larger slice: after it ran out of memory, or before it would.

After running out of memory a job is tried on the next larger slice, a limited number of times. A job that reports its
memory is restarted early, as soon as its growth shows that its slice is too small.
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
"""Enough for a whole GPU, which is the fourth smallest slice on most models."""


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
    """One attempt of a job: its profile, and how it ended."""

    profile: str
    end: AttemptEnd


@dataclass(frozen=True, slots=True)
class NextSlice:
    """The next attempt's profile, None for no further attempt, and the reason."""

    profile: str | None
    reason: str


def last_of(most: int) -> str:
    """Say that an attempt was the last one that a job had."""
    return f"that was the last of {most:,} attempts" if most > 1 else "that was its only attempt"


def next_attempt(
    gpu: GpuModel,
    attempts: tuple[SliceAttempt, ...],
    bounds: Bounds | None = None,
    *,
    most: int = MOST_ATTEMPTS,
) -> NextSlice:
    """Return what follows the attempts so far.

    Only an out-of-memory and an early restart lead to another attempt: on the next larger slice that the bounds do
    not rule out.

    Args:
        gpu: the GPU model.
        attempts: at least one, the oldest first.
        bounds: of the peak, as known now.
        most: most attempts in all.

    Raises:
        InputError: the GPU has no profile of the last attempt.
    """
    last = attempts[-1]
    if last.end not in (AttemptEnd.OUT_OF_MEMORY, AttemptEnd.EARLY_RESTART):
        return NextSlice(None, last.end.value)
    if len(attempts) >= most:
        return NextSlice(None, f"{last.end.value}, and {last_of(most)}")
    had = gpu.profile(last.profile).memory_mib or 0
    need = (bounds or Bounds()).lower
    for profile in slices(gpu):
        if (profile.memory_mib or 0) > had and holds(profile, need):
            return NextSlice(profile.name, f"{last.end.value} on {last.profile}")
    return NextSlice(None, f"{last.end.value} on {last.profile}, and no larger slice has what it needs")


def early_restart(gpu: GpuModel, profile: str, growth: Growth, *, within: int | None = None) -> str | None:
    """Return the profile to restart a job on, or None to let it run.

    A job without checkpoints is restarted as soon as the lower bound of its peak exceeds its slice, since all its
    further steps would be lost. A job with checkpoints loses nothing by waiting, so it is restarted only when the
    upper bound of its next steps exceeds the slice; one whose growth slows down is left alone. The job moves to the
    smallest larger slice that holds the expected peak, or to the largest if none does.

    Args:
        gpu: the GPU model.
        profile: where the job runs.
        growth: of its memory.
        within: steps that it may make before its next checkpoint is written and it is looked at again; None without
            checkpoints.

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
