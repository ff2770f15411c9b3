"""Plans both parts of a workload: whole GPUs for services with a cut, and the other GPUs for services that share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import TYPE_CHECKING

from partita.errors import InfeasibleError
from partita.planning.assemble import assemble
from partita.planning.exact import TooFewGpusError
from partita.planning.plan import Objective, Plan, ServiceCapacity, Solver
from partita.planning.problem import GpuConfig, Service, Size
from partita.serve.reserving.reservation import (
    GpuReservation,
    Reserver,
    attainments,
    instance_points,
    least_gpus,
    most_held,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from partita.deadline import Deadline
    from partita.perf.operating_point import OperatingPoint
    from partita.planning.problem import Problem
    from partita.serve.reserving.reservation import RunningGpus
    from partita.serve.reserving.services import CutService


_TRIES = 16
"""Choices of pools that are tried where the GPUs left over do not suffice for the services that share."""
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class ReservedPlan:
    """A plan, and the reservations in it."""

    plan: Plan
    made: tuple[GpuReservation, ...]


def plan_reserving(
    problem: Problem,
    services: Sequence[CutService],
    share: Callable[[Problem], Plan],
    deadline: Deadline,
    *,
    seed: int = 0,
    running: Mapping[str, RunningGpus] | None = None,
) -> ReservedPlan:
    """Return the plan of a workload in which some services have a cut.

    Those with the highest priority choose first. The bound is the sum of those of both parts.

    Args:
        problem: the services that share GPUs, on all pools.
        services: those with a cut.
        share: plans the services that share.
        deadline: time limit and stop button.
        seed: of the traffic that cuts are measured with.
        running: what services with a cut run on now, by name.

    Raises:
        InfeasibleError: the GPUs do not suffice, or a cut answers too few queries in time.
        PartitaError: the time was over before any plan was found.
    """
    if not services:
        return ReservedPlan(share(problem), ())
    reserver = Reserver(problem, deadline, seed, running or {})
    made: Sequence[GpuReservation] = _cheapest(reserver, services)
    try:
        plan = plan_rest(reserver.problem, made, share)
    except InfeasibleError:
        made, plan = _other_pools(reserver, services, made, share)
    bound = _rest_bound(reserver, made, plan, share) + sum(map(reserver.bound, services))
    return joined(problem, plan, made, bound, deadline.seconds)


def reserve_best_effort(
    problem: Problem,
    services: Sequence[CutService],
    share: Callable[[Problem], Plan],
    deadline: Deadline,
    *,
    seed: int = 0,
    running: Mapping[str, RunningGpus] | None = None,
) -> ReservedPlan:
    """Return the plan that meets the most services by priority; arguments as for `plan_reserving`.

    A service with a cut that cannot be met wholly, or only at the cost of one of higher priority that shares, gets
    what GPUs are left over in the end, and holds less than its rate. The bound is that of meeting just this much.

    Args:
        problem: as there.
        services: as there.
        share: plans the services that share as far as GPUs go.
        deadline: as there.
        seed: as there.
        running: as there.

    Raises:
        InfeasibleError: not a single service can be met even partly.
    """
    reserver = Reserver(problem, deadline, seed, running or {})
    made = _met(reserver, services)
    rest = _rest(problem, made, share)
    while made and _highest_short(problem, rest) > made[-1].service.spec.priority:
        made = made[:-1]
        rest = _rest(problem, made, share)
    whole = {each.service.index for each in made}
    for service in by_priority([each for each in services if each.index not in whole]):
        if (part := _part(reserver, service, made, rest)) is not None:
            made = [*made, part]
    if not made and not rest.gpus:
        raise InfeasibleError("no service can be met, not even partly", where="gpus", hint="raise `count`")
    bound = rest.objective.lower_bound + sum(reserver.bound(each.service) for each in made)
    found = joined(problem, rest, made, bound, deadline.seconds)
    return ReservedPlan(replace(found.plan, services=_listed(found.plan, problem, services)), found.made)


def _met(reserver: Reserver, services: Sequence[CutService]) -> list[GpuReservation]:
    """Return reservations for the services that can be met completely, in order of priority."""
    made: list[GpuReservation] = []
    for service in by_priority(services):
        try:
            made.append(reserver.options(service, counts_left(reserver.problem, made))[0])
        except TooFewGpusError:
            continue
    return made


def _rest(problem: Problem, made: Sequence[GpuReservation], share: Callable[[Problem], Plan]) -> Plan:
    try:
        return plan_rest(problem, made, share)
    except InfeasibleError:  # not one of them can be met even partly
        return plan_rest(problem.with_services(()), made, share)


def _highest_short(problem: Problem, rest: Plan) -> float:
    """Return the highest priority of services that share and fall short; minus infinity if none does."""
    given = {service.name: service.capacity for service in rest.services}
    short = [each for each in problem.services if given.get(each.name, 0.0) < each.rate * (1 - _ROUNDING)]
    return max((each.priority for each in short), default=float("-inf"))


def _part(
    reserver: Reserver, service: CutService, made: Sequence[GpuReservation], rest: Plan
) -> GpuReservation | None:
    """Return a reservation of the GPUs left in the pool where the service holds the most; None if none are left."""
    left = counts_left(reserver.problem, made)
    for pool in pools_of(reserver.problem, rest, left):
        left[pool] = None if (n := left[pool]) is None else n - 1
    parts = [
        (held, offer)
        for offer in service.offers
        if (n := left[offer.pool])
        and (held := most_held(service, offer, n, reserver.deadline, reserver.seed)) is not None
    ]
    if not parts or reserver.deadline.over:
        return None
    held, offer = max(parts, key=lambda part: part[0].rate)
    spec = service.spec.replace(rate=held.rate * service.items, headroom=0.0, min_replicas=1, spread=1)
    less = replace(service, spec=spec)
    points = instance_points(less, offer, held, reserver.seed)
    in_time = attainments(offer, held, reserver.seed)
    return GpuReservation(less, offer, held.cut, points, least_gpus(less, offer.problem), in_time)


def _listed(plan: Plan, problem: Problem, services: Sequence[CutService]) -> tuple[ServiceCapacity, ...]:
    """Return all services with their required rates, including those without capacity, in the workload's order."""
    given = {service.name: service.capacity for service in plan.services}
    asked = [(each.name, each.asked_rate, each.latency_slo_ms) for each in problem.services]
    for each in sorted(services, key=lambda each: each.index):
        asked.insert(each.index, (each.spec.name, each.spec.rate, each.spec.slo.latency_ms))
    return tuple(ServiceCapacity(name, rate, given.get(name, 0.0), slo) for name, rate, slo in asked)


def _cheapest(reserver: Reserver, services: Sequence[CutService]) -> list[GpuReservation]:
    made: list[GpuReservation] = []
    for service in by_priority(services):
        made.append(reserver.options(service, counts_left(reserver.problem, made))[0])
    return made


def plan_rest(problem: Problem, made: Sequence[GpuReservation], share: Callable[[Problem], Plan]) -> Plan:
    """Plan the services that share on what reservations leave.

    Raises:
        InfeasibleError: that does not suffice.
    """
    if not problem.services:
        return Plan(Objective(problem.objective, 0.0, 0.0), Solver("exact", 0, 0.0), (), ())
    left = counts_left(problem, made)
    return share(problem.with_counts({pool.name: n for pool, n in zip(problem.pools, left, strict=True)}))


def _other_pools(
    reserver: Reserver,
    services: Sequence[CutService],
    first: Sequence[GpuReservation],
    share: Callable[[Problem], Plan],
) -> tuple[Sequence[GpuReservation], Plan]:
    """Return the cheapest of other choices of pools that leaves enough for the rest.

    Raises:
        InfeasibleError: none of those tried does.
    """
    counts = [pool.count for pool in reserver.problem.pools]
    options = [
        [
            found
            for offer in service.offers
            if (found := reserver.reservation(service, offer, counts[offer.pool])) is not None
        ]
        for service in by_priority(services)
    ]
    choices = sorted(product(*options), key=lambda made: sum(map(reserver.cost, made)))
    tried = [[each.offer.pool for each in first]]
    for made in islice(choices, _TRIES):
        left = counts_left(reserver.problem, made)
        pools = [each.offer.pool for each in made]
        if pools in tried or any(n is not None and n < 0 for n in left):
            continue
        tried.append(pools)
        try:
            return made, plan_rest(reserver.problem, made, share)
        except InfeasibleError:
            continue
    return first, plan_rest(reserver.problem, first, share)  # which says what is lacking


def _rest_bound(
    reserver: Reserver, made: Sequence[GpuReservation], plan: Plan, share: Callable[[Problem], Plan]
) -> float:
    """Return a bound of the rest's part that holds whichever GPUs are reserved.

    Where pools are several and limited, fewer GPUs of one can make the rest dearer: it is then planned without them.
    """
    problem = reserver.problem
    limited = any(problem.pools[each.offer.pool].count is not None for each in made)
    if len(problem.pools) == 1 or not limited or not problem.services:
        return plan.objective.lower_bound
    return min(plan.objective.lower_bound, share(problem).objective.lower_bound)


def by_priority(services: Sequence[CutService]) -> list[CutService]:
    """Return the services of higher priority first."""
    return sorted(services, key=lambda each: (-each.spec.priority, each.index))


def counts_left(problem: Problem, made: Sequence[GpuReservation]) -> list[int | None]:
    """Return how many GPUs of each pool are left."""
    used = Counter({each.offer.pool: 0 for each in made})
    for each in made:
        used[each.offer.pool] += len(each.cut.gpus)
    return [None if pool.count is None else pool.count - used[at] for at, pool in enumerate(problem.pools)]


def joined(
    problem: Problem, rest: Plan, made: Sequence[GpuReservation], bound: float, seconds: float
) -> ReservedPlan:
    """Return the plan with both parts, services in the workload's order."""
    whole = with_reserved(problem, made)
    solver = replace(rest.solver, seconds=seconds)
    plan = assemble(whole, _configs(whole, rest, made), lower_bound=bound, solver=solver)
    return ReservedPlan(plan, tuple(made))


def with_reserved(problem: Problem, made: Sequence[GpuReservation]) -> Problem:
    """Return the problem with the reserved services among the others, each with what its instances give."""
    used = {(size.pool, size.profile) for size in problem.sizes}
    used |= {(each.offer.pool, profile) for each in made for profile in each.points}
    sizes = tuple(
        Size(index, profile.name)
        for index, pool in enumerate(problem.pools)
        for profile in pool.gpu.profiles
        if (index, profile.name) in used
    )
    shared = {id(service.points): _moved(problem, service, sizes) for service in problem.services}
    services = [replace(service, points=shared[id(service.points)]) for service in problem.services]
    for each in sorted(made, key=lambda each: each.service.index):
        services.insert(each.service.index, _service(each, sizes))
    return replace(problem, services=tuple(services), sizes=sizes)


def _moved(problem: Problem, service: Service, sizes: Sequence[Size]) -> tuple[OperatingPoint | None, ...]:
    points = dict(zip(problem.sizes, service.points, strict=True))
    return tuple(points.get(size) for size in sizes)


def _service(made: GpuReservation, sizes: Sequence[Size]) -> Service:
    spec = made.service.spec
    return Service(
        name=spec.name,
        model=spec.model,
        rate=spec.rate * (1 + spec.headroom),
        asked_rate=spec.rate,
        latency_slo_ms=spec.slo.latency_ms,
        points=tuple(
            made.points.get(size.profile) if size.pool == made.offer.pool else None for size in sizes
        ),
        min_replicas=spec.min_replicas,
        spread=spec.spread,
        priority=spec.priority,
    )


def _configs(whole: Problem, rest: Plan, made: Sequence[GpuReservation]) -> Counter[GpuConfig]:
    """Return the configurations of all GPUs."""
    sizes = {(size.pool, size.profile): k for k, size in enumerate(whole.sizes)}
    services = {service.name: s for s, service in enumerate(whole.services)}
    configs: Counter[GpuConfig] = Counter()
    for each in made:
        pool, profiles = each.offer.pool, each.offer.problem.profiles
        s = services[each.service.spec.name]
        for counts in each.cut.gpus:
            here = [sizes[pool, name] for name, n in zip(profiles, counts, strict=True) for _ in range(n)]
            configs[GpuConfig(pool, tuple((k, s) for k in sorted(here)))] += 1
    for pool, gpu in zip(pools_of(whole, rest, counts_left(whole, made)), rest.gpus, strict=True):
        pairs = [(sizes[pool, each.placement.profile], services[each.service]) for each in gpu.instances]
        configs[GpuConfig(pool, tuple(sorted(pairs)))] += 1
    return configs


def pools_of(problem: Problem, rest: Plan, left: Sequence[int | None]) -> list[int]:
    """Return the pool of each GPU of a plan; where it does not say, the cheapest of its model that has GPUs left."""
    free = list(left)
    order = sorted(range(len(free)), key=problem.gpu_cost)
    found = []
    for gpu in rest.gpus:
        pool = next(
            p
            for p in order
            if problem.pools[p].gpu.name == gpu.model
            and gpu.pool in ("", problem.pools[p].name)
            and free[p] != 0
        )
        free[pool] = None if (n := free[pool]) is None else n - 1
        found.append(pool)
    return found
