"""Seconds of a batch on a worker: from the performance table at first, then corrected by what is seen.

The estimate is a product: what the table says of the size and batch, times how batches of this size have compared
with that on all such workers, times how this worker compares with those like it in batches about as large: one that
runs short of memory or power is slow at large ones alone. Both corrections are medians of a
few last observations (Huber and Ronchetti, Robust Statistics, section 1.4: a median stands as long as fewer than half
of the values are wrong): one outlier moves nothing, three slow batches in a row move a worker.

Where the inputs of a service's queries have no one size (token sequences, images, texts), `InputFactors` take the
place of the correction by batch size: queries fall into size classes, by the bytes of one row's inputs.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from partita.serve.tensors import Query


STEP = 1.25
"""Workers whose slowdown differs by less are held to be alike."""
_KEEP = 1.2  # more than half a step: a worker between two steps does not flutter
_APPLY = 0.02
_SPACING_S = 0.02  # what slows all workers at once, for a moment, is one outlier
_PATIENCE_S = (0.25, 30.0)
_LEAST = 1e-6  # seconds or ratio: nothing takes no time at all
_ENOUGH = 3  # batches of a size class: then it says something of the worker that ran another
CLASSES = 2
"""Size classes for each doubling of the bytes of a row's inputs."""


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

    Args:
        table: seconds by batch size.
        shared: what is known of size classes from workers of other sizes.
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
        """Count a batch that took so many seconds on a worker of this slowdown."""
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
        """Count a batch of a size class. A trial that takes far less than expected is believed at once."""
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
        """Return the seconds of a batch of a size class, by all that was observed."""
        return self._table[batch] * self._inputs.factor(size_class, band(batch))

    def knows(self, size_class: int, batch: int) -> bool:
        """Return whether enough batches of a size class and about as large were observed to judge workers by."""
        return self._inputs.knows(size_class, band(batch))

    def seconds_of(self, size_class: int) -> list[float]:
        """Return the seconds by batch size of queries of a size class; class 0 is that of queries of equal size."""
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
        """Take over what was observed; batch sizes that never ran follow their nearest smaller one that did."""
        self.changed = False
        self._of.clear()
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


class _Cell:
    """What batches of one size class and band took by what the table says."""

    __slots__ = ("count", "median")

    def __init__(self, prior: float) -> None:
        self.median = RunningMedian(prior, length=9, trust=2)
        self.count = 0


class InputFactors:
    """Seconds of batches by what the table says of them, by the size class of their inputs and the band of the batch.

    An unknown class gets what its neighbours say. Without a neighbour on one side it gets the benefit of the doubt:
    it is tried, and then known. Within a band a larger class never takes less (isotonic regression by pooling
    adjacent violators; Barlow et al., Statistical Inference under Order Restrictions, 1972).

    Args:
        others: what is known from workers of other sizes, for classes that those of this size have not seen.
    """

    __slots__ = ("_cells", "_curves", "_others")

    def __init__(self, others: InputFactors | None = None) -> None:
        self._cells: dict[int, dict[int, _Cell]] = {}
        self._curves: dict[int, list[tuple[int, float]]] = {}
        self._others = others

    def observe(self, size_class: int, at: int, ratio: float, *, trial: bool = False) -> None:
        """Count a batch that took `ratio` times what the table says; `at` is the band of its size."""
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
        """Return whether a class was observed often enough to judge workers by."""
        cell = self._cells.get(at, {}).get(size_class)
        return cell is not None and cell.count >= _ENOUGH

    def factor(self, size_class: int, at: int) -> float:
        """Return by how much longer a batch takes than the table says; 1 while nothing is known."""
        own = self._curve(at)
        if self._others is not None and not any(known == size_class for known, _ in own):
            theirs = self._others._curve(at)  # noqa: SLF001 -- of its own class
            if not own or any(known == size_class for known, _ in theirs):
                own = theirs
        return _on(own, size_class) if own else 1.0

    def _curve(self, at: int) -> list[tuple[int, float]]:
        """Return the classes that were observed in a band of batches, or in the nearest, with their factors."""
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
    """Return the factor of a class from those of its neighbours."""
    (first, least), (last, most) = curve[0], curve[-1]
    if size_class < first:
        # It takes no more than in proportion to its bytes, nor than the table says.
        return min(least * math.exp2((size_class - first) / CLASSES), 1.0)
    if size_class > last:
        # It takes more as those before it do, and at least what the table says.
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
    """Return the values nearest to some, by their logarithms, that never fall.

    Args:
        values: with their weights.
    """
    pools: list[tuple[float, float, int]] = []  # mean logarithm, weight, how many
    for value, weight in values:
        mean, total, count = math.log(value), weight, 1
        while pools and pools[-1][0] > mean:
            other, theirs, more = pools.pop()
            mean = (mean * total + other * theirs) / (total + theirs)
            total, count = total + theirs, count + more
        pools.append((mean, total, count))
    return [math.exp(mean) for mean, _, count in pools for _ in range(count)]


def size_class_of(query: Query, rows: int) -> int:
    """Return the size class of a query's inputs: 1 and up, two for each doubling of the bytes of a row."""
    total = 0
    for tensor in query.inputs:
        total += len(tensor.data)
    each = total // rows
    bits = each.bit_length()
    if bits < 2:
        return CLASSES * bits + 1
    return CLASSES * bits + (each >> (bits - 2) & 1) + 1


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
