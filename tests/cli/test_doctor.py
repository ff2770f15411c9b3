from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pynvml
import pytest
import yaml
from tests.drive.fake_nvml import FakeNvml
from typer.testing import CliRunner, Result

from partita.cli.main import app
from partita.drive.simulated import SimulatedCluster

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def nvml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeNvml:
    fake = FakeNvml("a100-40gb")
    monkeypatch.setattr(pynvml, "nvmlLib", fake)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    monkeypatch.setenv("PARTITA_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return fake


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *words])


def test_a_well_host_ends_with_0_and_shows_what_is_cut(nvml: FakeNvml) -> None:
    nvml.foreign(0, "3g.20gb@4")
    done = run()
    assert done.exit_code == 0
    assert "NVIDIA driver 550.54.15" in done.stdout
    assert "GPU 0 a100-40gb: 3g.20gb@4 (not ours)" in done.stdout
    assert "mend" not in done.stdout


def test_what_must_be_mended_ends_with_1_and_a_command(nvml: FakeNvml) -> None:
    nvml.cards[0].mig = nvml.cards[0].pending = False
    done = run()
    assert done.exit_code == 1
    assert "sudo nvidia-smi -i 0 -mig 1" in done.stdout


def test_without_a_gpu_it_says_so_and_ends_with_0(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.failing["nvmlInitWithFlags"] = [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND]
    monkeypatch.setattr("partita.drive.survey.pci_gpus", lambda _root: 0)
    done = run()
    assert done.exit_code == 0
    assert "no NVIDIA GPU on this host" in done.stdout


def test_json_and_yaml_say_the_same(nvml: FakeNvml, tmp_path: Path) -> None:
    nvml.foreign(0, "3g.20gb@4")
    (tmp_path / "state").mkdir()
    SimulatedCluster.create(tmp_path / "state/cluster.sqlite3", [("node-0/gpu-0", "a30-24gb")]).close()
    as_json = json.loads(run("-o", "json").stdout)
    assert as_json == yaml.safe_load(run("-o", "yaml").stdout)
    assert as_json["ok"] is True
    assert as_json["gpus"][0]["instances"][0]["profile"] == "3g.20gb"
    assert as_json["gpus"][0]["instances"][0]["ours"] is False
    assert as_json["simulated"] == [
        {"id": "node-0/gpu-0", "model": "a30-24gb", "mig": True, "lost": False, "instances": []}
    ]
    assert {"level": "ok", "what": "NVIDIA driver 550.54.15", "where": None, "hint": None} in as_json[
        "findings"
    ]
