from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.perf.measure.statistics import Warmup, common_window, order_statistic, repetitions


def test_a_rare_quantile_takes_more_repetitions():
    assert [repetitions(q) for q in (0.5, 0.9, 0.99)] == [5, 29, 299]


@given(st.lists(st.floats(0, 1e3), min_size=1), st.floats(0.01, 0.99))
def test_a_quantile_is_a_value_that_was_measured_and_at_least_its_share_lies_below(values, q):
    found = order_statistic(sorted(values), q)
    assert found in values
    assert sum(v <= found for v in values) >= q * len(values)
    assert sum(v < found for v in values) < q * len(values)


def test_latencies_are_steady_once_two_windows_agree():
    warmup = Warmup(window=3)
    assert [warmup.add(v) for v in (9, 5, 3, 2, 1.5, 1.2)] == [False] * 6
    assert [warmup.add(v) for v in (1.0, 1.0, 1.0)] == [False] * 3
    assert [warmup.add(v) for v in (1.0, 50.0, 1.01)][-1]  # a single outlier does not matter


def test_the_throughput_is_that_of_the_time_in_which_all_ran():
    fast = [(t / 10, (t + 1) / 10) for t in range(40)]  # 0 to 4 s
    late = [(1.05 + t, 2.05 + t) for t in range(2)]  # 1.05 to 3.05 s
    found = common_window([fast, late])
    assert found is not None
    assert found.seconds == pytest.approx(2.0)
    assert found.per_second == pytest.approx(10 + 1)
    # Those of the fast one that reach over an end count by half in the rate, and not in the latencies.
    assert len(found.latencies) == 19 + 2
    assert found.latencies[-1] == pytest.approx(1.0)


def test_processes_that_never_ran_together_have_no_window():
    assert common_window([[(0.0, 1.0)], [(2.0, 3.0)]]) is None
    assert common_window([[], []]) is None
