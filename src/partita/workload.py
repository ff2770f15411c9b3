"""The user's document: GPUs, services with SLOs, and the measurements to plan with.

What each field means, its unit and what it may be stands beside it; errors, the JSON schema and the documentation are
made from that. `read_workload` reads one from a file; in code, `Workload(gpus=..., services=...)` makes one and
`checked` holds it to the same rules.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec.structs import force_setattr

from partita.documents.codec import (
    DocumentKind,
    FieldFault,
    Meta,
    Value,
    addressable,
    check,
    convert,
    path_of,
    printable,
)
from partita.documents.text import parse
from partita.errors import InputError, PartitaError, nearest
from partita.files import read_text
from partita.mig.catalogue import gpu_meant, gpu_model
from partita.mig.gpu import Combination

if TYPE_CHECKING:
    from collections.abc import Iterator

    from partita.documents.codec import DocumentSource, FieldPath


QUANTILE = 0.95
"""Share of the queries that are to be in time where the SLO says none, as in PARIS and ELSA."""
LARGEST_BATCH = 1_024
"""Most items of one query."""

Positive = Annotated[float, Meta(gt=0, le=1e15)]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]


Name = Annotated[str, Meta(min_length=1, max_length=253), check(addressable)]
FileName = Annotated[str, Meta(min_length=1, max_length=253), check(printable)]
Loss = Literal["gpu", "node", "rack", "zone"]
_HISTOGRAM = "for example histogram: {1: 0.5, 8: 0.5}"


class Slo(Value):
    """The latency a service promises."""

    latency_ms: Annotated[
        Positive,
        Meta(
            description="Longest latency in milliseconds: of a query from arrival to answer where there is a "
            "quantile, else of one batch.",
            examples=[100],
        ),
    ]
    quantile: Annotated[
        Annotated[float, Meta(gt=0, lt=1)] | None,
        Meta(
            description="Share of the queries that are answered within it, waiting included, above 0 and below 1; "
            "`arrivals` says how they come. Without it, the latency is that of a batch alone, at the strictest "
            "quantile in the table, which a note names. With `arrivals: constant`, it is the quantile of a "
            "batch's latency, which the table must have.",
            examples=[0.99],
        ),
    ] = None


class GammaArrivals(Value):
    """Gaps between queries that are gamma distributed."""

    cv: Annotated[
        Annotated[float, Meta(gt=0, le=100)],
        Meta(
            description="Coefficient of variation of the gaps: 1 is Poisson, more comes in bursts.",
            examples=[3],
        ),
    ]


class ArrivalsSpec(Value):
    """How queries come, where a word does not say it: `gamma` or a `trace`."""

    gamma: Annotated[
        GammaArrivals | None,
        Meta(description="Gaps that are gamma distributed.", examples=[{"cv": 3}]),
    ] = None
    trace: Annotated[
        Name | None,
        Meta(
            description="Trace of queries, relative to this file, in a format that `partita simulate --trace` "
            "reads. Its gaps are stretched to the service's rate; of its sizes only the order is used, with a `cut`.",
            examples=["queries.csv"],
        ),
    ] = None

    def faults(self) -> Iterator[FieldFault]:
        """Yield what is wrong between the fields."""
        if (self.gamma is None) == (self.trace is None):
            yield FieldFault((), "arrivals are gamma or a trace", "for example arrivals: {gamma: {cv: 3}}")


Process = Literal["poisson", "constant"] | ArrivalsSpec
"""How queries come."""


class Batches(Value):
    """How many items queries come with: a log-normal's `median`, or a `histogram`."""

    median: Annotated[
        Positive | None,
        Meta(description="Median of log-normal batch sizes, before they are cut off.", examples=[8]),
    ] = None
    sigma: Annotated[
        Annotated[float, Meta(gt=0, le=10)] | None,
        Meta(
            description="Standard deviation of the logarithm of log-normal batch sizes; by default 0.9.",
            examples=[0.9],
        ),
    ] = None
    max: Annotated[
        Annotated[int, Meta(ge=1, le=LARGEST_BATCH)] | None,
        Meta(
            description="Largest log-normal batch size; by default the largest that was measured.",
            examples=[32],
        ),
    ] = None
    histogram: Annotated[
        Annotated[
            dict[Annotated[int, Meta(ge=1, le=LARGEST_BATCH)], Annotated[float, Meta(ge=0, le=1e15)]],
            Meta(min_length=1, extra_json_schema={"propertyNames": {"pattern": "^[1-9][0-9]*$"}}),
        ]
        | None,
        Meta(
            description="Share of the queries of each batch size; they need not add up to 1.",
            examples=[{"1": 0.5, "8": 0.5}],
        ),
    ] = None

    def __post_init__(self) -> None:
        """Order the histogram by batch size."""
        if self.histogram is not None:
            force_setattr(self, "histogram", dict(sorted(self.histogram.items())))

    def faults(self) -> Iterator[FieldFault]:
        """Yield what is wrong between the fields."""
        if self.histogram is None and self.median is None:
            yield FieldFault(
                (), "batches need a median or a histogram", "for example batches: {median: 8, max: 32}"
            )
        if self.histogram is None:
            return
        for name in ("median", "sigma", "max"):
            if getattr(self, name) is not None:
                yield FieldFault((name,), "is for log-normal batch sizes, not beside a histogram", "keep one")
        if not sum(self.histogram.values()) > 0:
            yield FieldFault(("histogram",), "all shares are 0", _HISTOGRAM)


class SurviveSpec(Value):
    """What may be lost, and how much of the rate is left then."""

    loss: Annotated[
        Loss, Meta(description="What may be lost: any one GPU, node, rack or zone.", examples=["node"])
    ]
    share: Annotated[
        Annotated[float, Meta(gt=0, le=1)],
        Meta(description="Share of the rate, headroom included, that the rest still has.", examples=[0.8]),
    ] = 1.0


class ServiceSpec(Value):
    """A model that must answer at a rate within a latency."""

    name: Annotated[Name, Meta(description="Unique name of the service.", examples=["resnet50"])]
    model: Annotated[
        Name,
        Meta(description="The model's name in the performance tables or in `models`.", examples=["resnet50"]),
    ]
    rate: Annotated[Positive, Meta(description="Required throughput in items per second.", examples=[829])]
    slo: Annotated[Slo, Meta(description="The latency it promises.", examples=[{"latency_ms": 100}])]
    arrivals: Annotated[
        Process | None,
        Meta(
            description="How queries come: `poisson`, `constant` (evenly, so that none waits: plain arithmetic), "
            "`gamma: {cv: 3}` in bursts, or `trace: FILE`. Other than for `constant`, the capacity of instances "
            "is what they hold with queries waiting, at `slo.quantile` (by default 0.95). By default poisson for "
            "services with a quantile and constant for others.",
            examples=["poisson"],
        ),
    ] = None
    headroom: Annotated[
        float,
        Meta(
            ge=0,
            le=1000,
            description="Capacity kept above the rate, as a fraction: 0.2 plans for rate x 1.2.",
            examples=[0.2],
        ),
    ] = 0.0
    min_replicas: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Fewest instances it runs on.", examples=[2])
    ] = 1
    profiles: Annotated[
        Annotated[tuple[Name, ...], Meta(min_length=1)] | None,
        Meta(
            description="Profiles it may run on, by name (`3g.40gb`) or by size (`3g`). Variants with media "
            "engines (`1g.10gb+me`) must be named. Without it, any profile that has a measurement.",
            examples=[["2g", "3g.40gb"]],
        ),
    ] = None
    pools: Annotated[
        Annotated[tuple[Name, ...], Meta(min_length=1)] | None,
        Meta(
            description="Pools of `gpus` whose GPUs it may use, by `name`, or by `model` where a pool has no name. "
            "Without it, any.",
            examples=[["on-demand"]],
        ),
    ] = None
    priority: Annotated[
        int,
        Meta(
            ge=-1_000_000,
            le=1_000_000,
            description="If not all services can be met, those of higher priority are met first.",
            examples=[10],
        ),
    ] = 0
    spread: Annotated[int, Meta(ge=1, le=1_000_000, description="Fewest nodes it runs on.", examples=[2])] = 1
    survive: Annotated[
        Literal["none", "gpu", "node", "rack", "zone"] | SurviveSpec | None,
        Meta(
            description="What may be lost: after the loss of any one `gpu`, `node`, `rack` or `zone` the rest still "
            "has the rate, or a part of it (`{loss: node, share: 0.8}`). By default what `limits` says.",
            examples=["node"],
        ),
    ] = None
    spot: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Most of its rate that may depend on `spot` GPUs, as a fraction; the rest stands on others. "
            "With 0 it uses none.",
            examples=[0.5],
        ),
    ] = 0.0
    cut: Annotated[
        Literal["search", "fluid", "paris", "homogeneous"] | None,
        Meta(
            description="Gives the service whole GPUs of its own, cut this way into slices of different sizes "
            "for queries of the sizes in `batches`. It gets the fewest GPUs that answer `slo.quantile` of the "
            "queries (by default 0.95) within the SLO, waiting included. Without it, the service shares GPUs "
            "with others.",
            examples=["search"],
        ),
    ] = None
    share: Annotated[
        bool | None,
        Meta(
            description="Whether it may share an instance with other services that say so, if it needs less than "
            "one. One process then runs the batches of all, one after another, and `slo.quantile` of its queries (by "
            "default 0.95) are answered within the SLO, waiting for the others included. Without it, "
            "`limits.share_below` decides.",
            examples=[True],
        ),
    ] = None
    batches: Annotated[
        Batches | None,
        Meta(
            description="Batch sizes of its queries; needed with `cut`.",
            examples=[{"median": 8, "sigma": 0.9, "max": 32}],
        ),
    ] = None

    promise: Annotated[
        Literal["each_size", "mix"],
        Meta(
            description="With `cut`: whether each class of batch sizes keeps the quantile (`each_size`), or only all "
            "queries together (`mix`), of which mostly the largest are then missed. Classes end at powers of two, "
            "and have a twentieth of the queries at least.",
            examples=["mix"],
        ),
    ] = "each_size"

    @property
    def process(self) -> Process:
        """How its queries come, the default filled in."""
        if self.arrivals is None:
            return "constant" if self.slo.quantile is None and self.cut is None else "poisson"
        return self.arrivals

    @property
    def waits(self) -> bool:
        """Whether its capacity counts queries that wait; services with a cut count them in their own way."""
        return self.cut is None and self.process != "constant"

    def faults(self) -> Iterator[FieldFault]:
        """Yield what is wrong between the fields."""
        if self.cut is not None and self.arrivals == "constant":
            what = "queries of a service with a cut wait for each other: constant arrivals have no meaning"
            yield FieldFault(("arrivals",), what, "write arrivals: poisson, or leave it out")
        if self.cut is not None and self.batches is None:
            yield FieldFault(("cut",), "a cut needs batches", "for example batches: {median: 8, max: 32}")
        if self.cut is None and self.promise == "mix":
            what = "a promise for the mix of sizes without a cut has no meaning"
            yield FieldFault(("promise",), what, "write cut: search, or leave out promise")
        if self.cut is None and self.batches is not None:
            what = "batches without a cut have no meaning"
            yield FieldFault(("batches",), what, "write cut: search, or leave out batches")
        if self.share and self.cut is not None:
            yield FieldFault(
                ("share",), "a service with a cut has GPUs of its own", "leave out share, or cut"
            )
        if self.share and max(self.min_replicas, self.spread) > 1:
            yield FieldFault(
                ("share",),
                "a service that shares runs on one instance",
                "leave out share, or min_replicas and spread",
            )
        if self.share and isinstance(self.arrivals, ArrivalsSpec):
            yield FieldFault(
                ("share",),
                "the wait on an instance that is shared is known for Poisson arrivals alone",
                "write arrivals: poisson, or leave out share",
            )


class PoolSpec(Value):
    """GPUs of one model."""

    model: Annotated[
        Annotated[str, check(gpu_meant)],
        Meta(description="GPU in the catalogue; `partita gpus` lists them.", examples=["a100-80gb"]),
    ]
    name: Annotated[
        Name | None,
        Meta(description="Name of the pool; by default the model's. Two pools of one model need names."),
    ] = None
    count: Annotated[
        Count | None,
        Meta(description="Number of GPUs. Without it, as many as needed.", examples=[16]),
    ] = None
    per_node: Annotated[int, Meta(ge=1, le=1_000_000, description="GPUs in one node.", examples=[8])] = 8
    nodes_per_rack: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | None,
        Meta(
            description="Nodes in one rack, one after the other; needs `count`. Needed for `survive: rack`.",
            examples=[4],
        ),
    ] = None
    zone: Annotated[
        Name | None,
        Meta(
            description="Zone of its nodes, which may be that of other pools. Needed for `survive: zone`.",
            examples=["eu-west-1a"],
        ),
    ] = None
    spot: Annotated[
        bool,
        Meta(
            description="Its GPUs may be taken away, all at once. Only services with `spot` use them.",
            examples=[True],
        ),
    ] = False
    cost_per_hour: Annotated[
        Positive | None,
        Meta(
            description="Cost of one GPU per hour, in any currency; needed for `objective: cost`.",
            examples=[2.5],
        ),
    ] = None

    def __post_init__(self) -> None:
        """Call the GPU by its name in the catalogue, where an alias was given."""
        force_setattr(self, "model", gpu_meant(self.model).name)

    @property
    def label(self) -> str:
        """The pool's name, or its GPU's where it has none."""
        return self.name or self.model


class LimitsSpec(Value):
    """What holds for all services and GPUs."""

    max_batch: Annotated[Count | None, Meta(description="Largest batch.", examples=[128])] = None
    max_processes: Annotated[
        int,
        Meta(
            ge=1,
            le=48,
            description="Most processes that share one instance through MPS, which takes 48.",
            examples=[5],
        ),
    ] = 1
    latency_factor: Annotated[
        float,
        Meta(
            gt=0,
            le=1,
            description="A batch may take at most this share of the SLO; the rest is left for queueing.",
            examples=[0.45],
        ),
    ] = 1.0
    overhead_ms: Annotated[
        float,
        Meta(
            ge=0,
            le=1e6,
            description="Milliseconds of each query's SLO that the network and the gateway take. Where queries wait, "
            "plans and the gateway's decisions leave it out of the SLO; what is promised stays the whole SLO.",
            examples=[2],
        ),
    ] = 2.0
    forbid: Annotated[
        tuple[Annotated[str, check(Combination.parse)], ...],
        Meta(
            description="Combinations that no GPU may have, by size or profile; old drivers forbid `4g+3g`.",
            examples=[["4g+3g"]],
        ),
    ] = ()
    max_services_per_gpu: Annotated[
        Count | None, Meta(description="Most services that may share one GPU.", examples=[2])
    ] = None
    survive: Annotated[
        Literal["none", "gpu", "node", "rack", "zone"] | SurviveSpec,
        Meta(
            description="What every service survives that does not say it itself, as there.",
            examples=["node"],
        ),
    ] = "none"
    share_below: Annotated[
        Annotated[float, Meta(gt=0, le=1)] | None,
        Meta(
            description="Services that keep the smallest instance they can run on busy for less than this part of "
            "the time share instances with others, unless they say `share: false`, need several instances or "
            "have a cut.",
            examples=[0.25],
        ),
    ] = None

    def overhead_of(self, service: ServiceSpec) -> float:
        """Return the milliseconds of a service's SLO that are not for waiting and running."""
        return self.overhead_ms if service.waits else 0.0

    def __post_init__(self) -> None:
        """Write combinations in one way."""
        force_setattr(self, "forbid", tuple(str(Combination.parse(each)) for each in self.forbid))


class ModelSpec(Value):
    """A model's work per item, from which performance is estimated where no table has a row."""

    name: Annotated[Name, Meta(description="The model's name, as services write it.", examples=["resnet50"])]
    gflop: Annotated[
        Positive, Meta(description="Operations per item, in 10^9 (a multiply-add is two).", examples=[8.2])
    ]
    mbytes: Annotated[
        Positive, Meta(description="Activations read and written per item, in 10^6 bytes.", examples=[60])
    ]
    weights_mb: Annotated[
        Positive, Meta(description="Size of the weights at that precision, in 10^6 bytes.", examples=[102])
    ]
    precision: Annotated[
        Literal["fp32", "tf32", "fp16", "int8"],
        Meta(description="Arithmetic it runs in.", examples=["fp16"]),
    ] = "tf32"
    kernels: Annotated[
        Count, Meta(description="Kernels launched per batch, about one per operator.", examples=[174])
    ] = 174
    live_mb: Annotated[
        Positive | None,
        Meta(
            description="Most activations alive at once per item, in 10^6 bytes; by default a twentieth of "
            "`mbytes`."
        ),
    ] = None


class Workload(Value):
    """What to plan for: GPUs, services with SLOs, and the measurements to plan with."""

    gpus: Annotated[
        tuple[PoolSpec, ...],
        Meta(min_length=1, description="Pools of GPUs.", examples=[[{"model": "a100-80gb", "count": 16}]]),
    ]
    services: Annotated[
        tuple[ServiceSpec, ...],
        Meta(
            min_length=1,
            description="Services to place.",
            examples=[[{"name": "resnet50", "model": "resnet50", "rate": 829, "slo": {"latency_ms": 100}}]],
        ),
    ]
    performance: Annotated[
        tuple[FileName, ...],
        Meta(
            description="Performance tables, CSV or Parquet, relative to this file.", examples=[["perf.csv"]]
        ),
    ] = ()
    limits: Annotated[LimitsSpec, Meta(description="Limits that hold everywhere; all are optional.")] = (
        LimitsSpec()
    )
    models: Annotated[
        tuple[ModelSpec, ...],
        Meta(description="Work of models without measurements, from which their performance is estimated."),
    ] = ()
    objective: Annotated[
        Literal["gpus", "cost", "watts"],
        Meta(description="What to minimise: GPUs, cost per hour, or watts (where tables have power)."),
    ] = "gpus"

    def faults(self) -> Iterator[FieldFault]:
        """Yield what is wrong between the fields."""
        yield from _repeated("services", [service.name for service in self.services], "service")
        yield from _repeated("models", [model.name for model in self.models], "model")
        yield from _repeated("gpus", [pool.label for pool in self.gpus], "pool")
        yield from _unknown_profiles(self)
        yield from _unknown_pools(self)
        yield from _without_cost(self)
        yield from _unknown_domains(self)
        for index, service in enumerate(self.services):
            if service.slo.latency_ms <= self.limits.overhead_of(service):
                way = f"the {self.limits.overhead_ms:g} ms that the network and the gateway take"
                what = f"{service.slo.latency_ms:g} ms is not more than limits.overhead_ms, {way}"
                hint = "raise it, or write limits: {overhead_ms: 0.5} where clients are near"
                yield FieldFault(("services", index, "slo", "latency_ms"), what, hint)
            if service.cut is not None and self.objective == "watts":
                what = "objective watts is not for services with a cut: how busy a slice is decides its power"
                yield FieldFault(("services", index, "cut"), what, "write objective: gpus, or leave out cut")
        yield from _share_with(self)


def survived(service: ServiceSpec, limits: LimitsSpec) -> tuple[Loss | None, float]:
    """Return what a service survives, None for no loss, and the share of its rate that is left then."""
    spec = limits.survive if service.survive is None else service.survive
    if isinstance(spec, SurviveSpec):
        return spec.loss, spec.share
    return (None if spec == "none" else spec), 1.0


def may_share(service: ServiceSpec, limits: LimitsSpec) -> bool:
    """Say whether a service is to share an instance where it needs less than one: it, or the workload, says so."""
    asked = limits.share_below is not None if service.share is None else service.share
    several = max(service.min_replicas, service.spread) > 1 or survived(service, limits)[0] is not None
    bursts = isinstance(service.arrivals, ArrivalsSpec)
    return asked and service.cut is None and not several and not bursts and not 0 < service.spot < 1


def may_use(service: ServiceSpec, pool: PoolSpec) -> bool:
    """Say whether a service may use a pool: one of its `pools`, and no spot GPUs unless it says `spot`."""
    return (service.pools is None or pool.label in service.pools) and (service.spot > 0 or not pool.spot)


def _unknown_domains(workload: Workload) -> Iterator[FieldFault]:
    """Yield faults of pools that do not say their racks or zones, and of services that have neither to lose."""
    for index, pool in enumerate(workload.gpus):
        if pool.nodes_per_rack is not None and pool.count is None:
            what = "racks of a pool without a count are not known"
            yield FieldFault(("gpus", index, "nodes_per_rack"), what, "write `count`, or leave it out")
    needs: dict[str | None, str] = {"rack": "nodes_per_rack", "zone": "zone"}
    for index, service in enumerate(workload.services):
        loss, _ = survived(service, workload.limits)
        path = ("limits", "survive") if service.survive is None else ("services", index, "survive")
        if loss is not None and service.cut is not None:
            what = f"service {service.name} has a cut, and a service with a cut survives no loss"
            yield FieldFault(path, what, "write survive: none for it, or leave out cut")
        elif loss not in {None, "zone"} and any(each.cut is not None for each in workload.services):
            what = f"{service.name} survives the loss of a {loss}, and another service has a cut"
            yield FieldFault(path, what, "plan the services with a cut in a workload of their own")
        if service.cut is not None and service.spot:
            what = "spot is not for services with a cut"
            yield FieldFault(("services", index, "spot"), what, "leave out spot, or leave out cut")
        lacking = [
            pool.label
            for pool in workload.gpus
            if loss in needs and getattr(pool, needs[loss]) is None and may_use(service, pool)
        ]
        if lacking:
            what = f"the {loss} of the GPUs of {lacking[0]} is not known, and {service.name} may use them"
            hint = f"give the pool its `{needs[loss]}`, or leave it out of the service's `pools`"
            yield FieldFault(path, what, hint)


def _repeated(name: str, names: list[str], kind: str) -> Iterator[FieldFault]:
    if len(set(names)) == len(names):
        return
    first: dict[str, int] = {}
    for index, each in enumerate(names):
        earlier = first.setdefault(each, index)
        if earlier != index:
            hint = "give each pool a name" if kind == "pool" else f"give each {kind} a name of its own"
            yield FieldFault((name, index), f"{kind} {each!r} is there already", hint, (name, earlier))


def _unknown_profiles(workload: Workload) -> Iterator[FieldFault]:
    profiles = [profile for pool in workload.gpus for profile in gpu_model(pool.model).profiles]
    known = {profile.name: None for profile in profiles} | {profile.size: None for profile in profiles}
    for index, service in enumerate(workload.services):
        for at, name in enumerate(service.profiles or ()):
            if name not in known:
                close = nearest(name, list(known))
                hint = f"did you mean {close}?" if close else f"there are {', '.join(known)}"
                yield FieldFault(
                    ("services", index, "profiles", at), f"no GPU of this workload has profile {name!r}", hint
                )


def _unknown_pools(workload: Workload) -> Iterator[FieldFault]:
    known = [pool.label for pool in workload.gpus]
    for index, service in enumerate(workload.services):
        for at, name in enumerate(service.pools or ()):
            if name not in known:
                close = nearest(name, known)
                named = [pool.label for pool in workload.gpus if pool.model == name]
                hint = f"did you mean {close}?" if close else f"`gpus` has {', '.join(known)}"
                hint = f"the pools of {name} are named {', '.join(named)}" if named else hint
                yield FieldFault(("services", index, "pools", at), f"there is no pool {name!r}", hint)


def _without_cost(workload: Workload) -> Iterator[FieldFault]:
    for index, pool in enumerate(workload.gpus):
        if workload.objective == "cost" and pool.cost_per_hour is None:
            yield FieldFault(
                ("gpus", index), "objective cost needs cost_per_hour", "for example cost_per_hour: 2.5"
            )


def _share_with(workload: Workload) -> Iterator[FieldFault]:
    asked: list[tuple[str | int, ...]] = [
        ("services", index, "share") for index, service in enumerate(workload.services) if service.share
    ]
    if workload.limits.share_below is not None:
        asked.append(("limits", "share_below"))
    if not asked:
        return
    for index, service in enumerate(workload.services):
        if service.share and survived(service, workload.limits)[0] is not None:
            yield FieldFault(
                ("services", index, "share"),
                "a service that shares runs on one instance, and survives no loss",
                "leave out share, or write survive: none for it",
            )
        if service.share and 0 < service.spot < 1:
            yield FieldFault(
                ("services", index, "share"),
                "a service that shares runs on one instance, which is spot or not",
                "leave out share, or write spot: 0 or 1",
            )
    if workload.objective == "watts":
        what = "objective watts is not for services that share: how busy an instance is decides its power"
        yield FieldFault(asked[0], what, "write objective: gpus, or let no service share")
    if workload.limits.max_services_per_gpu is not None:
        yield FieldFault(
            asked[0],
            "services that share an instance are several on a GPU, which max_services_per_gpu limits",
            "leave out one of them",
        )


def _absent_files(workload: Workload, folder: Path) -> Iterator[FieldFault]:
    named: list[tuple[FieldPath, str, str]] = [
        (("performance", index), name, "tables") for index, name in enumerate(workload.performance)
    ]
    for index, service in enumerate(workload.services):
        if isinstance(service.arrivals, ArrivalsSpec) and service.arrivals.trace is not None:
            named.append((("services", index, "arrivals", "trace"), service.arrivals.trace, "traces"))
    for field, name, kind in named:
        path = folder / name
        if not path.is_file():
            what = f"{path} is a directory, not a file" if path.is_dir() else f"there is no file {path}"
            yield FieldFault(field, what, f"{kind} are named relative to the workload's folder")


def _without_performance(workload: Workload) -> Iterator[FieldFault]:
    if not workload.performance and not workload.models:
        yield FieldFault(
            (),
            "no performance table and no models",
            "name tables, as in performance: [perf.csv], or give models for an estimate",
        )


WORKLOAD = DocumentKind(
    "Workload",
    Workload,
    "start with apiVersion: partita/v1 and kind: Workload; `partita schema` prints all fields",
)


def read_workload(path: Path | str) -> Workload:
    """Read a workload from YAML or JSON; `-` reads stdin.

    Paths of performance tables and traces come back relative to where the command runs, not to the workload's folder.

    Raises:
        InputError: all that is wrong, up to ten faults with `file:line`, the field's path and a hint.
    """
    data, source = _parsed(path)
    if isinstance(data, dict) and "mig-configs" in data:
        raise InputError(
            "this is a mig-parted config, not a workload",
            where=f"{source.name}:1",
            hint=f"it says how GPUs are cut: `partita import mig-parted {source.name} --out layouts.json`",
        )
    workload = convert(data, WORKLOAD, source)
    folder = Path() if str(path) == "-" else Path(path).parent
    faults = [*_without_performance(workload), *_absent_files(workload, folder)]
    if faults:
        raise source.refusal(faults)
    services = tuple(_with_trace_in(folder, service) for service in workload.services)
    tables = tuple(str(folder / table) for table in workload.performance)
    return workload.replace(performance=tables, services=services)


def _with_trace_in(folder: Path, service: ServiceSpec) -> ServiceSpec:
    if not isinstance(service.arrivals, ArrivalsSpec) or service.arrivals.trace is None:
        return service
    return service.replace(arrivals=ArrivalsSpec(trace=str(folder / service.arrivals.trace)))


@contextmanager
def locating(path: Path | str | None) -> Iterator[None]:
    """Turn a field's path in an error of the block, such as `services[3].slo`, into `file:line`.

    The errors of a workload that is of no file, `path` None, stay as they are.
    """
    try:
        yield
    except PartitaError as error:
        field = path_of(error.where or "")
        if path is not None and field and field[0] in Workload.__struct_fields__:
            error.what = f"{error.where}: {error.what}"
            error.where = _name(path)
            if str(path) != "-":
                _, source = _parsed(path)
                error.where += f":{source.lines([field])[field]}"
        raise


def _parsed(path: Path | str) -> tuple[Any, DocumentSource]:
    return parse(read_text(path), _name(path))


def _name(path: Path | str) -> str:
    return "<stdin>" if str(path) == "-" else str(path)
