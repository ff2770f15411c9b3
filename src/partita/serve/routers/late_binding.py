"""Late binding: a query waits in one queue until a slice that suits it is idle. The default router.

`cheapest` is the policy. The gateway asks it for each kind of query that waits (`LateBinding._best`), and the
simulation for each batch size (`_choose`), compiled. Where deadlines are equal and nothing is joined, the two decide
alike.

Where each class of batch sizes must keep the quantile, classes have accounts: how many more queries of a class have
been missed than may be, at least none. The class with the largest account is the worst off; by how much less another
one has is its *lead*. A lead puts queries behind others, and keeps them off slices that are dear for them.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

from partita.serve.dispatching.port import Choice
from partita.serve.dispatching.query import QUEUED
from partita.serve.routers.compiling import compiled, drop_first, push
from partita.serve.routers.shared import SharedQueue

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from partita.serve.dispatching.fleet import Fleet
    from partita.serve.dispatching.port import Rules
    from partita.serve.dispatching.query import Group, PendingQuery, Worker
    from partita.serve.problem import Serve, ServingOutcome, ServingProblem
    from partita.sim.traffic import Traffic

_TICK = 1e-9
_KEPT = 1.0 - 2e-5
"""Part of an account that is left after another query has come, so that a class without queries is forgotten."""
_MOST = 100.0
"""Missed queries that an account holds at most."""
_FAIRNESS = 0.2
"""What a lead of one query adds to a score."""
_FAIR_COST = 8.0
"""A query does not start where its lead x its cost over that on its cheapest size exceeds this."""


def comes(account: list[float] | NDArray[np.float64], own: int, may_miss: float) -> None:
    """Take note in the accounts that a query of class `own` has come, of which the share `may_miss` may be missed."""
    for each in range(len(account)):
        account[each] *= _KEPT
    account[own] = max(account[own] - may_miss, 0.0)


def misses(account: list[float] | NDArray[np.float64], own: int) -> None:
    """Take note in the accounts that a query of class `own` is missed."""
    account[own] = min(account[own] + 1.0, _MOST)


def lead_of(account: Sequence[float] | NDArray[np.float64], own: int) -> float:
    """Return by how many queries class `own` is better off than the class that is worst off."""
    return max(account) - account[own]


def cheapest(  # noqa: PLR0917 -- compiled code takes no keywords
    seconds: Sequence[float] | NDArray[np.float64],
    extra: Sequence[float] | NDArray[np.float64],
    idle: Sequence[Any] | NDArray[np.int64],
    sizes: range,
    left: float,
    hurry: float,
    lead: float,
    least: float,
) -> tuple[float, int]:
    """Return the least score of a query on a size, and that size, -1 if no score is below `least`.

    Its score on a size is

        (what it costs there / what it costs on its cheapest size) - 1 + (its time left / its time on arrival).

    So the cheapest size takes it, and of several queries the one whose deadline is near goes first. The time left is
    that to its deadline. Where each class of batch sizes counts it is its slack instead, the time that it can still
    wait for its quickest size: that puts large queries, which have little of it, before small ones that came as
    early. In a burst, when not all can be in time, fewer are in time for that. Where each class counts, `_FAIRNESS` x
    its class's lead is added, too; and a size that is not its cheapest takes it only as long as the lead x its cost
    ratio there is at most `_FAIR_COST`. So classes that are well off leave the slices that others need to those.

    Args:
        seconds: that the query takes on each size, infinite where it cannot run.
        extra: the first part of its score on each size.
        idle: of each size, something that is true while an instance is idle.
        sizes: that may take it.
        left: seconds until its deadline.
        hurry: the second part of its score.
        lead: of its class.
        least: score that counts as found already.
    """
    best = -1
    hurry += _FAIRNESS * lead
    for size in sizes:
        if (
            idle[size]
            and seconds[size] <= left
            and (extra[size] <= 0.0 or lead * (1.0 + extra[size]) <= _FAIR_COST)
        ):
            score = extra[size] + hurry
            if score < least:
                least, best = score, size
    return least, best


class LateBinding(SharedQueue):
    """Gives each query to a slice only when it starts: it pairs the first query of each kind with idle workers.

    A query that arrives while workers are idle starts on the best of them that meets its deadline, or else waits. A
    worker that becomes idle takes the best of the first queries of each kind. In simulations all queries of one batch
    size have one deadline after arrival, so the first is the oldest. What no size can answer in time any more is
    refused, and takes nobody's time. A query that leaves a slice to other classes is looked at again when a slice of
    that size becomes idle, after any start, and at the next tick.

    Args:
        fleet: the workers.
        rules: that hold for all routers.
    """

    def __init__(self, fleet: Fleet, rules: Rules) -> None:
        super().__init__(fleet, rules)
        self._kinds: Sequence[int] | None = None
        self._group: Group | None = None
        self._account = [0.0] * len(rules.classes)

    def put(self, query: PendingQuery, now: float) -> bool:
        """Let a query wait; False if it would wait too long."""
        query.weight = self._weight(query)
        self._kinds, self._group = (query.kind,), None
        if self._account and not query.tries:
            comes(self._account, self._class_of(query), self._rules.may_miss)
        waits = super().put(query, now)
        if self._account and not waits:
            misses(self._account, self._class_of(query))
        return waits

    def _class_of(self, query: PendingQuery) -> int:
        """Return the class of a query's batch size; one larger than any class belongs to the last."""
        return min(bisect_left(self._rules.classes, query.batch), len(self._account) - 1)

    def _head(self, kind: int, now: float) -> PendingQuery | None:
        dropped = len(self.dropped)
        head = super()._head(kind, now)
        if self._account:
            for query in self.dropped[dropped:]:
                misses(self._account, self._class_of(query))
        return head

    def freed(self, worker: Worker) -> None:
        """Look at this worker's group alone: what waits does not suit the workers that were idle before."""
        self._kinds, self._group = None, worker.group

    def expire(self, now: float) -> None:
        """Drop what can no longer be answered in time."""
        self._kinds = self._group = None
        for kind in list(self._queues.kinds):
            self._head(kind, now)

    def next(self, now: float) -> Choice | None:
        """Return a batch to start now, None if there is none."""
        while self._queues.waiting and self._fleet.idlers:
            dropped = len(self.dropped)
            best = self._best(now)
            self._kinds = self._group = None  # another query is now the first of its kind
            if best is not None and (choice := self._start(*best, now)) is not None:
                return choice
            if len(self.dropped) == dropped:
                return None
        return None

    def _weight(self, query: PendingQuery) -> float:
        fleet, runs = self._fleet, 0.0
        if self._account and query.batch <= fleet.most:
            runs = fleet.quickest[query.size_class][query.batch]
        return 1.0 / max(query.allowed - runs, _TICK)

    def _best(self, now: float) -> tuple[PendingQuery, Group] | None:
        fleet, only, heaps = self._fleet, self._group, self._queues.heaps
        groups, quickest, columns = fleet.groups, fleet.quickest, fleet.columns
        everywhere, most = fleet.idle, fleet.most
        sizes = range(len(groups)) if only is None else range(only.at, only.at + 1)
        least, best = math.inf, None
        for kind in self._kinds or list(self._queues.kinds):
            heap = heaps[kind]
            query = heap[0][2] if heap else self._head(kind, now)
            if query is None or query.batch > most:
                continue
            batch, size_class = query.batch, query.size_class
            needed = quickest[size_class][batch]
            if query.due - now < needed or query.state != QUEUED:
                query = self._head(kind, now)
                if query is None:
                    continue
            left = query.due - now
            seconds, extra = columns[size_class][batch]
            idle = everywhere if query.avoid is None else self._idle_for(query)
            hurry, lead = query.weight * left, 0.0
            if self._account:
                hurry, lead = query.weight * (left - needed), lead_of(self._account, self._class_of(query))
            least, size = cheapest(seconds, extra, idle, sizes, left, hurry, lead, least)
            if size >= 0:
                best = query, groups[size]
        return best

    def _start(self, query: PendingQuery, group: Group, now: float) -> Choice | None:
        if self._rules.batching:
            relieved = self._relieved(query, group, now)
            if relieved is None:
                return None
            query = relieved
        self._queues.pop(query.kind)
        worker = self._fleet.take(group, query.avoid)
        queries = [query]
        items = self._join(group, queries, now) if self._rules.batching else query.batch
        for each in queries:
            self._started(each, now)
        return Choice(worker, queries, items, group.seconds[query.size_class][items])

    def _idle_for(self, query: PendingQuery) -> list[bool]:
        """Return which groups have an idle worker other than the one that failed a query, if there is any other."""
        avoid, alone = query.avoid, self._fleet.able == 1
        return [any(alone or each is not avoid for each in group.idle) for group in self._fleet.groups]

    @classmethod
    def on(cls, problem: ServingProblem, counts: NDArray[np.int64]) -> Serve:
        """Return what serves queries on these instances in simulation."""
        import numpy as np  # noqa: PLC0415 -- the gateway starts without it

        from partita.serve.fluid import second_prices  # noqa: PLC0415 -- likewise
        from partita.serve.problem import REFUSED, TICK, ServingOutcome  # noqa: PLC0415 -- likewise

        latency = np.where((counts > 0)[:, None], problem.feasible, np.inf)
        cost = second_prices(problem, counts)[:, None] * latency
        least = cost.min(axis=0)
        least[~np.isfinite(least)] = 1.0  # no size can answer it
        quickest, deadline = latency.min(axis=0), problem.deadline + TICK
        runs = quickest if problem.classes else np.zeros(len(quickest))
        tables = _Tables(
            np.ascontiguousarray(latency.T),
            np.ascontiguousarray((cost / least - 1.0).T),
            quickest,
            runs,
            1.0 / (deadline - runs),
            deadline,
            problem.class_of,
            1.0 - problem.quantile,
        )
        total, batches = int(counts.sum()), latency.shape[1]
        size_of = np.repeat(np.arange(len(counts)), counts)
        stacks = np.zeros((len(counts), total), dtype=np.int64)
        for size, n in enumerate(counts.tolist()):
            stacks[size, :n] = np.flatnonzero(size_of == size)[::-1]  # the first on top
        run = compiled(_late_binding, inline=True)

        def serve(traffic: Traffic) -> ServingOutcome:
            by_batch = np.argsort(traffic.batch.astype(np.int16), kind="stable")  # a radix sort: linear time
            head = np.searchsorted(traffic.batch[by_batch], np.arange(batches) + 1)
            queues = _Queues(by_batch, head, head.copy(), np.full(batches, np.inf))
            end_at, end_of = np.empty(total), np.empty(total, dtype=np.int64)
            instances = _Instances(size_of, stacks.copy(), counts.copy(), end_at, end_of)
            took = np.full(len(traffic), np.inf)
            by = np.full(len(traffic), REFUSED, dtype=np.int16)
            account = np.zeros(len(problem.classes))
            run(traffic.arrival, traffic.batch, tables, queues, instances, account, took, by)
            return ServingOutcome(took, by)

        return serve


class _Tables(NamedTuple):
    """What decides.

    Seconds and relative extra cost of batch b on size k at [b - 1, k], shape (B, K); of each batch size the least
    seconds, those that are no time left, and the weight of a second that is, shape (B,); seconds from arrival to the
    latest answer; the class of each batch size, shape (B,), and the share of its queries that may be missed.
    """

    latency: NDArray[np.float64]
    extra: NDArray[np.float64]
    quickest: NDArray[np.float64]
    runs: NDArray[np.float64]
    weight: NDArray[np.float64]
    deadline: float
    class_of: NDArray[np.int64]
    may_miss: float


class _Queues(NamedTuple):
    """The queries that wait with batch size b are by_batch[head[b]:tail[b]].

    The first is the oldest; oldest[b] is when it arrived, inf if there is none.
    """

    by_batch: NDArray[np.int64]
    head: NDArray[np.int64]
    tail: NDArray[np.int64]
    oldest: NDArray[np.float64]


class _Instances(NamedTuple):
    """Of each instance its size; of each size a stack of idle instances, and how many; a heap of ends and whose."""

    size_of: NDArray[np.int64]
    stacks: NDArray[np.int64]
    idle: NDArray[np.int64]
    end_at: NDArray[np.float64]
    end_of: NDArray[np.int64]


def _late_binding(  # noqa: PLR0917 -- as above
    arrival: NDArray[np.float64],
    batch: NDArray[np.int64],
    tables: _Tables,
    queues: _Queues,
    instances: _Instances,
    account: NDArray[np.float64],
    took: NDArray[np.float64],
    by: NDArray[np.int16],
) -> None:
    """Simulate, from one arrival or end of a query to the next; fill in who took each, and for how long."""
    size_of, stacks, idle, end_at, end_of = instances
    batches, sizes = tables.latency.shape
    running = waiting = arrived = 0
    while arrived < len(arrival) or running > 0:
        if running > 0 and (arrived == len(arrival) or end_at[0] <= arrival[arrived]):
            now, p = end_at[0], end_of[0]
            running -= 1
            drop_first(end_at, end_of, running)
            k = size_of[p]
            stacks[k, idle[k]] = p
            idle[k] += 1
            choice = (k, k + 1, 0, batches)
        else:
            now, b = arrival[arrived], batch[arrived] - 1
            if queues.head[b] == queues.tail[b]:
                queues.oldest[b] = now
            queues.tail[b] += 1
            if (
                len(account) > 0 and tables.quickest[b] < math.inf
            ):  # what nothing could answer is in no account
                comes(account, tables.class_of[b], tables.may_miss)
            waiting += 1
            arrived += 1
            choice = (0, sizes, b, b + 1)
        while waiting > 0 and running < len(size_of):
            size, b, dropped = _choose(now, arrival, tables, queues, idle, account, choice)
            waiting -= dropped
            if size >= 0:
                q = queues.by_batch[queues.head[b]]
                _pop(queues, b, arrival)
                waiting -= 1
                idle[size] -= 1
                by[q] = stacks[size, idle[size]]
                end = now + tables.latency[b, size]
                took[q] = end - arrival[q]
                push(end_at, end_of, running, (end, by[q]))
                running += 1
            elif dropped == 0:
                break
            choice = (0, sizes, 0, batches)  # another query is now the oldest of its batch size


def _choose(  # noqa: PLR0917 -- as above
    now: float,
    arrival: NDArray[np.float64],
    tables: _Tables,
    queues: _Queues,
    idle: NDArray[np.int64],
    account: NDArray[np.float64],
    choice: tuple[int, int, int, int],
) -> tuple[int, int, int]:
    """Return the size and the queue that fit best, size -1 if none does, and how many queries came too late.

    Args:
        now: seconds.
        arrival: of all queries.
        tables: what decides.
        queues: what waits; queries that no size can answer in time are dropped from the heads.
        idle: idle instances of each size.
        account: of the classes of batch sizes; empty where all queries count together.
        choice: sizes from, to, and batch sizes from, to, the ends excluded.
    """
    from_size, to_size, from_batch, to_batch = choice
    sizes = range(from_size, to_size)
    least, dropped = math.inf, 0
    size = queue = -1
    for b in range(from_batch, to_batch):
        quickest = tables.quickest[b]
        while queues.oldest[b] + tables.deadline - now < quickest:
            _pop(queues, b, arrival)
            dropped += 1
            if len(account) > 0 and quickest < math.inf:
                misses(account, tables.class_of[b])
        if queues.oldest[b] == math.inf:
            continue
        left = queues.oldest[b] + tables.deadline - now
        hurry = tables.weight[b] * (left - tables.runs[b])
        lead = lead_of(account, tables.class_of[b]) if len(account) > 0 else 0.0
        least, found = cheapest(tables.latency[b], tables.extra[b], idle, sizes, left, hurry, lead, least)
        if found >= 0:
            size, queue = found, b
    return size, queue, dropped


def _pop(queues: _Queues, b: int, arrival: NDArray[np.float64]) -> None:
    """Take the oldest query of batch size b from its queue."""
    queues.head[b] += 1
    there = queues.head[b] < queues.tail[b]
    queues.oldest[b] = arrival[queues.by_batch[queues.head[b]]] if there else math.inf
