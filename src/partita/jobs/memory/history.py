"""Bounds from how earlier jobs of the same family fared."""

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
    """

    limit: float
    out_of_memory: bool


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

    def and_then(self, more: Iterable[Ended]) -> History:
        """Return the history with further jobs."""
        return History((*self.ended, *more))
