"""The ring of the past, compared with a list of all points."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from contextlib import closing
from math import floor
from typing import TYPE_CHECKING

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from partita.dash.history import FILE, FINE, History

if TYPE_CHECKING:
    from pathlib import Path


NO_SHRINKING = (Phase.explicit, Phase.generate)


def mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


@settings(max_examples=12, deadline=None, phases=NO_SHRINKING)
@given(
    steps=st.lists(st.tuples(st.integers(1, 900), st.none() | st.integers(0, 9999)), min_size=1, max_size=25),
    most=st.integers(1, 40),
    again=st.booleans(),
)
def test_points_are_the_means_of_what_was_recorded(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, int | None]],
    most: int,
    *,
    again: bool,
) -> None:
    path = tmp_path_factory.mktemp("history") / FILE
    history, at = History(path), 1_000_000.0
    told: dict[int, float] = {}
    for step, value in steps:
        at += step
        history.record(at, {"fleet": {"used": value}})
        told.pop(floor(at / 10), None)
        if value is not None:
            told[floor(at / 10)] = float(value)
    if again:
        history.close()
        history = History(path)
    since = at - 3600
    found = history.series("fleet", since, at, most)
    for moment, point in zip(found.at, found.values.get("used", ()), strict=bool(found.values)):
        slots = range(round(moment / 10), round((moment + found.step) / 10))
        right = mean([told[slot] for slot in slots if slot in told])
        assert point == (None if right is None else pytest.approx(right, rel=1e-3)), moment
    covered = {
        slot for moment in found.at for slot in range(round(moment / 10), round((moment + found.step) / 10))
    }
    assert {slot for slot in told if since <= slot * 10 <= at} <= covered
    assert len(found.at) <= most + 1
    history.close()


def test_a_day_is_kept_where_there_is_no_file() -> None:
    history, start = History(None), 1_700_000_000.0
    for minute in range(3 * 24 * 60):
        history.record(start + 60 * minute, {"fleet": {"used": float(minute)}})
    now = start + 60 * minute
    hour = history.series("fleet", now - 3_600, now, 2000)
    assert [v for v in hour.values["used"] if v is not None][:-1] == [*range(minute - 60, minute)]
    day = history.series("fleet", now - 86_400, now, 2000)
    known = [v for v in day.values["used"] if v is not None]
    assert known == [*range(minute - len(known), minute)]
    assert 24 * 60 - 2 <= len(known) <= 24 * 60
    month = history.series("fleet", start, now, 10_000).values["used"]
    assert sum(v is not None for v in month) <= 25 * 60
    history.close()


def test_minutes_are_kept_for_thirty_days_and_the_rest_for_one(tmp_path: Path) -> None:
    history, start = History(tmp_path / FILE), 1_700_000_000.0
    for hour in range(24 * 32):
        for second in (0, 30):
            history.record(start + hour * 3600 + second, {"fleet": {"used": float(hour)}})
    now = start + 24 * 32 * 3600 - 3600
    day = history.series("fleet", now - 86_400, now, 2000)
    assert len({v for v in day.values["used"] if v is not None}) in (24, 25)
    month = history.series("fleet", now - 30 * 86_400, now, 2000)
    assert 30 * 24 - 1 <= len({v for v in month.values["used"] if v is not None}) <= 30 * 24 + 1
    history.close()
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        oldest = dict(db.execute("SELECT tier, min(chunk) FROM chunks GROUP BY tier").fetchall())
    assert oldest[0] * FINE.chunk * FINE.step >= now - 2 * 86_400
    assert oldest[1] * 3600 >= now - 31 * 86_400


def test_a_minute_goes_on_after_a_restart(tmp_path: Path) -> None:
    start = 1_700_000_040.0
    for second in (0, 10, 20, 30, 40, 50):
        history = History(tmp_path / FILE)
        history.record(start + second, {"service a": {"rate": float(second)}})
        history.close()
    history = History(tmp_path / FILE)
    fine = history.series("service a", start, start + 50, 100)
    assert fine.values["rate"] == (0.0, 10.0, 20.0, 30.0, 40.0, 50.0)
    coarse = history.series("service a", start - 2 * 86_400, start + 59, 2000)
    assert [v for v in coarse.values["rate"] if v is not None] == [25.0]
    history.close()


def test_a_clock_that_stands_still_adds_nothing_and_one_that_goes_back_is_another_cluster_s(
    tmp_path: Path,
) -> None:
    history = History(tmp_path / FILE)
    for _ in range(5):
        history.record(1000.0, {"fleet": {"used": 1.0}})
    history.record(9000.0, {"fleet": {"used": 2.0}})
    assert not history.due(9001.0)
    history.record(500.0, {"fleet": {"used": 3.0}})
    found = history.series("fleet", 0.0, 10_000.0, 2000)
    known = defaultdict(list)
    for at, value in zip(found.at, found.values["used"], strict=True):
        if value is not None:
            known[value].append(at)
    assert 2.0 not in known
    assert known[3.0] == [500.0]
    history.close()


def test_a_damaged_file_is_left_and_the_history_stays_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / FILE
    path.write_bytes(b"this is no database, but a text that somebody put there" * 40)
    before = path.read_bytes()
    history = History(path)
    history.record(1000.0, {"fleet": {"used": 1.0}})
    assert history.series("fleet", 990.0, 1000.0, 10).values["used"][-1] == 1.0
    history.close()
    assert path.read_bytes() == before
    assert "no history is kept beyond this process" in caplog.text
    assert "mv " in caplog.text


def test_a_file_that_goes_away_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    history = History(tmp_path / FILE)
    history.record(1000.0, {"fleet": {"used": 1.0}})
    (tmp_path / FILE).unlink()
    for at in range(1400, 4000, 300):
        history.record(float(at), {"fleet": {"used": 1.0}})
    assert caplog.text.count("the history cannot be written") == 1
    history.close()
