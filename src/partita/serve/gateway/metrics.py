"""The metrics page for Prometheus, and a counter of the errors that clients get.

Queries are counted in plain numbers (`statistics`), since prometheus-client's counters take a lock for each update.
The page is made from them on request.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from partita.metrics import INSTANCE_LABELS, MetricsPage, states
from partita.serve.dispatching.query import RefusalReason
from partita.serve.gateway.oip import REASONS
from partita.serve.gateway.statistics import (
    DECISION_EDGES_S,
    GatewaySnapshot,
    ServiceView,
    WorkerStatus,
    WorkerView,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from partita.metrics import MetricsSource

_WORKER = ("service", *INSTANCE_LABELS)


class Metrics:
    """Makes the metrics page.

    Attributes:
        errors: counter of the errors that clients get.

    Args:
        snapshot: returns the gateway's state.
    """

    def __init__(self, snapshot: Callable[[], GatewaySnapshot]) -> None:
        self.errors = ErrorCounter()
        self._snapshot = snapshot

    def page(self, accept: str = "") -> tuple[bytes, str]:
        """Return the page and its media type, as `MetricsPage.read` does."""
        return self.prepared(accept)()

    def prepared(self, accept: str = "") -> Callable[[], tuple[bytes, str]]:
        """Return what writes the page of this moment, for another thread: with 1,000 services it takes a second."""
        return partial(MetricsPage(self.taken()).read, accept)

    def taken(self) -> MetricsSource:
        """Return what yields all metrics as they are now, whatever changes meanwhile."""
        return partial(_metrics, self._snapshot(), dict(self.errors.counted))


def _metrics(snapshot: GatewaySnapshot, counted: Mapping[ErrorKind, int]) -> Iterator[Metric]:
    yield from _services(snapshot.services)
    errors = CounterMetricFamily(
        "partita_errors",
        "Requests answered with an error: 4xx and 5xx of HTTP, codes of gRPC",
        labels=("transport", "status", "reason"),
    )
    for kind, count in sorted({**_USUAL_ERRORS, **counted}.items()):
        errors.add_metric(kind, count)
    yield errors
    yield from _workers(snapshot.workers)
    draining = GaugeMetricFamily("partita_draining", "1 while the gateway takes no new queries")
    draining.add_metric((), int(snapshot.draining))
    yield draining


def _histogram(
    bounds: Iterable[float], counts: Sequence[int], total: float | None
) -> tuple[list[tuple[str, float]], float | None]:
    """Return cumulative buckets, as the text format has them, and the total."""
    buckets, seen = [], 0
    for name, count in zip([*map(floatToGoString, bounds), "+Inf"], counts, strict=True):
        seen += count
        buckets.append((name, float(seen)))
    return buckets, total


def _services(services: Sequence[ServiceView]) -> Iterator[Metric]:
    label = ("service",)
    requests = CounterMetricFamily(
        "partita_requests",
        "Ended queries: in_time, late, invalid, failed, refused, cancelled",
        labels=("service", "outcome"),
    )
    latency = HistogramMetricFamily(
        "partita_request_seconds", "Seconds from a query's arrival to its answer", labels=label
    )
    waiting = GaugeMetricFamily("partita_queue_length", "Queries that wait for a worker", labels=label)
    in_flight = GaugeMetricFamily("partita_in_flight", "Queries that workers are running", labels=label)
    attained = GaugeMetricFamily(
        "partita_slo_attainment",
        "Share answered in time of the queries that ended in the last 5 minutes, without invalid and cancelled ones; "
        "NaN if none ended",
        labels=label,
    )
    objective = GaugeMetricFamily(
        "partita_slo_objective", "Share of the queries that the SLO promises in time", labels=label
    )
    slo = GaugeMetricFamily("partita_slo_seconds", "Seconds from arrival to answer by the SLO", labels=label)
    items = CounterMetricFamily("partita_items", "Inferences: answered queries' batch sizes", labels=label)
    offered = CounterMetricFamily(
        "partita_offered_items", "Batch sizes of all queries, including refused ones", labels=label
    )
    batches = CounterMetricFamily("partita_batches", "Batches that workers ran", labels=label)
    retried = CounterMetricFamily("partita_retried", "Queries that were started twice", labels=label)
    hung = CounterMetricFamily("partita_workers_hung", "Workers ended because they hung", labels=label)
    queued = CounterMetricFamily(
        "partita_queue_seconds", "Seconds that answered queries waited", labels=label
    )
    refused = CounterMetricFamily("partita_refused", "Refused queries", labels=("service", "reason"))
    deciding = HistogramMetricFamily(
        "partita_decision_seconds", "Seconds that a routing decision took", labels=label
    )
    busy = CounterMetricFamily(
        "partita_busy_seconds",
        "Seconds of work of all workers there have been, whatever the GPUs are cut into",
        labels=("service", "GPU_I_PROFILE"),
    )
    for each in services:
        key, seen = (each.name,), each.statistics
        outcomes = {
            "in_time": seen.in_time,
            "late": seen.success.count - seen.in_time,
            "invalid": seen.invalid,
            "failed": seen.failed,
            "refused": sum(seen.refused.values()),
            "cancelled": seen.cancelled,
        }
        for outcome, count in outcomes.items():
            requests.add_metric((each.name, outcome), count)
        latency.add_metric(key, *_histogram(seen.latency_edges, seen.latency, seen.success.seconds))
        waiting.add_metric(key, each.waiting)
        in_flight.add_metric(key, each.in_flight)
        attained.add_metric(key, math.nan if each.attainment is None else each.attainment)
        objective.add_metric(key, each.quantile)
        slo.add_metric(key, each.slo_s)
        items.add_metric(key, seen.items)
        offered.add_metric(key, seen.offered)
        batches.add_metric(key, seen.executions)
        retried.add_metric(key, seen.retried)
        hung.add_metric(key, each.hung)
        queued.add_metric(key, seen.queue.seconds)
        for reason in RefusalReason:
            refused.add_metric((each.name, str(reason)), seen.refused.get(reason, 0))
        # The gateway keeps no sum of decision times; without a sum the text format has no count either.
        deciding.add_metric(key, *_histogram(DECISION_EDGES_S, seen.decisions, None))
        for profile, seconds in sorted(each.busy_s.items()):
            busy.add_metric((each.name, profile), seconds)
    yield from (requests, latency)
    yield from (waiting, in_flight, attained, objective, slo)
    yield from (items, offered, batches, retried, hung, queued, refused, deciding, busy)


def _workers(workers: Sequence[WorkerView]) -> Iterator[Metric]:
    busy = CounterMetricFamily("partita_instance_busy_seconds", "Seconds of work", labels=_WORKER)
    running = GaugeMetricFamily("partita_instance_running", "Batches under way", labels=_WORKER)
    answered = CounterMetricFamily("partita_instance_answered", "Answered queries", labels=_WORKER)
    slow = GaugeMetricFamily(
        "partita_instance_slowdown",
        "Seconds of its batches relative to instances of its size",
        labels=_WORKER,
    )
    state = GaugeMetricFamily(
        "partita_instance_state", "1 for the current state, 0 for all others", labels=(*_WORKER, "state")
    )
    by_instance: dict[tuple[str, ...], list[WorkerView]] = {}
    for each in workers:
        by_instance.setdefault((each.service, *each.instance), []).append(each)
    # Two are on one instance while one replaces the other; a series must not be on the page twice.
    for key, those in by_instance.items():
        busy.add_metric(key, sum(each.busy_s for each in those))
        running.add_metric(key, sum(each.running for each in those))
        answered.add_metric(key, sum(each.answered for each in those))
        slow.add_metric(key, max(each.slowdown for each in those))
        newest = min(those, key=lambda each: each.state is WorkerStatus.DRAINING)
        states(state, dict(zip(_WORKER, key, strict=True)), WorkerStatus, newest.state)
    yield from (busy, running, answered, slow, state)


# Errors that clients get


_LOG = logging.getLogger("partita.serve.requests")
_EVERY_S = 5.0
_MOST_TEXT = 300
ErrorKind = tuple[str, str, str]
"""Transport (`http`, `grpc`), status (`400`, `INVALID_ARGUMENT`), reason (one word of a fixed list)."""
_USUAL_ERRORS: dict[ErrorKind, int] = {
    **{("http", str(status), reason): 0 for status, reason in REASONS.items()},
    **{("http", "503", str(reason)): 0 for reason in RefusalReason},
    ("http", "500", "internal"): 0,
    **{
        ("grpc", "RESOURCE_EXHAUSTED" if reason is RefusalReason.FULL else "UNAVAILABLE", str(reason)): 0
        for reason in RefusalReason
    },
    ("grpc", "DEADLINE_EXCEEDED", str(RefusalReason.LATE)): 0,
    ("grpc", "INTERNAL", "failed"): 0,
    ("grpc", "INVALID_ARGUMENT", REASONS[400]): 0,
}
"""Errors that are on the page before there is one, so that the first one is seen as an increase."""


class ErrorCounter:
    """Counts errors sent to clients, and logs at most one of each kind per interval, with the number since the last.

    Attributes:
        counted: number of errors by kind.

    Args:
        clock: returns seconds.
        every_s: minimum seconds between two log lines of one kind.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, every_s: float = _EVERY_S) -> None:
        self.counted: Counter[ErrorKind] = Counter()
        self._clock, self._every_s = clock, every_s
        self._logged: dict[ErrorKind, tuple[float, int]] = {}  # time of the last log line, and the count then

    def count(self, kind: ErrorKind, peer: object, asked: str, what: str) -> None:
        """Count an error.

        Args:
            kind: of the error.
            peer: address and port of the client, or None.
            asked: method and path, without query and headers, which may hold secrets.
            what: the message to the client.
        """
        self.counted[kind] += 1
        now, (last, before) = self._clock(), self._logged.get(kind, (-self._every_s, 0))
        if now - last < self._every_s:
            return
        self._logged[kind] = now, self.counted[kind]
        transport, status, reason = kind
        more = self.counted[kind] - before - 1
        unavailable = status.startswith("5") or status in {"UNAVAILABLE", "INTERNAL", "RESOURCE_EXHAUSTED"}
        _LOG.log(
            logging.WARNING if unavailable else logging.INFO,
            "%s %s (%s) to %s: %s: %s%s",
            transport,
            status,
            reason,
            _address(peer),
            _printable(asked),
            _printable(what),
            f"; {more} more of this kind before" if more else "",
            extra={
                "event": "refused",
                "transport": transport,
                "status": status,
                "reason": reason,
                "peer": _address(peer),
                "more": more,
            },
        )


def _address(peer: object) -> str:
    if isinstance(peer, tuple) and len(peer) >= 2:
        return f"[{peer[0]}]:{peer[1]}" if ":" in str(peer[0]) else f"{peer[0]}:{peer[1]}"
    return _printable(str(peer)) if peer else "a client"


def _printable(text: str) -> str:
    """Return a text without line ends and control characters, and shortened."""
    cut = text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 3] + "..."
    return cut if cut.isprintable() else ascii(cut)[1:-1]
