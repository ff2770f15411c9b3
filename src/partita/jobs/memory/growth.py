"""A forecast, while a job runs, of the peak of memory that grows step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from partita.jobs.memory.bounds import UNLIMITED, Bounds

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Growth:
    """`growth`: a random walk with drift over allocated bytes, and its prediction interval at the horizon.

    The increments of a KV cache are independent (the tokens of the next request), so the forecast m steps ahead has
    variance s^2 (m + m^2 / n) after n steps, not that of a line with independent residuals (Box and Jenkins, Time
    Series Analysis, ARIMA(0,1,0) with drift). To allow for growth that slows down, the interval is computed from all
    steps and from the last third of them; the lower bound is the smaller of the two, the upper one the larger.

    Attributes:
        allocated: allocated (not reserved) bytes after each step; the first entry is before any step.
        horizon: steps that the job will make; None if unknown.
        context: bytes of the CUDA context and workspaces beside them.
        z: half width of each interval in standard deviations; 2.0 leaves 2.3 % of a normal distribution on each side.
        fewest: steps before anything is forecast beyond the peak so far.
    """

    allocated: Sequence[float]
    horizon: int | None
    context: float = 0.0
    z: float = 2.0
    fewest: int = 12

    def bounds(self) -> Bounds:
        """Return the bounds of the peak in bytes, context included."""
        lower, upper = self._interval(self._ahead())
        return Bounds(lower + self.context, upper + self.context)

    def within(self, steps: int) -> Bounds:
        """Return the bounds of the peak of the next `steps` steps in bytes, context included."""
        lower, upper = self._interval(min(self._ahead(), steps))
        return Bounds(lower + self.context, upper + self.context)

    def expected(self) -> float:
        """Return the most likely peak in bytes, context included; the peak so far if nothing can be forecast."""
        seen, ahead = max(self.allocated, default=0.0), self._ahead()
        if not ahead:
            return seen + self.context
        drift, _, _ = self._drift(1.0)
        return max(seen, self.allocated[-1] + drift * ahead) + self.context

    def _ahead(self) -> int:
        """Return the number of steps to come, 0 if nothing can be forecast."""
        known = self.horizon is not None and len(self.allocated) > self.fewest
        return max((self.horizon or 0) - len(self.allocated) + 1, 0) if known else 0

    def _interval(self, ahead: int) -> tuple[float, float]:
        seen = max(self.allocated, default=0.0)
        if self.horizon is not None and len(self.allocated) > self.horizon:
            return seen, seen
        if not ahead:
            return seen, UNLIMITED
        ends = [self._end(share, ahead) for share in (1.0, 1.0 / 3.0)]
        return max(seen, min(low for low, _ in ends)), max(seen, *(high for _, high in ends))

    def _drift(self, share: float) -> tuple[float, float, int]:
        """Return the mean and variance of the increments in the last share of the steps, and how many they are."""
        values = self.allocated[-max(int((len(self.allocated) - 1) * share), 2) - 1 :]
        steps = len(values) - 1
        mean = (values[-1] - values[0]) / steps
        return mean, sum((after - before - mean) ** 2 for before, after in pairwise(values)) / steps, steps

    def _end(self, share: float, ahead: int) -> tuple[float, float]:
        mean, variance, steps = self._drift(share)
        middle = self.allocated[-1] + mean * ahead
        half = self.z * math.sqrt(variance * (ahead + ahead * ahead / steps))
        return middle - half, middle + half
