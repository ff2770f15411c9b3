"""Prices, live: the cheapest slice that still meets the deadline, chosen on arrival."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from partita.serve.gateway.routers.bound import BoundQueues

if TYPE_CHECKING:
    from partita.serve.gateway.query import PendingQuery, Worker


class Price(BoundQueues):
    """Binds each query on arrival to the worker of least price x seconds among those that answer it in time.

    Of equally cheap ones the one that is idle first takes it; where none answers it in time it is refused.
    """

    def choose(self, query: PendingQuery, now: float) -> Worker | None:
        """Return the worker to bind a query to, None if it should be refused."""
        left, least, best = query.due - now, (math.inf, math.inf), None
        for worker, seconds in self._usable(query):
            price = worker.group.price if worker.group else math.inf
            wait = self.wait(worker, now)
            if wait + seconds <= left and (price * seconds, wait) < least:
                least, best = (price * seconds, wait), worker
        return best
