"""The simulated cluster against a model of it: any actions in any order, with kills in between."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.drive.world import GPU, OTHER, World

from partita.drive.driver import (
    ActionResult,
    DriveError,
    FailedError,
    GpuLostError,
    InUseError,
    NoRoomError,
    RefusedError,
    TimedOutError,
)
from partita.drive.simulated import FaultKind, InjectedFault, SimulatedCluster, SimulatedDriver
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement, fault
from partita.sim.clock import SimulatedClock, WallClock
from partita.transition.transition import MEASURED, Action, ActionKind, Durations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from partita.drive.driver import ObservedGpu, ObservedInstance


HALF = Placement.parse("3g.20gb@4")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cluster.sqlite3"


@pytest.fixture
def cluster(path: Path) -> Iterator[SimulatedCluster]:
    made = SimulatedCluster.create(path, [(GPU, "a100-40gb"), (OTHER, "a100-40gb")], seed=7)
    yield made
    made.close()


@pytest.fixture
def world(cluster: SimulatedCluster, path: Path) -> Iterator[World]:
    del cluster
    driver = SimulatedDriver(path, SimulatedClock())
    yield World(driver)
    driver.close()


@pytest.fixture
def killed(path: Path) -> Callable[[World], World]:
    """Returns what a new process sees after the old one was killed: nothing of it but the file is left."""

    def die(world: World) -> World:
        assert isinstance(world.driver, SimulatedDriver)
        world.driver.close()
        return World(SimulatedDriver(path, SimulatedClock()))

    return die


def test_a_new_cluster_has_its_gpus_and_nothing_on_them(world: World) -> None:
    seen = world.driver.observe()
    assert [gpu.id for gpu in seen.gpus] == [world.gpu, world.other]
    assert all(gpu.mig and not gpu.lost and not gpu.instances for gpu in seen.gpus)
    assert len({gpu.uuid for gpu in seen.gpus}) == 2


def test_an_instance_is_made_used_and_destroyed(world: World) -> None:
    assert world.create("3g.20gb@4") is None
    (made,) = world.instances()
    assert made.complete
    assert made.ours
    assert str(made.identity.mig_uuid).startswith("MIG-")
    assert world.start("3g.20gb@4") is None
    running = world.replica("3g.20gb@4")
    assert running.ready
    assert running.replica.service == "bert"
    assert world.stop("3g.20gb@4") is None
    assert world.instances()[0].replica is None
    assert world.destroy("3g.20gb@4") is None
    assert world.instances() == ()


def test_what_is_done_already_is_no_error_and_takes_no_time(world: World) -> None:
    for act in (world.create, world.start, world.stop, world.destroy):
        assert act("2g.10gb@0") is None
        before = world.driver.clock.now()
        assert act("2g.10gb@0") is None
        assert world.driver.clock.now() == before


@pytest.mark.parametrize("at", ["2g.10gb@1", "1g.5gb@5", "9g.90gb@0", "4g.20gb@4", "7g.40gb@0"])
def test_what_the_gpus_rules_forbid_finds_no_room(world: World, at: str) -> None:
    world.create("3g.20gb@4")
    assert isinstance(world.create(at), NoRoomError)
    assert world.layout() == "3g.20gb@4"


def test_the_mig_uuid_changes_at_every_creation_and_the_gi_id_comes_back(world: World) -> None:
    seen = []
    for _ in range(3):
        world.create("2g.10gb@0")
        seen.append(world.instances()[0].identity)
        world.destroy("2g.10gb@0")
    assert len({each.mig_uuid for each in seen}) == 3
    assert {each.gi_id for each in seen} == {3}


def test_gi_ids_are_those_of_a_real_a100(world: World) -> None:
    for start in range(7):
        world.create(f"1g.5gb@{start}")
    world.create("3g.20gb@0", world.other)
    world.create("3g.20gb@4", world.other)
    assert [each.identity.gi_id for each in world.instances()] == list(range(7, 14))
    assert [each.identity.gi_id for each in world.instances(world.other)] == [1, 2]


def test_an_instance_with_a_replica_is_in_use(world: World) -> None:
    world.create("3g.20gb@4")
    world.start("3g.20gb@4")
    error = world.destroy("3g.20gb@4")
    assert isinstance(error, InUseError)
    assert error.retry


def test_a_replica_needs_a_whole_instance_and_an_empty_one(world: World) -> None:
    assert isinstance(world.start("3g.20gb@4"), NoRoomError)
    world.create("3g.20gb@4")
    world.start("3g.20gb@4")
    assert isinstance(world.start("3g.20gb@4", service="resnet"), RefusedError)
    assert isinstance(world.stop("3g.20gb@4", service="resnet"), RefusedError)
    assert world.replica("3g.20gb@4").replica.service == "bert"


def test_independent_actions_run_side_by_side(world: World) -> None:
    for gpu in (world.gpu, world.other):
        for start in range(7):
            world.create(f"1g.5gb@{start}", gpu)
    began = world.driver.clock.now()
    for gpu in (world.gpu, world.other):
        for start in range(7):
            world.driver.begin(world.action(ActionKind.START_REPLICA, f"1g.5gb@{start}", gpu))
    times: list[float] = []
    ended: list[ActionResult] = []
    while found := world.driver.wait():
        times.append(world.driver.clock.now())
        ended += found
    assert all(each.error is None for each in ended)
    assert times == sorted(times)
    assert len(ended) == 14
    assert times[-1] - began < 4 * MEASURED.start_replica


def test_waiting_until_a_moment_lets_a_simulated_clock_reach_it(world: World) -> None:
    assert world.driver.wait(until=100.0) == ()
    assert world.driver.clock.now() == 100.0
    world.create("3g.20gb@4")
    world.driver.begin(world.action(ActionKind.START_REPLICA, "3g.20gb@4"))
    soon = world.driver.clock.now() + 1
    assert world.driver.wait(until=soon) == ()
    assert world.driver.clock.now() == soon
    assert not world.replica("3g.20gb@4").ready
    assert len(world.driver.wait()) == 1


def test_waiting_for_nothing_returns_nothing(world: World) -> None:
    assert world.driver.wait() == ()


def test_the_same_seed_gives_the_same_cluster_to_the_last_digit(tmp_path: Path) -> None:
    def story(name: str) -> tuple[object, float]:
        made = SimulatedCluster.create(tmp_path / name, [("g", "a30-24gb")], seed=3)
        made.close()
        driver = SimulatedDriver(tmp_path / name, SimulatedClock())
        for start in range(4):
            driver.begin(
                Action(str(start), ActionKind.CREATE_INSTANCE, "g", Placement(start, "1g.6gb"), None, (), 1.0)
            )
        while driver.wait():
            pass
        seen = driver.observe(), driver.clock.now()
        driver.close()
        return seen

    assert story("a") == story("b")


def test_several_drivers_see_one_cluster_and_one_time(world: World, path: Path) -> None:
    world.create("3g.20gb@4")
    other = SimulatedDriver(path, SimulatedClock())
    assert other.observe() == world.driver.observe()
    assert other.clock.now() == world.driver.clock.now()
    other.close()


def test_a_killed_creation_leaves_an_instance_without_compute_instance_that_creating_completes(
    world: World, killed: Callable[[World], World]
) -> None:
    world.driver.begin(world.action(ActionKind.CREATE_INSTANCE, "3g.20gb@4"))
    world = killed(world)
    (half,) = world.instances()
    assert half.ours
    assert not half.complete
    assert half.identity.mig_uuid is None
    assert isinstance(world.start("3g.20gb@4"), NoRoomError)
    assert world.create("3g.20gb@4") is None
    assert world.instances()[0].complete
    assert world.instances()[0].identity.gi_id == half.identity.gi_id


def test_a_killed_destruction_leaves_an_instance_that_can_be_destroyed_or_completed(
    world: World, killed: Callable[[World], World]
) -> None:
    world.create("3g.20gb@4")
    world.create("3g.20gb@0")
    for at in ("3g.20gb@4", "3g.20gb@0"):
        world.driver.begin(world.action(ActionKind.DESTROY_INSTANCE, at))
    world = killed(world)
    assert [each.complete for each in world.instances()] == [False, False]
    assert world.destroy("3g.20gb@4") is None
    assert world.create("3g.20gb@0") is None
    assert world.layout() == "3g.20gb@0"


def test_replicas_outlive_their_controller_and_become_ready_or_drain_by_themselves(
    world: World, killed: Callable[[World], World]
) -> None:
    for at in ("3g.20gb@4", "3g.20gb@0"):
        world.create(at)
    world.start("3g.20gb@0")
    world.driver.begin(world.action(ActionKind.START_REPLICA, "3g.20gb@4"))
    world.driver.begin(world.action(ActionKind.STOP_REPLICA, "3g.20gb@0"))
    world = killed(world)
    assert world.replica("3g.20gb@0").draining
    assert not world.replica("3g.20gb@4").ready
    world.driver.wait(until=world.driver.clock.now() + 1000)
    assert world.instances()[0].replica is None
    assert world.replica("3g.20gb@4").ready


def test_asking_again_waits_for_the_same_end(world: World, killed: Callable[[World], World]) -> None:
    world.create("3g.20gb@4")
    world.driver.begin(world.action(ActionKind.START_REPLICA, "3g.20gb@4"))
    world = killed(world)
    assert world.start("3g.20gb@4") is None
    assert world.replica("3g.20gb@4").ready
    world.driver.begin(world.action(ActionKind.STOP_REPLICA, "3g.20gb@4"))
    world = killed(world)
    assert isinstance(world.start("3g.20gb@4"), InUseError)
    assert world.stop("3g.20gb@4") is None
    assert world.instances()[0].replica is None


def test_a_create_that_fails_leaves_nothing_and_succeeds_when_the_fault_is_over(
    world: World, cluster: SimulatedCluster
) -> None:
    cluster.inject(InjectedFault(FaultKind.FAILS, ActionKind.CREATE_INSTANCE, times=2))
    for _ in range(2):
        error = world.create("3g.20gb@4")
        assert isinstance(error, FailedError)
        assert error.retry
        assert world.instances() == ()
    assert world.create("3g.20gb@4") is None


def test_a_destroy_says_in_use_as_often_as_asked(world: World, cluster: SimulatedCluster) -> None:
    world.create("3g.20gb@4")
    cluster.inject(InjectedFault(FaultKind.IN_USE, ActionKind.DESTROY_INSTANCE, world.gpu, HALF, times=2))
    assert isinstance(world.destroy("3g.20gb@4"), InUseError)
    assert isinstance(world.destroy("3g.20gb@4"), InUseError)
    assert world.instances()[0].complete
    assert world.destroy("3g.20gb@4") is None


def test_a_replica_that_never_becomes_ready_times_out_and_can_be_stopped(
    world: World, cluster: SimulatedCluster
) -> None:
    world.create("3g.20gb@4")
    cluster.inject(InjectedFault(FaultKind.NEVER_READY))
    assert isinstance(world.start("3g.20gb@4"), TimedOutError)
    assert not world.replica("3g.20gb@4").ready
    assert isinstance(world.start("3g.20gb@4"), TimedOutError)
    assert world.stop("3g.20gb@4") is None
    assert world.start("3g.20gb@4") is None


def test_a_replica_that_fails_to_start_is_gone(world: World, cluster: SimulatedCluster) -> None:
    world.create("3g.20gb@4")
    cluster.inject(InjectedFault(FaultKind.FAILS, ActionKind.START_REPLICA))
    assert isinstance(world.start("3g.20gb@4"), FailedError)
    assert world.instances()[0].replica is None


def test_a_stop_that_fails_leaves_the_replica_answering(world: World, cluster: SimulatedCluster) -> None:
    world.create("3g.20gb@4")
    world.start("3g.20gb@4")
    cluster.inject(InjectedFault(FaultKind.FAILS, ActionKind.STOP_REPLICA))
    assert isinstance(world.stop("3g.20gb@4"), FailedError)
    assert world.replica("3g.20gb@4").ready
    assert not world.replica("3g.20gb@4").draining


def test_an_action_may_time_out_although_it_happened(world: World, cluster: SimulatedCluster) -> None:
    cluster.inject(InjectedFault(FaultKind.TIMES_OUT))
    assert isinstance(world.create("3g.20gb@4"), TimedOutError)
    assert world.instances()[0].complete


def test_a_gpu_that_disappears_takes_all_with_it(world: World, cluster: SimulatedCluster) -> None:
    world.create("3g.20gb@4")
    world.start("3g.20gb@4")
    cluster.inject(InjectedFault(FaultKind.GPU_LOST, ActionKind.CREATE_INSTANCE))
    assert isinstance(world.create("3g.20gb@0"), GpuLostError)
    assert world.seen().lost
    assert world.instances() == ()
    assert isinstance(world.create("3g.20gb@0"), GpuLostError)
    assert world.create("3g.20gb@0", world.other) is None
    cluster.restore(world.gpu)
    assert world.create("3g.20gb@0") is None


def test_a_gpu_lost_meanwhile_fails_what_was_under_way(world: World, cluster: SimulatedCluster) -> None:
    world.driver.begin(world.action(ActionKind.CREATE_INSTANCE, "3g.20gb@4"))
    cluster.lose(world.gpu)
    (ended,) = world.driver.wait()
    assert isinstance(ended.error, GpuLostError)


def test_faults_may_let_actions_through_first(world: World, cluster: SimulatedCluster) -> None:
    cluster.inject(InjectedFault(FaultKind.FAILS, skip=2))
    assert [world.create(f"1g.5gb@{i}") is None for i in range(4)] == [True, True, False, True]


def test_a_gpu_that_is_not_there_is_lost(world: World) -> None:
    error = world.create("3g.20gb@4", "node-9/gpu-9")
    assert isinstance(error, GpuLostError)
    assert error.where == "node-9/gpu-9"


def test_foreign_instances_are_seen_and_left_alone_until_adopted(
    world: World, cluster: SimulatedCluster
) -> None:
    cluster.create_foreign(world.gpu, HALF)
    (theirs,) = world.instances()
    assert not theirs.ours
    assert theirs.complete
    for act in (world.create, world.start, world.stop, world.destroy):
        assert isinstance(act("3g.20gb@4"), RefusedError)
    assert isinstance(world.create("7g.40gb@0"), NoRoomError)
    world.driver.adopt(world.gpu, HALF)
    assert world.instances()[0].ours
    assert world.destroy("3g.20gb@4") is None


def test_adopting_what_is_not_there_says_so(world: World) -> None:
    with pytest.raises(NoRoomError, match="no such instance"):
        world.driver.adopt(world.gpu, HALF)


def test_a_foreign_process_makes_an_instance_busy(world: World, cluster: SimulatedCluster) -> None:
    world.create("3g.20gb@4")
    cluster.set_busy(world.gpu, HALF, busy=True)
    assert world.instances()[0].busy
    assert isinstance(world.destroy("3g.20gb@4"), InUseError)
    assert isinstance(world.start("3g.20gb@4"), InUseError)
    cluster.set_busy(world.gpu, HALF, busy=False)
    assert world.destroy("3g.20gb@4") is None


def test_what_others_destroy_is_gone_and_what_was_being_made_there_failed(
    world: World, cluster: SimulatedCluster
) -> None:
    world.driver.begin(world.action(ActionKind.CREATE_INSTANCE, "3g.20gb@4"))
    cluster.destroy_behind_our_back(world.gpu, HALF)
    (ended,) = world.driver.wait()
    assert isinstance(ended.error, FailedError)


def test_a_replica_killed_before_it_was_ready_has_failed(world: World, cluster: SimulatedCluster) -> None:
    world.create("3g.20gb@4")
    world.driver.begin(world.action(ActionKind.START_REPLICA, "3g.20gb@4"))
    cluster.kill_replica(world.gpu, HALF)
    (ended,) = world.driver.wait()
    assert isinstance(ended.error, FailedError)


def test_without_mig_mode_nothing_is_made(world: World, cluster: SimulatedCluster) -> None:
    world.create("3g.20gb@4")
    cluster.set_mig(world.gpu, on=False)
    error = world.create("3g.20gb@4")
    assert isinstance(error, RefusedError)
    assert not world.seen().mig
    assert world.instances() == ()


def test_an_action_without_its_replica_is_refused(world: World) -> None:
    world.create("3g.20gb@4")
    world.driver.begin(replace(world.action(ActionKind.START_REPLICA, "3g.20gb@4"), replica=None))
    (ended,) = world.driver.wait()
    assert isinstance(ended.error, RefusedError)


@pytest.mark.usefixtures("cluster")
def test_durations_are_near_the_measured_means(path: Path) -> None:
    driver = SimulatedDriver(path, SimulatedClock())
    spent = {ActionKind.CREATE_INSTANCE: 0.0, ActionKind.DESTROY_INSTANCE: 0.0}
    for n in range(200):
        for kind in spent:
            before = driver.clock.now()
            driver.begin(Action(str(n), kind, "node-0/gpu-0", HALF, None, (), 1.0))
            assert driver.wait()[0].error is None
            spent[kind] += driver.clock.now() - before
    assert spent[ActionKind.CREATE_INSTANCE] / 200 == pytest.approx(MEASURED.create_instance, rel=0.1)
    assert spent[ActionKind.DESTROY_INSTANCE] / 200 == pytest.approx(MEASURED.destroy_instance, rel=0.1)
    driver.close()


@pytest.mark.usefixtures("cluster")
def test_on_the_wall_clock_actions_take_their_time(path: Path) -> None:
    driver = SimulatedDriver(path, WallClock(), seconds=Durations(0.05, 0.05, 0.05, 0.05), jitter=0.0)
    began = driver.clock.now()
    driver.begin(Action("1", ActionKind.CREATE_INSTANCE, "node-0/gpu-0", HALF, None, (), 1.0))
    assert driver.wait(until=began + 0.01) == ()
    assert len(driver.wait()) == 1
    assert 0.05 <= driver.clock.now() - began < 5
    driver.close()


def test_threads_may_begin_actions_at_once(world: World) -> None:
    places = [(gpu, f"1g.5gb@{start}") for gpu in (world.gpu, world.other) for start in range(7)]
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda p: world.driver.begin(world.action(ActionKind.CREATE_INSTANCE, p[1], p[0])), places
            )
        )
    ended: list[ActionResult] = []
    while found := world.driver.wait():
        ended += found
    assert [each.error for each in ended] == [None] * 14
    assert {each.identity.gi_id for each in world.instances()} == set(range(7, 14))


WRITER = """
import sys
from partita.drive.simulated import SimulatedDriver
from partita.mig.layout import Placement
from partita.sim.clock import SimulatedClock
from partita.transition.transition import Action, ActionKind
driver = SimulatedDriver(sys.argv[1], SimulatedClock())
sys.stdout.write("ready\\n"); sys.stdout.flush()
n = 0
while True:
    for start in range(int(sys.argv[2]), 7, 2):
        for kind in (ActionKind.CREATE_INSTANCE, ActionKind.DESTROY_INSTANCE):
            n += 1
            driver.begin(Action(str(n), kind, "node-0/gpu-0", Placement(start, "1g.5gb"), None, (), 1.0))
            (ended,) = driver.wait()
            assert ended.error is None, ended
            if n >= int(sys.argv[3]): sys.exit(0)
"""


@pytest.mark.usefixtures("cluster")
def test_processes_may_work_on_one_cluster_at_once(path: Path) -> None:
    both = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(first), "200"]) for first in (0, 1)
    ]
    assert [each.wait(60) for each in both] == [0, 0]


@pytest.mark.usefixtures("cluster")
def test_a_process_killed_at_any_moment_leaves_a_cluster_that_can_be_used(path: Path) -> None:
    for pause in (0.01, 0.05):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), "0", "1000000"], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(pause)
            os.kill(writer.pid, signal.SIGKILL)
        driver = SimulatedDriver(path, SimulatedClock())
        (left, _) = driver.observe().gpus
        assert len(left.instances) <= 1
        for each in left.instances:
            driver.begin(Action("x", ActionKind.DESTROY_INSTANCE, left.id, each.placement, None, (), 1.0))
            assert driver.wait()[0].error is None
        driver.close()


def test_no_cluster_no_driver(tmp_path: Path) -> None:
    with pytest.raises(DriveError, match="no simulated cluster"):
        SimulatedDriver(tmp_path / "cluster.sqlite3", SimulatedClock())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("cluster")
def test_a_cluster_is_never_overwritten(path: Path) -> None:
    with pytest.raises(DriveError, match="already"):
        SimulatedCluster.create(path, [("g", "a30-24gb")])
    driver = SimulatedDriver(path, SimulatedClock())
    assert len(driver.observe().gpus) == 2
    driver.close()


def test_a_file_that_is_no_cluster_is_left_as_it_is(path: Path) -> None:
    path.write_text("precious" * 1000)
    with pytest.raises(DriveError, match="is damaged"):
        SimulatedDriver(path, SimulatedClock())
    with pytest.raises(DriveError, match="is damaged"):
        SimulatedCluster.create(path, [("g", "a30-24gb")])
    assert path.read_text() == "precious" * 1000


@pytest.mark.usefixtures("cluster")
def test_a_cluster_of_another_version_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(DriveError, match="format 99"):
        SimulatedDriver(path, SimulatedClock())


MODEL = gpu_model("a100-40gb")
GPUS = st.sampled_from([GPU, OTHER])
# Few places, so that actions meet on them.
PLACES = st.sampled_from(["3g.20gb@4", "1g.5gb@4", "2g.10gb@0", "7g.40gb@0"])


KINDS_IN_ORDER = (
    ActionKind.CREATE_INSTANCE,
    ActionKind.START_REPLICA,
    ActionKind.STOP_REPLICA,
    ActionKind.DESTROY_INSTANCE,
)
KINDS = st.sampled_from(KINDS_IN_ORDER)


class ClusterMachine(RuleBasedStateMachine):
    """Begins, waits, kills and meddles; holds what it sees to the rules of MIG and to what it did."""

    @initialize(seed=st.integers(0, 9))
    def make(self, seed: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "cluster.sqlite3"
        self.cluster = SimulatedCluster.create(self.path, [(GPU, MODEL.name), (OTHER, MODEL.name)], seed=seed)
        self.world = World(SimulatedDriver(self.path, SimulatedClock()))
        self.mark: object | None = None
        self.known: dict[str, ObservedGpu] = {}
        self.begun: list[Action] = []
        self.places: dict[str, tuple[str, Placement]] = {}
        self.now = 0.0

    @rule(kinds=st.lists(KINDS, min_size=1, max_size=3), at=PLACES, gpu=GPUS)
    def begin(self, kinds: list[ActionKind], at: str, gpu: str) -> None:
        for kind in kinds:
            action = self.world.action(kind, at, gpu)
            self.world.driver.begin(action)
            self.begun.append(action)

    @rule(upto=st.integers(1, 4), at=PLACES, gpu=GPUS)
    def live(self, upto: int, at: str, gpu: str) -> None:
        for kind in KINDS_IN_ORDER[:upto]:
            self.begin([kind], at, gpu)
            while self.begun:
                self.wait()

    @rule(mishap=st.sampled_from([*[None] * 5, *FaultKind]), kind=KINDS)
    def trouble(self, mishap: FaultKind | None, kind: ActionKind) -> None:
        if mishap is not None:
            self.cluster.inject(InjectedFault(mishap, kind))

    @rule(gpu=GPUS)
    def restore(self, gpu: str) -> None:
        self.cluster.restore(gpu)

    @rule()
    def wait(self) -> None:
        for ended in self.world.driver.wait():
            self.begun.remove(ended.action)
            if ended.error is None:
                self.holds(ended.action)

    @rule(seconds=st.floats(0, 100))
    def let_time_pass(self, seconds: float) -> None:
        for ended in self.world.driver.wait(until=self.world.driver.clock.now() + seconds):
            self.begun.remove(ended.action)

    @rule()
    def kill(self) -> None:
        self.world.driver.close()  # type: ignore[attr-defined]
        self.world = World(SimulatedDriver(self.path, SimulatedClock()), ids=self.world.ids)
        self.begun = []

    def holds(self, action: Action) -> None:
        """Whoever saw an action end finds its effect, unless another that ended since undid it."""
        at = [each for each in self.world.instances(action.gpu) if each.placement == action.placement]
        meddled = [a for a in self.begun if (a.gpu, a.placement) == (action.gpu, action.placement)]
        if not meddled and not self.world.seen(action.gpu).lost:
            assert effect(action, at[0] if at else None)

    @invariant()
    def layouts_are_legal(self) -> None:
        for gpu in self.world.driver.observe().gpus:
            assert fault(MODEL, [each.placement for each in gpu.instances]) is None
            assert len({each.identity.gi_id for each in gpu.instances}) == len(gpu.instances)
            assert all(each.complete for each in gpu.instances if each.replica)
            assert not (gpu.lost and gpu.instances)

    @invariant()
    def what_changed_put_onto_what_was_is_what_there_is(self) -> None:
        changes = self.world.driver.observe_changes(self.mark, ())  # type: ignore[attr-defined]
        self.mark = changes.mark
        self.known.update((gpu.id, gpu) for gpu in changes.gpus)
        assert tuple(self.known.values()) == self.world.driver.observe().gpus

    @invariant()
    def a_mig_uuid_never_comes_back(self) -> None:
        for gpu in self.world.driver.observe().gpus:
            for each in gpu.instances:
                if each.identity.mig_uuid is not None:
                    place = (gpu.id, each.placement)
                    assert self.places.setdefault(each.identity.mig_uuid, place) == place

    @invariant()
    def time_never_goes_back(self) -> None:
        assert self.world.driver.clock.now() >= self.now
        self.now = self.world.driver.clock.now()

    def teardown(self) -> None:
        self.world.driver.close()  # type: ignore[attr-defined]
        self.cluster.close()
        self.folder.cleanup()


def effect(action: Action, found: ObservedInstance | None) -> bool:
    match action.kind:
        case ActionKind.CREATE_INSTANCE:
            return found is not None and found.complete
        case ActionKind.DESTROY_INSTANCE:
            return found is None
        case ActionKind.START_REPLICA:
            return found is not None and found.replica is not None and found.replica.ready
        case ActionKind.STOP_REPLICA:
            return found is None or found.replica is None


TestCluster = ClusterMachine.TestCase
TestCluster.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
