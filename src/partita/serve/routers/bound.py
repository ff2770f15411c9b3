"""Routers that bind a query to a worker on arrival: ELSA, and the cheapest worker that is in time.

A policy takes the first worker that is in time, or ranks those that are; the least rank takes the query. The gateway
goes through its workers so (`BoundQueues.choose`), and the simulation through its instances (`_bind_on_arrival`),
compiled.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from partita.serve.dispatching.port import Choice
from partita.serve.dispatching.query import QUEUED
from partita.serve.routers.compiling import compiled

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from partita.serve.dispatching.fleet import Fleet
    from partita.serve.dispatching.port import Rules
    from partita.serve.dispatching.query import Group, PendingQuery, Worker
    from partita.serve.problem import Serve, ServingOutcome, ServingProblem
    from partita.sim.traffic import Traffic

NOBODY = (math.inf, math.inf)
"""Rank that every worker in time is below."""


def price_rank(wait: float, seconds: float, price: float) -> tuple[float, float]:
    """Return what a query costs on a worker that is in time, of equal ones the one that is idle first.

    Args:
        wait: seconds until the worker could start the query.
        seconds: that the query takes there.
        price: what a second of the worker is worth.
    """
    return price * seconds, wait


class BoundQueues:
    """A queue per worker, first in, first out.

    Attributes:
        dropped: queries that came too late.
        first_fit: whether the first worker that is in time takes a query, and where none is, and nothing is refused
            early, the one that is done soonest. Without it the worker of least rank takes it, of those in time.
        refuses: whether with first fit, too, a query that no worker answers in time is refused.
        rank: of a worker that is in time, see `price_rank`; arithmetic alone, without `del`: simulations compile it.
    """

    first_fit = False
    refuses = False
    rank = staticmethod(price_rank)

    def __init__(self, fleet: Fleet, rules: Rules) -> None:
        self._fleet, self._rules = fleet, rules
        self._ready: list[Worker] = []
        self._waiting = 0
        self.dropped: list[PendingQuery] = []

    @property
    def waiting(self) -> int:
        """Queries that wait."""
        return self._waiting

    def choose(self, query: PendingQuery, now: float) -> Worker | None:
        """Return the worker to bind a query to, None if it should be refused."""
        first_fit, rank, left = self.first_fit, self.rank, query.due - now
        late = first_fit and not self._rules.early and not self.refuses
        avoid = query.avoid if query.avoid is not None and self._fleet.able > 1 else None
        least, soonest, chosen = NOBODY, math.inf, None
        for group in self._fleet.groups:
            if query.batch > group.most:
                continue
            seconds, price = group.seconds[query.size_class][query.batch], group.price
            for worker in group.members:
                if worker.overdue or worker is avoid:
                    continue
                wait = self.wait(worker, now)
                if wait + seconds <= left:
                    if first_fit:
                        return worker
                    found = rank(wait, seconds, price)
                    if found < least:
                        least, chosen = found, worker
                elif late and wait + seconds < soonest:
                    soonest, chosen = wait + seconds, worker
        return chosen

    def put(self, query: PendingQuery, now: float) -> bool:
        """Bind a query; False if no worker would answer it in time."""
        worker = self.choose(query, now)
        if worker is None or worker.group is None:
            return False
        query.worker = worker
        if query.tries:
            worker.bound.appendleft(query)
        else:
            worker.bound.append(query)
        worker.bound_s += worker.group.seconds[query.size_class][query.batch]
        self._waiting += 1
        self._ready.append(worker)
        return True

    def waits(self, query: PendingQuery, now: float) -> None:
        """Take note that a query could not start on arrival."""

    def freed(self, worker: Worker) -> None:
        """Take note that a worker is idle."""
        self._ready.append(worker)

    def removed(self, query: PendingQuery) -> None:
        """Take note that a waiting query has ended."""
        self._waiting -= 1
        worker = query.worker
        if worker is not None and worker.group is not None:
            worker.bound_s -= worker.group.seconds[query.size_class][query.batch]

    def lost(self, worker: Worker) -> Sequence[PendingQuery]:
        """Return the queries that were bound to a worker."""
        found = [query for query in worker.bound if query.state == QUEUED]
        worker.bound.clear()
        worker.bound_s = 0.0
        self._waiting -= len(found)
        return found

    def larger(self, than: int) -> Sequence[PendingQuery]:
        """Return nothing: each query waits for a worker that takes it."""
        del than
        return ()

    def expire(self, now: float) -> None:
        """Drop what its worker can no longer answer in time."""
        for worker in self._fleet.workers:
            if worker.bound:
                self._prune(worker, now)
                self._ready.append(worker)

    def next(self, now: float) -> Choice | None:
        """Return a batch to start now, None if there is none."""
        while self._ready:
            worker = self._ready.pop()
            group = worker.group
            if group is None or not worker.takes_work:
                continue
            self._prune(worker, now)
            if worker.bound:
                return self._start(worker, group, now)
        return None

    def wait(self, worker: Worker, now: float) -> float:
        """Return the seconds until a worker could start another query after those bound to it."""
        processes = worker.hello.processes
        wait = worker.bound_s / processes
        if len(worker.running) >= processes:
            wait += max(0.0, min(batch.begun + batch.expected for batch in worker.running.values()) - now)
        return wait

    def _prune(self, worker: Worker, now: float) -> None:
        bound, group = worker.bound, worker.group
        while bound and group is not None:
            query = bound[0]
            if query.state == QUEUED:
                left = query.due - now
                if left >= group.seconds[query.size_class][query.batch] if self._rules.early else left > 0.0:
                    return
                self.dropped.append(query)
                self.removed(query)
            bound.popleft()
        if not bound:
            worker.bound_s = 0.0  # without the roundings of many sums

    def _start(self, worker: Worker, group: Group, now: float) -> Choice:
        self._fleet.unidle(worker)
        queries = [self._popped(worker, group)]
        total, due = queries[0].batch, queries[0].due
        while self._rules.batching and worker.bound:
            query = worker.bound[0]
            items = total + query.batch
            if query.state == QUEUED:
                due = min(due, query.due)
                if not self._joins(query, queries[0], group, (total, items, due - now)):
                    break
                queries.append(self._popped(worker, group))
                total = items
            else:
                worker.bound.popleft()
        if worker.bound:
            self._ready.append(worker)
        return Choice(worker, queries, total, group.seconds[queries[0].size_class][total])

    @staticmethod
    def _joins(query: PendingQuery, head: PendingQuery, group: Group, joint: tuple[int, int, float]) -> bool:
        total, items, left = joint
        table = group.seconds[head.size_class]
        return (
            items <= group.most
            and query.alike == head.alike
            and query.size_class == head.size_class
            and table[items] <= left
            and table[items] - table[total] <= table[query.batch]
        )

    def _popped(self, worker: Worker, group: Group) -> PendingQuery:
        query = worker.bound.popleft()
        self._waiting -= 1
        worker.bound_s = (
            max(0.0, worker.bound_s - group.seconds[query.size_class][query.batch]) if worker.bound else 0.0
        )
        return query


class Elsa(BoundQueues):
    """The smallest slice that has slack left (PARIS and ELSA, DAC'22, section IV.C).

    A query that no worker answers in time is refused by the gateway; without early refusal, and in simulations as in
    the paper, it goes to the one that would finish it first.
    """

    first_fit = True

    @classmethod
    def on(cls, problem: ServingProblem, counts: NDArray[np.int64]) -> Serve:
        """Return what serves queries on these instances in simulation. Only what no size can run is refused."""
        import numpy as np  # noqa: PLC0415 -- the gateway starts without it

        return _simulated(cls, problem, counts, np.ones(len(counts)))


class RefusingElsa(Elsa):
    """ELSA that refuses what no slice answers in time, in simulations too, so that nothing waits behind it."""

    refuses = True


class Price(BoundQueues):
    """The worker of least price x seconds among those that answer a query in time; where none does it is refused.

    The prices are the fluid model's duals: what a second of each size is worth.
    """

    @classmethod
    def on(cls, problem: ServingProblem, counts: NDArray[np.int64]) -> Serve:
        """Return what serves queries on these instances in simulation."""
        from partita.serve.fluid import second_prices  # noqa: PLC0415 -- the gateway starts without the solver

        return _simulated(cls, problem, counts, second_prices(problem, counts))


def _simulated(
    policy: type[BoundQueues],
    problem: ServingProblem,
    counts: NDArray[np.int64],
    price: NDArray[np.float64],
) -> Serve:
    """Return what serves queries by a policy on instances in these counts; `price` is a second's of each size."""
    import numpy as np  # noqa: PLC0415 -- the gateway starts without it

    from partita.serve.problem import REFUSED, TICK, ServingOutcome  # noqa: PLC0415 -- likewise

    size_of = np.repeat(np.arange(len(counts)), counts)
    bind = compiled(_bind_on_arrival, first_fit=policy.first_fit, refuses=policy.refuses, rank=policy.rank)

    def serve(traffic: Traffic) -> ServingOutcome:
        idle_at = np.zeros(len(size_of))
        took = np.full(len(traffic), np.inf)
        by = np.full(len(traffic), REFUSED, dtype=np.int16)
        left = problem.deadline + TICK
        bind(traffic.arrival, traffic.batch, size_of, problem.latency, price, left, idle_at, took, by)
        return ServingOutcome(took, by)

    return serve


first_fit, refuses, rank = BoundQueues.first_fit, BoundQueues.refuses, BoundQueues.rank
"""What the loop below is compiled with in place of a policy's own."""


def _bind_on_arrival(  # noqa: PLR0917 -- compiled code takes no keywords
    arrival: NDArray[np.float64],
    batch: NDArray[np.int64],
    size_of: NDArray[np.int64],
    latency: NDArray[np.float64],
    price: NDArray[np.float64],
    left: float,
    idle_at: NDArray[np.float64],
    took: NDArray[np.float64],
    by: NDArray[np.int16],
) -> None:
    """Simulate, query by query; fill in who took each, and for how long.

    Args:
        arrival: moments, shape (N,).
        batch: batch sizes, shape (N,).
        size_of: size of each instance, from small to large, shape (P,).
        latency: seconds of batch size b on size k at [k, b - 1].
        price: of a second of each size.
        left: seconds from arrival to the deadline.
        idle_at: when each instance has done all that is bound to it; zeros, shape (P,).
        took: infinities, shape (N,).
        by: `REFUSED`, shape (N,).
    """
    for q in range(len(arrival)):
        now, b = arrival[q], batch[q] - 1
        least, chosen = NOBODY, -1
        for p in range(len(size_of)):
            k = size_of[p]
            wait = max(now, idle_at[p]) - now
            if wait + latency[k, b] <= left:
                if first_fit:
                    chosen = p
                    break
                found = rank(wait, latency[k, b], price[k])
                if found < least:
                    least, chosen = found, p
        if first_fit and not refuses and chosen < 0:
            soonest = math.inf
            for p in range(
                len(size_of)
            ):  # apart: few queries are late, and the loop above is passed for each
                end = max(now, idle_at[p]) + latency[size_of[p], b]
                if end < soonest:
                    soonest, chosen = end, p
        if chosen >= 0:
            idle_at[chosen] = max(now, idle_at[chosen]) + latency[size_of[chosen], b]
            took[q] = idle_at[chosen] - now
            by[q] = chosen
