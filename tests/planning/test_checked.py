"""Every planner's plan in the tests goes through the checker."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import pytest
from benchmarks.checked import PLANNERS, _checked
from tests.planning.problems import A30, problem

from partita.deadline import Deadline
from partita.planning.exact import ExactPlanner
from partita.planning.problem import Pool
from partita.registry import make
from partita.registry import names as names_of

ASKED = problem([Pool("a30", A30)], {"s": (1.0, {"1g.6gb": 2.0})})


def test_all_planners_are_wrapped() -> None:
    known = {getattr(import_module(module), name) for module, names in PLANNERS.items() for name in names}
    assert {
        type(make("planners", name, seed=0, deadline=Deadline(1.0))) for name in names_of("planners")
    } == known
    assert all(hasattr(planner.plan, "__wrapped__") for planner in known)


def test_a_wrong_plan_is_not_returned() -> None:
    right = ExactPlanner().plan(ASKED)
    wrong = replace(right, objective=replace(right.objective, value=0.5, lower_bound=0.0))
    assert _checked(lambda *_: right)(ExactPlanner(), ASKED) is right
    with pytest.raises(AssertionError, match=r"ExactPlanner made a wrong plan: objective: value 0\.5"):
        _checked(lambda *_: wrong)(ExactPlanner(), ASKED)
