"""When to restart a job before it runs out of memory, and how to end it: ask first, kill later."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from partita.jobs.memory.bounds import UNLIMITED, holds, slices

if TYPE_CHECKING:
    from partita.jobs.memory.growth import Growth
    from partita.mig.gpu import GpuModel


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


def stop_signal(asked: float | None, now: float, grace: float) -> signal.Signals | None:
    """Return the signal that a job to be ended gets now; None if it still has time to checkpoint.

    Args:
        asked: when it got SIGTERM, in seconds; None if it has not.
        now: the time.
        grace: seconds it has to write its checkpoint.
    """
    if asked is None:
        return signal.SIGTERM
    return signal.SIGKILL if now - asked >= grace else None
