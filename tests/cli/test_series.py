"""`partita plan --series` as a user runs it: the table, the folder, the page, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml
from tests.cli.commands import Commands
from tests.cli.test_plan import workload
from tests.web.reading import report_in

from partita.planning.document import read_plan

if TYPE_CHECKING:
    from pathlib import Path

RATES = "time,first,second\n00:00,10,20\n06:00,44,20\n12:00,44,170\n20:00,0,20\n"


def rates(folder: Path, text: str = RATES) -> Path:
    path = folder / "rates.csv"
    path.write_text(text)
    return path


@pytest.fixture
def partita(tmp_path, monkeypatch, capsys) -> Commands:
    return Commands(tmp_path, monkeypatch, capsys)


def test_a_day_is_a_table_a_folder_of_plans_and_a_page(tmp_path, partita):
    words = ("plan", "-f", workload(tmp_path), "--series", rates(tmp_path))
    found = partita(*words, "--out", tmp_path / "day", "--html", tmp_path / "day.html")
    assert found.code == 0
    assert "GPU-hours in 24 h" in found.out
    assert "each period, near the last" in found.out
    schedule = json.loads((tmp_path / "day" / "series.json").read_text())
    assert schedule["kind"] == "Series"
    assert [each["time"] for each in schedule["periods"]] == ["00:00", "06:00", "12:00", "20:00"]
    assert schedule["plans"][-1]["until"] == "24:00"
    for each in schedule["plans"]:
        assert len(read_plan(tmp_path / "day" / each["file"]).gpus) == each["gpus"]
    assert {each.name for each in (tmp_path / "day").iterdir()} == {
        "series.json",
        *(each["file"] for each in schedule["plans"]),
    }
    report = report_in(tmp_path / "day.html")
    over_time, changes, *_ = report.sections
    assert over_time.chart is not None
    assert over_time.chart.begins == ("00:00", "06:00", "12:00", "20:00")
    assert (changes.title, changes.table is None) == ("Changes", False)

    # The same command again replaces the folder's series; what it prints as JSON is the schedule.
    again = partita(*words, "--out", tmp_path / "day", "-o", "json", "--move-price", "100")
    printed = json.loads(again.out)
    assert printed == json.loads((tmp_path / "day" / "series.json").read_text())
    assert [each["file"] for each in printed["plans"]] == ["plan-000.json"]
    assert not (tmp_path / "day" / "plan-001.json").exists()


def test_every_plan_of_a_series_applies(tmp_path, partita):
    partita("plan", "-f", workload(tmp_path), "--series", rates(tmp_path), "--out", tmp_path / "day")
    schedule = json.loads((tmp_path / "day" / "series.json").read_text())
    moved = {each["time"]: each["moves"] for each in schedule["changes"]}
    for each in schedule["plans"]:
        found = partita("apply", tmp_path / "day" / each["file"], "--yes", "--simulate", "a30-24gb:3")
        assert found.code == 0
        assert ("reached in" in found.out) is (each is schedule["plans"][0] or each["time"] in moved)


def test_a_day_is_forecast_from_a_history_and_its_error_told(tmp_path, partita):
    history = tmp_path / "history.csv"
    rows = [
        f"2026-03-0{1 + hour // 24}T{hour % 24:02}:00,{name},{rate if 8 <= hour % 24 < 20 else 10}"
        for hour in range(72)
        for name, rate in (("first", 44), ("second", 170))
    ]
    history.write_text("time,service,rate\n" + "\n".join(rows))
    found = partita("plan", "-f", workload(tmp_path), "--forecast", history, "-o", "json")
    assert found.code == 0
    assert "forecast for 2026-03-04T00:00 to 2026-03-05T00:00" in found.err
    assert "off by 0% of the mean rate" in found.err
    schedule = json.loads(found.out)
    gpus = {each["time"]: each["gpus"] for each in schedule["periods"]}
    assert len(gpus) == 24
    assert gpus["2026-03-04T12:00"] == 3 > gpus["2026-03-04T05:00"] == gpus["2026-03-04T22:00"]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--series", "absent.csv"), "no such file"),
        (("--move-price", "1"), "it has no meaning without --series"),
        (("--series", "rates.csv", "--move-price", "nan"), "--move-price: must be a finite number, not nan"),
        (("--most-moves", "1"), "it has no meaning without --from"),
        (("--from", "absent.json"), "no such file"),
        (("--out", "absent/plan.json"), "absent/plan.json: cannot be written: there is no folder absent"),
        (("--html", "rates.csv/plan.html"), "there is no folder rates.csv"),
        (
            ("--series", "rates.csv", "--forecast", "rates.csv"),
            "rates over time are either given or forecast",
        ),
        (("--forecast", "rates.csv"), "a history needs dates"),
        (("--series", "rates.csv", "--best-effort"), "--best-effort"),
        (("--series", "rates.csv", "--check", "plan.json"), "--check"),
        (("--series", "rates.csv", "--out", "rates.csv"), "a series is a folder, and this is a file"),
        (("--series", "rates.csv", "--out", "."), "the folder holds other things than a series"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, partita, monkeypatch, words, what):
    monkeypatch.chdir(tmp_path)
    rates(tmp_path)
    found = partita("plan", "-f", workload(tmp_path), *words)
    assert found.code == 2
    assert what in found.err


def test_a_fault_in_the_rates_has_its_line(tmp_path, partita):
    found = partita(
        "plan", "-f", workload(tmp_path), "--series", rates(tmp_path, "time,first\n00:00,1\n01:00,-4\n")
    )
    assert found.code == 2
    assert "rates.csv:3" in found.err
    assert "not a number of zero or more" in found.err


def test_too_few_gpus_at_a_time_name_it(tmp_path, partita):
    path = rates(tmp_path, "time,first\n00:00,1\n01:00,400\n")
    found = partita("plan", "-f", workload(tmp_path), "--series", path)
    assert found.code == 4
    assert "at 01:00: too few GPUs" in found.err


def test_costs_are_costs_and_ascii_terminals_get_ascii(tmp_path, partita, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    pools = [{"model": "a30-24gb", "count": 3, "cost_per_hour": 2}]
    path = workload(tmp_path, objective="cost", gpus=pools)
    found = partita("plan", "-f", path, "--series", rates(tmp_path), "-o", "yaml")
    assert yaml.safe_load(found.out)["objective"] == "cost"
    assert "cost/h" in partita("plan", "-f", path, "--series", rates(tmp_path)).out
