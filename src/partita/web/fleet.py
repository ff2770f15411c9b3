"""GPUs of plans and deployments in the columns of the API, for the bundle to draw."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

from partita.dash.model import (
    Fleet,
    GpuColumns,
    GpuModel,
    InstanceColumns,
    InstanceState,
    Node,
    ProfileSize,
)
from partita.mig.catalogue import gpu_model
from partita.web.report import FleetPart, OperatingPoint

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from partita.mig.layout import Placement
    from partita.planning.overview import PlanOverview
    from partita.planning.plan import Instance
    from partita.transition.deployment import DeployedInstance
    from partita.transition.overview import GpuGroupChange

MOST_GPUS = 20_000
"""GPUs of a report, so that a browser can hold it; a plan may have a million."""
_STATES = (InstanceState.SERVING, InstanceState.FREE, InstanceState.FOREIGN)
_MIB = 1024.0**2
_K = TypeVar("_K", bound="Hashable")


@dataclass(frozen=True, slots=True)
class _Spot:
    """An instance: where it is, what runs there, and the services that it answers for."""

    placement: Placement
    point: OperatingPoint | None
    serves: tuple[str, ...] = ()
    foreign: bool = False

    @property
    def state(self) -> InstanceState:
        if self.foreign:
            return InstanceState.FOREIGN
        return InstanceState.FREE if self.point is None else InstanceState.SERVING


@dataclass(frozen=True, slots=True)
class _Cut:
    """A GPU and its instances, and those of a plan for it."""

    id: str
    model: str
    now: tuple[_Spot, ...]
    then: tuple[_Spot, ...] | None = None
    pool: str = ""
    zone: str = ""
    rack: str = ""


def planned_gpus(overview: PlanOverview) -> FleetPart:
    """Return the GPUs of a plan; of a very large one those of the largest groups that are cut alike."""
    wanted: list[str] = []
    for group in overview.groups:
        wanted += group.ids[: MOST_GPUS - len(wanted)]
    drawn = set(wanted)
    spots: dict[int, tuple[_Spot, ...]] = {}
    cuts = []
    for gpu in overview.plan.gpus:
        if gpu.id in drawn:
            # GPUs that are cut alike share one tuple.
            if id(gpu.instances) not in spots:
                spots[id(gpu.instances)] = tuple(map(_planned_spot, gpu.instances))
            pool = "" if gpu.pool == gpu.model else gpu.pool
            cuts.append(_Cut(gpu.id, gpu.model, spots[id(gpu.instances)], None, pool, gpu.zone, gpu.rack))
    services = [each.service.name for each in overview.services]
    return _part(cuts, services, len(overview.plan.gpus) - len(cuts))


def changed_gpus(groups: Sequence[GpuGroupChange], services: Sequence[str]) -> FleetPart:
    """Return the GPUs that a transition changes, before and after.

    Args:
        groups: GPUs that change alike.
        services: names of all services, in the order of their numbers.
    """
    cuts: list[_Cut] = []
    for group in groups:
        now, then = tuple(map(_deployed_spot, group.before)), tuple(map(_deployed_spot, group.after))
        cuts += [_Cut(gpu_id, group.model, now, then) for gpu_id in group.ids[: MOST_GPUS - len(cuts)]]
    return _part(cuts, services, sum(len(group.ids) for group in groups) - len(cuts))


def _planned_spot(instance: Instance) -> _Spot:
    point = instance.point
    return _Spot(
        instance.placement,
        OperatingPoint(
            service=instance.service,
            model=instance.model,
            batch=point.batch,
            processes=point.processes,
            throughput=sum(rate for _, rate in instance.serves),
            latency_ms=point.latency_ms,
            estimated=point.estimated,
            tenants=tuple(each.service for each in point.tenants),
            megabytes=sum(each.memory_mb for each in point.tenants) if point.tenants else None,
        ),
        tuple(name for name, _ in instance.serves),
    )


def _deployed_spot(instance: DeployedInstance) -> _Spot:
    replica = instance.replica
    if replica is None:
        return _Spot(instance.placement, None, foreign=instance.fixed)
    return _Spot(
        instance.placement,
        OperatingPoint(
            service=replica.service,
            model=replica.model,
            batch=replica.batch,
            processes=replica.processes,
            throughput=sum(rate for _, rate in replica.serves),
            latency_ms=replica.latency_ms,
            tenants=tuple(each.service for each in replica.tenants),
        ),
        tuple(name for name, _ in replica.serves),
    )


def _part(cuts: Sequence[_Cut], services: Iterable[str], left: int) -> FleetPart:
    served = (name for cut in cuts for spot in (*cut.now, *(cut.then or ())) for name in spot.serves)
    numbers = _numbered(chain(services, served))
    models = _numbered(cut.model for cut in cuts)
    nodes = _numbered(_node(cut) for cut in cuts)
    pools = _numbered(cut.pool for cut in cuts)
    points: dict[OperatingPoint, int] = {}
    now, point = _columns(cuts, [cut.now for cut in cuts], numbers, points)
    planned: InstanceColumns | None = None
    planned_point: tuple[int, ...] = ()
    if any(cut.then is not None for cut in cuts):
        planned, planned_point = _columns(cuts, [cut.then or () for cut in cuts], numbers, points)
    return FleetPart(
        fleet=Fleet(
            version="",
            models=tuple(map(_model, models)),
            nodes=tuple(nodes),
            services=tuple(numbers),
            states=_STATES,
            gpus=GpuColumns(
                id=tuple(cut.id for cut in cuts),
                model=tuple(models[cut.model] for cut in cuts),
                node=tuple(nodes[_node(cut)] for cut in cuts),
                state=(0,) * len(cuts),
            ),
            instances=now,
            planned=planned,
        ),
        points=tuple(points),
        point=point,
        planned_point=planned_point,
        pools=tuple(pools) if any(pools) else (),
        pool=tuple(pools[cut.pool] for cut in cuts) if any(pools) else (),
        left=left,
    )


def _numbered(values: Iterable[_K]) -> dict[_K, int]:
    found: dict[_K, int] = {}
    for value in values:
        found.setdefault(value, len(found))
    return found


def _node(cut: _Cut) -> Node:
    return Node(name=cut.id.rpartition("/")[0], rack=cut.rack, zone=cut.zone)


def _model(name: str) -> GpuModel:
    gpu = gpu_model(name)
    return GpuModel(
        name=name,
        memory_slices=gpu.memory_slices,
        compute_slices=gpu.compute_slices,
        memory_bytes=(gpu.memory_mib or 0) * _MIB,
        profiles=tuple(
            ProfileSize(name=each.name, memory=each.memory, compute=each.compute, starts=each.starts)
            for each in gpu.profiles
        ),
    )


def _columns(
    cuts: Sequence[_Cut],
    layouts: Sequence[tuple[_Spot, ...]],
    services: Mapping[str, int],
    points: dict[OperatingPoint, int],
) -> tuple[InstanceColumns, tuple[int, ...]]:
    """Return the instances, and of each the index of its operating point, of which new ones are added to `points`."""
    profiles = {
        cut.model: {each.name: n for n, each in enumerate(gpu_model(cut.model).profiles)} for cut in cuts
    }
    rows = [
        (
            number,
            cuts[number].model,
            spot,
            -1 if spot.point is None else points.setdefault(spot.point, len(points)),
        )
        for number, spots in enumerate(layouts)
        for spot in spots
    ]
    columns = InstanceColumns(
        gpu=tuple(number for number, _, _, _ in rows),
        profile=tuple(profiles[model][spot.placement.profile] for _, model, spot, _ in rows),
        start=tuple(spot.placement.start for _, _, spot, _ in rows),
        state=tuple(_STATES.index(spot.state) for _, _, spot, _ in rows),
        service=tuple(services[spot.serves[0]] if spot.serves else -1 for _, _, spot, _ in rows),
        shared={
            str(at): tuple(services[name] for name in spot.serves)
            for at, (_, _, spot, _) in enumerate(rows)
            if len(spot.serves) > 1
        },
    )
    return columns, tuple(point for _, _, _, point in rows)
