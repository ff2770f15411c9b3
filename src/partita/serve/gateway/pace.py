"""How fast a queue drains: from its starts since it last was empty (Little, Operations Research 9(3), 1961)."""

from __future__ import annotations

_ENOUGH = 4
"""Starts that tell a pace."""


class Pace:
    """Starts of one batch size while some of it wait.

    Args:
        horizon: seconds of the past that count; older starts fade.
    """

    __slots__ = ("_horizon", "_since", "_starts")

    def __init__(self, horizon: float) -> None:
        self._horizon = horizon
        self._since: float | None = None
        self._starts = 0.0

    def waits(self, now: float) -> None:
        """Say that a query waits which could not start at once."""
        if self._since is None:
            self._since, self._starts = now, 0.0

    def started(self, now: float) -> None:
        """Count a start of a query that has waited."""
        if self._since is not None:
            self._starts += 1.0
            if now - self._since > self._horizon:
                self._since, self._starts = (self._since + now) / 2, self._starts / 2

    def emptied(self) -> None:
        """Say that nothing waits any more."""
        self._since = None

    def wait(self, before: int, now: float) -> float:
        """Return the seconds until a query starts that has so many before it; 0 while nothing is known."""
        if self._since is None or not before:
            return 0.0
        span = now - self._since
        if self._starts < _ENOUGH and span < self._horizon / 2:
            return 0.0
        return before * span / max(self._starts, 1.0)
