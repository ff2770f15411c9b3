"""The workers of one service, in groups that take alike long, and what a second of each group is worth."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from partita.serve.gateway.estimates import InputFactors, SizeEstimate, Slowdowns, slowed, table_of
from partita.serve.gateway.waiting import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from partita.serve.gateway.link import Link
    from partita.serve.gateway.waiting import Waiting
    from partita.serve.worker.wire import Hello

SizeKey = tuple[int, str, int, int, tuple[tuple[int, float], ...]]
"""Compute slices, profile, processes, largest batch, table: workers with equal keys should be alike."""
_UNKNOWN = 0.25  # of the deadline: seconds of a batch nobody has measured


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

    def others(self, query: Waiting, than: Worker, now: float) -> bool:
        """Return whether another worker could answer a query in time if it started it now."""
        return any(
            query.batch <= group.most and now + group.seconds[query.size_class][query.batch] <= query.due
            for group in self.groups
            if any(each is not than for each in group.members)
        )

    def awaited(self, query: Waiting, now: float) -> bool:
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

    def _known(self, query: Waiting) -> float:
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
