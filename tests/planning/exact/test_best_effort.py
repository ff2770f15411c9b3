"""Too few GPUs: what is met, and by whom first."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.planning.problems import A30, problem, small_problems

from partita.planning.exact.best_effort import met_shares, plan_best_effort
from partita.planning.problem import Pool, Problem
from partita.planning.watch import Watch


def with_priorities(asked: Problem, *priorities: int) -> Problem:
    pairs = zip(asked.services, priorities, strict=False)
    return asked.with_services(tuple(replace(service, priority=p) for service, p in pairs))


def test_the_service_of_highest_priority_is_met_and_the_rest_shares_what_is_left() -> None:
    runs = {"low": (8.0, {"1g.6gb": 2.0}), "high": (4.0, {"1g.6gb": 2.0}), "tiny": (2.0, {"1g.6gb": 2.0})}
    asked = with_priorities(problem([Pool("a30", A30, count=1)], runs), 0, 5, 0)
    plan = plan_best_effort(asked, Watch(10.0))
    assert {service.name: service.capacity for service in plan.services} == {
        "low": 2.0,
        "high": 4.0,
        "tiny": 2.0,
    }


def test_with_enough_gpus_best_effort_is_the_plan_itself() -> None:
    asked = problem([Pool("a30", A30, count=2)], {"a": (8.0, {"1g.6gb": 2.0})})
    plan = plan_best_effort(asked, Watch(10.0))
    assert len(plan.gpus) == 1
    assert plan.services[0].capacity >= 8.0


@given(small_problems(services=4, count=1), st.permutations([0, 1, 2, 3]))
@settings(max_examples=30)
def test_no_service_is_met_at_the_cost_of_one_of_higher_priority(
    asked: Problem, priorities: list[int]
) -> None:
    asked = with_priorities(asked, *priorities)
    shares = met_shares(asked, Watch(10.0))
    order = sorted(range(len(asked.services)), key=lambda s: -asked.services[s].priority)
    whole = [s for s in order if shares.met[s] >= 1.0]
    for position, s in enumerate(order):
        if s in whole:
            continue
        alone = [t for t in order[:position] if t in whole] + [s]
        subset = asked.with_services(tuple(asked.services[t] for t in sorted(alone)))
        assert met_shares(subset, Watch(10.0)).met.min() < 1.0
