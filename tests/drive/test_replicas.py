"""A simulated cluster on the wall clock whose replicas are real workers."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
from tests.drive.world import GPU, OTHER, World
from tests.serve.worker.client import gateway, numbered, until

from partita.drive.driver import ActionResult, FailedError, InUseError, RefusedError, TimedOutError
from partita.drive.replicas import ReplicaProcess, ReplicaRecords, ReplicaRunner
from partita.drive.simulated import FaultKind, InjectedFault, SimulatedCluster, SimulatedDriver
from partita.errors import InputError
from partita.mig.layout import Placement
from partita.process.table import started_at
from partita.serve.worker.spec import EmulatedSpec, OnnxSpec, WorkerSpec, read_spec
from partita.serve.worker.wire import FrameKind
from partita.serve.worker_specs import worker_process
from partita.sim.clock import SimulatedClock, WallClock
from partita.transition.transition import MEASURED, Durations
from partita.transition.transition import ActionKind as Act

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HALF = Placement.parse("3g.20gb@4")
AT = "3g.20gb@4"
SOON = Durations(create_instance=0.01, destroy_instance=0.01, start_replica=0.01, stop_replica=0.01)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SimulatedCluster]:
    made = SimulatedCluster.create(
        tmp_path / "cluster.sqlite3", [(GPU, "a100-40gb"), (OTHER, "a100-40gb")], seed=7
    )
    yield made
    made.close()


@pytest.fixture
def opened(tmp_path: Path, cluster: SimulatedCluster) -> Iterator[Callable[[], World]]:
    """Opens drivers one after the other, as controllers do; ends what they left."""
    del cluster
    services: dict[str, ReplicaProcess] = {
        "bert": worker_process(EmulatedSpec(), tmp_path / "workers", grace_s=20.0),
        "broken": worker_process(OnnxSpec(str(tmp_path / "no.onnx")), tmp_path / "workers"),
    }
    worlds: list[World] = []

    def open_() -> World:
        runner = ReplicaRunner(ReplicaRecords(tmp_path / "replicas"), services)
        driver = SimulatedDriver(tmp_path / "cluster.sqlite3", WallClock(), seconds=SOON, runner=runner)
        worlds.append(World(driver))
        return worlds[-1]

    yield open_
    for world in worlds:
        for gpu in (GPU, OTHER):
            for each in world.instances(gpu):
                if each.replica is not None and each.replica.pid is not None:
                    os.killpg(each.replica.pid, signal.SIGKILL)
        world.driver.close()  # type: ignore[attr-defined]


@pytest.fixture
def world(opened: Callable[[], World]) -> World:
    return opened()


def spec_of(tmp_path: Path) -> WorkerSpec:
    (document,) = (tmp_path / "replicas").glob("*.document")
    return read_spec(document)


def test_a_replica_is_a_worker_from_its_start_to_its_stop(world: World, tmp_path: Path) -> None:
    assert world.create(AT) is None
    assert world.start(AT) is None
    seen = world.replica(AT)
    assert seen.ready
    spec = spec_of(tmp_path)
    assert (spec.service, spec.gpu, spec.placement, spec.batch) == ("bert", GPU, AT, 8)
    assert spec.seconds == {8: 0.02}  # the replica's own latency: no table is known
    with gateway(spec) as one:
        assert one.hello.pid == seen.pid
        assert one.ask(numbered(5))[0].error is None
    assert isinstance(world.destroy(AT), InUseError)
    assert world.stop(AT) is None
    assert world.instances()[0].replica is None
    assert not list((tmp_path / "workers").iterdir())
    assert world.destroy(AT) is None


def test_stopping_drains(world: World, tmp_path: Path) -> None:
    world.create(AT)
    world.start(AT)
    with gateway(spec_of(tmp_path)) as one:
        number = one.send(numbered(1, rows=800))  # a hundred batches, 2 s: it drains before they are done
        world.driver.begin(world.action(Act.STOP_REPLICA, AT))
        found = one.next()
        assert found.kind == FrameKind.DRAINING
        until(lambda: world.replica(AT).draining)
        assert isinstance(world.driver.wait(until=0.0), tuple)
        assert one.done()[0] == number
        one.drained()
        assert one.left()
        (ended,) = world.driver.wait()
    assert ended.error is None
    assert world.instances()[0].replica is None


def test_a_replica_whose_process_died_is_gone_and_can_be_started_again(world: World) -> None:
    world.create(AT)
    world.start(AT)
    pid = world.replica(AT).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: world.instances()[0].replica is None)
    assert world.start(AT) is None
    assert world.replica(AT).pid != pid
    assert world.stop(AT) is None


def test_an_instance_can_be_destroyed_whose_replica_died(world: World) -> None:
    world.create(AT)
    world.start(AT)
    os.kill(world.replica(AT).pid or 0, signal.SIGKILL)
    until(lambda: world.instances()[0].replica is None)
    assert world.destroy(AT) is None
    assert world.instances() == ()


def test_a_later_controller_finds_the_workers_of_an_earlier_one(opened: Callable[[], World]) -> None:
    first = opened()
    first.create(AT)
    first.start(AT)
    later = opened()
    assert later.instances() == first.instances()
    assert later.start(AT) is None
    assert later.instances() == first.instances()
    assert later.stop(AT) is None
    assert later.instances()[0].replica is None


def test_commands_without_services_see_the_workers_too(world: World, tmp_path: Path) -> None:
    world.create(AT)
    world.start(AT)
    plain = SimulatedDriver(tmp_path / "cluster.sqlite3", SimulatedClock())
    assert plain.observe() == world.driver.observe()
    os.kill(world.replica(AT).pid or 0, signal.SIGKILL)
    until(lambda: world.instances()[0].replica is None)
    assert plain.observe() == world.driver.observe()
    plain.close()


def test_what_was_only_simulated_becomes_a_worker_when_it_is_asked_for(world: World, tmp_path: Path) -> None:
    plain = World(SimulatedDriver(tmp_path / "cluster.sqlite3", SimulatedClock(), seconds=SOON))
    plain.create(AT)
    plain.start(AT)
    plain.driver.close()  # type: ignore[attr-defined]
    assert not world.replica(AT).ready
    assert world.start(AT) is None
    assert world.replica(AT).ready
    assert world.replica(AT).pid is not None


def test_a_worker_of_an_instance_that_others_destroyed_is_ended(
    world: World, cluster: SimulatedCluster
) -> None:
    world.create(AT)
    world.start(AT)
    pid = world.replica(AT).pid
    assert pid is not None
    cluster.destroy_behind_our_back(GPU, HALF)
    assert world.create(AT) is None
    assert world.instances()[0].replica is None
    assert world.start(AT) is None
    assert world.replica(AT).pid != pid
    end = time.monotonic() + 30
    while started_at(pid) is not None:  # it may be a zombie that nobody has waited for yet
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_worker_that_cannot_load_has_failed_and_says_why(world: World) -> None:
    world.create(AT)
    error = world.start(AT, service="broken")
    assert isinstance(error, FailedError)
    assert "install" in str(error.what) or "no.onnx" in str(error.what)
    assert world.instances()[0].replica is None
    assert world.start(AT) is None


def test_a_service_that_nothing_is_said_of_is_refused(world: World) -> None:
    world.create(AT)
    assert isinstance(world.start(AT, service="unknown"), RefusedError)


def test_faults_are_injected_as_ever(world: World, cluster: SimulatedCluster) -> None:
    world.create(AT)
    cluster.inject(InjectedFault(FaultKind.FAILS, Act.START_REPLICA))
    assert isinstance(world.start(AT), FailedError)
    cluster.inject(InjectedFault(FaultKind.TIMES_OUT, Act.START_REPLICA))
    assert isinstance(world.start(AT), TimedOutError)
    assert world.replica(AT).ready


def test_two_replicas_start_side_by_side(world: World) -> None:
    for gpu in (GPU, OTHER):
        world.create(AT, gpu)
    for gpu in (GPU, OTHER):
        world.driver.begin(world.action(Act.START_REPLICA, AT, gpu))
    ended: list[ActionResult] = []
    while found := world.driver.wait():
        ended += found
    assert [each.error for each in ended] == [None, None]


def test_processes_want_the_wall_clock(tmp_path: Path, cluster: SimulatedCluster) -> None:
    del cluster
    runner = ReplicaRunner(ReplicaRecords(tmp_path / "replicas"), {})
    with pytest.raises(InputError, match="wall clock"):
        SimulatedDriver(tmp_path / "cluster.sqlite3", SimulatedClock(), seconds=MEASURED, runner=runner)
