"""`partita perf import`: other tools' files, and what those do not say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.cli.commands import Commands

from partita.perf.reading import read_table

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(tmp_path, monkeypatch, capsys)


def test_import_writes_a_table_that_reads(commands: Commands, tmp_path: Path) -> None:
    raw = tmp_path / "resnet50.csv"
    raw.write_text(
        "Mig instance,Batch size,Workload Number,Throughput,Latency\n1,8,2,185.293,0.043\n1,9,1,0,0\n"
    )
    out = tmp_path / "perf.csv"
    done = commands("perf", "import", "parvagpu", raw, "--out", out)
    assert done.code == 0
    assert "wrote 1 row of 1 model to" in done.err
    (row,) = read_table(out)
    assert (row.model, row.profile, row.throughput) == ("resnet50", "1g.10gb", 370.586)


def test_import_from_triton_is_told_what_the_file_does_not_say(commands: Commands, tmp_path: Path) -> None:
    raw = tmp_path / "out.csv"
    raw.write_text("Concurrency,Inferences/Second,Client Send,p99 latency\n1,70,225,21018\n")
    words = ("perf", "import", "perf-analyzer", raw, "--gpu", "a100-80gb", "--model", "m", "--batch", "4")
    done = commands(*words, "--profile", "2g.20gb")
    assert (
        done.out.splitlines()[1] == 'm,a100-80gb,2g.20gb,4,1,70.0,21.018,0.99,"perf_analyzer, concurrency 1"'
    )
    assert commands(*words, "--profile", "2g.10gb").code == 2
    assert commands(*words).code == 2
    raw.write_text("Model,Batch,Concurrency,Throughput (infer/sec),p99 Latency (ms)\nm,1,1,70,21\n")
    done = commands("perf", "import", "model-analyzer", raw, "--gpu", "a100-80gb", "--profile", "2g.20gb")
    assert "m,a100-80gb,2g.20gb,1,1,70.0,21.0,0.99" in done.out


def test_a_failed_import_leaves_no_file(commands: Commands, tmp_path: Path) -> None:
    out = tmp_path / "perf.csv"
    done = commands("perf", "import", "parvagpu", tmp_path / "none.csv", "--out", out)
    assert done.code == 2
    assert list(tmp_path.iterdir()) == []
    assert commands("perf", "import", "parvagpu", tmp_path, "--out", out).code == 2
