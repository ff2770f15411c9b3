"""`partita plan` and `explain` as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import yaml
from tests.cli.commands import Commands

from partita.cli.output import Format, clean
from partita.explanation import Binds

if TYPE_CHECKING:
    from pathlib import Path

SAMPLE = "src/partita/examples/workload.yaml"


def partita(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "partita", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "COLUMNS": "80", **environment},
    )


def workload(folder: Path, **changes: object) -> Path:
    """Write a workload of two services on A30s, with these fields changed."""
    rows = [
        "model,gpu,profile,batch,processes,throughput,latency_ms,quantile",
        *(f"m{i},a30-24gb,{p},8,1,{t * i},20,0.9" for i in (1, 2) for p, t in PROFILES.items()),
    ]
    (folder / "perf.csv").write_text("\n".join(rows))
    document = {
        "apiVersion": "partita/v1",
        "kind": "Workload",
        "performance": ["perf.csv"],
        "gpus": [{"model": "a30-24gb", "count": 3}],
        "services": [
            {"name": "first", "model": "m1", "rate": 44, "slo": {"latency_ms": 50}},
            {"name": "second", "model": "m2", "rate": 170, "slo": {"latency_ms": 50}, "priority": 1},
        ],
        **changes,
    }
    path = folder / "workload.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


PROFILES = {"1g.6gb": 10, "2g.12gb": 22, "4g.24gb": 40}


def test_the_table_says_what_is_proven_and_draws_the_gpus() -> None:
    result = partita("plan", "-f", SAMPLE)
    assert result.returncode == 0, result.stderr
    assert "13 GPUs, proven optimal (bound 13)" in result.stdout
    assert "photo-search" in result.stdout
    assert "estimate" in result.stderr
    assert max(len(line) for line in result.stdout.splitlines()) <= 80


def test_json_on_stdout_and_in_the_file_is_one_plan(tmp_path: Path) -> None:
    path = workload(tmp_path)
    result = partita("plan", "-f", str(path), "-o", "json", "--out", str(tmp_path / "plan.json"))
    plan = json.loads(result.stdout)
    assert plan == json.loads((tmp_path / "plan.json").read_text())
    assert plan["objective"] == {"name": "gpus", "value": 3, "lower_bound": 3, "gap": 0.0, "proven": True}


def test_the_same_input_and_seed_give_the_same_bytes_but_for_the_seconds(tmp_path: Path) -> None:
    path = workload(tmp_path)
    first, second = (json.loads(partita("plan", "-f", str(path), "-o", "json").stdout) for _ in range(2))
    assert {**first, "solver": None} == {**second, "solver": None}


def test_yaml_holds_the_same_plan_as_json(tmp_path: Path) -> None:
    path = str(workload(tmp_path))
    as_yaml = yaml.safe_load(partita("plan", "-f", path, "-o", "yaml").stdout)
    as_json = json.loads(partita("plan", "-f", path, "-o", "json").stdout)
    assert as_yaml["gpus"] == as_json["gpus"]


def test_a_workload_is_read_from_stdin() -> None:
    text = json.dumps(
        {
            "apiVersion": "partita/v1",
            "kind": "Workload",
            "performance": ["src/partita/examples/perf.csv"],
            "gpus": [{"model": "a100-80gb"}],
            "services": [{"name": "r", "model": "resnet50", "rate": 100, "slo": {"latency_ms": 100}}],
        }
    )
    result = subprocess.run(
        [sys.executable, "-m", "partita", "plan", "-f", "-"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "1 GPU" in result.stdout


def test_a_right_plan_passes_the_check_and_a_changed_one_is_told_what_is_wrong(tmp_path: Path) -> None:
    path, out = workload(tmp_path), tmp_path / "plan.json"
    partita("plan", "-f", str(path), "--out", str(out))
    assert partita("plan", "-f", str(path), "--check", str(out)).returncode == 0
    plan = json.loads(out.read_text())
    plan["gpus"][0]["instances"][0]["throughput"] += 1
    out.write_text(json.dumps(plan))
    result = partita("plan", "-f", str(path), "--check", str(out))
    assert result.returncode == 1
    assert "node-0/gpu-0" in result.stdout
    assert "throughput" in result.stdout
    assert "hint:" in result.stderr


def test_too_few_gpus_exit_with_4_and_name_the_services_and_the_limit(tmp_path: Path) -> None:
    path = workload(tmp_path, gpus=[{"model": "a30-24gb", "count": 2}])
    result = partita("plan", "-f", str(path), "--out", str(tmp_path / "plan.json"))
    assert result.returncode == 4
    assert "2 a30-24gb" in result.stderr
    assert "first" in result.stderr
    assert "--best-effort" in result.stderr
    assert not (tmp_path / "plan.json").exists()


def test_best_effort_meets_the_higher_priority(tmp_path: Path) -> None:
    path = workload(tmp_path, gpus=[{"model": "a30-24gb", "count": 2}])
    result = partita("plan", "-f", str(path), "--best-effort", "-o", "json")
    assert result.returncode == 0, result.stderr
    capacity = {each["name"]: each["capacity"] for each in json.loads(result.stdout)["services"]}
    assert capacity["second"] >= 170
    assert capacity["first"] < 44


def test_best_effort_is_the_exact_planners(tmp_path: Path) -> None:
    result = partita("plan", "-f", str(workload(tmp_path)), "--best-effort", "--planner", "greedy")
    assert result.returncode == 2
    assert "--planner exact" in result.stderr


@pytest.mark.parametrize("planner", ["exact", "greedy", "mcts", "genetic", "whole", "ones", "mix"])
def test_every_planner_makes_a_plan_that_the_checker_accepts(tmp_path: Path, planner: str) -> None:
    path, out = workload(tmp_path, gpus=[{"model": "a30-24gb"}]), tmp_path / "plan.json"
    made = partita("plan", "-f", str(path), "--planner", planner, "--time-limit", "2", "--out", str(out))
    assert made.returncode == 0, made.stderr
    checked = partita("plan", "-f", str(path), "--check", str(out))
    assert checked.returncode == 0, checked.stdout


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    path = workload(tmp_path)
    partita(
        "plan",
        "-f",
        str(path),
        "--out",
        str(tmp_path / "p.json"),
        "--html",
        str(tmp_path / "p.html"),
        "--dry-run",
    )
    assert sorted(each.name for each in tmp_path.iterdir()) == ["perf.csv", "workload.yaml"]


def test_the_report_stands_alone(tmp_path: Path) -> None:
    partita("plan", "-f", str(workload(tmp_path)), "--html", str(tmp_path / "p.html"))
    page = (tmp_path / "p.html").read_text()
    assert "first" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script" not in page


def test_the_environment_sets_an_option_and_a_flag_beats_it(tmp_path: Path) -> None:
    path = str(workload(tmp_path))
    by_environment = partita("plan", "-f", path, PARTITA_PLAN_OUTPUT="json")
    assert json.loads(by_environment.stdout)["kind"] == "Plan"
    by_flag = partita("plan", "-f", path, "-o", "table", PARTITA_PLAN_OUTPUT="json")
    assert "GPUs" in by_flag.stdout


def test_one_interrupt_returns_the_best_plan_so_far(tmp_path: Path) -> None:
    services = [
        {"name": f"s{i}", "model": f"m{1 + i % 2}", "rate": 31 + 7 * i, "slo": {"latency_ms": 50}}
        for i in range(60)
    ]
    path = workload(tmp_path, services=services, gpus=[{"model": "a30-24gb"}])
    command = ["plan", "-f", str(path), "--planner", "mcts", "--time-limit", "100", "-o", "json"]
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert "searching" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert json.loads(stdout)["solver"]["name"] == "mcts"


# Tree search that would run for hours: only the interrupt ends it.
ENDLESS = """
import sys
from functools import partial
from partita.planning import mig_serving

class Endless(mig_serving.MctsPlanner):
    def plan(self, problem):
        print("searching", file=sys.stderr, flush=True)
        return super().plan(problem)

mig_serving.MctsPlanner = partial(Endless, iterations=10**9)
from partita.cli.main import main
main()
"""


def test_explain_says_what_binds_and_what_a_change_would_do() -> None:
    result = partita("explain", "-f", SAMPLE, "--service", "photo-search")
    assert result.returncode == 0, result.stderr
    assert "latency: batch 64" in result.stdout
    assert "rate +10 %" in result.stdout
    assert "SLO +20 %" in result.stdout
    assert "text-embedding" not in result.stdout


def test_explain_of_an_unknown_service_names_the_nearest() -> None:
    result = partita("explain", "-f", SAMPLE, "--service", "photo-serch")
    assert result.returncode == 2
    assert "photo-search" in result.stderr


def test_explain_in_json_has_every_profile() -> None:
    found = json.loads(partita("explain", "-f", SAMPLE, "--service", "moderation", "-o", "json").stdout)
    profiles = [each["profile"] for each in found[0]["gpus"]["a100-80gb"]]
    assert profiles[0] == "1g.10gb"
    assert profiles[-1] == "7g.80gb"


def test_words_of_a_closed_list_are_plain_text_in_json_and_yaml() -> None:
    value = clean({"profiles": [{"binds": Binds.LATENCY}], "format": Format.YAML})
    assert yaml.safe_load(yaml.safe_dump(value)) == json.loads(json.dumps(value))
    assert value == {"profiles": [{"binds": "latency"}], "format": "yaml"}


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    code = "import sys, partita.cli.main; print([m for m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("numpy", "numba", "highspy", "msgspec", "yaml", "rich"):
        assert f"'{heavy}'" not in loaded


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(tmp_path, monkeypatch, capsys)


TWO_POOLS = """\
apiVersion: partita/v1
kind: Workload
performance: [perf.csv]
gpus:
  - {model: a100-80gb, count: 1, cost_per_hour: 3}
  - {model: h100-80gb, count: 1, name: hopper, cost_per_hour: 5}
services:
  - {name: s, model: m, rate: 349.99, slo: {latency_ms: 100}}
  - {name: t, model: m, rate: 100, slo: {latency_ms: 100}}
"""


def test_gpus_of_two_models_are_told_apart_and_costs_that_are_ignored_are_said(
    tmp_path: Path, run: Commands
) -> None:
    (tmp_path / "w.yaml").write_text(TWO_POOLS)
    rows = [
        f"m,{gpu},{profile},1,1,{rate * slices},{1000 / rate / slices},mean"
        for gpu, rate in (("a100-80gb", 30.1), ("h100-80gb", 50))
        for profile, slices in (("3g.40gb", 3), ("7g.80gb", 7))
    ]
    header = "model,gpu,profile,batch,processes,throughput,latency_ms,quantile"
    (tmp_path / "perf.csv").write_text("\n".join([header, *rows]) + "\n")
    result = run(
        "plan", "-f", tmp_path / "w.yaml", "--out", tmp_path / "p.json", "--html", tmp_path / "p.html"
    )
    assert result.code == 0, result.err
    assert "2 GPUs (1 a100-80gb, 1 h100-80gb), proven optimal" in result.out.replace(
        "(1 h100-80gb, 1 a100-80gb)", "(1 a100-80gb, 1 h100-80gb)"
    )
    assert "h100-80gb: 1\N{MULTIPLICATION SIGN}7g.80gb" in result.out
    assert "+0 %" in result.out
    assert "-0 " not in result.out
    assert "cost_per_hour of a100-80gb, hopper is not looked at" in " ".join(result.err.split())
    assert "h100-80gb: 1\N{MULTIPLICATION SIGN}7g.80gb" in (tmp_path / "p.html").read_text()


def test_what_check_finds_is_told_as_json_too(tmp_path: Path, run: Commands) -> None:
    run("plan", "-f", SAMPLE, "--out", tmp_path / "p.json")
    found = run("plan", "-f", SAMPLE, "--check", tmp_path / "p.json", "-o", "json")
    assert (found.code, json.loads(found.out)["meets"], json.loads(found.out)["faults"]) == (0, True, [])
    plan = json.loads((tmp_path / "p.json").read_text())
    plan["services"][0]["capacity"] += 1
    (tmp_path / "p.json").write_text(json.dumps(plan))
    found = run("plan", "-f", SAMPLE, "--check", tmp_path / "p.json", "-o", "json")
    data = json.loads(found.out)
    assert (found.code, data["meets"]) == (1, False)
    assert data["faults"][0]["where"] == "service photo-search"
    assert data["faults"][0]["what"].startswith("capacity ")
