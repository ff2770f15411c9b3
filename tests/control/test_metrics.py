"""What a cluster says to Prometheus is what was seen last."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.control.journal import State
from partita.control.metrics import (
    GPU_STATES,
    INSTANCE_STATES,
    ClusterFacts,
    Promise,
    ServiceNumbers,
    cluster_metrics,
)
from partita.control.watched import WatchedDriver
from partita.drive.driver import Identity, Observation, ObservedGpu, ObservedInstance, ObservedReplica
from partita.drive.simulated import SimulatedCluster, SimulatedDriver
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Layout, Placement, free_memory, legal_layouts
from partita.sim.clock import SimulatedClock
from partita.transition.deployment import Replica
from partita.transition.transition import Action, ActionKind

if TYPE_CHECKING:
    from pathlib import Path

MODEL = "a100-80gb"


def instance(
    text: str, service: str | None = None, *, busy: bool = False, ready: bool = True
) -> ObservedInstance:
    placement = Placement.parse(text)
    replica = None
    if service is not None:
        replica = ObservedReplica(Replica(service, "bert", 8, 1, 100.0, 20.0), ready)
    identity = Identity("GPU-0", placement.start + 1, 0, f"MIG-{text}")
    return ObservedInstance(placement, identity, ours=True, replica=replica, busy=busy)


def gpu(name: str, *instances: ObservedInstance, mig: bool = True, lost: bool = False) -> ObservedGpu:
    return ObservedGpu(name, f"GPU-{name}", MODEL, mig, lost, instances)


def samples(*clusters: tuple[dict[str, str], ClusterFacts]) -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    for family in cluster_metrics(clusters):
        for each in family.samples:
            assert not each.labels.keys() & {"instance", "job", "namespace"}
            key = (each.name, *each.labels.values())
            assert key not in found
            found[key] = each.value
    return found


def test_gpus_services_and_a_transition() -> None:
    observation = Observation(
        (
            gpu(
                "g0", instance("3g.40gb@4", "search"), instance("1g.10gb@0"), instance("1g.10gb@2", busy=True)
            ),
            gpu("g1"),
            gpu("g2", mig=False),
            gpu("g3", instance("7g.80gb@0", "search", ready=False), lost=True),
        )
    )
    numbers = ServiceNumbers(required=90.0, planned=120.0, ready=100.0, floor=80.0)
    found = samples(
        (
            {},
            ClusterFacts(
                observation,
                5.0,
                {"search": numbers},
                {"search": Promise(0.1, 0.99)},
                State.RUNNING,
                3,
                8,
                1,
                42.0,
                [("g0", "1g.10gb@2")],
            ),
        )
    )
    assert {state: found["partita_gpus", MODEL, state] for state in GPU_STATES} == {
        "used": 1,
        "free": 1,
        "leaving": 0,
        "mig_off": 1,
        "lost": 1,
    }
    assert {state: found["partita_instances", state] for state in INSTANCE_STATES} == {
        "ready": 1,
        "starting": 1,
        "draining": 0,
        "busy": 1,
        "idle": 1,
        "incomplete": 0,
    }
    assert found["partita_gpu_held", "g0", "GPU-g0", MODEL] == pytest.approx(4 / 7)
    # Slices 1 and 3 are free, which no instance of two slices can join.
    assert found["partita_gpu_fragmentation", "g0", "GPU-g0", MODEL] == 0.5
    assert found["partita_gpu_fragmentation", "g1", "GPU-g1", MODEL] == 0.0
    assert found["partita_fragmentation",] == pytest.approx(1 / 10)
    assert ("partita_gpu_held", "g3", "GPU-g3", MODEL) not in found
    assert found["partita_instance_info", "g0/3g.40gb@4", "GPU-g0", "5", "3g.40gb", "search"] == 1
    assert found["partita_instance_info", "g0/1g.10gb@0", "GPU-g0", "1", "1g.10gb", ""] == 1
    for name, value in (
        ("required_rate", 90),
        ("planned_capacity", 120),
        ("ready_capacity", 100),
        ("capacity_floor", 80),
        ("slo_objective", 0.99),
        ("slo_seconds", 0.1),
    ):
        assert found[f"partita_{name}", "search"] == value
    assert [found["partita_transition", state] for state in State] == [1, 0, 0, 0]
    for name, value in (("actions", 8), ("actions_done", 3), ("replans", 1), ("predicted_seconds", 42)):
        assert found[f"partita_transition_{name}",] == value


def test_several_clusters_are_told_apart_and_before_a_transition_all_is_zero() -> None:
    facts = ClusterFacts(Observation((gpu("g0"),)), 1.0)
    found = samples(({"workload": "a"}, facts), ({"workload": "b"}, facts))
    for name in "ab":
        assert found["partita_gpus", name, MODEL, "free"] == 1
        assert [found["partita_transition", name, state] for state in State] == [0, 0, 0, 0]
        assert found["partita_transition_actions", name] == 0
    assert list(cluster_metrics(()))  # the families are there without a cluster, too


@given(st.sampled_from(legal_layouts(gpu_model(MODEL))))
def test_free_memory_is_what_no_instance_has(layout: Layout) -> None:
    model = gpu_model(MODEL)
    free, largest = free_memory(model, layout.placements)
    assert free == model.memory_slices - sum(model.profile(each.profile).memory for each in layout)
    assert largest <= free
    bigger = [layout.place(each) for each in layout.free()]
    gained = [free - free_memory(model, each.placements)[0] for each in bigger]
    assert largest == max(gained, default=0)


def test_a_cut_that_no_layout_has_loses_nothing() -> None:
    assert free_memory(gpu_model(MODEL), (Placement(0, "9g.90gb"),)) == (8, 8)
    assert free_memory(gpu_model(MODEL), (Placement(1, "3g.40gb"),)) == (4, 4)


def seen(watched: WatchedDriver) -> Observation | None:
    return None if watched.seen is None else watched.seen[0]


def test_a_watched_driver_remembers_what_was_seen_last(tmp_path: Path) -> None:
    SimulatedCluster.create(tmp_path / "cluster", [("g0", MODEL), ("g1", MODEL)]).close()
    driver = SimulatedDriver(tmp_path / "cluster", SimulatedClock())
    try:
        watched = WatchedDriver(driver)
        assert seen(watched) is None
        mark = watched.observe_changes(None, ()).mark
        assert seen(watched) == driver.observe()
        watched.begin(
            Action("a", ActionKind.CREATE_INSTANCE, "g0", Placement.parse("3g.40gb@4"), None, (), 1.0)
        )
        assert [each.error for each in watched.wait()] == [None]
        watched.observe_changes(mark, ["g0"])
        assert seen(watched) == driver.observe()
        assert [len(each.instances) for each in driver.observe().gpus] == [1, 0]
        assert watched.observe() == driver.observe()
    finally:
        driver.close()
