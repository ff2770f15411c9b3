"""What routers that bind a query to a worker on arrival have in common."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from partita.serve.gateway.query import QUEUED
from partita.serve.gateway.routers.port import Choice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.serve.gateway.fleet import Fleet
    from partita.serve.gateway.query import Group, PendingQuery, Worker
    from partita.serve.gateway.routers.port import Rules


class BoundQueues:
    """A queue per worker, first in, first out.

    Attributes:
        dropped: queries that came too late.
    """

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
        raise NotImplementedError

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
        """Hear that a query could not start on arrival."""

    def freed(self, worker: Worker) -> None:
        """Hear that a worker is idle."""
        self._ready.append(worker)

    def removed(self, query: PendingQuery) -> None:
        """Hear that a waiting query has ended."""
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
            if group is None or not worker.bound or not worker.takes_work:
                continue
            self._prune(worker, now)
            if worker.bound:
                return self._start(worker, group, now)
        return None

    def wait(self, worker: Worker, now: float) -> float:
        """Return the seconds until a worker could start another query after those bound to it."""
        ahead = worker.bound_s
        processes = worker.hello.processes
        if len(worker.running) >= processes:
            first = min(batch.begun + batch.expected for batch in worker.running.values())
            return max(0.0, first - now) + ahead / processes
        return ahead / processes

    def _prune(self, worker: Worker, now: float) -> None:
        bound, group = worker.bound, worker.group
        while bound and group is not None:
            query = bound[0]
            if query.state == QUEUED:
                if query.due - now > (
                    group.seconds[query.size_class][query.batch] if self._rules.early else 0.0
                ):
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

    def _usable(self, query: PendingQuery) -> list[tuple[Worker, float]]:
        """Return the workers that can run a query, from small slices to large, and the seconds it takes there."""
        several = self._fleet.able > 1
        return [
            (worker, seconds)
            for group in self._fleet.groups
            if query.batch <= group.most
            and (seconds := group.seconds[query.size_class][query.batch]) < math.inf
            for worker in group.members
            if not worker.overdue and not (several and worker is query.avoid)
        ]
