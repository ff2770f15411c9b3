"""What is known of a cluster at a moment, and the metrics that say it to Prometheus."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from partita.control.cluster_view import deployed, serving
from partita.control.journal import State
from partita.metrics import INSTANCE_LABELS, instance_labels, states
from partita.mig.catalogue import gpu_model
from partita.mig.layout import free_memory
from partita.workload import QUANTILE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.metrics_core import Metric

    from partita.control.journal import Progress
    from partita.drive.driver import Observation, ObservedGpu, ObservedInstance
    from partita.workload import Workload


class Promise(NamedTuple):
    """What a service is promised: seconds to an answer, and for which share of its queries."""

    slo_s: float
    quantile: float


def promises(workload: Workload) -> dict[str, Promise]:
    """Return what a workload promises, by service."""
    return {
        each.name: Promise(each.slo.latency_ms / 1000, each.slo.quantile or QUANTILE)
        for each in workload.services
    }


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
        seconds: predicted for it; None where that is not known.
        jobs: GPU and placement of the instances that jobs hold, which not every driver sees.
    """

    observation: Observation
    at: float
    services: Mapping[str, ServiceNumbers] = field(default_factory=dict)
    promises: Mapping[str, Promise] = field(default_factory=dict)
    transition: State | None = None
    done: int = 0
    actions: int = 0
    replans: int = 0
    seconds: float | None = None
    jobs: Collection[tuple[str, str]] = ()

    def is_busy(self, gpu: ObservedGpu, instance: ObservedInstance) -> bool:
        """Say whether a job or a foreign process is on an instance."""
        return instance.busy or (gpu.id, str(instance.placement)) in self.jobs


def facts(
    observation: Observation,
    at: float,
    progress: Progress | None,
    promised: Mapping[str, Promise],
    jobs: Collection[tuple[str, str]] = (),
) -> ClusterFacts:
    """Return the facts of a cluster with a journal.

    Args:
        observation: the GPUs.
        at: when they were observed, in seconds since 1970.
        progress: of the newest goal; None if there never was one.
        promised: by service, where that is known.
        jobs: as in `ClusterFacts`.
    """
    ready = deployed(observation).capacity()
    if progress is None:
        numbers = {name: ServiceNumbers(ready=each) for name, each in ready.items()}
        return ClusterFacts(observation, at, numbers, promised, jobs=jobs)
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
        promised,
        progress.state,
        progress.done,
        progress.actions,
        progress.replans,
        progress.makespan,
        jobs,
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


def instance_state(instance: ObservedInstance, *, job: bool = False) -> str:
    """Return the state of an instance in a word of `INSTANCE_STATES`: busy is one with a job or a foreign process."""
    if instance.replica is None:
        return "busy" if job or instance.busy else "idle" if instance.complete else "incomplete"
    return "draining" if instance.replica.draining else "ready" if serving(instance) else "starting"


def _held(gpu: ObservedGpu, found: ClusterFacts) -> float:
    """Return the share of a GPU's compute slices whose instances have a replica, a job, or a foreign process."""
    return _share(
        gpu, [each for each in gpu.instances if each.replica is not None or found.is_busy(gpu, each)]
    )


def _share(gpu: ObservedGpu, instances: Sequence[ObservedInstance]) -> float:
    model = gpu_model(gpu.model)
    profiles = (model.profile_called(each.placement.profile) for each in instances)
    return sum(each.compute for each in profiles if each is not None) / model.compute_slices


Clusters: TypeAlias = "Sequence[tuple[Mapping[str, str], ClusterFacts]]"
"""Clusters with labels of their own, all of the same names."""


def cluster_metrics(clusters: Clusters) -> Iterator[Metric]:
    """Yield the metrics of clusters."""
    yield from _of_gpus(clusters)
    yield from service_metrics(clusters)
    yield from _of_transitions(clusters)


def _gauge(clusters: Clusters, name: str, text: str, *labels: str) -> GaugeMetricFamily:
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415 -- of the extras

    own = tuple(clusters[0][0]) if clusters else ()
    return GaugeMetricFamily(name, text, labels=(*own, *labels))


_GPU = ("gpu", "UUID", "model")


def _of_gpus(clusters: Clusters) -> Iterator[Metric]:
    observed = _gauge(
        clusters, "partita_observed_timestamp_seconds", "When the GPUs were last observed, since 1970"
    )
    gpus = _gauge(
        clusters, "partita_gpus", "GPUs by model and state: used ones have an instance", "model", "state"
    )
    held = _gauge(
        clusters, "partita_gpu_held", "Share of a GPU's compute slices whose instances have work", *_GPU
    )
    split = _gauge(
        clusters,
        "partita_gpu_fragmentation",
        "Share of a GPU's free memory slices that the largest instance that fits does not use",
        *_GPU,
    )
    wasted = _gauge(
        clusters,
        "partita_fragmentation",
        "Share of all free memory slices that the largest instance that fits on each GPU does not use",
    )
    info = _gauge(
        clusters,
        "partita_instance_info",
        "1 for each instance, and for each service on it",
        *INSTANCE_LABELS,
        "service",
    )
    share = _gauge(
        clusters,
        "partita_instance_share",
        "Share of its GPU's compute slices that an instance has",
        *INSTANCE_LABELS,
    )
    instances = _gauge(clusters, "partita_instances", "Instances by what they do", "state")
    for labels, found in clusters:
        key = tuple(labels.values())
        observed.add_metric(key, found.at)
        by_model: dict[str, Counter[str]] = {}
        doing: Counter[str] = Counter()
        free_all, lost_all = 0, 0
        for gpu in found.observation.gpus:
            by_model.setdefault(gpu.model, Counter())[gpu_state(gpu)] += 1
            if not gpu.lost and gpu.mig:
                placements = tuple(sorted(each.placement for each in gpu.instances))
                free, largest = free_memory(gpu_model(gpu.model), placements)
                free_all, lost_all = free_all + free, lost_all + free - largest
                held.add_metric((*key, gpu.id, gpu.uuid, gpu.model), _held(gpu, found))
                split.add_metric((*key, gpu.id, gpu.uuid, gpu.model), (free - largest) / free if free else 0)
            for each in gpu.instances:
                doing[instance_state(each, job=found.is_busy(gpu, each))] += 1
                at = instance_labels(gpu.id, str(each.placement), gpu.uuid, each.identity.gi_id)
                share.add_metric((*key, *at), _share(gpu, [each]))
                for name in _services(each) or [""]:
                    info.add_metric((*key, *at, name), 1)
        wasted.add_metric(key, lost_all / free_all if free_all else 0.0)
        for model, counted in sorted(by_model.items()):
            for state in GPU_STATES:
                gpus.add_metric((*key, model, state), counted[state])
        for state in INSTANCE_STATES:
            instances.add_metric((*key, state), doing[state])
    yield from (observed, gpus, held, split, wasted, info, share, instances)


def _services(instance: ObservedInstance) -> list[str]:
    return [name for name, _ in instance.replica.replica.serves] if instance.replica else []


def service_metrics(clusters: Clusters) -> Iterator[Metric]:
    """Yield those of services: required rates, capacities, floors and SLOs."""
    required = _gauge(clusters, "partita_required_rate", "Items/s that a service is to have", "service")
    planned = _gauge(clusters, "partita_planned_capacity", "Items/s of the plan", "service")
    ready = _gauge(clusters, "partita_ready_capacity", "Items/s of the replicas that answer", "service")
    floor = _gauge(
        clusters,
        "partita_capacity_floor",
        "Items/s that are promised now, also while GPUs are cut",
        "service",
    )
    objective = _gauge(
        clusters, "partita_slo_objective", "Share of the queries that the SLO promises in time", "service"
    )
    slo = _gauge(clusters, "partita_slo_seconds", "Seconds from arrival to answer by the SLO", "service")
    for labels, found in clusters:
        key = tuple(labels.values())
        for name, numbers in found.services.items():
            required.add_metric((*key, name), numbers.required)
            planned.add_metric((*key, name), numbers.planned)
            ready.add_metric((*key, name), numbers.ready)
            floor.add_metric((*key, name), numbers.floor)
        for name, promise in found.promises.items():
            objective.add_metric((*key, name), promise.quantile)
            slo.add_metric((*key, name), promise.slo_s)
    yield from (required, planned, ready, floor, objective, slo)


def _of_transitions(clusters: Clusters) -> Iterator[Metric]:
    state = _gauge(
        clusters, "partita_transition", "1 for the state of the newest transition, 0 for all others", "state"
    )
    actions = _gauge(clusters, "partita_transition_actions", "Actions of the newest transition")
    done = _gauge(clusters, "partita_transition_actions_done", "Its actions that have ended well")
    replans = _gauge(clusters, "partita_transition_replans", "Transitions for the same goal before it")
    seconds = _gauge(clusters, "partita_transition_predicted_seconds", "Seconds that it is predicted to take")
    for labels, found in clusters:
        key = tuple(labels.values())
        states(state, labels, State, found.transition or "")
        actions.add_metric(key, found.actions)
        done.add_metric(key, found.done)
        replans.add_metric(key, found.replans)
        if found.seconds is not None:
            seconds.add_metric(key, found.seconds)
    yield from (state, actions, done, replans, seconds)
