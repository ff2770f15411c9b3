from __future__ import annotations

import numpy as np
import pytest
from tests.serve.problems import problem, sublinear

from partita.errors import InfeasibleError
from partita.serve.cuts import Homogeneous
from partita.serve.problem import REFUSED, ServingCut, ServingOutcome
from partita.serve.routers.late_binding import LateBinding
from partita.serve.simulation import evaluate, simulate, unit_traffic
from partita.sim.traffic import Traffic


def test_an_evaluation_counts_what_was_in_time_late_and_refused_and_how_busy_each_slice_was() -> None:
    found = problem([[2.0], [1.0], [0.5]], [1.0], 2.5)
    cut = ServingCut.of([(2, 1, 0)])
    traffic = Traffic(np.array([0.0, 0.0, 1.0, 2.0]), np.array([1, 1, 1, 1]))
    outcome = ServingOutcome(np.array([2.0, 1.0, 3.0, np.inf]), np.array([0, 2, 0, REFUSED], dtype=np.int16))
    seen = evaluate(found, cut, traffic, outcome)
    assert (seen.queries, seen.in_time, seen.refused, seen.attainment) == (4, 2, 1, 0.5)
    assert seen.latency == (2.0, np.inf, np.inf, np.inf)
    used = [(each.placement.profile, each.queries, each.busy) for each in seen.slices if each.queries]
    assert sorted(used) == [("1g.6gb", 2, 1.0), ("2g.12gb", 1, 0.25)]
    assert len(seen.slices) == 3


def test_a_simulation_says_what_the_cut_holds_and_what_bounds_it() -> None:
    found = sublinear(gpus=2)
    traffic = unit_traffic(found, 5_000, 9).faster(0.5)
    seen = simulate(found, Homogeneous(2), LateBinding, traffic)
    assert 0 < seen.holds.rate <= seen.bound * 1.02
    assert seen.holds.half_width < 0.2 * seen.holds.rate
    assert seen.evaluation.attainment > 0.95
    busy = [each.busy for each in seen.evaluation.slices]
    assert len(busy) == 2
    assert all(0.1 < share < 1 for share in busy)


def test_a_cut_that_is_too_slow_for_most_queries_is_refused() -> None:
    with pytest.raises(InfeasibleError, match=r"fewer than 0\.95"):
        simulate(sublinear(deadline=1.0), Homogeneous(0), LateBinding, unit_traffic(sublinear(), 100, 1))
