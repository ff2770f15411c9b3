"""Counters sampled into a ledger, with resets, gaps and new starts."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from partita.cli.main import app
from partita.drive.driver import EnergyReading
from partita.drive.simulated import SimulatedCluster
from partita.drive.simulated.cluster import SimulatedMeter
from partita.jobs.energy.attribution import NOBODY, Kind, Owner
from partita.jobs.energy.ledger import FILE, HOUR_S, EnergyLedger
from partita.jobs.energy.metrics import exposition
from partita.jobs.energy.records import Energy, Entry
from partita.jobs.energy.sampler import EnergySampler, stay_of
from partita.mig.gpu import CONTEXT_W, IDLE_W
from partita.mig.layout import Placement
from partita.sim.clock import SimulatedClock
from partita.store import UnreadableError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

JOB = Owner(Kind.JOB, "12", 1)
STAY = stay_of(JOB, "g0", "a100-80gb", Placement.parse("3g.40gb@4"), began=0.0)


class Meter:
    """A meter that says what it is told to."""

    def __init__(self) -> None:
        self.joules: float | None = 0.0
        self.idle_w: float | None = 50.0

    def energy(self, busy: Collection[tuple[str, int]] = ()) -> tuple[EnergyReading, ...]:
        del busy
        why = "NVML: Not Supported" if self.joules is None else None
        return (EnergyReading("g0", "GPU-0", "a100-80gb", self.joules, why, self.idle_w),)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[EnergyLedger]:
    made = EnergyLedger(tmp_path / FILE)
    yield made
    made.close()


def total(ledger: EnergyLedger) -> float:
    return sum(each.energy.joules or 0.0 for each in ledger.since(0.0))


def test_what_is_taken_adds_up_to_the_counter(ledger: EnergyLedger) -> None:
    meter = Meter()
    sampler = EnergySampler(meter, ledger)
    for n in range(100):
        meter.joules = 1000.0 + 2500.0 * n
        sampler.sample(10.0 * n, [STAY])
    assert total(ledger) == pytest.approx(2500.0 * 99)
    took = ledger.of(JOB)
    assert took is not None
    assert took.idle_j == pytest.approx(50.0 * 990 * (3 / 7 + 4 / 8) / 2)
    assert took.active_j == pytest.approx(200.0 * 990)
    assert took.seconds == pytest.approx(990.0)


def test_a_new_start_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    meter = Meter()
    for n in range(5):
        ledger = EnergyLedger(tmp_path / FILE)
        meter.joules = 1000.0 * n
        EnergySampler(meter, ledger).sample(10.0 * n, [STAY])
        assert total(ledger) == pytest.approx(1000.0 * n)
        ledger.close()


def test_a_missing_counter_is_missing_and_not_zero(ledger: EnergyLedger) -> None:
    meter = Meter()
    sampler = EnergySampler(meter, ledger)
    meter.joules = None
    sampler.sample(0.0, [STAY])
    sampler.sample(10.0, [STAY])
    assert ledger.of(JOB) == Energy(missing_s=10.0)
    assert Energy(missing_s=10.0).joules is None
    meter.joules = 5.0
    sampler.sample(20.0, [STAY])
    meter.joules = 1005.0
    sampler.sample(30.0, [STAY])
    took = ledger.of(JOB)
    assert took is not None
    assert (took.missing_s, took.seconds) == (20.0, 10.0)
    assert total(ledger) == pytest.approx(1000.0)


def test_a_counter_that_begins_anew_with_the_driver_gives_nothing_negative(ledger: EnergyLedger) -> None:
    meter = Meter()
    sampler = EnergySampler(meter, ledger)
    for at, joules in ((0.0, 9e9), (10.0, 9e9 + 500.0), (20.0, 3.0), (30.0, 503.0)):
        meter.joules = joules
        sampler.sample(at, [])
    found = ledger.of(NOBODY)
    assert found is not None
    assert found.joules == pytest.approx(1000.0)
    assert found.missing_s == 10.0


def test_a_clock_that_is_set_back_costs_one_interval_and_stops_nothing(ledger: EnergyLedger) -> None:
    meter = Meter()
    sampler = EnergySampler(meter, ledger)
    for at, joules in ((1000.0, 0.0), (1010.0, 600.0), (5.0, 1200.0), (15.0, 1800.0)):
        meter.joules = joules
        sampler.step(at, [])
    assert total(ledger) == pytest.approx(1200.0)


def test_the_idle_power_of_a_gpu_is_the_least_it_was_seen_to_draw(ledger: EnergyLedger) -> None:
    meter = Meter()
    meter.idle_w = None
    sampler = EnergySampler(meter, ledger)
    for at, joules in ((0.0, 0.0), (10.0, 3000.0), (20.0, 3400.0), (30.0, 6400.0)):
        meter.joules = joules
        sampler.sample(at, [STAY])
    assert ledger.counters()["g0"].idle_w == pytest.approx(40.0)


def test_the_file_stays_small_and_the_sums_the_same(ledger: EnergyLedger, tmp_path: Path) -> None:
    days = 100
    for hour in range(0, 24 * days, 6):
        entries = [Entry("g0", Owner(Kind.SERVICE, name), Energy(1.0, 2.0, 60.0)) for name in ("a", "b", "c")]
        ledger.add(hour * HOUR_S + 120.0, [], entries)
        ledger.add(hour * HOUR_S + 180.0, [], entries)
    with sqlite3.connect(tmp_path / FILE) as db:
        (rows,) = db.execute("SELECT count(*) FROM sums").fetchone()
    db.close()
    assert rows <= 3 * (92 * 4 + 2 * 6)
    assert ledger.totals()[Kind.SERVICE, "a"].joules == pytest.approx(4 * days * 2 * 3.0)
    assert sum(
        each.energy.joules or 0.0 for each in ledger.since((days - 10) * 24 * HOUR_S)
    ) == pytest.approx(10 * 4 * 2 * 3 * 3.0)


def spoil(path: Path, how: str) -> None:
    """Do to a ledger what happens to files."""
    if how in ("garbage", "newer", "tables", "middle"):
        EnergyLedger(path).close()
    if how == "garbage":
        path.write_bytes(b"no database at all" * 100)
    elif how == "folder":
        path.mkdir()
    elif how == "middle":
        data = bytearray(path.read_bytes())
        data[4096:] = b"\xa5" * (len(data) - 4096)
        path.write_bytes(data)
    else:
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA user_version = 99" if how == "newer" else "DROP TABLE totals")


@pytest.mark.parametrize("how", ["garbage", "newer", "tables", "middle", "folder"])
def test_a_damaged_file_is_told_and_left_to_who_reads_and_set_aside_by_who_counts(
    tmp_path: Path, how: str
) -> None:
    path, told = tmp_path / FILE, list[str]()
    spoil(path, how)
    with pytest.raises(UnreadableError):
        EnergyLedger(path)
    before = None if path.is_dir() else path.read_bytes()
    owner = Owner(Kind.JOB, "7", 1)
    with closing(EnergyLedger(path, told.append)) as ledger:
        ledger.add(120.0, [], [Entry("g0", owner, Energy(1.0, 2.0, 3.0))])
        assert ledger.joules("7", 1) == 3.0
        assert ledger.last_job() == 7
        # What goes wrong later is told where it is noticed, and mended for the next time.
        with closing(sqlite3.connect(path)) as other:
            other.execute("DROP TABLE totals")
        assert ledger.joules("7", 1) is None
        ledger.add(180.0, [], [Entry("g0", owner, Energy(1.0, 2.0, 3.0))])
        assert ledger.joules("7", 1) == 3.0
    aside = path.with_name(f"{FILE}.aside-1")
    assert aside.name in told[0]
    assert f"{FILE}.aside-2" in told[1]
    assert before is None or aside.read_bytes() == before


def test_where_no_file_can_be_used_energy_is_counted_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    told = list[str]()
    monkeypatch.setattr(Path, "touch", refuse)
    with closing(EnergyLedger(tmp_path / FILE, told.append)) as ledger:
        ledger.add(60.0, [], [Entry("g0", Owner(Kind.JOB, "7", 1), Energy(1.0, 2.0, 3.0))])
        assert ledger.joules("7", 1) == 3.0
    assert "counted in memory" in told[0]
    assert list(tmp_path.iterdir()) == []


def test_a_simulated_gpu_draws_idle_power_and_its_busy_slices(tmp_path: Path) -> None:
    path = tmp_path / "cluster.sqlite3"
    cluster = SimulatedCluster.create(path, [("g0", "a100-80gb"), ("g1", "a100-80gb")])
    cluster.create_foreign("g0", Placement.parse("3g.40gb@4"))
    clock = SimulatedClock()
    meter = SimulatedMeter(path, clock)
    try:
        meter.energy()
        clock.sleep_until(100.0)
        first = meter.energy()
        clock.sleep_until(200.0)
        second = meter.energy({("g0", 4)})
        cluster.lose("g1")
        third = meter.energy()
    finally:
        meter.close()
        cluster.close()
    assert [each.joules for each in first] == pytest.approx([100 * IDLE_W] * 2)
    assert second[0].joules == pytest.approx(
        200 * IDLE_W + 100 * (CONTEXT_W + (400 - IDLE_W - CONTEXT_W) * 3 / 7)
    )
    assert (third[1].joules, third[1].why) == (None, "the GPU fell off the bus")


def test_prometheus_gets_counters_that_say_what_is_missing(ledger: EnergyLedger) -> None:
    meter = Meter()
    sampler = EnergySampler(meter, ledger)
    for at, joules in ((0.0, 0.0), (10.0, 1000.0), (20.0, None)):
        meter.joules = joules
        sampler.sample(at, [STAY])
    text = exposition(ledger).decode()
    assert 'partita_gpu_energy_counter_up{gpu="g0"} 0.0' in text
    assert "partita_gpu_energy_joules_total{" not in text
    assert 'partita_energy_joules_total{kind="job",name="",part="active"} 500.0' in text
    assert 'partita_energy_missing_seconds_total{kind="job",name=""} 10.0' in text


def test_the_command_shows_who_took_what(
    ledger: EnergyLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTITA_STATE", str(tmp_path))
    meter = Meter()
    sampler = EnergySampler(meter, ledger)
    for n in range(3):
        meter.joules = 1000.0 * n
        sampler.sample(10.0 * n, [STAY])
    run = CliRunner()
    found = run.invoke(app, ["energy", "--by", "job", "-o", "json"])
    rows = json.loads(found.stdout)["rows"]
    assert [row["name"] for row in rows] == ["12", "unallocated", "total"]
    assert rows[0]["joules"] + rows[1]["joules"] == pytest.approx(2000.0)
    assert rows[2] == pytest.approx({**rows[2], "joules": 2000.0, "mean_w": 100.0, "seconds": 20.0})
    table = run.invoke(app, ["energy"])
    assert "2,000 J" in table.stdout
    meter.joules = None
    sampler.sample(30.0, [STAY])
    told = run.invoke(app, ["energy"])
    assert "note: g0 has no energy counter: NVML: Not Supported" in told.stderr
    bad = run.invoke(app, ["energy", "--since", "yesterday"])
    assert "'yesterday' is no time" in str(bad.exception)


def test_without_measurements_the_command_says_who_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTITA_STATE", str(tmp_path / "none"))
    found = CliRunner().invoke(app, ["energy"])
    assert "no energy has been measured yet" in str(found.exception)
