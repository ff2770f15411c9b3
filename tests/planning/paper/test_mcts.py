"""Tree search: valid, reproducible, never worse than the greedy pass, and better where greedy errs."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from tests.planning.deployments import assert_valid, cost
from tests.planning.problems import A30, A100, problem, problems, small_problems

from partita.errors import InfeasibleError, InputError
from partita.planning.paper.demand import Demand, gpus_left
from partita.planning.paper.greedy import greedy_configs
from partita.planning.paper.mcts import MctsPlanner, TreeSearch
from partita.planning.problem import Pool, Problem
from partita.planning.watch import Watch

if TYPE_CHECKING:
    from collections import Counter

    from partita.planning.plan import GpuConfig


def search(asked: Problem, seed: int = 0, iterations: int = 8) -> Counter[GpuConfig]:
    demand = Demand(asked)
    found = TreeSearch(demand, random.Random(seed), Watch()).run(
        demand.start, gpus_left(asked, {}), iterations
    )
    assert found is not None
    return found


@settings(max_examples=25)
@given(problems())
def test_deployments_are_valid_and_no_worse_than_the_greedy_ones(asked: Problem) -> None:
    found = search(asked)
    assert_valid(asked, found)
    assert cost(asked, found) <= cost(asked, greedy_configs(asked)) + 1e-9


@settings(max_examples=15)
@given(problems())
def test_the_same_seed_gives_the_same_deployment(asked: Problem) -> None:
    assert search(asked, seed=3) == search(asked, seed=3)


@settings(max_examples=25)
@given(small_problems(count=3))
def test_pools_are_not_overdrawn(asked: Problem) -> None:
    demand = Demand(asked)
    found = TreeSearch(demand, random.Random(0), Watch()).run(demand.start, gpus_left(asked, {}), 8)
    if found is not None:
        assert_valid(asked, found)


def test_it_plans_with_the_bound_that_proves_it() -> None:
    asked = problem([Pool("a100", A100)], {"s": (70.0, {"1g.5gb": 1.0})})
    objective = MctsPlanner().plan(asked).objective
    assert (objective.value, objective.lower_bound, objective.proven) == (10.0, 10.0, True)


def test_too_few_gpus_name_the_services_that_are_short() -> None:
    asked = problem([Pool("a30", A30, 1)], {"big": (100.0, {"4g.24gb": 10.0})})
    with pytest.raises(InfeasibleError, match="leaves unmet: big"):
        MctsPlanner(iterations=3).plan(asked)


def test_a_watch_that_is_over_returns_the_greedy_pass() -> None:
    asked = problem([Pool("a100", A100)], {"s": (71.0, {"1g.5gb": 1.0, "4g.20gb": 3.0})})
    plan = MctsPlanner(watch=Watch(stop=lambda: True)).plan(asked)
    assert plan.objective.value == cost(asked, greedy_configs(asked))


def test_no_iterations_are_refused() -> None:
    with pytest.raises(InputError, match="0 iterations"):
        MctsPlanner(iterations=0)
