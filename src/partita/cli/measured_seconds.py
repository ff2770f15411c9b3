"""What a workload's tables say of batches' seconds, for workers that take as long as the table says."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from partita.cli.loading import Loaded
    from partita.workload import ServiceSpec


def measured_seconds(loaded: Loaded) -> dict[str, dict[tuple[str, int], dict[int, float]]]:
    """Return the seconds of batches of each service, by profile and processes, at the quantile of its SLO.

    A profile that two of the workload's GPUs have, and which are unlike, is left out: it would not say whose it is.
    """
    return {service.name: _of(loaded, service) for service in loaded.workload.services}


def _of(loaded: Loaded, service: ServiceSpec) -> dict[tuple[str, int], dict[int, float]]:
    from partita.plan.formulating.measured import quantile_of  # noqa: PLC0415 -- slow to import

    found: dict[tuple[str, int], dict[str, dict[int, float]]] = {}
    for gpu in {pool.gpu.name for pool in loaded.formulation.problem.pools}:
        rows = loaded.formulation.measured.of(service.model, gpu)
        quantile = quantile_of(rows, service.slo.quantile)
        for row in rows:
            if row.quantile == quantile:
                size = found.setdefault((row.profile, row.processes), {})
                size.setdefault(gpu, {})[row.batch] = row.latency_ms / 1000
    return {size: next(iter(by_gpu.values())) for size, by_gpu in found.items() if len(by_gpu) == 1}
