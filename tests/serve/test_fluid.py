from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.serve.problems import problem, random_problems, sublinear

from partita.serve.fluid import fluid_cut, fluid_rate, second_prices
from partita.serve.routers.bound import Elsa, Price
from partita.serve.routers.late_binding import LateBinding
from partita.serve.simulation import largest_rate, throughput, unit_traffic


def test_one_size_serves_at_most_its_instances_over_the_mean_latency() -> None:
    found = problem([[1.0, 3.0], [9.0, 9.0], [9.0, 9.0]], [0.5, 0.5], 4.0)
    assert fluid_rate(found, np.array([4, 0, 0]), served=1.0).rate == pytest.approx(4 / 2.0)


def test_what_may_be_missed_is_what_costs_most() -> None:
    found = problem([[1.0, 3.0], [9.0, 9.0], [9.0, 9.0]], [0.5, 0.5], 4.0)
    # Half of the larger ones left out: 0.5 x 1 s and 0.25 x 3 s for each query that comes.
    assert fluid_rate(found, np.array([4, 0, 0]), served=0.75).rate == pytest.approx(4 / 1.25)


def test_a_batch_size_that_is_too_slow_everywhere_allows_no_rate_unless_it_may_be_missed() -> None:
    found = problem([[1.0, 5.0], [1.0, 5.0], [1.0, 5.0]], [0.9, 0.1], 4.0)
    assert fluid_rate(found, np.array([4, 0, 0]), served=1.0).rate == 0
    assert fluid_rate(found, np.array([4, 0, 0]), served=0.9).rate == pytest.approx(4 / 0.9)


@given(random_problems(), st.floats(0.7, 1.0))
@settings(max_examples=40, deadline=None)
def test_prices_account_for_the_whole_rate(drawn, served: float) -> None:
    found, counts = drawn
    fluid = fluid_rate(found, counts, served=served)
    assert fluid.price @ counts == pytest.approx(fluid.rate, rel=1e-5, abs=1e-6)
    assert (second_prices(found, counts) >= 1e-3).all()


@given(random_problems(), st.integers(1, 3), st.floats(0.7, 1.0))
@settings(max_examples=30, deadline=None)
def test_the_fluid_cut_is_the_best_of_all_cuts(drawn, gpus: int, served: float) -> None:
    found = drawn[0].with_gpus(gpus)
    cut, bound = fluid_cut(found, served=served)
    every = combinations_with_replacement(found.multisets, gpus)
    best = max(fluid_rate(found, np.sum(each, axis=0), served=served).rate for each in every)
    assert bound == pytest.approx(best, rel=1e-5, abs=1e-6)
    assert fluid_rate(found, cut.counts, served=served).rate == pytest.approx(best, rel=1e-5, abs=1e-6)
    assert [dict(layout.counts) for layout in cut.layouts(found.gpu)] == [
        {name: n for name, n in zip(found.profiles, each, strict=True) if n} for each in cut.gpus
    ]


@pytest.mark.parametrize("router", [Elsa, Price, LateBinding], ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("counts", [(4, 0, 0), (2, 1, 0), (0, 0, 2), (4, 2, 1)])
def test_no_router_exceeds_the_fluid_bound(router, counts: tuple[int, ...]) -> None:
    found, here = sublinear(deadline=12.0), np.array(counts)
    bound = fluid_rate(found, here, served=found.quantile).rate
    traffic = [unit_traffic(found, 10_000, seed) for seed in (1, 2, 3)]
    reached = throughput(found, here, router, traffic, bound)
    assert reached.rate - 2 * min(reached.half_width, 0.05 * reached.rate) <= bound
    assert reached.rate > 0.2 * bound > 0


def test_late_binding_holds_more_than_elsa_and_first_idle_on_the_same_cut() -> None:
    found, counts = sublinear(), np.array([4, 2, 1])
    traffic = [unit_traffic(found, 10_000, seed) for seed in (1, 2)]
    assert (
        throughput(found, counts, LateBinding, traffic, 1.0).rate
        > 1.1 * throughput(found, counts, Elsa, traffic, 1.0).rate
    )


@given(st.floats(0.01, 1e4), st.floats(0.01, 1e4))
def test_bisection_finds_the_largest_rate_from_any_guess(threshold: float, guess: float) -> None:
    found = largest_rate(lambda rate: rate <= threshold, guess)
    assert threshold * 0.99 <= found <= threshold or threshold < guess * 2e-6


def test_what_is_never_kept_gives_no_rate() -> None:
    assert largest_rate(lambda _: False, 5.0) == 0.0
