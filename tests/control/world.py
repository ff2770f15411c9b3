"""A small simulated cluster, a controller on it, and a watch that no service falls under its floor."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from partita.control.cluster_view import deployed
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
CLUSTER = "cluster.sqlite3"
SLICES = {"1g.5gb": 1, "2g.10gb": 2, "3g.20gb": 3, "4g.20gb": 4, "7g.40gb": 7}


def gpu(index: int) -> str:
    return f"node-0/gpu-{index}"


def replica(service: str, profile: str) -> Replica:
    """A hundred items/s for every compute slice."""
    return Replica(service, service, 8, 1, 100.0 * SLICES[profile], 20.0)


def deployment(*gpus: str) -> Deployment:
    """Write GPUs as `3g.20gb@4=bert 1g.5gb@0=resnet`, an empty one as an empty text."""
    return Deployment(tuple(DeployedGpu(gpu(i), MODEL, _instances(text)) for i, text in enumerate(gpus)))


def _instances(text: str) -> tuple[DeployedInstance, ...]:
    found = []
    for word in text.split():
        at, _, service = word.partition("=")
        placement = Placement.parse(at)
        found.append(DeployedInstance(placement, replica(service, placement.profile) if service else None))
    return tuple(sorted(found, key=lambda each: each.placement))


def goal(
    target: Deployment,
    rates: Mapping[str, float] | None = None,
    old: Mapping[str, float] | None = None,
    **more: object,
) -> Goal:
    """A goal that requires all the capacity that its target gives, unless rates are given."""
    new = dict(target.capacity() if rates is None else rates)
    return Goal(target, dict(old or {}), new, source=fingerprint(target), **more)  # type: ignore[arg-type]


class Watching:
    """A driver that says when a service falls under its floor, looking whenever anything may have changed."""

    def __init__(self, driver: Driver, floors: Mapping[str, float]) -> None:
        self._driver = driver
        self.floors = dict(floors)
        self.began: list[Action] = []
        self.before_observing: Callable[[], None] = lambda: None

    @property
    def clock(self) -> Clock:
        return self._driver.clock

    def observe(self) -> Observation:
        self.before_observing()
        return self._look()

    def begin(self, action: Action) -> None:
        self.began.append(action)
        self._driver.begin(action)
        self._look()

    def wait(self, until: float | None = None) -> tuple[ActionResult, ...]:
        ended = self._driver.wait(until)
        self._look()
        return ended

    def adopt(self, gpu: str, placement: Placement) -> None:
        self._driver.adopt(gpu, placement)

    def _look(self) -> Observation:
        found = self._driver.observe()
        capacity = deployed(found).capacity()
        for service, floor in self.floors.items():
            assert capacity.get(service, 0.0) >= floor - 1e-6, f"{service} is under its floor of {floor}"
        return found


@dataclass
class Told:
    """A reporter that remembers."""

    notes: list[str] = field(default_factory=list)
    ends: list[ActionResult] = field(default_factory=list)

    def began(self, action: Action) -> None:
        del action

    def ended(self, ended: ActionResult, done: int, total: int) -> None:
        assert 0 <= done <= total
        self.ends.append(ended)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def observed(self, view: ClusterView) -> None:
        del view


@dataclass
class World:
    """A cluster in a folder, and a controller that can be made again as after a crash."""

    folder: Path
    gpus: int = 3
    jitter: float = 0.3
    most_replans: int = 10
    stop: Callable[[], bool] = lambda: False
    driver_type: type[Watching] = Watching

    def __post_init__(self) -> None:
        path = self.folder / CLUSTER
        if path.exists():
            self.cluster = SimulatedCluster(path)
        else:
            self.cluster = SimulatedCluster.create(path, [(gpu(i), MODEL) for i in range(self.gpus)], seed=7)
        self.wake()

    def wake(self) -> None:
        """Start a controller, as a new process does."""
        self.driver = self.driver_type(
            SimulatedDriver(self.folder / CLUSTER, SimulatedClock(), jitter=self.jitter, start_timeout=120.0),
            {},
        )
        self.journal = Journal(self.folder / FILE)
        self.told = Told()
        executor = TransitionExecutor(
            self.driver, self.journal, self.told, Backoff(), random.Random(0), self.asked
        )
        self.controller = Controller(
            executor, Shortest(), MEASURED, "partita apply plan.json", self.most_replans
        )

    def asked(self) -> bool:
        """Say whether the controller is asked to stop, as the test has it now."""
        return self.stop()

    def reach(self, wanted: Goal) -> None:
        """Bring the cluster to a goal, with its floors watched from what runs now."""
        self.driver.floors = self.floors(wanted)
        self.controller.reach(wanted)
        assert self.running() == contents(wanted.target)

    def floors(self, wanted: Goal) -> dict[str, float]:
        now, then = self.now().capacity(), wanted.target.capacity()
        return {
            name: min(rate, now.get(name, 0.0), then.get(name, 0.0))
            for name, rate in wanted.guaranteed.items()
        }

    def now(self) -> Deployment:
        return deployed(self.driver.observe())

    def running(self) -> list[tuple[tuple[str, str | None], ...]]:
        return contents(self.now())


def contents(found: Deployment) -> list[tuple[tuple[str, str | None], ...]]:
    """What there is of GPUs in use, wherever they stand and whatever is not ours left out."""
    return sorted(
        tuple(
            sorted(
                (each.placement.profile, each.replica.service if each.replica else "")
                for each in gpu.instances
                if not each.fixed
            )
        )
        for gpu in found.gpus
        if any(not each.fixed for each in gpu.instances)
    )
