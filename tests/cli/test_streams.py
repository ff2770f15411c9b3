"""Stdout carries what the command writes and nothing that a library prints, from wherever it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.commands import Commands

from partita.cli import gpus
from partita.cli.output import indented_json
from partita.mig import catalogue

PARTITA = str(Path(sys.executable).parent / "partita")

NOISE = """
import ctypes, os, subprocess, sys, threading
from importlib.abc import MetaPathFinder

class Noise(MetaPathFinder):
    done = False
    def find_spec(self, name, path=None, target=None):
        if name == "partita.mig.catalogue" and not self.done:
            self.done = True
            library = ctypes.CDLL(None)
            print("said by print")
            os.write(1, b"said by write\\n")
            library.printf(b"said by printf\\n")  # stays in C's buffer until the process ends
            library.puts(b"said by puts")
            thread = threading.Thread(target=lambda: (print("said by a thread"), os.write(1, b"and by its C\\n")))
            thread.start()
            thread.join()
            subprocess.run(["echo", "said by a child"])

sys.meta_path.insert(0, Noise())
"""
SAID = ["print", "write", "printf", "puts", "a thread", "a child"]


@pytest.fixture
def commands(tmp_path, monkeypatch, capsys):
    return Commands(tmp_path, monkeypatch, capsys)


@pytest.fixture
def environment(tmp_path):
    return os.environ | {"PARTITA_STATE": str(tmp_path / "state"), "COLUMNS": "120", "NO_COLOR": "1"}


@pytest.fixture
def noisy(tmp_path, environment):
    (tmp_path / "sitecustomize.py").write_text(NOISE)
    return environment | {"PYTHONPATH": str(tmp_path)}


def run(environment: dict[str, str], *words: str, **streams: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PARTITA, *words], env=environment, check=False, capture_output=not streams, text=True, **streams
    )


@pytest.mark.parametrize("form", ["json", "yaml", "table"])
def test_whatever_a_library_prints_goes_to_stderr(commands, noisy, form):
    done = run(noisy, "gpus", "-o", form)
    assert done.returncode == 0
    assert [each for each in SAID if f"said by {each}\n" not in done.stderr] == []
    assert done.stdout == commands("gpus", "-o", form).out
    if form == "json":
        assert json.loads(done.stdout)
    if form == "yaml":
        assert yaml.safe_load(done.stdout)


def test_help_is_what_the_user_asked_for(noisy):
    assert "Usage: partita gpus show" in run(noisy, "gpus", "show", "--help").stdout


def test_in_one_process_too_a_library_that_prints_is_kept_apart(commands, monkeypatch):
    listed = catalogue.gpu_names

    def loud():
        print("said by a library")  # noqa: T201 -- as libraries do
        return listed()

    monkeypatch.setattr(gpus, "gpu_names", loud)
    for _ in range(2):
        done = commands("gpus", "-o", "json")
        assert json.loads(done.out)
        assert set(done.err.splitlines()) == {"said by a library"}
    sys.stdout.write("and after a command stdout is stdout again")
    assert commands("gpus", "-o", "json").out.startswith("and after")


SOLVER = """
import os, sys
{fake}
from partita.milp import new_solver
os.write(1, b"before\\n")
for _ in range(2):
    new_solver()
os.write(1, b"after\\n")
"""
FAKE = """
from types import ModuleType
class Highs:
    def __init__(self):
        os.write(1, b"Running HiGHS 9.9.9: Copyright\\nsomething else\\n")
    def setOptionValue(self, name, value):
        assert (name, value) == ("output_flag", False)
sys.modules["highspy"] = ModuleType("highspy")
sys.modules["highspy"].Highs = Highs
sys.modules["highspy"].kHighsInf = float("inf")
"""


def test_the_solver_says_nothing_of_itself(environment):
    done = subprocess.run(
        [sys.executable, "-c", SOLVER.format(fake="")], env=environment, check=True, capture_output=True
    )
    assert (done.stdout, done.stderr) == (b"before\nafter\n", b"")


def test_what_else_is_said_while_the_first_solver_is_made_is_passed_on(environment):
    script = SOLVER.format(fake=FAKE)
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True)
    assert done.stderr == b""
    # The banner comes once a process; what comes with the second solver is none.
    assert done.stdout == b"before\nsomething else\nRunning HiGHS 9.9.9: Copyright\nsomething else\nafter\n"


def test_a_reader_that_has_read_enough_is_no_fault(environment):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        done = run(environment, "gpus", "-o", "json", stdout=stream, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (141, "")


def test_what_cannot_be_written_is_told(environment):
    with Path("/dev/full").open("w") as full:
        done = run(environment, "gpus", "-o", "json", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == "error: stdout: cannot be written: No space left on device\n"


def test_a_command_without_streams_does_what_it_is_told(environment):
    words = ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash", PARTITA, "gpus", "-o", "json"]
    assert subprocess.run(words, env=environment, check=False).returncode == 0


UNSET = """
import os, sys
from partita.cli.output import fill_gaps
for each in (0, 1, 2):
    os.close(each)
sys.stdout = sys.stderr = None
fill_gaps()
with open(sys.argv[1], "w") as stream:
    os.write(1, b"said by a library")
    print("and more")
    sys.stderr.write("and a note")
    stream.write("the plan")
"""


def test_without_streams_no_file_takes_their_numbers(environment, tmp_path):
    out = tmp_path / "plan.json"
    subprocess.run([sys.executable, "-c", UNSET, out], env=environment, check=True)
    assert out.read_text() == "the plan"


@pytest.mark.parametrize("odd", ["plain", float("nan"), "half \udcff", "über\n\x1b"])
def test_long_json_is_indented_as_short_json_is(odd: object) -> None:
    row = {"id": "12", "after": [], "seconds": {}, "deep": [[1, 2.5, None], {"a": [True]}], "odd": odd}
    for many in (1, 3000):
        value = {"jobs": [row] * many}
        assert indented_json(value) == json.dumps(value, indent=2, ensure_ascii=False)
