"""Turns on an instance that several services share: whose batch runs next.

Each service has a dispatcher of its own, for which the instance is a worker like others. A batch that it starts goes
to the worker if nothing runs there, or else waits here. Turns go by the arrival of the queries, whichever service
they are of, as plans assume. Batches that cannot be in time any more come after all others.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.serve.dispatching.query import Batch, Worker
    from partita.serve.tensors import Query


class TurnSender(Protocol):
    """The connection to the worker of one of the services.

    Attributes:
        worker: of that service.
    """

    worker: Worker | None

    def send(self, number: int, queries: Sequence[Query]) -> None:
        """Send a batch to be run at once."""
        ...


class _Waiting(NamedTuple):
    arrived: float
    order: int
    sender: TurnSender
    batch: Batch
    queries: Sequence[Query]


class InstanceTurns:
    """Gives the services of one shared instance their turns; one batch runs at a time."""

    def __init__(self) -> None:
        self._runs: tuple[TurnSender, int] | None = None
        self._waiting: list[_Waiting] = []
        self._late: deque[_Waiting] = deque()
        self._order = count()

    def start(self, sender: TurnSender, number: int, queries: Sequence[Query], now: float) -> None:
        """Run a batch now, or when its turn comes."""
        assert sender.worker is not None  # noqa: S101 -- only workers that have joined get batches
        batch = sender.worker.running[number]
        arrived = min(query.arrived for query in batch.queries if query is not None)
        waiting = _Waiting(arrived, next(self._order), sender, batch, queries)
        if self._runs is None:
            self._send(waiting, now)
        else:
            batch.begun = math.inf  # it is not overdue before it begins
            heapq.heappush(self._waiting, waiting)

    def ended(self, sender: TurnSender, number: int, now: float) -> None:
        """Take note that a batch has ended; the next one begins."""
        if self._runs == (sender, number):
            self._next(now)

    def left(self, sender: TurnSender, now: float) -> None:
        """Forget the batches of a service whose worker is gone."""
        self._waiting = [each for each in self._waiting if each.sender is not sender]
        heapq.heapify(self._waiting)
        self._late = deque(each for each in self._late if each.sender is not sender)
        if self._runs is not None and self._runs[0] is sender:
            self._next(now)

    def _next(self, now: float) -> None:
        self._runs = None
        while self._waiting:
            found = heapq.heappop(self._waiting)
            if now + found.batch.expected <= found.batch.due:
                self._send(found, now)
                return
            self._late.append(found)
        if self._late:
            self._send(self._late.popleft(), now)

    def _send(self, waiting: _Waiting, now: float) -> None:
        waiting.batch.begun = now
        self._runs = waiting.sender, waiting.batch.number
        waiting.sender.send(waiting.batch.number, waiting.queries)
