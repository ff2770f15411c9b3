"""Plans are made anew when there is a reason to, and not more often than they are held."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.control.rates import RatesFile
from partita.control.replanning import LEAST_RATE, Holding, Planned, judge, wanted_rates
from partita.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

HOLDING = Holding(dead_band=0.1, hold_s=300.0)
PLANNED = Planned(at=1000.0, document="d", rates={"bert": 100.0})


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
    verdict = judge(PLANNED, document, {"bert": rate}, now, HOLDING)
    assert (verdict.why, verdict.now) == (why, now_or_held == "now")


def test_the_first_plan_is_made_at_once() -> None:
    assert judge(None, "d", {}, 0.0, HOLDING).now


@given(st.lists(st.floats(1.0, 1000.0), min_size=1, max_size=50), st.floats(1.0, 100.0))
def test_whatever_the_rates_do_plans_are_held(rates: list[float], step: float) -> None:
    planned, made, now = PLANNED, [PLANNED.at], PLANNED.at
    for rate in rates:
        now += step
        if judge(planned, "d", {"bert": rate}, now, HOLDING).now:
            planned = Planned(now, "d", {"bert": rate})
            made.append(now)
    assert all(b - a >= HOLDING.hold_s for a, b in pairwise(made))


def test_a_measured_rate_goes_before_the_written_one_and_is_never_nothing() -> None:
    assert wanted_rates({"a": 5.0, "b": 6.0, "c": 7.0}, {"a": 9.0, "b": 0.0, "other": 1.0}) == {
        "a": 9.0,
        "b": LEAST_RATE,
        "c": 7.0,
    }


def test_rates_are_read_from_a_file_once_it_is_there(tmp_path: Path) -> None:
    source = RatesFile(tmp_path / "rates.json")
    assert source.measured() == {}
    (tmp_path / "rates.json").write_text('{"bert": 12}')
    assert source.measured() == {"bert": 12.0}


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"bert": "12"}', '{"bert": -1}', '{"bert": true}', '{"bert": NaN}', "{"]
)
def test_rates_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rates.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"rates\.json"):
        RatesFile(path).measured()
