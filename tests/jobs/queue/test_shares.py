"""Users' shares of the GPUs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.jobs.queue.table import UsageShares, UserShare

DAY = 86400.0


def test_what_a_user_has_had_counts_half_after_the_half_life() -> None:
    shares = UsageShares({"alice": UserShare(800.0, 0.0)}, half_life_s=7 * DAY)
    assert shares.at(7 * DAY)["alice"] == pytest.approx(400.0)
    assert shares.at(21 * DAY)["alice"] == pytest.approx(100.0)
    more = shares.plus("alice", 50.0, 7 * DAY)
    assert more.gpu_seconds == pytest.approx(450.0)
    assert more.at == 7 * DAY


def test_who_had_much_long_ago_comes_before_who_had_some_just_now() -> None:
    shares = UsageShares(
        {"alice": UserShare(1000.0, 0.0), "bob": UserShare(200.0, 28 * DAY)}, half_life_s=7 * DAY
    )
    now = shares.at(28 * DAY)
    assert now["alice"] < now["bob"]


@given(st.floats(0, 1e9), st.lists(st.floats(-1e9, 1e9), max_size=8))
def test_no_jump_of_the_clock_makes_a_share_grow(had: float, moments: list[float]) -> None:
    shares = UsageShares({"alice": UserShare(had, 0.0)})
    for moment in moments:
        before = shares.at(moment)["alice"]
        assert 0.0 <= before <= had
        shares.put({"alice": shares.plus("alice", 0.0, moment)})
