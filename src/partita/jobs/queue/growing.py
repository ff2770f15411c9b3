"""The growth of a job's memory, from what it reports, for the forecast of its peak."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from partita.jobs.memory.growth import Growth

if TYPE_CHECKING:
    from partita.jobs.queue.record import Asked
    from partita.jobs.run.runner import JobProgress

LOOK_S = 2.0
"""Seconds that pass at most between a report and what follows from it, with some to spare."""


def growth_of(progress: JobProgress) -> Growth:
    """Return the growth that a job has reported, its horizon counted in reports, not steps."""
    steps, seen = progress.steps, progress.allocated_bytes
    if len(steps) < 2 or progress.of is None:
        return Growth(seen, None)
    spacing = max((steps[-1] - steps[0]) / (len(steps) - 1), 1.0)
    return Growth(seen, len(seen) - 1 + math.ceil(max(progress.of - steps[-1], 0) / spacing))


def within(asked: Asked, rate: float) -> int | None:
    """Return the steps that a job may make until its checkpoint is written; None if it writes none.

    Args:
        asked: says whether it writes checkpoints, and how long that may take.
        rate: steps per second.
    """
    return math.ceil(rate * (LOOK_S + asked.grace_s)) if asked.checkpoints else None
