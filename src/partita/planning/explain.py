"""A plan summed up for reading: what each service got, and the GPUs that are cut alike."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from partita.perf.operating_point import OperatingPoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from partita.perf.operating_point import Limits
    from partita.perf.table import Measurement
    from partita.planning.plan import Instance, Plan, ServiceCapacity


# --- summed up: what each service got, and the GPUs that are cut alike

_INDEXED = re.compile(r"(.*\D)(\d+)")


@dataclass(frozen=True, slots=True)
class ServiceOverview:
    """What a service got.

    Attributes:
        spare: capacity above the asked rate, as a fraction of it; 0 where no rate is asked.
        latency_ms: the highest latency among its instances; None if it has none.
        replicas: instances by GPU model and profile, the most frequent first.
        mixed: whether the plan has GPUs of several models.
        estimated: whether one of its operating points is an estimate.
    """

    service: ServiceCapacity
    spare: float
    latency_ms: float | None
    replicas: tuple[tuple[tuple[str, str], int], ...]
    mixed: bool
    estimated: bool


@dataclass(frozen=True, slots=True)
class GpuGroup:
    """GPUs of one model, and of one pool where the plan says which, that are cut alike and run the same."""

    model: str
    instances: tuple[Instance, ...]
    pool: str = ""
    ids: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The model, and the pool where it is named otherwise."""
        return self.model if self.pool in ("", self.model) else f"{self.model} of {self.pool}"


def gpu_groups(plan: Plan) -> list[GpuGroup]:
    """Return the GPUs grouped by what they run, the largest groups first."""
    groups: dict[tuple[str, str, tuple[Instance, ...]], GpuGroup] = {}
    known: dict[
        tuple[str, str, int], GpuGroup
    ] = {}  # GPUs that share one tuple need not be compared by value
    for gpu in plan.gpus:
        key = (gpu.model, gpu.pool, id(gpu.instances))
        if key not in known:
            group = GpuGroup(gpu.model, gpu.instances, gpu.pool)
            known[key] = groups.setdefault((gpu.model, gpu.pool, gpu.instances), group)
        known[key].ids.append(gpu.id)
    return sorted(groups.values(), key=lambda group: -len(group.ids))


def service_overviews(plan: Plan, groups: Iterable[GpuGroup]) -> list[ServiceOverview]:
    """Return what each service got, in the plan's order.

    Args:
        plan: the plan.
        groups: its GPUs, as `gpu_groups` returns them.
    """
    replicas: dict[str, Counter[tuple[str, str]]] = {service.name: Counter() for service in plan.services}
    latency: dict[str, float] = {}
    estimated: set[str] = set()
    groups = list(groups)
    mixed = len({group.model for group in groups}) > 1
    for group in groups:
        for instance in group.instances:
            name, point = instance.service, instance.point
            replicas.setdefault(name, Counter())[group.model, instance.placement.profile] += len(group.ids)
            latency[name] = max(latency.get(name, 0.0), point.latency_ms)
            if point.estimated:
                estimated.add(name)
    return [
        ServiceOverview(
            service,
            service.capacity / service.rate - 1 if service.rate else 0.0,
            latency.get(service.name),
            tuple(replicas[service.name].most_common()),
            mixed,
            service.name in estimated,
        )
        for service in plan.services
    ]


def replicas_text(each: ServiceOverview, times: str) -> str:
    """Return a service's instances in words, GPU by GPU where the plan has several models of them.

    Args:
        each: what the service got.
        times: the sign for "times".
    """
    by_gpu: dict[str, list[str]] = {}
    for (model, profile), n in each.replicas:
        by_gpu.setdefault(model, []).append(f"{n:,}{times}{profile}")
    if not each.mixed:
        return ", ".join(text for texts in by_gpu.values() for text in texts) or "none"
    return "; ".join(f"{model}: {', '.join(texts)}" for model, texts in by_gpu.items()) or "none"


def id_ranges(ids: Iterable[str]) -> list[str]:
    """Return ids with neighbours joined: `node-0/gpu-0..3` for four of them."""
    ranges: list[tuple[str, int, int] | str] = []
    for gpu_id in ids:
        found = _INDEXED.fullmatch(gpu_id)
        if not found:
            ranges.append(gpu_id)
            continue
        prefix, index = found[1], int(found[2])
        last = ranges[-1] if ranges else ""
        if isinstance(last, tuple) and (last[0], last[2] + 1) == (prefix, index):
            ranges[-1] = (prefix, last[1], index)
        else:
            ranges.append((prefix, index, index))
    return [_range_text(each) for each in ranges]


def _range_text(found: tuple[str, int, int] | str) -> str:
    if isinstance(found, str):
        return found
    prefix, first, last = found
    return f"{prefix}{first}" if first == last else f"{prefix}{first}..{last}"


def verdict(plan: Plan) -> str:
    """Return in words how good the plan is: `proven optimal (bound 12)` or `gap 0.4 % (bound 1,250)`."""
    bound = f"bound {number(plan.objective.lower_bound)}"
    if plan.objective.proven:
        return f"proven optimal ({bound})"
    return f"gap {plan.objective.gap * 100:.2g} % ({bound})"


def amount(plan: Plan) -> str:
    """Return what the plan takes in words: `12 GPUs`, with cost or watts if those were minimised."""
    gpus = f"{len(plan.gpus):,} GPU{'' if len(plan.gpus) == 1 else 's'}"
    models = Counter(gpu.model for gpu in plan.gpus)
    if len(models) > 1:
        gpus += f" ({', '.join(f'{n:,} {model}' for model, n in models.most_common())})"
    value = number(plan.objective.value)
    return {"cost": f"{gpus} at {value} per hour", "watts": f"{gpus} at {value} W"}.get(
        plan.objective.name, gpus
    )


def number(value: float) -> str:
    """Return a whole number in full, another with the digits that matter."""
    value = round(value, 6)
    return f"{value:z,.0f}" if value == int(value) else f"{value:z,.2f}"


# --- explained: what binds each service, what a change would do, and the next best point


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
