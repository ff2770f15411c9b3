"""However short the time, whatever is asked: a plan with an honest gap where a greedy pass finds one."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from tests.planning.problems import A30, A100, service
from tests.planning.rightness import assert_right

from partita.planning.exact import ExactPlanner
from partita.planning.exact.best_effort import plan_best_effort
from partita.planning.problem import ObjectiveName, Pool, Problem, Size
from partita.planning.watch import Watch

AT_ONCE = [Watch(0.0), Watch(1e-3), Watch(stop=lambda: True)]
IDS = ["no time", "a millisecond", "Ctrl-C at once"]


def asked(services: int, seed: int, **more: object) -> Problem:
    """Random services on three pools, one of them without a count so that there is a plan."""
    rng = random.Random(seed)
    pools = (
        Pool("a", A100, 10, 4, 3.0),
        Pool("b", A100, None, 8, 3.5),
        Pool("c", A30, 30, 2, 1.0),
    )
    sizes = tuple(Size(i, p.name) for i, pool in enumerate(pools) for p in pool.gpu.profiles)
    made = []
    for index in range(services):
        whole = rng.uniform(10, 1000)
        runs = {
            p.name: whole * p.compute / 7 * rng.uniform(0.7, 1.4) for p in (*A100.profiles, *A30.profiles)
        }
        nodes, replicas = rng.choice([1, 1, 1, 2, 3]), rng.choice([1, 1, 2])
        one = service(
            f"s{index}", whole * rng.uniform(0.05, 3), sizes, runs, spread=nodes, min_replicas=replicas
        )
        limited = rng.random() < 0.2
        made.append(
            replace(
                one,
                points=tuple(
                    p if not limited or size.pool != 2 else None
                    for p, size in zip(one.points, sizes, strict=True)
                ),
            )
        )
    return Problem(pools, tuple(made), sizes, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("watch", AT_ONCE, ids=IDS)
@pytest.mark.parametrize("objective", ["gpus", "cost"])
@pytest.mark.parametrize("most", [None, 1, 2, 3, 5])
def test_there_is_a_plan_at_once(watch: Watch, objective: ObjectiveName, most: int | None) -> None:
    problem = asked(30, 1, objective=objective, max_services_per_gpu=most)
    plan = ExactPlanner(watch=watch).plan(problem)
    assert_right(plan, problem)
    assert 0 < plan.objective.lower_bound <= plan.objective.value


@pytest.mark.parametrize("most", [None, 2])
def test_there_is_a_plan_at_once_for_many_services(most: int | None) -> None:
    problem = asked(400, 2, max_services_per_gpu=most)
    plan = ExactPlanner(watch=Watch(0.0)).plan(problem)
    assert_right(plan, problem)


@pytest.mark.parametrize("most", [None, 1, 2])
def test_services_of_a_scarce_pool_alone_find_room_in_it_at_once(most: int | None) -> None:
    problem = asked(20, 4, max_services_per_gpu=most)
    captive = [
        replace(
            each,
            rate=each.rate / 4,
            asked_rate=each.rate / 4,
            spread=min(each.spread, 2),
            points=tuple(
                p if size.pool == 0 else None for p, size in zip(each.points, problem.sizes, strict=True)
            ),
        )
        for each in problem.services[:5]
    ]
    problem = problem.with_services((*captive, *problem.services[5:]))
    assert_right(ExactPlanner(watch=Watch(0.0)).plan(problem), problem)


def test_few_services_need_no_time_either() -> None:
    for seed in range(5):
        problem = asked(6, seed, max_services_per_gpu=2)
        assert_right(ExactPlanner(watch=Watch(0.0)).plan(problem), problem)


def test_a_pool_that_just_suffices_is_enough_at_once() -> None:
    """Covers that are cheapest one by one do not fit the counts: then a greedy pass is what there is."""
    problem = asked(20, 3)
    needed = len(ExactPlanner(watch=Watch(2.0)).plan(problem.with_counts({"a": 1, "c": 1})).gpus)
    tight = problem.with_counts({"a": 10, "b": needed, "c": 30})
    assert_right(ExactPlanner(watch=Watch(0.0)).plan(tight), tight)


def test_best_effort_keeps_what_it_can_where_services_cannot_be_spread() -> None:
    problem = asked(4, 5).with_counts({"a": 1, "b": 1, "c": 1})
    plan = plan_best_effort(problem, Watch(5.0))
    assert plan.gpus
