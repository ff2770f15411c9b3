"""Pricing against trying every cover."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from partita.plan.exact.pricing import cheapest_covers

sizes = st.integers(1, 3)


@st.composite
def covers(draw: st.DrawFn):
    """Draw costs, throughputs, a rate and replicas of one service that runs on at least one size."""
    k = draw(sizes)
    throughput = np.array([draw(st.integers(0, 9)) for _ in range(k)], dtype=float)
    throughput[draw(st.integers(0, k - 1))] += 1
    cost = np.array([draw(st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0, 1.7])) for _ in range(k)])
    return cost, throughput, float(draw(st.integers(1, 25))), draw(st.integers(1, 4))


@given(covers())
def test_no_cover_is_cheaper(drawn) -> None:
    cost, throughput, rate, replicas = drawn
    found = np.zeros((1, len(cost)), dtype=np.int32)
    bounds = cheapest_covers(
        cost[None, :], throughput[None, :], np.array([rate]), np.array([replicas]), found
    )
    runs = throughput > 0
    least = min(
        float(cost @ counts)
        for counts in product(*(range(26) if ok else range(1) for ok in runs))
        if np.dot(throughput, counts) >= rate and sum(counts) >= replicas
    )
    assert np.isclose(bounds[0], least)
    assert np.isclose(found[0] @ cost, least)
    assert found[0] @ throughput >= rate
    assert found[0].sum() >= replicas
    assert not found[0][~runs].any()
