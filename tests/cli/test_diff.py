"""`partita diff` as a user runs it: two plans, or a plan and a cluster."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml
from tests.cli.commands import Commands

from partita.cli.drawing import UNICODE
from partita.transition.document import read_transition

if TYPE_CHECKING:
    from pathlib import Path

POINTS = {"1g.10gb": 100.0, "2g.20gb": 210.0, "3g.40gb": 320.0, "4g.40gb": 400.0, "7g.80gb": 700.0}


def instance(start: int, profile: str, service: str) -> dict[str, object]:
    run = {"batch": 8, "processes": 1, "throughput": POINTS[profile], "latency_ms": 20}
    return {"profile": profile, "start": start, "service": service, "model": "net", **run}


def write(
    path: Path, rates: dict[str, float], *gpus: list[dict[str, object]], model: str = "a100-80gb"
) -> Path:
    """Write a plan with these rates and GPUs."""
    capacity = {
        name: sum(POINTS[str(i["profile"])] for g in gpus for i in g if i["service"] == name)
        for name in rates
    }
    document = {
        "apiVersion": "partita/v1",
        "kind": "Plan",
        "objective": {
            "name": "gpus",
            "value": len(gpus),
            "lower_bound": len(gpus),
            "gap": 0.0,
            "proven": True,
        },
        "solver": {"name": "exact", "seed": 0, "seconds": 0.0},
        "services": [
            {"name": name, "rate": rate, "capacity": capacity[name], "latency_slo_ms": 50}
            for name, rate in rates.items()
        ],
        "gpus": [{"id": f"node-0/gpu-{n}", "model": model, "instances": cut} for n, cut in enumerate(gpus)],
    }
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def partita(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    monkeypatch.chdir(tmp_path)
    return Commands(tmp_path, monkeypatch, capsys)


@pytest.fixture
def day(tmp_path: Path) -> Path:
    return write(
        tmp_path / "day.json",
        {"a": 790, "b": 300},
        [instance(0, "4g.40gb", "a"), instance(4, "3g.40gb", "b")],
        [instance(0, "4g.40gb", "a")],
    )


@pytest.fixture
def night(tmp_path: Path) -> Path:
    return write(
        tmp_path / "night.json",
        {"a": 380, "b": 90},
        [instance(0, "4g.40gb", "a"), instance(4, "1g.10gb", "b")],
    )


def test_equal_deployments_have_nothing_to_do_and_exit_with_0(partita: Commands, day: Path) -> None:
    done = partita("diff", day, day)
    assert (done.code, done.out) == (0, "nothing to do: all runs as the plan wants it\n")


def test_one_gpu_is_one(tmp_path: Path, partita: Commands, night: Path) -> None:
    more = write(tmp_path / "more.json", {"a": 380}, [instance(0, "4g.40gb", "a")])
    assert "\n1 GPU in use, 1 at the end" in partita("diff", night, more).out


def test_changes_exit_with_3_and_show_what_moves_the_floors_and_the_gpus_before_and_after(
    partita: Commands, day: Path, night: Path
) -> None:
    done = partita("diff", day, night)
    assert done.code == 3, done.err
    lines = [line.rstrip() for line in done.out.splitlines()]
    assert lines[0] == "2 moves, 6 actions, about 38 s: 1 create, 2 destroy, 1 start, 2 stop"
    assert lines[1].startswith("2 GPUs in use, 1 at the end, at most 2 of 8 meanwhile")
    assert "a                800   400    380    400  1 stay, 1 end" in lines
    assert "b                320   100     90    100  1 move" in lines
    assert max(map(len, lines)) <= 120
    first = lines.index(f"{UNICODE.times} 1  a100-80gb  node-0/gpu-0")
    assert lines[first + 1].startswith("now  │4g.40gb")
    assert lines[first + 2].startswith("     │-a ")
    assert "│-b " in lines[first + 2]
    assert set(lines[first + 3]) == set("then │·")
    assert any("│+b " in line for line in lines[first + 4 :])


def test_json_yaml_and_the_file_are_one_transition(
    partita: Commands, day: Path, night: Path, tmp_path: Path
) -> None:
    out = tmp_path / "way.json"
    done = partita("diff", day, night, "-o", "json", "--out", str(out))
    data = json.loads(done.out)
    assert data == json.loads(out.read_text())
    assert data == yaml.safe_load(partita("diff", day, night, "-o", "yaml").out)
    found = read_transition(out)
    assert found.algorithm == "shortest"
    assert dict(found.floors) == {"a": 380, "b": 90}
    assert {action.gpu for action in found.actions} == {"node-0/gpu-0", "node-0/gpu-1"}


def test_without_changes_being_wanted_in_files_none_are_written(
    partita: Commands, day: Path, night: Path, tmp_path: Path
) -> None:
    names = ("way.json", "way.html")
    out, html = (tmp_path / name for name in names)
    assert partita("diff", day, night, "--out", out, "--html", html, "--dry-run").code == 3
    assert not any((tmp_path / name).exists() for name in names)
    partita("diff", day, night, "--out", out, "--html", html)
    assert all((tmp_path / name).exists() for name in names)


def test_the_papers_durations_and_algorithm_can_be_asked_for(
    partita: Commands, day: Path, night: Path
) -> None:
    measured = json.loads(partita("diff", day, night, "-o", "json").out)
    paper = json.loads(
        partita(
            "diff",
            day,
            night,
            "-o",
            "json",
            "--durations",
            "paper",
            "--algorithm",
            "exchange-compact",
        ).out
    )
    assert paper["algorithm"] == "exchange-compact"
    assert paper["makespan"] > measured["makespan"]
    assert {action["seconds"] for action in paper["actions"]} == {24.9, 37.9, 47.4}


def test_a_budget_that_cannot_be_met_exits_with_4_and_says_the_smallest_that_can(
    partita: Commands, tmp_path: Path
) -> None:
    """Two services that fill a GPU each and swap places with other sizes need room."""
    now = write(tmp_path / "now.json", {"a": 700}, [instance(0, "7g.80gb", "a")])
    then = write(
        tmp_path / "then.json", {"a": 700}, [instance(0, "4g.40gb", "a"), instance(4, "3g.40gb", "a")]
    )
    refused = partita("diff", now, then, "--extra-gpus", "0")
    assert refused.code == 4
    assert "1 would do" in refused.err
    assert "hint: allow 1 extra GPUs" in refused.err
    assert partita("diff", now, then, "--extra-gpus", "1").code == 3


def test_a_plan_for_other_gpus_of_the_same_names_is_a_move_to_further_gpus(
    partita: Commands, tmp_path: Path
) -> None:
    cut = [instance(0, "7g.80gb", "a")]
    now = write(tmp_path / "now.json", {"a": 600}, cut)
    then = write(tmp_path / "then.json", {"a": 600}, cut, model="h100-80gb")
    data = json.loads(partita("diff", now, then, "-o", "json").out)
    assert [gpu["model"] for gpu in data["target"] if gpu["instances"]] == ["h100-80gb"]


def test_the_cluster_is_compared_when_one_plan_is_named(
    partita: Commands, day: Path, night: Path, tmp_path: Path
) -> None:
    none = partita("diff", night)
    assert none.code == 2
    assert "there is no simulated cluster yet" in none.err
    assert not (tmp_path / "state").exists()
    assert partita("apply", day, "--yes").code == 0
    assert partita("diff", day).code == 0
    changed = partita("diff", night, "-o", "json")
    assert changed.code == 3
    assert {s["name"]: s["floor"] for s in json.loads(changed.out)["services"]} == {"a": 380, "b": 90}
    assert partita("diff", day).code == 0, "looking changes nothing"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["diff"], "Missing argument"),
        (["diff", "a.json", "b.json", "c.json"], "3 plans are named"),
        (["diff", "-", "-"], "only one plan can come from stdin"),
        (["diff", "a.json", "b.json"], "b.json: no such file"),
    ],
)
def test_what_is_no_pair_of_plans_is_said(partita: Commands, words: list[str], said: str) -> None:
    done = partita(*words)
    assert done.code == 2
    assert said in " ".join(done.err.split())


def test_a_forbidden_combination_is_not_used_on_the_way(tmp_path: Path, partita: Commands) -> None:
    day = write(tmp_path / "day.json", {"net": 300}, [instance(4, "3g.40gb", "net")])
    night = write(tmp_path / "night.json", {"net": 300}, [instance(0, "4g.40gb", "net")])
    assert partita("diff", day, night, "--extra-gpus", "0").code == 3
    assert partita("diff", day, night, "--extra-gpus", "0", "--forbid", "4g+3g").code == 4
