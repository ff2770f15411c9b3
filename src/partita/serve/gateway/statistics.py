"""The gateway's counters of each service: since the start, and over the last seconds for planning."""

from __future__ import annotations

import json
import math
import time
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from partita.files import replacing
from partita.serve.dispatching.query import PendingQuery, QueryOutcome, RefusalReason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

ROUNDING_S = 1e-9
"""Tolerance of deadlines in seconds, for rounding errors."""
LATENCY_EDGES_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Upper bounds of the histogram of seconds from a query's arrival to its answer, beside that of the SLO itself."""
_MICROSECONDS = (1, 2, 5, 10, 15, 20, 30, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
DECISION_EDGES_S = tuple(each / 1e6 for each in _MICROSECONDS)
"""Upper bounds of the histogram of seconds of a routing decision."""


@dataclass(frozen=True, slots=True)
class Count:
    """Number of events, and the sum of their seconds."""

    count: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ServiceStatistics:
    """The counts of one service since the gateway's start: those of Triton's statistics extension, and more.

    Attributes:
        items: sum of the batch sizes of all answered queries.
        executions: batches that workers ran.
        last_at: time of the last answer, in seconds since 1970; 0 if none.
        success: answered queries, with the seconds from arrival to answer.
        fail: failed, invalid and refused queries, with the seconds from arrival to their end.
        queue: answered queries, with the seconds they waited in the gateway.
        compute: answered queries, with the seconds that their batches took in the worker.
        batches: executions by batch size, with their seconds in the worker.
        refused: refused queries by reason.
        in_time: queries answered within their deadline.
        cancelled: queries whose client left.
        retried: queries that were started a second time.
        invalid: queries that a worker found at fault.
        failed: queries that workers failed.
        latency: answered queries in each bucket of `latency_edges`; the last bucket has no upper bound.
        decisions: decisions in each bucket of `DECISION_EDGES_S`; the last bucket has no upper bound.
        offered: sum of the batch sizes of all queries, including refused ones.
        latency_edges: upper bounds in seconds of all buckets of `latency` but the last.
    """

    items: int
    executions: int
    last_at: float
    success: Count
    fail: Count
    queue: Count
    compute: Count
    batches: Mapping[int, Count]
    refused: Mapping[RefusalReason, int]
    in_time: int
    cancelled: int
    retried: int
    invalid: int
    failed: int
    latency: tuple[int, ...]
    decisions: tuple[int, ...]
    offered: int = 0
    latency_edges: tuple[float, ...] = LATENCY_EDGES_S


def latency_edges(slo_s: float) -> tuple[float, ...]:
    """Return the upper bounds of a service's histogram of latencies, in seconds, ascending.

    The SLO is one of them: without it a quantile between two others, estimated as Prometheus does, would lie beyond
    the SLO though the queries are in time.
    """
    return tuple(sorted({*LATENCY_EDGES_S, slo_s}))


class ServiceCounters:
    """Counts and seconds of one service since the start.

    Args:
        slo_s: seconds from arrival to answer by the SLO.
    """

    __slots__ = (
        "_answered", "_answered_s", "_batches", "_compute_s", "_decisions", "_edges", "_ended", "_failed_s",
        "_in_time", "_items", "_last_at", "_latency", "_queue_s", "_refused",
    )  # fmt: skip

    def __init__(self, slo_s: float) -> None:
        self._answered = self._items = self._in_time = 0
        self._answered_s = self._failed_s = self._queue_s = self._compute_s = self._last_at = 0.0
        self._batches: dict[int, list[float]] = {}
        self._ended = dict.fromkeys(QueryOutcome, 0)  # without an answer
        self._refused = dict.fromkeys(RefusalReason, 0)
        self._edges = latency_edges(slo_s)
        self._latency = [0] * (len(self._edges) + 1)
        self._decisions = [0] * (len(DECISION_EDGES_S) + 1)

    def promise(self, slo_s: float) -> None:
        """Have another SLO as a bucket's bound from now on.

        Answers so far that may have been in time by it or not count as late: it is not known of any.
        """
        old = dict(zip((*self._edges, math.inf), self._latency, strict=True))
        self._edges = latency_edges(slo_s)
        bounds = (*self._edges, math.inf)
        self._latency = [0] * len(bounds)
        for edge, count in old.items():
            self._latency[bisect_left(bounds, edge)] += count

    def decided(self, seconds: float) -> None:
        """Count a decision by its seconds."""
        self._decisions[bisect_left(DECISION_EDGES_S, seconds)] += 1

    def executed(self, items: int, seconds: float) -> None:
        """Count a batch that a worker ran."""
        entry = self._batches.get(items)
        if entry is None:
            entry = self._batches[items] = [0, 0.0]
        entry[0] += 1
        entry[1] += seconds

    def answered(self, query: PendingQuery, now: float, overhead_s: float = 0.0) -> None:
        """Count an answer; decisions aimed at so many seconds before the query's deadline."""
        seconds = now - query.arrived
        self._answered += 1
        self._answered_s += seconds
        self._latency[bisect_left(self._edges, seconds)] += 1
        self._queue_s += query.begun - query.arrived
        self._compute_s += query.seconds
        self._items += query.batch
        self._last_at = time.time()
        if now <= query.due + overhead_s:
            self._in_time += 1

    def failed(
        self, query: PendingQuery, now: float, outcome: QueryOutcome, reason: RefusalReason | None
    ) -> None:
        """Count a query that ended without an answer."""
        self._ended[outcome] += 1
        if outcome is not QueryOutcome.CANCELLED:
            self._failed_s += now - query.arrived
        if reason is not None:
            self._refused[reason] += 1

    @property
    def judged(self) -> tuple[int, int]:
        """How many queries were answered in time, and how many ended otherwise by no fault of the client's own.

        Invalid and cancelled queries are neither.
        """
        ended = self._ended
        missed = self._answered - self._in_time + ended[QueryOutcome.FAILED] + ended[QueryOutcome.REFUSED]
        return self._in_time, missed

    def statistics(self, retried: int, offered: int = 0) -> ServiceStatistics:
        """Return all counts, with `retried` of the dispatcher and `offered` of `ObservedQueries`."""
        ended = self._ended
        cancelled = ended[QueryOutcome.CANCELLED]
        return ServiceStatistics(
            items=self._items,
            executions=int(sum(count for count, _ in self._batches.values())),
            last_at=self._last_at,
            success=Count(self._answered, self._answered_s),
            fail=Count(sum(ended.values()) - cancelled, self._failed_s),
            queue=Count(self._answered, self._queue_s),
            compute=Count(self._answered, self._compute_s),
            batches={size: Count(int(each[0]), each[1]) for size, each in sorted(self._batches.items())},
            refused=dict(self._refused),
            in_time=self._in_time,
            cancelled=cancelled,
            retried=retried,
            invalid=ended[QueryOutcome.INVALID],
            failed=ended[QueryOutcome.FAILED],
            latency=tuple(self._latency),
            decisions=tuple(self._decisions),
            offered=offered,
            latency_edges=self._edges,
        )


ATTAINMENT_WINDOW_S = 300.0
ATTAINMENT_STEP_S = 10.0
"""Seconds between two looks at the counts of which the window's attainment is made."""


class RecentAttainment:
    """The share of queries answered in time over the last `ATTAINMENT_WINDOW_S` seconds, to `ATTAINMENT_STEP_S`."""

    __slots__ = ("_looks",)

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int, int]] = deque()

    def look(self, now: float, judged: tuple[int, int]) -> None:
        """Take note of a moment's counts (`ServiceCounters.judged`)."""
        looks = self._looks
        looks.append((now, *judged))
        while len(looks) > 1 and looks[1][0] <= now - ATTAINMENT_WINDOW_S:
            looks.popleft()

    def share(self, judged: tuple[int, int]) -> float | None:
        """Return the share from the counts now; None if no query has ended in the window."""
        _, in_time, missed = self._looks[0] if self._looks else (0.0, 0, 0)
        kept, ended = judged[0] - in_time, sum(judged) - in_time - missed
        return kept / ended if ended else None


@dataclass(frozen=True, slots=True)
class ServiceView:
    """The state of one service.

    Attributes:
        name: of the service.
        waiting: number of queries in the queue.
        in_flight: number of queries that workers are running.
        statistics: since the start.
        hung: number of workers that were killed because they hung.
        slo_s: default seconds from a query's arrival to its latest answer.
        quantile: share of the queries that must be answered by then.
        attainment: share answered in time over the last `ATTAINMENT_WINDOW_S` seconds; None if none ended.
        busy_s: seconds of work by profile, of all workers there have been; it never falls.
    """

    name: str
    waiting: int
    in_flight: int
    statistics: ServiceStatistics
    hung: int
    slo_s: float
    quantile: float
    attainment: float | None = None
    busy_s: Mapping[str, float] = field(default_factory=dict)


class WorkerStatus(StrEnum):
    """What a worker is doing."""

    IDLE = "idle"
    BUSY = "busy"
    SLOW = "slow"
    """A batch of it is overdue, and it gets nothing new until it has answered."""
    SUSPECTED = "suspected"
    """It cannot answer now, for one of `UnreadyReason`."""
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class WorkerView:
    """The state of one worker.

    Attributes:
        service: that it serves.
        name: such as `node-0/gpu-3/3g.40gb@4`.
        instance: values of `metrics.INSTANCE_LABELS`.
        pid: of its first process.
        state: what it is doing.
        running: number of running batches.
        processes: number of batches it can run concurrently.
        busy_s: seconds of work so far, over all its processes.
        answered: number of answered queries.
        slowdown: seconds of its batches relative to workers of its size.
    """

    service: str
    name: str
    instance: tuple[str, ...]
    pid: int
    state: WorkerStatus
    running: int
    processes: int
    busy_s: float
    answered: int
    slowdown: float


@dataclass(frozen=True, slots=True)
class GatewaySnapshot:
    """The state of the gateway."""

    services: tuple[ServiceView, ...]
    workers: tuple[WorkerView, ...]
    draining: bool


WINDOW_S = 30
"""Length of the observed window in seconds."""
LEAST_QUERIES = 100
"""Minimum number of queries in the window for a rate. A single test query to an idle service says nothing about its
load, and a plan for so little would take away capacity that the service needs a moment later."""


class ObservedQueries:
    """Batch sizes of the queries of the last `WINDOW_S` seconds, including refused ones.

    Attributes:
        items: sum of the batch sizes of all queries since the start.
    """

    __slots__ = ("_first", "_seconds", "items")

    def __init__(self) -> None:
        self.items = 0
        self._seconds: dict[int, dict[int, int]] = {}
        self._first: int | None = None

    def add(self, batch: int, now: float) -> None:
        """Count a query."""
        self.items += batch
        second = int(now)
        counts = self._seconds.get(second)
        if counts is None:
            counts = self._seconds[second] = {}
            if self._first is None:
                self._first = second
            self._forget(second)
        counts[batch] = counts.get(batch, 0) + 1

    def queries(self, now: float) -> dict[int, int]:
        """Return the queries in the window by batch size."""
        self._forget(int(now))
        total: dict[int, int] = {}
        for counts in self._seconds.values():
            for batch, count in counts.items():
                total[batch] = total.get(batch, 0) + count
        return dict(sorted(total.items()))

    def span(self, now: float) -> float:
        """Return the seconds from the first query in the window to now; at least 1, at most `WINDOW_S`."""
        if self._first is None:
            return 1.0
        return min(float(WINDOW_S), max(1.0, now - self._first))

    def _forget(self, second: int) -> None:
        for old in [each for each in self._seconds if each <= second - WINDOW_S]:
            del self._seconds[old]
        if not self._seconds:
            self._first = None


def rates(services: Iterable[tuple[str, ObservedQueries]], now: float) -> dict[str, object]:
    """Return rates in items/s and shares of batch sizes, for services with at least `LEAST_QUERIES` queries."""
    found: dict[str, object] = {}
    for name, observed in services:
        queries = observed.queries(now)
        total = sum(queries.values())
        if total >= LEAST_QUERIES:
            items = sum(batch * count for batch, count in queries.items())
            found[name] = {
                "rate": round(items / observed.span(now), 3),
                "batches": {str(batch): round(count / total, 6) for batch, count in queries.items()},
            }
    return found


def write_rates(path: Path, found: Mapping[str, object]) -> None:
    """Write observed rates atomically.

    Raises:
        PartitaError: the file cannot be written.
    """
    with replacing(path) as stream:
        stream.write(json.dumps(found) + "\n")
