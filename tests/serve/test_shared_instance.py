"""Several services on one instance: one worker process, batches in turn, through the gateway and under the driver."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from tests.drive.world import GPU, World
from tests.serve.gateway.workers import query
from tests.serve.worker.client import gateway, numbered, running, spec_of, until

from partita.drive.driver import ActionResult, RefusedError
from partita.drive.replicas import ReplicaProcess, ReplicaRecords, ReplicaRunner
from partita.drive.simulated import SimulatedCluster, SimulatedDriver
from partita.perf.operating_point import Tenant
from partita.serve.dispatching.turns import InstanceTurns
from partita.serve.gateway.gateway import Gateway
from partita.serve.gateway.route import ServedService
from partita.serve.worker.spec import EmulatedSpec, TenantSpec, read_spec
from partita.serve.worker_specs import worker_process
from partita.sim.clock import WallClock
from partita.transition.deployment import Replica
from partita.transition.transition import Action, ActionKind, Durations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from partita.serve.worker.spec import WorkerSpec

NAMES = ("bert", "photos", "search")


@pytest.fixture
def spec(tmp_path: Path) -> Iterator[WorkerSpec]:
    """One worker of three services, whose batches take 20, 30 and 40 ms."""
    found = spec_of(
        tmp_path,
        seconds={1: 0.02},
        tenants=tuple(
            TenantSpec(name, name, 1, EmulatedSpec(), seconds={1: seconds})
            for name, seconds in (("photos", 0.03), ("search", 0.04))
        ),
    )
    with running(found):
        yield found


def test_one_process_has_a_socket_for_each_service(spec: WorkerSpec) -> None:
    said = []
    for each in spec.served:
        with gateway(each) as one:
            said.append(one.hello)
    assert [each.service for each in said] == list(NAMES)
    assert len({each.pid for each in said}) == 1
    assert all(each.in_turn and not each.shares for each in said)
    assert [each.seconds for each in said] == [{1: 0.02}, {1: 0.03}, {1: 0.04}]


def test_batches_of_all_services_run_one_after_another(spec: WorkerSpec) -> None:
    one, two, three = spec.served
    with gateway(one) as first, gateway(two) as second, gateway(three) as third:
        begun = time.monotonic()
        for _ in range(3):
            for each in (first, second, third):
                each.send(numbered(1))
        ran = sum(each.done()[2] for _ in range(3) for each in (first, second, third))
        took = time.monotonic() - begun
    assert ran >= 3 * 0.09
    assert took >= ran - 0.01


def test_a_specification_with_several_services_is_read_back(tmp_path: Path) -> None:
    found = spec_of(tmp_path, tenants=(TenantSpec("photos", "m", 1, EmulatedSpec()),))
    path = tmp_path / "spec.json"
    path.write_text(found.text())
    assert read_spec(path) == found
    assert [each.service for each in found.served] == ["bert", "photos"]
    assert len({each.socket_name for each in found.served}) == 2


def test_the_gateway_answers_all_services_of_an_instance(spec: WorkerSpec, tmp_path: Path) -> None:
    async def body() -> None:
        made = Gateway([ServedService(name, name, 20.0) for name in NAMES], tmp_path)
        await made.start()
        begun = time.monotonic()
        answers = await asyncio.gather(
            *(made.infer(name, query(1, fill)) for fill in range(5) for name in NAMES)
        )
        took = time.monotonic() - begun
        for at, answer in enumerate(answers):
            assert set(bytes(answer.outputs[0].data)) == {at // len(NAMES)}
        busy = sum(each.busy_s for each in made.snapshot().workers)
        assert took >= busy - 0.05  # a worker's batches never overlap
        seen = [made.statistics(name) for name in NAMES]
        assert [each.success.count for each in seen] == [5, 5, 5]
        await made.close()

    del spec
    asyncio.run(body())


class Sender:
    """A connection that takes note of what is sent."""

    def __init__(self, name: str, sent: list[str]) -> None:
        self.name, self.sent = name, sent
        self.worker: Any = SimpleNamespace(running={})

    def batch(self, number: int, arrived: float, due: float, expected: float = 1.0) -> None:
        queries = [SimpleNamespace(arrived=arrived)]
        self.worker.running[number] = SimpleNamespace(
            number=number, queries=queries, due=due, expected=expected, begun=0.0
        )

    def send(self, number: int, queries: object) -> None:
        del queries
        self.sent.append(f"{self.name}{number}")


def test_turns_go_by_arrival_and_late_batches_come_last() -> None:
    sent: list[str] = []
    turns, a, b, c = InstanceTurns(), Sender("a", sent), Sender("b", sent), Sender("c", sent)
    for sender, number, arrived, due in (
        (a, 1, 0.0, 9.0),
        (b, 1, 0.3, 9.0),
        (c, 1, 0.1, 1.5),
        (a, 2, 0.2, 9.0),
    ):
        sender.batch(number, arrived, due)
        turns.start(sender, number, (), 0.5)
    assert sent == ["a1"]
    assert b.worker.running[1].begun == math.inf
    turns.ended(a, 1, 1.0)  # c1 would end at 2, after its deadline
    assert sent[1:] == ["a2"]
    assert a.worker.running[2].begun == 1.0
    turns.ended(c, 1, 1.5)  # which does not run
    turns.ended(a, 2, 2.0)
    assert sent[2:] == ["b1"]
    turns.ended(b, 1, 3.0)
    assert sent[3:] == ["c1"]
    turns.ended(c, 1, 4.0)
    b.batch(2, 4.0, 9.0)
    turns.start(b, 2, (), 4.5)
    assert sent[4:] == ["b2"]


def test_what_a_lost_worker_ran_or_had_waiting_is_no_ones_turn() -> None:
    sent: list[str] = []
    turns, a, b = InstanceTurns(), Sender("a", sent), Sender("b", sent)
    for sender, number in ((a, 1), (a, 2), (b, 1)):
        sender.batch(number, float(number), 99.0)
        turns.start(sender, number, (), 0.0)
    turns.left(a, 1.0)
    assert sent == ["a1", "b1"]


# Under the driver

QUICK = Durations(create_instance=0.0, destroy_instance=0.0, start_replica=0.0, stop_replica=0.0)
TENANTS = tuple(Tenant(name, name, 1, 0.5, 20.0, 300.0) for name in NAMES)
SHARED = Replica("bert +2", "bert +2", 1, 1, 50.0, 20.0, TENANTS)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    SimulatedCluster.create(tmp_path / "cluster", [(GPU, "a100-40gb")]).close()
    services = {name: worker_process(EmulatedSpec(), tmp_path / "workers", grace_s=20.0) for name in NAMES}
    runner = ReplicaRunner(
        ReplicaRecords(tmp_path / "replicas"), {**services, "own": ReplicaProcess(("sleep", "60"))}
    )
    driver = SimulatedDriver(tmp_path / "cluster", WallClock(), seconds=QUICK, runner=runner)
    yield World(driver)
    driver.close()


def act(world: World, kind: ActionKind, replica: Replica) -> ActionResult:
    action = replace(world.action(kind, "3g.20gb@4"), replica=replica)
    assert isinstance(action, Action)
    world.driver.begin(action)
    (ended,) = world.driver.wait()
    return ended


def test_a_driver_runs_services_that_share_as_one_process(world: World, tmp_path: Path) -> None:
    assert world.create("3g.20gb@4") is None
    assert act(world, ActionKind.START_REPLICA, SHARED).error is None
    (gpu,) = world.driver.observe().gpus
    seen = gpu.instances[0].replica
    assert seen is not None
    assert seen.replica == SHARED
    assert seen.ready
    assert len(list((tmp_path / "workers").glob("*.sock"))) == 3

    async def ask() -> None:
        made = Gateway([ServedService(name, name, 20.0) for name in NAMES], tmp_path / "workers")
        await made.start()
        for name in NAMES:
            assert (await made.infer(name, query())).error is None
        await made.close()

    asyncio.run(ask())
    assert act(world, ActionKind.STOP_REPLICA, SHARED).error is None
    until(lambda: not list((tmp_path / "workers").glob("*.sock")))


@pytest.mark.parametrize(
    ("name", "what"),
    [("own", "own is not run by a worker of Partita's"), ("new", "no command is known for new")],
)
def test_a_service_that_is_no_worker_of_ours_shares_no_instance(world: World, name: str, what: str) -> None:
    assert world.create("3g.20gb@4") is None
    mixed = replace(SHARED, tenants=(*TENANTS, Tenant(name, name, 1, 0.5, 20.0, 300.0)))
    error = act(world, ActionKind.START_REPLICA, mixed).error
    assert isinstance(error, RefusedError)
    assert what in error.what
