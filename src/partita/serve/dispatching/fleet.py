"""The workers of one service: groups that take alike long, what a second of each is worth, and who can be trusted."""

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


_UNKNOWN = 0.25  # of the deadline: seconds of a batch nobody has measured


class Fleet:
    """The workers, their groups, and tables for decisions, made anew only when something changes.

    Attributes:
        groups: from small slices to large, slower ones after their like.
        idlers: how many batches could start now.
        coming: when workers that are not there now should be able to answer, with the largest batch of each.
        quickest: least seconds of each batch size on any worker, by size class.
        least: least cost of each batch size on any worker, by size class.
        columns: by size class and batch size: the seconds on each group, and by how much it costs more there than
            where it is cheapest; those of a class are made with `quickest`.
        idle: the idle workers of each group.
        most: the largest batch that some worker takes.
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
        slices = hello.profile.partition("g.")[0]  # of compute, as 3 of `3g.40gb`
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
        """Forget a worker."""
        self.retire(worker)
        self.workers.pop(worker, None)

    def retire(self, worker: Worker) -> None:
        """Give a worker nothing new, ever or until it is restored."""
        group = worker.group
        if group is not None:
            self.rest(worker)
            worker.group = None
            if self._exit(worker, group):
                self.refresh()

    def restore(self, worker: Worker) -> None:
        """Let a worker that was retired start batches again."""
        if worker.group is None and not worker.draining:
            self._enter(worker, worker.key)
            if worker.takes_work:
                self._idle_again(worker)

    def regroup(self, worker: Worker) -> None:
        """Put a worker where its slowdown belongs."""
        group = worker.group
        if group is not None:
            self.rest(worker)
            emptied = self._exit(worker, group)
            if not self._enter(worker, group.key) and emptied:
                self.refresh()
            if worker.takes_work:
                self._idle_again(worker)

    def _enter(self, worker: Worker, key: SizeKey) -> bool:
        """Put a worker into its group; say whether that is a new one."""
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
        """Take a worker out of its group; say whether that is gone now."""
        group.members.pop(worker, None)
        if group.members:
            return False
        del self._by_key[group.key, group.steps]
        return True

    # Which of them could start a batch.

    def free(self, worker: Worker) -> None:
        """One more batch may start on a worker."""
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
        """As many batches may start on a worker again as it has idle processes."""
        self.rest(worker)
        if worker.group is not None and worker.takes_work:
            self._idle_again(worker)

    def take(self, group: Group, avoid: Worker | None = None) -> Worker:
        """Return the idle worker of a group that was idle last, and count it busy."""
        self.idlers -= 1
        if group.idle[-1] is avoid:
            for at in range(len(group.idle) - 2, -1, -1):
                if group.idle[at] is not avoid:
                    return group.idle.pop(at)
        return group.idle.pop()

    def unidle(self, worker: Worker) -> None:
        """Count one process of an idle worker busy."""
        if worker.group is not None:
            worker.group.idle.remove(worker)
            self.idlers -= 1

    def _idle_again(self, worker: Worker) -> None:
        for _ in range(worker.hello.processes - len(worker.running) - worker.elsewhere):
            self.free(worker)

    # What they could answer.

    @property
    def able(self) -> int:
        """How many workers can answer."""
        return sum(len(group.members) for group in self.groups)

    def others(self, query: PendingQuery, than: Worker, now: float) -> bool:
        """Return whether another worker could answer a query in time if it started it now."""
        return any(
            query.batch <= group.most and now + group.seconds[query.size_class][query.batch] <= query.due
            for group in self.groups
            if any(each is not than for each in group.members)
        )

    def awaited(self, query: PendingQuery, now: float) -> bool:
        """Return whether a worker that takes a query's batch size should be able to answer it in time, soon."""
        batch, latest = query.batch, query.due - self._known(query)
        resting = ((each.back_at, each.hello.batch) for each in self.workers if not each.draining)
        return now <= latest and any(
            at <= latest and batch <= most for known in (self.coming, resting) for at, most in known
        )

    @property
    def most_awaited(self) -> int:
        """The largest batch of workers that are there, or else should be soon."""
        resting = (each.hello.batch for each in self.workers if each.back_at < math.inf and not each.draining)
        return self.most or max((*(most for _, most in self.coming), *resting), default=0)

    def _known(self, query: PendingQuery) -> float:
        """Return the least seconds of a query on workers that are there or were; 0 where none took it."""
        tables = (size.seconds_of(query.size_class) for size in self._sizes.values())
        return min((table[query.batch] for table in tables if query.batch < len(table)), default=0.0)

    def part_size(self, batch: int, left: float, size_class: int = 0) -> int:
        """Return the rows of a query that are run at a time: all of them if a worker takes them in time.

        Else as many as one does, and where none does, as the largest batch has; 0 if no worker is there or awaited.

        Args:
            batch: rows of the query.
            left: seconds that it has.
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
        """Return the seconds that all workers need at least for a query in parts of so many rows; 0 without any."""
        rate = 0.0
        for group in self.groups:
            rows = min(size, group.most)
            slots = sum(each.hello.processes for each in group.members)
            rate += slots * rows / group.seconds[size_class][rows]
        return batch / rate if rate else 0.0

    # Tables for decisions.

    def set_prices(self, prices: Mapping[SizeKey, float]) -> None:
        """Set what a second of each size is worth; sizes left out are worth what they can do."""
        self._prices = prices
        self.refresh()

    def refresh(self) -> None:
        """Make the tables anew."""
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
        """Return the price set, or the worth of what a second does if every worker ran single items."""
        return self._prices.get(group.key) or min(
            1.0, min(each.seconds[0][1] for each in self.groups) / group.seconds[0][1]
        )

    def _compare(self, size_class: int) -> None:
        """Make the tables of a size class."""
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


# What a second of each size is worth: the fluid prices for the workers there are and the queries that come.


_DRIFT = 0.2
"""Half the sum of differences between two distributions of batch sizes above which prices are made anew."""


@dataclass(frozen=True, slots=True)
class PriceQuestion:
    """What prices depend on.

    Attributes:
        sizes: of the workers.
        slots: batches that run side by side on all workers of each size.
        seconds: of batch sizes 1, 2, ... on each size, inf for batches that are too large for it.
        share: of queries of each batch size, adding up to 1.
        deadline: seconds.
        quantile: share of the queries that must be answered by then.
    """

    sizes: tuple[SizeKey, ...]
    slots: tuple[int, ...]
    seconds: tuple[tuple[float, ...], ...]
    share: tuple[float, ...]
    deadline: float
    quantile: float

    def differs(self, other: PriceQuestion | None) -> bool:
        """Return whether the other's prices may be unlike these."""
        if other is None or (self.sizes, self.slots) != (other.sizes, other.slots):
            return True
        changes = (abs(a - b) for a, b in zip(self.share, other.share, strict=True))
        return sum(changes) / 2 > _DRIFT


def price_question(
    fleet: Fleet, queries: Mapping[int, int], deadline: float, quantile: float
) -> PriceQuestion | None:
    """Return what to ask; None where there is nothing to choose between."""
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
    )


def _in_parts(queries: Mapping[int, int], most: int) -> list[int]:
    """Return how many queries have each batch size from 1 to `most`; larger ones are run in parts of so many rows."""
    counts = [0] * (most + 1)
    for batch, count in queries.items():
        counts[min(batch, most)] += count * max(1, batch // most) if most else 0
        if batch > most and most and batch % most:
            counts[batch % most] += count
    return counts[1:]


def fluid_prices(asked: PriceQuestion) -> dict[SizeKey, float]:
    """Return the prices, the dearest 1. Takes milliseconds: for a thread."""
    # Most gateways ask for no prices: they start without HiGHS, in a third of the time.
    from partita.serve.fluid import second_prices  # noqa: PLC0415

    flows = _Flows(
        asked.sizes, np.array(asked.seconds), np.array(asked.share), asked.deadline, asked.quantile
    )
    prices = second_prices(cast("ServingProblem", flows), np.array(asked.slots)).tolist()
    return dict(zip(asked.sizes, prices, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class _Flows:
    """What the fluid model reads of a problem; the sizes may be of several models of GPU."""

    profiles: tuple[SizeKey, ...]
    latency: NDArray[np.float64]
    share: NDArray[np.float64]
    deadline: float
    quantile: float


# Workers that are slow or failing: what is expected of each, and when it is trusted again.


_OVERDUE = 4.0  # times its estimate: then a batch is overdue
_LEAST_OVERDUE_S = 0.05  # but never sooner: a host that is out of breath is no failure
_HOPELESS = 4.0  # times as long, and its deadlines past: then nobody waits for it any more
_FAILURES = 3  # failed batches in a row: then a worker rests
_REST_S = (1.0, 30.0)
_TRY_S = (0.25, 30.0)  # between two queries of a size class that is refused: the first time, and at most
_FORGET_S = 0.25  # without a batch: then corrections of a size are forgotten
_EVERY_S = 0.02


class WorkerHealth:
    """Corrects estimates, and judges by batches which workers can be given more.

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
        """Count a batch's end, and let its worker be idle if nothing speaks against it.

        What it teaches waits for the next `tick`: first the worker gets something to do.

        Args:
            batch: that ended, and is no longer among its worker's.
            took: seconds from start to end.
            now: the moment.
            good: whether the worker did not fail any query.

        Returns:
            Whether the worker should rest: it fails all it gets.
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

        Else nothing more would be learned of the class. One is, now and then, if the table says that it is quick
        enough; it is then judged by the table.
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
        """Return the batches that should have been answered long ago; none if it was asked just now."""
        if now < self._next:
            return []
        self._next = now + _EVERY_S
        return [each for each in batches if not each.overdue and now - each.begun > patience(each)]

    @staticmethod
    def hopeless(batches: Iterable[Batch], now: float) -> list[Batch]:
        """Return the batches that nobody should wait for, as far as their queries are past their deadlines.

        A worker that is alive may take longer than it should: what it answers late is still an answer. One that
        gives no sign of life is waited for until the deadline alone.
        """
        return [
            each
            for each in batches
            if each.overdue
            and not each.stuck
            and (UnreadyReason.SILENT in each.worker.unready or now - each.begun > _HOPELESS * patience(each))
        ]

    def suspect(self, batch: Batch) -> None:
        """Give a batch's worker nothing new until it has answered."""
        if not batch.overdue:
            batch.overdue = True
            batch.worker.overdue += 1
            self._fleet.rest(batch.worker)

    def left(self, worker: Worker) -> None:
        """Forget a worker that is gone."""
        self._failures.pop(worker, None)
        self._resting.discard(worker)

    def rested(self, now: float) -> list[Worker]:
        """Return the workers that have rested for long enough."""
        found = [worker for worker in self._resting if worker.back_at <= now]
        self._resting.difference_update(found)
        return found

    def tick(self, now: float) -> list[Worker]:
        """Correct the tables and give second chances; return the workers that may be idle again."""
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
        """Correct the estimates; return the workers that now belong into another group."""
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
        """Correct what is known of a size class of inputs, and of the worker if enough was known before."""
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
            for size in sizes:  # what one has seen of a size class counts for others too
                size.apply()
            self._fleet.refresh()


def _probed(worker: Worker, now: float) -> bool:
    return worker.slowdown.probe(now, (batch.items for batch in worker.running.values()))


def patience(batch: Batch) -> float:
    """Return the seconds after which a batch is overdue."""
    return max(_OVERDUE * batch.expected, _LEAST_OVERDUE_S)
