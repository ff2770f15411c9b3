"""Forecasts of rates: what they are on days that repeat, what they add for errors, and what histories they take."""

from __future__ import annotations

import csv
import math
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from partita.errors import InputError
from partita.series.forecast import forecast, forecast_file
from partita.series.rates import RatesTable, TimedRates

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
START = datetime(2026, 3, 1)  # noqa: DTZ001 -- times of a day, wherever that is


def history(rates, step: float = 1.0) -> RatesTable:
    return RatesTable(tuple(TimedRates(i * step, {"web": rate}) for i, rate in enumerate(rates)), START)


def wave(hour: float) -> float:
    return 100 * (1 + 0.6 * math.sin(2 * math.pi * hour / 24))


def test_a_day_that_repeats_is_forecast_without_error():
    found = forecast(history([wave(i) for i in range(24 * 5)]), {"web": 1.0}, 0.9, "history")
    assert found.series.start == datetime(2026, 3, 6)  # noqa: DTZ001
    assert [period.rates["web"] for period in found.series.periods] == pytest.approx(
        [wave(i) for i in range(24)]
    )
    assert found.error.mean == pytest.approx(0, abs=1e-12)
    assert found.series.hours == 24


def test_it_begins_after_the_last_whole_hour_and_takes_the_mean_of_finer_steps():
    rates = [
        wave(i / 12) for i in range(12 * 24 * 2 + 18)
    ]  # two days and an hour and a half, by five minutes
    found = forecast(history(rates, 1 / 12), {"web": 1.0}, 0.5, "history")
    assert found.series.when(0) == "2026-03-03T01:00"
    first = float(np.mean([wave(1 + i / 12) for i in range(12)]))
    assert found.series.periods[0].rates["web"] == pytest.approx(first)


def test_a_day_above_the_others_raises_the_next_by_half_of_it():
    found = forecast(history([100.0] * 48 + [121.0] * 24), {"web": 1.0}, 0.5, "history")
    mean = (100 + 100 + 121) / 3
    plain = mean * math.sqrt(121 / mean)
    assert found.series.periods[0].rates["web"] >= plain - 1e-9


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95])
def test_about_the_wanted_share_stays_within_it(share):
    rng = np.random.default_rng(1)
    rates = [wave(i) * float(rng.lognormal(0, 0.2)) for i in range(24 * 21)]
    found = forecast(history(rates), {"web": 1.0}, share, "history")
    assert found.error.days == 20
    assert found.error.within == pytest.approx(share, abs=0.07)
    assert 0.1 < found.error.mean < 0.25
    assert f"({share:.0%} wanted)" in found.note


@pytest.mark.skipif(not DATA.is_dir(), reason="the public traces are not there")
def test_on_a_trace_in_bursts_the_wanted_share_stays_within_it_at_a_price():
    with (DATA / "traces" / "gentd26_first_half.csv").open(newline="") as stream:
        rows = [(float(row["seconds"]), float(row["batch"])) for row in csv.DictReader(stream)]
    seconds, sizes = np.array(rows).T
    hours = int(seconds.max() // 3600)
    hourly, _ = np.histogram(seconds, bins=hours, range=(0, hours * 3600), weights=sizes)
    found = forecast(history([float(each) / 3600 for each in hourly]), {"web": 1.0}, 0.9, "history")
    assert found.error.days == 12
    assert found.error.within == pytest.approx(0.9, abs=0.05)
    assert found.error.mean == pytest.approx(0.58, abs=0.01)  # nobody can foresee these bursts
    assert found.error.above is not None
    assert found.error.above > 1


def test_services_without_measurements_keep_their_rates_and_others_are_left_out(tmp_path):
    path = tmp_path / "history.csv"
    rows = [
        f"2026-03-0{1 + hour // 24}T{hour % 24:02}:00,{name},5"
        for hour in range(50)
        for name in ("web", "gone")
    ]
    path.write_text("time,service,rate\n" + "\n".join(rows))
    found = forecast_file(path, {"web": 1.0, "new": 7.0}, 0.9)
    assert found.series.periods[3].rates == pytest.approx({"web": 5.0, "new": 7.0})


def test_hours_in_which_nobody_measured_are_no_hours_without_queries():
    rates = [TimedRates(float(i), {"web": 60.0}) for i in range(24 * 4) if not 30 <= i < 40]
    found = forecast(RatesTable(tuple(rates), START), {"web": 1.0}, 0.5, "history")
    assert found.series.periods[0].rates["web"] == pytest.approx(60.0)


@pytest.mark.parametrize(
    ("table", "what"),
    [
        (history([1.0] * 47), "47 whole hours are too few"),
        (RatesTable((TimedRates(0.0, {"web": 1.0}),), None), "a history needs dates"),
    ],
)
def test_too_little_history_is_refused(table, what):
    with pytest.raises(InputError, match=what):
        forecast(table, {"web": 1.0}, 0.9, "history")
