"""Plans are made anew when there is a reason to, and not more often than they are held."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.control.reconciler import (
    LEAST_RATE,
    Demand,
    Hysteresis,
    Planned,
    RatesFile,
    distance,
    judge,
    wanted,
)
from partita.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

HYSTERESIS = Hysteresis(dead_band=0.1, hold_s=300.0)
PLANNED = Planned(at=1000.0, document="d", demand=Demand({"bert": 100.0}, {"bert": {1: 0.5, 8: 0.5}}))


@pytest.mark.parametrize(
    ("document", "rate", "now", "why", "now_or_held"),
    [
        ("d", 100.0, 2000.0, None, ""),
        ("d", 109.9, 2000.0, None, ""),
        ("d", 90.1, 2000.0, None, ""),
        ("d", 110.1, 2000.0, "bert is at 110.1 items/s, planned for 100", "now"),
        ("d", 89.9, 2000.0, "bert is at 89.9 items/s, planned for 100", "now"),
        ("d", 200.0, 1299.0, "bert is at 200 items/s, planned for 100", "held"),
        ("e", 100.0, 1300.0, "the workload has changed", "now"),
        ("e", 100.0, 1299.0, "the workload has changed", "held"),
    ],
)
def test_a_plan_is_left_when_a_rate_leaves_its_band_or_the_file_changes(
    document: str, rate: float, now: float, why: str | None, now_or_held: str
) -> None:
    verdict = judge(PLANNED, document, Demand({"bert": rate}), now, HYSTERESIS)
    assert (verdict.why, verdict.now) == (why, now_or_held == "now")


def test_the_first_plan_is_made_at_once() -> None:
    assert judge(None, "d", Demand({}), 0.0, HYSTERESIS).now


@given(st.lists(st.floats(1.0, 1000.0), min_size=1, max_size=50), st.floats(1.0, 100.0))
def test_whatever_the_rates_do_plans_are_held(rates: list[float], step: float) -> None:
    planned, made, now = PLANNED, [PLANNED.at], PLANNED.at
    for rate in rates:
        now += step
        if judge(planned, "d", Demand({"bert": rate}), now, HYSTERESIS).now:
            planned = Planned(now, "d", Demand({"bert": rate}))
            made.append(now)
    assert all(b - a >= HYSTERESIS.hold_s for a, b in pairwise(made))


@pytest.mark.parametrize(
    ("shares", "why"),
    [
        ({1: 0.5, 8: 0.5}, None),
        ({1: 0.4, 8: 0.6}, None),
        ({1: 0.3, 8: 0.7}, "bert has other batch sizes of 20% of its queries than planned for"),
        ({1: 0.5, 9: 0.5}, "bert has other batch sizes of 50% of its queries than planned for"),
    ],
)
def test_a_plan_is_left_when_batch_sizes_shift(shares: dict[int, float], why: str | None) -> None:
    asked = Demand({"bert": 100.0}, {"bert": shares})
    assert judge(PLANNED, "d", asked, 2000.0, HYSTERESIS).why == why
    assert not judge(PLANNED, "d", asked, 1299.0, HYSTERESIS).now


SHARES = st.dictionaries(st.integers(1, 6), st.floats(0.01, 1.0), min_size=1)


@given(SHARES, SHARES)
def test_the_distance_of_distributions_is_a_share_of_the_queries(
    one: dict[int, float], other: dict[int, float]
) -> None:
    one, other = ({size: part / sum(each.values()) for size, part in each.items()} for each in (one, other))
    assert distance(one, one) == 0.0
    assert distance(one, other) == distance(other, one)
    assert -1e-9 <= distance(one, other) <= 1.0 + 1e-9


def test_a_measured_rate_goes_before_the_written_one_and_is_never_nothing() -> None:
    written = Demand({"a": 5.0, "b": 6.0, "c": 7.0}, {"a": {1: 1.0}, "b": {2: 1.0}})
    seen = Demand({"a": 9.0, "b": 0.0, "other": 1.0}, {"a": {3: 1.0}, "c": {4: 1.0}})
    assert wanted(written, seen) == Demand(
        {"a": 9.0, "b": LEAST_RATE, "c": 7.0}, {"a": {3: 1.0}, "b": {2: 1.0}}
    )


def test_rates_are_read_from_a_file_once_it_is_there(tmp_path: Path) -> None:
    source = RatesFile(tmp_path / "rates.json")
    assert source.measured() == Demand({})
    (tmp_path / "rates.json").write_text('{"bert": 12}')
    assert source.measured() == Demand({"bert": 12.0})


def test_what_the_gateway_writes_is_read_beside_plain_rates(tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    path.write_text(
        '{"bert": 12, "vgg": {"rate": 8.5, "batches": {"8": 3, "1": 1, "4": 0}}, "idle": {"rate": 0, "batches": {}}}'
    )
    found = RatesFile(path).measured()
    assert found.rates == {"bert": 12.0, "vgg": 8.5, "idle": 0.0}
    assert found.batches == {"vgg": {1: 0.25, 8: 0.75}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        '{"bert": "12"}',
        '{"bert": -1}',
        '{"bert": true}',
        '{"bert": NaN}',
        "{",
        '{"bert": {}}',
        '{"bert": {"rate": -1}}',
        '{"bert": {"rate": 1, "batches": [1]}}',
        '{"bert": {"rate": 1, "batches": {"0": 1}}}',
        '{"bert": {"rate": 1, "batches": {"x": 1}}}',
        '{"bert": {"rate": 1, "batches": {"1": -1}}}',
        '{"bert": {"rate": 1, "sizes": {}}}',
    ],
)
def test_rates_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rates.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"rates\.json"):
        RatesFile(path).measured()
