"""`partita explain` as a user runs it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.cli.commands import Commands
from tests.cli.test_plan import SAMPLE

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def partita(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(tmp_path, monkeypatch, capsys)


def test_explain_says_what_binds_and_what_a_change_would_do(partita: Commands) -> None:
    result = partita("explain", "-f", SAMPLE, "--service", "photo-search")
    assert result.code == 0, result.err
    assert "latency: batch 64" in result.out
    assert "rate +10 %" in result.out
    assert "SLO +20 %" in result.out
    assert "text-embedding" not in result.out


def test_explain_of_an_unknown_service_names_the_nearest(partita: Commands) -> None:
    result = partita("explain", "-f", SAMPLE, "--service", "photo-serch")
    assert result.code == 2
    assert "photo-search" in result.err


def test_explain_in_json_has_every_profile(partita: Commands) -> None:
    found = json.loads(partita("explain", "-f", SAMPLE, "--service", "moderation", "-o", "json").out)
    profiles = [each["profile"] for each in found[0]["gpus"]["a100-80gb"]]
    assert profiles[0] == "1g.10gb"
    assert profiles[-1] == "7g.80gb"


def test_explain_says_what_waiting_costs(partita: Commands, tmp_path: Path) -> None:
    rows = ["model,gpu,profile,batch,processes,throughput,latency_ms,quantile"]
    for profile, base in (("1g.10gb", 8), ("2g.20gb", 5), ("7g.80gb", 2)):
        for batch in (1, 8, 64):
            latency = 5 + base * batch
            rows.append(f"m,a100-80gb,{profile},{batch},1,{batch / latency * 1000},{latency},mean")
    (tmp_path / "perf.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "workload.yaml").write_text(
        "apiVersion: partita/v1\nkind: Workload\nperformance: [perf.csv]\ngpus: [{model: a100-80gb}]\n"
        "services:\n  - {name: a, model: m, rate: 400, slo: {latency_ms: 140, quantile: 0.99}}\n"
    )
    asked = ("explain", "-f", str(tmp_path / "workload.yaml"))
    result = partita(*asked)
    assert result.code == 0, result.err
    assert "99 % of the queries within the SLO, waiting included; Poisson arrivals" in result.out
    assert "arrivals: constant" in result.out
    found = json.loads(partita(*asked, "-o", "json").out)[0]["gpus"]["a100-80gb"]
    assert (
        found[-1]["point"]["throughput"]
        < found[-1]["point"]["batch"] / found[-1]["point"]["latency_ms"] * 1000
    )
