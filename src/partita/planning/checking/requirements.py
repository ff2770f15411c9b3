"""What a plan must meet, stated straight from the user's document: what the checker holds a plan against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.mig.catalogue import gpu_model

if TYPE_CHECKING:
    from partita.mig.gpu import GpuModel
    from partita.workload import PoolSpec, ServiceSpec, Workload


@dataclass(frozen=True, slots=True)
class RequiredService:
    """What one service is promised.

    Attributes:
        asked_rate: items/s, as the user wrote them.
        rate: items/s, headroom included.
        latency_slo_ms: the SLO itself.
        latency_ms: the longest that one batch may take: the SLO times the workload's latency factor.
        quantile: which latency counts; None for the strictest that the table has.
        profiles: names or sizes of the profiles it may run on; None for any.
        pools: names of the pools whose GPUs it may use; None for any.
        alone: has whole GPUs of its own, cut for queries of unlike sizes that run one at a time. `latency_ms` is then
            the SLO itself, and the quantile says how many queries keep it, not which latencies count.
    """

    name: str
    model: str
    asked_rate: float
    rate: float
    latency_slo_ms: float
    latency_ms: float
    quantile: float | None = None
    profiles: tuple[str, ...] | None = None
    min_replicas: int = 1
    spread: int = 1
    alone: bool = False
    pools: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class RequiredPool:
    """GPUs there are: `gpu` with its forbidden combinations, `count` None for any number, cost per hour, name."""

    gpu: GpuModel
    count: int | None = None
    per_node: int = 8
    cost: float | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Requirements:
    """Services, pools, and the limits that hold for all."""

    services: tuple[RequiredService, ...]
    pools: tuple[RequiredPool, ...]
    max_batch: int | None = None
    max_processes: int = 1
    max_services_per_gpu: int | None = None


def requirements(workload: Workload) -> Requirements:
    """Return what a workload asks of a plan."""
    limits = workload.limits
    return Requirements(
        services=tuple(_service(each, limits.latency_factor) for each in workload.services),
        pools=tuple(_pool(each, limits.forbid) for each in workload.gpus),
        max_batch=limits.max_batch,
        max_processes=limits.max_processes,
        max_services_per_gpu=limits.max_services_per_gpu,
    )


def _service(spec: ServiceSpec, latency_factor: float) -> RequiredService:
    return RequiredService(
        name=spec.name,
        model=spec.model,
        asked_rate=spec.rate,
        rate=spec.rate * (1 + spec.headroom),
        latency_slo_ms=spec.slo.latency_ms,
        latency_ms=spec.slo.latency_ms * (1.0 if spec.cut else latency_factor),
        quantile=spec.slo.quantile,
        profiles=spec.profiles,
        min_replicas=spec.min_replicas,
        spread=spec.spread,
        alone=spec.cut is not None,
        pools=spec.pools,
    )


def _pool(spec: PoolSpec, forbid: tuple[str, ...]) -> RequiredPool:
    gpu = gpu_model(spec.model).forbidding(forbid)
    return RequiredPool(gpu, spec.count, spec.per_node, spec.cost_per_hour, spec.name or spec.model)
