"""What a table gives for a model: its operating point on each profile, and how its throughput grows with slices."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from math import log
from statistics import NormalDist, median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from partita.mig.gpu import GpuModel
    from partita.perf.table import Measurement


@dataclass(frozen=True, slots=True)
class Tenant:
    """One of the services that share an instance, and how it is run there.

    Attributes:
        throughput: items/s that the instance reserves for it. Tenants that differ in nothing else are run alike, so
            comparisons leave it out.
        latency_ms: latency of one of its batches when nothing else runs, in milliseconds.
        memory_mb: memory of its weights and workspace, in MB; the CUDA context of the process comes once for all.
        estimated: whether a formula made these figures.
    """

    service: str
    model: str
    batch: int
    throughput: float = field(compare=False)
    latency_ms: float
    memory_mb: float
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A profile, batch and process count, and the throughput and latency that they give.

    Attributes:
        throughput: items/s of one instance.
        latency_ms: latency of one batch in milliseconds, at `quantile`.
        quantile: `mean` or a number such as `0.9`, as text.
        power_w: power of one instance in watts; None where not measured.
        memory_mb: memory used in MB; None where not measured.
        estimated: made by a formula, not measured.
        tenants: the services that share the instance, run by one process one batch after another; empty where it
            runs one service alone. `throughput` is then that of its slowest tenant alone, `latency_ms` the longest.
    """

    profile: str
    batch: int
    processes: int
    throughput: float
    latency_ms: float
    quantile: str
    power_w: float | None = None
    memory_mb: float | None = None
    estimated: bool = False
    tenants: tuple[Tenant, ...] = ()

    @classmethod
    def of(cls, row: Measurement) -> OperatingPoint:
        """Return the point that a measurement describes."""
        return cls(
            profile=row.profile,
            batch=row.batch,
            processes=row.processes,
            throughput=row.throughput,
            latency_ms=row.latency_ms,
            quantile=row.quantile,
            power_w=row.power_w,
            memory_mb=row.memory_mb,
            estimated=row.estimated,
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """What an operating point must keep to.

    Attributes:
        latency_ms: the latency of one batch may be at most this, any safety factor included.
        quantile: which latency counts, as text; None takes what the table has, the strictest first.
        max_batch: largest batch.
        max_processes: most processes that share one instance.
    """

    latency_ms: float
    quantile: str | None = None
    max_batch: int | None = None
    max_processes: int = 1

    def allow(self, row: Measurement) -> bool:
        """Return whether a measurement keeps the limits other than its quantile."""
        return (
            row.latency_ms <= self.latency_ms
            and row.processes <= self.max_processes
            and (self.max_batch is None or row.batch <= self.max_batch)
        )


def operating_points(rows: Iterable[Measurement], limits: Limits) -> dict[str, OperatingPoint]:
    """Return the operating point on each profile that has one.

    The one of largest throughput whose latency keeps the limit; of equal ones the lowest latency, then the
    fewest processes (MIG-Serving, section 5, with processes as in Jormungandr). Nothing is assumed about how
    throughput grows with batch or slices: public tables break every such rule.

    Args:
        rows: measurements of one model on one GPU.
        limits: what the point must keep to.
    """
    best: dict[str, Measurement] = {}
    for row in _of_quantile(tuple(rows), limits.quantile):
        if limits.allow(row) and (row.profile not in best or _rank(row) > _rank(best[row.profile])):
            best[row.profile] = row
    return {profile: OperatingPoint.of(row) for profile, row in best.items()}


def _of_quantile(rows: tuple[Measurement, ...], quantile: str | None) -> tuple[Measurement, ...]:
    if quantile is None:
        quantile = strictest({row.quantile for row in rows})
    return tuple(row for row in rows if row.quantile == quantile)


def strictest(quantiles: Iterable[str]) -> str | None:
    """Return the highest quantile of a table; `mean` is the weakest, None if there are none."""
    return max(quantiles, key=lambda q: -1.0 if q == "mean" else float(q), default=None)


JITTER = 0.05
"""Standard deviation of the logarithm of a batch's seconds where the table has nothing but means."""


def batch_times(rows: Sequence[Measurement], asked: float | None) -> tuple[tuple[Measurement, ...], float]:
    """Return the rows whose latencies are the batch times to plan with where queries wait, and how batches vary.

    Means are preferred: where the same cells have a quantile too, it says how batches vary around them; where they
    have none, batches vary by `JITTER`. Of quantiles alone, the one asked for stands for every batch, or else the
    strictest; if that is below the one asked for, batches vary by `JITTER` around it.

    Args:
        rows: of one model on one GPU.
        asked: share of the queries that must be in time; None for no particular one.

    Returns:
        The rows, and the standard deviation of the logarithm of a batch's seconds.
    """
    means = tuple(row for row in rows if row.quantile == "mean")
    if not means:
        exact = next(
            (row.quantile for row in rows if asked is not None and float(row.quantile) == asked), None
        )
        taken = exact or strictest(row.quantile for row in rows)
        weaker = taken is not None and asked is not None and float(taken) < asked
        return tuple(row for row in rows if row.quantile == taken), JITTER if weaker else 0.0
    mean = {(row.profile, row.batch, row.processes): row.latency_ms for row in means}
    spreads = [
        max(0.0, log(row.latency_ms / mean[cell])) / NormalDist().inv_cdf(float(row.quantile))
        for row in rows
        if row.quantile != "mean"
        and float(row.quantile) > 0.5
        and (cell := (row.profile, row.batch, row.processes)) in mean
    ]
    return means, median(spreads) if spreads else JITTER


def _rank(row: Measurement) -> tuple[float, float, int, int]:
    return row.throughput, -row.latency_ms, -row.processes, -row.batch


class ThroughputGrowth(StrEnum):
    """Whether a whole GPU gives less than, as much as or more than its slices would."""

    SUB_LINEAR = "sub-linear"
    LINEAR = "linear"
    SUPER_LINEAR = "super-linear"


@dataclass(frozen=True, slots=True)
class ModelClass:
    """A model's class at one batch, and the ratio that decides it.

    Attributes:
        ratio: throughput of the whole GPU over that of the smallest profile that runs, per compute slice.
        smallest: that profile's name.
    """

    growth: ThroughputGrowth
    ratio: float
    smallest: str


def model_classes(rows: Iterable[Measurement], gpu: GpuModel) -> dict[int, ModelClass]:
    """Return the class at each batch that ran on the whole GPU and on a smaller profile, with one process.

    Linear is a ratio of 6.5 to 7.5 on a GPU of 7 compute slices (MIG-Serving, arXiv 2109.11067, figure 4).
    The bounds scale with the slices, so on an A30 of 4 they are 26/7 and 30/7.

    Args:
        rows: measurements of one model on this GPU.
        gpu: the GPU.
    """
    compute = {profile.name: (profile.compute, profile.memory) for profile in gpu.profiles}
    best: dict[int, dict[str, float]] = {}
    for row in rows:
        if row.processes == 1:
            found = best.setdefault(row.batch, {})
            found[row.profile] = max(row.throughput, found.get(row.profile, 0.0))
    classes = {}
    for batch, throughput in sorted(best.items()):
        smallest = min(throughput, key=lambda name: compute[name])
        largest = max(throughput, key=lambda name: compute[name])
        slices = compute[smallest][0]
        if compute[largest][0] == gpu.compute_slices > slices:
            ratio = throughput[largest] / (throughput[smallest] / slices)
            classes[batch] = ModelClass(_growth(ratio, gpu.compute_slices), ratio, smallest)
    return classes


def _growth(ratio: float, slices: int) -> ThroughputGrowth:
    if ratio < 6.5 / 7 * slices:
        return ThroughputGrowth.SUB_LINEAR
    return ThroughputGrowth.LINEAR if ratio <= 7.5 / 7 * slices else ThroughputGrowth.SUPER_LINEAR
