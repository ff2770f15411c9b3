"""A small package of somebody else's that brings one policy of each kind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "src" / "partita" / "examples"

ENTRY_POINTS = """\
[partita.planners]
tabu = outside:TabuPlanner
[partita.transition_algorithms]
hurried = outside:Hurried
[partita.routers]
first = outside:First
[partita.cuts]
largest = outside:Largest
[partita.disciplines]
last-in = outside:LastIn
[partita.forecasters]
by-command = outside:ByCommand
[partita.drivers]
loft = outside:open_loft
[partita.importers]
bench-tool = outside:import_bench
[partita.exporters]
sheet = outside:export_sheet
[partita.commands]
greet = outside:greet
stumble = outside:stumble
"""

MODULE = '''\
"""Policies of another package."""
import csv
from dataclasses import replace
from pathlib import Path
from partita.drive.simulated.driver import open_simulated
from partita.jobs.disciplines.fair import Fair
from partita.jobs.memory.bounds import Bounds, ModelForecast
from partita.perf.table import Measurement, PerfTable
from partita.planning.mig_serving import GreedyPlanner
from partita.serve.cuts import Paris
from partita.serve.routers.fifs import Fifs
from partita.transition.shortest import Shortest

class TabuPlanner:
    def __init__(self, deadline):
        self.inner = GreedyPlanner(deadline=deadline)
    def plan(self, problem):
        made = self.inner.plan(problem)
        return replace(made, solver=replace(made.solver, name="tabu"))

class Hurried:
    def transition(self, request):
        return replace(Shortest().transition(request), algorithm="hurried")

class First(Fifs):
    """Queries in order of arrival."""

class Largest:
    def cut(self, problem):
        return Paris().cut(problem)

class LastIn(Fair):
    """Jobs in an order of its own."""

def open_loft(folder, tell, clock):
    tell("the loft is open")
    folder.mkdir(exist_ok=True)
    return open_simulated(folder, lambda: [("loft/gpu-0", "a100-80gb")], tell, clock=clock)

class ByCommand:
    def forecast(self, job, past):
        if job.command == ("broken",):
            raise RuntimeError("no such command")
        return Bounds(15.0 * 2**30, 30.0 * 2**30) if job.command == ("train",) else Bounds()

    def forecast_model(self, model, words, option):
        if model.stem == "broken":
            raise RuntimeError("no such model")
        if model.suffix != ".outside":
            return None
        return ModelForecast({"tables": Bounds(2.0**30, 3.0 * 2**30)}, words, {"kind": "outside"})

def import_bench(path, gpu, skip_rows: int = 0, *, rename: "Mapping[str, str]"):
    """Import what the bench tool writes.

    Args:
        skip_rows: rows to leave
            out.
    """
    rows = list(csv.DictReader(Path(path).open()))[skip_rows:]
    return PerfTable(
        Measurement(
            rename.get(r["net"], r["net"]), gpu, r["slice"], int(r["b"]), 1, float(r["ips"]), float(r["ms"]), "mean"
        )
        for r in rows
    )

def export_sheet(plan):
    return "".join(f"{gpu.id};{len(gpu.instances)}\\n" for gpu in plan.gpus)

def greet(name: str) -> None:
    """Greet somebody."""
    from partita.cli.main import echo
    echo(f"hello {name}")

def stumble() -> None:
    """Fail."""
    raise ZeroDivisionError("of its own")
'''


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of processes that have the package installed."""
    site = tmp_path_factory.mktemp("site")
    info = site / "outside-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (site / "outside.py").write_text(MODULE)
    state = tmp_path_factory.mktemp("state")
    return {
        **os.environ,
        "PYTHONPATH": str(site),
        "PARTITA_STATE": str(state),
        "COLUMNS": "160",
        "NO_COLOR": "1",
    }


def partita(outside: dict[str, str], *words: object, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "partita", *map(str, words)],
        env=outside,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def python(outside: dict[str, str], text: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", text], env=outside, capture_output=True, text=True, check=False, cwd=EXAMPLES
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_its_command_is_in_the_help_and_runs(outside: dict[str, str]) -> None:
    assert "Greet somebody." in partita(outside, "--help")
    assert partita(outside, "greet", "you") == "hello you\n"


def test_its_planner_plans(outside: dict[str, str], tmp_path: Path) -> None:
    assert "tabu" in partita(outside, "plan", "--help")
    out = tmp_path / "plan.json"
    partita(outside, "plan", "-f", EXAMPLES / "workload.yaml", "--planner", "tabu", "--out", out)
    assert json.loads(out.read_text())["solver"]["name"] == "tabu"
    assert partita(outside, "export", "sheet", out).startswith("node-0/gpu-0;")
    assert "outside 2.0" in partita(outside, "export", "--help")


def test_its_transition_algorithm_orders(outside: dict[str, str], tmp_path: Path) -> None:
    now, more = tmp_path / "now.json", tmp_path / "more.json"
    found = python(
        outside,
        "import json, partita; w = partita.read_workload('workload.yaml'); now = partita.plan(w, planner='greedy')\n"
        "more = partita.plan(partita.replace(w, services={w.services[0].name: {'rate': 9000}}), planner='tabu')\n"
        f"now.save({str(now)!r}); more.save({str(more)!r})\n"
        "print(json.dumps(partita.diff(now, more, algorithm='hurried').transition.algorithm))",
    )
    assert found == "hurried"
    assert "hurried" in partita(outside, "diff", "--help")
    told = json.loads(partita(outside, "diff", now, more, "--algorithm", "hurried", "-o", "json", code=3))
    assert told["algorithm"] == "hurried"


def test_its_router_and_its_cut_are_simulated(outside: dict[str, str]) -> None:
    help_text = partita(outside, "simulate", "--help")
    assert "largest" in help_text
    words = (
        "--service",
        "text-embedding",
        "--queries",
        500,
        "--cut",
        "largest",
        "--router",
        "first",
        "-o",
        "json",
    )
    told = json.loads(partita(outside, "simulate", "-f", EXAMPLES / "queries.yaml", "--gpus", 4, *words))
    assert (told["cut"]["name"], told["router"]) == ("largest", "first")


def test_its_router_is_for_live_queries_too(outside: dict[str, str]) -> None:
    assert "first" in partita(outside, "serve", "--help")
    found = python(
        outside,
        "import json; from partita.serve.routers import live_router\n"
        "print(json.dumps(live_router('first').__name__))",
    )
    assert found == "First"


def test_its_discipline_is_followed(outside: dict[str, str]) -> None:
    found = python(
        outside,
        "import json; from partita.registry import make, names\n"
        "print(json.dumps([type(make('disciplines', 'last-in')).__name__, 'last-in' in names('disciplines')]))",
    )
    assert found == ["LastIn", True]


@pytest.mark.parametrize("command", ["daemon", "run"])
def test_its_discipline_is_an_option_of_the_queue(outside: dict[str, str], command: str) -> None:
    assert "last-in" in partita(outside, command, "--help")


@pytest.mark.parametrize("command", ["apply", "adopt", "daemon", "diff", "run", "serve", "status"])
def test_its_driver_is_an_option_of_every_command_that_has_one(outside: dict[str, str], command: str) -> None:
    assert "loft" in partita(outside, command, "--help")


def test_its_driver_drives(outside: dict[str, str], tmp_path: Path) -> None:
    """It is given what it names alone, and needs no simulated cluster to be there before."""
    there = {**outside, "PARTITA_STATE": str(tmp_path / "state")}
    done = subprocess.run(
        [sys.executable, "-m", "partita", "status", "--driver", "loft", "-o", "json"],
        env=there,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("note: the loft is open\n")
    assert [gpu["id"] for gpu in json.loads(done.stdout)["gpus"]] == ["loft/gpu-0"]


def test_its_driver_and_its_discipline_carry_the_queue(outside: dict[str, str], tmp_path: Path) -> None:
    there = {**outside, "PARTITA_STATE": str(tmp_path / "state")}
    words = [sys.executable, "-m", "partita", "daemon", "--driver", "loft", "--discipline", "last-in"]
    with subprocess.Popen(words, env=there, stderr=subprocess.PIPE, text=True) as daemon:
        assert daemon.stderr is not None
        try:
            told = next(line for line in daemon.stderr if line.startswith("note: serving on"))
            assert told.endswith("0 jobs are there\n")
            partita(there, "submit", "--memory", "1GiB", "--", "true")
            partita(there, "wait", "1")
        finally:
            daemon.terminate()
            daemon.communicate(timeout=30)
    assert daemon.returncode == 0


def test_its_forecaster_tightens_what_is_known_and_replaces_nothing(outside: dict[str, str]) -> None:
    """It raises a declaration and never lowers it; what contradicts the rest is left out; a fault stops nothing."""
    found = python(
        outside,
        """
import json, warnings
from partita.jobs.memory.bounds import Bounds
from partita.jobs.queue.forecast import Families, forecast
from partita.jobs.queue.record import JobOptions, JobRecord, StatedMemory, Submitter
warnings.simplefilter("ignore")
def told(command, source="none", lower=0.0, upper=float("inf")):
    memory = StatedMemory(source, lower * 2**30, upper * 2**30)
    job = JobRecord(1, Submitter(1, 1, "ann"), (command,), "/", "", "f", 0.0, JobOptions(memory=memory))
    found = forecast(job, Families())
    return [found.source, found.bounds.lower / 2**30, found.need / 2**30]
print(json.dumps([
    told("train"), told("other"), told("broken"),
    told("train", "declared", upper=60.0), told("train", "declared", upper=10.0),
    told("train", "model", 5.0, 40.0), told("train", "model", 40.0, 50.0),
]))
""",
    )
    assert found == [
        ["by-command", 15.0, 30.0],
        ["none", 0.0, 0.0],
        ["none", 0.0, 0.0],
        ["declared and by-command", 15.0, 60.0],
        ["declared", 0.0, 10.0],
        ["model and by-command", 15.0, 30.0],
        ["model", 40.0, 50.0],
    ]


def test_its_forecaster_forecasts_models_that_partita_does_not_know(
    outside: dict[str, str], tmp_path: Path
) -> None:
    for name in ("model.outside", "broken.onnx"):
        (tmp_path / name).touch()
    told = json.loads(
        partita(outside, "memory", tmp_path / "model.outside", "--with", "batch=2", "-o", "json")
    )
    assert (told["kind"], told["lower"], told["upper"], told["notes"]) == (
        "outside",
        2**30,
        3 * 2**30,
        ["batch=2"],
    )
    assert "tables" in partita(outside, "memory", tmp_path / "model.outside")
    # Of what it does not know, or fails at, Partita's own says what is wrong.
    partita(outside, "memory", tmp_path / "broken.onnx", code=2)
    partita(outside, "memory", tmp_path / "model.safetensors", code=2)


def test_its_importer_reads(outside: dict[str, str], tmp_path: Path) -> None:
    assert "bench-tool" in partita(outside, "perf", "import", "--help")
    (tmp_path / "raw.csv").write_text("net,slice,b,ips,ms\nbert,1g.10gb,8,120,66\n")
    help_text = partita(outside, "perf", "import", "bench-tool", "--help")
    assert "--gpu" in help_text
    assert "Rows to leave out." in help_text
    words = ("perf", "import", "bench-tool", tmp_path / "raw.csv")
    row = "bert,a100-80gb,1g.10gb,8,1,120.0,66.0,mean"
    assert partita(outside, *words, "--gpu", "a100-80gb").splitlines()[1:] == [row]
    assert partita(outside, *words, "--set", "gpu=a100-80gb").splitlines()[1:] == [row]
    skipped = partita(outside, *words, "--gpu", "a100-80gb", "--skip-rows", 1, "--rename", "bert=b,x=y")
    assert skipped.splitlines()[1:] == []
    renamed = partita(outside, *words, "--set", "gpu=a100-80gb,skip_rows=0", "--rename", "bert=b")
    assert renamed.splitlines()[1].startswith("b,")
    partita(outside, *words, code=2)
    partita(outside, *words, "--gpu", "a100-80gb", "--skip-rows", "two", code=2)


def test_an_error_in_its_policy_is_told_as_its_own(outside: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "partita", "stumble"], env=outside, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: a fault in outside 2.0: ZeroDivisionError: of its own",
        "hint: run it again with --debug and report the traceback to its makers, or: pip uninstall outside",
    ]


def test_what_cannot_be_taken_is_a_note(outside: dict[str, str], tmp_path: Path) -> None:
    info = tmp_path / "rival-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[partita.planners]\nexact = rival:Planner\n")
    done = subprocess.run(
        [sys.executable, "-m", "partita", "plan", "--help"],
        env={**outside, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == (
        "note: the planner 'exact' of rival 1.0 is ignored: Partita has one of that name\n"
    )
