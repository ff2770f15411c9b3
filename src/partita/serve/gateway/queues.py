"""Waiting queries, a heap per kind (batch size and size class), ended ones deleted when they come up."""

from __future__ import annotations

from bisect import bisect_left, insort
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from partita.serve.gateway.waiting import QUEUED

if TYPE_CHECKING:
    from partita.serve.gateway.waiting import Waiting


class Queues:
    """Queries in the order of their keys, per kind.

    Attributes:
        heaps: by kind; queries that have ended are among them.
        kinds: of which something may wait, ascending.
        waiting: how many queries wait.
    """

    __slots__ = ("_largest", "_number", "heaps", "kinds", "waiting")

    def __init__(self) -> None:
        self.heaps: dict[int, list[tuple[float, int, Waiting]]] = {}
        self._largest: dict[int, float] = {}  # key since the heap was last empty
        self._number = 0
        self.kinds: list[int] = []
        self.waiting = 0

    def put(self, query: Waiting) -> None:
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

    def head(self, kind: int) -> Waiting | None:
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

    def before(self, query: Waiting) -> int:
        """Return how many queries of its kind stand before a query that is not yet in."""
        heap = self.heaps.get(query.kind)
        if not heap:
            return 0
        # Nearly always: of equal deadlines the newest is the latest.
        if query.key >= self._largest[query.kind]:
            return len(heap)
        return sum(1 for key, _, _ in heap if key <= query.key)
