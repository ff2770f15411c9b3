"""NVIDIA's perf_analyzer, which asks for configuration and statistics before and after it measures."""

from __future__ import annotations

import csv
import shutil
import subprocess

import pytest

PERF_ANALYZER = shutil.which("perf_analyzer")


@pytest.fixture(scope="module")
def perf_analyzer():
    if PERF_ANALYZER is None:
        pytest.skip("no perf_analyzer on the path: tritonclient's wheels of 2.60 and before bring one")
    started = subprocess.run(
        [PERF_ANALYZER, "--version"], check=False, capture_output=True, text=True, timeout=60
    )
    if "error while loading shared libraries" in started.stderr:
        pytest.skip(f"perf_analyzer does not start: {started.stderr.strip()}")
    return PERF_ANALYZER


@pytest.mark.parametrize(
    ("protocol", "load"),
    [
        ("http", ["--request-rate-range", "50", "--async"]),
        ("grpc", ["--request-rate-range", "50", "--async"]),
        ("http", ["--concurrency-range", "4", "-b", "2"]),
    ],
)
def test_it_measures_without_an_error(served, perf_analyzer, tmp_path, protocol, load):
    words = ["-m", "mixed", "-i", protocol, "-u", getattr(served, protocol), "--percentile", "95"]
    windows = ["--measurement-interval", "1000", "--max-trials", "5", "--stability-percentage", "999"]
    report = tmp_path / "report.csv"
    ran = subprocess.run(
        [perf_analyzer, *words, *windows, *load, "-f", report],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    with report.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["Inferences/Second"]) > 10
    assert float(row["p95 latency"]) > 5000
