"""What a Workload on Kubernetes runs with: its spec as read, its GPUs, its Jobs, and what all keepers share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from partita.control.reconciler import Demand, Hysteresis, Reconciler
from partita.deadline import Deadline
from partita.errors import InfeasibleError, InputError
from partita.executor import Backoff
from partita.kubernetes.rates import OPEN, GatewayAccess, KeptRates
from partita.planner import plan

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from partita.control.sharing import Place, SharedDriver
    from partita.control.watched import WatchedDriver
    from partita.drive.driver import ClosableDriver
    from partita.kubernetes.action_log import ActionLog
    from partita.kubernetes.api import Cache, KubernetesApi
    from partita.kubernetes.inventory import Node
    from partita.kubernetes.jobs import JobTenant
    from partita.kubernetes.journal import (
        ApiJournal,
        ApiPlans,
    )
    from partita.kubernetes.resources import PlanObject, TransitionObject, WorkloadObject, WorkloadSpec
    from partita.kubernetes.service_objects import ServiceExposure
    from partita.mig.layout import Placement
    from partita.planner import PreparedWorkload
    from partita.planning.plan import Plan
    from partita.transition.deployment import Deployment
    from partita.transition.transition import Durations

_LISTEN_S = 1.0
"""Seconds between two looks for silent nodes while actions are waited for."""


class ClusterDrivers(Protocol):
    """Makes drivers, one for each Workload."""

    @property
    def durations(self) -> Durations:
        """Predicted durations of actions."""
        ...

    def open(
        self,
        api: KubernetesApi,
        workload: str,
        template: Callable[[str], Mapping[str, Any]],
        chosen: Callable[[str, str], bool],
    ) -> ClosableDriver:
        """Return a driver.

        Args:
            api: guarded by the lease, in the Workload's namespace.
            workload: name of the Workload.
            template: returns the pod template of a service; raises `InputError` if the service has none.
            chosen: says whether a GPU is one of the Workload's, by the names of its node and model.

        Raises:
            PartitaError: the cluster cannot be observed.
        """
        ...

    def refusals(self, template: Mapping[str, Any]) -> Iterable[InputError]:
        """Yield the faults of a pod template."""
        ...


@runtime_checkable
class ReleasesGpus(Protocol):
    """A driver that keeps other users off its GPUs until they are released."""

    def release(self) -> None:
        """Let other users have the GPUs again."""
        ...


@runtime_checkable
class HearsNodes(Protocol):
    """A driver of nodes that can be silent."""

    def silence(self) -> str | None:
        """Return which nodes are silent and what is waited for; None if none is."""
        ...


@runtime_checkable
class KnowsClaims(Protocol):
    """A driver whose instances are claims."""

    def deleted_claims(self) -> Sequence[tuple[str, str]]:
        """Return the claims that somebody deleted while a pod uses them, each with the pod's name."""
        ...


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """Settings of the controller.

    Attributes:
        namespace: of the Workloads; None for all namespaces.
        poll_s: seconds between two steps of a Workload without changes.
        time_limit_s: seconds of search for each plan.
        seed: of planning.
        hysteresis: when to plan again.
        backoff: between retries.
        shutdown_s: seconds to wait for running actions at shutdown.
        gateways: credentials for the gateways that count rates.
        pod: name of the controller's own pod, to be labelled while it leads; empty for none.
    """

    namespace: str | None = None
    poll_s: float = 5.0
    time_limit_s: float = 30.0
    seed: int = 0
    hysteresis: Hysteresis = field(default_factory=Hysteresis)
    backoff: Backoff = field(default_factory=Backoff)
    shutdown_s: float = 20.0
    gateways: GatewayAccess = OPEN
    pod: str = ""


@dataclass(frozen=True, slots=True)
class KeeperContext:
    """What all keepers use in common."""

    api: KubernetesApi
    drivers: ClusterDrivers
    settings: ControllerSettings
    tell: Callable[[str], None]
    workloads: Cache[WorkloadObject]
    plans: Cache[PlanObject]
    transitions: Cache[TransitionObject]
    nodes: Cache[Node]
    log: ActionLog

    @property
    def caches(self) -> tuple[Cache[Any], ...]:
        """All of them, to be watched for what they cannot read."""
        return self.workloads, self.plans, self.transitions, self.nodes


@dataclass(frozen=True, slots=True)
class LoadedWorkload:
    """A Workload with its tables (control's `CurrentWorkload` and `Source`).

    Attributes:
        document: fingerprint of its spec and its tables.
        written: its spec as plain data.
        prepared: the Workload prepared for planning.
        stop: says whether planning is to end with the best plan so far.
    """

    document: str
    generation: int
    written: Mapping[str, Any]
    spec: WorkloadSpec
    prepared: PreparedWorkload
    settings: ControllerSettings
    stop: Callable[[], bool]

    def read(self) -> LoadedWorkload:
        """Return itself."""
        return self

    @property
    def demand(self) -> Demand:
        """The rates and batch sizes in the spec."""
        rates = {service.name: service.rate for service in self.spec.services}
        return Demand(rates, {cut.spec.name: cut.shares for cut in self.prepared.cuts})

    @property
    def forbid(self) -> tuple[str, ...]:
        """Combinations of profiles that must not be on one GPU."""
        return self.spec.limits.forbid

    def plan(self, demand: Demand, gpus: Mapping[str, int], current: Deployment) -> Plan:
        """Return the best plan nearest to what runs; if the GPUs do not suffice, services get theirs by priority.

        Raises:
            InfeasibleError: there is no GPU, or no service can be met even partly.
        """
        if not any(gpus.values()):
            labels = ",".join(f"{key}={value}" for key, value in self.spec.nodes.items())
            chosen = f" --selector {labels}" if labels else ""
            raise InfeasibleError(
                f"no node that it may use has a free GPU of {', '.join(sorted(self.models))}",
                where="gpus",
                hint=f"`kubectl get nodes{chosen}` and `kubectl get resourceslices` show which nodes there are and "
                "their GPUs; GPUs with others' claims are not free",
            )
        asked = self.prepared.at(demand.rates, demand.batches, gpus)
        deadline = Deadline(self.settings.time_limit_s, self.stop)
        return plan(asked, deadline=deadline, seed=self.settings.seed, best_effort=True, current=current).plan

    @property
    def models(self) -> frozenset[str]:
        """The GPU models that it may use, by their names in the catalogue."""
        return frozenset(pool.model for pool in self.spec.gpus)


@dataclass(frozen=True, slots=True)
class WorkloadGpus:
    """Access to a Workload's GPUs.

    Attributes:
        driver: of the GPUs.
        watched: the same, which remembers what was observed last.
        shared: the same driver as services use it, with Jobs as tenants.
        jobs: gives Jobs the slices that services leave free; None if the driver cannot.
    """

    driver: ClosableDriver
    watched: WatchedDriver
    shared: SharedDriver
    jobs: JobTenant | None

    def silence(self) -> str | None:
        """Return which nodes are silent; None if none is."""
        return self.driver.silence() if isinstance(self.driver, HearsNodes) else None

    def close(self) -> None:
        """Let go of the GPUs; what runs on them stays."""
        self.driver.close()  # first, so that writes for Jobs no longer wait for their effects
        if self.jobs is not None:
            self.jobs.close()


class SilenceAwareTenant:
    """The Jobs of a Workload's queue, which wait while nodes are silent (control's `Tenant`).

    Its steps come while actions are waited for, too, so that silence is reported then.

    Args:
        jobs: of the queue; None if there are none.
        silent: called about every second, in the keeper's thread; says whether nodes are silent.
    """

    def __init__(self, jobs: JobTenant | None, silent: Callable[[], bool]) -> None:
        self._jobs = jobs
        self._silent = silent

    def holds(self) -> Collection[Place]:
        """Return the instances of the Jobs' pods."""
        return self._jobs.holds() if self._jobs is not None else ()

    def reserve(self, wanted: Mapping[str, Collection[Placement]]) -> None:
        """Take down which placements services will want."""
        if self._jobs is not None:
            self._jobs.reserve(wanted)

    def vacate(self, places: Collection[Place]) -> None:
        """Free instances."""
        if self._jobs is not None:
            self._jobs.vacate(places)

    def step(self, now: float) -> float:
        """Do what is due; return when to call it again."""
        soon = now + _LISTEN_S
        if self._silent() or self._jobs is None:
            return soon
        return min(soon, self._jobs.step(now))


@dataclass(slots=True)
class WorkloadSession:
    """An accepted Workload, with what plans it and carries out its plans.

    Attributes:
        mark: of the last observation.
        settled: whether there is nothing to do until something changes.
    """

    loaded: LoadedWorkload
    gpus: WorkloadGpus
    journal: ApiJournal
    plans: ApiPlans
    rates: KeptRates
    reconciler: Reconciler
    exposure: ServiceExposure
    mark: object = None
    settled: bool = False
