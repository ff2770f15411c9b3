"""Spread, pools and limits, against every plan that there is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from tests.plan.exhaustive import least_objective
from tests.plan.problems import crowded_problems
from tests.plan.rightness import assert_right

from partita.errors import InfeasibleError
from partita.plan.exact import ExactPlanner
from partita.plan.problem import Problem
from partita.plan.watch import Watch

if TYPE_CHECKING:
    from partita.plan.problem import Problem


@given(crowded_problems())
@settings(max_examples=150)
def test_a_plan_is_found_and_proven_best_wherever_there_is_one(asked: Problem) -> None:
    least = least_objective(asked)
    if least is None:
        with pytest.raises(InfeasibleError):
            ExactPlanner(watch=Watch(60.0)).plan(asked)
        return
    plan = ExactPlanner(watch=Watch(60.0)).plan(asked)
    assert_right(plan, asked)
    assert plan.objective.value == pytest.approx(least)
    assert plan.objective.proven
