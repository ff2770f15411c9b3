from __future__ import annotations

import random

import pytest

from partita.jobs.memory.bounds import (
    UNLIMITED,
    Bounds,
)
from partita.jobs.memory.growth import Growth


def walk(seed: int, steps: int, *, mean: float = 100.0, spread: float = 80.0) -> list[float]:
    rng, values = random.Random(seed), [1000.0]
    for _ in range(steps):
        values.append(values[-1] + max(rng.gauss(mean, spread), 0.0))
    return values


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
