"""What the workload and its tables say about each service before a worker does: deadlines, and seconds of batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.perf.operating_point import batch_times, strictest
from partita.planning.formulate import quantile_of
from partita.serve.gateway.route import ServedService
from partita.serve.reserving.services import promised_classes
from partita.workload import QUANTILE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.planning.formulate import Measured
    from partita.workload import LimitsSpec, ServiceSpec, Workload


def served_services(workload: Workload, measured: Measured) -> list[ServedService]:
    """Return a workload's services as a gateway knows them."""
    return [served_service(each, workload.limits, seconds_of(each, measured)) for each in workload.services]


def served_service(
    service: ServiceSpec, limits: LimitsSpec, seconds: Mapping[tuple[str, str, int], Mapping[int, float]]
) -> ServedService:
    """Return a service as a gateway knows it; `seconds` are those of batches, empty where workers tell theirs."""
    return ServedService(
        service.name,
        service.model,
        service.slo.latency_ms / 1000,
        service.slo.quantile or QUANTILE,
        promised_classes(service),
        seconds,
        limits.overhead_of(service) / 1000,
    )


def measured_seconds(
    workload: Workload, measured: Measured
) -> dict[str, dict[tuple[str, str, int], dict[int, float]]]:
    """Return the seconds of batches of each service, by GPU model, profile and processes, and by batch size."""
    return {service.name: seconds_of(service, measured) for service in workload.services}


def seconds_of(service: ServiceSpec, measured: Measured) -> dict[tuple[str, str, int], dict[int, float]]:
    """Return the same of one service, by the rows that it is planned with.

    Without waiting these are at its SLO's quantile; where a table lacks that, at its strictest one.
    """
    found: dict[tuple[str, str, int], dict[int, float]] = {}
    for gpu in measured.gpus:
        rows = measured.of(service.model, gpu.name)
        if service.waits:
            rows, _ = batch_times(rows, service.slo.quantile)
        else:
            quantile = quantile_of(rows, service.slo.quantile) or strictest({row.quantile for row in rows})
            rows = tuple(row for row in rows if row.quantile == quantile)
        for row in rows:
            found.setdefault((gpu.name, row.profile, row.processes), {})[row.batch] = row.latency_ms / 1000
    return found


def spread_of(service: ServiceSpec, measured: Measured) -> float:
    """Return how batches vary around those seconds, on the GPU with most: the deviation of their logarithm."""
    if not service.waits:
        return 0.0
    rows = (measured.of(service.model, gpu.name) for gpu in measured.gpus)
    return max((batch_times(each, service.slo.quantile)[1] for each in rows if each), default=0.0)
