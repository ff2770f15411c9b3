"""The queue of queries that wait for any worker, for all routers that bind late.

Queries of one kind (batch size and size class) stand in one heap, ended ones deleted when they come up. A query is
refused on arrival where the pace of its kind says that it would wait too long, and waiting queries are joined to one
that starts where that harms nobody.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING

from partita.serve.dispatching.query import KIND_SHIFT, QUEUED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.serve.dispatching.fleet import Fleet
    from partita.serve.dispatching.port import Rules
    from partita.serve.dispatching.query import Group, PendingQuery, Worker

_BATCH = (1 << KIND_SHIFT) - 1
HURRY = 0.95
"""Part of its slack that a query may be forecast to wait; the rest is for batches that take longer."""
CROWDED = 0.5
"""Part of the slack in which all workers together should run what waits; where they cannot, queries are given up."""


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
        """Take note that a query could not start on arrival."""
        pace = self._paces.get(query.kind)
        if pace is None:
            pace = self._paces[query.kind] = Pace(2.0 * self._rules.deadline)
        pace.waits(now)

    def removed(self, query: PendingQuery) -> None:
        """Take note that a waiting query has ended."""
        self._queues.gone(query.kind)

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
        before, slack = self._queues.before(query), query.due - now
        slack -= self._fleet.quickest[query.size_class][query.batch]
        # Starts come in clumps where workers end together: just after the first of a clump the pace looks slow.
        return pace.wait(before, now) > HURRY * slack and (
            len(self._queues.kinds) > 1 or self._crowded(query, before, slack)
        )

    def _crowded(self, query: PendingQuery, waiting: int, slack: float) -> bool:
        """Return whether all workers together cannot run so many queries like one in half of a slack."""
        fleet, items = self._fleet, waiting * query.batch
        return fleet.least_seconds(items, fleet.most, query.size_class) > CROWDED * slack

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

    def _relieved(self, query: PendingQuery, group: Group, now: float) -> PendingQuery | None:
        """Return the query to start on a group instead of the first of its kind, None if none is left.

        The first has waited longest: it may have no time left for more than a small batch. While more waits than can
        be run in time, small batches make all later ones wait longer, until hardly any query is in time. So the first
        ones are given up that have no time for a batch as large as the queue would make it (early drop, as in Nexus,
        SOSP'19, section 6.3). With queries of several batch sizes none is given up.
        """
        queues = self._queues
        while len(queues.kinds) == 1:
            items = queues.waiting * query.batch
            if query.due - now >= group.seconds[query.size_class][min(group.most, items)]:
                break
            slack = self._rules.deadline - self._fleet.quickest[query.size_class][query.batch]
            if not self._crowded(query, queues.waiting, slack):
                break
            queues.pop(query.kind)
            self.dropped.append(query)
            head = self._head(query.kind, now)
            if head is None:
                return None
            query = head
        return query

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


class Queues:
    """Queries in the order of their keys, per kind.

    Attributes:
        heaps: by kind; queries that have ended are among them.
        kinds: of which something may wait, ascending.
        waiting: how many queries wait.
    """

    __slots__ = ("_ended", "_largest", "_number", "heaps", "kinds", "waiting")

    def __init__(self) -> None:
        self.heaps: dict[int, list[tuple[float, int, PendingQuery]]] = {}
        self._largest: dict[int, float] = {}  # key since the heap was last empty
        self._ended: dict[int, int] = {}  # how many in the heap wait no more
        self._number = 0
        self.kinds: list[int] = []
        self.waiting = 0

    def put(self, query: PendingQuery) -> None:
        """Add a query."""
        heap = self.heaps.get(query.kind)
        if heap is None:
            heap = self.heaps[query.kind] = []
            self._ended[query.kind] = 0
        if not heap:
            self._largest[query.kind] = query.key
            if query.kind not in self.kinds:  # it is listed until `head` has found it empty
                insort(self.kinds, query.kind)
        elif query.key > self._largest[query.kind]:
            self._largest[query.kind] = query.key
        self._number += 1
        heappush(heap, (query.key, self._number, query))
        self.waiting += 1

    def head(self, kind: int) -> PendingQuery | None:
        """Return the first query of a kind, None if there is none any more."""
        heap = self.heaps[kind]
        while heap:
            query = heap[0][2]
            if query.state == QUEUED:
                return query
            heappop(heap)
            self._ended[kind] -= 1
        at = bisect_left(self.kinds, kind)
        if at < len(self.kinds) and self.kinds[at] == kind:
            del self.kinds[at]
        return None

    def pop(self, kind: int) -> None:
        """Take the first query of a kind, which `head` has just returned."""
        heappop(self.heaps[kind])
        self.waiting -= 1

    def gone(self, kind: int) -> None:
        """Count one query of a kind less: its state says that it does not wait."""
        self._ended[kind] += 1
        self.waiting -= 1

    def before(self, query: PendingQuery) -> int:
        """Return how many queries of its kind stand before a query that is not yet in."""
        heap = self.heaps.get(query.kind)
        if not heap:
            return 0
        # Nearly always: of equal deadlines the newest is the latest.
        if query.key >= self._largest[query.kind]:
            return len(heap) - self._ended[query.kind]
        return sum(1 for key, _, each in heap if key <= query.key and each.state == QUEUED)


ENOUGH = 4
"""Starts that tell a pace."""


class Pace:
    """Starts of one batch size while some of it wait.

    Args:
        horizon: seconds of the past that count; older starts fade.
    """

    __slots__ = ("_horizon", "_since", "_starts")

    def __init__(self, horizon: float) -> None:
        self._horizon = horizon
        self._since: float | None = None
        self._starts = 0.0

    def waits(self, now: float) -> None:
        """Say that a query waits which could not start at once."""
        if self._since is None:
            self._since, self._starts = now, 0.0

    def started(self, now: float) -> None:
        """Count a start of a query that has waited."""
        if self._since is not None:
            self._starts += 1.0
            if now - self._since > self._horizon:
                self._since, self._starts = (self._since + now) / 2, self._starts / 2

    def emptied(self) -> None:
        """Say that nothing waits any more."""
        self._since = None

    def wait(self, before: int, now: float) -> float:
        """Return the seconds until a query starts that has so many before it; 0 while nothing is known."""
        if self._since is None:
            return 0.0
        span = now - self._since
        if self._starts < ENOUGH and span < self._horizon / 2:
            return 0.0
        return before * span / max(self._starts, 1.0)
