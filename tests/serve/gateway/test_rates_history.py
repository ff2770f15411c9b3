"""The file of past rates that a gateway keeps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from partita.errors import PartitaError
from partita.series.rates import read_rates
from partita.serve.gateway.rates_history import RatesHistory

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_rates_are_means_since_the_last_line_and_idle_services_are_at_0(tmp_path):
    history = RatesHistory(tmp_path / "rates-history.csv")
    assert history.rows({"web": 50, 'a,"b"': 0}, 300.0, NOON) == ""
    history.append(history.rows({"web": 650, 'a,"b"': 0}, 300.0, NOON))
    history.append(history.rows({"web": 650, 'a,"b"': 3, "new": 9}, 300.0, NOON + timedelta(minutes=5)))
    found = read_rates(tmp_path / "rates-history.csv", ["web", 'a,"b"'])
    assert found.start == NOON - timedelta(minutes=5)
    assert [dict(each.rates) for each in found.times] == [
        {"web": 2.0, 'a,"b"': 0.0},
        {"web": 0.0, 'a,"b"': 0.01},
    ]


def test_a_line_that_was_cut_short_spoils_no_other_and_is_dropped(tmp_path):
    path = tmp_path / "rates-history.csv"
    path.write_text("time,service,rate\n2026-03-01T10:00:00+00:00,web,1\n2026-03-01T10:05:00+0")
    history = RatesHistory(path)
    history.append("2026-03-01T10:10:00+00:00,web,2\n")
    history.forget(NOON)
    assert [each.rates["web"] for each in read_rates(path, ["web"]).times] == [1, 2]


def test_what_is_older_than_five_weeks_is_forgotten(tmp_path):
    path = tmp_path / "rates-history.csv"
    path.write_text(
        "time,service,rate\n2026-01-20T10:00:00+00:00,web,1\n2026-01-26T10:00:00+00:00,web,2\n"
        "2026-02-27T10:00:00+00:00,web,3\n"
    )
    RatesHistory(path).forget(NOON)
    assert [each.rates["web"] for each in read_rates(path, ["web"]).times] == [2, 3]
    RatesHistory(tmp_path / "absent.csv").forget(NOON)
    assert not (tmp_path / "absent.csv").exists()


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(PartitaError, match="could not be written"):
        RatesHistory(tmp_path / "folder").append("x\n")
