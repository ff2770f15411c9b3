"""A search's time limit, stop request and progress report in one value."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class SearchProgress:
    """Progress of a search: best value so far, proven lower bound (both None if unknown), elapsed seconds."""

    best: float | None
    bound: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Deadline:
    """Tells a search when to stop, and takes its progress.

    Attributes:
        time_limit: wall-clock seconds from `started`.
        stop: returns True once the user wants the best result so far.
        report: called with progress; must be cheap and must not raise.
        started: monotonic time of its creation.
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
        """Seconds left; at least 0."""
        return max(0.0, self.time_limit - self.seconds)

    @property
    def over(self) -> bool:
        """Whether the search should return what it has."""
        return self.stop() or self.left <= 0.0

    def at_most(self, seconds: float) -> Deadline:
        """Return a deadline after `seconds`, or after the time that is left if that is less."""
        return Deadline(min(self.left, seconds), self.stop, self.report)

    def share(self, part: float) -> Deadline:
        """Return a deadline after a fraction of the time that is left."""
        return Deadline(self.left * part, self.stop, self.report)

    def tell(self, best: float | None, bound: float | None) -> None:
        """Report progress."""
        self.report(SearchProgress(best, bound, self.seconds))
