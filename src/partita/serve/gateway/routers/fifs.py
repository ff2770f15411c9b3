"""First idle, first served, live: what most servers do."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from partita.serve.gateway.routers.port import Choice
from partita.serve.gateway.routers.shared import SharedQueue

if TYPE_CHECKING:
    from partita.serve.gateway.fleet import Fleet
    from partita.serve.gateway.query import Group, PendingQuery, Worker
    from partita.serve.gateway.routers.port import Rules


class Fifs(SharedQueue):
    """The worker that has been idle for longest takes the query that came first, of those it can run at all.

    Args:
        fleet: the workers.
        rules: that hold for all routers.
    """

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
        if not (self._queues.waiting and self._fleet.idlers):
            return None
        heads = [query for kind in list(self._queues.kinds) if (query := self._head(kind, now)) is not None]
        for query in sorted(heads, key=lambda each: each.key):
            found = self._longest_idle(query)
            if found is not None:
                return self._start(query, found, now)
        return None

    def _longest_idle(self, query: PendingQuery) -> tuple[Worker, Group] | None:
        several = self._fleet.able > 1
        options = [
            (self._idle_since.get(worker, -1), group.key, worker.name, worker, group)
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
