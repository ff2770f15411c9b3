"""Too few GPUs: which services with a cut keep theirs, by priority, among those that share."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from partita.errors import InfeasibleError
from partita.planning.exact import TooFewGpusError
from partita.planning.plan import ServiceCapacity
from partita.serve.reserving.fewest import least_gpus, most_held
from partita.serve.reserving.planning import (
    Reserved,
    by_priority,
    counts_left,
    joined,
    plan_rest,
    pools_of,
)
from partita.serve.reserving.reserve import Reservation, Reserver, instance_points

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from partita.deadline import Deadline
    from partita.planning.plan import Plan
    from partita.planning.problem import Problem
    from partita.serve.reserving.asked import CutService
    from partita.serve.reserving.running import Running

_ROUNDING = 1e-6


def reserve_best_effort(
    problem: Problem,
    services: Sequence[CutService],
    share: Callable[[Problem], Plan],
    watch: Deadline,
    *,
    seed: int = 0,
    running: Mapping[str, Running] | None = None,
) -> Reserved:
    """Return the plan that meets the most services by priority; arguments as for `plan_reserving`.

    A service with a cut that cannot be met wholly, or only at the cost of one of higher priority that shares, gets
    what GPUs are left over in the end, and holds less than its rate. The bound is that of meeting just this much.

    Args:
        problem: as there.
        services: as there.
        share: plans the services that share as far as GPUs go.
        watch: as there.
        seed: as there.
        running: as there.

    Raises:
        InfeasibleError: not a single service can be met even partly.
    """
    reserver = Reserver(problem, watch, seed, running or {})
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
    found = joined(problem, rest, made, bound, watch.seconds)
    return Reserved(replace(found.plan, services=_listed(found.plan, problem, services)), found.made)


def _met(reserver: Reserver, services: Sequence[CutService]) -> list[Reservation]:
    """Return reservations for those that can be met wholly, in order of priority."""
    made: list[Reservation] = []
    for service in by_priority(services):
        try:
            made.append(reserver.options(service, counts_left(reserver.problem, made))[0])
        except TooFewGpusError:
            continue
    return made


def _rest(problem: Problem, made: Sequence[Reservation], share: Callable[[Problem], Plan]) -> Plan:
    try:
        return plan_rest(problem, made, share)
    except InfeasibleError:  # not one of them can be met even partly
        return plan_rest(problem.with_services(()), made, share)


def _highest_short(problem: Problem, rest: Plan) -> float:
    """Return the highest priority of those that share and fall short, minus infinity if none does."""
    given = {service.name: service.capacity for service in rest.services}
    short = [each for each in problem.services if given.get(each.name, 0.0) < each.rate * (1 - _ROUNDING)]
    return max((each.priority for each in short), default=float("-inf"))


def _part(
    reserver: Reserver, service: CutService, made: Sequence[Reservation], rest: Plan
) -> Reservation | None:
    """Return what is left over for a service, in the pool where it holds the most; None if that is nothing."""
    left = counts_left(reserver.problem, made)
    for pool in pools_of(reserver.problem, rest, left):
        left[pool] = None if (n := left[pool]) is None else n - 1
    parts = [
        (held, offer)
        for offer in service.offers
        if (n := left[offer.pool])
        and (held := most_held(service, offer, n, reserver.watch, reserver.seed)) is not None
    ]
    if not parts or reserver.watch.over:
        return None
    held, offer = max(parts, key=lambda part: part[0].rate)
    spec = replace(service.spec, rate=held.rate * service.items, headroom=0.0, min_replicas=1, spread=1)
    less = replace(service, spec=spec)
    points = instance_points(less, offer, held, reserver.seed)
    return Reservation(less, offer, held.cut, points, least_gpus(less, offer.problem))


def _listed(plan: Plan, problem: Problem, services: Sequence[CutService]) -> tuple[ServiceCapacity, ...]:
    """Return all services with the rates that they ask, those that got nothing too, in the workload's order."""
    given = {service.name: service.capacity for service in plan.services}
    asked = [(each.name, each.asked_rate, each.latency_slo_ms) for each in problem.services]
    for each in sorted(services, key=lambda each: each.index):
        asked.insert(each.index, (each.spec.name, each.spec.rate, each.spec.slo.latency_ms))
    return tuple(ServiceCapacity(name, rate, given.get(name, 0.0), slo) for name, rate, slo in asked)
