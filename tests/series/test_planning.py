"""Plans for a series: what they meet, what changes between them cost, and that nothing small is better."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import combinations_with_replacement, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.series.days import PROFILES, prepared, series

from partita import planner
from partita.deadline import Deadline
from partita.errors import InfeasibleError, InputError, PartitaError
from partita.series.planning import MOVE_PRICE, PlannedSeries, at_rates, moves_of, plan_series
from partita.series.rates import Period, RateSeries
from partita.transition.check import check_transition
from partita.transition.deployment import deployment_of
from partita.transition.transition import ActionKind

DAY = [
    {"s1": 20.0, "s2": 20.0},
    {"s1": 90.0, "s2": 20.0},
    {"s1": 90.0, "s2": 150.0},
    {"s1": 20.0, "s2": 20.0},
]


def check(planned: PlannedSeries, work: planner.PreparedWorkload) -> None:
    """Hold every plan to its rates and every change to its floors, with the checkers."""
    chosen = planned.chosen
    assert [run.first for run in chosen.runs] == [0, *(run.last for run in chosen.runs[:-1])]
    assert chosen.runs[-1].last == len(planned.series.periods)
    for run in chosen.runs:
        for period in planned.series.periods[run.first : run.last]:
            asked = at_rates(work, period.rates)
            capacity = {each.name: each.capacity for each in run.plan.services}
            for spec in () if asked is None else asked.workload.services:
                assert capacity[spec.name] >= spec.rate * (1 + spec.headroom) * (1 - 1e-9)
        asked = at_rates(work, planned.series.most(run.first, run.last))
        if asked is not None:
            assert planner.check(run.plan, asked) == []
    runs = {run.first: run for run in chosen.runs}
    before, ended = None, 0.0
    for change in chosen.changes:
        assert check_transition(change.request, change.transition) == []
        assert before is None or change.request.current == before
        before = change.transition.target
        ran = Counter(replicas(before))
        assert ran == Counter(replicas(deployment_of(runs[change.period].plan)))
        periods = planned.series.periods
        assert change.seconds <= 3600 * min(periods[change.period - 1].hours, periods[change.period].hours)
        assert ended <= change.begin <= periods[change.period].begin
        ended = change.end
        assert (
            ended == pytest.approx(periods[change.period].begin)
            or change.begin == periods[change.period].begin
        )


def replicas(deployment) -> list[tuple[str, str]]:
    return [
        (each.placement.profile, each.replica.service)
        for gpu in deployment.gpus
        for each in gpu.instances
        if each.replica is not None
    ]


def test_plans_follow_the_rates_and_hold_where_that_is_cheaper():
    work = prepared()
    planned = plan_series(work, series(*DAY), anew=True)
    check(planned, work)
    assert planned.bounds == planned.alone
    assert planned.peak is not None
    assert planned.bound <= planned.chosen.total <= planned.peak.total
    assert planned.near is not None
    assert planned.fresh is not None
    assert planned.chosen.cost(planned.move_price) <= planned.near.cost(planned.move_price)
    assert planned.move_price == MOVE_PRICE == pytest.approx(38 / 3600)
    assert {change.period for change in planned.chosen.changes} <= set(planned.savings)


def test_moves_that_cost_enough_leave_one_plan():
    work = prepared()
    planned = plan_series(work, series(*DAY), move_price=100.0)
    check(planned, work)
    assert len(planned.chosen.runs) == 1
    assert planned.chosen.moves == 0
    assert planned.peak is not None
    assert planned.chosen.value_hours == planned.peak.value_hours


def test_equal_rates_need_no_change():
    work = prepared()
    planned = plan_series(work, series(*[DAY[1]] * 5))
    check(planned, work)
    assert planned.chosen.changes == ()
    assert planned.chosen.total == planned.bound


def test_a_service_that_is_off_has_no_replica_and_all_may_be_off():
    work = prepared()
    off = {"s1": 0.0, "s2": 0.0}
    planned = plan_series(work, series({"s1": 40.0, "s2": 0.0}, off, {"s1": 0.0, "s2": 80.0}), move_price=0.0)
    check(planned, work)
    assert [len(planned.chosen.run_of(index).plan.gpus) for index in range(3)] == [1, 0, 1]
    assert [each.name for each in planned.chosen.run_of(0).plan.services] == ["s1"]
    assert planned.bounds[1] == 0


def test_a_change_begins_before_a_rise_and_at_a_fall():
    work = prepared(1)
    planned = plan_series(work, series({"s1": 20.0}, {"s1": 180.0}, {"s1": 20.0}), move_price=0.0)
    check(planned, work)
    up, down = planned.chosen.changes
    assert up.begin == pytest.approx(1 - up.seconds / 3600)
    assert down.begin == 2
    assert up.moves == moves_of(up.transition) > 0
    starts = sum(action.kind is ActionKind.START_REPLICA for action in up.transition.actions)
    assert up.moves >= starts


def test_gpus_in_use_during_a_change_count():
    work = prepared(1)
    planned = plan_series(work, series({"s1": 20.0}, {"s1": 180.0}), move_price=0.0)
    (change,) = planned.chosen.changes
    # From 1 to 4 GPUs ahead of the rise: three more GPUs for as long as their replicas take to start, at most.
    assert 0 < change.gpu_hours <= 3 * change.seconds / 3600
    assert planned.chosen.in_change == pytest.approx(change.gpu_hours)


def test_periods_too_short_for_a_change_are_planned_together():
    work = prepared(1)
    quick = RateSeries((Period(0, 0.001, {"s1": 20.0}), Period(0.001, 1.0, {"s1": 180.0})))
    planned = plan_series(work, quick)
    check(planned, work)
    assert planned.near is None
    assert len(planned.chosen.runs) == 1


def test_cost_is_that_of_pools():
    work = prepared(objective="cost")
    planned = plan_series(work, series(*DAY))
    check(planned, work)
    assert planned.gpu_value == 2.0
    assert planned.move_price == pytest.approx(2 * MOVE_PRICE)
    assert planned.chosen.value_hours == sum(
        2.0 * len(planned.chosen.run_of(index).plan.gpus) for index in range(len(DAY))
    )


def test_watts_are_refused():
    work = prepared()
    watts = replace(work, workload=work.workload.replace(objective="watts"))
    with pytest.raises(InputError, match="watts"):
        plan_series(watts, series(*DAY))


def test_too_few_gpus_name_the_time():
    with pytest.raises(InfeasibleError, match="at 02:00: too few GPUs"):
        plan_series(prepared(count=3), series(*DAY))


def test_gpus_that_suffice_at_each_time_need_not_suffice_for_the_largest_rates():
    work = prepared(count=3)
    planned = plan_series(work, series({"s1": 90.0, "s2": 20.0}, {"s1": 20.0, "s2": 180.0}), move_price=100.0)
    check(planned, work)
    assert planned.peak is None
    assert len(planned.chosen.runs) == 2
    assert planned.savings == {1: math.inf}
    assert all(len(change.request.current.gpus) == 3 for change in planned.chosen.changes)


def test_changes_that_fit_nowhere_are_told():
    work = prepared(count=3)
    quick = RateSeries(
        (Period(0, 0.001, {"s1": 90.0, "s2": 20.0}), Period(0.001, 0.001, {"s1": 20.0, "s2": 180.0}))
    )
    with pytest.raises(PartitaError, match="no plans were found whose changes fit") as fault:
        plan_series(work, quick)
    assert fault.value.hint == "write longer periods, or raise `count`"


def test_whoever_stops_the_search_gets_the_best_so_far():
    work = prepared()
    planned = plan_series(work, series(*DAY), deadline=Deadline(stop=lambda: True))
    check(planned, work)
    assert planned.near is None
    assert len(planned.chosen.runs) == 1


@settings(max_examples=8, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries({"s1": st.integers(0, 120), "s2": st.integers(0, 200)}), min_size=1, max_size=5
    ),
    st.sampled_from([0.0, 0.01, 0.3]),
    st.sampled_from([None, 3]),
)
def test_every_plan_meets_its_rates_and_every_change_its_floors(rates, price, count):
    work = prepared(count=count)
    asked = series(*({name: float(rate) for name, rate in each.items()} for each in rates))
    planned, refused = None, ""
    try:
        planned = plan_series(work, asked, move_price=price)
    except PartitaError as error:
        refused = error.what
    if planned is None:
        assert count is not None
        assert "too few GPUs" in refused or "no plans were found whose changes fit" in refused
        return
    check(planned, work)
    assert planned.chosen.value_hours >= planned.bound - 1e-9


LAYOUTS = [layout for n in range(5) for layout in combinations_with_replacement(PROFILES, n)]
SLICES = {"1g.6gb": 1, "2g.12gb": 2, "4g.24gb": 4}


@pytest.mark.parametrize("price", [0.0, 0.02, 0.2, 0.6])
@pytest.mark.parametrize("rates", [(10, 60, 10, 60, 30), (90, 20, 20, 40, 95), (5, 48, 49, 48, 5)])
def test_no_sequence_of_deployments_is_better_on_small_cases(rates, price):
    """All deployments of one service on two A30s, and all sequences of them by dynamic programming.

    Moves are counted by size, as if every replica could stay, and GPUs held by changes are left out, so that the
    optimum is at most that of real plans.
    """
    planned = plan_series(prepared(1), series(*({"s1": float(rate)} for rate in rates)), move_price=price)
    layouts = [each for each in LAYOUTS if sum(SLICES[profile] for profile in each) <= 4]
    fewest: dict[tuple[str, ...], int] = {}
    for one, other in product(layouts, layouts):
        state = tuple(sorted(one + other))
        fewest[state] = min(fewest.get(state, 2), bool(one) + bool(other))
    able = [
        [state for state in fewest if sum(PROFILES[p] for p in state) >= rate and state] for rate in rates
    ]
    cost = {state: float(fewest[state]) for state in able[0]}
    for now in able[1:]:
        cost = {
            state: fewest[state] + min(cost[old] + price * moves(old, state) for old in cost) for state in now
        }
    found = planned.chosen.value_hours + price * planned.chosen.moves
    assert found >= min(cost.values()) - 1e-9
    assert found <= min(cost.values()) * 1.1 + 1e-9


def moves(old: tuple[str, ...], new: tuple[str, ...]) -> int:
    starts, stops = Counter(new) - Counter(old), Counter(old) - Counter(new)
    return max(starts.total(), stops.total())
