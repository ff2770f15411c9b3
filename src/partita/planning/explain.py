"""Why a plan is as it is: what binds each service, what a change would do, and the next best point."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from partita.perf.operating_point import OperatingPoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from partita.perf.operating_point import Limits
    from partita.perf.table import Measurement
    from partita.planning.plan import Plan


class Binds(StrEnum):
    """What keeps a service from more throughput on a profile."""

    LATENCY = "latency"
    MEMORY = "memory"
    LIMITS = "limits"
    RATE = "rate"


@dataclass(frozen=True, slots=True)
class Binding:
    """What binds a service on one profile.

    Attributes:
        point: how it runs there; None where it cannot.
        instances: how many of its instances the plan has there.
        binds: latency (a faster batch misses the SLO), memory (the next batch did not run), limits (the
            workload's own `max_batch` or `max_processes`), rate (nothing measured is faster).
        better: the fastest row that what binds rules out; None where nothing measured is faster.
        next_best: the second-best point within the limits; None if there is one only.
    """

    profile: str
    point: OperatingPoint | None
    instances: int
    binds: Binds
    better: Measurement | None
    next_best: Measurement | None


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What a change of one service alone would do to the objective; None where no plan was found."""

    change: str
    objective: float | None


def bindings(
    plan: Plan, service: str, gpu: str, rows: Sequence[Measurement], limits: Limits
) -> list[Binding]:
    """Return what binds a service on each profile of a GPU that a table has rows of, or the plan uses.

    Args:
        plan: counts the instances.
        service: its name.
        gpu: the GPU's name in the catalogue.
        rows: the model's measurements on that GPU, at the quantile that counts.
        limits: what the service's operating points must keep to.
    """
    profiles = list(dict.fromkeys(row.profile for row in rows))
    largest = max((row.batch for row in rows), default=0)
    return [
        _binding(
            profile,
            [row for row in rows if row.profile == profile],
            limits,
            largest,
            _instances(plan, service, gpu, profile),
        )
        for profile in profiles
    ]


def _instances(plan: Plan, service: str, gpu: str, profile: str) -> int:
    return sum(
        1
        for each in plan.gpus
        if each.model == gpu
        for instance in each.instances
        if instance.service == service and instance.placement.profile == profile
    )


def _binding(
    profile: str, rows: Sequence[Measurement], limits: Limits, largest: int, instances: int
) -> Binding:
    ranked = sorted(rows, key=lambda row: (row.throughput, -row.latency_ms), reverse=True)
    within = [row for row in ranked if limits.allow(row)]
    best = within[0] if within else None
    faster = [row for row in ranked if best is None or row.throughput > best.throughput]
    late = [row for row in faster if row.latency_ms > limits.latency_ms and _keeps_counts(row, limits)]
    return Binding(
        profile=profile,
        point=OperatingPoint.of(best) if best else None,
        instances=instances,
        binds=_binds(best, late, faster, largest, rows),
        better=next(iter(late or faster), None),
        next_best=within[1] if len(within) > 1 else None,
    )


def _keeps_counts(row: Measurement, limits: Limits) -> bool:
    return row.processes <= limits.max_processes and (
        limits.max_batch is None or row.batch <= limits.max_batch
    )


def _binds(
    best: Measurement | None,
    late: Sequence[Measurement],
    faster: Sequence[Measurement],
    largest: int,
    rows: Iterable[Measurement],
) -> Binds:
    if late or best is None:
        return Binds.LATENCY
    if faster:
        return Binds.LIMITS
    ran = max(row.batch for row in rows)
    return Binds.MEMORY if best.batch == ran < largest else Binds.RATE


class Replan(Protocol):
    """Plans the workload again with one service changed."""

    def __call__(self, service: str, *, rate: float, latency: float) -> float | None:
        """Return the objective with the service's rate and SLO multiplied; None if no plan was found."""
        ...


def sensitivities(service: str, replan: Replan) -> list[Sensitivity]:
    """Return what 10 % more rate and a 20 % looser SLO of one service would do to the objective."""
    return [
        Sensitivity("rate +10 %", replan(service, rate=1.1, latency=1.0)),
        Sensitivity("SLO +20 %", replan(service, rate=1.0, latency=1.2)),
    ]
