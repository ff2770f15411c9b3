from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serve.problems import sublinear

from partita.perf.table import Measurement
from partita.serve.problem import (
    REFUSED,
    ServingOutcome,
    class_of,
    in_words,
    latency_table,
    size_classes,
)
from partita.serve.simulation import attainment_by_class, keeps
from partita.sim.traffic import Traffic, lognormal_share


def row(profile: str, batch: int, latency_ms: float, processes: int = 1) -> Measurement:
    return Measurement("m", "a100-40gb", profile, batch, processes, 1.0, latency_ms, "mean")


def test_latency_is_interpolated_between_measured_batches_and_unknown_beyond() -> None:
    rows = [
        row("1g.5gb", 2, 20),
        row("1g.5gb", 4, 60),
        row("2g.10gb", 1, 5),
        row("1g.5gb", 3, 1, processes=2),
    ]
    seen = latency_table(rows, ["1g.5gb", "2g.10gb", "3g.20gb"], 5)
    assert seen[0] == pytest.approx([0.02, 0.02, 0.04, 0.06, np.inf])
    assert seen[1] == pytest.approx([0.005, *[np.inf] * 4])
    assert np.isinf(seen[2]).all()


shares = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40).filter(lambda each: sum(each) > 0.01)


@given(shares)
def test_classes_end_at_powers_of_two_or_the_largest_size_and_have_a_twentieth_at_least(
    share: list[float],
) -> None:
    ends = size_classes(np.array(share))
    assert ends[-1] == len(share)
    assert list(ends) == sorted(set(ends))
    assert all(end & (end - 1) == 0 for end in ends[:-1])
    own = class_of(ends, len(share))
    parts = np.bincount(own, weights=share) / sum(share)
    assert len(ends) == 1 or parts.min() >= 0.05 - 1e-12
    assert [ends[each] >= size for size, each in enumerate(own.tolist(), 1)] == [True] * len(share)


def test_classes_of_a_log_normal_have_names() -> None:
    assert in_words(size_classes(lognormal_share(4, 0.9, 32))) == ["1", "2", "3-4", "5-8", "9-32"]
    assert in_words(size_classes(np.array([0.01, 0.99]))) == ["1-2"]
    assert class_of((2, 8), 10).tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 1, 1]


@given(st.data())
def test_each_size_is_kept_where_every_class_would_be_kept_alone(data: st.DataObject) -> None:
    found = replace(sublinear(), classes=(2, 4, 8), quantile=data.draw(st.sampled_from([0.5, 0.8])))
    sizes = data.draw(st.lists(st.integers(1, 8), min_size=1, max_size=80))
    late = np.array([data.draw(st.booleans()) for _ in sizes])
    traffic = Traffic(np.arange(len(sizes), dtype=float), np.array(sizes))
    outcome = ServingOutcome(np.where(late, np.inf, 1.0), np.where(late, REFUSED, 0).astype(np.int16))
    steady = [(size, bad) for size, bad in zip(sizes, late, strict=True)][len(sizes) // 10 :]
    by_hand = []
    for least, most in ((1, 2), (3, 4), (5, 8)):
        own = [not bad for size, bad in steady if least <= size <= most]
        by_hand.append(sum(own) / len(own) if own else 1.0)
    assert attainment_by_class(found, lambda _: outcome, [traffic, traffic]).tolist() == by_hand
    assert keeps(found, lambda _: outcome, [traffic], 1.0) == (min(by_hand) >= found.quantile)
    mix = replace(found, classes=())
    assert keeps(mix, lambda _: outcome, [traffic], 1.0) == (
        sum(not bad for _, bad in steady) / len(steady) >= found.quantile
    )
    if keeps(found, lambda _: outcome, [traffic], 1.0):
        assert keeps(mix, lambda _: outcome, [traffic], 1.0)
