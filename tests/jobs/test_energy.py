"""Who took the energy between two readings of a counter."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from partita.cli.main import app
from partita.drive.driver import EnergyReading, FailedError
from partita.drive.simulated import SimulatedCluster
from partita.drive.simulated.cluster import SimulatedEnergyMeter
from partita.jobs.energy import (
    FILE,
    HOUR_S,
    NOBODY,
    Energy,
    EnergyLedger,
    EnergyOwner,
    EnergySampler,
    Interval,
    LedgerEntry,
    OwnerKind,
    Part,
    QueueEnergy,
    Stay,
    attribute,
    energy_metrics,
    stay_of,
)
from partita.jobs.queue.record import Attempt, AttemptVerdict, JobRecord, Submitter
from partita.metrics import MetricsPage
from partita.mig.gpu import CONTEXT_W, IDLE_W
from partita.mig.layout import Placement
from partita.sim.clock import SimulatedClock
from partita.store import UnreadableError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


A, B = EnergyOwner(OwnerKind.JOB, "1", 1), EnergyOwner(OwnerKind.SERVICE, "resnet50")
HOUR = Interval(0.0, 100.0, 10_000.0, 40.0)


def parts(interval: Interval, *stays: Stay) -> dict[EnergyOwner, Part]:
    return {part.owner: part for part in attribute(interval, stays)}


moments = st.floats(-50.0, 150.0)
shares = st.sampled_from([1 / 7, 2 / 7, 3 / 7, 4 / 7, 1.0])
stays = st.builds(
    Stay,
    owner=st.sampled_from([A, B, EnergyOwner(OwnerKind.JOB, "2", 1)]),
    gpu=st.just("g"),
    compute=shares,
    memory=st.sampled_from([1 / 8, 2 / 8, 4 / 8, 1.0]),
    began=moments,
    ended=moments | st.just(math.inf),
    activity=st.none() | st.floats(0.0, 1.0),
)


@given(st.floats(0.0, 1e6), st.floats(0.0, 500.0), st.lists(stays, max_size=9))
def test_parts_add_up_to_the_counter_and_none_is_negative(
    joules: float, idle_w: float, found: list[Stay]
) -> None:
    told = attribute(Interval(0.0, 100.0, joules, idle_w), found)
    assert math.fsum(part.idle_j + part.active_j for part in told) == pytest.approx(joules, abs=1e-6)
    assert all(part.idle_j >= 0.0 and part.active_j >= 0.0 and part.seconds >= 0.0 for part in told)
    assert len({part.owner for part in told}) == len(told)


@given(st.floats(0.0, 1e6), st.lists(stays, max_size=9))
def test_who_was_there_later_or_before_takes_nothing(joules: float, found: list[Stay]) -> None:
    away = [each for each in found if each.ended <= 0.0 or each.began >= 100.0]
    told = attribute(Interval(0.0, 100.0, joules, 40.0), away)
    assert [part.owner for part in told] == [NOBODY]


def test_an_idle_gpu_is_shared_by_size_alone() -> None:
    found = parts(Interval(0.0, 100.0, 4000.0, 40.0), Stay(A, "g", 2 / 7, 2 / 8, 0.0))
    assert found[A].idle_j == pytest.approx(4000.0 * (2 / 7 + 2 / 8) / 2)
    assert found[A].active_j == found[NOBODY].active_j == 0.0
    assert found[NOBODY].idle_j == pytest.approx(4000.0 - found[A].idle_j)


def test_a_gpu_that_draws_less_than_idle_has_no_work() -> None:
    assert parts(Interval(0.0, 100.0, 3000.0, 40.0), Stay(A, "g", 1.0, 1.0, 0.0))[A].active_j == 0.0


def test_work_goes_by_activity_where_it_is_known_of_all() -> None:
    found = parts(
        HOUR, Stay(A, "g", 3 / 7, 4 / 8, 0.0, activity=0.9), Stay(B, "g", 3 / 7, 4 / 8, 0.0, activity=0.1)
    )
    assert found[A].active_j == pytest.approx(6000.0 * 0.9)
    assert found[B].active_j == pytest.approx(6000.0 * 0.1)


def test_work_goes_by_compute_slices_where_the_activity_of_one_is_not_known() -> None:
    found = parts(HOUR, Stay(A, "g", 1 / 7, 1 / 8, 0.0, activity=0.9), Stay(B, "g", 3 / 7, 4 / 8, 0.0))
    assert found[B].active_j == pytest.approx(3 * found[A].active_j)
    assert found[A].active_j + found[B].active_j == pytest.approx(6000.0)


def test_one_who_came_half_way_takes_half_as_much() -> None:
    found = parts(HOUR, Stay(A, "g", 3 / 7, 4 / 8, 0.0), Stay(B, "g", 3 / 7, 4 / 8, 50.0, 300.0))
    assert found[A].active_j == pytest.approx(2 * found[B].active_j)
    assert found[A].idle_j == pytest.approx(2 * found[B].idle_j)
    assert (found[A].seconds, found[B].seconds) == (100.0, 50.0)


def test_work_that_nobody_of_ours_did_stays_unallocated() -> None:
    assert parts(HOUR) == {NOBODY: Part(NOBODY, 4000.0, 6000.0, 100.0)}


def test_all_of_a_gpu_without_mig_is_its_users() -> None:
    found = parts(HOUR, Stay(A, "g", 1.0, 1.0, 0.0))
    assert (found[A].idle_j, found[A].active_j) == (4000.0, 6000.0)
    assert (found[NOBODY].idle_j, found[NOBODY].active_j) == (0.0, 0.0)


JOB = EnergyOwner(OwnerKind.JOB, "12", 1)
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
        entries = [
            LedgerEntry("g0", EnergyOwner(OwnerKind.SERVICE, name), Energy(1.0, 2.0, 60.0))
            for name in ("a", "b", "c")
        ]
        ledger.add(hour * HOUR_S + 120.0, [], entries)
        ledger.add(hour * HOUR_S + 180.0, [], entries)
    with sqlite3.connect(tmp_path / FILE) as db:
        (rows,) = db.execute("SELECT count(*) FROM sums").fetchone()
    db.close()
    assert rows <= 3 * (92 * 4 + 2 * 6)
    assert ledger.totals()[OwnerKind.SERVICE, "a"].joules == pytest.approx(4 * days * 2 * 3.0)
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
    owner = EnergyOwner(OwnerKind.JOB, "7", 1)
    with closing(EnergyLedger(path, told.append)) as ledger:
        ledger.add(120.0, [], [LedgerEntry("g0", owner, Energy(1.0, 2.0, 3.0))])
        assert ledger.joules("7", 1) == 3.0
        assert ledger.last_job() == 7
        # What goes wrong later is told where it is noticed, and mended for the next time.
        with closing(sqlite3.connect(path)) as other:
            other.execute("DROP TABLE totals")
        assert ledger.joules("7", 1) is None
        ledger.add(180.0, [], [LedgerEntry("g0", owner, Energy(1.0, 2.0, 3.0))])
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
        ledger.add(60.0, [], [LedgerEntry("g0", EnergyOwner(OwnerKind.JOB, "7", 1), Energy(1.0, 2.0, 3.0))])
        assert ledger.joules("7", 1) == 3.0
    assert "counted in memory" in told[0]
    assert list(tmp_path.iterdir()) == []


def test_a_simulated_gpu_draws_idle_power_and_its_busy_slices(tmp_path: Path) -> None:
    path = tmp_path / "cluster.sqlite3"
    cluster = SimulatedCluster.create(path, [("g0", "a100-80gb"), ("g1", "a100-80gb")])
    cluster.create_foreign("g0", Placement.parse("3g.40gb@4"))
    clock = SimulatedClock()
    meter = SimulatedEnergyMeter(path, clock)
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
    text = MetricsPage(lambda: energy_metrics(ledger)).read()[0].decode()
    assert re.search(r'partita_gpu_energy_counter_up\{UUID=".+",gpu="g0"\} 0.0', text)
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
    assert "'yesterday' is not a time" in str(bad.exception)


def test_without_measurements_the_command_says_who_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTITA_STATE", str(tmp_path / "none"))
    found = CliRunner().invoke(app, ["energy"])
    assert "no energy has been measured yet" in str(found.exception)


class SteadyMeter:
    """Draws 100 W as long as it answers."""

    now = 0.0
    broken = False

    def energy(self, busy: Collection[tuple[str, int]] = ()) -> tuple[EnergyReading, ...]:
        del busy
        if self.broken:
            raise FailedError("NVML: unknown error")
        return (EnergyReading("g0", "GPU-0", "a100-80gb", 100.0 * self.now, idle_w=40.0),)


def attempt_of(number: int, at: str, began: float | None, verdict: AttemptVerdict | None = None) -> JobRecord:
    attempt = Attempt(1, "g0", Placement.parse(at), 1, 0.0, began=began, verdict=verdict)
    return JobRecord(number, Submitter(0, 0, "root"), ("true",), "/", "", "f", 0.0, attempts=(attempt,))


def test_attempts_take_what_is_drawn_while_they_run(ledger: EnergyLedger) -> None:
    meter, told = SteadyMeter(), list[str]()
    energy = QueueEnergy(EnergySampler(meter, ledger), told.append)
    for now in range(101):
        meter.now = float(now)
        jobs = [attempt_of(1, "3g.40gb@4", 20.0)] if 20 <= now < 50 else []
        jobs += [attempt_of(2, "1g.10gb@0", None), attempt_of(3, "1g.10gb@1", 0.0, AttemptVerdict.DONE)]
        energy.step(float(now), jobs)
    first = ledger.joules("1", 1)
    # 30 s, known to a second or so: 60 W of work, and its size's share of 40 W.
    assert first == pytest.approx(30 * (60.0 + 40.0 * (3 / 7 + 4 / 8) / 2), rel=0.1)
    assert ledger.joules("2", 1) is None
    assert ledger.joules("3", 1) is None
    assert sum(each.joules or 0.0 for each in ledger.totals().values()) == pytest.approx(100.0 * 100)
    assert not told


def test_attempts_of_seconds_that_follow_each_other_each_take_what_their_work_draws(tmp_path: Path) -> None:
    path, clock = tmp_path / "cluster.sqlite3", SimulatedClock()
    cluster = SimulatedCluster.create(path, [("g0", "a100-80gb")])
    cluster.create_foreign("g0", Placement.parse("3g.40gb@4"))
    work = (400 - IDLE_W - CONTEXT_W) * 3 / 7 + CONTEXT_W
    with (
        closing(EnergyLedger(tmp_path / FILE)) as ledger,
        closing(SimulatedEnergyMeter(path, clock)) as meter,
    ):
        energy = QueueEnergy(EnergySampler(meter, ledger))
        for second in range(40):
            clock.sleep_until(float(second))
            # Two attempts of four seconds, a second apart; a sample is due every ten seconds.
            number = 1 if 12 <= second < 16 else 2 if 17 <= second < 21 else None
            energy.step(float(second), [] if number is None else [attempt_of(number, "3g.40gb@4", second)])
        for name in ("1", "2"):
            took = ledger.of(EnergyOwner(OwnerKind.JOB, name, 1))
            assert took is not None
            assert took.active_j == pytest.approx(4 * work, rel=0.3)
    cluster.close()


def test_a_meter_that_fails_is_told_once_and_stops_no_queue(ledger: EnergyLedger) -> None:
    meter, told = SteadyMeter(), list[str]()
    energy = QueueEnergy(EnergySampler(meter, ledger), told.append)
    for now in range(60):
        meter.now, meter.broken = float(now), 20 <= now < 40
        assert energy.step(float(now), [attempt_of(1, "7g.80gb@0", 0.0)]) > now
    assert told == ["energy is not measured: NVML: unknown error"]
    # The counter went on meanwhile, and so did the job.
    assert sum(each.joules or 0.0 for each in ledger.totals().values()) == pytest.approx(5000.0, rel=0.15)
    assert (OwnerKind.JOB, "") in ledger.totals()


DEADLINE_S = 90.0


def partita(state: Path, *words: str) -> str:
    found = subprocess.run(
        [sys.executable, "-m", "partita", *words],
        env={**os.environ, "PARTITA_STATE": str(state)},
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_S,
    )
    return found.stdout


def test_a_job_that_runs_has_joules_in_its_history_and_in_the_metrics(tmp_path: Path) -> None:
    end = time.monotonic() + DEADLINE_S
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "partita", "daemon", "--simulate", "a100-80gb:1"),
            *("--metrics-port", "0", "--metrics-listen", "::1"),
        ],
        env={**os.environ, "PARTITA_STATE": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as daemon:
        try:
            assert daemon.stderr is not None
            said = ""
            while "serving on" not in said:
                line = daemon.stderr.readline()
                assert line, said
                said += line
            partita(tmp_path, "submit", "--memory", "3GiB", "--", "sleep", "600")
            joules = None
            while joules is None:
                assert time.monotonic() < end
                time.sleep(0.5)
                jobs: list[dict[str, Any]] = json.loads(partita(tmp_path, "history", "1", "-o", "json"))[
                    "jobs"
                ]
                joules = jobs[0]["attempts"][0]["energy_j"] if jobs[0]["attempts"] else None
            assert joules > 0.0
            address = re.search(r"metrics on (http://\[::1\]:\d+/metrics)", said)
            assert address is not None
            with urllib.request.urlopen(address[1]) as answer:  # noqa: S310 -- our own
                page = answer.read().decode()
            for line in (
                'partita_energy_joules_total{kind="job",name="",part="active"}',
                'partita_jobs{state="running"} 1.0',
                'partita_jobs_ended_total{state="done"} 0.0',
                'partita_job_attempts_total{verdict="out of memory"} 0.0',
                'partita_gpus{model="a100-80gb",state="used"} 1.0',
                'partita_instances{state="busy"} 1.0',
            ):
                assert line in page
            assert (
                json.loads(partita(tmp_path, "energy", "--by", "job", "-o", "json"))["rows"][0]["name"] == "1"
            )
        finally:
            partita(tmp_path, "cancel", "1")
            folder = tmp_path / "jobs" / "attempts" / "1" / "1"
            while folder.exists() and not (folder / "exit.json").exists() and time.monotonic() < end:
                time.sleep(0.05)
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(DEADLINE_S)
