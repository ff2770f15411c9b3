"""`partita apply` shows the way, refuses what it must, carries out the rest and goes on after interruptions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import typer
from tests.cli.commands import Commands
from tests.control.world import deployment, gpu

from partita.control.journal import FILE, controlling
from partita.drive.simulated import FaultKind, InjectedFault, SimulatedCluster
from partita.mig.layout import Placement
from partita.transition.transition import ActionKind

if TYPE_CHECKING:
    from pathlib import Path

DAY = deployment("7g.40gb@0=bert", "4g.20gb@0=resnet 3g.20gb@4=resnet")
NIGHT = deployment("4g.20gb@0=bert 2g.10gb@4=resnet 1g.5gb@6=resnet")
RATES = {"bert": 400.0, "resnet": 300.0}

FAST = """
import time, sys
from partita.cli import cluster, main
class Fast:
    def now(self): return time.monotonic() * 20
    def sleep_until(self, moment): time.sleep(max(0.0, moment - self.now()) / 20)
    def catch_up(self, moment): pass
cluster.make_clock = lambda name: Fast()
main.main()
"""
"""The command, with a clock on which a replica starts in two seconds."""


@pytest.fixture
def partita(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(tmp_path, monkeypatch, capsys)


@pytest.fixture
def day(partita: Commands) -> Path:
    return partita.plan("day.json", DAY)


@pytest.fixture
def night(partita: Commands) -> Path:
    return partita.plan("night.json", NIGHT, RATES)


def cluster(partita: Commands) -> SimulatedCluster:
    return SimulatedCluster(partita.state / "cluster.sqlite3")


def served(partita: Commands) -> dict[str, float]:
    found = json.loads(partita("status", "-o", "json").out)
    return {each["name"]: each["capacity"] for each in found["services"]}


def test_a_plan_is_applied_to_a_cluster_that_is_made_for_it(partita: Commands, day: Path) -> None:
    result = partita("apply", day, "--yes")
    assert result.code == 0
    assert "made a simulated cluster of 8 GPUs" in result.err
    assert "reached in" in result.out
    assert served(partita) == {"bert": 700.0, "resnet": 700.0}


def test_the_next_plan_keeps_the_floors(partita: Commands, day: Path, night: Path) -> None:
    partita("apply", day, "--yes")
    result = partita("apply", night, "--yes", "-o", "json")
    assert result.code == 0
    found = json.loads(result.out)
    floors = {each["name"]: (each["floor"], each["least"]) for each in found["services"]}
    assert floors["bert"][0] == 400.0
    assert all(least >= floor for floor, least in floors.values())
    assert found["took"]["replans"] == 0


def test_a_second_time_there_is_nothing_to_do(partita: Commands, day: Path) -> None:
    partita("apply", day, "--yes")
    result = partita("apply", day)
    assert (result.code, "nothing to do" in result.out) == (0, True)


def test_dry_run_makes_and_changes_nothing(partita: Commands, day: Path) -> None:
    result = partita("apply", day, "--dry-run")
    assert result.code == 0
    assert "actions" in result.out
    assert not partita.state.exists()
    partita("apply", day, "--yes")
    before = {path.name: path.read_bytes() for path in partita.state.iterdir()}
    night = partita.plan("night.json", NIGHT, RATES)
    assert partita("apply", night, "--dry-run").code == 0
    assert {path.name: path.read_bytes() for path in partita.state.iterdir() if path.name in before} == before


def test_without_a_terminal_it_does_not_guess_the_answer(partita: Commands, day: Path) -> None:
    result = partita("apply", day)
    assert result.code == 2
    assert "--yes" in result.err


def test_a_no_on_the_terminal_changes_nothing(
    partita: Commands, day: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)

    monkeypatch.setattr(typer, "confirm", lambda *_, **__: False)
    assert partita("apply", day).code == 1
    assert served(partita) == {}


def test_ctrl_c_at_the_question_is_an_interruption(
    partita: Commands, day: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)

    def interrupt(*_: object, **__: object) -> None:
        raise typer.Abort

    monkeypatch.setattr(typer, "confirm", interrupt)
    assert partita("apply", day).code == 130


def test_a_plan_for_gpus_that_are_not_there_is_refused(partita: Commands, day: Path) -> None:
    result = partita("apply", day, "--yes", "--simulate", "a100-40gb:1")
    assert result.code == 2
    assert "needs 2 GPUs of a100-40gb, and the cluster has 1" in result.err


def test_lost_gpus_are_named_where_a_plan_needs_them(partita: Commands, day: Path) -> None:
    partita("apply", day, "--yes", "--simulate", "a100-40gb:2")
    cluster(partita).lose(gpu(1))
    result = partita("apply", day, "--yes")
    assert result.code == 2
    assert "(1 more are lost or not in MIG mode)" in result.err


def test_a_cluster_that_moved_while_it_was_asked_is_refused_with_what_moved(
    partita: Commands, day: Path, night: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partita("apply", day, "--yes")

    def agree(*_: object, **__: object) -> bool:
        cluster(partita).kill_replica(gpu(0), Placement(0, "7g.40gb"))
        return True

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(typer, "confirm", agree)
    result = partita("apply", night)
    assert result.code == 5
    assert "node-0/gpu-0: 7g.40gb@0 does not run bert batch 8 any more" in result.err
    assert served(partita)["resnet"] == 700.0


def test_expect_refuses_a_cluster_in_another_state(partita: Commands, day: Path, night: Path) -> None:
    partita("apply", day, "--yes")
    state = json.loads(partita("apply", night, "--dry-run", "-o", "json").out)["state"]
    cluster(partita).create_foreign(gpu(4), Placement(0, "3g.20gb"))
    result = partita("apply", night, "--yes", "--expect", state)
    assert result.code == 5
    assert "node-0/gpu-4: 3g.20gb@0 is new" in result.err
    state = json.loads(partita("status", "-o", "json").out)["state"]
    assert partita("apply", night, "--yes", "--expect", state).code == 0


def test_foreign_instances_are_said_and_left_alone(partita: Commands, day: Path, night: Path) -> None:
    partita("apply", day, "--yes")
    cluster(partita).create_foreign(gpu(4), Placement(0, "3g.20gb"), busy=True)
    result = partita("apply", night, "--yes")
    assert result.code == 0
    assert "node-0/gpu-4: 3g.20gb@0 is new" in result.err
    found = json.loads(partita("status", "-o", "json").out)
    assert [(i["profile"], i["ours"]) for i in found["gpus"][4]["instances"]] == [("3g.20gb", False)]


def test_an_unreadable_journal_is_refused_and_kept(partita: Commands, day: Path) -> None:
    partita("apply", day, "--yes")
    path = partita.state / FILE
    path.write_bytes(b"not a journal " * 100)
    result = partita("apply", day, "--yes")
    assert result.code == 1
    assert "the journal is damaged" in result.err
    assert f"mv {path} {path}.kept" in result.err
    assert path.read_bytes() == b"not a journal " * 100


def test_with_the_journal_gone_what_runs_is_the_floor(partita: Commands, day: Path, night: Path) -> None:
    partita("apply", day, "--yes")
    (partita.state / FILE).rename(partita.state / "kept")
    found = json.loads(partita("apply", night, "--yes", "-o", "json").out)
    assert {each["name"]: each["floor"] for each in found["services"]} == RATES


def test_a_budget_that_cannot_be_met_is_refused_with_the_smallest_that_can(partita: Commands) -> None:
    full = deployment("7g.40gb@0=a", "7g.40gb@0=b")
    swapped = deployment("4g.20gb@0=a 3g.20gb@4=b", "4g.20gb@0=b 3g.20gb@4=a")
    partita("apply", partita.plan("full.json", full), "--yes")
    result = partita("apply", partita.plan("swapped.json", swapped), "--yes", "--extra-gpus", 0)
    assert result.code == 4
    assert "1 would do" in result.err
    assert served(partita) == {"a": 700.0, "b": 700.0}


def test_an_action_that_fails_for_ever_is_said_with_the_way_on(
    partita: Commands, day: Path, night: Path
) -> None:
    partita("apply", day, "--yes")
    cluster(partita).inject(InjectedFault(FaultKind.FAILS, ActionKind.STOP_REPLICA, gpu=gpu(0), times=5))
    result = partita("apply", night, "--yes")
    assert result.code == 1
    assert "failed after 5 tries" in result.err
    assert f"go on with `partita apply {night} --yes`" in result.err
    assert "served of required items/s: bert 1100/400" in result.err
    assert partita("apply", night, "--yes").code == 0


def test_a_second_controller_is_refused_with_the_first_ones_identity(partita: Commands, day: Path) -> None:
    partita("apply", day, "--yes")
    with controlling(partita.state):
        result = partita("apply", day, "--yes")
    assert result.code == 1
    assert f"process {os.getpid()} on" in result.err


@pytest.fixture
def started(partita: Commands, day: Path, night: Path):
    """A process that applies the night's plan, with replicas being started."""
    partita("apply", day, "--yes")
    environment = {**os.environ, "PARTITA_STATE": str(partita.state)}
    words = [sys.executable, "-c", FAST, "apply", str(night), "--yes", "--clock", "wall"]
    process = subprocess.Popen(
        words, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while "start_replica" not in partita("status", "-o", "json").out.split("under")[0] or not _starting(
        partita
    ):
        assert time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    yield process
    process.kill()
    process.communicate()


def _starting(partita: Commands) -> bool:
    found = json.loads(partita("status", "-o", "json").out)
    return any(e["text"].startswith("start_replica") and e["ended"] is None for e in found["journal"])


def test_ctrl_c_finishes_what_is_under_way_and_the_same_command_goes_on(
    partita: Commands, night: Path, started: subprocess.Popen[str]
) -> None:
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=30)
    assert started.returncode == 130
    assert "stopping: waiting for what is under way" in err
    assert "go on with `" in err
    assert not _starting(partita)
    assert partita("apply", night, "--yes").code == 0
    assert served(partita) == RATES


def test_after_kill_9_the_same_command_goes_on(
    partita: Commands, night: Path, started: subprocess.Popen[str]
) -> None:
    started.kill()
    started.wait()
    result = partita("apply", night, "--yes")
    assert result.code == 0
    assert "the controller before was killed: process" in result.err
    assert "killed with" in result.err
    assert served(partita) == RATES


def test_status_tells_who_acts_meanwhile(partita: Commands, started: subprocess.Popen[str]) -> None:
    found = json.loads(partita("status", "-o", "json").out)
    assert found["controller"]["pid"] == started.pid
    assert found["goal"]["state"] == "running"
    assert "process" in partita("status").out
