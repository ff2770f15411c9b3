from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.errors import InputError
from partita.sim.arrivals import Traffic, day_curve, gamma, poisson
from partita.sim.batches import draw, empirical_share, lognormal_share


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_poisson_arrivals_have_their_rate_and_exponential_gaps() -> None:
    gaps = np.diff(poisson(4.0, 50_000, rng()))
    assert gaps.mean() == pytest.approx(0.25, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("variation", [0.3, 1.0, 3.0])
def test_gamma_gaps_have_their_rate_and_variation(variation: float) -> None:
    gaps = np.diff(gamma(4.0, 100_000, rng(), variation))
    assert gaps.mean() == pytest.approx(0.25, rel=0.04)
    assert gaps.std() / gaps.mean() == pytest.approx(variation, rel=0.05)


def test_a_day_has_a_trough_at_its_ends_and_a_peak_between_them() -> None:
    seen = day_curve(10.0, 2000.0, rng(), swing=0.8, period=1000.0)
    counts, _ = np.histogram(seen % 1000, bins=10, range=(0, 1000))
    assert len(seen) == pytest.approx(20_000, rel=0.03)
    assert (np.diff(seen) >= 0).all()
    assert counts[0] < 0.35 * 2000 < 1.6 * 2000 < counts[4]


def test_denser_traffic_has_each_query_so_often_near_its_time() -> None:
    one = Traffic(np.array([100.0, 200.0]), np.array([3, 7]))
    many = one.denser(50, 10.0, rng())
    assert (np.diff(many.arrival) >= 0).all()
    assert np.abs(many.arrival[many.batch == 3] - 100).max() <= 10
    assert np.bincount(many.batch)[[3, 7]].tolist() == [50, 50]


def test_faster_traffic_comes_in_less_time() -> None:
    assert Traffic(np.array([1.0, 4.0]), np.array([1, 1])).faster(2.0).arrival.tolist() == [0.5, 2.0]


@given(st.floats(0.5, 100), st.floats(0.05, 3), st.integers(1, 64))
def test_lognormal_shares_add_up_to_one(median: float, sigma: float, largest: int) -> None:
    try:
        share = lognormal_share(median, sigma, largest)
    except InputError:
        assert largest < median / 2**sigma
        return
    assert share.sum() == pytest.approx(1.0)
    assert (share >= 0).all()


def test_half_of_a_lognormal_is_up_to_its_median() -> None:
    share = lognormal_share(8.0, 0.9, 4096)
    assert share[:8].sum() - share[7] / 2 == pytest.approx(0.5, abs=0.005)


@given(st.lists(st.integers(1, 9), min_size=1))
def test_what_was_seen_is_drawn_again_in_its_shares(batches: list[int]) -> None:
    share = empirical_share(np.array(batches), 9)
    drawn = draw(share, 500, rng())
    assert set(drawn.tolist()) <= set(batches)
    assert share[batches[0] - 1] == pytest.approx(batches.count(batches[0]) / len(batches))
