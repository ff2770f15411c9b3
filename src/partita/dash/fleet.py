"""The fleet in memory: kept up to date look by look, as the documents of the API and the events of its stream."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import accumulate
from secrets import token_hex
from typing import TYPE_CHECKING

from partita.dash.model import (
    Fleet,
    Gpu,
    GpuChange,
    GpuColumns,
    GpuModel,
    InstanceColumns,
    InstanceDetail,
    InstanceState,
    Load,
    LoadChange,
    Node,
    ProfileSize,
    Reset,
)
from partita.dash.source import GPU_STATES, LOST, MIG_OFF, InstanceLoad
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement, free_memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from partita.dash.model import Service
    from partita.dash.source import Look, SeenGpu
    from partita.dash.stream import Named
    from partita.transition.deployment import DeployedInstance, Deployment

STATES = tuple(InstanceState)
_STATE = {state: index for index, state in enumerate(STATES)}
_WORKING = frozenset(
    {InstanceState.SERVING, InstanceState.JOB, InstanceState.STARTING, InstanceState.DRAINING}
)
_UNKNOWN = InstanceLoad()


class FleetState:
    """All GPUs, instances, loads and services as of the last look.

    Attributes:
        at: the cluster's clock at the last look.
        services: by name, in order of names.
    """

    def __init__(self) -> None:
        self._epoch = token_hex(4)
        self._version = 0
        self._load_version = 0
        self.at = 0.0
        self.services: dict[str, Service] = {}
        self._gpus: list[SeenGpu] = []
        self._index: dict[str, int] = {}
        self._nodes: dict[str, int] = {}
        self._models: dict[str, int] = {}
        self._names: dict[str, int] = {}
        self._loads: list[dict[int, InstanceLoad]] = []
        self._watts: dict[str, float | None] = {}
        self._goal: Deployment | None = None
        self._fleet: Fleet | None = None
        self._load: Load | None = None

    @property
    def version(self) -> str:
        """Version of the fleet."""
        return f"{self._epoch}-{self._version}"

    @property
    def load_version(self) -> str:
        """Version of the load."""
        return f"{self._epoch}-{self._load_version}"

    def update(self, look: Look) -> list[Named]:
        """Take over what a look saw; return what clients must be told, in order."""
        self.at = look.at
        events: list[Named] = []
        why = self._restructured(look)
        if why is not None:
            self._version += 1
            self._load_version += 1
            self._fleet = self._load = None
            events.append(("reset", Reset(self.version, why)))
        else:
            events += (("gpu", each) for each in self._changed(look.gpus))
        if (change := self._loaded(look)) is not None and why is None:
            events.append(("load", change))
        for name in look.gone_services:
            self.services.pop(name, None)
        if look.services:
            self.services.update((each.name, each) for each in look.services)
            self.services = dict(sorted(self.services.items()))
        return events

    def fleet(self) -> Fleet:
        """Return all GPUs and how they are cut."""
        if self._fleet is None:
            self._fleet = Fleet(
                self.version,
                tuple(_model(name) for name in self._models),
                tuple(self._node_rows()),
                tuple(self._names),
                STATES,
                GpuColumns(
                    tuple(gpu.id for gpu in self._gpus),
                    tuple(self._models[gpu.model] for gpu in self._gpus),
                    tuple(self._nodes[gpu.node] for gpu in self._gpus),
                    tuple(gpu.state for gpu in self._gpus),
                ),
                self._columns((index, gpu.model, gpu.instances) for index, gpu in enumerate(self._gpus)),
                self._planned(),
            )
        return self._fleet

    def load(self) -> Load:
        """Return what all instances do now."""
        if self._load is None:
            rows = [
                self._loads[index].get(each.start, _UNKNOWN)
                for index, gpu in enumerate(self._gpus)
                for each in gpu.instances
            ]
            self._load = Load(
                self.load_version,
                self.version,
                self.at,
                tuple(_thousandths(each.busy) for each in rows),
                tuple(_thousandths(each.attainment) for each in rows),
                tuple(_whole(self._watts.get(gpu.id)) for gpu in self._gpus),
            )
        return self._load

    def totals(self) -> dict[str, float | None]:
        """Return sums over all GPUs that can be used: their number, those in use, shares held and at work, watts."""
        slices = held = 0
        working, known, used, instances, usable = 0.0, False, 0, 0, 0
        for index, gpu in enumerate(self._gpus):
            if gpu.state in (MIG_OFF, LOST):
                continue
            model, loads = gpu_model(gpu.model), self._loads[index]
            usable += 1
            slices += model.compute_slices
            instances += len(gpu.instances)
            at_work = [each for each in gpu.instances if each.state in _WORKING]
            used += bool(at_work)
            for each in at_work:
                compute = model.profile(each.profile).compute if model.has(each.profile) else 0
                held += compute
                load = loads.get(each.start)
                if load is not None and load.busy is not None:
                    working += compute * load.busy
                    known = True
        watts = [each for each in self._watts.values() if each is not None]
        return {
            "gpus": usable,
            "used": used,
            "instances": instances,
            "held": held / slices if slices else 0.0,
            "working": working / slices if known else None,
            "watts": sum(watts) if watts else None,
        }

    def gpu(self, gpu_id: str) -> Gpu | None:
        """Return a GPU with all that is known of its instances; None if there is none of that id."""
        index = self._index.get(gpu_id)
        return None if index is None else self._gpu(index)

    def page(self, after: str | None, limit: int, wanted: str) -> tuple[tuple[Gpu, ...], str | None]:
        """Return GPUs in order, and the cursor of the next page.

        Args:
            after: id of the last GPU of the page before; None for the first page.
            limit: most GPUs.
            wanted: text that the id, the model, a service or a job of each contains, in lower case; empty for all.
        """
        found: list[Gpu] = []
        for index in range(0 if after is None else self._after(after), len(self._gpus)):
            if wanted and not any(wanted in each for each in _words(self._gpus[index])):
                continue
            if len(found) == limit:
                return tuple(found), found[-1].id
            found.append(self._gpu(index))
        return tuple(found), None

    def _after(self, gpu_id: str) -> int:
        # A GPU that has gone since its page was read has a place between the others still.
        known = self._index.get(gpu_id)
        if known is not None:
            return known + 1
        order = _order(gpu_id)
        return next((i for i, gpu in enumerate(self._gpus) if _order(gpu.id) > order), len(self._gpus))

    def _restructured(self, look: Look) -> str | None:
        """Take over GPUs, models, nodes or services that are new or gone; return why all must be loaded anew."""
        why = look.reset
        if why is not None:
            self._gpus, self._loads, self._index, self._names = [], [], {}, {}
            self._watts.clear()
            self.services.clear()
        gone = {name for name in look.gone if name in self._index}
        new = [gpu for gpu in look.gpus if gpu.id not in self._index]
        moved = [gpu for gpu in look.gpus if gpu.id in self._index and not self._placed(gpu)]
        if new or gone or moved:
            why = why or "GPUs came or went"
            for name in gone:
                self._watts.pop(name, None)
            loads = dict(zip((gpu.id for gpu in self._gpus), self._loads, strict=True))
            known = {gpu.id: gpu for gpu in self._gpus if gpu.id not in gone}
            known.update((gpu.id, gpu) for gpu in new)
            self._gpus = sorted(known.values(), key=lambda gpu: _order(gpu.id))
            self._index = {gpu.id: index for index, gpu in enumerate(self._gpus)}
            self._loads = [loads.get(gpu.id, {}) for gpu in self._gpus]
            for gpu in moved:
                self._put(self._index[gpu.id], gpu)
            self._nodes = {name: i for i, name in enumerate(dict.fromkeys(g.node for g in self._gpus))}
            self._models = {name: i for i, name in enumerate(dict.fromkeys(g.model for g in self._gpus))}
        went = self.services.keys() & set(look.gone_services)
        names = {each.name for each in look.services}
        names |= {name for gpu in look.gpus for each in gpu.instances for name in each.services}
        if went:
            names |= self.services.keys() - went
            names |= {name for gpu in self._gpus for each in gpu.instances for name in each.services}
        if went or not names <= self._names.keys():
            why = why or ("services went" if went else "services came")
            kept = names if went else names | self._names.keys()
            self._names = {name: index for index, name in enumerate(sorted(kept))}
        if look.goal != self._goal:
            why = why or "another deployment is wanted"
            self._goal = look.goal
        if why is not None:
            for gpu in look.gpus:
                self._put(self._index[gpu.id], gpu)
        return why

    def _put(self, index: int, gpu: SeenGpu) -> None:
        """Take over a GPU; only instances that are as they were keep their load."""
        was = {(each.start, each.profile) for each in self._gpus[index].instances}
        same = {each.start for each in gpu.instances if (each.start, each.profile) in was}
        self._loads[index] = {start: load for start, load in self._loads[index].items() if start in same}
        self._gpus[index] = gpu

    def _placed(self, gpu: SeenGpu) -> bool:
        was = self._gpus[self._index[gpu.id]]
        return (was.model, was.node, was.rack, was.zone) == (gpu.model, gpu.node, gpu.rack, gpu.zone)

    def _changed(self, gpus: Iterable[SeenGpu]) -> Iterator[GpuChange]:
        for gpu in gpus:
            index = self._index[gpu.id]
            if gpu == self._gpus[index]:
                continue
            self._put(index, gpu)
            before = self.version
            self._version += 1
            self._fleet = self._load = None
            profiles = _profile_indices(gpu.model)
            yield GpuChange(
                self.version,
                before,
                index,
                gpu.state,
                tuple(profiles.get(each.profile, -1) for each in gpu.instances),
                tuple(each.start for each in gpu.instances),
                tuple(_STATE[each.state] for each in gpu.instances),
                tuple(self._service(each) for each in gpu.instances),
                tuple(each.job for each in gpu.instances),
                {
                    str(place): tuple(self._names[name] for name in each.services)
                    for place, each in enumerate(gpu.instances)
                    if len(each.services) > 1
                },
            )

    def _loaded(self, look: Look) -> LoadChange | None:
        changed: list[tuple[int, int, InstanceLoad]] = []
        for (gpu_id, start), load in look.load.items():
            index = self._index.get(gpu_id)
            if index is not None and self._loads[index].get(start, _UNKNOWN) != load:
                self._loads[index][start] = load
                changed.append((index, start, load))
        watts = {
            name: w for name, w in look.watts.items() if name in self._index and self._watts.get(name) != w
        }
        self._watts.update(watts)
        if not changed and not watts:
            return None
        self._load_version += 1
        self._load = None
        offsets = list(accumulate((len(gpu.instances) for gpu in self._gpus), initial=0)) if changed else []
        rows = sorted(
            (offsets[index] + place, load)
            for index, start, load in changed
            if (place := self._place(index, start)) is not None
        )
        return LoadChange(
            self.version,
            self.at,
            tuple(index for index, _ in rows),
            tuple(_thousandths(load.busy) for _, load in rows),
            tuple(_thousandths(load.attainment) for _, load in rows),
            tuple(self._index[name] for name in watts),
            tuple(_whole(each) for each in watts.values()),
        )

    def _place(self, index: int, start: int) -> int | None:
        return next((i for i, each in enumerate(self._gpus[index].instances) if each.start == start), None)

    def _service(self, instance: InstanceDetail) -> int:
        return self._names[instance.services[0]] if instance.services else -1

    def _columns(self, rows: Iterable[tuple[int, str, Sequence[InstanceDetail]]]) -> InstanceColumns:
        gpu: list[int] = []
        profile: list[int] = []
        start: list[int] = []
        state: list[int] = []
        service: list[int] = []
        job: dict[str, str] = {}
        shared: dict[str, tuple[int, ...]] = {}
        for index, model, instances in rows:
            profiles = _profile_indices(model)
            for each in instances:
                if each.job is not None:
                    job[str(len(gpu))] = each.job
                if len(each.services) > 1:
                    shared[str(len(gpu))] = tuple(self._names[name] for name in each.services)
                gpu.append(index)
                profile.append(profiles.get(each.profile, -1))
                start.append(each.start)
                state.append(_STATE[each.state])
                service.append(self._service(each))
        return InstanceColumns(
            tuple(gpu), tuple(profile), tuple(start), tuple(state), tuple(service), job, shared
        )

    def _planned(self) -> InstanceColumns | None:
        """Return the wanted instances of the GPUs that differ from them."""
        if self._goal is None:
            return None
        rows: list[tuple[int, str, Sequence[InstanceDetail]]] = []
        for gpu in self._goal.gpus:
            index = self._index.get(gpu.id)
            if index is None:
                continue
            wanted = _wanted(gpu.instances)
            running = [(e.start, e.profile, e.services) for e in self._gpus[index].instances]
            if [(e.start, e.profile, e.services) for e in wanted] != running:
                rows.append(
                    (index, gpu.model, [e for e in wanted if all(n in self._names for n in e.services)])
                )
        return self._columns(sorted(rows, key=lambda row: row[0]))

    def _node_rows(self) -> Iterator[Node]:
        found = {gpu.node: Node(gpu.node, gpu.rack, gpu.zone) for gpu in reversed(self._gpus)}
        return (found[name] for name in self._nodes)

    def _gpu(self, index: int) -> Gpu:
        gpu, loads = self._gpus[index], self._loads[index]
        model = _model(gpu.model)
        compute = {each.name: each.compute for each in model.profiles}
        instances = tuple(
            each.replace(busy=load.busy, slowdown=load.slowdown) if load != _UNKNOWN else each
            for each in gpu.instances
            for load in (loads.get(each.start, _UNKNOWN),)
        )
        at_work = [each for each in instances if each.state in _WORKING]
        known = [each.busy for each in at_work if each.busy is not None]
        working = (
            sum(compute.get(e.profile, 0) * (e.busy or 0.0) for e in at_work) / model.compute_slices
            if len(known) == len(at_work)
            else None
        )
        return Gpu(
            gpu.id,
            gpu.uuid,
            gpu.model,
            gpu.node,
            GPU_STATES[gpu.state],
            instances,
            held=sum(compute.get(e.profile, 0) for e in at_work) / model.compute_slices,
            working=working,
            fragmentation=fragmentation(gpu.model, tuple((e.start, e.profile) for e in gpu.instances)),
            watts=self._watts.get(gpu.id),
        )


def _wanted(instances: Iterable[DeployedInstance]) -> list[InstanceDetail]:
    return [
        InstanceDetail(
            each.placement.profile,
            each.placement.start,
            InstanceState.FREE if each.replica is None else InstanceState.SERVING,
            services=() if each.replica is None else tuple(name for name, _ in each.replica.serves),
        )
        for each in sorted(instances, key=lambda each: each.placement)
    ]


@lru_cache(maxsize=256)
def _model(name: str) -> GpuModel:
    known = gpu_model(name)
    return GpuModel(
        known.name,
        known.memory_slices,
        known.compute_slices,
        (known.memory_mib or 0) * 2.0**20,
        tuple(ProfileSize(each.name, each.memory, each.compute, each.starts) for each in known.profiles),
    )


@lru_cache(maxsize=256)
def _profile_indices(model: str) -> dict[str, int]:
    known = gpu_model(model)
    names = {alias: i for i, each in enumerate(known.profiles) for alias in each.aliases}
    return names | {each.name: i for i, each in enumerate(known.profiles)}


def fragmentation(model: str, placements: tuple[tuple[int, str], ...]) -> float:
    """Return the share of a GPU's free memory slices that the largest instance that fits does not use.

    Args:
        model: the catalogue's name.
        placements: start and profile of each of its instances.
    """
    free, largest = free_memory(
        gpu_model(model), tuple(sorted(Placement(start, profile) for start, profile in placements))
    )
    return (free - largest) / free if free else 0.0


def _words(gpu: SeenGpu) -> Iterator[str]:
    yield gpu.id.lower()
    yield gpu.model.lower()
    for each in gpu.instances:
        yield from (name.lower() for name in each.services)
        if each.job is not None:
            yield each.job.lower()


_NUMBER = re.compile(r"(\d+)")


@lru_cache(maxsize=65_536)
def _order(gpu_id: str) -> tuple[tuple[int, str], ...]:
    """Return the key by which node-2 comes before node-10."""
    parts = _NUMBER.split(gpu_id)
    return tuple((int(part), "") if index % 2 else (-1, part) for index, part in enumerate(parts))


def _thousandths(share: float | None) -> int | None:
    return None if share is None else round(share * 1000)


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
