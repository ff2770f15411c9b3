"""What runs where: GPUs, their instances at exact placements, and the replica on each."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from partita.perf.operating_point import Tenant  # noqa: TC001 -- the codec reads it

if TYPE_CHECKING:
    from partita.mig.layout import Placement
    from partita.planning.plan import Plan, ServiceCapacity


@dataclass(frozen=True, slots=True)
class Replica:
    """A service on an instance, and how it is run there.

    Attributes:
        throughput: items/s that it can answer, by the performance table.
        latency_ms: latency of one batch.
        tenants: the services that share the instance, served by one process; empty where it serves one alone. Then
            `service` and `model` are those of the first and the number of others, as in `search +3`.
    """

    service: str
    model: str
    batch: int
    processes: int
    throughput: float
    latency_ms: float
    tenants: tuple[Tenant, ...] = ()

    @property
    def run(self) -> tuple[object, ...]:
        """How it is run: all but its figures."""
        return self.service, self.model, self.batch, self.processes, self.tenants

    @property
    def serves(self) -> tuple[tuple[str, float], ...]:
        """The services it answers for, each with its items/s."""
        if self.tenants:
            return tuple((each.service, each.throughput) for each in self.tenants)
        return ((self.service, self.throughput),)


@dataclass(frozen=True, slots=True)
class DeployedInstance:
    """An instance and its replica, None while nothing runs on it.

    Attributes:
        fixed: may be neither moved nor destroyed (another's, or pinned by its owner).
    """

    placement: Placement
    replica: Replica | None
    fixed: bool = False


@dataclass(frozen=True, slots=True)
class DeployedGpu:
    """A physical GPU: `id` as in plans, the catalogue's `model`, instances by start.

    Attributes:
        leaving: must become empty: what runs there moves away, and nothing new comes.
    """

    id: str
    model: str
    instances: tuple[DeployedInstance, ...]
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Deployment:
    """All GPUs there are, the empty ones included."""

    gpus: tuple[DeployedGpu, ...]

    def capacity(self) -> dict[str, float]:
        """Return the throughput of each service in items/s, as if all its replicas were ready."""
        total: dict[str, float] = defaultdict(float)
        for gpu in self.gpus:
            for instance in gpu.instances:
                if instance.replica is not None:
                    for service, throughput in instance.replica.serves:
                        total[service] += throughput
        return dict(total)

    @property
    def used(self) -> int:
        """GPUs with at least one instance."""
        return sum(1 for gpu in self.gpus if gpu.instances)


@dataclass(frozen=True, slots=True)
class Layouts:
    """How GPUs are cut, as a target: its GPUs by id, and no services."""

    gpus: tuple[DeployedGpu, ...]

    @property
    def services(self) -> tuple[ServiceCapacity, ...]:
        """Empty: layouts run nothing."""
        return ()


def deployment_of(wanted: Plan | Layouts) -> Deployment:
    """Return the deployment that a plan or layouts describe, on the GPUs they name."""
    return Deployment(
        tuple(
            gpu
            if isinstance(gpu, DeployedGpu)
            else DeployedGpu(
                gpu.id,
                gpu.model,
                tuple(
                    DeployedInstance(
                        each.placement,
                        Replica(
                            each.service,
                            each.model,
                            each.point.batch,
                            each.point.processes,
                            each.point.throughput,
                            each.point.latency_ms,
                            each.point.tenants,
                        ),
                    )
                    for each in gpu.instances
                ),
            )
            for gpu in wanted.gpus
        )
    )


def restated(current: Deployment, target: Deployment) -> Deployment:
    """Return what runs, with the figures of the target for replicas that are run as the target has them run.

    What a replica holds depends on what is known of it now: on the table, and where queries wait on the other
    replicas of its service. So a replica is not started anew, nor does it count with an old figure, because a figure
    has changed.
    """
    now: dict[object, Replica] = {}
    for gpu in target.gpus:
        for each in gpu.instances:
            if each.replica is not None:
                now[gpu.model, each.placement.profile, each.replica.run] = each.replica
    return Deployment(
        tuple(
            replace(
                gpu,
                instances=tuple(
                    each
                    if each.replica is None
                    else replace(
                        each,
                        replica=now.get((gpu.model, each.placement.profile, each.replica.run), each.replica),
                    )
                    for each in gpu.instances
                ),
            )
            if gpu.instances
            else gpu
            for gpu in current.gpus
        )
    )
