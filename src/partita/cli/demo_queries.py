"""The queries of the live demo: counted by a simple model, and served as the metrics page of a gateway.

A service that is asked for the share u of what its instances can answer takes a log-normal time for an answer, whose
median rises with the cube of u; queries beyond its capacity are refused.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import TYPE_CHECKING

from partita.metrics import instance_labels
from partita.serve.dispatching.query import RefusalReason
from partita.serve.gateway.statistics import (
    DECISION_EDGES_S,
    Count,
    GatewaySnapshot,
    ServiceStatistics,
    ServiceView,
    WorkerStatus,
    WorkerView,
    latency_edges,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from partita.drive.driver import Observation

_IDLE_MEDIAN, _LOADED_MEDIAN, _SIGMA = 0.2, 0.22, 0.35
"""Median of the time for an answer as a share of the SLO: without load, and what full load adds; its sigma."""

_BATCH = 8
"""Queries that an instance answers together."""


@dataclass(frozen=True, slots=True)
class Promised:
    """A service, and what it promises: a share `quantile` of the answers within `slo_s` seconds."""

    name: str
    slo_s: float
    quantile: float


@dataclass(slots=True)
class _Counts:
    """What was counted of a service since the start; fractions of queries add up, too.

    Attributes:
        edges: upper bounds of all buckets of latencies but the last, in seconds.
    """

    edges: tuple[float, ...]
    buckets: list[float]
    offered: float = 0.0
    refused: float = 0.0
    in_time: float = 0.0
    seconds: float = 0.0
    used: float = 0.0
    """Share of the capacity that was asked for last."""
    latency_s: float = 0.0
    """Median of the last answers."""
    rate: float = 0.0


class SimulatedQueries:
    """Counts the queries of services, and says what a gateway in front of them would.

    Args:
        services: in any order.
    """

    def __init__(self, services: Sequence[Promised]) -> None:
        self._services = services
        self._counts = {
            each.name: _Counts(edges, [0.0] * (len(edges) + 1))
            for each in services
            for edges in [latency_edges(each.slo_s)]
        }
        self._busy: dict[tuple[str, str, str], float] = defaultdict(float)
        self._seen: tuple[tuple[str, str, str, str, int | None], ...] = ()

    def pass_by(self, seconds: float, rates: Mapping[str, float], observation: Observation) -> None:
        """Count the queries of some seconds.

        Args:
            seconds: that have passed.
            rates: queries per second by service.
            observation: the cluster: ready replicas answer.
        """
        capacity: dict[str, float] = defaultdict(float)
        seen = []
        for gpu in observation.gpus:
            for each in gpu.instances:
                if each.replica is None or not each.replica.ready or each.replica.draining:
                    continue
                service, place = each.replica.replica.service, str(each.placement)
                capacity[service] += each.replica.replica.throughput
                seen.append((service, gpu.id, place, gpu.uuid, each.identity.gi_id))
        for promised in self._services:
            self._count(promised, seconds, rates.get(promised.name, 0.0), capacity[promised.name])
        for service, gpu_id, place, _, _ in seen:
            if service in self._counts:
                # Instances of one service are never quite alike in use.
                unlike = 0.9 + 0.1 * math.sin(sum(map(ord, gpu_id + place)))
                used = min(1.0, self._counts[service].used) * unlike
                self._busy[service, gpu_id, place] += used * seconds
        self._seen = tuple(seen)

    def _count(self, promised: Promised, seconds: float, rate: float, capacity: float) -> None:
        counts = self._counts[promised.name]
        used = rate / capacity if capacity > 0 else math.inf if rate > 0 else 0.0
        answered = min(rate, capacity) * seconds
        counts.used, counts.rate = used, rate
        counts.offered += rate * seconds
        counts.refused += max(0.0, rate - capacity) * seconds
        counts.latency_s = promised.slo_s * (_IDLE_MEDIAN + _LOADED_MEDIAN * min(1.0, used) ** 3)
        normal = NormalDist(math.log(counts.latency_s), _SIGMA)
        upto = [0.0, *(normal.cdf(math.log(edge)) for edge in counts.edges), 1.0]
        for i, (low, high) in enumerate(pairwise(upto)):
            counts.buckets[i] += answered * (high - low)
        counts.in_time += answered * normal.cdf(math.log(promised.slo_s))
        counts.seconds += answered * counts.latency_s * math.exp(_SIGMA**2 / 2)

    def snapshot(self) -> GatewaySnapshot:
        """Return what a gateway in front of the services would say now."""
        services = tuple(self._view(each) for each in self._services)
        workers = tuple(
            WorkerView(
                service,
                f"{gpu}/{place}",
                instance_labels(gpu, place, uuid, number),
                0,
                WorkerStatus.BUSY if self._counts[service].rate > 0 else WorkerStatus.IDLE,
                int(self._counts[service].rate > 0),
                1,
                self._busy[service, gpu, place],
                0,
                1.0,
            )
            for service, gpu, place, uuid, number in self._seen
            if service in self._counts
        )
        return GatewaySnapshot(services, workers, draining=False)

    def _view(self, promised: Promised) -> ServiceView:
        counts = self._counts[promised.name]
        refused = {RefusalReason.FULL: int(counts.refused)}
        buckets = tuple(map(int, counts.buckets))
        answered = sum(buckets)
        statistics = ServiceStatistics(
            items=answered,
            executions=answered // _BATCH,
            last_at=time.time(),
            success=Count(answered, counts.seconds),
            fail=Count(int(counts.refused), 0.0),
            queue=Count(answered, counts.seconds / 3),
            compute=Count(answered, counts.seconds * 2 / 3),
            batches={},
            refused=refused,
            in_time=min(answered, int(counts.in_time)),
            cancelled=0,
            retried=0,
            invalid=0,
            failed=0,
            latency=buckets,
            decisions=(0,) * (len(DECISION_EDGES_S) + 1),
            offered=int(counts.offered),
            latency_edges=counts.edges,
        )
        # As many are there as come while one is answered (Little's law); a third of that time they wait.
        there = min(counts.rate, counts.rate / max(counts.used, 1e-9)) * counts.latency_s
        full = 100 if counts.used > 1 else 0
        return ServiceView(
            promised.name,
            int(there / 3) + full,
            int(there * 2 / 3),
            statistics,
            0,
            promised.slo_s,
            promised.quantile,
        )
