"""Spread, pools and limits, against every plan that there is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from tests.planning.exhaustive import least_objective
from tests.planning.problems import A30, A100, crowded_problems, problem
from tests.planning.rightness import assert_right

from partita.deadline import Deadline
from partita.errors import InfeasibleError
from partita.planning.exact import ExactPlanner
from partita.planning.problem import Pool

if TYPE_CHECKING:
    from partita.planning.problem import Problem


@given(crowded_problems())
@settings(max_examples=100)
def test_a_plan_is_found_and_proven_best_wherever_there_is_one(asked: Problem) -> None:
    least = least_objective(asked)
    if least is None:
        with pytest.raises(InfeasibleError):
            ExactPlanner(deadline=Deadline(60.0)).plan(asked)
        return
    plan = ExactPlanner(deadline=Deadline(60.0)).plan(asked)
    assert_right(plan, asked)
    assert plan.objective.value == pytest.approx(least)
    assert plan.objective.proven


def spread(asked: Problem, *nodes: int) -> Problem:
    pairs = zip(asked.services, nodes, strict=True)
    return asked.with_services(tuple(replace(each, spread=n) for each, n in pairs))


def test_more_nodes_than_there_are_is_refused_with_the_count() -> None:
    asked = problem([Pool("a", A30, 8, 4)], {"bert": (1.0, {"1g.6gb": 5.0})})
    with pytest.raises(
        InfeasibleError, match="bert must be spread over 3 nodes, and only 2 can run it"
    ) as told:
        ExactPlanner().plan(spread(asked, 3))
    assert told.value.exit_code == 4


def test_the_cut_changes_where_a_service_must_stand_on_both_nodes() -> None:
    """Two GPUs would suffice side by side; on two nodes of one GPU, each must hold a slice of both services."""
    runs = {"a": (4.0, {"1g.6gb": 1.0}), "b": (4.0, {"1g.6gb": 1.0})}
    plan = ExactPlanner().plan(spread(problem([Pool("p", A30, 2, 1)], runs), 2, 2))
    assert_right(plan, spread(problem([Pool("p", A30, 2, 1)], runs), 2, 2))
    assert (plan.objective.value, plan.objective.proven) == (2.0, True)


def test_services_are_spread_across_pools_of_unlike_gpus() -> None:
    runs = {"a": (2.0, {"1g.6gb": 1.0, "1g.5gb": 1.0}), "b": (2.0, {"1g.6gb": 1.0, "1g.5gb": 1.0})}
    asked = spread(problem([Pool("a30", A30, 1, 8), Pool("a100", A100, 1, 8)], runs), 2, 2)
    plan = ExactPlanner().plan(asked)
    assert_right(plan, asked)
    assert plan.objective.proven


def test_services_with_gpus_of_their_own_are_spread_or_proven_not_to_be() -> None:
    runs = {"a": (1.0, {"1g.6gb": 5.0}), "b": (1.0, {"1g.6gb": 5.0})}
    asked = spread(problem([Pool("p", A30, 4, 2)], runs, max_services_per_gpu=1), 2, 2)
    plan = ExactPlanner().plan(asked)
    assert_right(plan, asked)
    assert (plan.objective.value, plan.objective.proven) == (4.0, True)
    with pytest.raises(InfeasibleError, match=r"at most 1 service on a GPU spread over the nodes .*proven"):
        ExactPlanner().plan(asked.with_counts({"p": 3}))


def test_a_large_cluster_is_spread_without_a_program() -> None:
    runs = {
        f"s{i}": (30.0 + i, {p.name: p.compute * (1.0 + i % 3) for p in A100.profiles}) for i in range(40)
    }
    asked = spread(problem([Pool("a100", A100, 200, 8)], runs), *[1 + i % 3 for i in range(40)])
    plan = ExactPlanner(deadline=Deadline(5.0)).plan(asked)
    assert_right(plan, asked)
