"""Workloads of one service with a cut, on made-up tables."""

from __future__ import annotations

from typing import Any

from partita.perf.table import Measurement, PerfTable
from partita.planning.formulate import Formulation, formulate
from partita.serve.reserving.services import CutService, cut_services
from partita.workload import Batches, LimitsSpec, PoolSpec, ServiceSpec, Slo, Workload

SPEEDS = {
    "a30-24gb": {"1g.6gb": 1.0, "2g.12gb": 1.9, "4g.24gb": 3.5},
    "a100-40gb": {"1g.5gb": 1.0, "2g.10gb": 1.9, "3g.20gb": 2.7, "4g.20gb": 3.5, "7g.40gb": 5.5},
}


def table(quantile: str = "0.99", batches: tuple[int, ...] = (1, 4, 16)) -> PerfTable:
    """Return rows of model `net`: 2 ms and 10 ms for each item, on the smallest slice."""
    return PerfTable(
        Measurement("net", gpu, profile, batch, 1, batch / ms * 1000, ms, quantile)
        for gpu, speeds in SPEEDS.items()
        for profile, speed in speeds.items()
        for batch in batches
        for ms in (2 + 10 * batch / speed,)
    )


def service(**given: Any) -> ServiceSpec:
    asked: dict[str, Any] = {
        "name": "net",
        "model": "net",
        "rate": 600,
        "slo": Slo(latency_ms=80),
        "cut": "fluid",
        "batches": Batches(histogram={1: 0.5, 4: 0.3, 8: 0.2}),
    }
    return ServiceSpec(**{**asked, **given})


def workload(*services: ServiceSpec, **given: Any) -> Workload:
    pools = given.pop("gpus", (PoolSpec(model="a30-24gb"),))
    limits = LimitsSpec(**given.pop("limits", {}))
    return Workload(
        gpus=pools, services=services, limits=limits,
        performance=("perf.csv",), **given,
    )  # fmt: skip


def formulated(asked: Workload, rows: PerfTable | None = None) -> tuple[Formulation, tuple[CutService, ...]]:
    made = formulate(asked, rows or table())
    return made, cut_services(asked, made.problem.pools, made.measured)


def cut_service(**given: Any) -> CutService:
    return formulated(workload(service(**given)))[1][0]
