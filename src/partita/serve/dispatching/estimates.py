"""Estimates of a batch's seconds on a worker: the performance table's, corrected by observations.

An estimate is the product of three factors: the table's seconds for the worker's size and the batch size; how long
batches of that size take on all workers of the size, relative to the table; how long this worker takes relative to
the others, for batches of similar size (a worker short of memory or power may be slow only with large batches). Both
corrections are medians of the last few observations: one outlier changes nothing, three slow batches in a row change
a worker's estimate (Huber and Ronchetti, Robust Statistics, section 1.4: a median holds as long as fewer than half of
the values are wrong).

If the inputs of a service's queries differ in size (token sequences, images, texts), `InputFactors` replace the
correction by batch size: queries fall into size classes by the bytes of one row's inputs.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from partita.serve.tensors import Query


STEP = 1.25
"""Factor between two steps of slowdown; workers of the same step count as equal."""
_KEEP = 1.2  # more than half a step, so that a worker between two steps does not alternate
_APPLY = 0.02
_SPACING_S = 0.02  # minimum between two observations: a stall of the whole host counts as one outlier
_PATIENCE_S = (0.25, 30.0)
_LEAST = 1e-6  # minimum of seconds and ratios
_ENOUGH = 3  # observations of a size class before it is used to judge workers
CLASSES = 2
"""Number of size classes per doubling of the bytes of a row's inputs."""


class RunningMedian:
    """Median of the last `length` values; it starts with `trust` values of `prior`."""

    __slots__ = ("_length", "_values", "value")

    def __init__(self, prior: float, length: int, trust: int) -> None:
        self._values = [prior] * trust
        self._length = length
        self.value = prior

    def add(self, value: float) -> float:
        """Add a value and return the median; of two middle values the larger, as the safer estimate."""
        values = self._values
        values.append(value)
        if len(values) > self._length:
            del values[0]
        self.value = sorted(values)[len(values) // 2]
        return self.value


class SizeEstimate:
    """Seconds by batch size on workers with the same profile and table.

    Attributes:
        seconds: by batch size; 0 at index 0.
        seen: time of the last observation.
        changed: whether observations since the last `apply` change the seconds.

    Args:
        table: seconds by batch size.
        shared: factors of size classes on workers of all sizes.
    """

    __slots__ = ("_cells", "_inputs", "_next", "_of", "_shared", "_table", "changed", "seconds", "seen")

    def __init__(self, table: list[float], shared: InputFactors | None = None) -> None:
        self._table = table
        self._shared = shared or InputFactors()
        self._inputs = InputFactors(self._shared)
        self._of: dict[int, list[float]] = {}
        self.seconds = list(table)
        self._cells: dict[int, RunningMedian] = {}
        self._next: dict[tuple[int, int], float] = {}
        self.seen = -math.inf
        self.changed = False

    def observe(self, batch: int, seconds: float, slowdown: float, now: float) -> None:
        """Take the observed seconds of a batch on a worker with a slowdown."""
        self.seen = now
        if self._too_soon((batch, 0), now):
            return
        cell = self._cells.get(batch)
        if cell is None:
            cell = self._cells[batch] = RunningMedian(1.0, length=9, trust=3)
        median = cell.add(max(seconds, _LEAST) / (self._table[batch] * slowdown))
        if abs(median * self._table[batch] / self.seconds[batch] - 1.0) > _APPLY:
            self.changed = True

    def observe_inputs(
        self, size_class: int, batch: int, seconds: float, slowdown: float, now: float, *, trial: bool = False
    ) -> None:
        """Take the observed seconds of a batch of a size class; a trial far below the estimate replaces it."""
        self.seen = now
        at = band(batch)
        if self._too_soon((at, size_class), now):
            return
        ratio = max(seconds, _LEAST) / (self._table[batch] * slowdown)
        for factors in (self._inputs, self._shared):
            factors.observe(size_class, at, ratio, trial=trial)
        used = self._of.get(size_class)
        if used is not None and abs(self.expected(size_class, batch) / used[batch] - 1.0) > _APPLY:
            self.changed = True

    def expected(self, size_class: int, batch: int) -> float:
        """Return the estimated seconds of a batch of a size class, with all observations."""
        return self._table[batch] * self._inputs.factor(size_class, band(batch))

    def knows(self, size_class: int, batch: int) -> bool:
        """Return whether there are enough observations, of a size class and similar batch sizes, to judge workers."""
        return self._inputs.knows(size_class, band(batch))

    def seconds_of(self, size_class: int) -> list[float]:
        """Return the seconds by batch size for a size class; class 0 is for services with inputs of equal size."""
        if not size_class:
            return self.seconds
        found = self._of.get(size_class)
        if found is None:
            found = self._of[size_class] = [0.0]
            for batch in range(1, len(self._table)):
                found.append(max(found[-1], self.expected(size_class, batch)))
        return found

    def _too_soon(self, what: tuple[int, int], now: float) -> bool:
        if now < self._next.get(what, 0.0):
            return True
        self._next[what] = now + _SPACING_S
        return False

    def apply(self) -> None:
        """Apply the observations; a batch size without any uses the factor of the next smaller one with some."""
        self.changed = False
        self._of.clear()
        ratio = next((self._cells[batch].value for batch in sorted(self._cells)), 1.0)
        for batch in range(1, len(self._table)):
            cell = self._cells.get(batch)
            ratio = cell.value if cell else ratio
            self.seconds[batch] = self._table[batch] * ratio
        # A larger batch never takes less, otherwise noise would make padding worthwhile. The largest of noisy figures
        # would be too high, and keep batches small.
        self.seconds[1:] = isotonic([(each, 1.0) for each in self.seconds[1:]])

    def forget(self) -> None:
        """Return to the table after a time without observations: corrections may have prevented all starts."""
        if self._cells:
            self._cells.clear()
            self.changed = True


class _Cell:
    """Observed seconds of one size class and band, relative to the table."""

    __slots__ = ("count", "median")

    def __init__(self, prior: float) -> None:
        self.median = RunningMedian(prior, length=9, trust=2)
        self.count = 0


class InputFactors:
    """Seconds of batches relative to the table, by size class of the inputs and band of batch sizes.

    A class without observations is interpolated between its neighbours, or extrapolated optimistically, so that it is
    tried and then known. Within a band a larger class never takes less (isotonic regression by pooling adjacent
    violators; Barlow et al., Statistical Inference under Order Restrictions, 1972).

    Args:
        others: factors on workers of all sizes, for classes without observations here.
    """

    __slots__ = ("_cells", "_curves", "_others")

    def __init__(self, others: InputFactors | None = None) -> None:
        self._cells: dict[int, dict[int, _Cell]] = {}
        self._curves: dict[int, list[tuple[int, float]]] = {}
        self._others = others

    def observe(self, size_class: int, at: int, ratio: float, *, trial: bool = False) -> None:
        """Take the observation of a batch that took `ratio` times the table's seconds; `at` is its band."""
        cells = self._cells.setdefault(at, {})
        cell = cells.get(size_class)
        if cell is None:
            cell = cells[size_class] = _Cell(self.factor(size_class, at))
        elif trial and ratio < cell.median.value / 2.0:
            cell = cells[size_class] = _Cell(ratio)
        cell.count += 1
        cell.median.add(ratio)
        self._curves.pop(at, None)

    def knows(self, size_class: int, at: int) -> bool:
        """Return whether a class has enough observations to judge workers."""
        cell = self._cells.get(at, {}).get(size_class)
        return cell is not None and cell.count >= _ENOUGH

    def factor(self, size_class: int, at: int) -> float:
        """Return a batch's seconds relative to the table's; 1 without observations."""
        own = self._curve(at)
        if self._others is not None and not any(known == size_class for known, _ in own):
            theirs = self._others._curve(at)  # noqa: SLF001 -- of its own class
            if not own or any(known == size_class for known, _ in theirs):
                own = theirs
        return _on(own, size_class) if own else 1.0

    def _curve(self, at: int) -> list[tuple[int, float]]:
        """Return the observed classes of a band, or of the nearest band with any, with their factors."""
        if at not in self._cells:
            if not self._cells:
                return []
            at = min(self._cells, key=lambda each: (abs(each - at), each))
        curve = self._curves.get(at)
        if curve is None:
            cells = sorted(self._cells[at].items())
            risen = isotonic([(cell.median.value, min(cell.count, 9)) for _, cell in cells])
            curve = self._curves[at] = [(each, value) for (each, _), value in zip(cells, risen, strict=True)]
        return curve


def _on(curve: list[tuple[int, float]], size_class: int) -> float:
    """Return the factor of a class on a curve."""
    (first, least), (last, most) = curve[0], curve[-1]
    if size_class < first:
        # At most in proportion to its bytes, and at most the table's seconds.
        return min(least * math.exp2((size_class - first) / CLASSES), 1.0)
    if size_class > last:
        # On with the slope of the observed classes, and at least the table's seconds.
        slope = math.log(most / least) / (last - first) if last > first else 0.0
        return max(most * math.exp(min(slope, math.log(2.0) / CLASSES) * (size_class - last)), 1.0)
    right = bisect_left(curve, (size_class,))
    after, high = curve[right]
    if after == size_class:
        return high
    before, low = curve[right - 1]
    share = (size_class - before) / (after - before)
    return math.exp((1.0 - share) * math.log(low) + share * math.log(high))


def isotonic(values: Sequence[tuple[float, float]]) -> list[float]:
    """Return the non-decreasing sequence nearest to some values, in the weighted squares of their logarithms.

    Args:
        values: with their weights.
    """
    pools: list[tuple[float, float, int]] = []  # mean logarithm, weight, number of values
    for value, weight in values:
        mean, total, count = math.log(value), weight, 1
        while pools and pools[-1][0] > mean:
            other, theirs, more = pools.pop()
            mean = (mean * total + other * theirs) / (total + theirs)
            total, count = total + theirs, count + more
        pools.append((mean, total, count))
    return [math.exp(mean) for mean, _, count in pools for _ in range(count)]


def size_class_of(query: Query, rows: int) -> int:
    """Return the size class of a query's inputs: from 1, with `CLASSES` classes per doubling of a row's bytes."""
    total = 0
    for tensor in query.inputs:
        total += len(tensor.data)
    each = total // rows
    bits = each.bit_length()
    if bits < 2:
        return CLASSES * bits + 1
    return CLASSES * bits + (each >> (bits - 2) & 1) + 1


class Slowdown:
    """How one worker compares with others of its size, in one band of batch sizes.

    Attributes:
        step: its slowdown is about `STEP` to this power.
        patience: seconds without a batch after which it is probed; doubles with each probe that finds it slow.
    """

    __slots__ = ("_median", "_probed", "patience", "step")

    def __init__(self) -> None:
        self._median = RunningMedian(1.0, length=5, trust=2)
        self._probed = 0
        self.step = 0
        self.patience = _PATIENCE_S[0]

    @property
    def factor(self) -> float:
        """Its seconds relative to its size's, rounded to a step."""
        return STEP**self.step

    @property
    def value(self) -> float:
        """Its seconds relative to its size's, as measured."""
        return self._median.value

    def observe(self, ratio: float) -> bool:
        """Take the observation of a batch that took `ratio` times its size's seconds; say if the step changes."""
        before = self.step
        if self._probed:
            self._end_probe(ratio)
        else:
            median = self._median.add(max(ratio, _LEAST))
            if not self.factor / _KEEP <= median <= self.factor * _KEEP:
                self.step = round(math.log(median, STEP))
        return self.step != before

    def probe(self) -> None:
        """Assume it to be as fast as others of its size until its next batch."""
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
    """How one worker compares with others of its size, in all bands.

    Args:
        largest: batch size.

    Attributes:
        steps: slowdown as a power of `STEP`, by band; a band without observations has the step of the next smaller
            band with some, else of the smallest.
    """

    __slots__ = ("_bands", "_seen", "steps")

    def __init__(self, largest: int) -> None:
        self._bands = [Slowdown() for _ in range(band(largest) + 1)]
        self._seen = [-math.inf] * len(self._bands)
        self.steps = (0,) * len(self._bands)

    @property
    def value(self) -> float:
        """Its seconds relative to its size's, in the band where it is slowest."""
        seen = (each.value for each, at in zip(self._bands, self._seen, strict=True) if at > -math.inf)
        return max(seen, default=1.0)

    def factor(self, batch: int) -> float:
        """Return its seconds relative to its size's for a batch size, rounded to a step."""
        return STEP ** self.steps[band(batch)]

    def observe(self, batch: int, ratio: float, now: float) -> bool:
        """Take the observation of a batch that took `ratio` times its size's seconds; say if the steps change."""
        at = band(batch)
        first, self._seen[at] = self._seen[at] == -math.inf, now
        return (self._bands[at].observe(ratio) or first) and self._changed()

    def probe(self, now: float, running: Iterable[int]) -> bool:
        """Probe the bands in which it was slow and has run nothing for a while; say if the steps change.

        Args:
            now: the current time.
            running: sizes of its running batches.
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
    """Return the seconds by batch size, from 0 on, of workers with slowdowns of these steps."""
    found = [0.0] + [seconds[batch] * STEP ** steps[band(batch)] for batch in range(1, len(seconds))]
    for batch in range(2, len(found)) if len(set(steps)) > 1 else ():
        # A larger batch takes no less, even if its band is less slow.
        found[batch] = max(found[batch], found[batch - 1])
    return found


def table_of(seconds: Mapping[int, float], batch: int, unknown: float) -> list[float]:
    """Return the seconds of batch sizes 0 to `batch`.

    They are linear between given sizes, constant below the smallest (it is padded), proportional above the largest.

    Args:
        seconds: by batch size; may be empty.
        batch: the largest that the worker takes.
        unknown: seconds of all sizes if `seconds` is empty.
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
