"""Services that share an instance, from the workload to a cluster that runs them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.cli.commands import Commands
from tests.web.reading import report_in

if TYPE_CHECKING:
    from pathlib import Path

MODELS = "".join(
    f"  - {{name: m{i}, gflop: 4, mbytes: 100, weights_mb: {700 + 300 * i}, precision: fp16}}\n"
    for i in range(4)
)


@pytest.fixture
def partita(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(tmp_path, monkeypatch, capsys)


def workload(folder: Path, services: int, rate: float = 0.5) -> Path:
    path = folder / f"workload-{services}.yaml"
    path.write_text(
        "apiVersion: partita/v1\nkind: Workload\ngpus: [{model: a30-24gb, count: 4}]\nmodels:\n"
        + MODELS
        + "services:\n"
        + "".join(
            f"  - {{name: s{i}, model: m{i % 4}, rate: {rate}, slo: {{latency_ms: 200}}, share: true}}\n"
            for i in range(services)
        )
    )
    return path


def test_services_that_share_are_planned_applied_and_moved_together(
    partita: Commands, tmp_path: Path
) -> None:
    first, then = tmp_path / "first.json", tmp_path / "then.json"
    made = partita("plan", "-f", workload(tmp_path, 4), "--out", first, "--html", tmp_path / "plan.html")
    assert made.code == 0
    assert "4 services share 1 instance, up to 4 on one" in made.err
    assert "shared" in made.out
    assert "s0 +3" in made.out
    assert partita("plan", "-f", workload(tmp_path, 4), "--check", first).code == 0
    drawn = report_in(tmp_path / "plan.html").sections[-1].gpus
    assert drawn is not None
    assert drawn.points[drawn.point[0]].tenants == ("s0", "s1", "s2", "s3")
    assert drawn.fleet.instances.shared["0"] == (0, 1, 2, 3)
    assert partita("plan", "-f", workload(tmp_path, 6, 0.7), "--out", then).code == 0
    told = partita("diff", first, then, "--html", tmp_path / "diff.html")
    assert told.code == 3
    over_time = next(
        each.transition for each in report_in(tmp_path / "diff.html").sections if each.transition
    )
    assert "s0 +3" in {bar.service for bar in over_time.detail.actions}
    assert partita("apply", first, "--yes", "--simulate", "a30-24gb:4").code == 0
    applied = partita("apply", then, "--yes")
    assert applied.code == 0
    assert "start replica  s0 +5 on" in applied.err
    status = json.loads(partita("status", "-o", "json").out)
    assert {each["name"]: each["capacity"] for each in status["services"]} == {f"s{i}": 0.7 for i in range(6)}
    (shared,) = [each for gpu in status["gpus"] for each in gpu["instances"]]
    assert shared["shared_by"] == [f"s{i}" for i in range(6)]


def test_explain_says_who_shares_with_whom(partita: Commands, tmp_path: Path) -> None:
    path = workload(tmp_path, 4)
    told = partita("explain", "-f", path, "--service", "s1")
    assert told.code == 0
    assert "with 3 other services (s0, s2, s3)" in " ".join(told.out.split())
    (found,) = json.loads(partita("explain", "-f", path, "--service", "s1", "-o", "json").out)
    assert found["shared"]["others"] == ["s0", "s2", "s3"]
    assert 0 < found["shared"]["busy"] < 0.1
