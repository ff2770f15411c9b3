"""The workers of one service: groups of equal speed, the prices of their seconds, and the workers' health."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from partita.serve.dispatching.estimates import InputFactors, SizeEstimate, Slowdowns, slowed, table_of
from partita.serve.dispatching.query import (
    Batch,
    ByClass,
    Group,
    PendingQuery,
    SizeKey,
    UnreadyReason,
    Worker,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from partita.serve.dispatching.query import BatchSender
    from partita.serve.problem import ServingProblem
    from partita.serve.worker.wire import Hello


_UNKNOWN = 0.25  # fraction of the deadline that an unmeasured batch is assumed to take


class Fleet:
    """The workers, their groups, and tables for decisions, which are computed only when something changes.

    Attributes:
        workers: all of them, in the order in which they joined.
        groups: by size of slice from small to large, then by slowdown.
        idlers: number of batches that could start now.
        coming: for each worker to be started, when it should be ready, and its largest batch.
        quickest: minimum seconds of each batch size over all workers, by size class.
        least: minimum cost of each batch size over all workers, by size class.
        columns: by size class and batch size: the seconds on each group, and the relative extra cost there over the
            cheapest group. The columns of a class are computed with `quickest`.
        idle: the idle workers of each group.
        most: the largest batch that any worker takes.
    """

    def __init__(self, deadline_s: float) -> None:
        self._deadline = deadline_s
        self._sizes: dict[SizeKey, SizeEstimate] = {}
        self._prices: Mapping[SizeKey, float] = {}
        self._by_key: dict[tuple[SizeKey, tuple[int, ...]], Group] = {}
        self.workers: dict[Worker, None] = {}
        self.groups: list[Group] = []
        self.quickest, self.least = ByClass(self._compare), ByClass(self._compare)
        self.columns: dict[int, list[tuple[list[float], list[float]]]] = {}
        self.idle: list[list[Worker]] = []
        self._inputs = InputFactors()
        self.coming: tuple[tuple[float, int], ...] = ()
        self.idlers = self.most = 0

    def join(
        self, hello: Hello, seconds: Mapping[int, float], now: float, link: BatchSender | None = None
    ) -> Worker:
        """Add a worker; all its processes are idle."""
        known = dict(hello.seconds or seconds)
        slices = hello.profile.partition("g.")[0]  # compute slices, such as 3 in `3g.40gb`
        key = (
            int(slices) if slices.isdigit() else 0,
            hello.profile,
            hello.processes,
            hello.batch,
            tuple(sorted(known.items())),
        )
        size = self._sizes.get(key)
        if size is None:
            table = table_of(known, hello.batch, self._deadline * _UNKNOWN)
            size = self._sizes[key] = SizeEstimate(table, self._inputs)
        worker = Worker(hello, key, size, Slowdowns(hello.batch), now, link=link)
        self.workers[worker] = None
        self._enter(worker, key)
        self._idle_again(worker)
        return worker

    def leave(self, worker: Worker) -> None:
        """Remove a worker."""
        self.retire(worker)
        self.workers.pop(worker, None)

    def retire(self, worker: Worker) -> None:
        """Start nothing on a worker, until it is restored."""
        group = worker.group
        if group is not None:
            self.rest(worker)
            worker.group = None
            if self._exit(worker, group):
                self.refresh()

    def restore(self, worker: Worker) -> None:
        """Let a retired worker start batches again."""
        if worker.group is None and not worker.draining:
            self._enter(worker, worker.key)
            if worker.takes_work:
                self._idle_again(worker)

    def regroup(self, worker: Worker) -> None:
        """Move a worker to the group of its slowdown."""
        group = worker.group
        if group is not None:
            self.rest(worker)
            emptied = self._exit(worker, group)
            if not self._enter(worker, group.key) and emptied:
                self.refresh()
            if worker.takes_work:
                self._idle_again(worker)

    def _enter(self, worker: Worker, key: SizeKey) -> bool:
        """Put a worker into its group; say whether the group is new."""
        steps = worker.slowdown.steps
        group, new = self._by_key.get((key, steps)), False
        if group is None:
            group, new = Group(key, steps, worker.size, self._compare), True
            self._by_key[key, steps] = group
        group.members[worker] = None
        worker.group = group
        if new:
            self.refresh()
        return new

    def _exit(self, worker: Worker, group: Group) -> bool:
        """Take a worker out of its group; say whether the group is empty now and removed."""
        group.members.pop(worker, None)
        if group.members:
            return False
        del self._by_key[group.key, group.steps]
        return True

    # Idle workers

    def free(self, worker: Worker) -> None:
        """Let one more batch start on a worker."""
        assert worker.group is not None  # noqa: S101 -- callers ask `takes_work`
        worker.group.idle.append(worker)
        self.idlers += 1

    def rest(self, worker: Worker) -> None:
        """Take a worker out of the idle ones."""
        group = worker.group
        if group is not None:
            group.idle[:] = [each for each in group.idle if each is not worker]
            self.idlers = sum(len(each.idle) for each in self.groups)

    def wake(self, worker: Worker) -> None:
        """Let as many batches start on a worker as it has idle processes."""
        self.rest(worker)
        if worker.group is not None and worker.takes_work:
            self._idle_again(worker)

    def take(self, group: Group, avoid: Worker | None = None) -> Worker:
        """Return the worker of a group that became idle last, preferably not `avoid`, and count it as busy."""
        self.idlers -= 1
        if group.idle[-1] is avoid:
            for at in range(len(group.idle) - 2, -1, -1):
                if group.idle[at] is not avoid:
                    return group.idle.pop(at)
        return group.idle.pop()

    def unidle(self, worker: Worker) -> None:
        """Count one process of an idle worker as busy."""
        if worker.group is not None:
            worker.group.idle.remove(worker)
            self.idlers -= 1

    def _idle_again(self, worker: Worker) -> None:
        for _ in range(worker.hello.processes - len(worker.running) - worker.elsewhere):
            self.free(worker)

    # What the workers can answer

    @property
    def able(self) -> int:
        """Number of workers that can answer."""
        return sum(len(group.members) for group in self.groups)

    def others(self, query: PendingQuery, than: Worker, now: float) -> bool:
        """Return whether another worker could answer a query in time if it started it now."""
        return any(
            query.batch <= group.most and now + group.seconds[query.size_class][query.batch] <= query.due
            for group in self.groups
            if any(each is not than for each in group.members)
        )

    def awaited(self, query: PendingQuery, now: float) -> bool:
        """Return whether a worker that is expected back can answer a query in time."""
        batch, latest = query.batch, query.due - self._known(query)
        resting = ((each.back_at, each.hello.batch) for each in self.workers if not each.draining)
        return now <= latest and any(
            at <= latest and batch <= most for known in (self.coming, resting) for at, most in known
        )

    @property
    def most_awaited(self) -> int:
        """The largest batch of the workers, or else of the workers that are expected back."""
        resting = (each.hello.batch for each in self.workers if each.back_at < math.inf and not each.draining)
        return self.most or max((*(most for _, most in self.coming), *resting), default=0)

    def _known(self, query: PendingQuery) -> float:
        """Return the minimum seconds of a query on all present and past workers; 0 if none took its batch size."""
        tables = (size.seconds_of(query.size_class) for size in self._sizes.values())
        return min((table[query.batch] for table in tables if query.batch < len(table)), default=0.0)

    def part_size(self, batch: int, left: float, size_class: int = 0) -> int:
        """Return the rows in which to split a query: the most that a worker takes in time.

        If no worker takes any in time: the most that a worker takes. 0 if no worker is present or expected.

        Args:
            batch: rows of the query.
            left: seconds until its deadline.
            size_class: of its inputs.
        """
        most = min(self.most_awaited, batch)
        quickest = self.quickest[size_class]
        if not self.most or quickest[most] <= left:
            return most
        # A larger batch never takes less.
        low, high = 0, most
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if quickest[middle] <= left else (low, middle)
        return low or most

    def least_seconds(self, batch: int, size: int, size_class: int = 0) -> float:
        """Return a lower bound of the seconds that all workers together need for a query in parts of `size` rows."""
        rate = 0.0
        for group in self.groups:
            rows = min(size, group.most)
            slots = sum(each.hello.processes for each in group.members)
            rate += slots * rows / group.seconds[size_class][rows]
        return batch / rate if rate else 0.0

    # Tables for decisions

    def set_prices(self, prices: Mapping[SizeKey, float]) -> None:
        """Set the price of a second of each size; other sizes get a price by their speed."""
        self._prices = prices
        self.refresh()

    def refresh(self) -> None:
        """Compute the tables again."""
        self.groups = sorted(self._by_key.values(), key=lambda group: (group.key, group.steps))
        self.most = max((len(group.size.seconds) - 1 for group in self.groups), default=0)
        self.idle = [group.idle for group in self.groups]
        self.quickest.clear()
        self.least.clear()
        self.columns.clear()
        for at, group in enumerate(self.groups):
            group.at, group.most = at, len(group.size.seconds) - 1
            group.seconds.clear()
            self._tabulate(group, 0)
        for group in self.groups:
            group.price = self._price(group)
        self._compare(0)

    def _tabulate(self, group: Group, size_class: int) -> None:
        seconds = slowed(group.size.seconds_of(size_class), group.steps)
        group.seconds[size_class] = seconds + [math.inf] * (self.most - group.most)

    def _price(self, group: Group) -> float:
        """Return the group's price, or else its speed with single items relative to the fastest group."""
        return self._prices.get(group.key) or min(
            1.0, min(each.seconds[0][1] for each in self.groups) / group.seconds[0][1]
        )

    def _compare(self, size_class: int) -> None:
        """Compute the tables of a size class."""
        quickest = self.quickest[size_class] = [0.0]
        cheapest = self.least[size_class] = [0.0]
        columns = self.columns[size_class] = [([], [])]
        for group in self.groups:
            if size_class not in group.seconds:
                self._tabulate(group, size_class)
        for batch in range(1, self.most + 1):
            seconds = [group.seconds[size_class][batch] for group in self.groups]
            quickest.append(min(seconds))
            costs = [group.price * own for group, own in zip(self.groups, seconds, strict=True)]
            usable = [cost for cost, own in zip(costs, seconds, strict=True) if own <= self._deadline]
            least = min(usable or costs)
            cheapest.append(least)
            extra = [cost / least - 1.0 if cost < math.inf else math.inf for cost in costs]
            columns.append((seconds, extra))


# Prices of a second of each size: those of the fluid model for the present workers and queries


_DRIFT = 0.2
"""Total variation distance of two distributions of batch sizes above which prices are computed again."""


@dataclass(frozen=True, slots=True)
class PriceQuestion:
    """The input of a computation of prices.

    Attributes:
        sizes: of the workers.
        slots: number of concurrent batches on all workers of each size.
        seconds: of batch sizes 1, 2, ... on each size; inf for batches that are too large for it.
        share: of queries of each batch size, adding up to 1.
        deadline: seconds.
        quantile: share of the queries that must be answered by then.
        classes: largest batch size of each class of batch sizes that must keep it; empty for all queries together.
    """

    sizes: tuple[SizeKey, ...]
    slots: tuple[int, ...]
    seconds: tuple[tuple[float, ...], ...]
    share: tuple[float, ...]
    deadline: float
    quantile: float
    classes: tuple[int, ...] = ()

    def differs(self, other: PriceQuestion | None) -> bool:
        """Return whether the other's prices may differ from these."""
        if other is None or (self.sizes, self.slots) != (other.sizes, other.slots):
            return True
        changes = (abs(a - b) for a, b in zip(self.share, other.share, strict=True))
        return sum(changes) / 2 > _DRIFT


def price_question(
    fleet: Fleet,
    queries: Mapping[int, int],
    deadline: float,
    quantile: float,
    classes: tuple[int, ...] = (),
) -> PriceQuestion | None:
    """Return the input for prices; None if there is only one size, or no queries."""
    slots: dict[SizeKey, int] = {}
    seconds: dict[SizeKey, tuple[float, ...]] = {}
    for group in fleet.groups:
        slots[group.key] = slots.get(group.key, 0) + sum(each.hello.processes for each in group.members)
        own = group.size.seconds[1:]
        seconds[group.key] = (*own, *[float("inf")] * (fleet.most - len(own)))
    counts = _in_parts(queries, fleet.most)
    total = sum(counts)
    if len(slots) < 2 or not total:
        return None
    return PriceQuestion(
        tuple(slots),
        tuple(slots.values()),
        tuple(seconds.values()),
        tuple(count / total for count in counts),
        deadline,
        quantile,
        classes,
    )


def _in_parts(queries: Mapping[int, int], most: int) -> list[int]:
    """Return the number of queries of each batch size from 1 to `most`; larger ones count as parts of `most` rows."""
    counts = [0] * (most + 1)
    for batch, count in queries.items():
        counts[min(batch, most)] += count * max(1, batch // most) if most else 0
        if batch > most and most and batch % most:
            counts[batch % most] += count
    return counts[1:]


def fluid_prices(asked: PriceQuestion) -> dict[SizeKey, float]:
    """Return the prices, the largest 1. It takes milliseconds, so it should run in a thread."""
    # Most gateways need no prices, and without HiGHS they start in a third of the time.
    from partita.serve.fluid import second_prices  # noqa: PLC0415

    flows = _Flows(
        asked.sizes,
        np.array(asked.seconds),
        np.array(asked.share),
        asked.deadline,
        asked.quantile,
        asked.classes,
    )
    prices = second_prices(cast("ServingProblem", flows), np.array(asked.slots)).tolist()
    return dict(zip(asked.sizes, prices, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class _Flows:
    """The part of a `ServingProblem` that the fluid model reads; the sizes may be of several GPU models."""

    profiles: tuple[SizeKey, ...]
    latency: NDArray[np.float64]
    share: NDArray[np.float64]
    deadline: float
    quantile: float
    classes: tuple[int, ...]


# The health of workers: which are slow or failing, and when they are used again


_OVERDUE = 4.0  # a batch is overdue after so many times its estimate
_LEAST_OVERDUE_S = 0.05  # but never sooner, since a short stall of the host is no failure
_HOPELESS = 4.0  # a batch past its deadlines is given up after so many times the overdue time
_FAILURES = 3  # failed batches in a row after which a worker rests
_REST_S = (1.0, 30.0)  # the first rest, and the longest
_TRY_S = (0.25, 30.0)  # between two trials of a size class that is refused: at first, and at most
_FORGET_S = 0.25  # without a batch, after which corrections of a size are dropped
_EVERY_S = 0.02


class WorkerHealth:
    """Corrects estimates, and decides from finished and overdue batches which workers may get more.

    Args:
        fleet: the workers.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._resting: set[Worker] = set()
        self._failures: dict[Worker, int] = {}
        self._next = self._next_estimates = 0.0
        self._trials: dict[int, tuple[float, float]] = {}
        self._lessons: list[tuple[Batch, float, float]] = []

    def done(self, batch: Batch, took: float, now: float, *, good: bool) -> bool:
        """Take note of a batch's end, and free its worker if it takes work.

        Estimates are corrected at the next `tick`, so that the worker gets its next batch first.

        Args:
            batch: that has ended, and is no longer among its worker's running ones.
            took: seconds from start to end.
            now: the current time.
            good: whether the worker failed no query.

        Returns:
            Whether the worker should rest, because it has failed several batches in a row.
        """
        worker = batch.worker
        worker.seen = now
        worker.busy_s += took
        if good:
            self._lessons.append((batch, took, now))
            if self._failures:
                self._failures.pop(worker, None)
        rests = not good and self._fails(worker, now)
        if batch.overdue:
            worker.overdue -= 1
            self._fleet.wake(worker)
        elif worker.takes_work and worker.group is not None:
            self._fleet.free(worker)
        return rests

    def tries(self, query: PendingQuery, now: float) -> bool:
        """Say whether to try a query although its size class seems too slow for its deadline.

        Without such trials, a wrong estimate of the class would never be corrected. From time to time a query is
        tried if the table's seconds are short enough; decisions about it then use the table.
        """
        size_class = query.size_class
        if not size_class or query.due - now < self._fleet.quickest[0][query.batch]:
            return False
        least, most = _TRY_S
        after, pause = self._trials.setdefault(size_class, (now + least, least))
        if now < after:
            return False
        pause = min(2.0 * pause, most)
        self._trials[size_class] = now + pause, pause
        query.try_anyhow()
        return True

    def overdue(self, batches: Iterable[Batch], now: float) -> list[Batch]:
        """Return the batches that have become overdue; empty if called again within `_EVERY_S`."""
        if now < self._next:
            return []
        self._next = now + _EVERY_S
        return [each for each in batches if not each.overdue and now - each.begun > patience(each)]

    @staticmethod
    def hopeless(batches: Iterable[Batch], now: float) -> list[Batch]:
        """Return the batches to be given up, as far as their queries are past their deadlines.

        A late answer of a living worker still counts, so such batches get more time. A batch on a worker without a
        sign of life is given up at its deadline.
        """
        return [
            each
            for each in batches
            if each.overdue
            and not each.stuck
            and (UnreadyReason.SILENT in each.worker.unready or now - each.begun > _HOPELESS * patience(each))
        ]

    def suspect(self, batch: Batch) -> None:
        """Mark a batch as overdue; its worker gets nothing new until it has answered."""
        if not batch.overdue:
            batch.overdue = True
            batch.worker.overdue += 1
            self._fleet.rest(batch.worker)

    def left(self, worker: Worker) -> None:
        """Drop the state of a worker that is gone."""
        self._failures.pop(worker, None)
        self._resting.discard(worker)

    def rested(self, now: float) -> list[Worker]:
        """Return the workers whose rest is over."""
        found = [worker for worker in self._resting if worker.back_at <= now]
        self._resting.difference_update(found)
        return found

    def tick(self, now: float) -> list[Worker]:
        """Correct the estimates and probe slow workers; return the workers that may be idle again."""
        changed = self._learn()
        if now < self._next_estimates:
            return changed
        self._next_estimates = now + _EVERY_S
        slow = [worker for worker in self._fleet.workers if _probed(worker, now)]
        for worker in slow:
            self._fleet.regroup(worker)
        self._apply(now)
        return changed + slow

    def _learn(self) -> list[Worker]:
        """Correct the estimates; return the workers that have moved to another group."""
        changed: dict[Worker, None] = {}
        for batch, took, now in self._lessons:
            if batch.input_class:
                self._learn_of_inputs(batch, took, now, changed)
                continue
            worker = batch.worker
            size = worker.size
            if worker.slowdown.observe(batch.items, took / size.seconds[batch.items], now):
                changed[worker] = None
            size.observe(batch.items, took, worker.slowdown.factor(batch.items), now)
        self._lessons.clear()
        for worker in changed:
            self._fleet.regroup(worker)
        return list(changed)

    def _learn_of_inputs(self, batch: Batch, took: float, now: float, changed: dict[Worker, None]) -> None:
        """Correct the estimate of a size class, and the worker's slowdown if the class was known before."""
        worker, size_class, items = batch.worker, batch.input_class, batch.items
        size = worker.size
        if not batch.trial:
            self._trials.pop(size_class, None)
            ratio = took / size.expected(size_class, items)
            if size.knows(size_class, items) and worker.slowdown.observe(items, ratio, now):
                changed[worker] = None
        size.observe_inputs(size_class, items, took, worker.slowdown.factor(items), now, trial=batch.trial)

    def _fails(self, worker: Worker, now: float) -> bool:
        failures = self._failures[worker] = self._failures.get(worker, 0) + 1
        if failures < _FAILURES or worker in self._resting:
            return False
        least, most = _REST_S
        worker.back_at = now + min(most, least * 2.0 ** (failures - _FAILURES))
        self._resting.add(worker)
        return True

    def _apply(self, now: float) -> None:
        sizes = {id(worker.size): worker.size for worker in self._fleet.workers}.values()
        for size in sizes:
            if now - size.seen > _FORGET_S:
                size.forget()
        if any(size.changed for size in sizes):
            for size in sizes:  # observations of a size class also change the estimates of other sizes
                size.apply()
            self._fleet.refresh()


def _probed(worker: Worker, now: float) -> bool:
    return worker.slowdown.probe(now, (batch.items for batch in worker.running.values()))


def patience(batch: Batch) -> float:
    """Return the seconds after which a batch is overdue."""
    return max(_OVERDUE * batch.expected, _LEAST_OVERDUE_S)
