"""Seconds of a batch on a worker: from the performance table at first, then corrected by what is seen.

The estimate is a product: what the table says of the size and batch, times how batches of this size have compared
with that on all such workers, times how this worker compares with those like it in batches about as large: one that
runs short of memory or power is slow at large ones alone. Both corrections are medians of a
few last observations (Huber and Ronchetti, Robust Statistics, section 1.4: a median stands as long as fewer than half
of the values are wrong): one outlier moves nothing, three slow batches in a row move a worker.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

STEP = 1.25
"""Workers whose slowdown differs by less are held to be alike."""
_KEEP = 1.2  # more than half a step: a worker between two steps does not flutter
_APPLY = 0.02
_SPACING_S = 0.02  # what slows all workers at once, for a moment, is one outlier
_PATIENCE_S = (0.25, 30.0)
_LEAST = 1e-6  # seconds or ratio: nothing takes no time at all


class RunningMedian:
    """Median of the last `length` values; before the first there are `trust` values of `prior`."""

    __slots__ = ("_length", "_values", "value")

    def __init__(self, prior: float, length: int, trust: int) -> None:
        self._values = [prior] * trust
        self._length = length
        self.value = prior

    def add(self, value: float) -> float:
        """Return the median with one more value; the upper of two in the middle, to be careful."""
        values = self._values
        values.append(value)
        if len(values) > self._length:
            del values[0]
        self.value = sorted(values)[len(values) // 2]
        return self.value


class SizeEstimate:
    """Seconds by batch size on workers that should be alike: one profile, one table.

    Attributes:
        seconds: by batch size; at 0 there is 0.
        seen: when a batch was last observed.
        changed: whether observations since the last `apply` ask for other seconds.
    """

    __slots__ = ("_cells", "_next", "_table", "changed", "seconds", "seen")

    def __init__(self, table: list[float]) -> None:
        self._table = table
        self.seconds = list(table)
        self._cells: dict[int, RunningMedian] = {}
        self._next: dict[int, float] = {}
        self.seen = -math.inf
        self.changed = False

    def observe(self, batch: int, seconds: float, slowdown: float, now: float) -> None:
        """Count a batch that took so many seconds on a worker of this slowdown."""
        self.seen = now
        if now < self._next.get(batch, 0.0):
            return
        self._next[batch] = now + _SPACING_S
        cell = self._cells.get(batch)
        if cell is None:
            cell = self._cells[batch] = RunningMedian(1.0, length=9, trust=3)
        median = cell.add(max(seconds, _LEAST) / (self._table[batch] * slowdown))
        if abs(median * self._table[batch] / self.seconds[batch] - 1.0) > _APPLY:
            self.changed = True

    def apply(self) -> None:
        """Take over what was observed; batch sizes that never ran follow their nearest smaller one that did."""
        self.changed = False
        ratio = next((self._cells[batch].value for batch in sorted(self._cells)), 1.0)
        for batch in range(1, len(self._table)):
            cell = self._cells.get(batch)
            ratio = cell.value if cell else ratio
            self.seconds[batch] = self._table[batch] * ratio
        # A larger batch never takes less: else noise would make padding pay.
        for batch in range(2, len(self._table)):
            self.seconds[batch] = max(self.seconds[batch], self.seconds[batch - 1])

    def forget(self) -> None:
        """Go back to the table: nothing was seen for long, maybe because the corrections allow nothing to start."""
        if self._cells:
            self._cells.clear()
            self.changed = True


class Slowdown:
    """How one worker compares with those of its size, in batches about as large as one another.

    Attributes:
        step: its slowdown is about `STEP` to this power.
        patience: seconds without a batch after which it deserves a probe; grows with each that was in vain.
    """

    __slots__ = ("_median", "_probed", "patience", "step")

    def __init__(self) -> None:
        self._median = RunningMedian(1.0, length=5, trust=2)
        self._probed = 0
        self.step = 0
        self.patience = _PATIENCE_S[0]

    @property
    def factor(self) -> float:
        """What its batches take by what batches take on its size, rounded to a step."""
        return STEP**self.step

    @property
    def value(self) -> float:
        """The same as measured."""
        return self._median.value

    def observe(self, ratio: float) -> bool:
        """Count a batch that took `ratio` times what its size takes; say whether the step is now another."""
        before = self.step
        if self._probed:
            self._end_probe(ratio)
        else:
            median = self._median.add(max(ratio, _LEAST))
            if not self.factor / _KEEP <= median <= self.factor * _KEEP:
                self.step = round(math.log(median, STEP))
        return self.step != before

    def probe(self) -> None:
        """Believe it to be as fast as its like until its next batch shows."""
        self._probed, self.step = self.step, 0

    def _end_probe(self, ratio: float) -> None:
        slow, self._probed = self._probed, 0
        if ratio >= STEP ** (slow / 2):
            self.step = slow
            self.patience = min(2.0 * self.patience, _PATIENCE_S[1])
        else:
            self.patience = _PATIENCE_S[0]
            self._median = RunningMedian(1.0, length=5, trust=2)
            self._median.add(max(ratio, _LEAST))


class Slowdowns:
    """How one worker compares with those of its size.

    Args:
        largest: batch size.

    Attributes:
        steps: by band of batch sizes, its slowdown is about `STEP` to this power; where nothing was seen as in the
            next smaller band, else as in the next larger.
    """

    __slots__ = ("_bands", "_seen", "steps")

    def __init__(self, largest: int) -> None:
        self._bands = [Slowdown() for _ in range(band(largest) + 1)]
        self._seen = [-math.inf] * len(self._bands)
        self.steps = (0,) * len(self._bands)

    @property
    def value(self) -> float:
        """What its batches take by what batches take on its size, where it is slowest."""
        seen = (each.value for each, at in zip(self._bands, self._seen, strict=True) if at > -math.inf)
        return max(seen, default=1.0)

    def factor(self, batch: int) -> float:
        """Return the same of a batch size, rounded to a step."""
        return STEP ** self.steps[band(batch)]

    def observe(self, batch: int, ratio: float, now: float) -> bool:
        """Count a batch that took `ratio` times what its size takes; say whether the steps are now others."""
        at = band(batch)
        first, self._seen[at] = self._seen[at] == -math.inf, now
        return (self._bands[at].observe(ratio) or first) and self._changed()

    def probe(self, now: float, running: Iterable[int]) -> bool:
        """Believe it to be as fast as its like where it was slow and nothing is run; say whether it is any.

        Args:
            now: the moment.
            running: sizes of its batches under way.
        """
        if not any(self.steps):
            return False
        busy = {band(batch) for batch in running}
        for at, each in enumerate(self._bands):
            if each.step > 0 and at not in busy and now - self._seen[at] > each.patience:
                each.probe()
                self._seen[at] = now
        return self._changed()

    def _changed(self) -> bool:
        before, steps = self.steps, [each.step for each in self._bands]
        known = [at for at, seen in enumerate(self._seen) if seen > -math.inf]
        for at in range(len(steps)):
            if known and at not in known:
                smaller = [each for each in known if each < at]
                steps[at] = steps[smaller[-1] if smaller else known[0]]
        self.steps = tuple(steps)
        return self.steps != before


def band(batch: int) -> int:
    """Return the band of a batch size: 1 to 3, 4 to 15, 16 to 63, and so on."""
    return (batch.bit_length() - 1) // 2


def slowed(seconds: list[float], steps: tuple[int, ...]) -> list[float]:
    """Return seconds by batch size, from 0 on, of workers of these steps."""
    found = [0.0] + [seconds[batch] * STEP ** steps[band(batch)] for batch in range(1, len(seconds))]
    for batch in range(2, len(found)) if len(set(steps)) > 1 else ():
        # Nor does a larger batch take less where a band begins that is less slow.
        found[batch] = max(found[batch], found[batch - 1])
    return found


def table_of(seconds: Mapping[int, float], batch: int, unknown: float) -> list[float]:
    """Return the seconds of batch sizes 0 to `batch`.

    Linear between those given; below the smallest as the smallest (it is padded), above the largest in proportion.

    Args:
        seconds: of some batch sizes; may be empty.
        batch: the largest that the worker takes.
        unknown: seconds where nothing is given.
    """
    known = sorted(
        (size, max(each, _LEAST)) for size, each in seconds.items() if size > 0 and math.isfinite(each)
    )
    if not known:
        return [0.0] + [unknown] * batch
    table, at = [0.0], 0
    for size in range(1, batch + 1):
        while at < len(known) and known[at][0] < size:
            at += 1
        table.append(_between(known, at, size))
    return table


def _between(known: list[tuple[int, float]], at: int, size: int) -> float:
    if at == len(known):
        largest, seconds = known[-1]
        return seconds * size / largest
    right, after = known[at]
    if at == 0 or right == size:
        return after
    left, before = known[at - 1]
    return before + (after - before) * (size - left) / (right - left)
