"""Pools of one GPU, and services that may use some of them: from the workload to the plan's check."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.cli.commands import Commands
from tests.cli.test_plan import workload

if TYPE_CHECKING:
    from pathlib import Path

POOLS = [
    {"name": "own", "model": "a30-24gb", "count": 1},
    {"name": "spot", "model": "a30-24gb", "count": 6, "per_node": 2},
]


@pytest.fixture
def partita(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(tmp_path, monkeypatch, capsys)


def asked(folder: Path, **first: object) -> Path:
    path = workload(folder, gpus=POOLS)
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    document["services"][0].update(first)
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_plan_keeps_services_to_their_pools_and_says_which_they_are(partita: Commands) -> None:
    path, plan = asked(partita.folder, pools=["spot"], spread=2), partita.folder / "plan.json"
    page = partita.folder / "plan.html"
    shown = partita("plan", "-f", path, "--out", plan, "--html", page)
    assert shown.code == 0
    assert "a30-24gb of spot" in shown.out
    assert "a30-24gb of spot" in page.read_text()
    made = json.loads(plan.read_text())
    stands = {gpu["pool"] for gpu in made["gpus"] for each in gpu["instances"] if each["service"] == "first"}
    assert stands == {"spot"}
    assert made["objective"]["proven"]
    assert partita("plan", "-f", path, "--check", plan).code == 0

    for gpu in made["gpus"]:
        if any(each["service"] == "first" for each in gpu["instances"]):
            gpu["pool"] = "own"
    plan.write_text(json.dumps(made))
    result = partita("plan", "-f", path, "--check", plan)
    assert result.code == 1
    assert "is open to all its services (first)" in result.out


def test_explain_says_which_pools_a_service_may_use(partita: Commands) -> None:
    path = asked(partita.folder, pools=["spot"])
    assert "may use GPUs of spot alone" in partita("explain", "-f", path, "--service", "first").out
    found = json.loads(partita("explain", "-f", path, "-o", "json").out)
    assert [each["pools"] for each in found] == [["spot"], None]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("spoit", "did you mean spot?"),
        ("a30-24gb", "the pools of a30-24gb are named own, spot"),
        ("elsewhere", "`gpus` has own, spot"),
    ],
)
def test_an_unknown_pool_is_told_with_its_line(partita: Commands, name: str, hint: str) -> None:
    path = asked(partita.folder, pools=["own", name])
    result = partita("plan", "-f", path)
    line = path.read_text().splitlines().index(f"  - {name}") + 1
    assert result.code == 2
    assert f"workload.yaml:{line}" in result.err
    assert f"there is no pool '{name}'" in result.err
    assert hint in result.err
