"""`partita serve` on GPUs behind NVML: each worker sees the MIG device that the plan gives it, and no other."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pynvml
import pytest
from tests.cli.commands import Commands
from tests.cli.test_apply_nvml import OneAtATime
from tests.control.world import deployment
from tests.drive.fake_nvml import FakeNvml

from partita.drive.nvml import NvmlDriver
from partita.mig.layout import Placement

if TYPE_CHECKING:
    from collections.abc import Callable

PLANNED = deployment("3g.20gb@0=net 2g.10gb@4=net", "7g.40gb@0=net")
TABLE = """model,gpu,profile,batch,processes,throughput,latency_ms,quantile
net,a100-40gb,2g.10gb,1,1,500,2,0.95
net,a100-40gb,3g.20gb,1,1,500,2,0.95
net,a100-40gb,7g.40gb,1,1,500,2,0.95
"""
WORKLOAD = """apiVersion: partita/v1
kind: Workload
performance: [perf.csv]
gpus: [{model: a100-40gb, count: 2}]
services:
  - {name: net, model: net, rate: 500, slo: {latency_ms: 100, quantile: 0.95}}
"""
SERVICES = "services: [{name: net, worker: {emulated: true}, environment: {KEY: value}, grace_s: 3}]\n"
PATIENCE_S = 60.0


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml("a100-40gb", "a100-40gb", "a100-40gb")
    monkeypatch.setattr(pynvml, "nvmlLib", OneAtATime(fake))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return fake


@pytest.fixture
def partita(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], nvml: FakeNvml
) -> Commands:
    del nvml
    (tmp_path / "services.yaml").write_text(SERVICES)
    (tmp_path / "perf.csv").write_text(TABLE)
    (tmp_path / "workload.yaml").write_text(WORKLOAD)
    return Commands(tmp_path, monkeypatch, capsys)


def cut(partita: Commands, nvml: FakeNvml, *instances: tuple[int, str]) -> dict[str, str]:
    """Make instances, and have them adopted; return their UUIDs by GPU and placement."""
    partita.state.mkdir(exist_ok=True)
    driver = NvmlDriver(partita.state, {})
    try:
        for card, at in instances:
            nvml.foreign(card, at)
            driver.adopt(f"node-0/gpu-{card}", Placement.parse(at))
        return {
            f"{gpu.id} {each.placement}": str(each.identity.mig_uuid)
            for gpu in driver.observe().gpus
            for each in gpu.instances
        }
    finally:
        driver.close()


def serve(partita: Commands, *words: str) -> list[object]:
    return [
        "serve",
        "-f",
        partita.folder / "workload.yaml",
        "--plan",
        partita.plan("plan.json", PLANNED),
        *("--driver", "nvml", "--port", 0, "--grpc-port", 0, *words),
    ]


def with_services(partita: Commands) -> list[object]:
    return [*serve(partita), "--services", partita.folder / "services.yaml"]


def when(true: Callable[[], object], work: Callable[[], object]) -> threading.Thread:
    """Do some work as soon as something is true, or a minute later, and then ask this process to end."""

    def wait() -> None:
        end = time.monotonic() + PATIENCE_S
        while not true() and time.monotonic() < end:
            time.sleep(0.05)
        try:
            work()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def environments(folder: Path) -> dict[str, dict[str, str]]:
    """Return the environments of the workers whose specifications are in a folder, by GPU and placement."""
    found = {}
    for path in folder.glob("*.json"):
        spec = json.loads(path.read_text())
        for process in Path("/proc").iterdir():
            try:
                if str(path).encode() in (process / "cmdline").read_bytes().split(b"\0"):
                    pairs = (process / "environ").read_bytes().decode().strip("\0").split("\0")
                    found[f"{spec['gpu']} {spec['placement']}"] = dict(pair.split("=", 1) for pair in pairs)
            except OSError:
                continue
    return found


def test_each_worker_is_pinned_to_an_instance_that_stands_if_need_be_under_another_name(
    partita: Commands, nvml: FakeNvml
) -> None:
    # The GPUs of the plan changed places, and the small instance is where a transition may have left it.
    uuids = cut(partita, nvml, (0, "7g.40gb@0"), (2, "3g.20gb@0"), (1, "2g.10gb@2"))
    folder = partita.state / "workers"
    seen: dict[str, dict[str, str]] = {}
    thread = when(lambda: len(list(folder.glob("*.sock"))) == 3, lambda: seen.update(environments(folder)))
    result = partita(*with_services(partita))
    thread.join()
    assert result.code == 0, result.err
    assert {at: each["CUDA_VISIBLE_DEVICES"] for at, each in seen.items()} == uuids
    assert {each["KEY"] for each in seen.values()} == {"value"}


@pytest.mark.parametrize(
    ("foreign", "says", "hint"),
    [
        ("", "the plan has 1 7g.40gb on a100-40gb, and 0 of this host are free", "partita apply"),
        ("7g.40gb@0", "node-0/gpu-0 7g.40gb@0 is not Partita's", "adopt node-0/gpu-0 7g.40gb@0"),
    ],
)
def test_what_does_not_stand_or_is_anothers_is_refused(
    partita: Commands, nvml: FakeNvml, foreign: str, says: str, hint: str
) -> None:
    cut(partita, nvml, (1, "3g.20gb@0"), (1, "2g.10gb@4"))
    if foreign:
        nvml.foreign(0, foreign)
    result = partita(*with_services(partita))
    assert result.code == 2
    assert says in result.err.replace("\n", " ")
    assert hint in result.err.replace("\n", " ")
    assert not list(partita.state.glob("workers/*"))


def test_workers_that_run_there_already_are_to_be_attached_to(partita: Commands) -> None:
    plan = partita.plan("plan.json", PLANNED)
    services = ("--services", partita.folder / "services.yaml", "--driver", "nvml")
    assert partita("apply", plan, "--yes", *services).code == 0
    try:
        result = partita(*with_services(partita))
        assert result.code == 2
        assert "partita serve --attach" in result.err.replace("\n", " ")
    finally:
        assert partita("apply", partita.plan("none.json", deployment("")), "--yes", *services).code == 0


def test_real_instances_get_no_emulated_workers_unasked(partita: Commands) -> None:
    result = partita(*serve(partita))
    assert result.code == 2
    assert "nothing says what runs on the GPUs" in result.err
