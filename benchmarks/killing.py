"""Kills a cluster's controller with SIGKILL at a chosen step, and checks what the next controller reaches."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from partita.control.cluster_view import deployed, serving
from partita.control.controller import Controller
from partita.control.executor import TransitionExecutor
from partita.control.goal import Goal, fingerprint
from partita.control.journal import FILE, Journal
from partita.drive.simulated import SimulatedCluster, SimulatedDriver
from partita.executor import Backoff
from partita.mig.layout import Placement
from partita.sim.clock import SimulatedClock
from partita.transition.deployment import DeployedGpu, DeployedInstance, Deployment, Replica
from partita.transition.shortest import Shortest
from partita.transition.transition import MEASURED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from partita.control.cluster_view import ClusterView
    from partita.drive.driver import ActionResult, Driver, Observation
    from partita.sim.clock import Clock
    from partita.transition.transition import Action

MODEL = "a100-40gb"
GPUS = 9
CLUSTER = "cluster.sqlite3"
_COMPUTE = {"1g.5gb": 1, "2g.10gb": 2, "3g.20gb": 3, "4g.20gb": 4, "7g.40gb": 7}

DAY = (
    "7g.40gb@0=search",
    "7g.40gb@0=search",
    "4g.20gb@0=chat 3g.20gb@4=chat",
    "4g.20gb@0=chat 3g.20gb@4=photos",
    "3g.20gb@0=photos 3g.20gb@4=photos",
    "2g.10gb@0=speech 2g.10gb@2=speech 2g.10gb@4=speech 1g.5gb@6=ads",
    "1g.5gb@0=ads 1g.5gb@1=ads 1g.5gb@2=ads 1g.5gb@3=ads 3g.20gb@4=speech",
)
NIGHT = (
    "4g.20gb@0=search 3g.20gb@4=chat",
    "3g.20gb@0=search 2g.10gb@4=photos 1g.5gb@6=ads",
    "2g.10gb@0=photos 2g.10gb@2=chat 2g.10gb@4=speech 1g.5gb@6=ads",
    "2g.10gb@0=speech 2g.10gb@2=batch 2g.10gb@4=batch 1g.5gb@6=ads",
    "2g.10gb@0=batch 2g.10gb@2=photos 1g.5gb@4=speech 1g.5gb@5=speech 1g.5gb@6=chat",
    "2g.10gb@0=batch 2g.10gb@2=search",
)


def deployment(texts: tuple[str, ...]) -> Deployment:
    """Return GPUs written as `3g.20gb@4=chat`; a replica answers 100 items/s for each compute slice."""
    gpus = []
    for index, text in enumerate(texts):
        words = [word.split("=") for word in text.split()]
        placed = [(Placement.parse(at), service) for at, service in words]
        instances = tuple(
            DeployedInstance(place, Replica(name, name, 8, 1, 100.0 * _COMPUTE[place.profile], 20.0))
            for place, name in placed
        )
        gpus.append(DeployedGpu(f"node-{index // 8}/gpu-{index % 8}", MODEL, instances))
    return Deployment(tuple(gpus))


class Bomb:
    """Kills this process at a step; without a step it only counts."""

    def __init__(self, at: int | None) -> None:
        self._at = at
        self.steps = 0

    def tick(self) -> None:
        """Take a step."""
        self.steps += 1
        if self.steps == self._at:
            os.kill(os.getpid(), signal.SIGKILL)


class BombJournal(Journal):
    """A journal that may be killed before and after each write.

    Args:
        path: the file.
        bomb: ticks before and after each write.
    """

    def __init__(self, path: Path, bomb: Bomb) -> None:
        super().__init__(path)
        for name in ("begin_goal", "begin_round", "intend", "record", "end_goal"):
            setattr(self, name, self._around(getattr(self, name), bomb))

    @staticmethod
    def _around(write: Callable[..., Any], bomb: Bomb) -> Callable[..., Any]:
        def written(*given: object) -> object:
            bomb.tick()
            result = write(*given)
            bomb.tick()
            return result

        return written


class Watched:
    """A driver that may be killed between two actions, and counts the moments at which a floor is broken."""

    def __init__(self, driver: Driver, floors: Mapping[str, float], bomb: Bomb) -> None:
        self._driver = driver
        self._floors = floors
        self._bomb = bomb
        self.broken = 0
        self.began = 0

    @property
    def clock(self) -> Clock:
        """The cluster's clock."""
        return self._driver.clock

    def observe(self) -> Observation:
        """Observe, and look at the floors."""
        found = self._driver.observe()
        capacity = deployed(found).capacity()
        self.broken += any(capacity.get(name, 0.0) < floor - 1e-6 for name, floor in self._floors.items())
        return found

    def begin(self, action: Action) -> None:
        """Begin, and look at the floors."""
        self.began += 1
        self._driver.begin(action)
        self._bomb.tick()
        self.observe()

    def wait(self, until: float | None = None) -> tuple[ActionResult, ...]:
        """Wait, and look at the floors."""
        ended = self._driver.wait(until)
        self.observe()
        return ended

    def adopt(self, gpu: str, placement: Placement) -> None:
        """Adopt."""
        self._driver.adopt(gpu, placement)


class Quiet:
    """A reporter that says nothing."""

    def began(self, action: Action) -> None:
        """Say nothing."""

    def ended(self, ended: ActionResult, done: int, total: int) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def observed(self, view: ClusterView) -> None:
        """Say nothing."""


def go(folder: Path, texts: tuple[str, ...], bomb: Bomb) -> Watched:
    """Bring the cluster in a folder to a deployment, as `partita apply` does, from wherever it is."""
    target = deployment(texts)
    journal = BombJournal(folder / FILE, bomb)
    old, unfinished = dict(journal.promised() or {}), journal.unfinished()
    source = fingerprint(target)
    where = unfinished.target if unfinished is not None and unfinished.source == source else target
    goal = Goal(where, old, target.capacity(), source=source)
    clock = SimulatedClock()
    driver = Watched(SimulatedDriver(folder / CLUSTER, clock), goal.guaranteed, bomb)
    executor = TransitionExecutor(driver, journal, Quiet(), Backoff(), random.Random(0))
    controller = Controller(executor, Shortest(), MEASURED, "partita apply night.json")
    controller.wake(driver.observe())
    controller.reach(goal)
    journal.close()
    return driver


def killed(folder: Path, texts: tuple[str, ...], at: int) -> bool:
    """Have another process do the same and be killed at a step; say whether it was, or had ended before.

    Raises:
        AssertionError: a floor was broken before it was killed.
    """
    child = os.fork()
    if child == 0:
        try:
            driver = go(folder, texts, Bomb(at))
            os._exit(3 if driver.broken else 0)
        except BaseException:  # noqa: BLE001 -- a child of fork must not return
            os._exit(4)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, (
        f"the killed process ended with {os.WEXITSTATUS(status)} before step {at}"
    )
    return False


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What was found after the next controller had ended.

    Attributes:
        reached: the cluster holds just the target, nothing more.
        kept: replicas that were ready when the controller was killed and are wanted still run untouched.
        broken: moments at which a floor was broken.
        actions: begun by the controller that went on.
    """

    reached: bool
    kept: bool
    broken: int
    actions: int


def aftermath(folder: Path, texts: tuple[str, ...]) -> Aftermath:
    """Run the next controller after a kill, and return the result."""
    before = _ready(folder)
    driver = go(folder, texts, Bomb(None))
    after = _ready(folder)
    journal = Journal(folder / FILE)
    progress = journal.progress()
    journal.close()
    assert progress is not None
    target = progress.goal.target
    wanted = {(gpu.id, each.placement, each.replica) for gpu in target.gpus for each in gpu.instances}
    kept = all(after.get(key) == uuid for key, uuid in before.items() if key in wanted)
    reached = _contents(deployed(driver.observe())) == _contents(deployment(texts))
    return Aftermath(reached, kept, driver.broken, driver.began)


def _ready(folder: Path) -> dict[tuple[str, Placement, Replica], str | None]:
    """Return the MIG UUIDs under replicas that are ready: they change when an instance is made anew."""
    driver = SimulatedDriver(folder / CLUSTER, SimulatedClock())
    found = driver.observe()
    driver.close()
    return {
        (gpu.id, each.placement, replica): each.identity.mig_uuid
        for gpu in found.gpus
        for each in gpu.instances
        if (replica := serving(each)) is not None
    }


def _contents(found: Deployment) -> list[list[tuple[str, str]]]:
    return sorted(
        sorted(
            (each.placement.profile, each.replica.service if each.replica else "") for each in gpu.instances
        )
        for gpu in found.gpus
        if gpu.instances
    )


def by_day(folder: Path) -> None:
    """Make a cluster that runs the day's deployment."""
    gpus = [(f"node-{i // 8}/gpu-{i % 8}", MODEL) for i in range(GPUS)]
    SimulatedCluster.create(folder / CLUSTER, gpus, seed=1).close()
    go(folder, DAY, Bomb(None))
