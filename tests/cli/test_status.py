"""`partita status` shows what runs, what is wrong with it, and changes nothing."""

from __future__ import annotations

import io
import json
from getpass import getuser
from typing import TYPE_CHECKING

import pytest
import yaml
from rich.console import Console
from tests.cli.commands import Commands
from tests.control.world import deployment, goal, gpu

from partita.cli.cluster import SIMULATED
from partita.cli.status import Page, _looking, status_table
from partita.control.journal import FILE, Journal
from partita.drive.simulated import SimulatedCluster
from partita.mig.layout import Placement

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def partita(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    made = Commands(tmp_path, monkeypatch, capsys)
    made("apply", made.plan("day.json", deployment("7g.40gb@0=bert", "3g.20gb@4=résnet")), "--yes")
    return made


@pytest.fixture
def cluster(partita: Commands) -> SimulatedCluster:
    return SimulatedCluster(partita.state / "cluster.sqlite3")


def test_gpus_services_and_journal_are_shown(partita: Commands) -> None:
    out = partita("status").out
    for text in (
        "controller: none at work",
        "goal: reached, 4/4 actions",
        "7g.40gb",
        "résnet",
        "2 GPUs in use, 6 empty",
    ):
        assert text in out
    assert "start replica bert on node-0/gpu-0 7g.40gb@0" in out


def test_what_is_wrong_is_said(partita: Commands, cluster: SimulatedCluster) -> None:
    cluster.lose(gpu(0))
    cluster.set_mig(gpu(2), on=False)
    cluster.create_foreign(gpu(3), Placement(0, "7g.40gb"))
    cluster.create_foreign(gpu(4), Placement(0, "7g.40gb"), busy=True)
    out = partita("status").out
    for text in ("under its floor", "lost", "MIG mode off", "someone else's"):
        assert text in out


def test_json_and_yaml_carry_the_same(partita: Commands) -> None:
    found = json.loads(partita("status", "-o", "json").out)
    assert found == yaml.safe_load(partita("status", "-o", "yaml").out)
    assert found["services"][0] == {"name": "bert", "capacity": 700.0, "floor": 700.0, "required": 700.0}
    assert found["gpus"][0]["instances"][0]["state"] == "ready"


def test_it_changes_nothing(partita: Commands) -> None:
    before = {path.name: path.read_bytes() for path in partita.state.iterdir()}
    partita("status")
    assert {path.name: path.read_bytes() for path in partita.state.iterdir() if path.name in before} == before


def test_without_a_cluster_it_says_how_to_make_one(partita: Commands) -> None:
    (partita.state / "cluster.sqlite3").unlink()
    result = partita("status")
    assert result.code == 2
    assert "partita apply plan.json" in result.err


def test_with_the_journal_damaged_it_says_so(partita: Commands) -> None:
    (partita.state / "journal.sqlite3").write_bytes(b"nonsense " * 100)
    result = partita("status")
    assert result.code == 1
    assert "the journal is damaged" in result.err


def test_watching_shows_it_again_until_it_is_stopped(
    partita: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([None, None])

    def sleep(_: float) -> None:
        if next(looks, 0) == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)
    result = partita("status", "--watch", "--every", "0.1")
    assert result.code == 130
    assert result.out.count("controller:") == 3


@pytest.mark.usefixtures("partita")
def test_it_is_drawn_in_colour_on_a_terminal() -> None:
    with _looking(SIMULATED) as look:
        console = Console(record=True, width=100, force_terminal=True)
        console.print(status_table(look(3)))
    assert "bert" in console.export_text()


def test_one_gpu_is_one_and_a_table_without_services_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    partita = Commands(tmp_path, monkeypatch, capsys)
    names = [f"node-0/gpu-{n}" for n in range(8)]
    cuts: list[dict[str, object]] = [{"id": each, "model": "a100-40gb", "instances": []} for each in names]
    cuts[0]["instances"] = [{"profile": "7g.40gb", "start": 0}]
    path = tmp_path / "layouts.json"
    path.write_text(json.dumps({"apiVersion": "partita/v1", "kind": "Layouts", "gpus": cuts}))
    assert partita("apply", path, "--yes").code == 0
    out = partita("status").out
    assert "1 GPU in use, 7 empty" in out
    assert "capacity/s" not in out


def test_a_pause_is_shown_and_ended(partita: Commands) -> None:
    told = partita("pause")
    assert told.code == 2
    assert "no transition is in progress" in told.err
    journal = Journal(partita.state / FILE)
    journal.begin_goal(goal(deployment("7g.40gb@0=bert")), "partita apply night.json", 7.0)
    journal.close()
    assert "transition 2 is paused" in partita("pause").out
    assert f"goal: paused by {getuser()}, 0/0 actions" in partita("status").out
    assert json.loads(partita("status", "-o", "json").out)["goal"]["paused"] == getuser()
    assert "go on with `partita apply night.json`" in partita("resume").out
    assert "goal: running" in partita("status").out


@pytest.mark.parametrize(("height", "lines"), [(10, 30), (10, 10), (24, 100)])
def test_a_page_says_how_much_does_not_fit(height: int, lines: int) -> None:
    whole = [f"line {i}" for i in range(lines)]
    for top in (0, 5, 1000):
        console = Console(width=80, height=height, file=io.StringIO())
        page = Page("\n".join(whole), top)
        with console.capture() as captured:
            console.print(page, height=height, end="")
        shown = captured.get().splitlines()
        assert len(shown) <= height
        if lines <= height:
            assert [each.strip() for each in shown] == whole
            continue
        first = min(top, lines - height + 1)
        assert [each.strip() for each in shown[:-1]] == whole[first : first + height - 1]
        assert f"{first} lines above, {lines - height + 1 - first} below" in shown[-1]


def test_the_options_of_a_cluster_mean_nothing_to_the_pause_of_a_host(partita: Commands) -> None:
    for command in ("pause", "resume"):
        told = partita(command, "--namespace", "shop")
        assert told.code == 2
        assert "no meaning without --workload" in told.err
