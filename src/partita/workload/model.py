"""The workload's fields: what each means, its unit, and what it may be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from partita.errors import InputError
from partita.mig.catalogue import gpu_meant
from partita.mig.gpu import Combination

API_VERSION = "partita/v1"
KIND = "Workload"

# Frozen dataclasses with slots: a million services take a fifth of the memory that a million BaseModels do.
_CONFIG = ConfigDict(extra="forbid", regex_engine="rust-regex")


Positive = Annotated[float, Field(strict=True, gt=0, le=1e15, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=1, le=1_000_000_000)]


def fault(what: str, hint: str | None = None) -> PydanticCustomError:
    """Return an error that pydantic reports beside its own, with the field's path."""
    return PydanticCustomError("fault", "{what}", {"what": what, "hint": hint})


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    raise fault(f"{text!a:.40} has characters that cannot be printed")


Name = Annotated[
    str, Field(min_length=1, max_length=253, pattern=r"^[^\x00-\x1f\x7f]+$"), AfterValidator(_printable)
]


def _known_gpu(name: str) -> str:
    try:
        return gpu_meant(name).name
    except InputError as error:
        raise fault(error.what, error.hint) from None


def _combination(text: str) -> str:
    try:
        return str(Combination.parse(text))
    except InputError as error:
        raise fault(error.what, error.hint) from None


def _version(text: str) -> str:
    if text == API_VERSION:
        return text
    name, _, version = text.partition("/v")
    if name == "partita" and version.isdecimal() and int(version) > 1:
        raise fault(
            f"{text} is newer than this partita", f"update partita, or write apiVersion: {API_VERSION}"
        )
    raise fault(f"{text!r} is no version of this document", f"write apiVersion: {API_VERSION}")


@dataclass(frozen=True, slots=True, config=_CONFIG)
class Slo:
    """The latency a service promises."""

    latency_ms: Annotated[
        Positive, Field(description="Longest latency of one batch, in milliseconds.", examples=[100])
    ]
    quantile: Annotated[
        Annotated[float, Field(strict=True, gt=0, lt=1)] | None,
        Field(
            description="Share of batches that must keep it, above 0 and below 1. The performance table must "
            "have latencies at this quantile. Without it, the strictest in the table is used, and said.",
            examples=[0.99],
        ),
    ] = None


LARGEST_BATCH = 1_024
"""Most items of one query."""


def _shares(given: object) -> dict[int, float]:
    """Return the shares by batch size; keys of YAML are text."""
    if not isinstance(given, dict) or not given:
        raise fault("must be a mapping of batch sizes to shares, not empty", _HISTOGRAM)
    found = {_size(key): _weight(key, weight) for key, weight in given.items()}
    if len(found) < len(given):
        raise fault("a batch size stands here twice", "write each once, without leading zeros")
    if not sum(found.values()) > 0:
        raise fault("all shares are 0", _HISTOGRAM)
    return dict(sorted(found.items()))


_HISTOGRAM = "for example histogram: {1: 0.5, 8: 0.5}"


def _size(key: object) -> int:
    text = str(key)
    if len(text) > 9 or not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= LARGEST_BATCH:
        raise fault(f"{text!a:.40} is no batch size from 1 to {LARGEST_BATCH}", _HISTOGRAM)
    return int(text)


_SHARES = {
    "type": "object",
    "minProperties": 1,
    "propertyNames": {"pattern": "^[0-9]{1,9}$"},
    "additionalProperties": {"type": "number", "minimum": 0},
}


def _weight(key: object, weight: object) -> float:
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1e15:
        raise fault(f"the share of batch size {key} must be a number, 0 or more", _HISTOGRAM)
    return float(weight)


@dataclass(frozen=True, slots=True, config=_CONFIG)
class Batches:
    """How many items queries come with: a log-normal's `median`, or a `histogram`."""

    median: Annotated[
        Positive | None,
        Field(description="Median of log-normal batch sizes, before they are cut off.", examples=[8]),
    ] = None
    sigma: Annotated[
        Annotated[float, Field(strict=True, gt=0, le=10, allow_inf_nan=False)] | None,
        Field(
            description="Standard deviation of the logarithm of log-normal batch sizes; 0.9 where left out.",
            examples=[0.9],
        ),
    ] = None
    max: Annotated[
        Annotated[int, Field(strict=True, ge=1, le=LARGEST_BATCH)] | None,
        Field(
            description="Largest of log-normal batch sizes; the largest that was measured where left out.",
            examples=[32],
        ),
    ] = None
    histogram: Annotated[
        Annotated[dict[int, float], BeforeValidator(_shares), WithJsonSchema(_SHARES)] | None,
        Field(
            description="Share of the queries of each batch size; they need not add up to 1.",
            examples=[{"1": 0.5, "8": 0.5}],
        ),
    ] = None


@dataclass(frozen=True, slots=True, config=_CONFIG)
class ServiceSpec:
    """A model that must answer at a rate within a latency."""

    name: Annotated[Name, Field(description="Name of the service, unlike all others.", examples=["resnet50"])]
    model: Annotated[
        Name,
        Field(
            description="The model's name in the performance tables or in `models`.", examples=["resnet50"]
        ),
    ]
    rate: Annotated[Positive, Field(description="Required throughput in items per second.", examples=[829])]
    slo: Annotated[Slo, Field(description="The latency it promises.", examples=[{"latency_ms": 100}])]
    headroom: Annotated[
        float,
        Field(
            strict=True,
            ge=0,
            le=1000,
            allow_inf_nan=False,
            description="Capacity kept above the rate, as a fraction: 0.2 plans for rate x 1.2.",
            examples=[0.2],
        ),
    ] = 0.0
    min_replicas: Annotated[
        int, Field(strict=True, ge=1, le=1_000_000, description="Fewest instances it runs on.", examples=[2])
    ] = 1
    profiles: Annotated[
        Annotated[tuple[Name, ...], Field(min_length=1)] | None,
        Field(
            description="Profiles it may run on, by name (`3g.40gb`) or by size (`3g`). Variants with media "
            "engines (`1g.10gb+me`) must be named. Without it, any profile that has a measurement.",
            examples=[["2g", "3g.40gb"]],
        ),
    ] = None
    pools: Annotated[
        Annotated[tuple[Name, ...], Field(min_length=1)] | None,
        Field(
            description="Pools of `gpus` whose GPUs it may use, by `name`, or by `model` where a pool has no name. "
            "Without it, any.",
            examples=[["on-demand"]],
        ),
    ] = None
    priority: Annotated[
        int,
        Field(
            strict=True,
            ge=-1_000_000,
            le=1_000_000,
            description="Where not all can be met, higher ones are met first.",
            examples=[10],
        ),
    ] = 0
    spread: Annotated[
        int, Field(strict=True, ge=1, le=1_000_000, description="Fewest nodes it runs on.", examples=[2])
    ] = 1
    cut: Annotated[
        Literal["search", "fluid", "paris", "homogeneous"] | None,
        Field(
            description="Gives it whole GPUs of its own, cut this way into unlike slices for queries of the sizes "
            "in `batches`, and as few of them as answer `slo.quantile` of the queries (0.95 where left out) "
            "within the SLO, waiting included. Without it, it shares GPUs with other services.",
            examples=["search"],
        ),
    ] = None
    batches: Annotated[
        Batches | None,
        Field(
            description="Batch sizes of its queries; needed with `cut`.",
            examples=[{"median": 8, "sigma": 0.9, "max": 32}],
        ),
    ] = None


@dataclass(frozen=True, slots=True, config=_CONFIG)
class PoolSpec:
    """GPUs of one model."""

    model: Annotated[
        Annotated[str, AfterValidator(_known_gpu)],
        Field(description="GPU in the catalogue; `partita gpus` lists them.", examples=["a100-80gb"]),
    ]
    name: Annotated[
        Name | None,
        Field(description="Name of the pool; the model's where left out. Two pools of one model need names."),
    ] = None
    count: Annotated[
        Count | None,
        Field(description="How many GPUs there are. Without it, as many as it takes.", examples=[16]),
    ] = None
    per_node: Annotated[
        int, Field(strict=True, ge=1, le=1_000_000, description="GPUs in one node.", examples=[8])
    ] = 8
    cost_per_hour: Annotated[
        Positive | None,
        Field(
            description="Cost of one GPU per hour, in any currency; needed for `objective: cost`.",
            examples=[2.5],
        ),
    ] = None

    @property
    def label(self) -> str:
        """The pool's name, or its GPU's where it has none."""
        return self.name or self.model


@dataclass(frozen=True, slots=True, config=_CONFIG)
class LimitsSpec:
    """What holds for all services and GPUs."""

    max_batch: Annotated[Count | None, Field(description="Largest batch.", examples=[128])] = None
    max_processes: Annotated[
        int,
        Field(
            strict=True,
            ge=1,
            le=48,
            description="Most processes that share one instance through MPS, which takes 48.",
            examples=[5],
        ),
    ] = 1
    latency_factor: Annotated[
        float,
        Field(
            strict=True,
            gt=0,
            le=1,
            description="A batch may take at most this share of the SLO; the rest is left for queueing.",
            examples=[0.45],
        ),
    ] = 1.0
    forbid: Annotated[
        tuple[Annotated[str, AfterValidator(_combination)], ...],
        Field(
            description="Combinations that must not stand on one GPU, by size or profile; old drivers forbid "
            "`4g+3g`.",
            examples=[["4g+3g"]],
        ),
    ] = ()
    max_services_per_gpu: Annotated[
        Count | None, Field(description="Most services that may share one GPU.", examples=[2])
    ] = None


@dataclass(frozen=True, slots=True, config=_CONFIG)
class ModelSpec:
    """A model's work per item, from which performance is estimated where no table has a row."""

    name: Annotated[Name, Field(description="The model's name, as services write it.", examples=["resnet50"])]
    gflop: Annotated[
        Positive, Field(description="Operations per item, in 10^9 (a multiply-add is two).", examples=[8.2])
    ]
    mbytes: Annotated[
        Positive, Field(description="Activations read and written per item, in 10^6 bytes.", examples=[60])
    ]
    weights_mb: Annotated[
        Positive, Field(description="Size of the weights at that precision, in 10^6 bytes.", examples=[102])
    ]
    precision: Annotated[
        Literal["fp32", "tf32", "fp16", "int8"],
        Field(description="Arithmetic it runs in.", examples=["fp16"]),
    ] = "tf32"
    kernels: Annotated[
        Count, Field(description="Kernels launched per batch, about one per operator.", examples=[174])
    ] = 174
    live_mb: Annotated[
        Positive | None,
        Field(description="Most activations alive at once per item, in 10^6 bytes; a twentieth of `mbytes`."),
    ] = None


@dataclass(frozen=True, slots=True, config=_CONFIG)
class Workload:
    """What to plan for: GPUs, services with SLOs, and the measurements to plan with."""

    apiVersion: Annotated[  # noqa: N815 -- the document's own spelling
        Annotated[str, AfterValidator(_version)],
        Field(description=f"Version of this document: `{API_VERSION}`.", examples=[API_VERSION]),
    ]
    kind: Annotated[Literal["Workload"], Field(description="What this document is.", examples=[KIND])]
    gpus: Annotated[
        tuple[PoolSpec, ...],
        Field(min_length=1, description="Pools of GPUs.", examples=[[{"model": "a100-80gb", "count": 16}]]),
    ]
    services: Annotated[
        tuple[ServiceSpec, ...],
        Field(
            min_length=1,
            description="Services to place.",
            examples=[[{"name": "resnet50", "model": "resnet50", "rate": 829, "slo": {"latency_ms": 100}}]],
        ),
    ]
    performance: Annotated[
        tuple[Name, ...],
        Field(
            description="Performance tables, CSV or Parquet, relative to this file.", examples=[["perf.csv"]]
        ),
    ] = ()
    limits: Annotated[LimitsSpec, Field(description="Limits that hold everywhere; all are optional.")] = (
        LimitsSpec()
    )
    models: Annotated[
        tuple[ModelSpec, ...],
        Field(description="Work of models that no table has, for an estimate of their performance."),
    ] = ()
    objective: Annotated[
        Literal["gpus", "cost", "watts"],
        Field(description="What is kept smallest: GPUs, cost per hour, or watts (where tables have power)."),
    ] = "gpus"
