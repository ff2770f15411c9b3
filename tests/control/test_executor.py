"""What changed is seen, at the cost of what changed; what someone else did is told from our own doing."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.control.world import CLUSTER, MODEL, World, deployment, goal, gpu, replica

from partita.control.cluster_view import ClusterView, Fact, Snapshot, moved, snapshot
from partita.drive.driver import Changes, DriveError, Observation, ObservesChanges
from partita.drive.simulated import SimulatedCluster, SimulatedDriver
from partita.mig.layout import Placement
from partita.sim.clock import SimulatedClock
from partita.transition.transition import Action, ActionKind

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from partita.drive.driver import ActionResult
    from partita.sim.clock import Clock


PLACES = [Placement(0, "4g.20gb"), Placement(4, "3g.20gb")]


class Asked:
    """Offers what the driver beneath offers, and counts the GPUs that are looked at."""

    def __init__(self, driver: SimulatedDriver) -> None:
        self._driver = driver
        self.looked = 0

    @property
    def clock(self) -> Clock:
        return self._driver.clock

    def observe(self) -> Observation:
        return self._driver.observe()

    def observe_changes(self, mark: object | None, touched: Collection[str]) -> Changes:
        found = self._driver.observe_changes(mark, touched)
        self.looked += len(found.gpus)
        return found

    def begin(self, action: Action) -> None:
        self._driver.begin(action)

    def wait(self, until: float | None = None) -> tuple[ActionResult, ...]:
        return self._driver.wait(until)

    def adopt(self, gpu: str, placement: Placement) -> None:
        self._driver.adopt(gpu, placement)


@st.composite
def steps(draw: st.DrawFn) -> tuple[str, str, Placement]:
    what = draw(
        st.sampled_from(
            [
                "create",
                "start",
                "stop",
                "destroy",
                "wait",
                "pass",
                "foreign",
                "destroyed",
                "kill",
                "busy",
                "lose",
                "restore",
                "mig-off",
                "mig-on",
                "adopt",
            ]
        )
    )
    return what, gpu(draw(st.integers(0, 2))), draw(st.sampled_from(PLACES))


def meddle(cluster: SimulatedCluster, driver: SimulatedDriver, what: str, on: str, at: Placement) -> None:
    doings: dict[str, Callable[[], object]] = {
        "foreign": lambda: cluster.create_foreign(on, at),
        "destroyed": lambda: cluster.destroy_behind_our_back(on, at),
        "kill": lambda: cluster.kill_replica(on, at),
        "busy": lambda: cluster.set_busy(on, at, busy=True),
        "lose": lambda: cluster.lose(on),
        "restore": lambda: cluster.restore(on),
        "mig-off": lambda: cluster.set_mig(on, on=False),
        "mig-on": lambda: cluster.set_mig(on, on=True),
        "adopt": lambda: driver.adopt(on, at),
        "wait": driver.wait,
        "pass": lambda: driver.wait(driver.clock.now() + 3.0),
    }
    kinds = {
        "create": ActionKind.CREATE_INSTANCE,
        "start": ActionKind.START_REPLICA,
        "stop": ActionKind.STOP_REPLICA,
        "destroy": ActionKind.DESTROY_INSTANCE,
    }
    try:
        if what in doings:
            doings[what]()
        else:
            wants = kinds[what] in {ActionKind.START_REPLICA, ActionKind.STOP_REPLICA}
            one = replica("bert", at.profile) if wants else None
            driver.begin(Action("a", kinds[what], on, at, one, (), 1.0))
    except DriveError:
        pass  # the cluster's rules forbid it: then it has not happened


@given(doings=st.lists(steps(), max_size=25), looks=st.sets(st.integers(0, 24)))
def test_whoever_changes_what_a_look_sees_it(
    doings: list[tuple[str, str, Placement]], looks: set[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CLUSTER
        cluster = SimulatedCluster.create(path, [(gpu(i), MODEL) for i in range(3)])
        driver = SimulatedDriver(path, SimulatedClock())
        view = ClusterView(driver)
        view.look()
        for index, (what, on, at) in enumerate(doings):
            meddle(cluster, driver, what, on, at)
            if index in looks:
                before = snapshot(view.observation)
                seen = view.look()
                assert view.observation == driver.observe()
                now = snapshot(view.observation)
                changed = {name for name in now.gpus if _part(before, name) != _part(now, name)}
                assert changed <= seen.gpus
        driver.close()
        cluster.close()


def _part(found: object, name: str) -> object:
    return (
        found.gpus[name],  # type: ignore[attr-defined]
        {key: fact for key, fact in found.instances.items() if key[0] == name},  # type: ignore[attr-defined]
    )


def test_a_transition_looks_at_what_its_actions_changed(tmp_path: Path) -> None:
    world = World(tmp_path, gpus=12)
    asked = Asked(SimulatedDriver(tmp_path / CLUSTER, SimulatedClock()))
    assert isinstance(asked, ObservesChanges)
    controller = replace(
        world.controller, executor=replace(world.controller.executor, driver=asked), most_replans=0
    )
    target = deployment(*["4g.20gb@0=bert 3g.20gb@4=resnet"] * 12)
    reached = controller.reach(goal(target))
    assert reached.actions == 48
    # All GPUs once, then about the one on which something ended, or several where several ended at once.
    assert asked.looked <= 12 + 4 * reached.actions
    assert world.journal.seen() is not None


def test_a_driver_that_cannot_tell_is_observed_whole() -> None:
    found = {"gpus": ("a", "b")}

    class Plain:
        def observe(self) -> Observation:
            from partita.drive.driver import ObservedGpu  # noqa: PLC0415 -- of this double alone

            return Observation(
                tuple(
                    ObservedGpu(name, name, MODEL, mig=True, lost=False, instances=())
                    for name in found["gpus"]
                )
            )

    view = ClusterView(Plain())  # type: ignore[arg-type]
    assert view.look().gpus == {"a", "b"}
    found["gpus"] = ("b", "c")
    seen = view.look()
    assert seen.gpus == {"a", "b", "c"}
    assert [each.id for each in view.observation.gpus] == ["b", "c"]
    assert seen.now.gpus.keys() == {"b", "c"}


BERT = Fact(ours=True, busy=False, mig_uuid="MIG-1", serves="bert batch 8", settling=False)
IDLE = BERT._replace(serves=None)
KEY = ("g0", "3g.20gb@4")


def seen(fact: Fact | None, gpu: str = "ready") -> Snapshot:
    return Snapshot({"g0": gpu}, {KEY: fact} if fact else {})


def ours(kind: ActionKind) -> Action:
    return Action(
        "a0",
        kind,
        "g0",
        Placement(4, "3g.20gb"),
        None if "inst" in kind else replica("bert", "3g.20gb"),
        (),
        1.0,
    )


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (None, BERT, "is new"),
        (BERT, None, "is gone"),
        (BERT, BERT._replace(mig_uuid="MIG-2"), "was created again"),
        (BERT, BERT._replace(ours=False), "is someone else's"),
        (BERT, BERT._replace(busy=True), "is in use by someone else's process"),
        (BERT, IDLE, "does not run bert batch 8 any more"),
        (BERT, IDLE._replace(settling=True), "does not run bert batch 8 any more"),
        (IDLE, BERT, "runs something new"),
    ],
)
def test_a_change_by_someone_else_is_told(before: Fact | None, now: Fact | None, told: str) -> None:
    assert moved(seen(before), seen(now)) == [f"g0: 3g.20gb@4 {told}"]


@pytest.mark.parametrize("now", [BERT, IDLE, IDLE._replace(settling=True)])
def test_a_replica_that_was_starting_or_draining_may_change_by_itself(now: Fact) -> None:
    assert moved(seen(IDLE._replace(settling=True)), seen(now)) == []


@pytest.mark.parametrize(
    ("kind", "before", "now"),
    [
        (ActionKind.CREATE_INSTANCE, None, IDLE),
        (ActionKind.DESTROY_INSTANCE, IDLE, None),
        (ActionKind.START_REPLICA, IDLE, BERT),
        (ActionKind.STOP_REPLICA, BERT, IDLE),
    ],
)
def test_our_own_doing_is_no_change(kind: ActionKind, before: Fact | None, now: Fact | None) -> None:
    assert moved(seen(before), seen(now), {KEY: ours(kind)}) == []


@pytest.mark.parametrize(
    ("kind", "now", "told"),
    [
        (ActionKind.CREATE_INSTANCE, None, "is gone"),
        (ActionKind.DESTROY_INSTANCE, IDLE, "exists again"),
        (ActionKind.START_REPLICA, IDLE, "does not run bert batch 8 any more"),
        (ActionKind.START_REPLICA, BERT._replace(ours=False), "was taken by someone else"),
    ],
)
def test_our_own_doing_undone_at_once_is_told(kind: ActionKind, now: Fact | None, told: str) -> None:
    assert moved(seen(None), seen(now), {KEY: ours(kind)}) == [f"g0: 3g.20gb@4 {told}"]


def test_what_was_under_way_or_failed_may_be_in_any_state_of_ours() -> None:
    for now in (None, IDLE, BERT):
        assert moved(seen(IDLE), seen(now), {KEY: None}) == []


def test_a_lost_gpu_is_told_once_and_not_for_each_instance() -> None:
    assert moved(seen(BERT), Snapshot({"g0": "lost"}, {})) == ["g0: is lost"]


def test_the_fingerprint_changes_with_what_a_transition_depends_on() -> None:
    found = {seen(fact).fingerprint for fact in (None, BERT, IDLE, BERT._replace(mig_uuid="x"))}
    assert len(found) == 4
    assert seen(BERT).fingerprint == seen(BERT).fingerprint
