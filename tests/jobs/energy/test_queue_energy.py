"""Energy sampled beside a queue."""

from __future__ import annotations

import urllib.request
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from partita.drive.driver import EnergyReading, FailedError
from partita.errors import InputError
from partita.jobs.energy.attribution import Kind
from partita.jobs.energy.ledger import FILE, EnergyLedger
from partita.jobs.energy.metrics import serving
from partita.jobs.energy.queue_energy import QueueEnergy
from partita.jobs.energy.sampler import EnergySampler
from partita.jobs.queue.record import Attempt, JobRecord, Submitter, Verdict
from partita.mig.layout import Placement

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path


class Meter:
    """Draws 100 W as long as it answers."""

    now = 0.0
    broken = False

    def energy(self, busy: Collection[tuple[str, int]] = ()) -> tuple[EnergyReading, ...]:
        del busy
        if self.broken:
            raise FailedError("NVML: unknown error")
        return (EnergyReading("g0", "GPU-0", "a100-80gb", 100.0 * self.now, idle_w=40.0),)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[EnergyLedger]:
    with closing(EnergyLedger(tmp_path / FILE)) as made:
        yield made


def job(number: int, at: str, began: float | None, verdict: Verdict | None = None) -> JobRecord:
    attempt = Attempt(1, "g0", Placement.parse(at), 1, 0.0, began=began, verdict=verdict)
    return JobRecord(number, Submitter(0, 0, "root"), ("true",), "/", "", "f", 0.0, attempts=(attempt,))


def test_attempts_take_what_is_drawn_while_they_run(ledger: EnergyLedger) -> None:
    meter, told = Meter(), list[str]()
    energy = QueueEnergy(EnergySampler(meter, ledger), told.append)
    for now in range(101):
        meter.now = float(now)
        jobs = [job(1, "3g.40gb@4", 20.0)] if 20 <= now < 50 else []
        jobs += [job(2, "1g.10gb@0", None), job(3, "1g.10gb@1", 0.0, Verdict.DONE)]
        energy.step(float(now), jobs)
    first = ledger.joules("1", 1)
    # 30 s, known to a second or so: 60 W of work, and its size's share of 40 W.
    assert first == pytest.approx(30 * (60.0 + 40.0 * (3 / 7 + 4 / 8) / 2), rel=0.1)
    assert ledger.joules("2", 1) is None
    assert ledger.joules("3", 1) is None
    assert sum(each.joules or 0.0 for each in ledger.totals().values()) == pytest.approx(100.0 * 100)
    assert not told


def test_a_meter_that_fails_is_told_once_and_stops_no_queue(ledger: EnergyLedger) -> None:
    meter, told = Meter(), list[str]()
    energy = QueueEnergy(EnergySampler(meter, ledger), told.append)
    for now in range(60):
        meter.now, meter.broken = float(now), 20 <= now < 40
        assert energy.step(float(now), [job(1, "7g.80gb@0", 0.0)]) > now
    assert told == ["energy is not measured: NVML: unknown error"]
    # The counter went on meanwhile, and so did the job.
    assert sum(each.joules or 0.0 for each in ledger.totals().values()) == pytest.approx(5000.0, rel=0.15)
    assert (Kind.JOB, "") in ledger.totals()


def test_metrics_are_served_on_a_port(ledger: EnergyLedger) -> None:
    with serving(ledger, 0) as port:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert b"partita_energy_joules" in answer.read()
        with pytest.raises(InputError, match="cannot be served on"), serving(ledger, port):
            pass
