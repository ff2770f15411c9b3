"""`partita apply` and `adopt`: what is shown, refused and carried out, what goes on after interruptions, and NVML."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import typer
from tests.cli.commands import Commands
from tests.control.world import deployment, gpu

from partita.control.journal import FILE, controlling
from partita.drive.simulated import FaultKind, InjectedFault, SimulatedCluster
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement
from partita.transition.transition import ActionKind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.drive.fake_nvml import FakeNvml


DAY = deployment("7g.40gb@0=bert", "4g.20gb@0=resnet 3g.20gb@4=resnet")
NIGHT = deployment("4g.20gb@0=bert 2g.10gb@4=resnet 1g.5gb@6=resnet")
RATES = {"bert": 400.0, "resnet": 300.0}

FAST = """
import time, sys
from partita.cli import cluster, main
class Fast:
    def now(self): return time.monotonic() * 8
    def sleep_until(self, moment): time.sleep(max(0.0, moment - self.now()) / 8)
    def catch_up(self, moment): pass
cluster.make_clock = lambda name: Fast()
main.main()
"""
"""The command, with a clock on which a replica starts in five seconds."""


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


@pytest.mark.parametrize("asked", ["--dry-run", "--yes"])
def test_the_change_is_written_as_a_page(partita: Commands, day: Path, night: Path, asked: str) -> None:
    assert partita("apply", day, "--yes").code == 0
    html = partita.folder / "change.html"
    assert partita("apply", night, asked, "--html", html).code == 0
    page = html.read_text()
    assert "night.json" in page
    assert "start_replica" in page
    assert served(partita)["resnet"] == (DAY if asked == "--dry-run" else NIGHT).capacity()["resnet"]


def test_a_plan_is_applied_to_a_cluster_that_is_made_for_it(partita: Commands, day: Path) -> None:
    result = partita("apply", day, "--yes")
    assert result.code == 0
    assert "made a simulated cluster of 8 GPUs" in result.err
    assert "reached in" in result.out
    assert served(partita) == {"bert": 700.0, "resnet": 700.0}


def test_gpus_that_a_cluster_that_is_there_has_not_are_told(partita: Commands, day: Path) -> None:
    assert partita("apply", day, "--yes").code == 0
    told = partita("apply", day, "--yes", "--simulate", "a100-80gb:9")
    assert told.code == 0
    assert "--simulate changes nothing: the cluster is there already, with a100-40gb:8" in told.err
    assert "PARTITA_STATE" in told.err
    assert "--simulate" not in partita("apply", day, "--yes", "--simulate", "a100-40gb:8").err


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
    _, err = started.communicate(timeout=60)
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
    assert "the previous controller was killed: process" in result.err
    assert "killed with" in result.err
    assert served(partita) == RATES


def test_status_tells_who_acts_meanwhile(partita: Commands, started: subprocess.Popen[str]) -> None:
    found = json.loads(partita("status", "-o", "json").out)
    assert found["controller"]["pid"] == started.pid
    assert found["goal"]["state"] == "running"
    assert "process" in partita("status").out


# `partita adopt` takes over what someone else made, and nothing else.


@pytest.fixture
def beside_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Commands:
    made = Commands(tmp_path, monkeypatch, capsys)
    made("apply", made.plan("day.json", deployment("3g.20gb@4=bert")), "--yes")
    SimulatedCluster(made.state / "cluster.sqlite3").create_foreign(gpu(1), Placement(0, "2g.10gb"))
    return made


def test_an_adopted_instance_can_be_destroyed_by_the_next_plan(beside_others: Commands) -> None:
    whole = beside_others.plan("night.json", deployment("7g.40gb@0=bert"))
    assert "adopted node-0/gpu-1 2g.10gb@0" in beside_others("adopt", gpu(1)).out
    assert beside_others("apply", whole, "--yes").code == 0
    assert "2g.10gb" not in beside_others("status", "--tail", "0").out


def test_only_instances_of_someone_else_can_be_adopted(beside_others: Commands) -> None:
    refused = beside_others("adopt", gpu(1), "3g.20gb@4")
    assert refused.code == 2
    assert "those of someone else: 2g.10gb@0" in refused.err


def test_a_dry_run_adopts_nothing(beside_others: Commands) -> None:
    assert "would adopt" in beside_others("adopt", gpu(1), "--dry-run").out
    assert "adopted" in beside_others("adopt", gpu(1)).out


def test_an_unknown_gpu_is_refused(beside_others: Commands) -> None:
    refused = beside_others("adopt", "node-9/gpu-9")
    assert refused.code == 2
    assert "partita status" in refused.err


NOTHING = deployment("")


# On GPUs behind NVML: instances are cut, processes run on them, and all of it goes again.


@pytest.fixture
def on_nvml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], nvml: FakeNvml
) -> Iterator[Commands]:
    del nvml
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    services = [{"name": name, "command": sleeper} for name in ("bert", "resnet")]
    (tmp_path / "services.yaml").write_text(json.dumps({"services": services}))
    monkeypatch.setenv("PARTITA_DRIVER", "nvml")
    monkeypatch.setenv("PARTITA_SERVICES", str(tmp_path / "services.yaml"))
    made = Commands(tmp_path, monkeypatch, capsys)
    yield made
    assert made("apply", made.plan("nothing.json", NOTHING), "--yes").code == 0, "replicas may be left"


def test_day_night_and_nothing(on_nvml: Commands) -> None:
    result = on_nvml("apply", on_nvml.plan("day.json", DAY), "--yes")
    assert result.code == 0, result.err
    assert served(on_nvml) == {"bert": 700.0, "resnet": 700.0}
    night = on_nvml.plan("night.json", NIGHT, {"bert": 400.0, "resnet": 300.0})
    result = on_nvml("apply", night, "--yes", "-o", "json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["took"]["replans"] == 0, result.err
    assert served(on_nvml) == {"bert": 400.0, "resnet": 300.0}
    assert "nothing to do" in on_nvml("apply", night).out


def test_someone_elses_instance_is_left_alone(on_nvml: Commands, nvml: FakeNvml) -> None:
    nvml.foreign(0, "3g.20gb@4")
    assert on_nvml("apply", on_nvml.plan("day.json", DAY), "--yes").code == 0
    gpus = json.loads(on_nvml("status", "-o", "json").out)["gpus"]
    assert [
        (each["profile"], each["start"]) for gpu in gpus for each in gpu["instances"] if not each["ours"]
    ] == [("3g.20gb", 4)]


def test_a_replica_that_was_killed_is_started_again(on_nvml: Commands) -> None:
    day = on_nvml.plan("day.json", DAY)
    on_nvml("apply", day, "--yes")
    (record,) = [
        json.loads(path.read_text())
        for path in (on_nvml.state / "replicas").glob("*.json")
        if "bert" in path.read_text()
    ]
    os.kill(record["pid"], signal.SIGKILL)
    result = on_nvml("apply", day, "--yes")
    assert result.code == 0, result.err
    assert "does not run bert batch 8 any more" in result.err
    assert served(on_nvml) == {"bert": 700.0, "resnet": 700.0}


def test_a_service_without_a_command_is_refused_before_anything_is_cut(on_nvml: Commands) -> None:
    other = on_nvml.plan("other.json", deployment("7g.40gb@0=vgg"))
    result = on_nvml("apply", other, "--yes")
    assert result.code == 2
    assert "nothing says how vgg is run" in result.err
    gpus = json.loads(on_nvml("status", "-o", "json").out)["gpus"]
    assert [gpu["instances"] for gpu in gpus] == [[], [], []]


def test_gpus_that_are_not_there_are_said(on_nvml: Commands) -> None:
    many = deployment(*["7g.40gb@0=bert"] * 4)
    result = on_nvml("apply", on_nvml.plan("many.json", many), "--yes")
    assert result.code == 2
    assert "needs 4 GPUs of a100-40gb, and the cluster has 3" in result.err


def test_a_gpu_that_the_catalogue_lacks_is_read_planned_for_and_cut(
    on_nvml: Commands, nvml: FakeNvml, tmp_path: Path
) -> None:
    own = gpu_model("a100-40gb")
    nvml.cards.clear()
    for _ in range(3):
        nvml.cards.append(nvml._card(replace(own, aliases=("NVIDIA Odd 40GB",), pci=()), mig=True))
    found = json.loads(on_nvml("gpus", "--from-nvml", "-o", "json").out)
    assert [each["name"] for each in found] == ["odd-40gb"]
    day = on_nvml.plan("day.json", deployment("7g.40gb@0=bert"))
    day.write_text(day.read_text().replace("a100-40gb", "odd-40gb"))
    refused = on_nvml("apply", day, "--yes")
    assert refused.code == 2
    assert "--gpus-file" in refused.err
    kept = tmp_path / "odd.toml"
    assert on_nvml("gpus", "--from-nvml", "--out", kept).code == 0
    assert on_nvml("apply", day, "--yes", "--gpus-file", kept).code == 0
    gpus = json.loads(on_nvml("status", "-o", "json").out)["gpus"]
    assert [gpu["model"] for gpu in gpus] == ["odd-40gb"] * 3
    assert sum(len(gpu["instances"]) for gpu in gpus) == 1
    assert on_nvml("diff", day, "--gpus-file", kept).code == 0


def test_gpus_that_are_left_out_are_said(on_nvml: Commands, nvml: FakeNvml) -> None:
    nvml.cards[2].mig_capable = False
    result = on_nvml("apply", on_nvml.plan("day.json", DAY), "--yes")
    assert result.code == 0
    assert "note: GPU 2 (NVIDIA A100-SXM4-40GB) is left out: it has no MIG" in result.err
