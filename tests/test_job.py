"""The helper that a job's own code may use."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from tests.jobs.run.attempts import Attempts, ended, until

import partita.job
from partita.jobs.run.real import RealJobRunner
from partita.jobs.run.runner import AttemptPhase

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


STEPS = """
import partita.job, sys, time
kept = []
for n in range(1, 1000):
    kept.append(b"x" * 1_000_000 if n < 20 else b"")
    time.sleep(0.06)
    if partita.job.step(n, of=1000):
        print("checkpoint at", n)
        sys.exit(0)
"""


def reporting(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have the helper of this process report to a folder."""
    (folder / "progress").touch()
    monkeypatch.setenv("PARTITA_JOB_PROGRESS", str(folder / "progress"))
    monkeypatch.setenv("PARTITA_JOB_CHECKPOINT", str(folder / "checkpoint"))
    monkeypatch.setattr(partita.job, "_report", partita.job._from_environment())
    monkeypatch.setattr(partita.job, "PAUSE_S", 0.0)
    return folder / "progress"


def test_outside_partita_it_does_nothing() -> None:
    assert partita.job.step(1, of=2) is False


def test_a_job_reports_its_steps_and_memory_and_hears_when_to_end(tmp_path: Path) -> None:
    attempts, runner = Attempts(tmp_path), RealJobRunner(scale=1 / 16)
    try:
        folder = attempts.start(sys.executable, "-c", STEPS, runner=runner)
        until(lambda: len(runner.look(folder).progress.steps) > 12)
        found = runner.look(folder)
        assert found.progress.of == 1000
        assert found.progress.steps == tuple(sorted(found.progress.steps))
        grown = found.progress.allocated_bytes[-1] - found.progress.allocated_bytes[0]
        assert grown >= 16 * 1_000_000 * 8
        # It has no handler of SIGTERM, and ends by itself all the same.
        runner.stop(folder, grace_s=20.0)
        assert (ended(folder, runner).phase, ended(folder, runner).code) == (AttemptPhase.ENDED, 0)
        assert "checkpoint at" in (folder / "log").read_text()
    finally:
        attempts.end_all()


def test_a_full_disk_or_a_gone_folder_never_reaches_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTITA_JOB_PROGRESS", "/dev/full")
    monkeypatch.setenv("PARTITA_JOB_CHECKPOINT", str(tmp_path / "gone" / "checkpoint"))
    monkeypatch.setattr(partita.job, "_report", partita.job._from_environment())
    assert partita.job.step(1, of=2) is False
    monkeypatch.setenv("PARTITA_JOB_PROGRESS", str(tmp_path / "gone" / "progress"))
    monkeypatch.setattr(partita.job, "_report", partita.job._from_environment())
    assert partita.job.step(2, of=2) is False


def test_reports_stay_whole_with_many_threads_and_the_file_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = reporting(tmp_path, monkeypatch)
    monkeypatch.setattr(partita.job, "MOST_BYTES", 5000)
    threads = [
        threading.Thread(target=lambda: [partita.job.step(n, of=500) for n in range(500)]) for _ in range(4)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert all(line.startswith("[") and line.endswith("]") for line in progress.read_text().splitlines())
    assert progress.stat().st_size < 10000


def test_short_steps_are_not_all_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    progress = reporting(tmp_path, monkeypatch)
    monkeypatch.setattr(partita.job, "PAUSE_S", 1000.0)
    for n in range(1, 101):
        partita.job.step(n, of=100)
    assert progress.read_text().splitlines() == ["[1,100,null,null]", "[100,100,null,null]"]


def test_pytorch_tells_what_it_has_allocated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Cuda:
        is_initialized = staticmethod(lambda: True)
        memory_allocated = staticmethod(lambda: 5)
        max_memory_allocated = staticmethod(lambda: 9)

    class Torch:
        cuda = Cuda

    progress = reporting(tmp_path, monkeypatch)
    monkeypatch.setitem(sys.modules, "torch", Torch)
    partita.job.step(1)
    assert progress.read_text() == "[1,null,5,9]\n"


def test_importing_it_imports_nothing_heavy() -> None:
    code = (
        "import sys; before = set(sys.modules); import partita.job; print(*sorted(set(sys.modules) - before))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"typing", "dataclasses", "re", "json", "pathlib", "threading", "inspect", "numpy", "msgspec"}
    assert not heavy & set(found.stdout.split())
