"""What routers with one shared queue have in common."""

from __future__ import annotations

from heapq import heapify, heappop, heapreplace
from typing import TYPE_CHECKING

from partita.serve.gateway.query import KIND_SHIFT, QUEUED
from partita.serve.gateway.routers.queues import Pace, Queues

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.serve.gateway.fleet import Fleet
    from partita.serve.gateway.query import Group, PendingQuery, Worker
    from partita.serve.gateway.routers.port import Rules

_BATCH = (1 << KIND_SHIFT) - 1
_HURRY = 0.95
"""Part of its slack that a query may be forecast to wait; the rest is for batches that take longer."""


class SharedQueue:
    """Queries that wait for any worker.

    Attributes:
        dropped: queries that came too late.
    """

    def __init__(self, fleet: Fleet, rules: Rules) -> None:
        self._fleet, self._rules = fleet, rules
        self._queues = Queues()
        self._paces: dict[int, Pace] = {}
        self.dropped: list[PendingQuery] = []

    @property
    def waiting(self) -> int:
        """Queries that wait."""
        return self._queues.waiting

    def put(self, query: PendingQuery, now: float) -> bool:
        """Let a query wait; False if it would wait too long."""
        pace = self._paces.get(query.kind)
        if pace is not None and self._too_late(query, pace, now):
            return False
        self._queues.put(query)
        return True

    def waits(self, query: PendingQuery, now: float) -> None:
        """Hear that a query could not start on arrival."""
        pace = self._paces.get(query.kind)
        if pace is None:
            pace = self._paces[query.kind] = Pace(2.0 * self._rules.deadline)
        pace.waits(now)

    def removed(self, query: PendingQuery) -> None:
        """Hear that a waiting query has ended."""
        del query
        self._queues.gone()

    def lost(self, worker: Worker) -> Sequence[PendingQuery]:
        """Return nothing: no query waits for one worker."""
        del worker
        return ()

    def larger(self, than: int) -> Sequence[PendingQuery]:
        """Return the queries that wait of more rows than so many, which are then not to wait any more."""
        queues = self._queues
        return [
            query
            for kind in queues.kinds
            if kind & _BATCH > than
            for _, _, query in queues.heaps[kind]
            if query.state == QUEUED
        ]

    def _too_late(self, query: PendingQuery, pace: Pace, now: float) -> bool:
        if not self._rules.early or query.tries or query.batch > self._fleet.most:
            return False
        wait = pace.wait(self._queues.before(query), now)
        fleet = self._fleet
        if wait <= _HURRY * (query.due - now - fleet.quickest[query.size_class][query.batch]):
            return False
        left = query.due - now
        return not any(
            group.idle and group.seconds[query.size_class][query.batch] <= left for group in fleet.groups
        )

    def _started(self, query: PendingQuery, now: float) -> None:
        pace = self._paces.get(query.kind)
        if pace is not None:
            pace.started(now)
            if self._queues.head(query.kind) is None:
                pace.emptied()

    def _head(self, kind: int, now: float) -> PendingQuery | None:
        """Return the first query of a kind that some worker can still answer; drop those before it."""
        queues, fleet = self._queues, self._fleet
        while (query := queues.head(kind)) is not None:
            if query.batch > fleet.most:
                keep = fleet.awaited(query, now)
            else:
                keep = query.due - now >= fleet.quickest[query.size_class][query.batch]
            if keep:
                return query
            queues.pop(kind)
            self.dropped.append(query)
        pace = self._paces.get(kind)
        if pace is not None:
            pace.emptied()
        return None

    def _join(self, group: Group, queries: list[PendingQuery], now: float) -> int:
        """Take waiting queries along with the one of a batch, and return their batch sizes added up.

        Earliest deadline first, while the joint batch meets every deadline in it, costs no more than it would to run
        the next one alone where that is cheapest, and nothing that is idle could start that one instead.
        """
        head, queues = queries[0], self._queues
        total, due = head.batch, head.due
        if not queues.waiting:
            return total
        # Of a kind of which one does not fit no other does: the batch only grows, its deadline only nears.
        firsts = [(heap[0][2].due, kind) for kind in queues.kinds if (heap := queues.heaps[kind])]
        heapify(firsts)
        while firsts and total < group.most:
            _, kind = firsts[0]
            query = queues.head(kind)
            if query is not None and self._fits(query, head, group, (total, due - now), now):
                queues.pop(kind)
                queries.append(query)
                total += query.batch
                due = min(due, query.due)
                query = queues.head(kind)
            else:
                query = None
            if query is None:
                heappop(firsts)
            else:
                heapreplace(firsts, (query.due, kind))
        return total

    def _fits(
        self, query: PendingQuery, head: PendingQuery, group: Group, joint: tuple[int, float], now: float
    ) -> bool:
        total, left = joint
        items = total + query.batch
        if items > group.most or query.alike != head.alike or query.avoid is not None:
            return False
        size_class = head.size_class
        table = group.seconds[size_class]
        seconds = table[items]
        return (
            seconds <= left
            and seconds <= query.due - now
            and query.size_class == size_class
            and group.price * (seconds - table[total]) <= self._fleet.least[size_class][query.batch]
            and not self._starts_elsewhere(query, now)
        )

    def _starts_elsewhere(self, query: PendingQuery, now: float) -> bool:
        fleet, left = self._fleet, query.due - now
        return fleet.idlers > 0 and any(
            group.idle and group.seconds[query.size_class][query.batch] <= left for group in fleet.groups
        )
