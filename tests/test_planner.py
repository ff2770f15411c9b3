"""The one function that plans a workload."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.cli.test_plan import CUT_WORKLOAD, SMALL, write_cut_table

from partita.deadline import Deadline
from partita.errors import InputError
from partita.planner import PlanResult, check, plan, read_prepared
from partita.planning.exact import TooFewGpusError
from partita.transition.deployment import Deployment, deployment_of
from partita.transition.shortest import Shortest
from partita.transition.transition import MEASURED, Request

if TYPE_CHECKING:
    from pathlib import Path

    from partita.planner import PreparedWorkload

CUT = f"    cut: fluid\n    batches: {SMALL}\n"

UNHURRIED_S = 600.0
"""Searches end by themselves long before, so that two plans are compared and not two moments of a busy machine."""


@pytest.fixture(params=["shared", "cut"])
def asked(request: pytest.FixtureRequest, tmp_path: Path) -> PreparedWorkload:
    """A workload of two services on 8 GPUs: both share, or one of them has a cut."""
    return written(tmp_path, cut=request.param == "cut")


def written(folder: Path, *, cut: bool, count: int = 8) -> PreparedWorkload:
    write_cut_table(folder)
    text = CUT_WORKLOAD.format(rate=900, batches=SMALL, count=count, cut="fluid")
    path = folder / "workload.yaml"
    path.write_text(text if cut else text.replace(CUT, ""))
    return read_prepared(path)


def test_a_plan_is_right_and_says_what_was_reserved(asked: PreparedWorkload) -> None:
    found = plan(asked)
    assert check(found.plan, asked) == []
    assert len(found.reservations) == len(asked.cuts)
    assert found.notes == (*asked.assumptions, *found.reservations)


def test_a_workload_that_nobody_prepared_is_planned_alike(asked: PreparedWorkload) -> None:
    alike = plan(asked.workload, deadline=Deadline(UNHURRIED_S)).plan
    assert alike.gpus == plan(asked, deadline=Deadline(UNHURRIED_S)).plan.gpus


def test_best_effort_is_the_whole_plan_where_the_gpus_suffice(asked: PreparedWorkload) -> None:
    whole = plan(asked, best_effort=True, deadline=Deadline(UNHURRIED_S)).plan
    assert whole.gpus == plan(asked, deadline=Deadline(UNHURRIED_S)).plan.gpus


@pytest.mark.parametrize("cut", [False, True])
def test_best_effort_plans_what_fits_where_they_do_not(tmp_path: Path, *, cut: bool) -> None:
    asked = written(tmp_path, cut=cut, count=1)
    with pytest.raises(TooFewGpusError):
        plan(asked)
    found = plan(asked, best_effort=True).plan
    assert len(found.gpus) == 1
    assert any(each.capacity < each.rate for each in found.services)
    with pytest.raises(InputError, match="this planner does not support --best-effort"):
        plan(asked, best_effort=True, planner="greedy")


def test_what_runs_stays_as_it_is_where_that_is_as_good(asked: PreparedWorkload) -> None:
    runs = deployment_of(plan(asked).plan)
    turned = Deployment(tuple(replace(gpu, id=f"node-1/gpu-{i}") for i, gpu in enumerate(runs.gpus[::-1])))
    again = deployment_of(plan(asked, current=turned).plan)
    assert Shortest().transition(Request(turned, again, {}, {}, MEASURED)).moved == 0


def test_a_workload_is_asked_at_the_rates_and_on_the_gpus_of_a_moment(asked: PreparedWorkload) -> None:
    now = asked.at(
        {"search": 300.0, "photos": 10.0},
        {cut.spec.name: cut.shares for cut in asked.cuts},
        {"a100-40gb": 3},
    )
    found = plan(now, deadline=Deadline(10.0))
    assert isinstance(found, PlanResult)
    assert {each.name: each.rate for each in found.plan.services} == {"search": 300.0, "photos": 10.0}
    assert now.problem.pools[0].count == 3
    assert len(found.plan.gpus) <= 2
