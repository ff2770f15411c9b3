"""The genetic pipeline: valid, reproducible, never worse than greedy, and better on public services."""

from __future__ import annotations

import pytest
from benchmarks.scenarios import mig_serving_24
from hypothesis import given, settings
from tests.planning.problems import A100, problem, problems
from tests.planning.rightness import assert_right

from partita.errors import InfeasibleError, InputError
from partita.planning.paper.genetic import GeneticPlanner
from partita.planning.paper.greedy import GreedyPlanner
from partita.planning.problem import Pool, Problem
from partita.planning.watch import Progress, Watch


def quick(seed: int = 0, watch: Watch | None = None) -> GeneticPlanner:
    return GeneticPlanner(seed, 2, 2, 1, watch or Watch())


def placeable(asked: Problem) -> bool:
    """Say whether the greedy deployment can be spread over nodes, which is decided after planning."""
    try:
        GreedyPlanner().plan(asked)
    except InfeasibleError:
        return False
    return True


@settings(max_examples=25)
@given(problems())
def test_plans_are_right_and_no_worse_than_the_greedy_ones(asked: Problem) -> None:
    if placeable(asked):
        plan = quick().plan(asked)
        assert_right(plan, asked)
        assert plan.objective.value <= GreedyPlanner().plan(asked).objective.value + 1e-9


@settings(max_examples=10)
@given(problems())
def test_the_same_seed_gives_the_same_plan(asked: Problem) -> None:
    if placeable(asked):
        first, second = (quick(seed=5).plan(asked) for _ in range(2))
        assert first.gpus == second.gpus


@pytest.mark.usefixtures("shared_data")
def test_it_improves_on_greedy_for_public_services() -> None:
    asked = mig_serving_24("normal", 1)
    greedy = GreedyPlanner().plan(asked).objective
    better = GeneticPlanner().plan(asked).objective
    assert better.value < greedy.value
    assert better.value >= better.lower_bound == greedy.lower_bound


@pytest.mark.usefixtures("shared_data")
def test_it_stops_in_time_with_the_best_so_far() -> None:
    asked = mig_serving_24("lognormal", 0)
    watch = Watch(time_limit=1.0)
    plan = GeneticPlanner(rounds_without_gain=10**6, watch=watch).plan(asked)
    assert plan.solver.seconds < 6.0
    assert_right(plan, asked)


@pytest.mark.usefixtures("shared_data")
def test_progress_tells_the_best_and_the_bound() -> None:
    told: list[Progress] = []
    asked = mig_serving_24("normal", 0)
    quick(watch=Watch(report=told.append)).plan(asked)
    assert told
    assert all(each.best is not None and each.bound is not None for each in told)


def test_a_plan_that_is_proven_optimal_is_not_searched_further() -> None:
    told: list[Progress] = []
    asked = problem([Pool("a100", A100)], {"s": (70.0, {"1g.5gb": 1.0})})
    plan = GeneticPlanner(watch=Watch(report=told.append)).plan(asked)
    assert plan.objective.proven
    assert not told


@pytest.mark.parametrize("values", [(0, 2, 2), (2, 0, 2), (2, 2, -1)])
def test_parameters_out_of_range_are_refused(values: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match=r"is (0|-1)"):
        GeneticPlanner(0, *values)
