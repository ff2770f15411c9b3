"""Partita's own resources in the Kubernetes API: `Workload`, `Plan`, `Transition` of partita.dev/v1alpha1.

A Workload is what a user writes: the fields of the YAML document, as they are there, and beside them, in camel case,
what only a cluster has. A Plan is what was planned for it, and never changes. A Transition is one goal with the
progress towards it. `crds.py` makes their CustomResourceDefinitions of these types.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import field

from partita.documents.codec import (
    Amount,
    Count,
    DocumentSource,
    FieldFault,
    Meta,
    Text,
    Value,
    Whole,
    convert,
)
from partita.kubernetes.objects import Kind, KubernetesObject
from partita.mig.layout import Placement
from partita.perf.operating_point import OperatingPoint
from partita.planning.plan import Instance, Objective, Plan, PlannedGpu, ServiceCapacity, Solver
from partita.transition.deployment import DeployedGpu, DeployedInstance, Deployment, Replica
from partita.workload import ServiceSpec, Workload

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


GROUP, VERSION = "partita.dev", "v1alpha1"
APPROVED = "partita.dev/approved"
"""Annotation of a Plan; a person lets it go by writing the Plan's uid there."""
FINALIZER = "partita.dev/drain"
"""Keeps a Workload that was deleted until its replicas are gone, or left to themselves, as it says."""
WORKLOAD_LABEL = "partita.dev/workload"
"""On all that belongs to a Workload: its name."""

# What users write

PodTemplate = Annotated[
    dict[str, Any],
    Meta(
        description="Template of the pods, `metadata` and `spec` as in a Deployment; Partita adds the claim of the "
        "slice. Readiness counts for the floor, and the grace period is the time to drain.",
        examples=[{"spec": {"containers": [{"name": "server", "image": "registry.example/resnet50:1"}]}}],
        extra_json_schema={"x-kubernetes-preserve-unknown-fields": True},
    ),
]
LabelText = Annotated[str, Meta(max_length=63)]


class PodService(ServiceSpec):
    """A model that must answer at a rate within a latency, and the pods that do it."""

    name: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=63,
            pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
            description="Name of the service, unlike all others: small letters, digits and `-`, since it becomes a "
            "label.",
            examples=["resnet50"],
        ),
    ]
    pod: PodTemplate | None = None


class ConfigMapKey(Value):
    """A key of a ConfigMap in the Workload's namespace."""

    name: Annotated[Text, Meta(description="Name of the ConfigMap.", examples=["perf"])]
    key: Annotated[Text, Meta(description="Which of its keys; a table as CSV.", examples=["perf.csv"])] = (
        "perf.csv"
    )


class TableSource(Value, rename="camel"):
    """A performance table: in a ConfigMap, or as text."""

    config_map: Annotated[
        ConfigMapKey | None, Meta(description="Where it is.", examples=[{"name": "perf", "key": "perf.csv"}])
    ] = None
    csv: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="The table itself; the columns of `partita perf`."),
    ] = None

    def faults(self) -> Iterator[FieldFault]:
        """Yield what is wrong between the fields."""
        if (self.config_map is None) == (self.csv is None):
            yield FieldFault(
                (), "a table is either configMap or csv", "for example configMap: {name: perf, key: perf.csv}"
            )


class GatewayRates(Value):
    """Rates that gateways count: the items of their metrics pages, added up over all of a Service's pods."""

    service: Annotated[
        Text,
        Meta(
            description="The Service of the gateways, in the Workload's namespace.",
            examples=["partita-gateway"],
        ),
    ]
    port: Annotated[
        int, Meta(ge=1, le=65535, description="Port of their metrics pages.", examples=[8000])
    ] = 8000


class PrometheusRates(Value):
    """Rates that a Prometheus answers."""

    url: Annotated[
        str,
        Meta(
            pattern="^https?://",
            max_length=2048,
            description="Where it is.",
            examples=["http://prometheus.monitoring:9090"],
        ),
    ]
    query: Annotated[
        Text,
        Meta(
            description="Items per second by service, in PromQL.",
            examples=["sum by (service) (rate(partita_offered_items_total[5m]))"],
        ),
    ]
    label: Annotated[Text, Meta(description="Label that names the service.", examples=["service"])] = (
        "service"
    )


class RatesSource(Value):
    """Where rates are measured. While there is no answer, those that were measured last hold."""

    gateway: GatewayRates | None = None
    prometheus: PrometheusRates | None = None

    def faults(self) -> Iterator[FieldFault]:
        """Yield what is wrong between the fields."""
        if (self.gateway is None) == (self.prometheus is None):
            yield FieldFault(
                (), "rates come either from gateway or from prometheus", "leave out rates for those written"
            )


class WorkloadSpec(Workload):
    """What a Workload asks for: the fields of the YAML document, and what only a cluster has."""

    services: Annotated[  # the same fields, with pods
        tuple[PodService, ...],
        Meta(
            min_length=1,
            description="Services to place.",
            examples=[[{"name": "resnet50", "model": "resnet50", "rate": 829, "slo": {"latency_ms": 100}}]],
        ),
    ]
    performance: Annotated[
        tuple[TableSource, ...],
        Meta(
            description="Performance tables.", examples=[[{"configMap": {"name": "perf", "key": "perf.csv"}}]]
        ),
    ] = ()  # type: ignore[assignment]  # not files
    pod: PodTemplate | None = None
    nodes: Annotated[
        dict[LabelText, LabelText],
        Meta(
            description="Labels of the nodes whose GPUs it may use. Without any, all that have GPUs of its models.",
            examples=[{"pool": "serving"}],
        ),
    ] = field(default_factory=dict)
    approve: Annotated[
        Literal["Automatic", "Manual"],
        Meta(
            description="Manual holds each plan until a person lets it go: `kubectl partita approve PLAN`, or the "
            "plan's uid as its annotation partita.dev/approved."
        ),
    ] = "Automatic"
    algorithm: Annotated[
        Text, Meta(description="How transitions are ordered; `partita apply --help` lists the algorithms.")
    ] = "shortest"
    extra_gpus: Annotated[
        Whole | None,
        Meta(
            description="GPUs that a transition may use beyond those in use before and after it. Without it, any."
        ),
    ] = field(name="extraGpus", default=None)
    rates: Annotated[
        RatesSource | None,
        Meta(description="Where rates are measured; without it, those of `services` hold."),
    ] = None
    deletion: Annotated[
        Literal["Drain", "Orphan"],
        Meta(
            description="What becomes of the replicas when the Workload is deleted: Drain ends them by their grace "
            "period and frees their slices; Orphan leaves them as they are."
        ),
    ] = field(name="deletionPolicy", default="Drain")

    def faults(self) -> Iterator[FieldFault]:
        """Yield what is wrong between the fields."""
        yield from super().faults()
        if not self.performance and not self.models:
            yield FieldFault(
                (),
                "no performance table and no models",
                "name tables, as in performance: [{configMap: {name: perf}}], or give models for an estimate",
            )
        for index, service in enumerate(self.services):
            if service.pod is None and self.pod is None:
                yield FieldFault(
                    ("services", index),
                    "pod is missing",
                    "give the service a pod, or the workload one for all",
                )


def read_spec(spec: object, name: str) -> WorkloadSpec:
    """Return a Workload's spec.

    Raises:
        InputError: all that is wrong, each with its field and a hint, as of a YAML document.
    """
    return convert(spec, WorkloadSpec, DocumentSource(name))


# What the controller writes


class Condition(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """One thing that is so, is not, or is unknown, and why."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""
    last_transition_time: str = ""
    observed_generation: int = 0


class WorkloadStatus(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """How a Workload is."""

    state: Annotated[
        str, Meta(description="In a word: Refused, Planning, Waiting, Moving, Serving, Draining.")
    ] = ""
    observed_generation: int = 0
    services: Annotated[int, Meta(description="How many services it has.")] = 0
    gpus: Annotated[int, Meta(description="GPUs in use.")] = 0
    plan: Annotated[str, Meta(description="The Plan that was made last.")] = ""
    transition: Annotated[str, Meta(description="The Transition that was begun last.")] = ""
    nearest: Annotated[
        str, Meta(description="The service nearest to its required rate: served of required items/s.")
    ] = ""
    conditions: tuple[Condition, ...] = ()


class WorkloadObject(KubernetesObject, frozen=True):
    """A Workload. Its spec is plain data until `read_spec` has looked at it."""

    spec: dict[str, Any] = field(default_factory=dict)
    status: WorkloadStatus = WorkloadStatus()


class Owner(Value):
    """A Workload at one moment."""

    name: Text
    uid: Text
    generation: Whole


class PlacedInstance(Value, rename="camel", omit_defaults=True):
    """An instance, as `3g.40gb@4`, with the service that runs on it, and how it is run."""

    at: Annotated[Text, Meta(description="Profile and start.", examples=["3g.40gb@4"])]
    service: Text
    model: Text
    batch: Count
    processes: Count
    throughput: Annotated[Amount, Meta(description="Items per second.")]
    latency_ms: Annotated[Amount, Meta(description="Of one batch, in milliseconds.")]
    estimated: bool = False


class GpuGroupRow(Value, omit_defaults=True):
    """GPUs that are cut alike."""

    model: Text
    gpus: Annotated[tuple[Text, ...], Meta(description="Their ids, NODE/gpu-N; of a plan they are a wish.")]
    instances: tuple[PlacedInstance, ...] = ()
    pool: str = ""
    empty: Annotated[tuple[str, ...], Meta(description="Instances with nothing on them.")] = ()


class ServiceRow(Value, rename="camel"):
    """What a plan gives a service: required rate and capacity in items/s."""

    name: Text
    rate: Amount
    capacity: Amount
    latency_slo_ms: Amount


class PlanSpec(Value, rename="camel", omit_defaults=True):
    """What was planned. It never changes."""

    workload: Owner
    document: Annotated[Text, Meta(description="Fingerprint of the Workload and its tables.")]
    why: Annotated[Text, Meta(description="Why it was planned.")]
    rates: Annotated[dict[str, Amount], Meta(description="Items/s that were planned for.")]
    objective: Text
    value: Amount
    bound: Annotated[Amount, Meta(description="Nothing better than this exists.")]
    gap: Annotated[Text, Meta(description="Distance between value and bound.", examples=["2.1%"])]
    proven: Annotated[bool, Meta(description="Whether nothing better exists.")]
    solver: Text
    seed: Whole
    seconds: Amount
    used: Annotated[Whole, Meta(description="GPUs it takes.")]
    services: tuple[ServiceRow, ...]
    gpus: tuple[GpuGroupRow, ...]
    batches: Annotated[
        dict[str, dict[str, Amount]],
        Meta(description="Shares of batch sizes that were planned for, of services with a cut."),
    ] = field(default_factory=dict)


class PlanStatus(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """What became of a plan."""

    state: Annotated[str, Meta(description="In a word: Waiting, Current, Superseded.")] = ""
    conditions: tuple[Condition, ...] = ()


class PlanObject(KubernetesObject, frozen=True):
    """A Plan."""

    spec: PlanSpec
    status: PlanStatus = PlanStatus()


class TransitionSpec(Value, rename="camel", omit_defaults=True):
    """A goal: what is to run on which GPUs, and what holds until then."""

    workload: Owner
    plan: str
    target: tuple[GpuGroupRow, ...]
    old_rates: Annotated[dict[str, Amount], Meta(description="Items/s required until now.")]
    new_rates: Annotated[dict[str, Amount], Meta(description="Items/s required from now on.")]
    algorithm: Text
    source: str = ""
    extra_gpus: Whole | None = None
    forbid: tuple[str, ...] = ()


class TransitionStatus(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """How far it is."""

    state: Annotated[str, Meta(description="In a word: Running, Reached, Stopped, Replaced.")] = ""
    begun: Annotated[str, Meta(description="When, as RFC 3339.")] = ""
    ended: Annotated[str, Meta(description="Likewise; empty until then.")] = ""
    done: Annotated[int, Meta(description="Actions of the present order that have ended well.")] = 0
    actions: Annotated[int, Meta(description="Actions of the present order.")] = 0
    progress: Annotated[str, Meta(description="Both in one text.", examples=["12/50"])] = ""
    replans: Annotated[int, Meta(description="How often the actions were ordered anew.")] = 0
    left: Annotated[str, Meta(description="How long it still takes, as predicted.", examples=["2m10s"])] = ""
    seconds_left: Annotated[int, Meta(description="Likewise in seconds.")] = 0
    nearest: Annotated[
        str, Meta(description="The service nearest to its floor: served of guaranteed items/s.")
    ] = ""
    floors: Annotated[
        dict[str, float], Meta(description="Items/s that no service falls under on the way.")
    ] = field(default_factory=dict)
    writes: Annotated[int, Meta(description="Writes to the API so far, for these actions.")] = 0
    conditions: tuple[Condition, ...] = ()


class TransitionObject(KubernetesObject, frozen=True):
    """A Transition."""

    spec: TransitionSpec
    status: TransitionStatus = TransitionStatus()


WORKLOADS = Kind("Workload", "workloads", WorkloadObject, VERSION, GROUP)
PLANS = Kind("Plan", "plans", PlanObject, VERSION, GROUP)
TRANSITIONS = Kind("Transition", "transitions", TransitionObject, VERSION, GROUP)

# From plans and deployments to groups of GPUs, and back


def plan_groups(gpus: Iterable[PlannedGpu]) -> tuple[GpuGroupRow, ...]:
    """Return a plan's GPUs with those that are cut alike together."""
    alike: dict[tuple[str, str, tuple[Instance, ...]], list[str]] = {}
    for gpu in gpus:
        alike.setdefault((gpu.model, gpu.pool, gpu.instances), []).append(gpu.id)
    return tuple(
        GpuGroupRow(model, tuple(ids), tuple(map(_placed, instances)), pool)
        for (model, pool, instances), ids in alike.items()
    )


def _placed(each: Instance) -> PlacedInstance:
    point = each.point
    return PlacedInstance(
        str(each.placement),
        each.service,
        each.model,
        int(point.batch),
        int(point.processes),
        float(point.throughput),
        float(point.latency_ms),
        bool(point.estimated),
    )


def plan_of(spec: PlanSpec) -> Plan:
    """Return the plan that a Plan holds. Like one read from a file, it has no quantiles, power and memory."""
    gpus = tuple(
        PlannedGpu(gpu, group.model, instances, group.pool)
        for group in spec.gpus
        for instances in (tuple(map(_instance, group.instances)),)
        for gpu in group.gpus
    )
    return Plan(
        Objective(spec.objective, spec.value, spec.bound),
        Solver(spec.solver, spec.seed, spec.seconds),
        tuple(
            ServiceCapacity(each.name, each.rate, each.capacity, each.latency_slo_ms)
            for each in spec.services
        ),
        tuple(sorted(gpus, key=lambda each: each.id)),
    )


def _instance(each: PlacedInstance) -> Instance:
    placement = Placement.parse(each.at)
    point = OperatingPoint(
        profile=placement.profile,
        batch=each.batch,
        processes=each.processes,
        throughput=each.throughput,
        latency_ms=each.latency_ms,
        quantile="",
        estimated=each.estimated,
    )
    return Instance(placement, each.service, each.model, point)


def target_groups(deployment: Deployment) -> tuple[GpuGroupRow, ...]:
    """Return a deployment's GPUs with those on which the same runs together."""
    alike: dict[tuple[str, tuple[DeployedInstance, ...]], list[str]] = {}
    for gpu in deployment.gpus:
        alike.setdefault((gpu.model, gpu.instances), []).append(gpu.id)
    return tuple(
        GpuGroupRow(
            model,
            tuple(ids),
            tuple(_running(each, each.replica) for each in instances if each.replica is not None),
            empty=tuple(str(each.placement) for each in instances if each.replica is None),
        )
        for (model, instances), ids in alike.items()
    )


def _running(each: DeployedInstance, runs: Replica) -> PlacedInstance:
    return PlacedInstance(
        str(each.placement),
        runs.service,
        runs.model,
        runs.batch,
        runs.processes,
        runs.throughput,
        runs.latency_ms,
    )


def deployment_from(groups: Iterable[GpuGroupRow]) -> Deployment:
    """Return the deployment that groups of GPUs describe."""
    found = [
        DeployedGpu(gpu, group.model, instances)
        for group in groups
        for instances in (_deployed(group),)
        for gpu in group.gpus
    ]
    return Deployment(tuple(sorted(found, key=lambda each: each.id)))


def _deployed(group: GpuGroupRow) -> tuple[DeployedInstance, ...]:
    made = [
        DeployedInstance(
            Placement.parse(each.at),
            Replica(each.service, each.model, each.batch, each.processes, each.throughput, each.latency_ms),
        )
        for each in group.instances
    ]
    made += [DeployedInstance(Placement.parse(at), None) for at in group.empty]
    return tuple(sorted(made, key=lambda each: each.placement))
