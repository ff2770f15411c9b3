"""From a workload and performance tables to a planning problem."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from partita.deadline import Deadline
from partita.errors import InfeasibleError, InputError, nearest
from partita.mig.catalogue import gpu_model
from partita.perf.estimate import ModelWork, estimate_table
from partita.perf.operating_point import Limits, OperatingPoint, batch_times, operating_points, strictest
from partita.planning.problem import Pool, Problem, Service, Size
from partita.workload import QUANTILE, may_share, may_use, survived

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from partita.mig.gpu import GpuModel, Profile
    from partita.perf.table import Measurement, PerfTable
    from partita.workload import LimitsSpec, ModelSpec, ServiceSpec, Workload


Points = dict[tuple[str, str], OperatingPoint]
"""Operating points by GPU and profile."""


MOST_GPUS = 1_000_000
"""A rate that needs more GPUs than this is refused: a plan names each GPU."""


class Capacities(Protocol):
    """What instances hold where queries wait (`serve.waiting`).

    Attributes:
        hurried: names of the services for which time was over, and whose instances may hold more.
    """

    hurried: set[str]

    def points(self, service: ServiceSpec, rate: float, deadline: Deadline | None = None) -> Points:
        """Return a service's operating points, each with the items/s that it adds to a set that holds the rate.

        Once the deadline is over it is less than that.
        """
        ...

    def held(
        self, service: ServiceSpec, instances: Mapping[tuple[str, str, int, int], int], rate: float
    ) -> float:
        """Return the rate that instances hold together, at most `rate`.

        Args:
            service: whose queries wait.
            instances: how many there are of each GPU, profile, largest batch and number of processes.
            rate: items/s.
        """
        ...


@dataclass(frozen=True)
class Formulation:
    """A planning problem, what is known of its models, and what was assumed to make it, for the user to read.

    Attributes:
        capacities: of the services whose queries wait; None where there are none, or the workload is not planned.
        seconds: that finding these took.
    """

    problem: Problem
    measured: Measured
    notes: tuple[str, ...]
    capacities: Capacities | None = None
    seconds: float = 0.0

    def at(self, workload: Workload, rates: Mapping[str, float]) -> Problem:
        """Return the problem at other rates in items/s, without headroom, which is added.

        Args:
            workload: that was formulated.
            rates: by service.
        """
        specs = {spec.name: spec for spec in workload.services}
        return self.problem.with_services(
            tuple(
                self._at(service, specs[service.name], workload, rates[service.name])
                for service in self.problem.services
            )
        )

    def _at(self, service: Service, spec: ServiceSpec, workload: Workload, asked: float) -> Service:
        rate = asked * service.rate / service.asked_rate
        points = service.points
        shares = may_share(spec, workload.limits)
        if spec.waits and self.capacities is not None and asked != service.asked_rate and not shares:
            points = self._waiting(spec, workload, rate)
        return replace(service, asked_rate=asked, rate=rate, points=points)

    def _waiting(
        self, spec: ServiceSpec, workload: Workload, rate: float
    ) -> tuple[OperatingPoint | None, ...]:
        usable = _usable(spec, workload)
        allowed = _PointsOnPools(self.problem.pools, self.measured, self.capacities, Deadline())
        found = allowed.points(spec, usable, rate, shares=False)
        return _per_size(self.problem.pools, self.problem.sizes, found, usable)

    def apart(self, workload: Workload, sharing: Collection[str]) -> Problem:
        """Return the problem with waiting counted for services that could share instances, and do not.

        Args:
            workload: that was formulated.
            sharing: names of the services that do.
        """
        specs = {spec.name: spec for spec in workload.services}

        def now(service: Service) -> Service:
            spec = specs[service.name]
            apart = may_share(spec, workload.limits) and service.name not in sharing
            if not apart or not spec.waits or self.capacities is None:
                return service
            return replace(service, points=self._waiting(spec, workload, service.rate))

        return self.problem.with_services(tuple(map(now, self.problem.services)))


def formulate(
    workload: Workload,
    table: PerfTable,
    capacities: Callable[[Measured], Capacities] | None = None,
    deadline: Deadline | None = None,
) -> Formulation:
    """Return the problem of placing a workload's services; those with a `cut` are left out: they share no GPU.

    On each profile a service runs at the operating point of largest throughput within `latency_factor` of its
    SLO (MIG-Serving, section 5). Services that run alike share one tuple of points, so that a hundred
    thousand services cost little more than one of each kind. Where queries wait, an instance has the throughput that
    it holds with them.

    Args:
        workload: what to place.
        table: performance of its models.
        capacities: makes the capacities of services whose queries wait; without it, they have those of arithmetic.
        deadline: of finding these, told which service is at hand; what is not found by then is taken as less, and a
            note says so. None for no limit.

    Raises:
        InputError: a model without measurements, a quantile that the table lacks, watts without power, or a rate
            that needs more than `MOST_GPUS`. `where` is the path of the field, such as `services[3].model`.
        InfeasibleError: a service that can run on no profile of any pool; `where` as above.
    """
    pools = _pools(workload)
    measured = Measured(workload, table, list({pool.gpu.name: pool.gpu for pool in pools}.values()))
    _refuse_unmeasured(workload, measured)
    usable = [_usable(service, workload) for service in workload.services]
    waiting = capacities(measured) if capacities is not None else None
    clock = (deadline or Deadline()).anew()  # a first use compiles what simulates, which is not its time
    allowed = _PointsOnPools(pools, measured, waiting, clock)
    points = {
        index: allowed.points(
            service,
            usable[index],
            service.rate * (1 + service.headroom),
            shares=may_share(service, workload.limits),
            of=(index, len(workload.services)),
        )
        for index, service in enumerate(workload.services)
        if service.cut is None
    }
    seconds = 0.0 if waiting is None else clock.seconds
    _refuse_unplaceable(workload, measured, points)
    _refuse_excessive_rates(workload, pools, points)
    kinds = {id(each): each for each in points.values()}
    if workload.objective == "watts":
        _refuse_unmeasured_power(kinds.values())
    sizes = _sizes(pools, kinds.values())
    shared = {(id(each), usable[index]): each for index, each in points.items()}
    on_sizes = {key: _per_size(pools, sizes, each, key[1]) for key, each in shared.items()}
    problem = Problem(
        pools=pools,
        services=tuple(
            _service(workload.services[index], workload.limits, on_sizes[id(p), usable[index]])
            for index, p in points.items()
        ),
        sizes=sizes,
        objective=workload.objective,
        max_services_per_gpu=workload.limits.max_services_per_gpu,
    )
    hurried = [
        each.name for each in workload.services if waiting is not None and each.name in waiting.hurried
    ]
    notes = (*_notes(workload, measured), *((_hurried(hurried),) if hurried else ()))
    return Formulation(problem, measured, notes, waiting, seconds)


def _pools(workload: Workload) -> tuple[Pool, ...]:
    return tuple(
        Pool(
            name=pool.label,
            gpu=gpu_model(pool.model).forbidding(workload.limits.forbid),
            count=pool.count,
            per_node=pool.per_node,
            cost=1.0 if pool.cost_per_hour is None else pool.cost_per_hour,
            nodes_per_rack=pool.nodes_per_rack,
            zone=pool.zone or "",
            spot=pool.spot,
        )
        for pool in workload.gpus
    )


def _sizes(pools: Sequence[Pool], kinds: Iterable[Points]) -> tuple[Size, ...]:
    used = {key for points in kinds for key in points}
    return tuple(
        Size(index, profile.name)
        for index, pool in enumerate(pools)
        for profile in pool.gpu.profiles
        if (pool.gpu.name, profile.name) in used
    )


def _per_size(
    pools: Sequence[Pool], sizes: Sequence[Size], points: Points, allowed: tuple[str, ...] | None
) -> tuple[OperatingPoint | None, ...]:
    return tuple(
        points.get((pools[size.pool].gpu.name, size.profile))
        if allowed is None or pools[size.pool].name in allowed
        else None
        for size in sizes
    )


def _usable(service: ServiceSpec, workload: Workload) -> tuple[str, ...] | None:
    """Return the pools that a service may use; None for all."""
    if service.pools is None and (service.spot or not any(pool.spot for pool in workload.gpus)):
        return None
    return tuple(pool.label for pool in workload.gpus if may_use(service, pool))


class _PointsOnPools:
    """Operating points on the GPUs of the pools that a service may use; equal services share one object."""

    def __init__(
        self, pools: Sequence[Pool], measured: Measured, capacities: Capacities | None, deadline: Deadline
    ) -> None:
        self._deadline = deadline
        self._pools = pools
        self._measured = measured
        self._capacities = capacities
        self._made: dict[tuple[int, tuple[str, ...]], Points] = {}

    def points(
        self,
        service: ServiceSpec,
        usable: tuple[str, ...] | None,
        rate: float,
        *,
        shares: bool,
        of: tuple[int, int] = (0, 1),
    ) -> Points:
        """Return operating points by GPU and profile on the usable pools, None for all, at a rate with headroom.

        `of` is the service's number, and how many there are, for who watches.

        Where a service shares instances, its wait depends on the others: the points are those of a batch alone.
        """
        if shares:
            service = service.replace(slo=service.slo.replace(quantile=None))
        elif service.waits and self._capacities is not None:
            self._deadline.tell(None, None, f"simulating waiting queries, service {of[0] + 1:,} of {of[1]:,}")
            return self._on(self._capacities.points(service, rate, self._deadline), usable)
        found = self._measured.points(service)
        if usable is None:
            return found
        key = (id(found), usable)
        if key not in self._made:
            self._made[key] = self._on(found, usable)
        return self._made[key]

    def _on(self, found: Points, usable: tuple[str, ...] | None) -> Points:
        if usable is None:
            return found
        gpus = {pool.gpu.name for pool in self._pools if pool.name in usable}
        return {at: point for at, point in found.items() if at[0] in gpus}


def _service(spec: ServiceSpec, limits: LimitsSpec, points: tuple[OperatingPoint | None, ...]) -> Service:
    # Every service has an instance; where any one is enough, the exact rate does not matter. Solvers lose very small
    # numbers, so a tiny rate is raised to a millionth of the slowest instance's throughput.
    least = min((point.throughput for point in points if point), default=0.0)
    loss, share = survived(spec, limits)
    return Service(
        name=spec.name,
        model=spec.model,
        rate=max(spec.rate * (1 + spec.headroom), 1e-6 * least),
        asked_rate=spec.rate,
        latency_slo_ms=spec.slo.latency_ms,
        points=points,
        min_replicas=spec.min_replicas,
        spread=spec.spread,
        priority=spec.priority,
        survive=loss,
        survive_share=share,
        spot=spec.spot,
    )


def _refuse_excessive_rates(workload: Workload, pools: Sequence[Pool], points: Mapping[int, Points]) -> None:
    """Refuse rates that need more than `MOST_GPUS`: most likely a wrong unit."""
    most = {(pool.gpu.name, each.name): each.max_instances for pool in pools for each in pool.gpu.profiles}
    for index, of in points.items():
        spec = workload.services[index]
        best = max((point.throughput * most[key] for key, point in of.items()), default=0.0)
        gpus = spec.rate * (1 + spec.headroom) / best if best else 0.0
        if gpus > MOST_GPUS:
            raise InputError(
                f"{spec.rate:,.6g} items/s would take more than {gpus:,.0f} GPUs",
                where=f"services[{index}].rate",
                hint="a rate is in items per second",
            )


def _refuse_unmeasured_power(kinds: Iterable[Points]) -> None:
    lacking = sorted(
        {
            f"{gpu} {profile} batch {point.batch} x{point.processes}"
            for points in kinds
            for (gpu, profile), point in points.items()
            if point.power_w is None
        }
    )
    if lacking:
        more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        raise InputError(
            f"objective watts needs power_w in each row it uses; missing: {', '.join(lacking[:5])}{more}",
            where="objective",
            hint="fill in the column power_w of the performance table, or write objective: gpus",
        )


# --- what is known of each model on each GPU, and the operating points that follow


def allows(service: ServiceSpec, profile: Profile) -> bool:
    """Say whether a service may run on a profile; a variant (`+me`, `+gfx`) must be named in full."""
    if service.profiles is None or profile.name in service.profiles:
        return True
    return profile.size in service.profiles and profile.name == plain(profile.name)


def plain(profile: str) -> str:
    """Return the profile that a variant has the compute and memory of: `1g.10gb` for `1g.10gb+me`."""
    return re.split(r"[+-]", profile)[0]


class Measured:
    """Rows and operating points of a workload's models on its GPUs, each computed once.

    An operating point depends on the latency limit only through the rows that keep it. Services are therefore
    grouped by how many latencies are within the limit, not by the limit: a thousand SLOs make few groups.
    """

    def __init__(self, workload: Workload, table: PerfTable, gpus: Sequence[GpuModel]) -> None:
        self.gpus = tuple(gpus)
        self.limits = workload.limits
        self.table = table
        self._works = {model.name: (index, _work(model)) for index, model in enumerate(workload.models)}
        self._rows: dict[str, dict[str, tuple[Measurement, ...]]] = {}
        self._latencies: dict[str, list[list[float]]] = {}
        self._points: dict[tuple[object, ...], Points] = {}

    def rows(self, model: str) -> dict[str, tuple[Measurement, ...]]:
        """Return the rows of a model by GPU, measured or else estimated; GPUs without rows are left out."""
        if model not in self._rows:
            found = {gpu.name: self._rows_on(model, gpu) for gpu in self.gpus}
            self._rows[model] = {gpu: rows for gpu, rows in found.items() if rows}
        return self._rows[model]

    def of(self, model: str, gpu: str) -> tuple[Measurement, ...]:
        """Return the rows of a model on a GPU, estimates included; none where nothing is known."""
        return self.rows(model).get(gpu, ())

    def _rows_on(self, model: str, gpu: GpuModel) -> tuple[Measurement, ...]:
        rows = self.table.of(model, gpu.name)
        if rows or model not in self._works:
            return rows
        index, work = self._works[model]
        try:
            return tuple(estimate_table(work, gpu, max_processes=self.limits.max_processes))
        except InputError as error:
            raise InputError(error.what, where=f"models[{index}].precision", hint=error.hint) from None

    def can_estimate(self, model: str) -> bool:
        """Say whether the workload gives the model's work."""
        return model in self._works

    def limit(self, service: ServiceSpec) -> float:
        """Return the longest latency of a batch in milliseconds."""
        return self.limits.latency_factor * (service.slo.latency_ms - self.limits.overhead_of(service))

    def point_limits(self, service: ServiceSpec, gpu: str) -> Limits | None:
        """Return the limits of a service's operating points on a GPU; None if no row has its quantile."""
        known = self.of(service.model, gpu)
        if service.waits and known:
            quantile: str | None = batch_times(known, service.slo.quantile)[0][0].quantile
        else:
            quantile = quantile_of(known, service.slo.quantile)
        if quantile is None:
            return None
        return Limits(self.limit(service), quantile, self.limits.max_batch, self.limits.max_processes)

    def points(self, service: ServiceSpec) -> Points:
        """Return the operating points of a service, the same object for all services that run alike."""
        limit = self.limit(service)
        within = tuple(bisect_right(latencies, limit) for latencies in self._latencies_of(service.model))
        key = (service.model, service.slo.quantile, service.waits, service.profiles, within)
        if key not in self._points:
            self._points[key] = self._operating_points(service)
        return self._points[key]

    def _latencies_of(self, model: str) -> list[list[float]]:
        if model not in self._latencies:
            rows = self.rows(model)
            self._latencies[model] = [sorted({r.latency_ms for r in rows.get(g.name, ())}) for g in self.gpus]
        return self._latencies[model]

    def _operating_points(self, service: ServiceSpec) -> Points:
        found: Points = {}
        for gpu in self.gpus:
            limits = self.point_limits(service, gpu.name)
            if limits is None:
                continue
            points = operating_points(self.of(service.model, gpu.name), limits)
            for profile in gpu.profiles:
                point = points.get(profile.name)
                if point is None and profile.name in (service.profiles or ()):
                    point = points.get(plain(profile.name))
                if point and allows(service, profile):
                    found[gpu.name, profile.name] = replace(point, profile=profile.name)
        return found


def _work(model: ModelSpec) -> ModelWork:
    return ModelWork(
        model=model.name,
        gflop=model.gflop,
        mbytes=model.mbytes,
        weights_mb=model.weights_mb,
        precision=model.precision,
        kernels=model.kernels,
        live_mb=model.live_mb,
    )


def quantile_of(rows: Sequence[Measurement], asked: float | None) -> str | None:
    """Return the quantile asked for, as the rows write it, or the strictest of the rows if none was."""
    there = {row.quantile for row in rows}
    if asked is None:
        return strictest(there)
    return next((q for q in there if q != "mean" and float(q) == asked), None)


# --- notes: what was assumed


def _hurried(services: Sequence[str]) -> str:
    return (
        f"{names(services)}: there was no time to simulate all that instances hold with waiting queries. They count "
        "with less, the bound holds for that alone, and with a longer --time-limit fewer GPUs may do"
    )


def _notes(workload: Workload, measured: Measured) -> tuple[str, ...]:
    """Return a sentence for each assumption: which latencies, estimates and GPUs, and what is ignored."""
    ignored = [pool.label for pool in workload.gpus if pool.cost_per_hour is not None]
    costs = []
    if ignored and workload.objective != "cost":
        costs = [
            (
                f"cost_per_hour of {names(ignored)} is ignored: the objective is {workload.objective} "
                "(write objective: cost)"
            )
        ]
    said: dict[str, set[str]] = {}
    placed = [service for service in workload.services if service.cut is None]
    for model, asked, waits in sorted({(s.model, s.slo.quantile, s.waits) for s in placed}, key=str):
        for gpu in measured.gpus:
            for note in _notes_on(measured, model, asked, gpu.name, waits=waits):
                said.setdefault(note, set()).add(model)
    return (*costs, *(f"{names(models)}: {note}" for note, models in said.items()))


def _notes_on(measured: Measured, model: str, asked: float | None, gpu: str, *, waits: bool) -> list[str]:
    rows = measured.rows(model).get(gpu, ())
    if not rows:
        return [f"not measured on {gpu}, so not placed on it"]
    said = []
    if rows[0].estimated:
        said.append(f"no measurement on {gpu}, planned with an estimate")
    if waits:
        return said + _notes_on_batches(rows, asked, gpu)
    quantile = quantile_of(rows, asked)
    if quantile is None:
        said.append(f"no latency at quantile {asked} on {gpu}, so not placed on it")
    elif quantile == "mean":
        said.append(f"latencies on {gpu} are means, no quantile; slower batches will exceed the SLO")
    elif asked is None:
        said.append(f"no quantile asked, the strictest on {gpu} is used: {quantile}")
    return said


_JITTER_COST = "about 2 % of the capacity"
"""Measured over models, SLOs and shares (docs/benchmarks.md, "Jitter of batch times")."""


def _notes_on_batches(rows: Sequence[Measurement], asked: float | None, gpu: str) -> list[str]:
    """Return what is assumed of batch times where queries wait."""
    taken, jitter = batch_times(rows, asked)
    quantile = taken[0].quantile
    if quantile == "mean":
        known = {row.quantile for row in rows} - {"mean"}
        why = f"measured at {', '.join(sorted(known))}" if known else f"assumed, which takes {_JITTER_COST}"
        return [f"latencies on {gpu} are means; batches vary around them by {jitter:.1%} ({why})"]
    if asked is not None and float(quantile) != asked:
        more = f", and to vary by {jitter:.1%} (assumed, which takes {_JITTER_COST})" if jitter else ""
        return [
            f"no latency at quantile {asked} on {gpu}: each batch is taken to last as at {quantile}{more}"
        ]
    return []


def names(words: Iterable[str], most: int = 5) -> str:
    """Return a sorted list as text, cut short after `most` words: `a, b and 7 more`."""
    words = sorted(set(words))
    if len(words) > most:
        return f"{', '.join(words[: most - 1])} and {len(words) - most + 1} more"
    return ", ".join(words)


# --- why a service can run nowhere, and what would change that

_MOST_NAMED = 10
"""Kinds of service that one error names."""


class _Reason(NamedTuple):
    what: str
    hint: str


def _refuse_unmeasured(workload: Workload, measured: Measured) -> None:
    """Refuse models without rows on any GPU, and quantiles that no row has.

    Raises:
        InputError: `where` is the first such service's field.
    """
    asked: dict[tuple[str, float | None], int] = {}
    for index, service in enumerate(workload.services):
        # With a cut or with waiting the quantile is a share of the queries, whichever latencies there are.
        whichever = service.cut is not None or service.waits
        asked.setdefault((service.model, None if whichever else service.slo.quantile), index)
    for (model, quantile), index in asked.items():
        by_gpu = measured.rows(model)
        if not by_gpu and not measured.can_estimate(model):
            raise _unmeasured(model, f"services[{index}].model", measured)
        if by_gpu and all(quantile_of(rows, quantile) is None for rows in by_gpu.values()):
            there = sorted({row.quantile for rows in by_gpu.values() for row in rows})
            raise InputError(
                f"{model} has no latencies at quantile {quantile}, only {', '.join(there)}",
                where=f"services[{index}].slo.quantile",
                hint="ask for a quantile that the performance table has, leave it out to use the strictest, "
                "or measure the model again",
            )


def _unmeasured(model: str, where: str, measured: Measured) -> InputError:
    gpus = names(gpu.name for gpu in measured.gpus)
    elsewhere = measured.table.gpus(model)
    close = nearest(model, [m for m in measured.table.models if m != model])
    if elsewhere:
        hint = f"it was measured on {names(elsewhere)}: measure it on {gpus}, or give its work under `models`"
    elif close:
        hint = f"did you mean {close}?"
    else:
        known = names(measured.table.models)
        hint = f"the tables have {known}" if known else "name a table under `performance`"
        hint += "; or give its work under `models` for an estimate"
    return InputError(f"no measurements of {model!r} on {gpus}", where=where, hint=hint)


def _refuse_unplaceable(workload: Workload, measured: Measured, points: Mapping[int, Points]) -> None:
    """Refuse services that have no operating point on any profile.

    Args:
        workload: what to place.
        measured: rows and operating points of its models.
        points: operating points by the service's index in the workload.

    Raises:
        InfeasibleError: gives the reason for each kind of service; `where` is the first one.
    """
    kinds: dict[int, list[int]] = {}
    for index, each in points.items():
        if not each:
            kinds.setdefault(id(each), []).append(index)
    if not kinds:
        return
    lines = []
    for alike in list(kinds.values())[:_MOST_NAMED]:
        service = workload.services[alike[0]]
        like = f" and {len(alike) - 1} like it" if len(alike) > 1 else ""
        why = _why_pools(service, workload, measured) or _why(service, measured)
        lines.append((f"{service.name}{like}: {why.what}", why.hint))
    if len(kinds) == 1:
        what, hint = lines[0]
    else:
        what = "\n  ".join(f"{reason}; {hint}" for reason, hint in lines)
        hint = (
            "change each as its line says"
            if len(kinds) <= _MOST_NAMED
            else f"and {len(kinds) - _MOST_NAMED} more kinds of service"
        )
    raise InfeasibleError(what, where=f"services[{next(iter(kinds.values()))[0]}]", hint=hint)


def _why(service: ServiceSpec, measured: Measured) -> _Reason:
    rows = [row for gpu in measured.gpus for row in _rows(service, measured, gpu.name)]
    if not rows:
        return _Reason(
            "it fits in the memory of no profile", "use a GPU with more memory, or lower weights_mb"
        )
    profiles = {(gpu.name, p.name) for gpu in measured.gpus for p in gpu.profiles if allows(service, p)}
    allowed = [row for row in rows if (row.gpu, row.profile) in profiles]
    if not allowed:
        there = names(row.profile for row in rows)
        return _Reason(
            f"no measurement on {names(service.profiles or ())}; no row means that it did not fit in memory",
            f"it was measured on {there}: allow one of these in `profiles`",
        )
    return _why_limits(service, measured, allowed)


def _why_pools(service: ServiceSpec, workload: Workload, measured: Measured) -> _Reason | None:
    """Return the reason where the service could run on a pool that it may not use."""
    if _usable(service, workload) is None or not (points := measured.points(service)):
        return None
    able = {gpu for gpu, _ in points}
    others = [pool for pool in workload.gpus if pool.model in able]
    if service.pools is None or any(pool.label in service.pools for pool in others):
        return _Reason(
            f"it can run on spot GPUs alone, {names(pool.label for pool in others)}",
            "write `spot: 1` for it if they may be all that it has",
        )
    return _Reason(
        f"it can run on none of its pools, {names(service.pools)}",
        f"allow {names(pool.label for pool in others)} in `pools`",
    )


def _rows(service: ServiceSpec, measured: Measured, gpu: str) -> list[Measurement]:
    rows = measured.rows(service.model).get(gpu, ())
    if service.waits:
        return list(batch_times(rows, service.slo.quantile)[0])
    quantile = quantile_of(rows, service.slo.quantile)
    return [row for row in rows if row.quantile == quantile]


def _why_limits(service: ServiceSpec, measured: Measured, allowed: list[Measurement]) -> _Reason:
    limits = measured.limits
    batch = limits.max_batch or max(row.batch for row in allowed)
    within = [row for row in allowed if row.batch <= batch and row.processes <= limits.max_processes]
    if not within:
        least = min(allowed, key=lambda row: (row.batch, row.processes))
        return _Reason(
            f"no measurement within limits.max_batch {batch} and limits.max_processes {limits.max_processes}",
            f"the smallest has batch {least.batch} and {least.processes} processes: raise the limits",
        )
    fastest = min(within, key=lambda row: row.latency_ms)
    if service.waits and fastest.latency_ms <= measured.limit(service):
        slo, share = service.slo.latency_ms, service.slo.quantile or QUANTILE
        enough = fastest.latency_ms * 1.5 + limits.overhead_of(service)
        if isinstance(service.process, str) and enough > slo:
            why, mend = (
                f"batches vary around {fastest.latency_ms:.4g} ms",
                f"raise slo.latency_ms to {enough:.3g}",
            )
        else:
            why, mend = "too many come at once (`arrivals`)", "raise slo.latency_ms"
        return _Reason(
            f"too slow: at the lowest rate fewer than {share:.4g} of the queries are answered within {slo:g} ms, "
            f"since {why}",
            f"{mend}, or lower the quantile",
        )
    factor, slo, overhead = limits.latency_factor, service.slo.latency_ms, limits.overhead_of(service)
    left = f"({slo:g} - {overhead:g} of limits.overhead_ms)" if overhead else f"{slo:g}"
    scaled = f" ({factor:g} x {left})" if factor < 1 else f" {left}" if overhead else ""
    enough = math.ceil((fastest.latency_ms / factor + overhead) * 10) / 10
    return _Reason(
        f"too slow: one batch may take {measured.limit(service):.4g} ms{scaled}; the fastest takes "
        f"{fastest.latency_ms:.4g} ms, on {fastest.gpu} {fastest.profile} at batch {fastest.batch}",
        f"raise slo.latency_ms to at least {enough:g}{f' (latency_factor {factor:g})' if factor < 1 else ''}",
    )
