"""`partita adopt` takes over what someone else made, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.cli.commands import Commands
from tests.control.world import deployment, gpu

from partita.drive.simulated import SimulatedCluster
from partita.mig.layout import Placement

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def partita(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    made = Commands(tmp_path, monkeypatch, capsys)
    made("apply", made.plan("day.json", deployment("3g.20gb@4=bert")), "--yes")
    SimulatedCluster(made.state / "cluster.sqlite3").create_foreign(gpu(1), Placement(0, "2g.10gb"))
    return made


def test_an_adopted_instance_can_be_destroyed_by_the_next_plan(partita: Commands) -> None:
    whole = partita.plan("night.json", deployment("7g.40gb@0=bert"))
    assert "adopted node-0/gpu-1 2g.10gb@0" in partita("adopt", gpu(1)).out
    assert partita("apply", whole, "--yes").code == 0
    assert "2g.10gb" not in partita("status", "--tail", "0").out


def test_only_instances_of_someone_else_can_be_adopted(partita: Commands) -> None:
    refused = partita("adopt", gpu(1), "3g.20gb@4")
    assert refused.code == 2
    assert "there: 2g.10gb@0" in refused.err


def test_a_dry_run_adopts_nothing(partita: Commands) -> None:
    assert "would adopt" in partita("adopt", gpu(1), "--dry-run").out
    assert "adopted" in partita("adopt", gpu(1)).out


def test_an_unknown_gpu_is_refused(partita: Commands) -> None:
    refused = partita("adopt", "node-9/gpu-9")
    assert refused.code == 2
    assert "partita status" in refused.err
