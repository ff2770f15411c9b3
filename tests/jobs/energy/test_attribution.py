"""Who took the energy between two readings of a counter."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.jobs.energy.attribution import NOBODY, Interval, Kind, Owner, Part, Stay, attribute

A, B = Owner(Kind.JOB, "1", 1), Owner(Kind.SERVICE, "resnet50")
HOUR = Interval(0.0, 100.0, 10_000.0, 40.0)


def parts(interval: Interval, *stays: Stay) -> dict[Owner, Part]:
    return {part.owner: part for part in attribute(interval, stays)}


moments = st.floats(-50.0, 150.0)
shares = st.sampled_from([1 / 7, 2 / 7, 3 / 7, 4 / 7, 1.0])
stays = st.builds(
    Stay,
    owner=st.sampled_from([A, B, Owner(Kind.JOB, "2", 1)]),
    gpu=st.just("g"),
    compute=shares,
    memory=st.sampled_from([1 / 8, 2 / 8, 4 / 8, 1.0]),
    began=moments,
    ended=moments | st.just(math.inf),
    activity=st.none() | st.floats(0.0, 1.0),
)


@given(st.floats(0.0, 1e6), st.floats(0.0, 500.0), st.lists(stays, max_size=9))
def test_parts_add_up_to_the_counter_and_none_is_negative(
    joules: float, idle_w: float, found: list[Stay]
) -> None:
    told = attribute(Interval(0.0, 100.0, joules, idle_w), found)
    assert math.fsum(part.idle_j + part.active_j for part in told) == pytest.approx(joules, abs=1e-6)
    assert all(part.idle_j >= 0.0 and part.active_j >= 0.0 and part.seconds >= 0.0 for part in told)
    assert len({part.owner for part in told}) == len(told)


@given(st.floats(0.0, 1e6), st.lists(stays, max_size=9))
def test_who_was_there_later_or_before_takes_nothing(joules: float, found: list[Stay]) -> None:
    away = [each for each in found if each.ended <= 0.0 or each.began >= 100.0]
    told = attribute(Interval(0.0, 100.0, joules, 40.0), away)
    assert [part.owner for part in told] == [NOBODY]


def test_an_idle_gpu_is_shared_by_size_alone() -> None:
    found = parts(Interval(0.0, 100.0, 4000.0, 40.0), Stay(A, "g", 2 / 7, 2 / 8, 0.0))
    assert found[A].idle_j == pytest.approx(4000.0 * (2 / 7 + 2 / 8) / 2)
    assert found[A].active_j == found[NOBODY].active_j == 0.0
    assert found[NOBODY].idle_j == pytest.approx(4000.0 - found[A].idle_j)


def test_a_gpu_that_draws_less_than_idle_has_no_work() -> None:
    assert parts(Interval(0.0, 100.0, 3000.0, 40.0), Stay(A, "g", 1.0, 1.0, 0.0))[A].active_j == 0.0


def test_work_goes_by_activity_where_it_is_known_of_all() -> None:
    found = parts(
        HOUR, Stay(A, "g", 3 / 7, 4 / 8, 0.0, activity=0.9), Stay(B, "g", 3 / 7, 4 / 8, 0.0, activity=0.1)
    )
    assert found[A].active_j == pytest.approx(6000.0 * 0.9)
    assert found[B].active_j == pytest.approx(6000.0 * 0.1)


def test_work_goes_by_compute_slices_where_the_activity_of_one_is_not_known() -> None:
    found = parts(HOUR, Stay(A, "g", 1 / 7, 1 / 8, 0.0, activity=0.9), Stay(B, "g", 3 / 7, 4 / 8, 0.0))
    assert found[B].active_j == pytest.approx(3 * found[A].active_j)
    assert found[A].active_j + found[B].active_j == pytest.approx(6000.0)


def test_one_who_came_half_way_takes_half_as_much() -> None:
    found = parts(HOUR, Stay(A, "g", 3 / 7, 4 / 8, 0.0), Stay(B, "g", 3 / 7, 4 / 8, 50.0, 300.0))
    assert found[A].active_j == pytest.approx(2 * found[B].active_j)
    assert found[A].idle_j == pytest.approx(2 * found[B].idle_j)
    assert (found[A].seconds, found[B].seconds) == (100.0, 50.0)


def test_work_that_nobody_of_ours_did_stays_unallocated() -> None:
    assert parts(HOUR) == {NOBODY: Part(NOBODY, 4000.0, 6000.0, 100.0)}


def test_all_of_a_gpu_without_mig_is_its_users() -> None:
    found = parts(HOUR, Stay(A, "g", 1.0, 1.0, 0.0))
    assert (found[A].idle_j, found[A].active_j) == (4000.0, 6000.0)
    assert (found[NOBODY].idle_j, found[NOBODY].active_j) == (0.0, 0.0)
