"""Waiting queries, a heap per batch size, ended ones deleted when they come up."""

from __future__ import annotations

from bisect import bisect_left, insort
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from partita.serve.gateway.waiting import QUEUED

if TYPE_CHECKING:
    from partita.serve.gateway.waiting import Waiting


class Queues:
    """Queries in the order of their keys, per batch size.

    Attributes:
        heaps: by batch size; queries that have ended are among them.
        sizes: batch sizes of which something may wait, ascending.
        waiting: how many queries wait.
    """

    __slots__ = ("_largest", "_number", "heaps", "sizes", "waiting")

    def __init__(self) -> None:
        self.heaps: dict[int, list[tuple[float, int, Waiting]]] = {}
        self._largest: dict[int, float] = {}  # key since the heap was last empty
        self._number = 0
        self.sizes: list[int] = []
        self.waiting = 0

    def put(self, query: Waiting) -> None:
        """Add a query."""
        heap = self.heaps.get(query.batch)
        if heap is None:
            heap = self.heaps[query.batch] = []
        if not heap:
            self._largest[query.batch] = query.key
            if query.batch not in self.sizes:  # it is listed until `head` has found it empty
                insort(self.sizes, query.batch)
        elif query.key > self._largest[query.batch]:
            self._largest[query.batch] = query.key
        self._number += 1
        heappush(heap, (query.key, self._number, query))
        self.waiting += 1

    def head(self, batch: int) -> Waiting | None:
        """Return the first query of a batch size, None if there is none any more."""
        heap = self.heaps[batch]
        while heap:
            query = heap[0][2]
            if query.state == QUEUED:
                return query
            heappop(heap)
        at = bisect_left(self.sizes, batch)
        if at < len(self.sizes) and self.sizes[at] == batch:
            del self.sizes[at]
        return None

    def pop(self, batch: int) -> None:
        """Take the first query of a batch size, which `head` has just returned."""
        heappop(self.heaps[batch])
        self.waiting -= 1

    def gone(self) -> None:
        """Count one query less: its state says that it does not wait."""
        self.waiting -= 1

    def before(self, query: Waiting) -> int:
        """Return how many queries of its batch size stand before a query that is not yet in."""
        heap = self.heaps.get(query.batch)
        if not heap:
            return 0
        # Nearly always: of equal deadlines the newest is the latest.
        if query.key >= self._largest[query.batch]:
            return len(heap)
        return sum(1 for key, _, _ in heap if key <= query.key)
