from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.serve.reserving.cases import formulated, service, table, workload

from partita.deadline import Deadline
from partita.errors import InfeasibleError
from partita.planning.check import check_plan, requirements
from partita.planning.exact import ExactPlanner, TooFewGpusError, plan_best_effort
from partita.serve.problem import ServingOutcome
from partita.serve.reserving import reservation
from partita.serve.reserving.check import check_reserved, schedule_fault
from partita.serve.reserving.planning import plan_reserving, reserve_best_effort
from partita.serve.reserving.reservation import describe, running, shared_part
from partita.sim.traffic import Traffic
from partita.transition.deployment import deployment_of
from partita.workload import Batches, PoolSpec, Slo

if TYPE_CHECKING:
    from partita.planning.plan import Plan
    from partita.planning.problem import Problem
    from partita.serve.reserving.planning import ReservedPlan
    from partita.workload import Workload

A30, A100 = "a30-24gb", "a100-40gb"
SHARING = service(name="share", cut=None, batches=None, rate=300, slo=Slo(latency_ms=200))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a cut holds is found with a quarter of the queries; the checker simulates as many as ever."""
    monkeypatch.setattr(reservation, "_QUERIES", 5_000)


def planned(asked: Workload) -> ReservedPlan:
    made, cuts = formulated(asked)
    found = plan_reserving(made.problem, cuts, ExactPlanner().plan, Deadline())
    assert check_plan(found.plan, requirements(asked), made.measured) == []
    assert check_reserved(found.plan, cuts, made.problem.pools) == []
    return found


def services_of(plan: Plan) -> list[set[str]]:
    return [{each.service for each in gpu.instances} for gpu in plan.gpus]


def test_both_parts_stand_in_the_workloads_order_and_add_up() -> None:
    asked = workload(service(), SHARING, service(name="other", rate=100, cut="paris"))
    found = planned(asked)
    plan = found.plan
    assert [each.name for each in plan.services] == ["net", "share", "other"]
    assert all(len(each) == 1 for each in services_of(plan))
    alone = ExactPlanner().plan(formulated(workload(SHARING))[0].problem)
    reserved = sum(len(each.cut.gpus) for each in found.made)
    assert plan.objective.value == len(plan.gpus) == reserved + len(alone.gpus)
    assert plan.objective.lower_bound == sum(each.least for each in found.made) + alone.objective.lower_bound


def test_services_with_a_cut_alone_make_a_plan() -> None:
    plan = planned(workload(service())).plan
    assert set.union(*services_of(plan)) == {"net"}


@pytest.mark.parametrize(("cost", "pool"), [(1.0, A30), (9.0, A100)])
def test_the_pool_that_costs_least_is_taken_and_that_is_said(cost: float, pool: str) -> None:
    pools = (PoolSpec(model=A30, cost_per_hour=cost), PoolSpec(model=A100, cost_per_hour=2.0))
    asked = workload(service(rate=2000), gpus=pools, objective="cost")
    found = planned(asked)
    assert {gpu.model for gpu in found.plan.gpus} == {pool}
    assert "the best pool of" in describe(found.made[0], formulated(asked)[0].problem.pools)


def test_a_pool_that_the_others_need_is_left_to_them() -> None:
    big = PoolSpec(model=A100, count=1)
    only_big = service(
        name="share", cut=None, batches=None, rate=100, slo=Slo(latency_ms=33), profiles=("7g",)
    )
    asked = workload(service(rate=200), only_big, gpus=(big, PoolSpec(model=A30, count=9)))
    plan = planned(asked).plan
    assert {gpu.model for gpu, names in zip(plan.gpus, services_of(plan), strict=True) if "net" in names} == {
        A30
    }


def test_pools_of_one_gpu_are_told_apart_by_their_cost() -> None:
    pools = (
        PoolSpec(model=A30, name="dear", cost_per_hour=5.0),
        PoolSpec(model=A30, name="cheap", cost_per_hour=1.0, count=4),
    )
    planned(workload(service(rate=1500), SHARING, gpus=pools, objective="cost"))


def test_spread_and_limits_of_sharing_are_kept() -> None:
    asked = workload(
        service(rate=100, spread=2),
        SHARING,
        gpus=(PoolSpec(model=A30, per_node=2),),
        limits={"max_services_per_gpu": 1},
    )
    nodes = {gpu.id.split("/")[0] for gpu in planned(asked).plan.gpus if gpu.instances[0].service == "net"}
    assert len(nodes) >= 2


def test_too_few_gpus_say_for_whom() -> None:
    asked = workload(service(rate=3000), gpus=(PoolSpec(model=A30, count=2),))
    with pytest.raises(TooFewGpusError, match="net needs whole ones of its own") as error:
        planned(asked)
    assert error.value.where == "services[0]"


def best_effort(asked: Workload) -> Plan:
    made, cuts = formulated(asked)

    def share(problem: Problem) -> Plan:
        return plan_best_effort(problem, Deadline(5.0))

    return reserve_best_effort(made.problem, cuts, share, Deadline(20.0)).plan


def test_with_too_few_gpus_what_is_left_serves_as_far_as_it_goes() -> None:
    asked = workload(
        service(rate=3000), service(name="small", rate=150, priority=1), gpus=(PoolSpec(model=A30, count=3),)
    )
    net, small = best_effort(asked).services
    assert 0 < net.capacity < net.rate == 3000
    assert small.capacity >= 150


def test_a_sharing_service_goes_before_one_of_lower_priority() -> None:
    high = SHARING.replace(priority=3)
    one = (PoolSpec(model=A30, count=1),)
    assert [
        each.capacity > 0 for each in best_effort(workload(service(rate=100), high, gpus=one)).services
    ] == [False, True]
    low = SHARING.replace(priority=-3)
    assert [
        each.capacity > 0 for each in best_effort(workload(service(rate=60), low, gpus=one)).services
    ] == [True, False]


def test_no_gpu_that_helps_is_infeasible() -> None:
    asked = workload(service(), gpus=(PoolSpec(model=A30, count=1),))
    made, cuts = formulated(asked)
    none = made.problem.with_counts({A30: 0})
    with pytest.raises(InfeasibleError, match="not even partly"):
        reserve_best_effort(none, cuts, ExactPlanner().plan, Deadline())


def test_figures_of_what_runs_stay_while_they_are_right() -> None:
    asked = workload(service(cut="search"))
    first = planned(asked)
    made, cuts = formulated(
        workload(service(cut="search", rate=590, batches=Batches(histogram={1: 51, 4: 30, 8: 19})))
    )
    current = deployment_of(first.plan)
    again = plan_reserving(
        made.problem, cuts, ExactPlanner().plan, Deadline(), running=running(current, cuts)
    )
    assert deployment_of(again.plan) == current
    assert shared_part(current, cuts).gpus == ()


def test_the_checker_finds_what_is_wrong() -> None:
    asked = workload(service())
    made, cuts = formulated(asked)
    plan = planned(asked).plan

    def changed(factor: float, batch: int) -> list[str]:
        gpus = tuple(
            replace(gpu, instances=tuple(
                replace(each, point=replace(
                    each.point, throughput=each.point.throughput * factor, batch=each.point.batch + batch))
                for each in gpu.instances))
            for gpu in plan.gpus
        )  # fmt: skip
        return [each.what for each in check_reserved(replace(plan, gpus=gpus), cuts, made.problem.pools)]

    assert changed(1.0, 0) == []
    assert "no router holds more" in changed(3.0, 0)[0]
    assert "are late or refused" in changed(1.15, 0)[0]
    assert "items in time, not" in changed(1.0, 1)[0]
    assert check_reserved(replace(plan, gpus=()), cuts, made.problem.pools)[0].what.startswith("on 0 models")


def test_a_schedule_in_which_an_instance_runs_two_queries_at_once_is_found() -> None:
    problem = formulated(workload(service()))[1][0].offers[0].problem
    counts, own = np.array([1, 0, 0]), problem.latency[0, 0]
    both = Traffic(np.array([1.0, 1.0 + own / 2]), np.array([1, 1]))
    one = np.zeros(2, dtype=np.int16)
    late = ServingOutcome(np.array([own, 1.5 * own]), one)
    assert schedule_fault(problem, counts, both, late) is None
    assert schedule_fault(problem, counts, both, ServingOutcome(np.array([own, own]), one)) is not None
    assert (
        schedule_fault(problem, counts, both, ServingOutcome(np.array([own / 2, 1.5 * own]), one)) is not None
    )


def test_a_table_without_one_of_the_pools_gives_the_other() -> None:
    asked = workload(service(), gpus=(PoolSpec(model=A30), PoolSpec(model=A100)))
    rows = type(table())(row for row in table() if row.gpu == A100)
    assert [each.pool for each in formulated(asked, rows)[1][0].offers] == [1]
