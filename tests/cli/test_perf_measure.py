from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.cli.commands import Commands

from partita.errors import InputError
from partita.perf.reading import read_table

pytest.importorskip("onnx", reason="the optional package onnx is not installed")
pytest.importorskip("onnxruntime", reason="the optional package onnxruntime is not installed")
from tests.perf.measure.models import cnn, growing, mlp

if TYPE_CHECKING:
    from collections.abc import Iterator

QUICK = ("--seconds", "0.1", "--max-seconds", "20", "--warmup-seconds", "1")
START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell
from partita.cli.main import main
main()
"""
WORKLOAD = """\
apiVersion: partita/v1
kind: Workload
performance: [perf.csv]
gpus: [{model: a30-24gb, count: 2}]
services: [{name: mine, model: mlp, rate: 1, slo: {latency_ms: 60000, quantile: 0.9}}]
limits: {max_processes: 2}
"""


@pytest.fixture
def partita(tmp_path, monkeypatch, capsys) -> Commands:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return Commands(tmp_path, monkeypatch, capsys)


@contextmanager
def running(*words: object, limit_gib: int | None = None) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", START, "perf", "measure", *map(str, words)]
    if limit_gib:
        command = ["bash", "-c", f'ulimit -v {limit_gib << 20}; exec "$@"', "bash", *command]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_table_is_measured_and_planned_with(partita, tmp_path):
    model, table = mlp(tmp_path / "mlp.onnx"), tmp_path / "perf.csv"
    done = partita(
        "perf", "measure", model, "--device", "cpu", "--as", "a30-24gb/1g.6gb", "--batches", "1,8",
        "--max-processes", 2, "--out", table, *QUICK,
    )  # fmt: skip
    assert done.code == 0, done.err
    rows = list(read_table(table))
    cells = set(product((1, 8), (1, 2), ("0.5", "0.9", "0.99")))
    assert {(r.batch, r.processes, r.quantile) for r in rows} == cells
    for row in rows:
        assert (row.model, row.gpu, row.profile) == ("mlp", "a30-24gb", "1g.6gb")
        assert row.estimated
        assert "stand-in for a30-24gb 1g.6gb, NOT on that GPU" in row.source
        assert "peak resident set" in row.source
        assert row.memory_mb is not None
        assert row.memory_mb > 20
        assert row.power_w is None
        assert row.utilization is None
    by_quantile = {r.quantile: r.latency_ms for r in rows if (r.batch, r.processes) == (8, 1)}
    assert by_quantile["0.5"] <= by_quantile["0.9"] <= by_quantile["0.99"]
    assert not (tmp_path / "perf.csv.measuring").exists()
    (tmp_path / "w.yaml").write_text(WORKLOAD)
    planned = partita("plan", "-f", tmp_path / "w.yaml", "-o", "json")
    assert planned.code == 0, planned.err
    assert '"1g.6gb"' in planned.out


def test_a_cpu_is_no_gpu_unless_it_is_told_to_stand_in_for_one(partita, tmp_path):
    table = tmp_path / "perf.csv"
    done = partita(
        "perf", "measure", mlp(tmp_path / "m.onnx"), "--device", "cpu", "--batches", 1, "--out", table, *QUICK
    )
    assert done.code == 0, done.err
    refused = partita("perf", "check", table)
    assert refused.code == 2
    assert "measured on a CPU" in refused.err
    with pytest.raises(InputError, match="measured on a CPU"):
        read_table(table)


def test_inputs_of_every_kind_are_made_up(partita, tmp_path):
    model = cnn(tmp_path / "cnn.onnx")
    unknown = partita("perf", "measure", model, "--device", "cpu")
    assert unknown.code == 2
    assert "a dimension of image[n, 3, height, width] is not known" in unknown.err
    done = partita(
        "perf", "measure", model, "--device", "cpu", "--shape", "height=8", "--shape", "width=16", "--batches", 3,
        "--quantiles", "p50", "--name", "mine", *QUICK,
    )  # fmt: skip
    assert done.code == 0, done.err
    (row,) = [line.split(",") for line in done.out.splitlines()[1:]]
    assert row[:5] == ["mine", "cpu", "host", "3", "1"]


def test_a_dry_run_says_what_would_be_measured_and_measures_nothing(partita, tmp_path):
    out = tmp_path / "perf.csv"
    done = partita("perf", "measure", mlp(tmp_path / "m.onnx"), "--device", "cpu", "--out", out, "--dry-run")
    assert done.code == 0
    assert "x: float32[batch, 32]" in done.out
    assert "cells      8, 8 of them left" in done.out
    assert not out.exists()


def test_an_interrupted_measurement_leaves_a_table_and_goes_on(partita, tmp_path):
    model, table = mlp(tmp_path / "m.onnx"), tmp_path / "perf.csv"
    journal = tmp_path / "perf.csv.measuring"
    words = (model, "--device", "cpu", "--batches", "1,2,4", "--quantiles", "p90", "--out", table)
    slow = ("--seconds", "0.7", "--warmup-seconds", "0.5", "--threads", "1")
    with running(*words, *slow) as process:
        wait_for(journal, process)
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "the same command goes on" in err
    first = table.read_text().splitlines()
    assert 2 <= len(first) <= 3
    done = partita("perf", "measure", *words, *slow)
    assert done.code == 0, done.err
    assert f"going on from {journal}" in done.err
    whole = table.read_text().splitlines()
    assert len(whole) == 4
    assert whole[: len(first)] == first
    assert not journal.exists()


def test_processes_end_with_a_command_that_is_killed_and_what_is_done_stays(partita, tmp_path):
    model, table = mlp(tmp_path / "m.onnx"), tmp_path / "perf.csv"
    words = (model, "--device", "cpu", "--batches", "1,2", "--quantiles", "p50", "--out", table)
    slow = ("--seconds", "1", "--warmup-seconds", "0.5", "--threads", "1")
    with running(*words, *slow) as process:
        wait_for(tmp_path / "perf.csv.measuring", process)
        end = time.monotonic() + 60
        while not (started := children(process.pid)) and time.monotonic() < end:
            time.sleep(0.01)
        process.kill()
    assert started
    end = time.monotonic() + 30
    while any(Path(f"/proc/{each}").exists() for each in started):
        assert time.monotonic() < end, "a worker outlived its command"
        time.sleep(0.02)
    mlp(model, width=16)
    changed = partita("perf", "measure", *words, *slow)
    assert changed.code == 2
    assert "the model's file changed" in changed.err
    assert "rm " in changed.err
    assert not table.exists()


def test_it_stops_going_up_where_memory_runs_out(tmp_path):
    table = tmp_path / "perf.csv"
    words = (
        growing(tmp_path / "g.onnx", 64),
        "--device",
        "cpu",
        "--batches",
        "1,256,512",
        "--quantiles",
        "p50",
    )
    with running(*words, *QUICK, "--out", table, "--threads", 1, limit_gib=6) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "batch 256, 1 process: memory ran out" in err
    assert "memory ran out at batch 256, 1 process; nothing larger is tried" in err
    assert [row.split(",")[3] for row in table.read_text().splitlines()[1:]] == ["1"]


def test_it_stops_going_up_where_a_batch_takes_too_long(partita, tmp_path):
    done = partita(
        "perf", "measure", mlp(tmp_path / "m.onnx"), "--device", "cpu", "--batches", "1,2", "--quantiles", "p50",
        "--max-latency-ms", "0.001", *QUICK,
    )  # fmt: skip
    assert done.code == 0
    assert "over --max-latency-ms 0.001; nothing larger is tried" in done.err
    assert len(done.out.splitlines()) == 2


def test_a_quantile_without_repetitions_enough_is_left_out_and_told(partita, tmp_path):
    done = partita(
        "perf", "measure", mlp(tmp_path / "m.onnx", width=256), "--device", "cpu", "--batches", "64",
        "--quantiles", "p50,p99.99", "--seconds", "0.2", "--max-seconds", "0.3", "--warmup-seconds", "0",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "repetitions are too few for p99.99" in done.err
    assert [row.split(",")[7] for row in done.out.splitlines()[1:]] == ["0.5"]


def test_what_cannot_be_measured_is_told(partita, tmp_path):
    model = mlp(tmp_path / "m.onnx", external="weights.bin")
    (tmp_path / "weights.bin").unlink()
    gone = partita("perf", "measure", model, "--device", "cpu")
    assert gone.code == 2
    assert "External data" in gone.err
    assert "beside the model" in gone.err
    (tmp_path / "text.onnx").write_text("no model")
    other = partita("perf", "measure", tmp_path / "text.onnx", "--device", "cpu")
    assert other.code == 2
    assert "export the model to ONNX" in other.err
    missing = partita("perf", "measure", tmp_path / "none.onnx")
    assert (missing.code, "no such file" in missing.err) == (2, True)
    one = partita(
        "perf", "measure", mlp(tmp_path / "one.onnx", batch=1), "--device", "cpu", "--batches", "1,2"
    )
    assert one.code == 2
    assert "takes only batches of 1" in one.err


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--quantiles", "p101"), "--quantiles"),
        (("--quantiles", "mean"), "a mean is not a quantile"),
        (("--batches", "x"), "are not batch sizes"),
        (("--as", "a100-80gb"), "names no GPU and profile"),
        (("--as", "a100-80gb/3g.20gb"), "has no profile"),
        (("--out", "/none/perf.csv"), "no directory /none"),
        (("--out", "/"), "a directory"),
        (("--seconds", "9", "--max-seconds", "1"), "--max-seconds"),
    ],
)
def test_options_that_cannot_be_used_are_told(partita, tmp_path, words, what):
    done = partita("perf", "measure", mlp(tmp_path / "m.onnx"), "--device", "cpu", *words)
    assert done.code == 2
    assert what in done.err


def test_without_onnx_runtime_the_error_says_how_to_get_it(partita, tmp_path, monkeypatch):
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "onnxruntime.py").write_text("raise ImportError('No module named onnxruntime')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hidden"))
    done = partita("perf", "measure", mlp(tmp_path / "m.onnx"))
    assert done.code == 2
    assert "pip install 'partita[onnx]'" in done.err
