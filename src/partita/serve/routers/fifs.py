"""First idle, first served: what most servers do."""

from __future__ import annotations

import math
from itertools import count
from typing import TYPE_CHECKING

from partita.serve.dispatching.port import Choice
from partita.serve.routers.compiling import compiled
from partita.serve.routers.shared import SharedQueue

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from partita.serve.dispatching.fleet import Fleet
    from partita.serve.dispatching.port import Rules
    from partita.serve.dispatching.query import Group, PendingQuery, Worker
    from partita.serve.problem import Serve, ServingOutcome, ServingProblem
    from partita.sim.traffic import Traffic


class Fifs(SharedQueue):
    """The worker that has been idle for longest takes the query that came first, of those it can run at all.

    The baseline of PARIS and ELSA (DAC'22). The gateway refuses what can no longer be in time; in simulations, as in
    the paper, such queries are run all the same, unless it `refuses`.

    Args:
        fleet: the workers.
        rules: that hold for all routers.
    """

    refuses = False

    def __init__(self, fleet: Fleet, rules: Rules) -> None:
        super().__init__(fleet, rules)
        self._turns = count()
        self._idle_since: dict[Worker, int] = {}

    def put(self, query: PendingQuery, now: float) -> bool:
        """Let a query wait; False if it would wait too long."""
        query.key = 0.0 if query.tries else query.arrived
        return super().put(query, now)

    def freed(self, worker: Worker) -> None:
        """Put a worker at the end of the line."""
        self._idle_since[worker] = next(self._turns)

    def lost(self, worker: Worker) -> tuple[PendingQuery, ...]:
        """Forget a worker's turn."""
        self._idle_since.pop(worker, None)
        return ()

    def expire(self, now: float) -> None:
        """Drop what can no longer be answered in time."""
        for kind in list(self._queues.kinds):
            self._head(kind, now)

    def next(self, now: float) -> Choice | None:
        """Return a batch to start now, None if there is none."""
        if not self._fleet.idlers:
            return None
        queues = self._queues
        heads = [queues.heaps[kind][0] for kind in list(queues.kinds) if self._head(kind, now) is not None]
        for _, _, query in sorted(heads):  # of those that came at one moment, the one that was put first
            found = self._longest_idle(query)
            if found is not None:
                return self._start(query, found, now)
        return None

    def _longest_idle(self, query: PendingQuery) -> tuple[Worker, Group] | None:
        several = self._fleet.able > 1
        options = [
            (self._idle_since[worker], group.key, worker.name, worker, group)
            for group in self._fleet.groups
            if query.batch <= group.most
            for worker in set(group.idle)
            if not (several and worker is query.avoid)
        ]
        return min(options)[3:] if options else None

    def _start(self, query: PendingQuery, found: tuple[Worker, Group], now: float) -> Choice:
        worker, group = found
        self._queues.pop(query.kind)
        self._fleet.unidle(worker)
        queries = [query]
        items = self._join(group, queries, now) if self._rules.batching else query.batch
        for each in queries:
            self._started(each, now)
        return Choice(worker, queries, items, group.seconds[query.size_class][items])

    @classmethod
    def on(cls, problem: ServingProblem, counts: NDArray[np.int64]) -> Serve:
        """Return what serves queries on these instances in simulation.

        What no size can run is refused; if it `refuses`, so is what no size can answer in time when its turn comes.
        """
        import numpy as np  # noqa: PLC0415 -- the gateway starts without it

        from partita.serve.problem import REFUSED, TICK, ServingOutcome  # noqa: PLC0415 -- likewise

        size_of = np.repeat(np.arange(len(counts)), counts)
        quickest = problem.latency[counts > 0].min(axis=0)
        longest = problem.deadline + TICK - quickest if cls.refuses else np.full(len(quickest), np.inf)
        run = compiled(_first_idle)

        def serve(traffic: Traffic) -> ServingOutcome:
            took = np.full(len(traffic), np.inf)
            by = np.full(len(traffic), REFUSED, dtype=np.int16)
            idle_at = np.zeros(len(size_of))
            run(traffic.arrival, traffic.batch, size_of, problem.latency, longest, idle_at, took, by)
            return ServingOutcome(took, by)

        return serve


class RefusingFifs(Fifs):
    """First idle, first served, that refuses what can no longer be in time, in simulations too."""

    refuses = True


def _first_idle(  # noqa: PLR0917 -- compiled code takes no keywords
    arrival: NDArray[np.float64],
    batch: NDArray[np.int64],
    size_of: NDArray[np.int64],
    latency: NDArray[np.float64],
    longest: NDArray[np.float64],
    idle_at: NDArray[np.float64],
    took: NDArray[np.float64],
    by: NDArray[np.int16],
) -> None:
    """Simulate, query by query; fill in who took each, and for how long.

    Who takes a query is known on its arrival: in order of arrival, the instance that has been idle for longest, or is
    idle next, of those that can run it. That is the queue's order without a queue. `longest` has the seconds that a
    query of each batch size may wait.
    """
    for q in range(len(arrival)):
        now, b = arrival[q], batch[q] - 1
        first, soonest = -1, math.inf
        for p in range(len(size_of)):
            if idle_at[p] < soonest and latency[size_of[p], b] < math.inf:
                first, soonest = p, idle_at[p]
        if first >= 0 and max(now, soonest) - now <= longest[b]:
            idle_at[first] = max(now, soonest) + latency[size_of[first], b]
            took[q] = idle_at[first] - now
            by[q] = first
