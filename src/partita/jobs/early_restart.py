"""When to restart a job before it runs out of memory, and how to end it: ask first, kill later."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from partita.jobs.memory.bounds import holds, slices

if TYPE_CHECKING:
    from partita.jobs.memory.growth import Growth
    from partita.mig.gpu import GpuModel


def early_restart(gpu: GpuModel, profile: str, growth: Growth) -> str | None:
    """Return the profile to restart a job on, or None to let it run.

    It is restarted if even the lower bound of the peak exceeds its slice and some slice would hold that bound: on
    the smallest that holds the expected peak, or the largest if none does.

    Raises:
        InputError: the GPU has no such profile.
    """
    bounds = growth.bounds()
    here = gpu.profile(profile)
    larger = [
        p for p in slices(gpu) if (p.memory_mib or 0) > (here.memory_mib or 0) and holds(p, bounds.lower)
    ]
    if holds(here, bounds.lower) or not larger:
        return None
    return next((p.name for p in larger if holds(p, growth.expected())), larger[-1].name)


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
