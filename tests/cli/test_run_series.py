"""`partita run --series`: the plans of a schedule at their times, and a plan of its own for rates above them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from tests.cli.commands import Commands
from tests.cli.test_plan import workload

from partita.errors import InputError
from partita.series.schedule import read_schedule

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def partita(tmp_path, monkeypatch, capsys) -> Commands:
    return Commands(tmp_path, monkeypatch, capsys)


def day(partita: Commands, rates: str) -> Path:
    """Write the schedule of a day and return its folder."""
    path, folder = partita.folder / "rates.csv", partita.folder / "day"
    path.write_text(rates)
    words = ("--series", path, "--out", folder, "--move-price", 0)
    assert partita("plan", "-f", workload(partita.folder), *words).code == 0
    return folder


def capacity(partita: Commands) -> dict[str, float]:
    shown = json.loads(partita("status", "-o", "json").out)["services"]
    return {each["name"]: each["capacity"] for each in shown}


def now_and_then(rates: tuple[str, str]) -> str:
    """Return rates with dates: the first until an hour ago and in an hour again, the other between."""
    now = datetime.now(tz=UTC)
    return "time,first,second\n" + "\n".join(
        f"{(now + timedelta(hours=offset)).isoformat(timespec='seconds')},{rate}"
        for offset, rate in zip((-2, -1, 1), (*rates, rates[0]), strict=True)
    )


def test_the_plan_of_now_runs_and_another_only_for_rates_above_it(partita):
    folder = day(partita, now_and_then(("44,170", "10,20")))
    words = ("run", "-f", workload(partita.folder), "--series", folder, "--once", "--hold", 0)
    result = partita(*words)
    assert result.code == 0, result.err
    now = read_schedule(folder).at(datetime.now(tz=UTC))
    assert now.file == "plan-001.json"
    given = {each.name: each.capacity for each in now.plan.services}
    assert capacity(partita) == given
    assert given["first"] < 35

    rates = partita.folder / "measured.json"
    rates.write_text('{"first": 10.5, "second": 3}')
    again = partita(*words, "--rates", rates)
    assert capacity(partita) == given, again.err
    rates.write_text('{"first": 35, "second": 3}')
    partita(*words, "--rates", rates)
    assert capacity(partita)["first"] >= 35
    assert capacity(partita)["second"] >= 20


def test_a_service_that_is_off_ends_and_comes_again(partita):
    words = ("run", "-f", workload(partita.folder), "--once", "--hold", 0, "--series")
    partita(*words, day(partita, now_and_then(("44,170", "44,0"))))
    assert capacity(partita) == {"first": pytest.approx(44, rel=0.2)}
    partita(*words, day(partita, now_and_then(("44,0", "44,170"))))
    assert capacity(partita)["second"] >= 170


def test_times_of_a_day_come_again_and_dates_do_not(partita):
    schedule = read_schedule(day(partita, "time,first,second\n02:00,10,20\n12:00,44,170\n"))
    begin = schedule.plans[1].begin
    assert isinstance(begin, float)
    assert 11.5 * 3600 < begin < 12 * 3600

    def at(hour: float) -> str:
        midnight = datetime(2026, 5, 1).astimezone()
        return schedule.at(midnight + timedelta(hours=hour)).file

    assert [at(each) for each in (1, 2, 11.9, 12, 23, 25)] == [
        *("plan-001.json", "plan-000.json", "plan-000.json"),
        *("plan-001.json", "plan-001.json", "plan-001.json"),
    ]
    dated = read_schedule(
        day(partita, "time,first,second\n2026-03-01T02:00,10,20\n2026-03-01T12:00,44,170\n")
    )
    assert dated.at(datetime(2020, 1, 1, tzinfo=UTC)).file == "plan-000.json"
    assert dated.at(datetime(2030, 1, 1, tzinfo=UTC)).file == "plan-001.json"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"plans": []}, "the schedule has no plans"),
        ({"kind": "Plan"}, "kind"),
        ({"plans": [{"begin": "soon"}]}, "'soon' is not a time"),
        ({"plans": [{"file": "../plan-000.json"}]}, "a plan stands beside its schedule"),
        ({"plans": [{"file": ".."}]}, "must be more than dots"),
        ({"plans": [{"file": "gone.json"}]}, "no such file"),
    ],
)
def test_a_schedule_that_cannot_be_used_is_told_before_anything_begins(partita, change, what):
    folder = day(partita, "time,first\n02:00,10\n")
    path = folder / "series.json"
    document = json.loads(path.read_text())
    if change.get("plans"):
        change = {"plans": [{**document["plans"][0], **change["plans"][0]}]}
    path.write_text(json.dumps({**document, **change}))
    result = partita("run", "-f", workload(partita.folder), "--series", folder, "--once")
    assert result.code == 2
    assert what in result.err
    assert not (partita.state / "cluster.json").exists()


def test_a_folder_without_a_schedule_says_how_to_make_one(tmp_path):
    with pytest.raises(InputError) as fault:
        read_schedule(tmp_path)
    assert fault.value.hint is not None
    assert "partita plan -f WORKLOAD --series RATES --out" in fault.value.hint
