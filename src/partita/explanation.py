"""Why a plan is as it is: what binds each service, what a change would do, and the next best operating point."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from partita.deadline import Deadline
from partita.errors import PartitaError
from partita.perf.operating_point import OperatingPoint
from partita.planner import plan, prepare
from partita.serve.reserving.services import slices_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from partita.perf.operating_point import Limits
    from partita.perf.table import Measurement
    from partita.planner import PreparedWorkload
    from partita.planning.plan import Plan, WorstLoss
    from partita.planning.problem import Problem
    from partita.serve.reserving.services import SliceOf
    from partita.workload import ServiceSpec

_SECONDS = 5.0
"""Most seconds of search for the plan that a change would make."""


@dataclass(frozen=True, slots=True)
class ServiceExplanation:
    """What is to be said of one service in a plan.

    Attributes:
        gpus: what binds it on each profile, by the GPU's name.
        slices: of a service with a cut, in the place of `gpus`: what each of its slices answers; else None.
        loss: the loss that leaves it the least; None if it need not survive any.
        changes: what a change of this service alone would do to the objective.
        shared: the instance that it shares with other services; None where it shares none.
    """

    service: ServiceSpec
    changes: Sequence[Sensitivity]
    gpus: Mapping[str, Sequence[Binding]] = field(default_factory=dict)
    slices: Sequence[SliceOf] | None = None
    loss: WorstLoss | None = None
    shared: SharedBy | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        spec = self.service
        found: dict[str, Any] = {"service": spec.name, "pools": spec.pools}
        if self.slices is not None:
            found |= {"cut": spec.cut, "slices": [asdict(each) for each in self.slices]}
        else:
            found["gpus"] = {gpu: [asdict(each) for each in bound] for gpu, bound in self.gpus.items()}
        if self.loss is not None:
            found["loss"] = asdict(self.loss)
        if self.shared is not None:
            found["shared"] = asdict(self.shared)
        return {**found, "changes": [asdict(each) for each in self.changes]}


@dataclass(frozen=True, slots=True)
class SharedBy:
    """An instance that several services share.

    Attributes:
        gpu: its GPU's id.
        placement: of the instance.
        others: the other services.
        memory_mb: of all their models, beside the CUDA context.
        busy: share of the time that they keep the instance busy.
    """

    gpu: str
    placement: str
    others: tuple[str, ...]
    memory_mb: float
    busy: float


class Binds(StrEnum):
    """What keeps a service from more throughput on a profile."""

    LATENCY = "latency"
    MEMORY = "memory"
    LIMITS = "limits"
    WAITING = "waiting"
    RATE = "rate"


@dataclass(frozen=True, slots=True)
class Binding:
    """What binds a service on one profile.

    Attributes:
        point: how it runs there; None where it cannot.
        instances: how many of its instances the plan has there.
        binds: latency (a faster batch misses the SLO), waiting (a faster batch keeps it, but too many of the queries
            that wait for its end do not), memory (the next batch did not run), limits (the workload's own
            `max_batch` or `max_processes`), rate (nothing measured is faster).
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
    """What a change of one service alone would do.

    Attributes:
        objective: the best value found; None where no plan was found.
        proven: whether nothing better exists; False where the search ran out of time.
    """

    change: str
    objective: float | None
    proven: bool


def explain_service(prepared: PreparedWorkload, made: Plan, spec: ServiceSpec) -> ServiceExplanation:
    """Explain one service of a plan. The changes are planned anew, a few seconds each at most."""
    slower = spec.slo.replace(latency_ms=spec.slo.latency_ms * 1.2)
    changes = [
        _sensitivity("rate +10 %", prepared, spec.replace(rate=spec.rate * 1.1)),
        _sensitivity("SLO +20 %", prepared, spec.replace(slo=slower)),
    ]
    if spec.cut is not None:
        service = next(each for each in prepared.cuts if each.spec.name == spec.name)
        return ServiceExplanation(spec, changes, slices=slices_of(made, service, prepared.problem.pools))
    by_gpu = what_binds(prepared, made, spec)
    if spec.waits:
        constant = spec.replace(arrivals="constant", slo=spec.slo.replace(quantile=None))
        changes.append(_sensitivity("arrivals: constant", prepared, constant))
    loss = next((each.loss for each in made.services if each.name == spec.name), None)
    if loss is not None:
        changes.append(_sensitivity("survive: none", prepared, spec.replace(survive="none")))
    return ServiceExplanation(spec, changes, by_gpu, loss=loss, shared=_shared_by(made, spec.name))


def what_binds(
    prepared: PreparedWorkload, made: Plan | None, spec: ServiceSpec
) -> dict[str, Sequence[Binding]]:
    """Return what binds a service without a cut on each profile, by the name of the GPU.

    Args:
        prepared: the workload.
        made: its plan; None for no plan, so that there are no instances.
        spec: the service.
    """
    measured = prepared.formulation.measured
    open_to = {
        pool.model for pool in prepared.workload.gpus if spec.pools is None or pool.label in spec.pools
    }
    by_gpu: dict[str, Sequence[Binding]] = {}
    for gpu in (each for each in measured.gpus if each.name in open_to):
        limits = measured.point_limits(spec, gpu.name)
        if limits is not None:
            rows = [row for row in measured.of(spec.model, gpu.name) if row.quantile == limits.quantile]
            chosen = _chosen(prepared.problem, spec.name, gpu.name) if spec.waits else None
            instances = Counter[str]() if made is None else _instances(made, spec.name, gpu.name)
            by_gpu[gpu.name] = _bindings(instances, rows, limits, chosen)
    return by_gpu


def _shared_by(plan: Plan, service: str) -> SharedBy | None:
    """Return the instance that a service shares with others, None if it shares none."""
    for gpu in plan.gpus:
        for instance in gpu.instances:
            tenants = instance.point.tenants
            if any(each.service == service for each in tenants):
                return SharedBy(
                    gpu.id,
                    str(instance.placement),
                    tuple(each.service for each in tenants if each.service != service),
                    sum(each.memory_mb for each in tenants),
                    sum(each.throughput * each.latency_ms / 1000 for each in tenants),
                )
    return None


def _sensitivity(change: str, prepared: PreparedWorkload, changed: ServiceSpec) -> Sensitivity:
    """Plan anew with one service changed."""
    workload = prepared.workload
    services = tuple(changed if each.name == changed.name else each for each in workload.services)
    try:
        asked = prepare(workload.replace(services=services), prepared.table, prepared.path)
        found = plan(asked, deadline=Deadline(_SECONDS), compare=False).plan.objective
    except PartitaError:
        return Sensitivity(change, None, proven=False)
    return Sensitivity(change, found.value, found.proven)


def _chosen(problem: Problem, name: str, gpu: str) -> dict[str, OperatingPoint]:
    """Return how a service would run on each profile of a GPU."""
    service = next(each for each in problem.services if each.name == name)
    return {
        size.profile: point
        for size, point in zip(problem.sizes, service.points, strict=True)
        if point is not None and problem.pools[size.pool].gpu.name == gpu
    }


def _instances(plan: Plan, service: str, gpu: str) -> Counter[str]:
    """Return how many instances a service has on each profile of a GPU."""
    return Counter(
        instance.placement.profile
        for each in plan.gpus
        if each.model == gpu
        for instance in each.instances
        if any(name == service for name, _ in instance.serves)
    )


def _bindings(
    instances: Counter[str],
    rows: Sequence[Measurement],
    limits: Limits,
    chosen: Mapping[str, OperatingPoint] | None,
) -> list[Binding]:
    """Return what binds a service on each profile of a GPU that a table has rows of.

    Args:
        instances: by profile.
        rows: the model's measurements on that GPU, at the quantile that counts.
        limits: what the service's operating points must keep to.
        chosen: its operating points by profile, where waiting decides; None where the fastest row does.
    """
    largest = max((row.batch for row in rows), default=0)
    return [
        _binding(
            profile,
            [row for row in rows if row.profile == profile],
            limits,
            largest,
            instances[profile],
        )
        if chosen is None
        else _binding_with_waiting(
            profile,
            [row for row in rows if row.profile == profile],
            limits,
            chosen.get(profile),
            instances[profile],
        )
        for profile in dict.fromkeys(row.profile for row in rows)
    ]


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


def _binding_with_waiting(
    profile: str,
    rows: Sequence[Measurement],
    limits: Limits,
    point: OperatingPoint | None,
    instances: int,
) -> Binding:
    """Return what binds a service whose queries wait: a faster row within the limits makes too many of them late."""
    runs = next((r for r in rows if point and (r.batch, r.processes) == (point.batch, point.processes)), None)
    ranked = sorted(rows, key=lambda row: (row.throughput, -row.latency_ms), reverse=True)
    faster = [row for row in ranked if runs is None or row.throughput > runs.throughput]
    waiting = [row for row in faster if limits.allow(row)]
    late = [row for row in faster if row.latency_ms > limits.latency_ms and _keeps_counts(row, limits)]
    binds = Binds.WAITING if waiting else _binds(runs, late, faster, max(r.batch for r in rows), rows)
    return Binding(profile, point, instances, binds, next(iter(waiting or late or faster), None), None)


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
