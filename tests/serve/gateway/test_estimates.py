from __future__ import annotations

import math
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.serve.gateway.estimates import (
    STEP,
    RunningMedian,
    SizeEstimate,
    Slowdown,
    Slowdowns,
    slowed,
    table_of,
)

noise = st.floats(0.95, 1.05)
batches = st.integers(1, 8)


@given(st.lists(noise, min_size=5, max_size=30), st.floats(1e-3, 1e3), st.integers(0, 29))
def test_one_outlier_moves_no_worker(ratios: list[float], outlier: float, at: int) -> None:
    ratios.insert(min(at, len(ratios)), outlier)
    seen = Slowdown()
    changes = [seen.observe(ratio) for ratio in ratios]
    assert not any(changes)
    assert seen.factor == 1.0


@given(st.lists(noise, max_size=20), st.floats(1.5, 100.0))
def test_a_real_slow_down_shows_within_three_batches(before: list[float], slow: float) -> None:
    seen = Slowdown()
    for ratio in before:
        seen.observe(ratio)
    changes = [seen.observe(slow) for _ in range(3)]
    assert any(changes)
    assert slow / STEP <= seen.factor <= slow * STEP


@given(st.floats(1.5, 100.0), noise)
def test_a_worker_that_recovers_is_believed_within_three_batches(slow: float, after: float) -> None:
    seen = Slowdown()
    for _ in range(5):
        seen.observe(slow)
    for _ in range(3):
        seen.observe(after)
    assert seen.factor <= STEP


@given(st.floats(2.0, 100.0))
def test_a_probe_costs_one_batch_if_the_worker_is_still_slow(slow: float) -> None:
    seen = Slowdown()
    for _ in range(5):
        seen.observe(slow)
    before = seen.step
    seen.probe()
    assert seen.factor == 1.0
    assert seen.observe(slow)
    assert seen.step == before


def test_a_probe_ends_the_slowness_of_a_worker_that_is_quick_again() -> None:
    seen = Slowdown()
    for _ in range(5):
        seen.observe(4.0)
    seen.probe()
    changes = [seen.observe(1.0) for _ in range(5)]
    assert not any(changes)
    assert seen.factor == 1.0


@given(st.lists(st.floats(0.1, 10.0), min_size=9, max_size=9))
def test_a_full_window_forgets_the_prior(values: list[float]) -> None:
    median = RunningMedian(100.0, length=9, trust=3)
    for value in values:
        median.add(value)
    assert median.value == sorted(values)[4]


@given(st.dictionaries(batches, st.floats(1e-4, 10.0)), st.integers(1, 12), st.floats(1e-3, 1.0))
def test_tables_keep_what_is_measured_and_are_finite_between(
    seconds: dict[int, float], batch: int, unknown: float
) -> None:
    table = table_of(seconds, batch, unknown)
    assert len(table) == batch + 1
    assert table[0] == 0.0
    assert all(0.0 < each < math.inf for each in table[1:])
    for size, each in seconds.items():
        assert size > batch or table[size] == each
    if not seconds:
        assert set(table[1:]) == {unknown}


def test_tables_are_linear_between_padded_below_and_in_proportion_above() -> None:
    assert table_of({2: 1.0, 4: 2.0}, 6, 9.0) == pytest.approx([0.0, 1.0, 1.0, 1.5, 2.0, 2.5, 3.0])


@given(st.floats(0.5, 4.0), batches)
def test_what_a_size_really_takes_is_learned_for_each_batch(truth: float, batch: int) -> None:
    size = SizeEstimate(table_of({1: 1.0, 8: 4.0}, 8, 1.0))
    given_ = size.seconds[batch]
    for moment in range(9):
        size.observe(batch, truth * given_, 1.0, float(moment))
    assert size.changed == (abs(truth - 1.0) > 0.02)
    if size.changed:
        size.apply()
        assert size.seconds[batch] >= truth * given_ * 0.999
        assert size.seconds == sorted(size.seconds)


def test_a_slow_worker_does_not_spoil_what_is_known_of_its_size() -> None:
    size, slow = SizeEstimate([0.0, 1.0]), Slowdown()
    for moment in range(30):
        slow.observe(3.0 / size.seconds[1])
        size.observe(1, 3.0, slow.factor, float(moment))
        size.apply()
    assert size.seconds[1] == pytest.approx(1.0, rel=0.1)
    assert slow.factor * size.seconds[1] == pytest.approx(3.0, rel=0.05)


def test_corrections_are_forgotten() -> None:
    size = SizeEstimate([0.0, 1.0])
    for moment in range(9):
        size.observe(1, 2.0, 1.0, float(moment))
    size.apply()
    assert size.seconds[1] == 2.0
    size.forget()
    size.apply()
    assert size.seconds[1] == 1.0


def test_a_moment_that_slows_all_workers_is_one_outlier() -> None:
    size = SizeEstimate([0.0, 0.005])
    for worker in range(56):
        size.observe(1, 0.2, 1.0, 10.0 + worker * 1e-4)
    assert not size.changed


def fed(ratios: dict[int, float], rounds: int) -> Slowdowns:
    """Return what is known of a worker whose batches took so many times what they should, one of each a second."""
    seen = Slowdowns(32)
    for second in range(rounds):
        for batch, ratio in ratios.items():
            seen.observe(batch, ratio, float(second))
    return seen


def test_a_worker_that_is_slow_at_large_batches_alone_is_believed_quick_at_small_ones() -> None:
    seen = fed({1: 1.0, 2: 1.0, 8: 1.0, 32: 4.0}, 3)
    assert seen.factor(1) == seen.factor(8) == 1.0
    assert seen.factor(32) == seen.factor(20) >= 4.0 / STEP
    assert seen.value == 4.0


def test_what_was_never_run_is_taken_for_as_slow_as_what_is_nearest_below() -> None:
    seen = fed({4: 4.0}, 3)
    assert seen.factor(1) == seen.factor(4) == seen.factor(32) >= 4.0 / STEP


def test_each_band_is_probed_for_itself_once_it_was_quiet_for_long_enough() -> None:
    seen = fed({1: 1.0, 32: 4.0}, 3)
    assert not seen.probe(2.1, ())
    assert not seen.probe(3.0, (32,)), "one is under way, and will tell"
    assert seen.probe(3.0, (1,))
    assert seen.factor(32) == 1.0
    assert seen.observe(32, 4.0, 3.5)
    assert not seen.probe(3.9, ())
    assert seen.probe(4.1, ())


@given(
    st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=40),
    st.lists(st.integers(-5, 9), min_size=3, max_size=3),
)
def test_a_band_that_is_less_slow_never_makes_larger_batches_quicker(
    grown: list[float], steps: list[int]
) -> None:
    seconds = [0.0, *accumulate(grown)]
    found = slowed(seconds, tuple(steps))
    assert found == sorted(found)
    assert all(each >= plain * STEP ** min(steps) for each, plain in zip(found, seconds, strict=True))
