"""A repartition on the wall clock with real workers and a constant load: nothing fails, and no floor is broken."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.control.world import CLUSTER, MODEL, Told, Watching, contents, deployment, goal, gpu
from tests.serve.worker.client import numbered

from partita.control.cluster_view import deployed
from partita.control.controller import Controller
from partita.control.executor import TransitionExecutor
from partita.control.journal import FILE, Journal
from partita.drive.replicas import ReplicaRecords, ReplicaRunner
from partita.drive.simulated import SimulatedCluster, SimulatedDriver
from partita.drive.state import REPLICAS, WORKERS
from partita.executor import Backoff
from partita.serve.gateway.gateway import Gateway
from partita.serve.gateway.route import ServedService
from partita.serve.worker.spec import EmulatedSpec
from partita.serve.worker_specs import worker_process
from partita.sim.clock import WallClock
from partita.transition.shortest import Shortest
from partita.transition.transition import MEASURED, ActionKind, Durations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from partita.control.goal import Goal

SOON = Durations(create_instance=0.1, destroy_instance=0.1, start_replica=0.1, stop_replica=0.1)
BEFORE = deployment("3g.20gb@0=bert 3g.20gb@4=vgg", "7g.40gb@0=bert", "")
AFTER = deployment("7g.40gb@0=vgg", "1g.5gb@0=vgg 2g.10gb@2=bert 3g.20gb@4=bert", "")
EVERY_S = 0.01


class Place:
    """A cluster whose replicas are workers, and its controller."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        SimulatedCluster.create(folder / CLUSTER, [(gpu(i), MODEL) for i in range(3)]).close()
        services = {
            name: worker_process(
                EmulatedSpec(),
                folder / WORKERS,
                seconds={(MODEL, size, 1): {1: 0.004, 8: 0.02} for size in SIZES},
            )
            for name in ("bert", "vgg")
        }
        runner = ReplicaRunner(ReplicaRecords(folder / REPLICAS), services)
        self.driver = SimulatedDriver(folder / CLUSTER, WallClock(), seconds=SOON, runner=runner)
        self.watching = Watching(self.driver, {})
        self.journal = Journal(folder / FILE)
        executor = TransitionExecutor(
            self.watching, self.journal, Told(), Backoff(), random.Random(0), lambda: False
        )
        self.controller = Controller(executor, Shortest(), MEASURED, "partita apply plan.json")

    def reach(self, wanted: Goal) -> None:
        now = deployed(self.driver.observe()).capacity()
        self.watching.floors = {
            name: min(now.get(name, 0.0), rate) for name, rate in wanted.new_rates.items()
        }
        self.controller.reach(wanted)

    def end(self) -> None:
        """End all that runs."""
        for each in self.driver.observe().gpus:
            for instance in each.instances:
                if instance.replica is not None and instance.replica.pid is not None:
                    os.killpg(instance.replica.pid, signal.SIGKILL)
        self.journal.close()
        self.driver.close()


SIZES = ("1g.5gb", "2g.10gb", "3g.20gb", "7g.40gb")


@contextmanager
def placed(folder: Path) -> Iterator[Place]:
    made = Place(folder)
    try:
        yield made
    finally:
        made.end()


async def load(gateway: Gateway, over: threading.Event) -> list[str]:
    """Ask both services at a constant rate until told, and return what went wrong: each wants its own answer."""
    wrong: list[str] = []

    async def one(number: int) -> None:
        query = numbered(number)
        try:
            answer = await gateway.infer(("bert", "vgg")[number % 2], query)
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is counted
            wrong.append(repr(error))
            return
        if answer.error is not None or bytes(answer.outputs[0].data) != query.inputs[0].data:
            wrong.append(f"{number}: {answer}")

    async with asyncio.TaskGroup() as group:
        number = 0
        while not over.is_set() or number < 100:
            group.create_task(one(number))
            number += 1
            await asyncio.sleep(EVERY_S)
    assert number >= 100
    return wrong


def test_a_repartition_under_load_fails_no_request_and_keeps_the_floor(tmp_path: Path) -> None:
    rates = {"bert": 500.0, "vgg": 300.0}  # all that each has in one of the two deployments
    with placed(tmp_path) as place:
        place.reach(goal(BEFORE, rates))

        async def body() -> list[str]:
            services = [ServedService(name, name, 20.0) for name in rates]
            gateway = Gateway(services, tmp_path / WORKERS)
            await gateway.start()
            over = threading.Event()
            loading = asyncio.create_task(load(gateway, over))
            try:
                for target in (AFTER, BEFORE):
                    await asyncio.to_thread(place.reach, goal(target, rates, rates))
                over.set()
                return await loading
            finally:
                over.set()
                await gateway.close()

        assert asyncio.run(body()) == []
        assert contents(deployed(place.driver.observe())) == contents(BEFORE)
        stopped = [each for each in place.watching.began if each.kind is ActionKind.STOP_REPLICA]
        assert len(stopped) >= 4
