"""Lower bounds: by hand on tiny problems, and never above what a planner reaches."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from tests.planning.deployments import cost
from tests.planning.problems import A30, A100, point, problem, problems, small_problems

from partita.planning.bound import lower_bound, lp_bound, relax, rule_free_bound
from partita.planning.exact import ExactPlanner
from partita.planning.mig_serving import GreedyPlanner, greedy_configs
from partita.planning.problem import Pool, Problem


def test_the_rule_free_bound_takes_the_most_efficient_size() -> None:
    # 100 items/s per compute slice at best, on 2g; 3500 items/s need 35 slices, which are 5 GPUs.
    runs = {"1g.5gb": 80.0, "2g.10gb": 200.0, "7g.40gb": 600.0}
    asked = problem([Pool("a100", A100)], {"s": (3500.0, runs)})
    assert rule_free_bound(asked) == pytest.approx(5.0)


def test_the_relaxation_knows_that_three_2g_fill_a_gpu() -> None:
    asked = problem([Pool("a100", A100)], {"s": (3000.0, {"2g.10gb": 200.0})})
    assert rule_free_bound(asked) == pytest.approx(30 / 7)
    assert lp_bound(asked) == pytest.approx(5.0)
    assert lower_bound(asked) == 5.0


def test_unlike_pools_are_weighed_by_what_their_gpus_cost() -> None:
    pools = [Pool("a100", A100, cost=4.0), Pool("a30", A30, cost=1.0)]
    runs = {"7g.40gb": 400.0, "4g.24gb": 200.0}
    asked = problem(pools, {"s": (800.0, runs)}, objective="cost")
    assert rule_free_bound(asked) == pytest.approx(4.0)
    assert lp_bound(asked) == pytest.approx(4.0)


def test_replicas_alone_need_gpus() -> None:
    asked = problem([Pool("a30", A30)], {"s": (1.0, {"4g.24gb": 100.0})})
    many = asked.with_services((replace(asked.services[0], min_replicas=3),))
    assert lower_bound(many) == 3.0


def test_watts_are_those_of_instances_alone() -> None:
    asked = problem([Pool("a30", A30)], {"s": (8.0, {"4g.24gb": 4.0})}, objective="watts")
    points = (None, None, point("4g.24gb", 4.0, power_w=100.0))
    asked = asked.with_services((replace(asked.services[0], points=points),))
    assert rule_free_bound(asked) == lp_bound(asked) == pytest.approx(200.0)
    assert GreedyPlanner().plan(asked).objective.proven


def test_too_few_gpus_even_for_the_relaxation_have_an_infinite_bound() -> None:
    asked = problem([Pool("a30", A30, 1)], {"s": (100.0, {"4g.24gb": 10.0})})
    assert lp_bound(asked) == math.inf
    assert lower_bound(asked) == math.inf


def test_prices_add_up_to_the_optimum_where_only_rates_bind() -> None:
    runs = {"a": (50.0, {"1g.6gb": 3.0, "4g.24gb": 10.0}), "b": (70.0, {"2g.12gb": 7.0})}
    asked = problem([Pool("a30", A30)], runs)
    found = relax(asked)
    assert float(asked.rate @ found.price) == pytest.approx(found.value)


@given(small_problems())
def test_no_bound_is_above_the_optimum(asked: Problem) -> None:
    optimum = ExactPlanner().plan(asked).objective
    assert optimum.proven
    assert lower_bound(asked) <= optimum.value


@given(problems())
def test_no_bound_is_above_a_deployment(asked: Problem) -> None:
    assert lower_bound(asked) <= cost(asked, greedy_configs(asked)) + 1e-6
