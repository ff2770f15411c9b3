"""Late binding, live: a query waits in a shared queue until a worker that suits it is idle. The default router.

The decisions are those of `partita.serve.routers.late_binding`, where deadlines are equal and nothing is joined.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from partita.serve.gateway.query import QUEUED
from partita.serve.gateway.routers.port import Choice
from partita.serve.gateway.routers.shared import SharedQueue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.serve.gateway.fleet import Fleet
    from partita.serve.gateway.query import Group, PendingQuery, Worker
    from partita.serve.gateway.routers.port import Rules

_TICK = 1e-9


class LateBinding(SharedQueue):
    """Pairs the earliest deadline of each kind with each group that has idle workers.

    It starts the pair of least

        (what it costs here / what it costs on its cheapest group) - 1 + (its slack / its slack on arrival).

    Args:
        fleet: the workers.
        rules: that hold for all routers.
    """

    def __init__(self, fleet: Fleet, rules: Rules) -> None:
        super().__init__(fleet, rules)
        self._kinds: Sequence[int] | None = None
        self._groups: Sequence[Group] | None = None

    def put(self, query: PendingQuery, now: float) -> bool:
        """Let a query wait; False if it would wait too long."""
        query.weight = self._weight(query)
        self._kinds, self._groups = (query.kind,), None
        return super().put(query, now)

    def freed(self, worker: Worker) -> None:
        """Look at this worker's group alone: nothing that waits suits the workers that were idle before."""
        self._kinds, self._groups = None, (worker.group,) if worker.group else ()

    def expire(self, now: float) -> None:
        """Drop what can no longer be answered in time."""
        self._kinds = self._groups = None
        for kind in list(self._queues.kinds):
            self._head(kind, now)

    def next(self, now: float) -> Choice | None:
        """Return a batch to start now, None if there is none."""
        while self._queues.waiting and self._fleet.idlers:
            dropped = len(self.dropped)
            best, group = self._best(now)
            self._kinds = self._groups = None  # another query is now the first of its kind
            if best is not None and group is not None:
                return self._start(best, group, now)
            if len(self.dropped) == dropped:
                return None
        return None

    def _weight(self, query: PendingQuery) -> float:
        fleet = self._fleet
        least = fleet.quickest[query.size_class][query.batch] if query.batch <= fleet.most else 0.0
        return 1.0 / max(query.allowed - least, _TICK)

    def _best(self, now: float) -> tuple[PendingQuery | None, Group | None]:
        kinds = self._kinds or list(self._queues.kinds)
        groups = [each for each in self._groups or self._fleet.groups if each.idle]
        quickest = self._fleet.quickest
        least, best, where = math.inf, None, None
        for kind in kinds:
            query = self._candidate(kind, now)
            if query is None:
                continue
            batch, size_class = query.batch, query.size_class
            left = query.due - now
            hurry = query.weight * (left - quickest[size_class][batch])
            for group in groups:
                if group.seconds[size_class][batch] <= left:
                    score = group.extra[size_class][batch] + hurry
                    if score < least and (query.avoid is None or self._allowed(query, group)):
                        least, best, where = score, query, group
        return best, where

    def _candidate(self, kind: int, now: float) -> PendingQuery | None:
        """Return the first query of a kind that some worker can still answer, None if there is none."""
        heap = self._queues.heaps[kind]
        if heap:
            query = heap[0][2]
            if query.batch > self._fleet.most:
                return None
            quickest = self._fleet.quickest[query.size_class][query.batch]
            if query.state == QUEUED and query.due - now >= quickest:
                return query
        return self._head(kind, now)

    def _start(self, query: PendingQuery, group: Group, now: float) -> Choice:
        self._queues.pop(query.kind)
        worker = self._fleet.take(group, query.avoid)
        queries = [query]
        items = self._join(group, queries, now) if self._rules.batching else query.batch
        if self._paces:
            for each in queries:
                self._started(each, now)
        return Choice(worker, queries, items, group.seconds[query.size_class][items])

    def _allowed(self, query: PendingQuery, group: Group) -> bool:
        """Return whether a group has an idle worker other than the one that failed a query, if there is any other."""
        avoid = query.avoid
        return self._fleet.able == 1 or any(each is not avoid for each in group.idle)
