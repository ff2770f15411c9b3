"""The fleet in memory: a client that follows the stream knows what one that loads all documents knows."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partita.dash.fleet import FleetState, fragmentation
from partita.dash.model import GpuChange, InstanceDetail, InstanceState, LoadChange, Reset, Service
from partita.dash.source import InstanceLoad, Look, SeenGpu
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Layout, Placement, legal_layouts

if TYPE_CHECKING:
    from partita.dash.model import Fleet, Load

MODELS = ("a30-24gb", "a100-40gb")
SERVICES = ("search", "chat", "vision")


def seen(rng: random.Random, gpu_id: str, model: str) -> SeenGpu:
    """A GPU cut and used at random."""
    layout = rng.choice(legal_layouts(gpu_model(model)))
    instances = []
    for each in layout:
        state = rng.choice(tuple(InstanceState))
        serves = state in (InstanceState.SERVING, InstanceState.DRAINING)
        instances.append(
            InstanceDetail(
                each.profile,
                each.start,
                state,
                services=(rng.choice(SERVICES),) if serves else (),
                job=f"job-{rng.randrange(5)}" if state is InstanceState.JOB else None,
            )
        )
    return SeenGpu(
        gpu_id, f"GPU-{gpu_id}", model, gpu_id.split("/", maxsplit=1)[0], rng.randrange(4), tuple(instances)
    )


@dataclass
class Follower:
    """What a client knows that loads the documents once, and then follows the stream."""

    version: str = ""
    gpus: list[list[tuple[object, ...]]] = field(default_factory=list)
    loads: list[list[tuple[int | None, int | None]]] = field(default_factory=list)
    watts: list[int | None] = field(default_factory=list)
    states: list[int] = field(default_factory=list)

    def loaded(self, fleet: Fleet, load: Load) -> None:
        self.version = fleet.version
        assert load.fleet == fleet.version
        self.states = list(fleet.gpus.state)
        self.gpus = [[] for _ in fleet.gpus.id]
        self.loads = [[] for _ in fleet.gpus.id]
        rows = fleet.instances
        for index, gpu in enumerate(rows.gpu):
            job = rows.job.get(str(index))
            row = (rows.profile[index], rows.start[index], rows.state[index], rows.service[index], job)
            self.gpus[gpu].append(row)
            self.loads[gpu].append((load.busy[index], load.attainment[index]))
        self.watts = list(load.watts)

    def changed(self, change: GpuChange) -> None:
        assert change.before == self.version
        self.version = change.fleet
        places = [row[:2] for row in self.gpus[change.gpu]]
        old = dict(zip(places, self.loads[change.gpu], strict=True))
        columns = (change.profile, change.start, change.instance_state, change.service, change.job)
        self.gpus[change.gpu] = list(zip(*columns, strict=True))
        self.loads[change.gpu] = [old.get(row[:2], (None, None)) for row in self.gpus[change.gpu]]
        self.states[change.gpu] = change.state

    def reloaded(self, change: LoadChange) -> None:
        assert change.fleet == self.version
        ends = list(accumulate(len(rows) for rows in self.gpus))
        for index, busy, attainment in zip(change.index, change.busy, change.attainment, strict=True):
            gpu = next(i for i, end in enumerate(ends) if index < end)
            self.loads[gpu][index - ends[gpu]] = (busy, attainment)
        for gpu, watts in zip(change.gpu, change.watts, strict=True):
            self.watts[gpu] = watts


def random_look(rng: random.Random, known: dict[str, SeenGpu]) -> Look:
    """Some GPUs change, and now and then one comes or goes."""
    changed = [name for name in known if rng.random() < 0.3]
    gone = [name for name in known if rng.random() < 0.02]
    new = [f"node-{rng.randrange(12)}/gpu-{rng.randrange(3)}"] if rng.random() < 0.1 else []
    for name in gone:
        del known[name]
    for name in {*changed, *new} - set(gone):
        model = known[name].model if name in known else rng.choice(MODELS)
        known[name] = seen(rng, name, model)
    loads = {
        (name, each.start): InstanceLoad(*(rng.choice((None, rng.random())) for _ in range(2)))
        for name, gpu in known.items()
        for each in gpu.instances
        if rng.random() < 0.2
    }
    watts = {name: rng.choice((None, rng.uniform(50, 400))) for name in known if rng.random() < 0.2}
    gpus = [known[name] for name in {*changed, *new} if name in known]
    return Look(rng.random(), gpus, gone, load=loads, watts=watts)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_who_follows_the_stream_knows_what_who_loads_everything_knows(seed: int) -> None:
    rng = random.Random(seed)
    known = {
        name: seen(rng, name, rng.choice(MODELS))
        for name in (f"node-{i}/gpu-{j}" for i in (0, 2, 10) for j in range(2))
    }
    fleet, follower = FleetState(), Follower()
    fleet.update(Look(0.0, list(known.values())))
    follower.loaded(fleet.fleet(), fleet.load())
    for _ in range(8):
        for name, document in fleet.update(random_look(rng, known)):
            match document:
                case Reset():
                    assert name == "reset"
                    follower.loaded(fleet.fleet(), fleet.load())
                case GpuChange():
                    follower.changed(document)
                case LoadChange():
                    follower.reloaded(document)
        fresh = Follower()
        fresh.loaded(fleet.fleet(), fleet.load())
        assert follower == fresh


def test_gpus_stand_by_node_and_number() -> None:
    fleet, rng = FleetState(), random.Random(0)
    names = ["node-10/gpu-0", "node-2/gpu-1", "node-2/gpu-10", "node-2/gpu-2", "a/gpu-0"]
    fleet.update(Look(0.0, [seen(rng, name, "a30-24gb") for name in names]))
    right = ["a/gpu-0", "node-2/gpu-1", "node-2/gpu-2", "node-2/gpu-10", "node-10/gpu-0"]
    assert list(fleet.fleet().gpus.id) == right
    assert [each.name for each in fleet.fleet().nodes] == ["a", "node-2", "node-10"]


def test_pages_hold_every_gpu_once_though_one_goes_meanwhile() -> None:
    fleet, rng = FleetState(), random.Random(0)
    fleet.update(Look(0.0, [seen(rng, f"node-0/gpu-{i}", "a30-24gb") for i in range(25)]))
    found, following = fleet.page(None, 10, "")
    assert following == "node-0/gpu-9"
    fleet.update(Look(1.0, gone=["node-0/gpu-9"]))
    more, after = fleet.page(following, 10, "")
    rest, end = fleet.page(after, 10, "")
    assert [each.id for each in (*found, *more, *rest)] == [f"node-0/gpu-{i}" for i in range(25)]
    assert end is None


def test_a_service_can_be_searched_for() -> None:
    fleet = FleetState()
    serving = InstanceDetail("1g.6gb", 0, InstanceState.SERVING, services=("photo-search",))
    gpus = [
        SeenGpu("n/gpu-0", "GPU-0", "a30-24gb", "n", 0, (serving,)),
        SeenGpu("n/gpu-1", "GPU-1", "a30-24gb", "n", 0, ()),
    ]
    fleet.update(Look(0.0, gpus))
    assert [each.id for each in fleet.page(None, 10, "photo")[0]] == ["n/gpu-0"]
    assert [each.id for each in fleet.page(None, 10, "gpu-1")[0]] == ["n/gpu-1"]


def test_held_counts_instances_with_work_and_working_what_is_known_of_them() -> None:
    fleet = FleetState()
    instances = (
        InstanceDetail("2g.12gb", 0, InstanceState.SERVING, services=("search",)),
        InstanceDetail("1g.6gb", 2, InstanceState.FREE),
    )
    fleet.update(Look(0.0, [SeenGpu("n/gpu-0", "GPU-0", "a30-24gb", "n", 0, instances)]))
    gpu = fleet.gpu("n/gpu-0")
    assert gpu is not None
    assert (gpu.held, gpu.working) == (0.5, None)
    fleet.update(Look(1.0, load={("n/gpu-0", 0): InstanceLoad(busy=0.5)}))
    gpu = fleet.gpu("n/gpu-0")
    assert gpu is not None
    assert (gpu.held, gpu.working, gpu.instances[0].busy) == (0.5, 0.25, 0.5)
    totals = fleet.totals()
    assert (totals["gpus"], totals["used"], totals["held"], totals["working"]) == (1, 1, 0.5, 0.25)


def test_fragmentation_is_what_the_largest_instance_leaves() -> None:
    """Compared with all that could be placed, by every legal layout that has one instance more."""
    model = gpu_model("a30-24gb")
    legal = {each.placements for each in legal_layouts(model)}
    for layout in legal_layouts(model):
        free = model.memory_slices - sum(model.profile(each.profile).memory for each in layout)
        larger = [
            profile.memory
            for profile in model.profiles
            for start in profile.starts
            if tuple(sorted((*layout.placements, Placement(start, profile.name)))) in legal
        ]
        right = 1 - min(max(larger, default=0), free) / free if free else 0.0
        rows = tuple((each.start, each.profile) for each in layout)
        assert fragmentation("a30-24gb", rows) == pytest.approx(right), Layout(model, layout.placements)


def test_someone_else_s_cut_has_no_fragmentation() -> None:
    assert fragmentation("a100-40gb", ((0, "9g.90gb"),)) == 0.0


def test_a_service_that_went_is_told_by_a_reset_and_one_that_came_too() -> None:
    fleet = FleetState()
    fleet.update(Look(0.0, services=[Service(name, 1.0, 1.0, 1.0, 1.0, 1) for name in ("chat", "search")]))
    assert fleet.fleet().services == ("chat", "search")
    ((name, document),) = fleet.update(Look(1.0, gone_services=["chat"]))
    assert (name, document) == ("reset", Reset(fleet.version, "services went"))
    assert (fleet.fleet().services, list(fleet.services)) == (("search",), ["search"])
    ((name, document),) = fleet.update(Look(2.0, services=[Service("vision", 1.0, 1.0, 1.0, 1.0, 1)]))
    assert (name, document) == ("reset", Reset(fleet.version, "services came"))
    assert fleet.fleet().services == ("search", "vision")
