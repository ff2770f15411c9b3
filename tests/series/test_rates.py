"""Rates over time as they are read, and what is wrong in a file of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from partita.errors import InputError
from partita.series.rates import MOST_PERIODS, read_series

if TYPE_CHECKING:
    from pathlib import Path

    from partita.series.rates import RateSeries

WRITTEN = {"web": 10.0, "night.batch": 5.0}


def read(folder: Path, text: str) -> RateSeries:
    path = folder / "rates.csv"
    path.write_text(text)
    return read_series(path, WRITTEN)


def shown(found: RateSeries) -> list[tuple[float, float, float, float]]:
    return [(p.begin, p.hours, p.rates["web"], p.rates["night.batch"]) for p in found.periods]


def test_a_long_table_may_leave_services_out_and_have_any_order(tmp_path):
    found = read(tmp_path, "time,service,rate\n2.5,web,30\n0,web,20\n0,night.batch,0\n")
    assert shown(found) == [(0, 2.5, 20, 0), (2.5, 2.5, 30, 5)]
    assert found.hours == 5


def test_a_wide_table_may_have_empty_fields(tmp_path):
    found = read(tmp_path, "time;web;night.batch\n07:30;1,5;\n09:00;;7,25\n")
    assert shown(found) == [(0, 1.5, 1.5, 5), (1.5, 15, 10, 7.25)]
    assert [found.when(each) for each in (0, 1.5, 1.51)] == ["07:30", "09:00", "09:00:36"]


def test_times_of_a_day_end_at_midnight_and_dates_as_the_last_period_did(tmp_path):
    assert read(tmp_path, "time,web\n06:00,1\n22:00,2\n").hours == 18
    found = read(tmp_path, "time,web\n2026-03-01T22:00,1\n2026-03-02 01:00,2\n")
    assert shown(found) == [(0, 3, 1, 5), (3, 3, 2, 5)]
    assert [found.when(p.begin) for p in found.periods] == ["2026-03-01T22:00", "2026-03-02T01:00"]
    assert read(tmp_path, "time,web\n3,1\n").hours == 1


def test_offsets_of_times_count(tmp_path):
    found = read(tmp_path, "time,web\n2026-03-01T22:00+01:00,1\n2026-03-01T22:00Z,2\n")
    assert [period.begin for period in found.periods] == [0, 1]
    assert found.when(0) == "2026-03-01T21:00+00:00"


def test_documents_of_rates_with_a_time_are_read_a_line_each(tmp_path):
    lines = [
        {
            "time": "2026-03-01T00:00",
            "rates": {"web": 3, "night.batch": {"rate": 4, "batches": {"1": 0.5, "8": 0.5}}},
        },
        {"time": "2026-03-01T01:00", "rates": {"web": {"rate": 6}}},
    ]
    found = read(tmp_path, "\n".join(map(json.dumps, lines)))
    assert shown(found) == [(0, 1, 3, 4), (1, 1, 6, 5)]


def test_the_largest_rates_are_those_of_each_service(tmp_path):
    found = read(tmp_path, "time,web,night.batch\n0,1,9\n1,8,2\n2,3,4\n")
    assert found.most(0, 2) == {"web": 8, "night.batch": 9}
    assert found.most(1, 3) == {"web": 8, "night.batch": 4}


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("hour,web\n0,1\n", ":1", "no column says the time"),
        ("time,web\n", ":1", "a header and no rows"),
        ("time,wbe\n0,1\n", ":2", "the workload has no service 'wbe'"),
        ("time,service,rate\n0,web,1\n0,wbe,1\n", ":3", "the workload has no service 'wbe'"),
        ("time,web\n0,-1\n", ":2", "the rate of web is -1, not a number of zero or more"),
        ("time,web\n0,nine\n", ":2", "the rate of web is 'nine', not a number"),
        ("time,web\n0,inf\n", ":2", "the rate of web is inf"),
        ("time,web\n0,1\nsoon,2\n", ":3", "time 'soon' is not a time"),
        ("time,web\n0001-01-01T00:00+05:00,1\n", ":2", "is not of our time"),
        ("time,web\n9999-12-31T23:00,1\n", ":2", "is not of our time"),
        ("time,web\n-1,1\n", ":2", "time -1 is not a number of hours"),
        ("time,web\n0,1\n0,2\n", ":3", "web has a rate at this time already, on line 2"),
        ("time,web\n0,1\n2026-03-01T01:00,2\n", ":3", "some times have a date and some have none"),
        (
            "time,web\n2026-03-29T00:00,1\n2026-03-29T01:00Z,2\n",
            ":3",
            "some times have a time zone and some have none",
        ),
        ("time,web\n0,1,2\n", ":2", ""),
    ],
)
def test_faults_have_their_line(tmp_path, text, where, what):
    with pytest.raises(InputError) as fault:
        read(tmp_path, text)
    assert str(fault.value.where).endswith(where)
    assert what in fault.value.what


@pytest.mark.parametrize(
    ("second", "hint"), [("", "write times with their offset"), ("+01:00", "keep one of them")]
)
def test_an_hour_that_comes_twice_needs_its_offset(tmp_path, second, hint):
    text = "time,web\n2026-10-25T02:00+02:00,1\n2026-10-25T02:00+01:00,2\n"
    assert [period.begin for period in read(tmp_path, text).periods] == [0, 1]
    with pytest.raises(InputError) as fault:
        read(tmp_path, f"time,web\n2026-10-25T02:00{second},1\n2026-10-25T02:00{second},2\n")
    assert hint in str(fault.value.hint)


def test_all_faults_are_told_at_once(tmp_path):
    with pytest.raises(InputError) as fault:
        read(tmp_path, "time,web\n0,x\n1,-1\nlater,2\n")
    assert fault.value.what.startswith("3 faults")
    assert all(f":{line}" in fault.value.what for line in (2, 3, 4))


def test_a_misspelt_service_is_named(tmp_path):
    with pytest.raises(InputError) as fault:
        read(tmp_path, "time,wbe\n0,1\n")
    assert fault.value.hint == "did you mean web?"


def test_too_many_periods_are_refused(tmp_path):
    with pytest.raises(InputError, match="more than 1,000"):
        read(tmp_path, "time,web\n" + "\n".join(f"{i},1" for i in range(MOST_PERIODS + 1)))
