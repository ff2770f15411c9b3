"""Actions on any driver in few words, for its tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from partita.mig.layout import Placement
from partita.transition.deployment import Replica
from partita.transition.transition import Action, ActionKind

if TYPE_CHECKING:
    from partita.drive.driver import DriveError, Driver, ObservedGpu, ObservedInstance, ObservedReplica

GPU = "node-0/gpu-0"
OTHER = "node-0/gpu-1"


@dataclass
class World:
    """A driver, and what a test asks of it most."""

    driver: Driver
    gpu: str = GPU
    other: str = OTHER
    ids: count[int] = field(default_factory=count)

    def action(self, kind: ActionKind, at: str, gpu: str | None = None, service: str | None = None) -> Action:
        name = service or "bert"
        replica = Replica(name, name, batch=8, processes=1, throughput=100.0, latency_ms=20.0)
        wants = kind in {ActionKind.START_REPLICA, ActionKind.STOP_REPLICA}
        return Action(
            f"a{next(self.ids)}",
            kind,
            gpu or self.gpu,
            Placement.parse(at),
            replica if wants else None,
            after=(),
            seconds=1.0,
        )

    def do(
        self, kind: ActionKind, at: str, gpu: str | None = None, service: str | None = None
    ) -> DriveError | None:
        """Perform one action to its end."""
        one = self.action(kind, at, gpu, service)
        self.driver.begin(one)
        (ended,) = self.driver.wait()
        assert ended.action == one
        return ended.error

    def create(self, at: str, gpu: str | None = None) -> DriveError | None:
        return self.do(ActionKind.CREATE_INSTANCE, at, gpu)

    def destroy(self, at: str, gpu: str | None = None) -> DriveError | None:
        return self.do(ActionKind.DESTROY_INSTANCE, at, gpu)

    def start(self, at: str, gpu: str | None = None, service: str | None = None) -> DriveError | None:
        return self.do(ActionKind.START_REPLICA, at, gpu, service)

    def stop(self, at: str, gpu: str | None = None, service: str | None = None) -> DriveError | None:
        return self.do(ActionKind.STOP_REPLICA, at, gpu, service)

    def instances(self, gpu: str | None = None) -> tuple[ObservedInstance, ...]:
        return self.seen(gpu).instances

    def seen(self, gpu: str | None = None) -> ObservedGpu:
        found = self.driver.observe().gpu(gpu or self.gpu)
        assert found is not None
        return found

    def replica(self, at: str, gpu: str | None = None) -> ObservedReplica:
        (found,) = [i for i in self.instances(gpu) if str(i.placement) == at]
        assert found.replica is not None
        return found.replica

    def layout(self, gpu: str | None = None) -> str:
        return " ".join(str(each.placement) for each in self.instances(gpu))
