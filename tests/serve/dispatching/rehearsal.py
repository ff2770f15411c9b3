"""The dispatcher in simulated time: no sockets, no clock, workers that take as long as they should."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

import numpy as np
from tests.serve.live_routers import ROUTERS

from partita.serve.dispatching.dispatcher import Dispatcher
from partita.serve.dispatching.port import Rules
from partita.serve.dispatching.query import PendingQuery
from partita.serve.dispatching.query import QueryOutcome as Ending
from partita.serve.fluid import second_prices
from partita.serve.problem import REFUSED, TICK, ServingOutcome
from partita.serve.tensors import Answer, Batching
from partita.serve.worker.wire import Hello

if TYPE_CHECKING:
    from partita.serve.dispatching.dispatcher import Decisions
    from partita.serve.dispatching.query import Batch, Worker
    from partita.serve.problem import ServingProblem
    from partita.sim.traffic import Traffic

GOOD = Answer()
ROWS = Batching(rows=True, why="it is made so")


def hello(
    profile: str = "1g.6gb",
    seconds: dict[int, float] | None = None,
    *,
    batch: int = 8,
    processes: int = 1,
    gpu: int = 0,
    batching: Batching = ROWS,
) -> Hello:
    table = {1: 1.0} if seconds is None else seconds
    return Hello(
        "one", "m", f"gpu-{gpu}", f"{profile}@0", profile, batch, processes, 1, (), (), table, batching
    )


def _keep(router: Any, worker: Worker, now: float) -> None:
    del router, worker, now


def _first(router: Any, kind: int, now: float) -> PendingQuery | None:
    del now
    first: PendingQuery | None = router._queues.head(kind)
    return first


class Rehearsal:
    """One cut, one router, some traffic."""

    def __init__(
        self,
        problem: ServingProblem,
        counts: np.ndarray,
        *,
        router: str = "late-binding",
        batching: bool = False,
        early: bool = False,
        most_batch: int | None = None,
        patient: bool = False,
    ) -> None:
        """With `patient`, queries that are late run all the same, as in simulations of ELSA and FIFS."""
        kind = ROUTERS[router]
        if patient:
            kind = type("Patient", (kind,), {"_prune": _keep, "_head": _first})
        self.allowed = problem.deadline + TICK
        rules = Rules(problem.deadline, batching, early, problem.classes, 1.0 - problem.quantile)
        self.dispatcher = Dispatcher(rules, kind)
        self.number: dict[Worker, int] = {}
        # Late binding takes the last of the idle ones first, the others the first.
        numbers = range(int(counts.sum()))
        self._join(problem, counts, most_batch, numbers[::-1] if router == "late-binding" else numbers)
        prices = second_prices(problem, counts)
        names = dict(zip(problem.profiles, prices.tolist(), strict=True))
        groups = self.dispatcher.fleet.groups
        self.dispatcher.fleet.set_prices({group.key: names[group.key[1]] for group in groups})
        self.batches: list[Batch] = []

    def _join(
        self, problem: ServingProblem, counts: np.ndarray, most_batch: int | None, numbers: range
    ) -> None:
        sizes = [size for size, n in enumerate(counts.tolist()) for _ in range(n)]
        for number in numbers:
            row = problem.latency[sizes[number]].tolist()
            table = {batch: seconds for batch, seconds in enumerate(row, 1) if seconds < np.inf}
            if table:
                profile = problem.profiles[sizes[number]]
                said = hello(profile, table, batch=most_batch or max(table))
                worker, _ = self.dispatcher.join(said, {}, 0.0)
                self.number[worker] = number

    def run(self, traffic: Traffic, tick: float | None = None) -> ServingOutcome:
        self.took = np.full(len(traffic), np.inf)
        self.by = np.full(len(traffic), REFUSED, dtype=np.int16)
        self.index: dict[PendingQuery, int] = {}
        self.ends: list[tuple[float, int, Batch]] = []
        arrivals = list(zip(traffic.arrival.tolist(), traffic.batch.tolist(), strict=True))
        at, ticks = 0, 0
        while at < len(arrivals) or self.ends:
            end = self.ends[0][0] if self.ends else np.inf
            arrival = arrivals[at][0] if at < len(arrivals) else np.inf
            if tick is not None and ticks * tick < min(end, arrival):
                self._carry_out(self.dispatcher.tick(ticks * tick), ticks * tick)
                ticks += 1
            elif end <= arrival:
                now, _, batch = heapq.heappop(self.ends)
                answers = [GOOD] * len(batch.queries)
                steps = self.dispatcher.done(batch.worker, batch.number, answers, 0.0, now)
                self._carry_out(steps, now)
            else:
                query = PendingQuery(arrivals[at][1], arrival, self.allowed)
                self.index[query] = at
                at += 1
                self._carry_out(self.dispatcher.arrive(query, arrival), arrival)
        return ServingOutcome(self.took, self.by)

    def _carry_out(self, steps: Decisions, now: float) -> None:
        for batch in steps.starts:
            self.batches.append(batch)
            heapq.heappush(self.ends, (now + batch.expected, self.number[batch.worker], batch))
        for query, outcome, _, _ in steps.ends:
            if outcome is Ending.ANSWERED:
                at = self.index[query]
                assert np.isinf(self.took[at]), "answered twice"
                assert query.worker is not None
                self.took[at] = now - query.arrived
                self.by[at] = self.number[query.worker]
