"""ELSA, live: the smallest slice that has slack left (PARIS and ELSA, DAC'22, section IV.C)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from partita.serve.gateway.routers.bound import BoundQueues

if TYPE_CHECKING:
    from partita.serve.gateway.query import PendingQuery, Worker


class Elsa(BoundQueues):
    """Binds each query on arrival to the first worker, from small to large, that answers it in time.

    If none does it is refused; without early refusal it goes to the one that would finish it first, as in the paper.
    """

    def choose(self, query: PendingQuery, now: float) -> Worker | None:
        """Return the worker to bind a query to, None if it should be refused."""
        left, soonest, best = query.due - now, math.inf, None
        for worker, seconds in self._usable(query):
            end = self.wait(worker, now) + seconds
            if end <= left:
                return worker
            if end < soonest:
                soonest, best = end, worker
        return None if self._rules.early else best
