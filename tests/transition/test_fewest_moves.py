from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

from partita.deadline import Deadline
from partita.errors import InfeasibleError
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement, legal_layouts
from partita.perf.operating_point import OperatingPoint
from partita.planning.exact import ExactPlanner
from partita.planning.plan import Instance, PlannedGpu, ServiceCapacity
from partita.planning.problem import Pool, Problem, Service, Size
from partita.transition.deployment import DeployedGpu, Deployment, deployment_of
from partita.transition.fewest_moves import TooManyMovesError, near_plan, plan_within, trade_off
from partita.transition.overview import service_changes
from partita.transition.shortest import Shortest
from partita.transition.transition import MEASURED, Request

if TYPE_CHECKING:
    from partita.planning.plan import Plan

GPU = gpu_model("a100-80gb").restricted(["1g.10gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"])
SIZES = tuple(Size(0, profile.name) for profile in GPU.profiles)


def problem(rates: dict[str, float], **fields: Any) -> Problem:
    services = []
    for index, (name, rate) in enumerate(rates.items()):
        points = tuple(
            OperatingPoint(p.name, 8, 1, 10.0 * p.compute ** (0.85 + 0.1 * index), 5.0, "mean")
            for p in GPU.profiles
        )
        services.append(Service(name, name, rate, rate, 10.0, points, **fields))
    return Problem((Pool("a100", GPU),), tuple(services), SIZES)


def moved(plan: Plan, current: Deployment) -> int:
    """Return the moves of the transition to a plan, counted from its actions."""
    request = Request(current, deployment_of(plan), {}, {}, MEASURED)
    changes = service_changes(request, Shortest(tries=1).transition(request))
    return sum(each.move + each.new + each.end for each in changes)


def nearest(wanted: Problem, plan: Plan, current: Deployment) -> Plan:
    return near_plan(wanted, plan, current, Deadline(20.0)).plan


def cluster(plan: Plan, empty_gpus: int = 3) -> Deployment:
    empty = tuple(DeployedGpu(f"node-99/gpu-{i}", GPU.name, ()) for i in range(empty_gpus))
    return Deployment((*deployment_of(plan).gpus, *empty))


RATES = {"a": 310.0, "b": 425.0, "c": 130.0}


@pytest.mark.parametrize("factor", [0.7, 0.95, 1.05, 1.4])
def test_the_nearest_plan_is_as_good_and_moves_no_more(factor: float) -> None:
    before = ExactPlanner().plan(problem(RATES))
    rates = {name: rate * (factor if name != "b" else 2 - factor) for name, rate in RATES.items()}
    wanted = problem(rates)
    plan = ExactPlanner().plan(wanted)
    found = nearest(wanted, plan, cluster(before))
    assert len(found.gpus) <= len(plan.gpus)
    assert found.objective.value == plan.objective.value
    assert found.objective.lower_bound == plan.objective.lower_bound
    assert moved(found, cluster(before)) <= moved(plan, cluster(before))
    capacity: dict[str, float] = defaultdict(float)
    for gpu in found.gpus:
        for each in gpu.instances:
            capacity[each.service] += each.point.throughput
    for service in found.services:
        assert service.capacity == pytest.approx(capacity[service.name])
        assert service.capacity >= service.rate - 1e-6


def test_what_runs_already_is_kept_as_it_is() -> None:
    wanted = problem(RATES)
    before = ExactPlanner().plan(wanted)
    turned = replace(
        before, gpus=tuple(replace(g, id=f"node-1/gpu-{i}") for i, g in enumerate(before.gpus[::-1]))
    )
    assert moved(nearest(wanted, before, cluster(turned)), cluster(turned)) == 0


def test_what_runs_and_is_as_good_is_found_without_any_time() -> None:
    wanted = problem(RATES)
    before = ExactPlanner().plan(wanted)
    found = near_plan(wanted, before, cluster(before), Deadline(0.0))
    assert (found.moves, found.proven, found.plan.gpus) == (0, True, before.gpus)
    assert found.plan.objective == before.objective


def test_without_time_the_moves_of_the_plan_are_counted_and_nothing_is_proven_of_them() -> None:
    small, large = problem(RATES), problem({name: 2 * rate for name, rate in RATES.items()})
    few, many = ExactPlanner().plan(small), ExactPlanner().plan(large)
    found = near_plan(large, many, cluster(few, 60), Deadline(0.0))
    assert not found.searched
    assert found.plan.gpus == many.gpus
    assert (found.moves, found.least) == (moved(many, cluster(few, 60)), 0)
    assert near_plan(large, many, cluster(few, 60), Deadline(20.0)).searched
    assert trade_off(large, found, cluster(few, 60), Deadline(0.0)) == []
    with pytest.raises(TooManyMovesError, match="in time"):
        plan_within(large, many, cluster(few, 60), 1, Deadline(0.0))


def test_what_runs_is_not_kept_where_it_is_not_as_good_or_not_enough() -> None:
    small, large = problem(RATES), problem({name: 2 * rate for name, rate in RATES.items()})
    few, many = ExactPlanner().plan(small), ExactPlanner().plan(large)
    assert len(near_plan(small, few, cluster(many, 60), Deadline(20.0)).plan.gpus) == len(few.gpus)
    assert len(near_plan(large, many, cluster(few, 60), Deadline(20.0)).plan.gpus) == len(many.gpus)
    alone = replace(small, max_services_per_gpu=1)
    apart = ExactPlanner().plan(alone)
    kept = near_plan(alone, apart, cluster(few, 60), Deadline(20.0)).plan
    assert all(len({each.service for each in gpu.instances}) == 1 for gpu in kept.gpus)
    more = problem(RATES, min_replicas=6)
    asked = ExactPlanner().plan(more)
    given = Counter(
        each.service for gpu in nearest(more, asked, cluster(few, 60)).gpus for each in gpu.instances
    )
    assert min(given.values()) >= 6


def test_empty_gpus_beyond_those_that_can_be_used_change_nothing() -> None:
    before = ExactPlanner().plan(problem(RATES))
    wanted = problem({name: 1.3 * rate for name, rate in RATES.items()})
    plan = ExactPlanner().plan(wanted)
    few, many = (
        near_plan(wanted, plan, cluster(before, count), Deadline(20.0)) for count in (len(plan.gpus), 500)
    )
    assert (few.moves, len(few.plan.gpus)) == (many.moves, len(many.plan.gpus))


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_services_that_fill_whole_gpus_change_nothing_in_the_moves_of_others(factor: float) -> None:
    before = ExactPlanner().plan(problem(RATES))
    few = problem({**RATES, "b": factor * RATES["b"]})
    plan = ExactPlanner().plan(few)
    alone = near_plan(few, plan, cluster(before), Deadline(60.0))
    wanted = few.with_services((*few.services, *WHOLE))
    found = near_plan(wanted, with_whole_gpus(plan), cluster(with_whole_gpus(before)), Deadline(60.0))
    assert len(found.plan.gpus) == len(alone.plan.gpus) + len(WHOLE)
    assert (found.moves, found.proven) == (alone.moves, True)


WHOLE = tuple(
    Service(
        f"whole-{i}", "whole", 50.0, 50.0, 10.0,
        tuple(OperatingPoint(z.profile, 8, 1, 50.0, 5.0, "mean") if "7g" in z.profile else None for z in SIZES),
    )
    for i in range(200)
)  # fmt: skip
"""Services of which each needs a whole GPU."""


def with_whole_gpus(plan: Plan) -> Plan:
    """Return a plan with them as well."""
    more = []
    for i, each in enumerate(WHOLE):
        point = each.points[-1]
        assert point is not None
        more.append(
            PlannedGpu(
                f"whole/gpu-{i}",
                GPU.name,
                (Instance(Placement(0, point.profile), each.name, "whole", point),),
            )
        )
    value, bound = plan.objective.value + len(more), plan.objective.lower_bound + len(more)
    services = (*plan.services, *(ServiceCapacity(each.name, 50.0, 50.0, 10.0) for each in WHOLE))
    objective = replace(plan.objective, value=value, lower_bound=bound)
    return replace(plan, objective=objective, services=services, gpus=(*plan.gpus, *more))


@pytest.mark.parametrize("limit", [{"spread": 2}, {"survive": "node"}, {"survive": "gpu"}])
def test_a_plan_whose_limits_would_be_broken_is_returned_as_it_is(limit: dict[str, Any]) -> None:
    before = ExactPlanner().plan(problem(RATES))
    wanted = problem({name: 1.3 * rate for name, rate in RATES.items()}, **limit)
    plan = ExactPlanner().plan(problem({name: 1.3 * rate for name, rate in RATES.items()}))
    one_node = Deployment(
        tuple(replace(g, id=f"node-0/gpu-{i}") for i, g in enumerate(cluster(before, 8).gpus))
    )
    assert nearest(wanted, plan, one_node) is plan


# --- against all plans of small problems

A30 = gpu_model("a30-24gb").restricted(["1g.6gb", "2g.12gb", "4g.24gb"])
THROUGHPUT = {"a": (7.0, 15.0, 24.0), "b": (10.0, 16.0, 36.0)}
WATTS = (20.0, 45.0, 70.0)
State = tuple[tuple[float, ...], tuple[int, ...], tuple[int, ...]]
"""Items/s, replicas that stay and replicas that start, of each service."""


def small_problem(rates: tuple[float, float], objective: str, replicas: int = 1) -> Problem:
    services = tuple(
        Service(
            name, name, rate, rate, 10.0,
            tuple(
                OperatingPoint(p.name, 8, 1, each, 5.0, "mean", power_w=watts)
                for p, each, watts in zip(A30.profiles, THROUGHPUT[name], WATTS, strict=True)
            ),
            min_replicas=replicas,
        )
        for name, rate in zip(THROUGHPUT, rates, strict=True)
    )  # fmt: skip
    sizes = tuple(Size(0, profile.name) for profile in A30.profiles)
    return Problem((Pool("a30", A30, 4),), services, sizes, objective=objective)  # type: ignore[arg-type]


def pareto(wanted: Problem, current: Deployment) -> dict[int, float]:
    """Return the least value of the plans with each number of moves, by trying every plan."""
    found: dict[State, float] = {((0.0, 0.0), (0, 0), (0, 0)): 0.0}
    runs = Counter(each.replica.service for gpu in current.gpus for each in gpu.instances if each.replica)
    for gpu in current.gpus:
        ways = _ways_of(
            wanted, {each.placement: each.replica.service for each in gpu.instances if each.replica}
        )
        after: dict[State, float] = {}
        for (have, stay, start), value in found.items():
            for (more, stays, starts), price in ways.items():
                key = (
                    tuple(min(x + y, s.rate) for x, y, s in zip(have, more, wanted.services, strict=True)),
                    tuple(x + y for x, y in zip(stay, stays, strict=True)),
                    tuple(x + y for x, y in zip(start, starts, strict=True)),
                )
                after[key] = min(after.get(key, 1e9), value + price)
        found = after
    best: dict[int, float] = {}
    for (have, stay, start), value in found.items():
        enough = all(x >= s.rate for x, s in zip(have, wanted.services, strict=True))
        many = all(x + y >= s.min_replicas for x, y, s in zip(stay, start, wanted.services, strict=True))
        if enough and many:
            moves = sum(max(runs[s.name] - stay[i], start[i]) for i, s in enumerate(wanted.services)) + sum(
                n for name, n in runs.items() if name not in THROUGHPUT
            )
            best[moves] = min(best.get(moves, 1e9), value)
    return best


def _ways_of(wanted: Problem, now: dict[object, str]) -> dict[State, float]:
    ways: dict[State, float] = {}
    for layout in legal_layouts(A30):
        for names in product(range(2), repeat=len(layout)):
            have, stay, start = [0.0, 0.0], [0, 0], [0, 0]
            watts = 0.0
            for place, s in zip(layout, names, strict=True):
                k = [p.name for p in A30.profiles].index(place.profile)
                have[s] += THROUGHPUT[wanted.services[s].name][k]
                watts += WATTS[k]
                kept = now.get(place) == wanted.services[s].name
                stay[s] += kept
                start[s] += not kept
            price = watts if wanted.objective == "watts" else float(bool(names))
            key = tuple(have), tuple(stay), tuple(start)
            ways[key] = min(ways.get(key, 1e9), price)
    return {way: price for way, price in ways.items() if not _outdone(way, price, ways)}


def _outdone(way: State, price: float, ways: dict[State, float]) -> bool:
    """Say whether another way keeps and starts as many replicas, does as many items/s, and takes no more."""
    have, *replicas = way
    return any(
        other != way
        and replicas == rest
        and cost <= price
        and all(x <= y for x, y in zip(have, more, strict=True))
        for other, cost in ways.items()
        for more, *rest in [other]
    )


def least_moves(best: dict[int, float], value: float) -> int:
    return min(moves for moves, each in best.items() if each <= value + 1e-6)


@pytest.mark.parametrize("objective", ["gpus", "watts"])
@pytest.mark.parametrize("seed", range(4))
def test_no_plan_of_any_value_has_fewer_moves_than_the_one_found(seed: int, objective: str) -> None:
    draw = random.Random(seed)
    old, new = ((draw.randrange(10, 70) * 1.0, draw.randrange(10, 70) * 1.0) for _ in range(2))
    before = ExactPlanner().plan(small_problem(old, "gpus"))
    current = Deployment(
        (
            *deployment_of(before).gpus,
            *(DeployedGpu(f"node-1/gpu-{i}", A30.name, ()) for i in range(4 - len(before.gpus))),
        )
    )
    wanted = small_problem(new, objective, replicas=draw.choice((1, 2)))
    fresh = ExactPlanner().plan(wanted)
    best = pareto(wanted, current)
    assert fresh.objective.value == pytest.approx(min(best.values()))

    near = near_plan(wanted, fresh, current, Deadline(20.0))
    assert near.plan.objective.value == pytest.approx(fresh.objective.value)
    assert near.moves == near.least == least_moves(best, fresh.objective.value)
    assert moved(near.plan, current) == near.moves

    for most in range(min(best), near.moves + 1):
        within = plan_within(wanted, fresh, current, most, Deadline(20.0))
        assert within.moves <= most
        assert within.plan.objective.value == pytest.approx(min(v for n, v in best.items() if n <= most))
        assert within.plan.objective.proven
        assert moved(within.plan, current) == within.moves
    if min(best):
        with pytest.raises(
            InfeasibleError, match=f"at most {min(best) - 1} moves; the fewest are {min(best)}"
        ):
            plan_within(wanted, fresh, current, min(best) - 1, Deadline(20.0))

    trade = trade_off(wanted, near, current, Deadline(20.0))
    for each in trade:
        assert each.moves < near.moves
        assert each.moves == least_moves(best, each.plan.objective.value)
    if trade:
        assert trade[-1].moves == min(best)
    else:
        assert near.moves == min(best)
