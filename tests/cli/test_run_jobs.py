"""`partita run --jobs`: services and jobs on one cluster, with real processes of both, on the wall clock."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import pytest
from tests.cli.commands import Commands
from tests.serve.worker.client import gateway, until

from partita.cli.cluster import OpenCluster
from partita.cli.daemon import QueueOptions, shared_with_jobs
from partita.control.journal import FILE, Journal
from partita.drive.driver import EnergyReading
from partita.drive.simulated import SimulatedCluster, SimulatedDriver
from partita.drive.state import CLUSTER
from partita.errors import InputError, PartitaError
from partita.jobs.queue.access import Access
from partita.jobs.queue.client import QueueClient
from partita.jobs.queue.service import QueueSettings
from partita.serve.worker.spec import read_spec
from partita.sim.clock import WallClock

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

TABLE = """model,gpu,profile,batch,processes,throughput,latency_ms,quantile
bert,a100-40gb,3g.20gb,8,1,310,20,0.99
"""
WORKLOAD = """apiVersion: partita/v1
kind: Workload
performance: [perf.csv]
gpus: [{{model: a100-40gb, count: 2}}]
services:
  - {{name: bert, model: bert, rate: {rate}, slo: {{latency_ms: 100}}}}
"""
# Works until there is a file `finish`, and writes a checkpoint when asked to go.
JOB = """
import pathlib, signal, sys, time
def leave(*_):
    with open("saved", "a") as stream:
        stream.write("x")
    sys.exit(3)
signal.signal(signal.SIGTERM, leave)
with open("began", "a") as stream:
    stream.write("x")
while not pathlib.Path("finish").exists():
    time.sleep(0.02)
"""


class Shop:
    """A controller with a queue, in a process of its own."""

    def __init__(self, commands: Commands) -> None:
        self.commands = commands
        self.process: subprocess.Popen[bytes] | None = None
        self.wish(300)
        (commands.folder / "perf.csv").write_text(TABLE)
        (commands.folder / "services.yaml").write_text("services: [{name: bert, worker: {emulated: true}}]")
        (commands.folder / "job.py").write_text(JOB)

    def wish(self, rate: int) -> None:
        (self.commands.folder / "workload.yaml").write_text(WORKLOAD.format(rate=rate))

    def start(self) -> None:
        folder = self.commands.folder
        words = ["run", "-f", folder / "workload.yaml", "--services", folder / "services.yaml", "--jobs"]
        with (folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "partita", *map(str, words), "--hold", "0", "--poll", "0.1"],
                env={**os.environ, "PARTITA_STATE": str(self.commands.state)},
                stderr=log,
            )

    def end(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(60)
            self.process = None

    def jobs(self) -> list[dict[str, Any]]:
        with suppress(PartitaError), QueueClient(self.commands.state / "jobs") as client:
            return list(client.ask("queue")["jobs"])
        return []

    def states(self) -> list[str]:
        return [str(job["state"]) for job in self.jobs()]

    def workers(self) -> int:
        return len(list((self.commands.state / "workers").glob("*.sock")))

    def count(self, name: str) -> int:
        path = self.commands.folder / name
        return len(path.read_text()) if path.exists() else 0


@pytest.fixture
def shop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Shop]:
    monkeypatch.chdir(tmp_path)
    made = Shop(Commands(tmp_path, monkeypatch, capsys))
    yield made
    (tmp_path / "finish").touch()
    if made.process is not None:
        until(lambda: made.states() == [])
    made.end(signal.SIGTERM)
    for path in (tmp_path / "state" / "replicas").glob("*.document"):
        with suppress(InputError, OSError), gateway(read_spec(path)) as one:
            os.killpg(one.hello.pid, signal.SIGKILL)


def test_jobs_use_what_services_leave_and_go_while_services_need_it(shop: Shop) -> None:
    shop.start()
    until(lambda: shop.workers() == 1)
    for _ in range(2):
        submitted = shop.commands("submit", "--memory", "15GiB", "--", sys.executable, "job.py")
        assert submitted.code == 0, submitted.err
    until(lambda: shop.states() == ["running"] * 2 and shop.count("began") == 2)
    shop.end(signal.SIGKILL)
    shop.start()
    until(lambda: shop.states() == ["running"] * 2)
    assert shop.count("began") == 2
    shop.wish(1200)
    until(lambda: shop.workers() == 4)
    assert shop.states() == ["waiting"] * 2
    assert all("services need its instance" in job["reason"] for job in shop.jobs())
    assert shop.count("saved") == 2
    shop.wish(300)
    until(lambda: shop.states() == ["running"] * 2 and shop.count("began") == 4)
    shop.end(signal.SIGTERM)
    shop.start()
    until(lambda: shop.states() == ["running"] * 2)
    (shop.commands.folder / "finish").touch()
    assert shop.commands("wait", "1", "2").code == 0
    told = json.loads(shop.commands("history", "-o", "json").out)
    verdicts = [[attempt["verdict"] for attempt in job["attempts"]] for job in told["jobs"]]
    assert verdicts == [["yielded", "done"]] * 2


def test_jobs_want_the_wall_clock(shop: Shop) -> None:
    found = shop.commands("run", "-f", "workload.yaml", "--jobs", "--once")
    assert found.code == 2
    assert "jobs take real time" in found.err


class MeteredDriver(SimulatedDriver):
    """Another package's driver, which has energy counters."""

    readings = 0

    def energy(self, busy: Collection[tuple[str, int]] = ()) -> tuple[EnergyReading, ...]:
        del busy
        self.readings += 1
        return (EnergyReading("node-0/gpu-0", "GPU-0", "a100-40gb", 100.0 * self.readings),)


def test_energy_beside_services_is_read_from_the_driver_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTITA_STATE", str(tmp_path))
    SimulatedCluster.create(tmp_path / CLUSTER, [("node-0/gpu-0", "a100-40gb")]).close()
    options = QueueOptions(QueueSettings(), Access(os.geteuid()), 1.0, None, recover=False)
    with (
        closing(MeteredDriver(tmp_path / CLUSTER, WallClock())) as driver,
        closing(Journal(tmp_path / FILE)) as journal,
        shared_with_jobs(OpenCluster(driver, journal), "metered", options) as shared,
    ):
        shared.wait(driver.clock.now())
        assert driver.readings
