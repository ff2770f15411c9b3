"""What one service has done, counted as it happens."""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import TYPE_CHECKING

from partita.serve.gateway.values import DECISION_EDGES_S, Counted, Outcome, Reason, ServiceStatistics

if TYPE_CHECKING:
    from partita.serve.gateway.waiting import Waiting

TICK = 1e-9
"""Seconds by which an answer may be late without counting so: the sum of roundings, not of waiting."""


class Ledger:
    """Counts and seconds since the start."""

    __slots__ = (
        "_batches", "_cancelled", "_compute", "_decisions", "_fail", "_in_time", "_items", "_last", "_queue",
        "_refused", "_success",
    )  # fmt: skip

    def __init__(self) -> None:
        self._success, self._fail, self._queue, self._compute = [0, 0.0], [0, 0.0], 0.0, 0.0
        self._batches: dict[int, list[float]] = {}
        self._refused = dict.fromkeys(Reason, 0)
        self._items = self._in_time = self._cancelled = 0
        self._last = 0.0
        self._decisions = [0] * (len(DECISION_EDGES_S) + 1)

    def decided(self, seconds: float) -> None:
        """Count a decision and how long it took."""
        self._decisions[bisect_left(DECISION_EDGES_S, seconds)] += 1

    def executed(self, items: int, seconds: float) -> None:
        """Count a batch that a worker ran."""
        entry = self._batches.get(items)
        if entry is None:
            entry = self._batches[items] = [0, 0.0]
        entry[0] += 1
        entry[1] += seconds

    def answered(self, query: Waiting, now: float) -> None:
        """Count an answer."""
        self._success[0] += 1
        self._success[1] += now - query.arrived
        self._queue += query.begun - query.arrived
        self._compute += query.seconds
        self._items += query.batch
        self._last = time.time()
        if now <= query.due:
            self._in_time += 1

    def failed(self, query: Waiting, now: float, outcome: Outcome, reason: Reason | None) -> None:
        """Count a query that ended without an answer."""
        if outcome is Outcome.CANCELLED:
            self._cancelled += 1
            return
        self._fail[0] += 1
        self._fail[1] += now - query.arrived
        if reason is not None:
            self._refused[reason] += 1

    @property
    def decisions(self) -> tuple[int, ...]:
        """How many decisions took up to each of `DECISION_EDGES_S`, and how many longer."""
        return tuple(self._decisions)

    def statistics(self, retried: int) -> ServiceStatistics:
        """Return all of it; the dispatcher counts what was retried."""
        success = int(self._success[0])
        return ServiceStatistics(
            items=self._items,
            executions=int(sum(count for count, _ in self._batches.values())),
            last_at=self._last,
            success=Counted(success, self._success[1]),
            fail=Counted(int(self._fail[0]), self._fail[1]),
            queue=Counted(success, self._queue),
            compute=Counted(success, self._compute),
            batches={size: Counted(int(each[0]), each[1]) for size, each in sorted(self._batches.items())},
            refused=dict(self._refused),
            in_time=self._in_time,
            cancelled=self._cancelled,
            retried=retried,
        )
