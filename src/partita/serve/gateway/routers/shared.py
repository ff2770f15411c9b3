"""What routers with one shared queue have in common."""

from __future__ import annotations

from bisect import bisect_right
from heapq import heapify, heappop, heapreplace
from typing import TYPE_CHECKING

from partita.serve.gateway.pace import Pace
from partita.serve.gateway.queues import Queues
from partita.serve.gateway.waiting import QUEUED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.serve.gateway.fleet import Fleet, Group
    from partita.serve.gateway.routers.port import Rules
    from partita.serve.gateway.waiting import Waiting, Worker

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
        self.dropped: list[Waiting] = []

    @property
    def waiting(self) -> int:
        """Queries that wait."""
        return self._queues.waiting

    def put(self, query: Waiting, now: float) -> bool:
        """Let a query wait; False if it would wait too long."""
        pace = self._paces.get(query.batch)
        if pace is not None and self._too_late(query, pace, now):
            return False
        self._queues.put(query)
        return True

    def waits(self, query: Waiting, now: float) -> None:
        """Hear that a query could not start on arrival."""
        pace = self._paces.get(query.batch)
        if pace is None:
            pace = self._paces[query.batch] = Pace(2.0 * self._rules.deadline)
        pace.waits(now)

    def removed(self, query: Waiting) -> None:
        """Hear that a waiting query has ended."""
        del query
        self._queues.gone()

    def lost(self, worker: Worker) -> Sequence[Waiting]:
        """Return nothing: no query waits for one worker."""
        del worker
        return ()

    def larger(self, than: int) -> Sequence[Waiting]:
        """Return the queries that wait of more rows than so many, which are then not to wait any more."""
        queues = self._queues
        if not queues.sizes or queues.sizes[-1] <= than:
            return ()
        return [
            query
            for size in queues.sizes[bisect_right(queues.sizes, than) :]
            for _, _, query in queues.heaps[size]
            if query.state == QUEUED
        ]

    def _too_late(self, query: Waiting, pace: Pace, now: float) -> bool:
        if not self._rules.early or query.tries or query.batch > self._fleet.most:
            return False
        wait = pace.wait(self._queues.before(query), now)
        fleet = self._fleet
        if wait <= _HURRY * (query.due - now - fleet.quickest[query.batch]):
            return False
        left = query.due - now
        return not any(group.idle and group.seconds[query.batch] <= left for group in fleet.groups)

    def _started(self, query: Waiting, now: float) -> None:
        pace = self._paces.get(query.batch)
        if pace is not None:
            pace.started(now)
            if self._queues.head(query.batch) is None:
                pace.emptied()

    def _head(self, batch: int, now: float) -> Waiting | None:
        """Return the first query of a batch size that some worker can still answer; drop those before it."""
        queues, fleet = self._queues, self._fleet
        while (query := queues.head(batch)) is not None:
            if fleet.awaited(query, now) if batch > fleet.most else query.due - now >= fleet.quickest[batch]:
                return query
            queues.pop(batch)
            self.dropped.append(query)
        pace = self._paces.get(batch)
        if pace is not None:
            pace.emptied()
        return None

    def _join(self, group: Group, queries: list[Waiting], now: float) -> int:
        """Take waiting queries along with the one of a batch, and return their batch sizes added up.

        Earliest deadline first, while the joint batch meets every deadline in it, costs no more than it would to run
        the next one alone where that is cheapest, and nothing that is idle could start that one instead.
        """
        head, queues = queries[0], self._queues
        total, due = head.batch, head.due
        if not queues.waiting:
            return total
        # Of a batch size of which one does not fit no other does: the batch only grows, its deadline only nears.
        firsts = [(heap[0][2].due, size) for size in queues.sizes if (heap := queues.heaps[size])]
        heapify(firsts)
        while firsts and total < group.most:
            _, batch = firsts[0]
            query = queues.head(batch)
            if query is not None and self._fits(query, head, group, (total, due - now), now):
                queues.pop(batch)
                queries.append(query)
                total += batch
                due = min(due, query.due)
                query = queues.head(batch)
            else:
                query = None
            if query is None:
                heappop(firsts)
            else:
                heapreplace(firsts, (query.due, batch))
        return total

    def _fits(
        self, query: Waiting, head: Waiting, group: Group, joint: tuple[int, float], now: float
    ) -> bool:
        total, left = joint
        items = total + query.batch
        if items > group.most or query.alike != head.alike or query.avoid is not None:
            return False
        seconds = group.seconds[items]
        return (
            seconds <= left
            and seconds <= query.due - now
            and group.price * (seconds - group.seconds[total]) <= self._fleet.least[query.batch]
            and not self._starts_elsewhere(query, now)
        )

    def _starts_elsewhere(self, query: Waiting, now: float) -> bool:
        fleet, left = self._fleet, query.due - now
        return fleet.idlers > 0 and any(
            group.idle and group.seconds[query.batch] <= left for group in fleet.groups
        )
