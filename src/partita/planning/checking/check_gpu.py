"""The checker's part for one GPU: is its layout legal, and does each instance run as the table says."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from partita.mig.gpu import GpuModel, Profile
    from partita.mig.layout import Placement
    from partita.perf.table import Measurement
    from partita.planning.checking.requirements import RequiredService, Requirements
    from partita.planning.plan import Instance


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: where in the plan, and what."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class Rows(Protocol):
    """A performance table."""

    def of(self, model: str, gpu: str) -> Sequence[Measurement]:
        """Return the rows of a model on a GPU."""
        ...


def close(a: float, b: float) -> bool:
    """Say whether two figures are the same up to what sums in another order change."""
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-6)


_Key = tuple[str, int, int]  # profile, batch, processes


class GpuChecker:
    """Checks GPUs one by one against the same requirements and table."""

    def __init__(self, wanted: Requirements, rows: Rows) -> None:
        self._wanted = wanted
        self._rows = rows
        self._gpus = {pool.gpu.name: pool.gpu for pool in wanted.pools}
        self._services = {service.name: service for service in wanted.services}
        self._index: dict[tuple[str, str, float | None], dict[_Key, Measurement]] = {}

    def check(self, where: str, model: str, instances: Sequence[Instance]) -> Iterator[Fault]:
        """Yield what is wrong on one GPU, or on several that are cut alike."""
        gpu = self._gpus.get(model)
        if gpu is None:
            yield Fault(where, f"the workload has no GPUs {model}")
            return
        for why in layout_faults(gpu, [instance.placement for instance in instances]):
            yield Fault(where, why)
        services = {instance.service for instance in instances}
        limit = self._wanted.max_services_per_gpu
        if limit is not None and len(services) > limit:
            yield Fault(where, f"{len(services)} services share it, at most {limit} may")
        if len(services) > 1:
            for name in sorted(services & {each.name for each in self._wanted.services if each.alone}):
                yield Fault(where, f"service {name} must have its GPUs for itself")
        for instance in instances:
            for why in self._instance_faults(gpu, instance):
                yield Fault(f"{where}, {instance.placement}", why)

    def watts(self, model: str, instances: Sequence[Instance]) -> float:
        """Return the power of a GPU's instances by the table; NaN where it has none."""
        return math.fsum(self._power(model, instance) for instance in instances)

    def _power(self, model: str, instance: Instance) -> float:
        service = self._services.get(instance.service)
        row = self._row(service, model, instance) if service else None
        return math.nan if row is None or row.power_w is None else row.power_w

    def _instance_faults(self, gpu: GpuModel, instance: Instance) -> Iterator[str]:
        service = self._services.get(instance.service)
        if service is None:
            yield f"service {instance.service} is not in the workload"
            return
        if instance.model != service.model:
            yield f"runs model {instance.model}, service {service.name} is {service.model}"
        if not _allowed(service, instance.placement.profile):
            yield f"service {service.name} may not run on {instance.placement.profile}"
        yield from self._limit_faults(service, instance)
        if service.alone:
            yield from self._alone_faults(service, gpu, instance)
        else:
            yield from self._row_faults(service, gpu, instance)

    def _limit_faults(self, service: RequiredService, instance: Instance) -> Iterator[str]:
        point, wanted = instance.point, self._wanted
        if service.alone and point.processes != 1:
            yield f"{point.processes} processes, one runs a query at a time"
        if not point.latency_ms <= service.latency_ms * (1 + 1e-9):
            yield f"latency {point.latency_ms:g} ms is above the {service.latency_ms:g} ms it may take"
        if wanted.max_batch is not None and point.batch > wanted.max_batch:
            yield f"batch {point.batch} is above {wanted.max_batch}"
        if point.processes > wanted.max_processes:
            yield f"{point.processes} processes, at most {wanted.max_processes} may share an instance"

    def _alone_faults(self, service: RequiredService, gpu: GpuModel, instance: Instance) -> Iterator[str]:
        """Yield what is wrong with the largest query an instance takes; its throughput is a matter of traffic."""
        point, profile = instance.point, instance.placement.profile
        if point.profile != profile:
            yield f"its operating point is for {point.profile}"
        rows = _single(self._rows.of(service.model, gpu.name), service.quantile, profile)
        latency = _between(rows, point.batch)
        if latency is None:
            yield f"the table has no row for {service.model} on {gpu.name} {profile} that runs {point.batch} items"
        elif not close(point.latency_ms, latency):
            yield f"latency {point.latency_ms:g} ms, by the table {latency:g} ms"
        if rows and point.estimated != any(row.estimated for row in rows):
            yield "wrongly marked as measured or as an estimate"

    def _row_faults(self, service: RequiredService, gpu: GpuModel, instance: Instance) -> Iterator[str]:
        point = instance.point
        if point.profile != instance.placement.profile:
            yield f"its operating point is for {point.profile}"
        row = self._row(service, gpu.name, instance)
        if row is None:
            at = "" if service.quantile is None else f" at quantile {service.quantile:g}"
            yield (
                f"the table has no row for {service.model} on {gpu.name} {instance.placement.profile}, "
                f"batch {point.batch}, processes {point.processes}{at}"
            )
            return
        if not close(point.throughput, row.throughput):
            yield f"throughput {point.throughput:g}, the table says {row.throughput:g}"
        if not close(point.latency_ms, row.latency_ms):
            yield f"latency {point.latency_ms:g} ms, the table says {row.latency_ms:g} ms"
        if point.estimated != row.estimated:
            yield (
                "marked as an estimate, but measured" if point.estimated else "an estimate, not marked as one"
            )

    def _row(self, service: RequiredService, gpu: str, instance: Instance) -> Measurement | None:
        key = (service.model, gpu, service.quantile)
        if key not in self._index:
            rows = _at_quantile(self._rows.of(service.model, gpu), service.quantile)
            self._index[key] = {(row.profile, row.batch, row.processes): row for row in rows}
        rows_at, point = self._index[key], instance.point
        profile = instance.placement.profile
        # A variant such as 1g.10gb+me has the compute and memory of 1g.10gb, whose rows stand for it.
        names = (profile, _plain(profile))
        found = (rows_at.get((name, point.batch, point.processes)) for name in names)
        return next((row for row in found if row is not None), None)


def _single(rows: Sequence[Measurement], asked: float | None, profile: str) -> list[Measurement]:
    """Return the rows of one process on a profile by batch, at the quantile asked for if it is there."""
    found = (asked is not None and _at_quantile(rows, asked)) or _at_quantile(rows, None)
    mine = [row for row in found if row.processes == 1]
    own = [row for row in mine if row.profile == profile] or [r for r in mine if r.profile == _plain(profile)]
    return sorted(own, key=lambda row: row.batch)


def _between(rows: Sequence[Measurement], batch: int) -> float | None:
    """Return the milliseconds of a query, on the line between the batches measured beside it; None above all."""
    above = next((row for row in rows if row.batch >= batch), None)
    if above is None or above is rows[0]:
        return None if above is None else above.latency_ms
    below = [row for row in rows if row.batch < batch][-1]
    part = (batch - below.batch) / (above.batch - below.batch)
    return below.latency_ms + part * (above.latency_ms - below.latency_ms)


def _at_quantile(rows: Sequence[Measurement], asked: float | None) -> list[Measurement]:
    """Return the rows at the quantile asked for; with none asked, at the strictest (a mean is weakest)."""
    rank = {row.quantile: -1.0 if row.quantile == "mean" else float(row.quantile) for row in rows}
    wanted = max(rank.values(), default=None) if asked is None else asked
    return [row for row in rows if rank[row.quantile] == wanted]


def _plain(profile: str) -> str:
    return re.split(r"[+-]", profile)[0]


def _size(profile: str) -> str:
    return profile.partition(".")[0]


def _allowed(service: RequiredService, profile: str) -> bool:
    names = service.profiles
    return names is None or profile in names or (_plain(profile) == profile and _size(profile) in names)


def layout_faults(gpu: GpuModel, placements: Sequence[Placement]) -> Iterator[str]:
    """Yield why instances cannot stand together on a GPU (NVIDIA MIG User Guide, "Supported MIG Profiles")."""
    known = {profile.name: profile for profile in gpu.profiles}
    taken = [0] * gpu.memory_slices
    placed: list[Profile] = []
    for placement in placements:
        profile = known.get(placement.profile)
        if profile is None:
            yield f"{gpu.name} has no profile {placement.profile}"
        elif placement.start not in profile.starts:
            yield f"{profile.name} cannot start at {placement.start}"
        else:
            placed.append(profile)
            for memory_slice in range(placement.start, placement.start + profile.memory):
                taken[memory_slice] += 1
    for memory_slice, n in enumerate(taken):
        if n > 1:
            yield f"{n} instances overlap in memory slice {memory_slice}"
    yield from _count_faults(gpu, placed)


def _count_faults(gpu: GpuModel, placed: list[Profile]) -> Iterator[str]:
    compute = sum(profile.compute for profile in placed)
    if compute > gpu.compute_slices:
        yield f"{compute} compute slices used of {gpu.compute_slices}"
    for profile, n in Counter(placed).items():
        if n > profile.max_instances:
            yield f"{n} instances of {profile.name}, of which a GPU holds {profile.max_instances}"
    if sum(profile.media for profile in placed) > 1:
        yield "several instances own the media engines, one can"
    by_name = Counter(profile.name for profile in placed)
    by_size = Counter(_size(profile.name) for profile in placed)
    for combination in gpu.forbidden:
        parts = Counter(combination.parts)
        if all((by_name if "." in part else by_size)[part] >= n for part, n in parts.items()):
            yield f"{'+'.join(combination.parts)} is forbidden"
