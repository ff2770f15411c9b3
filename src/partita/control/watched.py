"""A driver that remembers the cluster as it was last observed, and the metrics that are made of that."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from partita.control.executor import changes, deployed, serving
from partita.control.journal import State
from partita.drive.driver import Observation
from partita.metrics import INSTANCE_LABELS, instance_labels, states
from partita.mig.catalogue import gpu_model
from partita.mig.layout import free_memory

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from partita.control.journal import Progress
    from partita.drive.driver import ActionResult, Changes, Driver, ObservedGpu, ObservedInstance
    from partita.mig.layout import Placement
    from partita.sim.clock import Clock
    from partita.transition.transition import Action


class WatchedDriver:
    """A driver, as it is, whose observations others may read in other threads.

    Args:
        inner: drives the cluster.
    """

    def __init__(self, inner: Driver) -> None:
        self._inner = inner
        self._gpus: dict[str, ObservedGpu] = {}
        self._seen: tuple[Observation, float] | None = None

    @property
    def clock(self) -> Clock:
        """The clock of the cluster."""
        return self._inner.clock

    @property
    def seen(self) -> tuple[Observation, float] | None:
        """The cluster as it was last observed, and when, in seconds since 1970; None if it never was."""
        return self._seen

    def observe(self) -> Observation:
        """Return the cluster as it is now."""
        found = self._inner.observe()
        self._gpus = {gpu.id: gpu for gpu in found.gpus}
        self._seen = found, time.time()
        return found

    def observe_changes(self, mark: object | None, touched: Collection[str]) -> Changes:
        """Return what has changed, as `changes` does."""
        found = changes(self._inner, mark, touched)
        for name in found.gone:
            self._gpus.pop(name, None)
        self._gpus.update((gpu.id, gpu) for gpu in found.gpus)
        self._seen = Observation(tuple(self._gpus.values())), time.time()
        return found

    def begin(self, action: Action) -> None:
        """Begin an action."""
        self._inner.begin(action)

    def wait(self, until: float | None = None) -> tuple[ActionResult, ...]:
        """Return the actions that ended."""
        return self._inner.wait(until)

    def adopt(self, gpu: str, placement: Placement) -> None:
        """Make someone else's instance ours."""
        self._inner.adopt(gpu, placement)


class Promise(NamedTuple):
    """What a service is promised: seconds to an answer, None if there is no limit, and for which share of queries."""

    slo_s: float | None
    quantile: float


@dataclass(frozen=True, slots=True)
class ServiceNumbers:
    """A service's numbers, in items/s: what is required, what the plan has, what is ready, and the floor now."""

    required: float = 0.0
    planned: float = 0.0
    ready: float = 0.0
    floor: float = 0.0


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What is known of a cluster at one moment.

    Attributes:
        observation: the GPUs.
        at: when they were observed, in seconds since 1970.
        services: by name.
        promises: by service, where they are known.
        transition: the state of the newest transition; None if there was none.
        done: its actions that have ended well.
        actions: its actions.
        replans: transitions for the same goal before it.
        seconds: predicted for it.
    """

    observation: Observation
    at: float
    services: Mapping[str, ServiceNumbers] = field(default_factory=dict)
    promises: Mapping[str, Promise] = field(default_factory=dict)
    transition: State | None = None
    done: int = 0
    actions: int = 0
    replans: int = 0
    seconds: float = 0.0


def facts(
    observation: Observation,
    at: float,
    progress: Progress | None,
    promises: Mapping[str, Promise] | None = None,
) -> ClusterFacts:
    """Return the facts of a cluster with a journal.

    Args:
        observation: the GPUs.
        at: when they were observed, in seconds since 1970.
        progress: of the newest goal; None if there never was one.
        promises: by service; None if they are not known.
    """
    ready = deployed(observation).capacity()
    if progress is None:
        return ClusterFacts(
            observation, at, {name: ServiceNumbers(ready=each) for name, each in ready.items()}
        )
    goal = progress.goal
    planned = goal.target.capacity()
    floor = goal.new_rates if progress.state is State.REACHED else goal.guaranteed
    names = sorted(ready.keys() | planned.keys() | goal.new_rates.keys())
    services = {
        name: ServiceNumbers(
            goal.new_rates.get(name, 0.0), planned.get(name, 0.0), ready.get(name, 0.0), floor.get(name, 0.0)
        )
        for name in names
    }
    return ClusterFacts(
        observation,
        at,
        services,
        promises or {},
        progress.state,
        progress.done,
        progress.actions,
        progress.replans,
        progress.makespan,
    )


GPU_STATES = ("used", "free", "leaving", "mig_off", "lost")


def gpu_state(gpu: ObservedGpu) -> str:
    """Return the state of a GPU in a word of `GPU_STATES`: it is used if it has any instance."""
    if gpu.lost:
        return "lost"
    if not gpu.mig:
        return "mig_off"
    if gpu.leaving:
        return "leaving"
    return "used" if gpu.instances else "free"


INSTANCE_STATES = ("ready", "starting", "draining", "busy", "idle", "incomplete")


def instance_state(instance: ObservedInstance) -> str:
    """Return the state of an instance in a word of `INSTANCE_STATES`: it is busy with what is no service's replica."""
    if instance.replica is None:
        return "busy" if instance.busy else "idle" if instance.complete else "incomplete"
    return "draining" if instance.replica.draining else "ready" if serving(instance) else "starting"


def _held(gpu: ObservedGpu) -> float:
    """Return the share of a GPU's compute slices whose instances have a replica or someone's process."""
    model = gpu_model(gpu.model)
    slices = sum(
        model.profile(each.placement.profile).compute
        for each in gpu.instances
        if each.replica is not None or each.busy
    )
    return slices / model.compute_slices


def cluster_metrics(clusters: Sequence[tuple[Mapping[str, str], ClusterFacts]]) -> Iterator[Metric]:
    """Yield the metrics of clusters, each with labels of its own.

    Args:
        clusters: labels and facts; all have labels of the same names.
    """
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415 -- of the extras

    own = tuple(clusters[0][0]) if clusters else ()

    def gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(name, text, labels=(*own, *labels))

    observed = gauge("partita_observed_timestamp_seconds", "When the GPUs were last observed, since 1970")
    gpus = gauge("partita_gpus", "GPUs by model and state: used ones have an instance", "model", "state")
    held = gauge(
        "partita_gpu_held",
        "Share of a GPU's compute slices whose instances have work",
        "gpu",
        "UUID",
        "model",
    )
    split = gauge(
        "partita_gpu_fragmentation",
        "Share of a GPU's free memory slices that the largest instance that fits does not use",
        "gpu",
        "UUID",
        "model",
    )
    wasted = gauge(
        "partita_fragmentation",
        "Share of all free memory slices that the largest instance that fits on each GPU does not use",
    )
    info = gauge(
        "partita_instance_info",
        "1 for each instance, and for each service on it",
        *INSTANCE_LABELS,
        "service",
    )
    instances = gauge("partita_instances", "Instances by what they do", "state")
    required = gauge("partita_required_rate", "Items/s that a service is to have", "service")
    planned = gauge("partita_planned_capacity", "Items/s of the plan", "service")
    ready = gauge("partita_ready_capacity", "Items/s of the replicas that answer", "service")
    floor = gauge("partita_capacity_floor", "Items/s below which no transition goes", "service")
    objective = gauge("partita_slo_objective", "Share of the queries that the SLO promises in time", "service")
    slo = gauge("partita_slo_seconds", "Seconds from arrival to answer by the SLO", "service")
    transition = gauge(
        "partita_transition", "1 for the state of the newest transition, 0 for all others", "state"
    )
    actions = gauge("partita_transition_actions", "Actions of the newest transition")
    done = gauge("partita_transition_actions_done", "Its actions that have ended well")
    replans = gauge("partita_transition_replans", "Transitions for the same goal before it")
    seconds = gauge("partita_transition_predicted_seconds", "Seconds that it is predicted to take")
    for labels, found in clusters:
        key = tuple(labels.values())
        observed.add_metric(key, found.at)
        by_model: dict[str, Counter[str]] = {}
        doing: Counter[str] = Counter()
        free_all, lost_all = 0, 0
        for gpu in found.observation.gpus:
            by_model.setdefault(gpu.model, Counter())[gpu_state(gpu)] += 1
            each_gpu = (*key, gpu.id, gpu.uuid, gpu.model)
            if not gpu.lost and gpu.mig:
                free, largest = free_memory(gpu.model, tuple(each.placement for each in gpu.instances))
                free_all, lost_all = free_all + free, lost_all + free - largest
                held.add_metric(each_gpu, _held(gpu))
                split.add_metric(each_gpu, (free - largest) / free if free else 0.0)
            for each in gpu.instances:
                doing[instance_state(each)] += 1
                at = instance_labels(gpu.id, str(each.placement), gpu.uuid, each.identity.gi_id)
                names = [name for name, _ in each.replica.replica.serves] if each.replica else [""]
                for name in names:
                    info.add_metric((*key, *at, name), 1)
        wasted.add_metric(key, lost_all / free_all if free_all else 0.0)
        for model, counted in sorted(by_model.items()):
            for state in GPU_STATES:
                gpus.add_metric((*key, model, state), counted[state])
        for state in INSTANCE_STATES:
            instances.add_metric((*key, state), doing[state])
        for name, numbers in found.services.items():
            required.add_metric((*key, name), numbers.required)
            planned.add_metric((*key, name), numbers.planned)
            ready.add_metric((*key, name), numbers.ready)
            floor.add_metric((*key, name), numbers.floor)
        for name, promise in found.promises.items():
            objective.add_metric((*key, name), promise.quantile)
            slo.add_metric((*key, name), math.inf if promise.slo_s is None else promise.slo_s)
        states(transition, labels, State, found.transition or "")
        actions.add_metric(key, found.actions)
        done.add_metric(key, found.done)
        replans.add_metric(key, found.replans)
        seconds.add_metric(key, found.seconds)
    yield from (observed, gpus, held, split, wasted, info, instances)
    yield from (required, planned, ready, floor, objective, slo)
    yield from (transition, actions, done, replans, seconds)
