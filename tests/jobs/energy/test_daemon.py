"""The daemon measures what its jobs take."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE_S = 90.0


def partita(state: Path, *words: str) -> str:
    found = subprocess.run(
        [sys.executable, "-m", "partita", *words],
        env={**os.environ, "PARTITA_STATE": str(state)},
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_S,
    )
    return found.stdout


def test_a_job_that_runs_has_joules_in_its_history_and_in_the_metrics(tmp_path: Path) -> None:
    end = time.monotonic() + DEADLINE_S
    with subprocess.Popen(
        [sys.executable, "-m", "partita", "daemon", "--simulate", "a100-80gb:1", "--metrics-port", "0"],
        env={**os.environ, "PARTITA_STATE": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as daemon:
        try:
            assert daemon.stderr is not None
            said = ""
            while "serving on" not in said:
                line = daemon.stderr.readline()
                assert line, said
                said += line
            partita(tmp_path, "submit", "--memory", "3GiB", "--", "sleep", "600")
            joules = None
            while joules is None:
                assert time.monotonic() < end
                time.sleep(0.5)
                jobs: list[dict[str, Any]] = json.loads(partita(tmp_path, "history", "1", "-o", "json"))[
                    "jobs"
                ]
                joules = jobs[0]["attempts"][0]["energy_j"] if jobs[0]["attempts"] else None
            assert joules > 0.0
            port = re.search(r"127\.0\.0\.1:(\d+)/metrics", said)
            assert port is not None
            with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/metrics") as answer:
                assert b'partita_energy_joules_total{kind="job",name="",part="active"}' in answer.read()
            assert (
                json.loads(partita(tmp_path, "energy", "--by", "job", "-o", "json"))["rows"][0]["name"] == "1"
            )
        finally:
            partita(tmp_path, "cancel", "1")
            folder = tmp_path / "jobs" / "attempts" / "1" / "1"
            while folder.exists() and not (folder / "exit.json").exists() and time.monotonic() < end:
                time.sleep(0.05)
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(DEADLINE_S)
