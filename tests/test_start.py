"""The command begins and ends: Ctrl-C at any moment is exit code 130 without a traceback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from partita.deadline import Deadline, run_beside, runs_beside

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S = 60.0
RUN = "import partita.start; partita.start.main()"


def program(code: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def many_services(folder: Path) -> Path:
    """Write a workload with more services than are planned without compiled loops, or in a moment."""
    examples = Path(str(resources.files("partita.examples")))
    shutil.copy(examples / "perf.csv", folder)
    services = [
        {"name": f"s{i}", "model": "resnet50", "rate": 900 + 37 * i, "slo": {"latency_ms": 100}}
        for i in range(120)
    ]
    path = folder / "workload.json"
    asked = {"performance": ["perf.csv"], "gpus": [{"model": "a100-80gb"}], "services": services}
    path.write_text(json.dumps({"apiVersion": "partita/v1", "kind": "Workload", **asked}))
    return path


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_plan_is_interrupted_while_its_loops_are_compiled(tmp_path: Path, which: signal.Signals) -> None:
    cache = tmp_path / "cache"
    asked = program(RUN, "plan", "-f", str(many_services(tmp_path)), NUMBA_CACHE_DIR=str(cache))
    until(lambda: any(cache.glob("*/*")))  # the first of many functions is compiled
    asked.send_signal(which)
    out, err = asked.communicate(timeout=PATIENCE_S)
    assert asked.returncode == (130 if which is signal.SIGINT else -signal.SIGTERM)
    assert "Traceback" not in err
    assert "ignored" not in err
    assert not out
    assert not [each for each in cache.glob("*/*") if "cheapest_covers" in each.name]  # it is the last one


def test_an_interrupt_while_modules_are_imported_says_nothing(tmp_path: Path) -> None:
    code = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    (tmp_path / "typer.py").write_text(code)
    asked = program(RUN, "--version", PYTHONPATH=str(tmp_path))
    assert asked.communicate(timeout=PATIENCE_S) == ("", "")
    assert asked.returncode == 130


def test_where_interrupts_are_ignored_they_stay_so() -> None:
    ignored = "import signal, os; signal.signal(signal.SIGINT, signal.SIG_IGN); os.kill(os.getpid(), 2); "
    asked = program(ignored + RUN, "--version")
    assert asked.communicate(timeout=PATIENCE_S)[0].startswith("partita ")
    assert asked.returncode == 0


LOST = """
import os, signal, time
import partita.cli.main, partita.start

class Ending:
    def __del__(self):  # Python drops errors that are raised here
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass

def main():
    Ending()
    time.sleep(30)

partita.cli.main.main = main
partita.start.main()
"""


def test_an_interrupt_that_python_drops_is_repeated() -> None:
    asked = program(LOST)
    assert asked.communicate(timeout=PATIENCE_S) == ("", "")
    assert asked.returncode == 130


@pytest.mark.parametrize(
    "ends",
    [
        "Ending(); raise ValueError('half compiled')",
        "\n    try:\n        raise KeyboardInterrupt\n    except KeyboardInterrupt:\n        raise ValueError",
    ],
)
def test_an_error_that_an_interrupt_leaves_behind_is_no_fault(ends: str) -> None:
    code = LOST.replace("Ending()\n    time.sleep(30)", ends)
    code = code.replace("main.main = main", "main.command_line = lambda: lambda *_, **__: main()")
    asked = program(code, "--version")
    assert asked.communicate(timeout=PATIENCE_S) == ("", "")
    assert asked.returncode == 130


LEAVING = """
import sys, threading
import partita.cli.main, partita.start
from partita.deadline import Deadline, run_beside

def main():
    run_beside(threading.Event().wait, Deadline(0.0))
    print("told")
    sys.exit({code!r})

partita.cli.main.main = main
partita.start.main()
"""


@pytest.mark.parametrize(("code", "seen", "told"), [(4, 4, ""), (None, 0, ""), ("no", 1, "no\n")])
def test_nothing_waits_for_what_goes_on_beside(code: object, seen: int, told: str) -> None:
    asked = program(LEAVING.format(code=code))
    assert asked.communicate(timeout=PATIENCE_S) == ("told\n", told)
    assert asked.returncode == seen


def test_other_errors_that_python_drops_are_told_as_ever() -> None:
    code = LOST.replace("os.kill(os.getpid(), signal.SIGINT)", "raise ValueError('odd')").replace("30", "0")
    asked = program(code)
    assert "ValueError: odd" in asked.communicate(timeout=PATIENCE_S)[1]
    assert asked.returncode == 0


def test_what_runs_beside_is_waited_for_as_long_as_there_is_time() -> None:
    done = threading.Event()
    assert run_beside(done.set, Deadline())
    assert done.is_set()
    go = threading.Event()
    assert not run_beside(go.wait, Deadline(0.0))
    assert runs_beside()
    assert not run_beside(go.wait, Deadline(stop=lambda: True))
    go.set()
    until(lambda: not runs_beside())


def test_what_fails_beside_fails_where_it_was_asked_for() -> None:
    with pytest.raises(ZeroDivisionError):
        run_beside(lambda: 1 / 0, Deadline())
