from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from partita.jobs.memory.bounds import (
    UNLIMITED,
    Bounds,
)
from partita.jobs.memory.history import Ended, History


def test_history_without_outcomes_says_nothing():
    assert History().bounds() == Bounds(0.0, UNLIMITED)


@given(st.floats(1.0, 100.0), st.lists(st.sampled_from([5.0, 10.0, 20.0, 40.0]), max_size=10))
def test_a_history_of_one_need_always_bounds_it(need, limits):
    history = History().and_then(Ended(limit, limit < need) for limit in limits)
    assert history.bounds().lower <= need
    assert need <= history.bounds().upper


def test_a_history_that_contradicts_itself_believes_the_newest():
    assert History((Ended(10.0, False), Ended(10.0, True))).bounds() == Bounds(10.0, UNLIMITED)
    assert History((Ended(10.0, True), Ended(10.0, False))).bounds() == Bounds(0.0, 10.0)
