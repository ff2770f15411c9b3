"""What repetitions tell: when they are steady, how many a quantile takes, and the joint throughput."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Run: TypeAlias = tuple[float, float]
"""Begin and end of one repetition in seconds of the host's monotonic clock, which all processes share."""

CONFIDENCE = 0.95


def repetitions(quantile: float) -> int:
    """Return the least repetitions from which a quantile is told: 29 for p90, 299 for p99.

    So many that the largest of them lies above the quantile with 95 % confidence, whatever the distribution (Hahn and
    Meeker, Statistical Intervals, section 5.2.3: 1 - q^n >= confidence).
    """
    return math.ceil(math.log(1.0 - CONFIDENCE) / math.log(quantile))


def order_statistic(ascending: Sequence[float], quantile: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed: one that was measured."""
    return ascending[max(math.ceil(quantile * len(ascending)) - 1, 0)]


class Warmup:
    """Says when repetitions have become steady: two windows in a row whose medians differ by little."""

    def __init__(self, window: int = 5, tolerance: float = 0.05) -> None:
        self._tolerance = tolerance
        self._last: deque[float] = deque(maxlen=2 * window)

    def add(self, seconds: float) -> bool:
        """Take one more repetition, and return whether they are steady now."""
        self._last.append(seconds)
        full = self._last.maxlen or 0
        if len(self._last) < full:
            return False
        values = list(self._last)
        before, after = median(values[: full // 2]), median(values[full // 2 :])
        return abs(after - before) <= self._tolerance * before


@dataclass(frozen=True, slots=True)
class Window:
    """What ran while all processes ran.

    Attributes:
        seconds: how long that was.
        per_second: repetitions per second of all processes together.
        latencies: seconds of each repetition that lies within, ascending.
    """

    seconds: float
    per_second: float
    latencies: tuple[float, ...]


def common_window(processes: Iterable[Sequence[Run]]) -> Window | None:
    """Return what ran between the last process's first begin and the first process's last end; None if nothing did.

    A repetition that reaches over an end counts by its share within, so that long ones are not rounded away.
    """
    each = [runs for runs in processes if runs]
    if not each:
        return None
    begin, end = max(runs[0][0] for runs in each), min(runs[-1][1] for runs in each)
    if end <= begin:
        return None
    every = [run for runs in each for run in runs]
    share = sum(max(min(e, end) - max(b, begin), 0.0) / (e - b) for b, e in every if e > b)
    within = sorted(e - b for b, e in every if b >= begin and e <= end)
    return Window(end - begin, share / (end - begin), tuple(within))
