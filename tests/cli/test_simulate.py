from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.cli.commands import Commands
from tests.web.reading import report_in

from partita.serve import simulation

if TYPE_CHECKING:
    from tests.cli.commands import Result

SAMPLE = Path(str(resources.files("partita.examples"))) / "workload.yaml"
QUICK = ("--service", "photo-search", "--gpus", 1, "--queries", 2000)


@pytest.fixture
def partita(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    monkeypatch.setattr(simulation, "_QUERIES", 4_000)  # what a cut holds is only told here, and not judged
    return Commands(tmp_path, monkeypatch, capsys)


def simulate(partita: Commands, *words: object) -> Result:
    return partita("simulate", "-f", SAMPLE, *words)


def test_it_says_how_many_queries_are_in_time_and_what_the_cut_holds(partita: Commands) -> None:
    result = simulate(partita, *QUICK, "--cut", "fluid")
    assert result.code == 0, result.err
    assert "of 2,000 queries in time" in result.out
    assert "no router holds more than" in result.out
    assert "estimated latency ms: p50" in result.out


@pytest.mark.parametrize(
    ("file", "service"),
    [
        ("queries.yaml", "text-embedding"),
        ("queries.yaml", "photo-search"),
        ("workload.yaml", "answer-finder"),
        ("workload.yaml", "moderation"),
    ],
)
def test_the_shipped_examples_are_simulated_as_they_are(partita: Commands, file: str, service: str) -> None:
    asked = (
        "simulate",
        "-f",
        SAMPLE.parent / file,
        "--service",
        service,
        "--cut",
        "fluid",
        "--queries",
        1000,
    )
    result = partita(*asked, "-o", "json")
    assert result.code == 0, result.err
    data = json.loads(result.out)
    assert data["holds"]["bound"] * 1.0001 >= data["queries"] / data["seconds"] * 0.9
    assert (
        "the pool a100-80gb has no count: simulated on the fewest GPUs that may hold the rate" in result.err
    )
    fallen_back = "no latency at quantile 0.95: mean is used instead" in result.err
    assert fallen_back == (file == "queries.yaml" and service == "text-embedding")


@pytest.mark.parametrize("cut", ["search", "fluid", "homogeneous", "random"])
def test_each_cut_uses_every_gpu_and_gives_the_same_again(partita: Commands, cut: str) -> None:
    once = simulate(partita, *QUICK, "--cut", cut, "-o", "json")
    again = simulate(partita, *QUICK, "--cut", cut, "-o", "json")
    assert once.out == again.out
    data = json.loads(once.out)
    assert sum(data["cut"]["instances"].values()) == len(data["slices"])
    assert {each["gpu"] for each in data["slices"]} == {0}
    assert sum(each["queries"] for each in data["slices"]) == data["queries"] - data["refused"]


@pytest.mark.parametrize(
    "router", ["late-binding", "price", "elsa", "elsa-refusing", "fifs", "fifs-refusing", "kairos"]
)
def test_each_router_counts_every_query_once(partita: Commands, router: str) -> None:
    data = json.loads(simulate(partita, *QUICK, "--cut", "paris", "--router", router, "-o", "json").out)
    in_time = round(data["attainment"] * data["queries"])
    assert in_time + data["late"] + data["refused"] == data["queries"] == 2000


def test_a_trace_is_replayed_at_its_own_times(partita: Commands, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("seconds,batch\n" + "".join(f"{i / 10},{1 + i % 4}\n" for i in range(300)))
    asked = (*QUICK[:4], "--cut", "fluid", "--trace", trace, "-o", "json")
    data = json.loads(simulate(partita, *asked).out)
    assert (data["queries"], data["seconds"], data["attainment"]) == (300, pytest.approx(29.9), 1.0)
    assert json.loads(simulate(partita, *asked, "--speed", 10).out)["seconds"] == pytest.approx(2.99)


@pytest.mark.parametrize("process", [("gamma", "--variation", 4), ("day", "--swing", 0.9)])
def test_bursts_and_a_days_swing_are_harder_to_answer_in_time_than_poisson(
    partita: Commands, process: tuple[object, ...]
) -> None:
    asked = (*QUICK[:4], "--queries", 5000, "--cut", "fluid", "--gpus", 2, "-o", "json")
    steady = json.loads(simulate(partita, *asked).out)
    swung = json.loads(simulate(partita, *asked, "--arrivals", *process).out)
    assert swung["attainment"] < steady["attainment"]
    assert swung["queries"] == pytest.approx(5000, rel=0.1)


def test_the_report_has_the_latencies_and_each_slice(partita: Commands, tmp_path: Path) -> None:
    page, data = tmp_path / "page.html", tmp_path / "data.json"
    result = simulate(partita, *QUICK, "--cut", "fluid", "--html", page, "--out", data)
    assert result.code == 0, result.err
    told = json.loads(data.read_text())
    latency, slices = report_in(page).sections
    assert latency.histogram is not None
    assert sum(latency.histogram.counts) == told["queries"] - told["refused"]
    assert slices.table is not None
    busy = next(each for each in slices.table.columns if each.name == "busy")
    assert list(busy.values) == pytest.approx([each["busy"] for each in told["slices"]])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "6 services"),
        (("--service", "photo-serch"), 2, "did you mean photo-search?"),
        (("--service", "photo-search", "--gpus", 1, "--trace", "absent.csv"), 2, "no such file"),
        (
            ("--service", "answer-finder", "--gpus", 1, "--cut", "homogeneous", "--median", 8),
            4,
            "fewer than 0.95",
        ),
        ((*QUICK, "--cut", "fluid", "--html", "/"), 2, "directory"),
        ((*QUICK, "--median", 9999, "--sigma", 0.1), 2, "choose a smaller median"),
    ],
)
def test_what_cannot_be_simulated_is_said(
    partita: Commands, words: tuple[object, ...], code: int, said: str
) -> None:
    result = simulate(partita, *words)
    assert result.code == code
    assert said in result.err
    assert "hint:" in result.err or code == 2


def test_a_query_larger_than_any_measured_is_refused_with_the_trace(
    partita: Commands, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("seconds,batch\n0,65\n")
    result = simulate(partita, *QUICK[:4], "--trace", trace)
    assert result.code == 2
    assert "65 items" in result.err


# A whole plan


def day(folder: Path, **changes: str) -> Path:
    """Write two services that promise a share of their queries."""
    text = (SAMPLE.parent / "day.yaml").read_text()
    kept = [
        line.replace("00}", "00}, arrivals: poisson")
        for line in text.splitlines()
        if "name:" not in line or "moderation" in line or "photo" in line
    ]
    text = "\n".join(kept)
    for name, value in changes.items():
        text = text.replace(name, value)
    path = folder / "day.yaml"
    path.write_text(text.replace("perf.csv", str(SAMPLE.parent / "perf.csv")))
    return path


@pytest.fixture
def planned(partita: Commands, tmp_path: Path) -> tuple[Path, Path]:
    workload, plan = day(tmp_path), tmp_path / "plan.json"
    assert partita("plan", "-f", workload, "--out", plan).code == 0
    return workload, plan


def test_all_services_of_a_plan_are_simulated(partita: Commands, planned: tuple[Path, Path]) -> None:
    workload, plan = planned
    asked = ("simulate", "-f", workload, "--plan", plan, "--queries", 1000, "--load", 0.5)
    result = partita(*asked)
    assert result.code == 0, result.err
    assert "2 of 2 services keep their promise at 95 % confidence" in result.out
    data = json.loads(partita(*asked, "-o", "json").out)
    assert data["keeps"]
    assert [each["service"] for each in data["services"]] == ["moderation", "photo-search"]
    assert {each["kept"] for each in data["services"]} == {"yes"}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core simulates without other processes")
def test_ctrl_c_while_its_processes_begin_is_told_by_none_of_them(planned: tuple[Path, Path]) -> None:
    words = ["simulate", "-f", str(planned[0]), "--plan", str(planned[1]), "--queries", "1000000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "partita", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    begun = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None and len(begun.read_text().split()) < 3:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in told


def test_a_promise_that_is_not_kept_is_named_and_fails(partita: Commands, planned: tuple[Path, Path]) -> None:
    workload, plan = planned
    result = partita("simulate", "-f", workload, "--plan", plan, "--queries", 1000, "--load", 5)
    assert result.code == 1
    assert "moderation, photo-search do not keep their promises" in result.err
    assert "not kept: moderation, photo-search" in result.out


def test_losses_of_gpus_and_nodes_are_shown(
    partita: Commands, planned: tuple[Path, Path], tmp_path: Path
) -> None:
    workload, plan = planned
    asked = ("simulate", "-f", workload, "--plan", plan, "--queries", 500, "--load", 0.3)
    out, page = tmp_path / "out.json", tmp_path / "page.html"
    result = partita(*asked, "--without-each", "gpu", "--out", out, "--html", page)
    data = json.loads(out.read_text())
    gpus = [name for each in data["each"]["losses"] for name in each["lost"]]
    assert f"of {len(gpus)} GPUs can be lost with every promise kept" in result.out
    assert result.code == (0 if data["each"]["keeps"] else 1)
    assert "Promises, simulated" in page.read_text()
    gone = partita(*asked, "--without", "node-0")
    assert gone.code == 1
    assert "0.00" in gone.out
    unknown = partita(*asked, "--without", "node-7")
    assert (unknown.code, "no GPU, node, rack or zone 'node-7'" in unknown.err) == (2, True)


@pytest.mark.parametrize(
    "words", [("--gpus", 2), ("--cut", "paris"), ("--service", "moderation"), ("--arrivals", "gamma")]
)
def test_options_for_one_service_are_refused_for_a_plan(
    partita: Commands, planned: tuple[Path, Path], words: tuple[object, ...]
) -> None:
    workload, plan = planned
    result = partita("simulate", "-f", workload, "--plan", plan, *words)
    assert result.code == 2
    assert f"{words[0]}: it is for one service, not for --plan" in result.err


@pytest.mark.parametrize("words", [("--load", 2), ("--jitter", 0.1), ("--without", "node-0")])
def test_options_for_a_plan_are_refused_without_one(partita: Commands, words: tuple[object, ...]) -> None:
    result = simulate(partita, *QUICK, *words)
    assert result.code == 2
    assert f"{words[0]}: it has no meaning without --plan" in result.err


def test_a_plan_is_verified_when_it_is_made(partita: Commands, tmp_path: Path) -> None:
    workload, page = (
        day(tmp_path, **{"rate: 12000": "rate: 800", "rate: 8700": "rate: 500"}),
        tmp_path / "p.html",
    )
    result = partita("plan", "-f", workload, "--verify", "-o", "json", "--html", page)
    told = json.loads(result.out)
    assert told["plan"]["kind"] == "Plan"
    assert [each["service"] for each in told["verification"]["services"]] == ["moderation", "photo-search"]
    assert result.code == (0 if told["verification"]["keeps"] else 1)
    assert "Promises, simulated" in page.read_text()
