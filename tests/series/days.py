"""Small workloads on A30s and series of rates for them."""

from __future__ import annotations

from partita.perf.table import Measurement, PerfTable
from partita.planner import PreparedWorkload, prepare
from partita.series.rates import Period, RateSeries
from partita.workload import PoolSpec, ServiceSpec, Slo, Workload

PROFILES = {"1g.6gb": 10.0, "2g.12gb": 22.0, "4g.24gb": 48.0}


def prepared(services: int = 2, count: int | None = None, **fields: object) -> PreparedWorkload:
    """Return services whose models do 10, 20 and more items/s on the smallest slice."""
    rows = [
        Measurement(f"m{i}", "a30-24gb", profile, 8, 1, throughput * i, 20.0, "0.9")
        for i in range(1, services + 1)
        for profile, throughput in PROFILES.items()
    ]
    workload = Workload(
        gpus=(PoolSpec(model="a30-24gb", count=count, cost_per_hour=2.0),),
        services=tuple(
            ServiceSpec(name=f"s{i}", model=f"m{i}", rate=40.0 * i, slo=Slo(latency_ms=50))
            for i in range(1, services + 1)
        ),
    )
    return prepare(workload.replace(**fields), PerfTable(rows))


def series(*rates: dict[str, float], hours: float = 1.0) -> RateSeries:
    return RateSeries(tuple(Period(index * hours, hours, each) for index, each in enumerate(rates)))
