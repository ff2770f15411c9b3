"""The workers of one service, in groups that take alike long, and what a second of each group is worth."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, cast

from partita.serve.gateway.estimates import InputFactors, SizeEstimate, Slowdowns, slowed, table_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from partita.serve.gateway.link import Link
    from partita.serve.gateway.query import PendingQuery
    from partita.serve.gateway.routers.port import Choice
    from partita.serve.problem import ServingProblem
    from partita.serve.worker.wire import Hello

SizeKey = tuple[int, str, int, int, tuple[tuple[int, float], ...]]
"""Compute slices, profile, processes, largest batch, table: workers with equal keys should be alike."""


_UNKNOWN = 0.25  # of the deadline: seconds of a batch nobody has measured


class UnreadyReason(StrEnum):
    """Why a worker cannot answer now, although it is there."""

    SILENT = "silent"
    """It gives no sign of life."""
    FAULT = "fault"
    """It says itself that it cannot: its server does not answer."""
    STUCK = "stuck"
    """It runs a batch that it should have answered long ago, and whose deadlines have passed."""
    RESTING = "resting"
    """It has failed several batches in a row, and is tried again later."""


class Worker:
    """One worker, on one instance.

    Attributes:
        name: as `node-0/gpu-3/3g.40gb@4`.
        hello: what it said it is.
        link: what the runtime reaches it through.
        key: of its size.
        size: what is known of workers like it.
        slowdown: how it compares with them.
        group: of workers that take as long.
        running: its batches by number.
        bound: queries that wait for this very worker, where the router binds early.
        bound_s: seconds that those will take.
        draining: whether it takes nothing new.
        aside: why it cannot answer now; empty if it can.
        back_at: when it is tried again, where it rests.
        overdue: batches of it that take far longer than they should.
        seen: when it last answered.
        busy_s: seconds of work, over all its processes.
        answered: queries.
    """

    __slots__ = (
        "answered", "aside", "back_at", "bound", "bound_s", "busy_s", "draining", "group", "hello", "key", "link",
        "name", "overdue", "running", "seen", "size", "slowdown",
    )  # fmt: skip

    def __init__(
        self,
        hello: Hello,
        key: SizeKey,
        size: SizeEstimate,
        slowdown: Slowdowns,
        now: float,
        *,
        link: Link | None = None,
    ) -> None:
        self.name = f"{hello.gpu}/{hello.placement}"
        self.hello, self.key, self.link, self.size, self.slowdown = hello, key, link, size, slowdown
        self.group: Group | None = None
        self.running: dict[int, Batch] = {}
        self.bound: deque[PendingQuery] = deque()
        self.bound_s, self.busy_s, self.seen = 0.0, 0.0, now
        self.draining, self.overdue, self.answered = False, 0, 0
        self.aside: set[UnreadyReason] = set()
        self.back_at = math.inf

    @property
    def takes_work(self) -> bool:
        """Whether it may start another batch."""
        return (
            not self.draining
            and not self.overdue
            and not self.aside
            and len(self.running) < self.hello.processes
        )


class Batch:
    """What a worker runs: queries side by side.

    Attributes:
        number: unlike that of every other batch of the dispatcher.
        worker: that runs it.
        queries: in it; None in the place of one that is waited for no longer.
        items: their batch sizes added up.
        begun: moment of its start.
        input_class: of its queries.
        trial: whether it is judged by another class.
        due: latest moment at which one of its queries is of use.
        expected: seconds it should take.
        overdue: whether it has taken far longer.
        stuck: whether nobody waits for it any more.
    """

    __slots__ = (
        "begun", "due", "expected", "input_class", "items", "number", "overdue", "queries", "stuck", "trial",
        "worker",
    )  # fmt: skip

    def __init__(self, number: int, choice: Choice, begun: float) -> None:
        worker, queries, items, expected = choice
        self.number, self.worker, self.items = number, worker, items
        self.queries: list[PendingQuery | None] = list(queries)
        self.begun, self.expected = begun, expected
        self.due = max(query.due for query in queries)
        self.input_class = queries[0].input_class
        self.trial = queries[0].size_class != self.input_class
        self.overdue = self.stuck = False


class Group:
    """Workers of one size and one slowdown.

    Attributes:
        key: of their size.
        steps: of their slowdowns, by band of batch sizes.
        size: what is known of them.
        members: the workers in it, in the order of their coming.
        idle: one entry per batch that could start now; the last is taken first.
        seconds: of a batch, by size class and batch size.
        price: what a second is worth; the dearest size's is about 1.
        extra: by how much a query costs more here than where it is cheapest, by size class and batch size.
    """

    __slots__ = ("extra", "idle", "key", "members", "most", "price", "seconds", "size", "steps")

    def __init__(
        self, key: SizeKey, steps: tuple[int, ...], size: SizeEstimate, make: Callable[[int], None]
    ) -> None:
        self.key, self.steps, self.size = key, steps, size
        self.members: dict[Worker, None] = {}
        self.idle: list[Worker] = []
        self.price = 1.0
        self.seconds, self.extra = ByClass(make), ByClass(make)
        self.most = 0


class ByClass(dict[int, list[float]]):
    """Figures by batch size for each size class of inputs, made when a class is first asked for.

    Args:
        make: makes those of a class.
    """

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[int], None]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, size_class: int) -> list[float]:
        """Make the figures of a class."""
        self._make(size_class)
        return self[size_class]


class Fleet:
    """The workers, their groups, and tables for decisions, made anew only when something changes.

    Attributes:
        groups: from small slices to large, slower ones after their like.
        idlers: how many batches could start now.
        coming: when workers that are not there now should be able to answer, with the largest batch of each.
        quickest: least seconds of each batch size on any worker, by size class.
        least: least cost of each batch size on any worker, by size class.
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
        self._inputs = InputFactors()
        self.coming: tuple[tuple[float, int], ...] = ()
        self.idlers = self.most = 0

    def join(
        self, hello: Hello, seconds: Mapping[int, float], now: float, link: Link | None = None
    ) -> Worker:
        """Add a worker; all its processes are idle."""
        known = dict(hello.seconds or seconds)
        key = (
            _compute(hello.profile),
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

    def rest(self, worker: Worker) -> None:
        """Take a worker out of the idle ones."""
        group = worker.group
        if group is not None:
            group.idle[:] = [each for each in group.idle if each is not worker]
            self.idlers = sum(len(each.idle) for each in self.groups)

    def free(self, worker: Worker) -> None:
        """One more batch may start on a worker."""
        assert worker.group is not None  # noqa: S101 -- callers ask `takes_work`
        worker.group.idle.append(worker)
        self.idlers += 1

    def wake(self, worker: Worker) -> None:
        """As many batches may start on a worker again as it has idle processes."""
        self.rest(worker)
        if worker.group is not None and worker.takes_work:
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

    def set_prices(self, prices: Mapping[SizeKey, float]) -> None:
        """Set what a second of each size is worth; sizes left out are worth what they can do."""
        self._prices = prices
        self.refresh()

    def refresh(self) -> None:
        """Make the tables anew."""
        self.groups = sorted(self._by_key.values(), key=lambda group: (group.key, group.steps))
        self.most = max((len(group.size.seconds) - 1 for group in self.groups), default=0)
        self.quickest.clear()
        self.least.clear()
        for group in self.groups:
            group.most = len(group.size.seconds) - 1
            group.seconds.clear()
            group.extra.clear()
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
        for group in self.groups:
            if size_class not in group.seconds:
                self._tabulate(group, size_class)
            group.extra[size_class] = [0.0]
        for batch in range(1, self.most + 1):
            seconds = [group.seconds[size_class][batch] for group in self.groups]
            quickest.append(min(seconds))
            costs = [group.price * own for group, own in zip(self.groups, seconds, strict=True)]
            usable = [cost for cost, own in zip(costs, seconds, strict=True) if own <= self._deadline]
            least = min(usable or costs)
            cheapest.append(least)
            for group, cost in zip(self.groups, costs, strict=True):
                group.extra[size_class].append(cost / least - 1.0 if cost < math.inf else math.inf)

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

    def _idle_again(self, worker: Worker) -> None:
        for _ in range(worker.hello.processes - len(worker.running)):
            self.free(worker)


def _compute(profile: str) -> int:
    """Return the compute slices in a profile's name, as 3 of `3g.40gb`; 0 where it is no MIG profile."""
    slices = profile.partition("g.")[0]
    return int(slices) if slices.isdigit() else 0


def part_size(fleet: Fleet, batch: int, left: float, size_class: int = 0) -> int:
    """Return the rows that a query of a batch size is run in at a time: all of them if a worker takes them in time.

    Else as many as one does, and where none does, as the largest batch has; 0 if no worker is there or awaited.

    Args:
        fleet: the workers.
        batch: rows of the query.
        left: seconds that it has.
        size_class: of its inputs.
    """
    most = min(fleet.most_awaited, batch)
    quickest = fleet.quickest[size_class]
    if not fleet.most or quickest[most] <= left:
        return most
    # A larger batch never takes less.
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if quickest[middle] <= left else (low, middle)
    return low or most


def least_seconds(fleet: Fleet, batch: int, size: int, size_class: int = 0) -> float:
    """Return the seconds that all workers need at least for a query in parts of so many rows; 0 without workers."""
    rate = 0.0
    for group in fleet.groups:
        rows = min(size, group.most)
        slots = sum(each.hello.processes for each in group.members)
        rate += slots * rows / group.seconds[size_class][rows]
    return batch / rate if rate else 0.0


_DRIFT = 0.2
"""Half the sum of differences between two distributions of batch sizes above which prices are made anew."""


@dataclass(frozen=True, slots=True)
class PriceQuestion:
    """What prices depend on.

    Attributes:
        sizes: of the workers.
        slots: batches that run side by side on all workers of each size.
        seconds: of batch sizes 1, 2, ... on each size, inf where it takes none such.
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


@dataclass(frozen=True, slots=True, eq=False)
class _Flows:
    """What the fluid model reads of a problem; the sizes may be of several models of GPU."""

    profiles: tuple[SizeKey, ...]
    latency: NDArray[np.float64]
    share: NDArray[np.float64]
    deadline: float
    quantile: float


def fluid_prices(asked: PriceQuestion) -> dict[SizeKey, float]:
    """Return the prices, the dearest 1. Takes milliseconds, and long imports at first: for a thread."""
    import numpy as np  # noqa: PLC0415 -- the gateway starts without waiting for it

    from partita.serve.fluid import second_prices  # noqa: PLC0415 -- likewise

    flows = _Flows(
        asked.sizes, np.array(asked.seconds), np.array(asked.share), asked.deadline, asked.quantile
    )
    prices = second_prices(cast("ServingProblem", flows), np.array(asked.slots)).tolist()
    return dict(zip(asked.sizes, prices, strict=True))
