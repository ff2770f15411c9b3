"""What earlier jobs of the same family say of the next one's memory."""

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
        limit: bytes that its slice had.
        out_of_memory: whether it failed for want of memory; otherwise it succeeded.
        declared: bytes that its user had said it needs, or a model had forecast; None if nothing had been said, so
            that what was known before chose its slice.
        peak: most bytes that were seen in use; None where nobody looked.
    """

    limit: float
    out_of_memory: bool
    declared: float | None = None
    peak: float | None = None


@dataclass(frozen=True, slots=True)
class History:
    """`history`: an out-of-memory on a slice is a lower bound, a success an upper one; the newest is believed.

    Memory reported on a large slice is no bound: frameworks cache what they can get, and run with less.

    Attributes:
        ended: the family's jobs, oldest first.
    """

    ended: tuple[Ended, ...] = ()

    def bounds(self) -> Bounds:
        """Return the bounds of the peak in bytes; from nothing to any without a history."""
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
        """Return the bytes that the slice of the next job should have, of which nothing else is known; 0 for any.

        The smallest slice that is known to hold the family. One that somebody's word chose is not known to be the
        smallest: of a job that ran there the memory seen in use counts, so that one word that was too large does not
        send all that come after it to a slice of that size.
        """
        bounds = self.bounds()
        found = (
            History(tuple(job for job in self.ended if job.out_of_memory or job.declared is None))
            .bounds()
            .upper
        )
        if found != UNLIMITED:
            return found
        told = [job.peak or 0.0 for job in self.ended if not job.out_of_memory]
        more = bounds.lower + 1.0 if bounds.lower else 0.0
        return min(max(more, told[-1] if told else 0.0), bounds.upper)

    def declaring(self, declared: float) -> History:
        """Return the part that says something of a job with this declaration: the jobs that declared the same.

        Whoever says something else than before knows something new.
        """
        return History(tuple(job for job in self.ended if job.declared == declared))

    def forecasting(self, upper: float) -> History:
        """Return the part that says something of a job with this upper bound of a model's forecast.

        It leaves out jobs that another forecast or a declaration was made for: another model, or other sizes.
        """
        return History(tuple(job for job in self.ended if job.declared in (None, upper)))

    def and_then(self, more: Iterable[Ended]) -> History:
        """Return the history with further jobs."""
        return History((*self.ended, *more))
