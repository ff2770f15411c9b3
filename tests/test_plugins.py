"""A small package of somebody else's that brings one policy of each kind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.cli.commands import Commands
from tests.cli.outside import installed, started

import partita
from partita.jobs.queue.forecast import Families, forecast
from partita.jobs.queue.record import JobOptions, JobRecord, StatedMemory, Submitter
from partita.registry import make, names
from partita.serve.routers import live_router

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    with Path(path).open() as stream:
        rows = list(csv.DictReader(stream))[skip_rows:]
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
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the package is installed."""
    made = tmp_path_factory.mktemp("site")
    info = made / "outside-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (made / "outside.py").write_text(MODULE)
    return made


@pytest.fixture(scope="module")
def _installed(site: Path) -> Iterator[None]:
    with installed(site):
        yield


@pytest.fixture
def commands(
    _installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Commands:
    """Runs commands in this process, which has the package installed."""
    monkeypatch.setenv("NO_COLOR", "1")
    return Commands(tmp_path, monkeypatch, capsys, columns=160)


def done(commands: Commands, *words: object, code: int = 0) -> str:
    """Return what a command writes to stdout."""
    result = commands(*words)
    assert result.code == code, result.err
    return result.out


def test_its_command_is_in_the_help_and_runs(site: Path) -> None:
    """In a process of its own, whose path has the package."""
    assert "Greet somebody." in started(site, "--help").stdout
    assert started(site, "greet", "you").stdout == "hello you\n"


def test_its_planner_plans(commands: Commands, tmp_path: Path) -> None:
    assert "tabu" in done(commands, "plan", "--help")
    out = tmp_path / "plan.json"
    done(commands, "plan", "-f", EXAMPLES / "workload.yaml", "--planner", "tabu", "--out", out)
    assert json.loads(out.read_text())["solver"]["name"] == "tabu"
    assert done(commands, "export", "sheet", out).startswith("node-0/gpu-0;")
    assert "outside 2.0" in done(commands, "export", "--help")


def test_its_transition_algorithm_orders(commands: Commands, tmp_path: Path) -> None:
    before, after = tmp_path / "now.json", tmp_path / "more.json"
    workload = partita.read_workload(EXAMPLES / "workload.yaml")
    now = partita.plan(workload, planner="greedy")
    more = partita.plan(
        partita.replace(workload, services={workload.services[0].name: {"rate": 9000}}), planner="tabu"
    )
    now.save(before)
    more.save(after)
    assert partita.diff(now, more, algorithm="hurried").transition.algorithm == "hurried"
    assert "hurried" in done(commands, "diff", "--help")
    told = json.loads(done(commands, "diff", before, after, "--algorithm", "hurried", "-o", "json", code=3))
    assert told["algorithm"] == "hurried"


def test_its_router_and_its_cut_are_simulated(commands: Commands) -> None:
    help_text = done(commands, "simulate", "--help")
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
    told = json.loads(done(commands, "simulate", "-f", EXAMPLES / "queries.yaml", "--gpus", 4, *words))
    assert (told["cut"]["name"], told["router"]) == ("largest", "first")


def test_its_router_is_for_live_queries_too(commands: Commands) -> None:
    assert "first" in done(commands, "serve", "--help")
    assert live_router("first").__name__ == "First"


@pytest.mark.usefixtures("_installed")
def test_its_discipline_is_followed() -> None:
    assert type(make("disciplines", "last-in")).__name__ == "LastIn"
    assert "last-in" in names("disciplines")


@pytest.mark.parametrize("command", ["daemon", "run"])
def test_its_discipline_is_an_option_of_the_queue(commands: Commands, command: str) -> None:
    assert "last-in" in done(commands, command, "--help")


@pytest.mark.parametrize("command", ["apply", "adopt", "daemon", "diff", "run", "serve", "status"])
def test_its_driver_is_an_option_of_every_command_that_has_one(commands: Commands, command: str) -> None:
    assert "loft" in done(commands, command, "--help")


def test_its_driver_drives(commands: Commands) -> None:
    """It is given what it names alone, and needs no simulated cluster to be there before."""
    result = commands("status", "--driver", "loft", "-o", "json")
    assert result.code == 0, result.err
    assert result.err.startswith("note: the loft is open\n")
    assert [gpu["id"] for gpu in json.loads(result.out)["gpus"]] == ["loft/gpu-0"]


def test_its_driver_and_its_discipline_carry_the_queue(site: Path, commands: Commands) -> None:
    there = {**os.environ, "PYTHONPATH": str(site), "PARTITA_STATE": str(commands.state)}
    words = [sys.executable, "-m", "partita", "daemon", "--driver", "loft", "--discipline", "last-in"]
    with subprocess.Popen(words, env=there, stderr=subprocess.PIPE, text=True) as daemon:
        assert daemon.stderr is not None
        try:
            told = next(line for line in daemon.stderr if line.startswith("note: serving on"))
            assert told.endswith("0 jobs are there\n")
            done(commands, "submit", "--memory", "1GiB", "--", "true")
            done(commands, "wait", "1")
        finally:
            daemon.terminate()
            daemon.communicate(timeout=30)
    assert daemon.returncode == 0


@pytest.mark.usefixtures("_installed")
def test_its_forecaster_tightens_what_is_known_and_replaces_nothing() -> None:
    """It raises a declaration and never lowers it; what contradicts the rest is left out; a fault stops nothing."""

    def told(
        command: str, source: str = "none", lower: float = 0.0, upper: float = float("inf")
    ) -> list[object]:
        memory = StatedMemory(source, lower * 2**30, upper * 2**30)
        job = JobRecord(1, Submitter(1, 1, "ann"), (command,), "/", "", "f", 0.0, JobOptions(memory=memory))
        found = forecast(job, Families())
        return [found.source, found.bounds.lower / 2**30, found.need / 2**30]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [
            told("train"),
            told("other"),
            told("broken"),
            told("train", "declared", upper=60.0),
            told("train", "declared", upper=10.0),
            told("train", "model", 5.0, 40.0),
            told("train", "model", 40.0, 50.0),
        ]
    assert found == [
        ["by-command", 15.0, 30.0],
        ["none", 0.0, 0.0],
        ["none", 0.0, 0.0],
        ["declared and by-command", 15.0, 60.0],
        ["declared", 0.0, 10.0],
        ["model and by-command", 15.0, 30.0],
        ["model", 40.0, 50.0],
    ]


@pytest.mark.filterwarnings("ignore::partita.registry.RegistryWarning")
def test_its_forecaster_forecasts_models_that_partita_does_not_know(
    commands: Commands, tmp_path: Path
) -> None:
    for name in ("model.outside", "broken.onnx"):
        (tmp_path / name).touch()
    told = json.loads(done(commands, "memory", tmp_path / "model.outside", "--with", "batch=2", "-o", "json"))
    assert (told["kind"], told["lower"], told["upper"], told["notes"]) == (
        "outside",
        2**30,
        3 * 2**30,
        ["batch=2"],
    )
    assert "tables" in done(commands, "memory", tmp_path / "model.outside")
    # Of what it does not know, or fails at, Partita's own says what is wrong.
    done(commands, "memory", tmp_path / "broken.onnx", code=2)
    done(commands, "memory", tmp_path / "model.safetensors", code=2)


def test_its_importer_reads(commands: Commands, tmp_path: Path) -> None:
    assert "bench-tool" in done(commands, "perf", "import", "--help")
    (tmp_path / "raw.csv").write_text("net,slice,b,ips,ms\nbert,1g.10gb,8,120,66\n")
    help_text = done(commands, "perf", "import", "bench-tool", "--help")
    assert "--gpu" in help_text
    assert "Rows to leave out." in help_text
    words = ("perf", "import", "bench-tool", tmp_path / "raw.csv")
    row = "bert,a100-80gb,1g.10gb,8,1,120.0,66.0,mean"
    assert done(commands, *words, "--gpu", "a100-80gb").splitlines()[1:] == [row]
    assert done(commands, *words, "--set", "gpu=a100-80gb").splitlines()[1:] == [row]
    skipped = done(commands, *words, "--gpu", "a100-80gb", "--skip-rows", 1, "--rename", "bert=b,x=y")
    assert skipped.splitlines()[1:] == []
    renamed = done(commands, *words, "--set", "gpu=a100-80gb,skip_rows=0", "--rename", "bert=b")
    assert renamed.splitlines()[1].startswith("b,")
    done(commands, *words, code=2)
    done(commands, *words, "--gpu", "a100-80gb", "--skip-rows", "two", code=2)


def test_an_error_in_its_policy_is_told_as_its_own(site: Path) -> None:
    told = started(site, "stumble")
    assert told.returncode == 1
    assert told.stderr.splitlines() == [
        "error: a fault in outside 2.0: ZeroDivisionError: of its own",
        "hint: run it again with --debug and report the traceback to its makers, or: pip uninstall outside",
    ]


def test_what_cannot_be_taken_is_a_note(tmp_path: Path) -> None:
    info = tmp_path / "rival-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[partita.planners]\nexact = rival:Planner\n")
    told = started(tmp_path, "plan", "--help")
    assert told.returncode == 0
    assert told.stderr == (
        "note: the planner 'exact' of rival 1.0 is ignored: Partita has one of that name\n"
    )
