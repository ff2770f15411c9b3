from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from partita.mig.catalogue import gpu_model
from partita.perf.operating_point import OperatingPoint
from partita.planning.exact import ExactPlanner
from partita.planning.problem import Pool, Problem, Service, Size
from partita.transition.deployment import DeployedGpu, Deployment, deployment_of
from partita.transition.nearest_plan import nearest_plan
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
    return Shortest(tries=1).transition(Request(current, deployment_of(plan), {}, {}, MEASURED)).moved


def cluster(plan: Plan, empty_gpus: int = 3) -> Deployment:
    empty = tuple(DeployedGpu(f"node-9/gpu-{i}", GPU.name, ()) for i in range(empty_gpus))
    return Deployment((*deployment_of(plan).gpus, *empty))


RATES = {"a": 310.0, "b": 425.0, "c": 130.0}


@pytest.mark.parametrize("factor", [0.7, 0.95, 1.05, 1.4])
def test_the_nearest_plan_is_as_good_and_moves_no_more(factor: float) -> None:
    before = ExactPlanner().plan(problem(RATES))
    rates = {name: rate * (factor if name != "b" else 2 - factor) for name, rate in RATES.items()}
    wanted = problem(rates)
    plan = ExactPlanner().plan(wanted)
    found = nearest_plan(wanted, plan, cluster(before))
    assert len(found.gpus) <= len(plan.gpus)
    assert found.objective == plan.objective
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
    assert moved(nearest_plan(wanted, before, cluster(turned)), cluster(turned)) == 0


def test_empty_gpus_beyond_those_that_can_be_used_change_nothing() -> None:
    before = ExactPlanner().plan(problem(RATES))
    wanted = problem({name: 1.6 * rate for name, rate in RATES.items()})
    plan = ExactPlanner().plan(wanted)
    few, many = (nearest_plan(wanted, plan, cluster(before, count)) for count in (len(plan.gpus), 500))
    assert few.gpus == many.gpus


def test_a_plan_whose_limits_would_be_broken_is_returned_as_it_is() -> None:
    before = ExactPlanner().plan(problem(RATES))
    wanted = problem({name: 1.3 * rate for name, rate in RATES.items()}, spread=2)
    plan = ExactPlanner().plan(problem({name: 1.3 * rate for name, rate in RATES.items()}))
    one_node = Deployment(tuple(replace(g, id=f"node-0/gpu-{i}") for i, g in enumerate(cluster(before).gpus)))
    assert nearest_plan(wanted, plan, one_node) is plan
