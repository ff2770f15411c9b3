"""Waiting queries in the order of their keys, and how fast they drain."""

from __future__ import annotations

from bisect import bisect_left, insort
from heapq import heappop, heappush

from partita.serve.gateway.query import QUEUED, PendingQuery


class Queues:
    """Queries in the order of their keys, per kind.

    Attributes:
        heaps: by kind; queries that have ended are among them.
        kinds: of which something may wait, ascending.
        waiting: how many queries wait.
    """

    __slots__ = ("_largest", "_number", "heaps", "kinds", "waiting")

    def __init__(self) -> None:
        self.heaps: dict[int, list[tuple[float, int, PendingQuery]]] = {}
        self._largest: dict[int, float] = {}  # key since the heap was last empty
        self._number = 0
        self.kinds: list[int] = []
        self.waiting = 0

    def put(self, query: PendingQuery) -> None:
        """Add a query."""
        heap = self.heaps.get(query.kind)
        if heap is None:
            heap = self.heaps[query.kind] = []
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
        at = bisect_left(self.kinds, kind)
        if at < len(self.kinds) and self.kinds[at] == kind:
            del self.kinds[at]
        return None

    def pop(self, kind: int) -> None:
        """Take the first query of a kind, which `head` has just returned."""
        heappop(self.heaps[kind])
        self.waiting -= 1

    def gone(self) -> None:
        """Count one query less: its state says that it does not wait."""
        self.waiting -= 1

    def before(self, query: PendingQuery) -> int:
        """Return how many queries of its kind stand before a query that is not yet in."""
        heap = self.heaps.get(query.kind)
        if not heap:
            return 0
        # Nearly always: of equal deadlines the newest is the latest.
        if query.key >= self._largest[query.kind]:
            return len(heap)
        return sum(1 for key, _, _ in heap if key <= query.key)


_ENOUGH = 4
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
        if self._since is None or not before:
            return 0.0
        span = now - self._since
        if self._starts < _ENOUGH and span < self._horizon / 2:
            return 0.0
        return before * span / max(self._starts, 1.0)
