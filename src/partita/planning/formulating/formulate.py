"""From a workload and a performance table to the planning problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.errors import InputError
from partita.mig.catalogue import gpu_model
from partita.planning.formulating.assumed import notes
from partita.planning.formulating.measured import Measured
from partita.planning.formulating.unplaceable import refuse_unmeasured, refuse_unplaceable
from partita.planning.problem import Pool, Problem, Service, Size

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from partita.perf.operating_point import OperatingPoint
    from partita.perf.table import PerfTable
    from partita.planning.formulating.measured import Points
    from partita.workload import ServiceSpec, Workload


MOST_GPUS = 1_000_000
"""GPUs that one service may take at least; a plan names each GPU."""


@dataclass(frozen=True)
class Formulation:
    """A planning problem, what is known of its models, and what was assumed to make it, for the user to read."""

    problem: Problem
    measured: Measured
    notes: tuple[str, ...]


def formulate(workload: Workload, table: PerfTable) -> Formulation:
    """Return the problem of placing a workload's services; those with a `cut` are left out: they share no GPU.

    On each profile a service runs at the operating point of largest throughput within `latency_factor` of its
    SLO (MIG-Serving, section 5). Services that run alike share one tuple of points, so that a hundred
    thousand services cost little more than one of each kind.

    Raises:
        InputError: a model nobody measured, a quantile that the table lacks, watts without power, or a rate that
            would take `MOST_GPUS`. `where` is the path of the field, such as `services[3].model`.
        InfeasibleError: a service that can run on no profile of any pool; `where` as above.
    """
    pools = _pools(workload)
    measured = Measured(workload, table, list({pool.gpu.name: pool.gpu for pool in pools}.values()))
    refuse_unmeasured(workload, measured)
    allowed = _Allowed(pools, measured)
    points = {
        index: allowed.points(service)
        for index, service in enumerate(workload.services)
        if service.cut is None
    }
    refuse_unplaceable(workload, measured, points)
    _refuse_endless(workload, pools, points)
    kinds = {id(each): each for each in points.values()}
    if workload.objective == "watts":
        _refuse_unmetered(kinds.values())
    sizes = _sizes(pools, kinds.values())
    shared = {(id(each), workload.services[index].pools): each for index, each in points.items()}
    on_sizes = {key: _per_size(pools, sizes, each, key[1]) for key, each in shared.items()}
    problem = Problem(
        pools=pools,
        services=tuple(
            _service(workload.services[index], on_sizes[id(p), workload.services[index].pools])
            for index, p in points.items()
        ),
        sizes=sizes,
        objective=workload.objective,
        max_services_per_gpu=workload.limits.max_services_per_gpu,
    )
    return Formulation(problem, measured, notes(workload, measured))


def _pools(workload: Workload) -> tuple[Pool, ...]:
    return tuple(
        Pool(
            name=pool.label,
            gpu=gpu_model(pool.model).forbidding(workload.limits.forbid),
            count=pool.count,
            per_node=pool.per_node,
            cost=1.0 if pool.cost_per_hour is None else pool.cost_per_hour,
        )
        for pool in workload.gpus
    )


def _sizes(pools: Sequence[Pool], kinds: Iterable[Points]) -> tuple[Size, ...]:
    used = {key for points in kinds for key in points}
    return tuple(
        Size(index, profile.name)
        for index, pool in enumerate(pools)
        for profile in pool.gpu.profiles
        if (pool.gpu.name, profile.name) in used
    )


def _per_size(
    pools: Sequence[Pool], sizes: Sequence[Size], points: Points, allowed: tuple[str, ...] | None
) -> tuple[OperatingPoint | None, ...]:
    return tuple(
        points.get((pools[size.pool].gpu.name, size.profile))
        if allowed is None or pools[size.pool].name in allowed
        else None
        for size in sizes
    )


class _Allowed:
    """Operating points on the GPUs of the pools that a service may use, the same object for services alike."""

    def __init__(self, pools: Sequence[Pool], measured: Measured) -> None:
        self._pools = pools
        self._measured = measured
        self._made: dict[tuple[int, tuple[str, ...]], Points] = {}

    def points(self, service: ServiceSpec) -> Points:
        """Return operating points by GPU and profile."""
        found = self._measured.points(service)
        if service.pools is None:
            return found
        key = (id(found), service.pools)
        if key not in self._made:
            gpus = {pool.gpu.name for pool in self._pools if pool.name in service.pools}
            self._made[key] = {at: point for at, point in found.items() if at[0] in gpus}
        return self._made[key]


def _service(spec: ServiceSpec, points: tuple[OperatingPoint | None, ...]) -> Service:
    # Every service has an instance, and where any one is enough, the rate matters no more. Solvers cannot hold
    # numbers of all sizes, so what is next to nothing is raised to a millionth of what the slowest instance does.
    least = min((point.throughput for point in points if point), default=0.0)
    return Service(
        name=spec.name,
        model=spec.model,
        rate=max(spec.rate * (1 + spec.headroom), 1e-6 * least),
        asked_rate=spec.rate,
        latency_slo_ms=spec.slo.latency_ms,
        points=points,
        min_replicas=spec.min_replicas,
        spread=spec.spread,
        priority=spec.priority,
    )


def _refuse_endless(workload: Workload, pools: Sequence[Pool], points: Mapping[int, Points]) -> None:
    """Refuse rates that so many GPUs would be needed for that nobody means them."""
    most = {(pool.gpu.name, each.name): each.max_instances for pool in pools for each in pool.gpu.profiles}
    for index, of in points.items():
        spec = workload.services[index]
        best = max((point.throughput * most[key] for key, point in of.items()), default=0.0)
        gpus = spec.rate * (1 + spec.headroom) / best if best else 0.0
        if gpus > MOST_GPUS:
            raise InputError(
                f"{spec.rate:,.6g} items/s would take more than {gpus:,.0f} GPUs",
                where=f"services[{index}].rate",
                hint="a rate is in items per second",
            )


def _refuse_unmetered(kinds: Iterable[Points]) -> None:
    lacking = sorted(
        {
            f"{gpu} {profile} batch {point.batch} x{point.processes}"
            for points in kinds
            for (gpu, profile), point in points.items()
            if point.power_w is None
        }
    )
    if lacking:
        more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        raise InputError(
            f"objective watts needs power_w in each row it uses; missing: {', '.join(lacking[:5])}{more}",
            where="objective",
            hint="fill in the column power_w of the performance table, or write objective: gpus",
        )
