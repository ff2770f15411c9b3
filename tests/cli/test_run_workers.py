"""`partita run` and `partita apply` with replicas that are workers, on a simulated cluster and the wall clock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from tests.cli.commands import Commands
from tests.serve.worker.client import gateway, numbered, until

from partita.drive.replicas import ReplicaRecords
from partita.errors import InputError
from partita.serve.worker.spec import WorkerSpec, read_spec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TABLE = """model,gpu,profile,batch,processes,throughput,latency_ms,quantile
bert,a100-40gb,3g.20gb,1,1,200,5,0.99
bert,a100-40gb,3g.20gb,8,1,310,20,0.99
"""
WORKLOAD = """apiVersion: partita/v1
kind: Workload
performance: [perf.csv]
gpus: [{model: a100-40gb, count: 1}]
services:
  - {name: bert, model: bert, rate: 500, slo: {latency_ms: 100}}
"""


@pytest.fixture
def partita(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Commands]:
    (tmp_path / "perf.csv").write_text(TABLE)
    (tmp_path / "workload.yaml").write_text(WORKLOAD)
    (tmp_path / "services.yaml").write_text("services: [{name: bert, worker: {emulated: true}}]")
    yield Commands(tmp_path, monkeypatch, capsys)
    for spec in specs(tmp_path):
        with suppress(OSError), gateway(spec) as one:  # one that was killed leaves its socket
            os.killpg(one.hello.pid, signal.SIGKILL)


def specs(folder: Path) -> list[WorkerSpec]:
    found = []
    for path in (folder / "state" / "replicas").glob("*.document"):
        with suppress(InputError):  # just removed, with the replica that it was for
            found.append(read_spec(path))
    return [each for each in found if (folder / "state" / "workers" / each.socket_name).exists()]


def test_once_leaves_workers_that_answer_and_mends_what_died(partita: Commands) -> None:
    folder = partita.folder
    run = ("run", "-f", folder / "workload.yaml", "--once", "--clock", "wall")
    words = (*run, "--services", folder / "services.yaml")
    assert partita(*words).code == 0
    found = specs(partita.folder)
    assert len(found) == 2
    assert all(each.seconds == {1: 0.005, 8: 0.02} for each in found)
    for each in found:
        with gateway(each) as one:
            assert one.ask(numbered(3))[0].error is None
            last = one.hello.pid
    os.kill(last, signal.SIGKILL)
    until(lambda: len(alive(partita)) == 1)
    assert partita(*words).code == 0
    assert len(alive(partita)) == 2
    assert last not in alive(partita)


def alive(partita: Commands) -> set[int]:
    records = partita.state / "replicas"
    found = set()
    for spec in specs(partita.folder):
        with suppress(OSError), gateway(spec) as one:  # as above
            found.add(one.hello.pid)
    assert ReplicaRecords(records).gpus()
    return found


def test_workers_outlive_a_controller_that_keeps_them(partita: Commands) -> None:
    environment = {**os.environ, "PARTITA_STATE": str(partita.state)}
    command = [
        sys.executable,
        "-m",
        "partita",
        "run",
        "-f",
        str(partita.folder / "workload.yaml"),
        "--poll",
        "0.05",
    ]
    command += ["--services", str(partita.folder / "services.yaml")]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: len(specs(partita.folder)) == 2)
            victim = min(alive(partita))
            os.kill(victim, signal.SIGKILL)
            until(lambda: len(alive(partita) - {victim}) == 2)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
    time.sleep(0.05)
    assert len(alive(partita)) == 2


def test_workers_on_a_simulated_clock_are_refused_with_what_helps(partita: Commands) -> None:
    folder = partita.folder
    told = partita("run", "-f", folder / "workload.yaml", "--once", "--services", folder / "services.yaml")
    assert told.code == 2
    assert "--clock wall" in told.err
    (folder / "services.yaml").write_text("services: [{name: vgg, worker: {emulated: true}}]")
    told = partita("run", "-f", folder / "workload.yaml", "--services", folder / "services.yaml")
    assert told.code == 2
    assert "nothing says how bert is run" in told.err
