"""`partita run` keeps a cluster to a workload: file, rates, other people's doing, and signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from tests.cli.commands import Commands

from partita.drive.simulated import FaultKind, InjectedFault, SimulatedCluster
from partita.mig.layout import Placement

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TABLE = """model,gpu,profile,batch,processes,throughput,latency_ms,quantile
bert,a100-40gb,1g.5gb,8,1,100,20,0.99
bert,a100-40gb,2g.10gb,8,1,210,20,0.99
bert,a100-40gb,3g.20gb,8,1,310,20,0.99
bert,a100-40gb,7g.40gb,8,1,750,20,0.99
vgg,a100-40gb,1g.5gb,8,1,50,20,0.99
vgg,a100-40gb,3g.20gb,8,1,160,20,0.99
"""

WORKLOAD = """apiVersion: partita/v1
kind: Workload
performance: [perf.csv]
gpus: [{{model: a100-40gb, count: {count}}}]
services:
  - {{name: bert, model: bert, rate: {bert}, slo: {{latency_ms: 100}}}}
  - {{name: vgg, model: vgg, rate: 90, slo: {{latency_ms: 100}}}}
"""


@pytest.fixture
def partita(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    (tmp_path / "perf.csv").write_text(TABLE)
    return Commands(tmp_path, monkeypatch, capsys)


def write(partita: Commands, bert: float, count: int = 4) -> Path:
    path = partita.folder / "workload.yaml"
    path.write_text(WORKLOAD.format(bert=bert, count=count))
    return path


def capacity(partita: Commands) -> dict[str, float]:
    return {
        each["name"]: each["capacity"] for each in json.loads(partita("status", "-o", "json").out)["services"]
    }


def test_once_plans_and_applies(partita: Commands) -> None:
    result = partita("run", "-f", write(partita, 700), "--once")
    assert result.code == 0, result.err
    assert "planning: there is no plan yet" in result.err
    assert capacity(partita)["bert"] >= 700


def test_once_more_with_more_load_follows_the_file(partita: Commands) -> None:
    partita("run", "-f", write(partita, 700), "--once")
    assert partita("run", "-f", write(partita, 1500), "--once").code == 0
    assert capacity(partita)["bert"] >= 1500


def test_measured_rates_go_before_those_in_the_file(partita: Commands) -> None:
    path = write(partita, 700)
    rates = partita.folder / "measured.json"
    rates.write_text('{"bert": 1500}')
    partita("run", "-f", path, "--once", "--rates", rates)
    assert capacity(partita)["bert"] >= 1500


def test_with_too_few_gpus_the_most_important_is_met(partita: Commands) -> None:
    path = write(partita, 5000, count=2)
    result = partita("run", "-f", path, "--once")
    assert result.code == 0, result.err
    assert sum(capacity(partita).values()) > 0


def test_without_a_count_the_simulated_cluster_has_whole_nodes(partita: Commands) -> None:
    path = write(partita, 700)
    path.write_text(path.read_text().replace(", count: 4", ""))
    result = partita("run", "-f", path, "--once")
    assert result.code == 0, result.err
    assert "made a simulated cluster of 8 GPUs" in result.err


def test_a_lost_gpu_is_planned_around(partita: Commands) -> None:
    path = write(partita, 1500)
    partita("run", "-f", path, "--once")
    used = [gpu["id"] for gpu in json.loads(partita("status", "-o", "json").out)["gpus"] if gpu["instances"]]
    SimulatedCluster(partita.state / "cluster.sqlite3").lose(used[0])
    result = partita("run", "-f", path, "--once")
    assert result.code == 0, result.err
    assert f"{used[0]}: is lost" in result.err
    assert capacity(partita)["bert"] >= 1500


def test_a_small_change_moves_little(partita: Commands) -> None:
    partita("run", "-f", write(partita, 1500), "--once")
    before = _replicas(partita)
    partita("run", "-f", write(partita, 1600), "--once")
    assert len(before - _replicas(partita)) <= 1


def _replicas(partita: Commands) -> set[tuple[str, int, str]]:
    gpus = json.loads(partita("status", "-o", "json").out)["gpus"]
    return {(gpu["id"], each["start"], each["service"]) for gpu in gpus for each in gpu["instances"]}


def test_a_fault_in_the_workload_is_told_before_anything_is_made(partita: Commands) -> None:
    path = partita.folder / "workload.yaml"
    path.write_text("apiVersion: partita/v1\nkind: Workload\n")
    assert partita("run", "-f", path, "--once").code == 2
    assert not partita.state.exists()


def test_once_fails_where_an_action_fails_for_ever(partita: Commands) -> None:
    partita("run", "-f", write(partita, 700), "--once")
    cluster = SimulatedCluster(partita.state / "cluster.sqlite3")
    cluster.inject(InjectedFault(FaultKind.FAILS, times=1000))
    result = partita("run", "-f", write(partita, 1500), "--once")
    assert result.code == 1
    assert "failed after 5 tries" in result.err


class Running:
    """A `partita run` in a process of its own, on a simulated clock, looking every 50 ms."""

    def __init__(self, partita: Commands, *words: object) -> None:
        self.partita = partita
        command = [sys.executable, "-m", "partita", "run", "-f", str(partita.folder / "workload.yaml")]
        command += ["--clock", "simulated", "--poll", "0.05", *map(str, words)]
        environment = {**os.environ, "PARTITA_STATE": str(partita.state)}
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not (self.partita.state / "cluster.sqlite3").exists() or not holds():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, "it never came about"
            time.sleep(0.05)

    def end(self, number: signal.Signals = signal.SIGTERM) -> str:
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=20)
        return str(err)


def test_it_follows_file_rates_and_other_peoples_doing_until_it_is_told_to_stop(partita: Commands) -> None:
    path = write(partita, 700)
    running = Running(partita, "--hold", 0)
    try:
        running.until(lambda: capacity(partita).get("bert", 0) >= 700)
        path.write_text("kind: nonsense")
        time.sleep(0.2)
        write(partita, 1500)
        running.until(lambda: capacity(partita)["bert"] >= 1500)
        (partita.state / "rates.json").write_text('{"bert": 300}')
        running.until(lambda: capacity(partita)["bert"] < 1500)
        first = capacity(partita)
        used = next(g for g in json.loads(partita("status", "-o", "json").out)["gpus"] if g["instances"])
        each = used["instances"][0]
        cluster = SimulatedCluster(partita.state / "cluster.sqlite3")
        cluster.kill_replica(used["id"], Placement(each["start"], each["profile"]))
        running.until(lambda: capacity(partita) == first)
    finally:
        err = running.end()
    assert running.process.returncode == 0, err
    assert "workload.yaml" in err, "the fault in the file was not told"
    assert "the workload has changed" in err
    assert "bert is at 300 items/s, planned for 1500" in err
    assert "does not run" in err


def test_a_plan_is_held(partita: Commands) -> None:
    write(partita, 700)
    running = Running(partita, "--hold", 1000)
    try:
        running.until(lambda: capacity(partita).get("bert", 0) >= 700)
        write(partita, 1500)
        time.sleep(0.5)
        assert capacity(partita)["bert"] < 1500
    finally:
        running.end(signal.SIGINT)
    assert running.process.returncode == 0
