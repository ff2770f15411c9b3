"""What earlier jobs of a family show about the next one's memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.jobs.memory.bounds import UNLIMITED, Bounds

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended on a slice.

    Attributes:
        limit: memory of its slice in bytes.
        out_of_memory: whether it ran out of memory; otherwise it succeeded.
        declared: bytes that its user declared or a model forecast; None if neither did, so that the history chose its
            slice.
        peak: most bytes seen in use; None where not measured.
    """

    limit: float
    out_of_memory: bool
    declared: float | None = None
    peak: float | None = None


@dataclass(frozen=True, slots=True)
class History:
    """`history`: running out of memory on a slice gives a lower bound, a success an upper one; the newest job wins.

    Memory reported on a large slice is not a bound: frameworks cache what they can get, and run with less.

    Attributes:
        ended: the family's jobs, oldest first.
    """

    ended: tuple[Ended, ...] = ()

    def bounds(self) -> Bounds:
        """Return the bounds of the peak in bytes; from 0 to unlimited without a history."""
        lower, upper = 0.0, UNLIMITED
        for job in self.ended:
            if job.out_of_memory:
                lower = max(lower, job.limit)
                upper = upper if upper > lower else UNLIMITED
            else:
                upper = min(upper, job.limit)
                lower = lower if lower < upper else 0.0
        return Bounds(lower, upper)

    def need(self) -> float:
        """Return the bytes that the slice of the next job should have if nothing else is known of it; 0 for any.

        That is the smallest slice known to hold the family. A slice that a declaration chose may be larger than
        needed: of a job there the memory seen in use counts, so that one declaration that was too large does not send
        all later jobs to such a slice.
        """
        bounds = self.bounds()
        found = (
            History(tuple(job for job in self.ended if job.out_of_memory or job.declared is None))
            .bounds()
            .upper
        )
        if found != UNLIMITED:
            return found
        peaks = [job.peak or 0.0 for job in self.ended if not job.out_of_memory]
        more = bounds.lower + 1.0 if bounds.lower else 0.0
        return min(max(more, peaks[-1] if peaks else 0.0), bounds.upper)

    def declaring(self, declared: float) -> History:
        """Return the part for a job with this declaration: jobs that declared the same.

        A different declaration means that something has changed.
        """
        return History(tuple(job for job in self.ended if job.declared == declared))

    def forecasting(self, upper: float) -> History:
        """Return the part for a job with this upper bound of a model's forecast.

        It leaves out jobs with another forecast or declaration: they had another model, or other sizes.
        """
        return History(tuple(job for job in self.ended if job.declared in (None, upper)))

    def and_then(self, more: Iterable[Ended]) -> History:
        """Return the history with further jobs."""
        return History((*self.ended, *more))
