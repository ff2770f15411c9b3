"""What changed, put onto what was there, is what there is; and acting costs what changes, not what there is."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
from tests.control.world import CLUSTER, MODEL, World, deployment, goal, gpu, replica

from partita.control.executor import ClusterView, snapshot
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
