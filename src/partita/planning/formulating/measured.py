"""What is known of each model on each GPU, and the operating points that follow for a service."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import replace
from typing import TYPE_CHECKING

from partita.errors import InputError
from partita.perf.estimate import ModelWork, estimate_table
from partita.perf.operating_point import Limits, OperatingPoint, operating_points, strictest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.mig.gpu import GpuModel, Profile
    from partita.perf.table import Measurement, PerfTable
    from partita.workload import ModelSpec, ServiceSpec, Workload

Points = dict[tuple[str, str], OperatingPoint]
"""Operating points by GPU and profile."""


def allows(service: ServiceSpec, profile: Profile) -> bool:
    """Say whether a service may run on a profile; a variant (`+me`, `+gfx`) must be named in full."""
    if service.profiles is None or profile.name in service.profiles:
        return True
    return profile.size in service.profiles and profile.name == plain(profile.name)


def plain(profile: str) -> str:
    """Return the profile that a variant has the compute and memory of: `1g.10gb` for `1g.10gb+me`."""
    return re.split(r"[+-]", profile)[0]


class Measured:
    """Rows and operating points of a workload's models on its GPUs, each worked out once.

    An operating point depends on the latency limit only through which rows keep it, so services are told
    apart by how many latencies are within the limit, not by the limit: a thousand SLOs make few kinds.
    """

    def __init__(self, workload: Workload, table: PerfTable, gpus: Sequence[GpuModel]) -> None:
        self.gpus = tuple(gpus)
        self.limits = workload.limits
        self.table = table
        self._works = {model.name: (index, _work(model)) for index, model in enumerate(workload.models)}
        self._rows: dict[str, dict[str, tuple[Measurement, ...]]] = {}
        self._latencies: dict[str, list[list[float]]] = {}
        self._points: dict[tuple[object, ...], Points] = {}

    def rows(self, model: str) -> dict[str, tuple[Measurement, ...]]:
        """Return the rows of a model by GPU, of the table or else estimated, GPUs without any left out."""
        if model not in self._rows:
            found = {gpu.name: self._rows_on(model, gpu) for gpu in self.gpus}
            self._rows[model] = {gpu: rows for gpu, rows in found.items() if rows}
        return self._rows[model]

    def of(self, model: str, gpu: str) -> tuple[Measurement, ...]:
        """Return the rows of a model on a GPU, estimates included; none where nothing is known."""
        return self.rows(model).get(gpu, ())

    def _rows_on(self, model: str, gpu: GpuModel) -> tuple[Measurement, ...]:
        rows = self.table.of(model, gpu.name)
        if rows or model not in self._works:
            return rows
        index, work = self._works[model]
        try:
            return tuple(estimate_table(work, gpu, max_processes=self.limits.max_processes))
        except InputError as error:
            raise InputError(error.what, where=f"models[{index}].precision", hint=error.hint) from None

    def can_estimate(self, model: str) -> bool:
        """Say whether the workload gives the model's work."""
        return model in self._works

    def limit(self, service: ServiceSpec) -> float:
        """Return the longest latency of a batch in milliseconds."""
        return self.limits.latency_factor * service.slo.latency_ms

    def point_limits(self, service: ServiceSpec, gpu: str) -> Limits | None:
        """Return what the service's operating points on a GPU must keep to; None if its quantile is not there."""
        quantile = quantile_of(self.of(service.model, gpu), service.slo.quantile)
        if quantile is None:
            return None
        return Limits(self.limit(service), quantile, self.limits.max_batch, self.limits.max_processes)

    def points(self, service: ServiceSpec) -> Points:
        """Return the operating points of a service, the same object for all services that run alike."""
        limit = self.limit(service)
        within = tuple(bisect_right(latencies, limit) for latencies in self._latencies_of(service.model))
        key = (service.model, service.slo.quantile, service.profiles, within)
        if key not in self._points:
            self._points[key] = self._work_out(service)
        return self._points[key]

    def _latencies_of(self, model: str) -> list[list[float]]:
        if model not in self._latencies:
            rows = self.rows(model)
            self._latencies[model] = [sorted({r.latency_ms for r in rows.get(g.name, ())}) for g in self.gpus]
        return self._latencies[model]

    def _work_out(self, service: ServiceSpec) -> Points:
        found: Points = {}
        for gpu in self.gpus:
            limits = self.point_limits(service, gpu.name)
            if limits is None:
                continue
            points = operating_points(self.of(service.model, gpu.name), limits)
            for profile in gpu.profiles:
                point = points.get(profile.name)
                if point is None and profile.name in (service.profiles or ()):
                    point = points.get(plain(profile.name))
                if point and allows(service, profile):
                    found[gpu.name, profile.name] = replace(point, profile=profile.name)
        return found


def _work(model: ModelSpec) -> ModelWork:
    return ModelWork(
        model=model.name,
        gflop=model.gflop,
        mbytes=model.mbytes,
        weights_mb=model.weights_mb,
        precision=model.precision,
        kernels=model.kernels,
        live_mb=model.live_mb,
    )


def quantile_of(rows: Sequence[Measurement], asked: float | None) -> str | None:
    """Return the quantile, as the rows write it, that was asked for; the strictest there is if none was."""
    there = {row.quantile for row in rows}
    if asked is None:
        return strictest(there)
    return next((q for q in there if q != "mean" and float(q) == asked), None)
