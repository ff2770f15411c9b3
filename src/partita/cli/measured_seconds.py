"""What a workload's tables say of batches' seconds: for workers to go by, and for gateways to expect of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from partita.planner import PreparedWorkload
    from partita.workload import ServiceSpec


def measured_seconds(loaded: PreparedWorkload) -> dict[str, dict[tuple[str, str, int], dict[int, float]]]:
    """Return the seconds of batches of each service, by GPU model, profile and processes, at its SLO's quantile."""
    return {service.name: seconds_of(loaded, service) for service in loaded.workload.services}


def seconds_of(
    loaded: PreparedWorkload, service: ServiceSpec
) -> dict[tuple[str, str, int], dict[int, float]]:
    """Return the same of one service."""
    from partita.planning.formulate import quantile_of  # noqa: PLC0415 -- slow to import

    found: dict[tuple[str, str, int], dict[int, float]] = {}
    for gpu in {pool.gpu.name for pool in loaded.formulation.problem.pools}:
        rows = loaded.formulation.measured.of(service.model, gpu)
        quantile = quantile_of(rows, service.slo.quantile)
        for row in rows:
            if row.quantile == quantile:
                found.setdefault((gpu, row.profile, row.processes), {})[row.batch] = row.latency_ms / 1000
    return found
