"""A search's time limit, its stop button and its report of progress, in one value."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class SearchProgress:
    """How far a search is: best value so far, proven lower bound (None where unknown), seconds gone."""

    best: float | None
    bound: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Deadline:
    """Tells a search when to stop, and is told how far it is.

    Attributes:
        time_limit: wall-clock seconds from when it was made.
        stop: true once the user wants the best so far.
        report: called with progress; it must be cheap and must not raise.
    """

    time_limit: float = float("inf")
    stop: Callable[[], bool] = lambda: False
    report: Callable[[SearchProgress], None] = lambda _: None
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    @property
    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.time_limit - self.seconds)

    @property
    def over(self) -> bool:
        """Whether the search should return what it has."""
        return self.stop() or self.left <= 0.0

    def at_most(self, seconds: float) -> Deadline:
        """Return a deadline after the time that is left, or so many seconds if that is less."""
        return Deadline(min(self.left, seconds), self.stop, self.report)

    def share(self, part: float) -> Deadline:
        """Return a deadline after this part of the time that is left."""
        return Deadline(self.left * part, self.stop, self.report)

    def tell(self, best: float | None, bound: float | None) -> None:
        """Report progress."""
        self.report(SearchProgress(best, bound, self.seconds))
