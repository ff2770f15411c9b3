from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.errors import InputError
from partita.jobs.memory.bounds import (
    MIB,
    UNLIMITED,
    Bounds,
    holds,
    slices,
    smallest,
    training_bytes,
)
from partita.jobs.memory.growth import Growth
from partita.jobs.memory.history import Ended, History
from partita.mig.catalogue import gpu_model

A100 = gpu_model("a100-40gb").restricted(["1g.5gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"])


def walk(seed: int, steps: int, *, mean: float = 100.0, spread: float = 80.0) -> list[float]:
    rng, values = random.Random(seed), [1000.0]
    for _ in range(steps):
        values.append(values[-1] + max(rng.gauss(mean, spread), 0.0))
    return values


def test_bounds_that_cross_are_refused():
    with pytest.raises(InputError, match="cannot need between 2 and 1 bytes"):
        Bounds(2.0, 1.0)


def test_bounds_are_tightened_by_others_and_give_way_to_those_that_contradict():
    assert Bounds(1.0, 9.0).tightened(Bounds(3.0)) == Bounds(3.0, 9.0)
    assert Bounds(1.0, 2.0).tightened(Bounds(5.0, 6.0)) == Bounds(5.0, 6.0)


def test_the_slices_to_climb_each_have_more_memory():
    assert [p.name for p in slices(A100)] == ["1g.5gb", "2g.10gb", "3g.20gb", "7g.40gb"]
    memory = [p.memory_mib or 0 for p in slices(gpu_model("h100-80gb"))]
    assert memory == sorted(set(memory))


def test_the_smallest_slice_is_the_first_that_holds_the_need():
    exactly = (A100.profile("2g.10gb").memory_mib or 0) * MIB
    found, more = smallest(A100, exactly), smallest(A100, exactly + 1)
    assert found == A100.profile("2g.10gb")
    assert holds(A100.profile("2g.10gb"), exactly)
    assert more == A100.profile("3g.20gb")
    assert smallest(A100, 1e12) is None


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


def test_growth_says_only_what_was_seen_until_it_has_seen_enough():
    assert Growth([1.0, 2.0, 3.0], 100).bounds() == Bounds(3.0, UNLIMITED)
    assert Growth(walk(0, 50), None).bounds().upper == UNLIMITED
    assert Growth([], None, context=7.0).bounds() == Bounds(7.0, UNLIMITED)


def test_growth_along_a_line_is_forecast_exactly():
    growth = Growth([10.0 * step for step in range(31)], 100, context=5.0)
    assert growth.bounds().lower == pytest.approx(1005.0)
    assert growth.bounds().upper == pytest.approx(1005.0)
    assert growth.expected() == pytest.approx(1005.0)


def test_at_the_horizon_the_peak_is_what_was_seen():
    values = walk(1, 40)
    assert Growth(values, 40).bounds() == Bounds(max(values), max(values))
    assert Growth(values, 40).expected() == max(values)


def test_the_peak_lies_within_the_interval_almost_always():
    inside = 0
    for seed in range(300):
        values = walk(seed, 120)
        bounds = Growth(values[:41], 120).bounds()
        inside += bounds.lower <= values[-1] <= bounds.upper
    assert inside >= 285


def test_growth_that_has_stopped_does_not_raise_the_lower_bound():
    values = walk(2, 40) + [walk(2, 40)[-1]] * 40
    bounds = Growth(values, 200).bounds()
    assert bounds.lower == pytest.approx(values[-1])
    assert bounds.upper > values[-1]


def test_training_keeps_gradients_and_the_state_of_its_optimiser():
    assert training_bytes(10, 40, "none") == 40
    assert training_bytes(10, 40, "sgd") == 80
    assert training_bytes(10, 40, "adam") == 160
    # Mixed precision: 2 + 2 + a copy of 4 + 8 bytes, the 16 of ZeRO's section 3.1.
    assert training_bytes(10, 20, "adam") == 160
    with pytest.raises(InputError, match="no optimiser"):
        training_bytes(10, 20, "adamm")  # type: ignore[arg-type]
