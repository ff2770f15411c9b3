"""Partita's own resources in the Kubernetes API: `Workload`, `Plan`, `Transition` of partita.dev/v1alpha1.

A Workload is what a user writes: the fields of the YAML document under the same names, and in camel case the fields
that only a cluster needs. A Plan is what was planned for a Workload; it never changes. A Transition is one goal and
the progress towards it. `crds.py` makes the CustomResourceDefinitions of these types.
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
from partita.workload import ArrivalsSpec, ServiceSpec, Workload, survived

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


GROUP, VERSION = "partita.dev", "v1alpha1"
APPROVED = "partita.dev/approved"
"""Annotation of a Plan: a person approves the Plan by writing its uid there."""
PAUSED = "partita.dev/paused"
"""Annotation of a Workload: who paused it. While it is there, no action of its transitions begins."""
FINALIZER = "partita.dev/drain"
"""Finalizer of a Workload: it stays after its deletion until its replicas are drained or orphaned."""
WORKLOAD_LABEL = "partita.dev/workload"
"""Label of all objects that belong to a Workload: its name."""

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
    """A model that must serve a rate within a latency, and the template of its pods."""

    name: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=63,
            pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
            description="Name of the service, unique: lower-case letters, digits and `-`, since it becomes a label.",
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
        ConfigMapKey | None,
        Meta(description="The ConfigMap that has it.", examples=[{"name": "perf", "key": "perf.csv"}]),
    ] = None
    csv: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="The table itself, with the columns of `partita perf`."),
    ] = None

    def faults(self) -> Iterator[FieldFault]:
        """Yield what is wrong between the fields."""
        if (self.config_map is None) == (self.csv is None):
            yield FieldFault(
                (), "a table is either configMap or csv", "for example configMap: {name: perf, key: perf.csv}"
            )


class GatewayRates(Value):
    """Rates that gateways count: the items on their metrics pages, summed over all pods of a Service."""

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
    """Rates from a Prometheus query."""

    url: Annotated[
        str,
        Meta(
            pattern="^https?://",
            max_length=2048,
            description="Address of the Prometheus.",
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
    """Where rates are measured. While the source does not answer, the last measured rates hold."""

    gateway: GatewayRates | None = None
    prometheus: PrometheusRates | None = None

    def faults(self) -> Iterator[FieldFault]:
        """Yield what is wrong between the fields."""
        if (self.gateway is None) == (self.prometheus is None):
            yield FieldFault(
                (),
                "rates come either from gateway or from prometheus",
                "leave out rates to use those of the services",
            )


_NO_LOSSES = (
    "a cluster is planned by counts of GPUs, not by nodes and zones, so no loss is sure to be survived"
)


_NO_SHARING = "services cannot share an instance on Kubernetes: each pod has one for itself"


def cluster_faults(workload: Workload) -> Iterator[FieldFault]:
    """Yield what a workload asks for that Partita cannot keep on Kubernetes."""
    alone = "leave it out, or serve these on hosts of their own with `partita run`"
    if workload.limits.share_below is not None:
        yield FieldFault(("limits", "share_below"), _NO_SHARING, alone)
    for index, service in enumerate(workload.services):
        if service.share:
            yield FieldFault(("services", index, "share"), _NO_SHARING, alone)
        if survived(service, workload.limits)[0] is not None:
            given = ("limits",) if service.survive is None else ("services", index)
            yield FieldFault((*given, "survive"), _NO_LOSSES, "write survive: none, or leave it out")
    for index, pool in enumerate(workload.gpus):
        fields = {
            "spot": pool.spot,
            "zone": pool.zone is not None,
            "nodes_per_rack": pool.nodes_per_rack is not None,
        }
        for name in (name for name, there in fields.items() if there):
            yield FieldFault(("gpus", index, name), _NO_LOSSES, "leave it out")


class WorkloadSpec(Workload):
    """A Workload's spec: the fields of the YAML document, and those that only a cluster needs."""

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
            description="Labels of the nodes whose GPUs it may use. Without labels: all nodes that have GPUs of the "
            "Workload's models.",
            examples=[{"pool": "serving"}],
        ),
    ] = field(default_factory=dict)
    approve: Annotated[
        Literal["Automatic", "Manual"],
        Meta(
            description="Manual holds each plan until a person approves it: by `kubectl partita approve PLAN`, or by "
            "writing the plan's uid into its annotation partita.dev/approved."
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
        Meta(description="Where rates are measured; without it, the rates in `services` hold."),
    ] = None
    deletion: Annotated[
        Literal["Drain", "Orphan"],
        Meta(
            description="What happens to the replicas when the Workload is deleted: Drain ends them within their "
            "grace period and frees their slices; Orphan leaves them running."
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
        yield from cluster_faults(self)
        for index, service in enumerate(self.services):
            if service.pod is None and self.pod is None:
                yield FieldFault(
                    ("services", index),
                    "pod is missing",
                    "give each service a pod, or the workload one for all",
                )
            if isinstance(service.arrivals, ArrivalsSpec) and service.arrivals.trace is not None:
                yield FieldFault(
                    ("services", index, "arrivals", "trace"),
                    "the controller reads no files",
                    "write arrivals: {gamma: {cv: 3}} with the variation of the trace's gaps",
                )


def read_spec(spec: object, name: str) -> WorkloadSpec:
    """Return a Workload's spec.

    Raises:
        InputError: all faults, each with its field and a hint, as for a YAML document.
    """
    return convert(spec, WorkloadSpec, DocumentSource(name))


# What the controller writes


class Condition(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """A condition of a status, as the Kubernetes API conventions define it."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""
    last_transition_time: str = ""
    observed_generation: int = 0


WORKLOAD_STATES = ("Refused", "Planning", "Waiting", "Moving", "Serving", "Degraded", "Draining")


class WorkloadStatus(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """The status of a Workload."""

    state: Annotated[
        str,
        Meta(
            description="In one word: Refused, Planning, Waiting, Moving, Serving, Degraded (below its rates) or "
            "Draining."
        ),
    ] = ""
    observed_generation: int = 0
    services: Annotated[int, Meta(description="Number of services.")] = 0
    gpus: Annotated[int, Meta(description="GPUs in use.")] = 0
    plan: Annotated[str, Meta(description="The newest Plan.")] = ""
    transition: Annotated[str, Meta(description="The newest Transition.")] = ""
    nearest: Annotated[
        str,
        Meta(
            description="The service with the least capacity relative to its rate: capacity/rate in items/s.",
            examples=["resnet50 330/300"],
        ),
    ] = ""
    conditions: tuple[Condition, ...] = ()


class WorkloadObject(KubernetesObject, frozen=True):
    """A Workload. Its spec is plain data, which `read_spec` decodes."""

    spec: dict[str, Any] = field(default_factory=dict)
    status: WorkloadStatus = WorkloadStatus()


class Owner(Value):
    """A Workload at one generation."""

    name: Text
    uid: Text
    generation: Whole


class PlacedInstance(Value, rename="camel", omit_defaults=True):
    """An instance, the service that runs on it, and the operating point."""

    at: Annotated[Text, Meta(description="Profile and start.", examples=["3g.40gb@4"])]
    service: Text
    model: Text
    batch: Count
    processes: Count
    throughput: Annotated[Amount, Meta(description="Items per second.")]
    latency_ms: Annotated[Amount, Meta(description="Milliseconds per batch.")]
    estimated: bool = False


class GpuGroupRow(Value, omit_defaults=True):
    """GPUs with the same layout and the same services on it."""

    model: Text
    gpus: Annotated[
        tuple[Text, ...],
        Meta(
            description="Their ids, NODE/gpu-N. In a plan, a transition may choose other GPUs of the model."
        ),
    ]
    instances: tuple[PlacedInstance, ...] = ()
    pool: str = ""
    empty: Annotated[tuple[str, ...], Meta(description="Instances on which nothing runs.")] = ()


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
    rates: Annotated[dict[str, Amount], Meta(description="Planned rates in items/s, by service.")]
    objective: Text
    value: Amount
    bound: Annotated[Amount, Meta(description="Lower bound of the objective: no plan is better.")]
    gap: Annotated[Text, Meta(description="Distance between value and bound.", examples=["2.1%"])]
    proven: Annotated[bool, Meta(description="Whether the plan is proven optimal.")]
    solver: Text
    seed: Whole
    seconds: Amount
    used: Annotated[Whole, Meta(description="Number of GPUs in use.")]
    services: tuple[ServiceRow, ...]
    gpus: tuple[GpuGroupRow, ...]
    batches: Annotated[
        dict[str, dict[str, Amount]],
        Meta(description="Planned shares of batch sizes, by service with a cut."),
    ] = field(default_factory=dict)


class PlanStatus(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """The status of a Plan."""

    state: Annotated[str, Meta(description="In one word: Waiting, Current or Superseded.")] = ""
    conditions: tuple[Condition, ...] = ()


class PlanObject(KubernetesObject, frozen=True):
    """A Plan."""

    spec: PlanSpec
    status: PlanStatus = PlanStatus()


class TransitionSpec(Value, rename="camel", omit_defaults=True):
    """A goal: what is to run on which GPUs, and the rates that hold until then."""

    workload: Owner
    plan: str
    target: tuple[GpuGroupRow, ...]
    old_rates: Annotated[dict[str, Amount], Meta(description="Rates in items/s before the transition.")]
    new_rates: Annotated[dict[str, Amount], Meta(description="Rates in items/s after the transition.")]
    algorithm: Text
    source: str = ""
    extra_gpus: Whole | None = None
    forbid: tuple[str, ...] = ()


class TransitionStatus(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """The status of a Transition: its progress."""

    state: Annotated[str, Meta(description="In one word: Running, Paused, Reached, Stopped or Replaced.")] = (
        ""
    )
    begun: Annotated[str, Meta(description="Time of its begin, as RFC 3339.")] = ""
    ended: Annotated[str, Meta(description="Time of its end, as RFC 3339; empty until then.")] = ""
    done: Annotated[int, Meta(description="Actions of the current schedule that have succeeded.")] = 0
    actions: Annotated[int, Meta(description="Actions of the current schedule.")] = 0
    progress: Annotated[
        str, Meta(description="Succeeded actions of all, in one text.", examples=["12/50"])
    ] = ""
    replans: Annotated[int, Meta(description="How often the actions were scheduled again.")] = 0
    left: Annotated[str, Meta(description="Predicted time to its end.", examples=["2m10s"])] = ""
    seconds_left: Annotated[int, Meta(description="Predicted seconds to its end.")] = 0
    nearest: Annotated[
        str,
        Meta(
            description="The service with the least capacity relative to its floor: capacity/floor in items/s.",
            examples=["resnet50 330/300"],
        ),
    ] = ""
    floors: Annotated[
        dict[str, float], Meta(description="Throughput in items/s that each service keeps meanwhile.")
    ] = field(default_factory=dict)
    writes: Annotated[int, Meta(description="Writes to the API so far for this Transition.")] = 0
    conditions: tuple[Condition, ...] = ()


class TransitionObject(KubernetesObject, frozen=True):
    """A Transition."""

    spec: TransitionSpec
    status: TransitionStatus = TransitionStatus()


WORKLOADS = Kind("Workload", "workloads", WorkloadObject, VERSION, GROUP, custom=True)
PLANS = Kind("Plan", "plans", PlanObject, VERSION, GROUP, strict=True, custom=True)
TRANSITIONS = Kind("Transition", "transitions", TransitionObject, VERSION, GROUP, strict=True, custom=True)


def lost_fields(before: object, now: object, path: str = "") -> Iterator[str]:
    """Yield the paths of fields that were there before, and are not now.

    Args:
        before: plain data.
        now: likewise.
        path: of both.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for key, value in before.items():
            at = f"{path}.{key}" if path else str(key)
            if key in now:
                yield from lost_fields(value, now[key], at)
            else:
                yield at
    elif isinstance(before, list) and isinstance(now, list):
        for index, (old, new) in enumerate(zip(before, now, strict=False)):
            yield from lost_fields(old, new, f"{path}[{index}]")


def number_of(name: str) -> int:
    """Return the number that ends the name of a Plan or a Transition; 0 if none does."""
    tail = name.rpartition("-")[2]
    return int(tail) if tail.isdecimal() else 0


# From plans and deployments to groups of GPUs, and back


def plan_groups(gpus: Iterable[PlannedGpu]) -> tuple[GpuGroupRow, ...]:
    """Return a plan's GPUs, grouped by layout and services."""
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
    """Return the plan of a Plan object. Like a plan read from a file, it has no quantiles, power and memory."""
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
    """Return a deployment's GPUs, grouped by layout and services."""
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
