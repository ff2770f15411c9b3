"""`partita apply` on GPUs behind NVML: instances are cut, processes run on them, and all of it goes again."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pynvml
import pytest
from tests.cli.commands import Commands
from tests.control.world import deployment
from tests.drive.fake_nvml import FakeNvml

from partita.mig.catalogue import gpu_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DAY = deployment("7g.40gb@0=bert", "4g.20gb@0=resnet 3g.20gb@4=resnet")
NIGHT = deployment("4g.20gb@0=bert 2g.10gb@4=resnet 1g.5gb@6=resnet")
NOTHING = deployment("")


class OneAtATime:
    """The simulated NVML, called by many threads as the real one may be."""

    def __init__(self, fake: FakeNvml) -> None:
        self._fake = fake
        self._lock = threading.RLock()

    def __getattr__(self, name: str) -> Callable[..., object]:
        entry = getattr(self._fake, name)

        def locked(*arguments: object) -> object:
            with self._lock:
                return entry(*arguments)

        return locked


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml("a100-40gb", "a100-40gb", "a100-40gb")
    monkeypatch.setattr(pynvml, "nvmlLib", OneAtATime(fake))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return fake


@pytest.fixture
def partita(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], nvml: FakeNvml
) -> Iterator[Commands]:
    del nvml
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    services = [{"name": name, "command": sleeper} for name in ("bert", "resnet")]
    (tmp_path / "services.yaml").write_text(json.dumps({"services": services}))
    monkeypatch.setenv("PARTITA_DRIVER", "nvml")
    monkeypatch.setenv("PARTITA_SERVICES", str(tmp_path / "services.yaml"))
    made = Commands(tmp_path, monkeypatch, capsys)
    yield made
    assert made("apply", made.plan("nothing.json", NOTHING), "--yes").code == 0, "replicas may be left"


def served(partita: Commands) -> dict[str, float]:
    found = json.loads(partita("status", "-o", "json").out)
    return {each["name"]: each["capacity"] for each in found["services"]}


def test_day_night_and_nothing(partita: Commands) -> None:
    result = partita("apply", partita.plan("day.json", DAY), "--yes")
    assert result.code == 0, result.err
    assert served(partita) == {"bert": 700.0, "resnet": 700.0}
    night = partita.plan("night.json", NIGHT, {"bert": 400.0, "resnet": 300.0})
    result = partita("apply", night, "--yes", "-o", "json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["took"]["replans"] == 0, result.err
    assert served(partita) == {"bert": 400.0, "resnet": 300.0}
    assert "nothing to do" in partita("apply", night).out


def test_someone_elses_instance_is_left_alone(partita: Commands, nvml: FakeNvml) -> None:
    nvml.foreign(0, "3g.20gb@4")
    assert partita("apply", partita.plan("day.json", DAY), "--yes").code == 0
    gpus = json.loads(partita("status", "-o", "json").out)["gpus"]
    assert [
        (each["profile"], each["start"]) for gpu in gpus for each in gpu["instances"] if not each["ours"]
    ] == [("3g.20gb", 4)]


def test_a_replica_that_was_killed_is_started_again(partita: Commands) -> None:
    day = partita.plan("day.json", DAY)
    partita("apply", day, "--yes")
    (record,) = [
        json.loads(path.read_text())
        for path in (partita.state / "replicas").glob("*.json")
        if "bert" in path.read_text()
    ]
    os.kill(record["pid"], signal.SIGKILL)
    result = partita("apply", day, "--yes")
    assert result.code == 0, result.err
    assert "does not run bert batch 8 any more" in result.err
    assert served(partita) == {"bert": 700.0, "resnet": 700.0}


def test_a_service_without_a_command_is_refused_before_anything_is_cut(partita: Commands) -> None:
    other = partita.plan("other.json", deployment("7g.40gb@0=vgg"))
    result = partita("apply", other, "--yes")
    assert result.code == 2
    assert "nothing says how vgg is run" in result.err
    gpus = json.loads(partita("status", "-o", "json").out)["gpus"]
    assert [gpu["instances"] for gpu in gpus] == [[], [], []]


def test_gpus_that_are_not_there_are_said(partita: Commands) -> None:
    many = deployment(*["7g.40gb@0=bert"] * 4)
    result = partita("apply", partita.plan("many.json", many), "--yes")
    assert result.code == 2
    assert "needs 4 GPUs of a100-40gb, and the cluster has 3" in result.err


def test_a_gpu_that_the_catalogue_lacks_is_read_planned_for_and_cut(
    partita: Commands, nvml: FakeNvml, tmp_path: Path
) -> None:
    own = gpu_model("a100-40gb")
    nvml.cards.clear()
    for _ in range(3):
        nvml.cards.append(nvml._card(replace(own, aliases=("NVIDIA Odd 40GB",), pci=()), mig=True))
    found = json.loads(partita("gpus", "--from-nvml", "-o", "json").out)
    assert [each["name"] for each in found] == ["odd-40gb"]
    day = partita.plan("day.json", deployment("7g.40gb@0=bert"))
    day.write_text(day.read_text().replace("a100-40gb", "odd-40gb"))
    refused = partita("apply", day, "--yes")
    assert refused.code == 2
    assert "--gpus-file" in refused.err
    kept = tmp_path / "odd.toml"
    assert partita("gpus", "--from-nvml", "--out", kept).code == 0
    assert partita("apply", day, "--yes", "--gpus-file", kept).code == 0
    gpus = json.loads(partita("status", "-o", "json").out)["gpus"]
    assert [gpu["model"] for gpu in gpus] == ["odd-40gb"] * 3
    assert sum(len(gpu["instances"]) for gpu in gpus) == 1
    assert partita("diff", day, "--gpus-file", kept).code == 0


def test_gpus_that_are_left_out_are_said(partita: Commands, nvml: FakeNvml) -> None:
    nvml.cards[2].mig_capable = False
    result = partita("apply", partita.plan("day.json", DAY), "--yes")
    assert result.code == 0
    assert "note: GPU 2 (NVIDIA A100-SXM4-40GB) is left out: it has no MIG" in result.err
