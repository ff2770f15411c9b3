"""The documents of the API `/api/v1`: what each request returns, and what the stream of events tells.

Structure and load are apart: `Fleet` says which instances there are, and changes when GPUs are cut; `Load` says what
they do, and changes all the time. Both are columns, since a cluster may have ten thousand GPUs. Lists that can grow
without a limit come in pages, with the cursor of the next one.

Times are seconds since 1970 on the cluster's clock. Rates and capacities are items/s, memory is bytes, energy is
joules.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import field

from partita.documents.codec import FieldFault, Meta, Value

if TYPE_CHECKING:
    from collections.abc import Iterator


class Role(StrEnum):
    """What a token may do: look, or change things, too."""

    READ = "read"
    WRITE = "write"


class Part(StrEnum):
    """A part of the API that a source has; the dashboard hides the pages of the others."""

    FLEET = "fleet"
    SERVICES = "services"
    PLAN = "plan"
    TRANSITIONS = "transitions"
    JOBS = "jobs"
    SUBMIT = "submit"
    """Jobs can be submitted and cancelled here."""
    ENERGY = "energy"
    WHAT_IF = "what-if"


class InstanceState(StrEnum):
    """What an instance is doing; the dashboard's colours follow it."""

    SERVING = "serving"
    JOB = "job"
    FREE = "free"
    """It exists, and nothing runs on it."""
    STARTING = "starting"
    DRAINING = "draining"
    CHANGING = "changing"
    """An action of a transition makes or destroys it."""
    FOREIGN = "foreign"
    """It is not Partita's, and is never touched."""
    LOST = "lost"


class Index(Value):
    """`GET /api/v1`: what this API is, and what the caller may do."""

    version: Annotated[str, Meta(description="Version of Partita.")]
    cluster: Annotated[str, Meta(description="Name of the cluster or host.")]
    workload: Annotated[str | None, Meta(description="Name of the workload that runs.")]
    now: Annotated[float, Meta(description="The cluster's clock.")]
    role: Role
    parts: tuple[Part, ...]
    state: Annotated[str, Meta(description="Version of the whole state.")]
    last_event: Annotated[int, Meta(description="Number of the newest event of the stream.")]
    fault: Annotated[
        Fault | None,
        Meta(
            description="What cannot be seen now, all or a part such as the journal, and why; it is shown as it was."
        ),
    ] = None
    notes: Annotated[
        tuple[str, ...], Meta(description="What is missing, and why: such as a gateway that does not answer.")
    ] = ()


class ProfileSize(Value):
    """A profile of a GPU model: how many memory and compute slices it takes."""

    name: str
    memory: int
    compute: int
    starts: tuple[int, ...]


class GpuModel(Value):
    """A GPU model: its memory slices, and the profiles that it can be cut into."""

    name: str
    memory_slices: int
    compute_slices: int
    memory_bytes: float
    profiles: tuple[ProfileSize, ...]


class GpuColumns(Value):
    """All GPUs, a list for each field, in one order: by node, then by number."""

    id: tuple[str, ...]
    model: Annotated[tuple[int, ...], Meta(description="Index into `models`.")]
    node: Annotated[tuple[int, ...], Meta(description="Index into `nodes`.")]
    state: Annotated[tuple[int, ...], Meta(description="0 usable, 1 MIG is off, 2 leaving, 3 lost.")]


class InstanceColumns(Value):
    """All instances, a list for each field, by GPU and then by start."""

    gpu: Annotated[tuple[int, ...], Meta(description="Index into `gpus`.")]
    profile: Annotated[tuple[int, ...], Meta(description="Index into the profiles of the GPU's model.")]
    start: tuple[int, ...]
    state: Annotated[tuple[int, ...], Meta(description="Index into `states`.")]
    service: Annotated[tuple[int, ...], Meta(description="Index into `services`; -1 for none.")]
    job: Annotated[
        dict[str, str], Meta(description="Ids of jobs by the instance's index, as JSON has only text keys.")
    ] = field(default_factory=dict)
    shared: Annotated[
        dict[str, tuple[int, ...]],
        Meta(description="All services on an instance that several share, likewise."),
    ] = field(default_factory=dict)


class Node(Value):
    """A host with GPUs."""

    name: str
    rack: str = ""
    zone: str = ""


class Fleet(Value):
    """`GET /api/v1/fleet`: all GPUs and how they are cut."""

    version: Annotated[str, Meta(description="Changes when anything here does; also the ETag.")]
    models: tuple[GpuModel, ...]
    nodes: tuple[Node, ...]
    services: tuple[str, ...]
    states: tuple[InstanceState, ...]
    gpus: GpuColumns
    instances: InstanceColumns
    planned: Annotated[
        InstanceColumns | None, Meta(description="The goal's instances, where they differ from what runs.")
    ] = None


class Load(Value):
    """`GET /api/v1/fleet/load`: what all instances of a fleet do now, in the order of its `instances`."""

    version: str
    fleet: Annotated[str, Meta(description="Version of the fleet whose instances these are.")]
    at: float
    busy: Annotated[
        tuple[int | None, ...],
        Meta(description="Share of the time at work, in thousandths; null where unknown."),
    ]
    attainment: Annotated[
        tuple[int | None, ...],
        Meta(description="Share of its service's queries in time, in thousandths; null where unknown."),
    ]
    watts: Annotated[tuple[int | None, ...], Meta(description="By GPU, not by instance; null where unknown.")]


class GpuChange(Value):
    """Event `gpu`: one GPU's instances, now. All of its earlier ones are gone."""

    fleet: Annotated[str, Meta(description="Version of the fleet with this change.")]
    before: Annotated[
        str, Meta(description="Version that it changes; a client with another one loads the fleet anew.")
    ]
    gpu: int
    state: int
    profile: tuple[int, ...]
    start: tuple[int, ...]
    instance_state: tuple[int, ...]
    service: tuple[int, ...]
    job: tuple[str | None, ...]
    shared: Annotated[
        dict[str, tuple[int, ...]],
        Meta(description="All services on an instance that several share, by its place in these lists."),
    ] = field(default_factory=dict)


class LoadChange(Value):
    """Event `load`: the instances and GPUs whose load changed, a list for each field."""

    fleet: Annotated[str, Meta(description="Version of the fleet whose instances these are.")]
    at: float
    index: Annotated[tuple[int, ...], Meta(description="Index into the fleet's `instances`.")]
    busy: tuple[int | None, ...]
    attainment: tuple[int | None, ...]
    gpu: Annotated[tuple[int, ...], Meta(description="Index into the fleet's `gpus`.")] = ()
    watts: tuple[int | None, ...] = ()


class Hello(Value):
    """Event `hello`, the first one of each connection: what the server is, and where the stream stands."""

    version: Annotated[str, Meta(description="Version of Partita; a page of another one loads itself anew.")]
    fleet: Annotated[str, Meta(description="Version of the fleet.")]
    last_event: Annotated[int, Meta(description="Number of the newest event.")]


class Reset(Value):
    """Event `reset`: events are missing, or the structure changed; load everything anew."""

    fleet: Annotated[str, Meta(description="Version of the fleet, at least.")]
    why: str


class ClusterFault(Value):
    """Event `fault`: why the cluster cannot be seen; null once it can again."""

    fault: Fault | None


class SignIn(Value):
    """`POST /api/v1/session`: sign in with a token; the answer sets a cookie."""

    token: Annotated[str, Meta(min_length=1, max_length=4096)]


class Session(Value):
    """Who asks, and what that role may do."""

    role: Role


class InstanceDetail(Value):
    """An instance, with all that is known of it."""

    profile: str
    start: int
    state: InstanceState
    mig_uuid: str | None = None
    gpu_instance_id: int | None = None
    services: tuple[str, ...] = ()
    job: str | None = None
    busy: Annotated[float | None, Meta(description="Share of the time at work, over the last seconds.")] = (
        None
    )
    throughput: Annotated[float | None, Meta(description="Capacity in items/s, as planned.")] = None
    batch: int | None = None
    latency_ms: Annotated[float | None, Meta(description="Time of a batch, as planned.")] = None
    slowdown: Annotated[
        float | None, Meta(description="Time of its batches relative to instances of its size.")
    ] = None


class Gpu(Value):
    """`GET /api/v1/gpus/{id}` and the elements of `GET /api/v1/gpus`."""

    id: str
    uuid: str
    model: str
    node: str
    state: Annotated[str, Meta(description="usable, MIG off, leaving or lost.")]
    instances: tuple[InstanceDetail, ...]
    held: Annotated[float, Meta(description="Share of its compute slices that instances with work hold.")]
    working: Annotated[
        float | None, Meta(description="Share of its compute that is at work; null where unknown.")
    ]
    fragmentation: Annotated[
        float,
        Meta(description="Share of its free memory slices that the largest instance that fits does not use."),
    ]
    watts: float | None = None


class GpuCut(Value):
    """How a GPU was cut from a time on."""

    at: float
    instances: tuple[str, ...]
    """Such as `3g.40gb@4 photo-search`."""


class Event(Value):
    """An entry of the journal, or something else that happened; also event `event` of the stream."""

    number: int
    at: float
    kind: Annotated[str, Meta(description="goal, action, note, job, fault or state.")]
    text: str
    gpu: str | None = None
    service: str | None = None
    job: str | None = None
    ended: float | None = None
    error: str | None = None


class GpuHistory(Value):
    """`GET /api/v1/gpus/{id}/history`: its cuts and events, newest first, and its energy of a day by who used it."""

    cuts: tuple[GpuCut, ...]
    events: tuple[Event, ...]
    energy: tuple[EnergyRow, ...]
    since: Annotated[
        float | None, Meta(description="From when on cuts and events are known; null where from the begin.")
    ] = None


class Service(Value):
    """A service, as it is now; also event `services` of the stream, with those that changed."""

    name: str
    required: Annotated[float, Meta(description="Rate that is wanted, items/s.")]
    floor: Annotated[float, Meta(description="Capacity that is kept now, also during a transition.")]
    capacity: Annotated[float, Meta(description="Capacity that is ready.")]
    planned: Annotated[float, Meta(description="Capacity of the plan.")]
    instances: int
    slo_ms: float | None = None
    quantile: Annotated[float | None, Meta(description="Share of the queries that the SLO promises.")] = None
    rate: Annotated[
        float | None, Meta(description="Observed over the last seconds; null without a gateway.")
    ] = None
    attainment: Annotated[float | None, Meta(description="Share in time, over the last minutes.")] = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    queue: int | None = None
    in_flight: int | None = None
    refused: Annotated[
        dict[str, int], Meta(description="Queries refused over the last minutes, by reason.")
    ] = field(default_factory=dict)
    where: Annotated[dict[str, int], Meta(description="Instances by GPU model and profile.")] = field(
        default_factory=dict
    )


class Explanation(Value):
    """`GET /api/v1/services/{name}/explain`: what binds a service, as `partita explain --output json` says it."""

    service: str
    explanation: dict[str, Any]


class Series(Value):
    """`GET /api/v1/services/{name}/series` and `/api/v1/fleet/series`: values over time, a list for each name."""

    step: Annotated[float, Meta(description="Seconds between two points.")]
    at: tuple[float, ...]
    values: dict[str, tuple[float | None, ...]]


class PlanSummary(Value):
    """`GET /api/v1/plan`: the plan that was applied last, or that a what-if found."""

    version: str
    gpus: int
    bound: Annotated[
        float | None,
        Meta(description="No plan has a lower value of the objective, within the capacity model."),
    ]
    proven: bool
    verdict: Annotated[str, Meta(description="Such as `proven optimal`.")]
    cost: Annotated[float | None, Meta(description="Per hour, where all of its GPUs have prices.")] = None
    instances: int = 0
    objective: Annotated[str, Meta(description="What was minimised: gpus, cost or watts.")] = "gpus"
    value: Annotated[float | None, Meta(description="Of the objective; null where it is not known.")] = None
    document: Annotated[
        dict[str, Any],
        Meta(description="The plan as `partita plan --out` writes it; of a what-if, where it was asked for."),
    ] = field(default_factory=dict)
    workload: Annotated[
        str, Meta(description="Whose plan it is; empty on a host, which has one workload alone.")
    ] = ""
    workloads: Annotated[
        tuple[str, ...], Meta(description="All workloads that may be asked for; empty on a host.")
    ] = ()


class Difference(Value):
    """`GET` and `POST /api/v1/plan/difference`: from what runs to the plan that was applied, or to another."""

    actions: int
    seconds: Annotated[float, Meta(description="Predicted.")]
    moves: Annotated[int, Meta(description="Replicas that move, are new or end.")]
    gpus: Annotated[tuple[str, ...], Meta(description="Those that change.")]
    services: Annotated[tuple[ServiceDifference, ...], Meta(description="Those that change.")]
    peak_gpus: Annotated[int, Meta(description="Most GPUs in use at once.")] = 0
    state: Annotated[
        str, Meta(description="The state that it was made for: `If-Match` of what applies it.")
    ] = ""
    workload: Annotated[
        str, Meta(description="Whose GPUs and plan these are; empty on a host, which has one workload alone.")
    ] = ""


class ServiceDifference(Value):
    """What a transition does to one service: capacities in items/s, replicas by what becomes of them."""

    name: str
    before: float
    after: float
    floor: float
    least: float
    stay: int
    move: int
    new: int
    end: int
    stand_in: int


class TransitionState(StrEnum):
    """Where a transition is."""

    WAITING = "waiting"
    """For approval."""
    RUNNING = "running"
    PAUSED = "paused"
    REACHED = "reached"
    STOPPED = "stopped"
    REPLACED = "replaced"


class Transition(Value):
    """An element of `GET /api/v1/transitions`, newest first; also event `transition` of the stream."""

    id: str
    at: float
    command: str
    state: TransitionState
    done: int
    actions: int
    seconds: Annotated[float, Meta(description="Predicted for the whole.")]
    ended: float | None = None
    replans: int = 0

    @property
    def version(self) -> str:
        """What `If-Match` names: it changes when the state does."""
        return f"{self.id}.{self.state.value}"


class ActionBar(Value):
    """An action, predicted and actual; times are seconds from the transition's begin."""

    id: str
    kind: str
    gpu: str
    placement: str
    service: str | None
    begin: float
    end: float
    began: float | None = None
    ended: float | None = None
    error: str | None = None


class CapacityLine(Value):
    """A service's capacity over a transition, in steps: (second, items/s from then on), with its floor.

    The first step has what begins at once in it; `before` is the capacity before that.
    """

    service: str
    floor: float
    predicted: tuple[tuple[float, float], ...]
    actual: tuple[tuple[float, float], ...]
    before: float = 0.0


class TransitionDetail(Value):
    """`GET /api/v1/transitions/{id}?after=CURSOR&limit=N`: its actions by page, the earliest first."""

    transition: Transition
    actions: tuple[ActionBar, ...]
    capacity: Annotated[
        tuple[CapacityLine, ...],
        Meta(
            description="On the first page alone, each with at most 1,000 steps predicted and actual: of more, "
            "steps are left out, but none of the lowest."
        ),
    ]
    notes: Annotated[tuple[Event, ...], Meta(description="On the first page alone: the newest 1,000.")]
    next: Annotated[str | None, Meta(description="Cursor of the next page of actions.")] = None


class JobAttempt(Value):
    """An attempt of a job: a step of its ladder of slices."""

    number: int
    gpu: str
    placement: str
    limit_bytes: float
    decided: float
    began: float | None = None
    ended: float | None = None
    verdict: str | None = None
    why: str | None = None
    code: int | None = None
    peak_bytes: float | None = None


class Job(Value):
    """A job; an element of `GET /api/v1/jobs`; also event `job` of the stream. Attempts come with one job alone."""

    id: str
    user: str
    command: Annotated[str, Meta(description="Empty where it is another user's who is not ours to show.")]
    state: str
    submitted: float
    reason: Annotated[str | None, Meta(description="Why it waits, or how it ended.")] = None
    advice: Annotated[str | None, Meta(description="What to do about it.")] = None
    predicted_start: float | None = None
    gpu: str | None = None
    placement: str | None = None
    memory_bytes: Annotated[
        tuple[float, float | None] | None, Meta(description="Least and most that it is expected to need.")
    ] = None
    attempts: tuple[JobAttempt, ...] = ()
    name: str = ""

    @property
    def version(self) -> str:
        """What `If-Match` names: it changes when the state does."""
        return f"{self.id}.{self.state}"


class JobLog(Value):
    """`GET /api/v1/jobs/{id}/log?after=BYTES`: what was written since, and where to go on."""

    text: Annotated[str, Meta(description="Bytes that are no UTF-8 are replaced.")]
    next: Annotated[int, Meta(description="`after` of the next piece.")]
    over: Annotated[bool, Meta(description="Whether the attempt has ended and all of its log was read.")]
    attempt: Annotated[int, Meta(description="0 where the job never ran.")] = 0


class EnergyRow(Value):
    """Energy and cost of one service, job or idle GPUs. Idle is a row like others."""

    kind: Annotated[str, Meta(description="service, job, idle, or other.")]
    name: str
    joules: float | None
    seconds: Annotated[float, Meta(description="GPU-seconds, by share of the GPU.")] = 0.0
    cost: float | None = None


class Energy(Value):
    """`GET /api/v1/energy?since=SECONDS`."""

    since: Annotated[
        float, Meta(description="From when on it is known, if that is later than what was asked for.")
    ]
    rows: tuple[EnergyRow, ...]
    watts: float | None
    estimated: Annotated[
        bool, Meta(description="Whether it is by the power model of each GPU, since no counter can be read.")
    ] = False


class WhatIf(Value):
    """`POST /api/v1/what-if`: what would be different. Nothing is changed, and no right to write is needed."""

    services: Annotated[
        dict[str, ServiceWhatIf], Meta(description="Changes by service; others are as in the workload.")
    ] = field(default_factory=dict)
    pools: Annotated[dict[str, PoolWhatIf], Meta(description="Changes by pool.")] = field(
        default_factory=dict
    )
    until: Annotated[
        str, Meta(pattern="^(bound|plan)$", description="Return the bound alone, or the plan.")
    ] = "plan"
    seconds: Annotated[float, Meta(gt=0, le=60, description="Time limit of the search.")] = 10.0
    client: Annotated[
        str,
        Meta(
            max_length=64, description="Who asks: a search that was asked for under the same name is ended."
        ),
    ] = ""
    document: Annotated[bool, Meta(description="Return the plan's document, too, which can be applied.")] = (
        False
    )
    workload: Annotated[
        str, Meta(max_length=320, description="Which one is asked about, where there are several.")
    ] = ""


class ServiceWhatIf(Value):
    """Another rate or SLO of a service; what is null stays."""

    rate: Annotated[float, Meta(ge=0, description="Items/s; with 0 the service is left out.")] | None = None
    latency_ms: Annotated[float, Meta(gt=0)] | None = None
    quantile: Annotated[float, Meta(gt=0, lt=1)] | None = None


class PoolWhatIf(Value):
    """Another count or price of a pool; what is null stays."""

    count: Annotated[int, Meta(ge=0)] | None = None
    price: Annotated[float, Meta(gt=0, description="Of one GPU per hour.")] | None = None


class ServiceInput(Value):
    """A service as the workload asks for it now."""

    name: str
    rate: Annotated[float, Meta(description="Items/s.")]
    latency_ms: float
    quantile: Annotated[float | None, Meta(description="Share of the queries that the SLO promises.")] = None


class PoolInput(Value):
    """A pool of GPUs as the workload has it now."""

    name: str
    model: str
    count: Annotated[int | None, Meta(description="Null where there are as many as are needed.")] = None
    price: Annotated[float | None, Meta(description="Of one GPU per hour.")] = None


class WhatIfInputs(Value):
    """`GET /api/v1/what-if?workload=NAME`: what a what-if may change, as it is now."""

    objective: Annotated[str, Meta(description="What is minimised: gpus, cost or watts.")]
    services: tuple[ServiceInput, ...]
    pools: tuple[PoolInput, ...]
    workload: Annotated[
        str, Meta(description="Whose services and pools these are; empty where there is one workload alone.")
    ] = ""
    workloads: Annotated[
        tuple[str, ...], Meta(description="All that may be asked about, where there may be several.")
    ] = ()


class WhatIfAnswer(Value):
    """What a what-if found. That the GPUs do not suffice is an answer, not an error."""

    bound: Annotated[
        float | None,
        Meta(description="No plan has a lower value of the objective; null where there is no plan."),
    ]
    plan: PlanSummary | None
    feasible: Annotated[bool, Meta(description="Whether there is a plan, as far as was searched.")]
    now: Annotated[int | None, Meta(description="GPUs of the plan that was applied.")]
    objective: Annotated[str, Meta(description="The unit of `bound`: gpus, cost (per hour) or watts.")] = (
        "gpus"
    )
    now_cost: Annotated[float | None, Meta(description="Cost per hour of the plan that was applied.")] = None
    why: Annotated[str | None, Meta(description="Why there is no plan, and what would help.")] = None
    short: Annotated[dict[str, float], Meta(description="Items/s that services would fall short.")] = field(
        default_factory=dict
    )
    binds: Annotated[dict[str, str], Meta(description="What binds each changed service.")] = field(
        default_factory=dict
    )
    command: Annotated[str, Meta(description="The same on the command line.")] = ""
    yaml: Annotated[
        str, Meta(description="The changed entries of the workload, to be written over theirs.")
    ] = ""
    seconds: float = 0.0


class WorkloadChange(Value):
    """A change of what is asked for, in the terms of a what-if."""

    workload: Annotated[
        str, Meta(max_length=320, description="Which one; on Kubernetes `namespace/name`.")
    ] = ""
    services: Annotated[dict[str, ServiceWhatIf], Meta(description="Changes by service.")] = field(
        default_factory=dict
    )
    pools: Annotated[
        dict[str, PoolWhatIf], Meta(description="Changes by pool; of a cluster, prices alone.")
    ] = field(default_factory=dict)


class Apply(Value):
    """`POST /api/v1/apply`: apply a plan, or a change; with `If-Match` of the state that it was made for."""

    plan: Annotated[
        dict[str, Any] | None,
        Meta(description="On a host: a plan's document, which is carried out as it is."),
    ] = None
    change: Annotated[
        WorkloadChange | None,
        Meta(
            description="On Kubernetes, of a Workload, which the controller then plans; on a host its plan is "
            "carried out, the one that a what-if with `document` showed for it, and the workload's file stays."
        ),
    ] = None

    def faults(self) -> Iterator[FieldFault]:
        """Yield what is wrong between the fields."""
        if (self.plan is None) == (self.change is None):
            yield FieldFault((), "what is applied is either plan or change", "give one of them")


class Accepted(Value):
    """What was begun."""

    id: str
    text: str


class Submit(Value):
    """`POST /api/v1/jobs`: submit a job, which runs as the user that `partita dash` runs as."""

    command: Annotated[tuple[str, ...], Meta(min_length=1, max_length=1000)]
    memory_bytes: Annotated[float, Meta(gt=0, description="Most that it needs.")] | None = None
    directory: Annotated[str, Meta(description="An absolute path; by default the user's home.")] | None = None
    name: Annotated[str, Meta(max_length=64)] = ""


class Fault(Value):
    """The body of every error: what, where, how to mend it."""

    error: str
    where: str | None = None
    hint: str | None = None


class GpuPage(Value):
    """`GET /api/v1/gpus?after=CURSOR&limit=N&q=TEXT`."""

    gpus: tuple[Gpu, ...]
    next: str | None = None


class ServicePage(Value):
    """`GET /api/v1/services?after=CURSOR&limit=N&q=TEXT`."""

    services: tuple[Service, ...]
    total: int
    next: str | None = None


class TransitionPage(Value):
    """`GET /api/v1/transitions?after=CURSOR&limit=N`."""

    transitions: tuple[Transition, ...]
    next: str | None = None


class JobPage(Value):
    """`GET /api/v1/jobs?after=CURSOR&limit=N&state=STATE&q=TEXT`."""

    jobs: tuple[Job, ...]
    counts: Annotated[dict[str, int], Meta(description="Jobs by state.")]
    next: str | None = None


class EventPage(Value):
    """`GET /api/v1/events?after=CURSOR&limit=N`: newest first."""

    events: tuple[Event, ...]
    next: str | None = None
