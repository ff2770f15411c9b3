"""`partita plan` as a user runs it: also with pools, and with services that have a cut of their own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.commands import Commands
from tests.web.reading import Page, report_in

from partita import planner
from partita.cli.output import Format, clean
from partita.explanation import Binds
from partita.serve.reserving import reservation

SAMPLE = "src/partita/examples/workload.yaml"


class Command:
    """The command line, run in this process as in one of its own: importing it anew takes most of the time.

    Args:
        commands: runs it.
    """

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def __call__(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        with self._commands.monkeypatch.context() as patched:
            for name, value in environment.items():
                patched.setenv(name, value)
            done = self._commands(*words)
        return subprocess.CompletedProcess(words, done.code, done.out, done.err)


@pytest.fixture
def partita(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line on 80 columns."""
    return Command(Commands(tmp_path, monkeypatch, capsys, columns=80))


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


def test_the_table_says_what_is_proven_and_draws_the_gpus(partita: Command) -> None:
    result = partita("plan", "-f", SAMPLE)
    assert result.returncode == 0, result.stderr
    assert "13 GPUs, proven optimal (bound 13)" in result.stdout
    assert "photo-search" in result.stdout
    assert "estimate" in result.stderr
    assert max(len(line) for line in result.stdout.splitlines()) <= 80


def test_json_on_stdout_and_in_the_file_is_one_plan(partita: Command, tmp_path: Path) -> None:
    path = workload(tmp_path)
    result = partita("plan", "-f", str(path), "-o", "json", "--out", str(tmp_path / "plan.json"))
    plan = json.loads(result.stdout)
    assert plan == json.loads((tmp_path / "plan.json").read_text())
    assert plan["objective"] == {"name": "gpus", "value": 3, "lower_bound": 3, "gap": 0.0, "proven": True}


def test_the_same_input_and_seed_give_the_same_bytes_but_for_the_seconds(
    partita: Command, tmp_path: Path
) -> None:
    path = workload(tmp_path)
    first, second = (json.loads(partita("plan", "-f", str(path), "-o", "json").stdout) for _ in range(2))
    assert {**first, "solver": None} == {**second, "solver": None}


def test_yaml_holds_the_same_plan_as_json(partita: Command, tmp_path: Path) -> None:
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


def test_a_right_plan_passes_the_check_and_a_changed_one_is_told_what_is_wrong(
    partita: Command, tmp_path: Path
) -> None:
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


def test_too_few_gpus_exit_with_4_and_name_the_services_and_the_limit(
    partita: Command, tmp_path: Path
) -> None:
    path = workload(tmp_path, gpus=[{"model": "a30-24gb", "count": 2}])
    result = partita("plan", "-f", str(path), "--out", str(tmp_path / "plan.json"))
    assert result.returncode == 4
    assert "2 a30-24gb" in result.stderr
    assert "first" in result.stderr
    assert "--best-effort" in result.stderr
    assert not (tmp_path / "plan.json").exists()


def test_best_effort_meets_the_higher_priority(partita: Command, tmp_path: Path) -> None:
    path = workload(tmp_path, gpus=[{"model": "a30-24gb", "count": 2}])
    result = partita("plan", "-f", str(path), "--best-effort", "-o", "json")
    assert result.returncode == 0, result.stderr
    capacity = {each["name"]: each["capacity"] for each in json.loads(result.stdout)["services"]}
    assert capacity["second"] >= 170
    assert capacity["first"] < 44


def test_best_effort_is_the_exact_planners(partita: Command, tmp_path: Path) -> None:
    result = partita("plan", "-f", str(workload(tmp_path)), "--best-effort", "--planner", "greedy")
    assert result.returncode == 2
    assert "--planner exact" in result.stderr


@pytest.mark.parametrize("planner", ["exact", "greedy", "mcts", "genetic", "whole", "ones", "mix"])
def test_every_planner_makes_a_plan_that_the_checker_accepts(
    partita: Command, tmp_path: Path, planner: str
) -> None:
    path, out = workload(tmp_path, gpus=[{"model": "a30-24gb"}]), tmp_path / "plan.json"
    made = partita("plan", "-f", str(path), "--planner", planner, "--time-limit", "2", "--out", str(out))
    assert made.returncode == 0, made.stderr
    checked = partita("plan", "-f", str(path), "--check", str(out))
    assert checked.returncode == 0, checked.stdout


def test_a_dry_run_writes_nothing(partita: Command, tmp_path: Path) -> None:
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


def test_the_report_stands_alone(partita: Command, tmp_path: Path) -> None:
    partita("plan", "-f", str(workload(tmp_path)), "--html", str(tmp_path / "p.html"))
    page = Page((tmp_path / "p.html").read_text())
    assert "first" in page.text
    assert page.report.workload == "workload.yaml"
    assert not [tag for tag, attributes in page.tags if "src" in attributes]


def test_the_environment_sets_an_option_and_a_flag_beats_it(partita: Command, tmp_path: Path) -> None:
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
    assert "cost_per_hour of a100-80gb, hopper is ignored" in " ".join(result.err.split())
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


# Pools of one GPU, and services that may use some of them.


POOLS = [
    {"name": "own", "model": "a30-24gb", "count": 1},
    {"name": "spot", "model": "a30-24gb", "count": 6, "per_node": 2},
]


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(tmp_path, monkeypatch, capsys)


def asked(folder: Path, **first: object) -> Path:
    path = workload(folder, gpus=POOLS)
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    document["services"][0].update(first)
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_plan_keeps_services_to_their_pools_and_says_which_they_are(commands: Commands) -> None:
    path, plan = asked(commands.folder, pools=["spot"], spread=2), commands.folder / "plan.json"
    page = commands.folder / "plan.html"
    shown = commands("plan", "-f", path, "--out", plan, "--html", page)
    assert shown.code == 0
    assert "a30-24gb of spot" in shown.out
    drawn = report_in(page).sections[-1].gpus
    assert drawn is not None
    assert "spot" in drawn.pools
    made = json.loads(plan.read_text())
    stands = {gpu["pool"] for gpu in made["gpus"] for each in gpu["instances"] if each["service"] == "first"}
    assert stands == {"spot"}
    assert made["objective"]["proven"]
    assert commands("plan", "-f", path, "--check", plan).code == 0

    for gpu in made["gpus"]:
        if any(each["service"] == "first" for each in gpu["instances"]):
            gpu["pool"] = "own"
    plan.write_text(json.dumps(made))
    result = commands("plan", "-f", path, "--check", plan)
    assert result.code == 1
    assert "is open to all its services (first)" in result.out


def test_explain_says_which_pools_a_service_may_use(commands: Commands) -> None:
    path = asked(commands.folder, pools=["spot"])
    assert "may use GPUs of spot alone" in commands("explain", "-f", path, "--service", "first").out
    found = json.loads(commands("explain", "-f", path, "-o", "json").out)
    assert [each["pools"] for each in found] == [["spot"], None]


def test_explain_says_at_most_where_the_plan_of_a_change_is_not_proven(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On no machine does a search surely run out of time; a planner that proves less stands for that.
    monkeypatch.setattr("partita.explanation.plan", partial(planner.plan, planner="whole"))
    path = workload(commands.folder, gpus=[{"model": "a30-24gb"}])
    assert "rate +10 %: at most 5 GPUs; fewer are not ruled out" in commands("explain", "-f", path).out
    found = json.loads(commands("explain", "-f", path, "-o", "json").out)
    assert found[0]["changes"][0] == {"change": "rate +10 %", "objective": 5.0, "proven": False}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("spoit", "did you mean spot?"),
        ("a30-24gb", "the pools of a30-24gb are named own, spot"),
        ("elsewhere", "`gpus` has own, spot"),
    ],
)
def test_an_unknown_pool_is_told_with_its_line(commands: Commands, name: str, hint: str) -> None:
    path = asked(commands.folder, pools=["own", name])
    result = commands("plan", "-f", path)
    line = path.read_text().splitlines().index(f"  - {name}") + 1
    assert result.code == 2
    assert f"workload.yaml:{line}" in result.err
    assert f"there is no pool '{name}'" in result.err
    assert hint in result.err


# Services with a cut of their own, from the workload to the running cluster.


SLICES = {"1g.5gb": 1.0, "2g.10gb": 1.9, "3g.20gb": 2.7, "7g.40gb": 5.5}
"""How much faster a slice is than the smallest."""

CUT_WORKLOAD = """apiVersion: partita/v1
kind: Workload
performance: [perf.csv]
gpus: [{{model: a100-40gb, count: {count}}}]
services:
  - name: search
    model: bert
    rate: {rate}
    slo: {{latency_ms: 60}}
    cut: {cut}
    batches: {batches}
  - {{name: photos, model: vgg, rate: 90, slo: {{latency_ms: 100}}}}
"""

SMALL, LARGE = "{histogram: {1: 0.7, 2: 0.3}}", "{histogram: {12: 0.5, 16: 0.5}}"


def write_cut_table(folder: Path) -> None:
    """Write `perf.csv` for `CUT_WORKLOAD` into a folder."""
    rows = ["model,gpu,profile,batch,processes,throughput,latency_ms,quantile"]
    for profile, speed in SLICES.items():
        for batch in (1, 4, 16):
            ms = 2 + 10 * batch / speed
            rows.append(f"bert,a100-40gb,{profile},{batch},1,{batch / ms * 1000},{ms},0.99")
        rows.append(f"vgg,a100-40gb,{profile},8,1,{60 * speed},20,0.99")
    (folder / "perf.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture
def cutting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    write_cut_table(tmp_path)
    monkeypatch.setattr(reservation, "_QUERIES", 5_000)  # the checker simulates as many as ever
    return Commands(tmp_path, monkeypatch, capsys)


def write(
    cutting: Commands, rate: float = 300, batches: str = SMALL, count: int = 8, cut: str = "fluid"
) -> Path:
    path = cutting.folder / "workload.yaml"
    path.write_text(CUT_WORKLOAD.format(rate=rate, batches=batches, count=count, cut=cut))
    return path


def planned(cutting: Commands, *words: object, **given: Any) -> tuple[dict[str, Any], str]:
    result = cutting(
        "plan",
        "-f",
        write(cutting, **given),
        "-o",
        "json",
        "--out",
        cutting.folder / "plan.json",
        *words,
    )
    assert result.code == 0, result.err
    return json.loads(result.out), " ".join(result.err.split())


def of(plan: dict[str, Any], name: str) -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
    service = next(each for each in plan["services"] if each["name"] == name)
    return service, [gpu["instances"] for gpu in plan["gpus"] if gpu["instances"][0]["service"] == name]


@pytest.mark.parametrize("cut", ["search", "fluid", "paris", "homogeneous"])
def test_a_service_with_a_cut_has_gpus_of_its_own_whose_shares_add_up(cutting: Commands, cut: str) -> None:
    plan, notes = planned(cutting, cut=cut, rate=900, batches="{median: 4, max: 16}")
    service, gpus = of(plan, "search")
    instances = [each for gpu in gpus for each in gpu]
    assert {each["service"] for each in instances} == {"search"}
    assert sum(each["throughput"] for each in instances) == pytest.approx(service["capacity"])
    assert service["capacity"] >= service["rate"] == 900
    assert all(each["latency_ms"] <= 60 for each in instances)
    assert plan["objective"]["value"] == len(plan["gpus"])
    assert f"search: {len(gpus)} a100-40gb alone, cut by {cut} into" in notes
    again = write(cutting, cut=cut, rate=900, batches="{median: 4, max: 16}")
    assert cutting("plan", "-f", again, "--check", cutting.folder / "plan.json").code == 0


def test_the_same_seed_makes_the_same_plan(cutting: Commands) -> None:
    once, again = planned(cutting)[0], planned(cutting)[0]
    for each in (once, again):
        each["solver"]["seconds"] = 0
    assert once == again


def test_headroom_and_replicas_are_kept(cutting: Commands) -> None:
    bare = planned(cutting, rate=300)[0]
    path = write(cutting, rate=300)
    path.write_text(
        path.read_text().replace("cut: fluid", "cut: fluid\n    headroom: 1.5\n    min_replicas: 9")
    )
    plan = json.loads(cutting("plan", "-f", path, "-o", "json").out)
    service, gpus = of(plan, "search")
    assert service["capacity"] >= 300 * 2.5
    assert sum(map(len, gpus)) >= 9
    assert len(plan["gpus"]) >= len(bare["gpus"])


def test_profiles_are_honoured(cutting: Commands) -> None:
    path = write(cutting)
    path.write_text(path.read_text().replace("cut: fluid", "cut: fluid\n    profiles: [2g]"))
    gpus = of(json.loads(cutting("plan", "-f", path, "-o", "json").out), "search")[1]
    assert {each["profile"] for gpu in gpus for each in gpu} == {"2g.10gb"}


def test_a_deadline_that_no_slice_keeps_is_told_with_its_line(cutting: Commands) -> None:
    path = write(cutting, batches="{histogram: {16: 1}}")
    path.write_text(path.read_text().replace("latency_ms: 60", "latency_ms: 20"))
    result = cutting("plan", "-f", path)
    assert result.code == 4
    assert (
        "workload.yaml:9: services[0].slo.latency_ms: search: no slice answers more than 0 of" in result.err
    )
    assert "queries of 16 items take 31.09 ms" in " ".join(result.err.split())


def test_too_few_gpus_are_told_and_shared_out_by_priority_when_asked(cutting: Commands) -> None:
    path = write(cutting, rate=5000, count=2)
    result = cutting("plan", "-f", path)
    assert result.code == 4
    assert "search needs whole ones of its own" in " ".join(result.err.split())
    plan = json.loads(cutting("plan", "-f", path, "--best-effort", "-o", "json").out)
    service, gpus = of(plan, "search")
    assert 0 < service["capacity"] < service["rate"] == 5000
    assert len(gpus) == 1
    assert of(plan, "photos")[0]["capacity"] >= 90


def test_a_sharing_service_of_higher_priority_goes_first(cutting: Commands) -> None:
    path = write(cutting, rate=300, count=1)
    path.write_text(path.read_text().replace("rate: 90", "rate: 90, priority: 5"))
    plan = json.loads(cutting("plan", "-f", path, "--best-effort", "-o", "json").out)
    assert [each["capacity"] > 0 for each in plan["services"]] == [False, True]
    path.write_text(path.read_text().replace("priority: 5", "priority: -5"))
    plan = json.loads(cutting("plan", "-f", path, "--best-effort", "-o", "json").out)
    assert [each["capacity"] > 0 for each in plan["services"]] == [True, False]


def test_a_capacity_that_the_cut_does_not_hold_is_found_by_the_checker(cutting: Commands) -> None:
    plan, _ = planned(cutting)
    text = json.dumps(plan)
    service, gpus = of(plan, "search")
    for each in {each["throughput"] for gpu in gpus for each in gpu}:
        text = text.replace(f'"throughput": {each}', f'"throughput": {each * 1.2}')
    text = text.replace(f'"capacity": {service["capacity"]}', f'"capacity": {service["capacity"] * 1.2}')
    (cutting.folder / "bold.json").write_text(text)
    result = cutting("plan", "-f", write(cutting), "--check", cutting.folder / "bold.json")
    assert result.code == 1
    assert "service search: " in result.out
    assert "at its capacity" in result.out or "no router holds more" in result.out


def test_a_stranger_on_its_gpus_is_found_by_the_checker(cutting: Commands) -> None:
    plan, _ = planned(cutting)
    mine = next(gpu for gpu in plan["gpus"] if gpu["instances"][0]["service"] == "search")
    mine["instances"][0].update(service="photos", model="vgg", batch=8, throughput=60, latency_ms=20)
    (cutting.folder / "mixed.json").write_text(json.dumps(plan))
    result = cutting("plan", "-f", write(cutting), "--check", cutting.folder / "mixed.json")
    assert "service search must have its GPUs for itself" in result.out


def test_explain_says_what_each_slice_is_to_it(cutting: Commands) -> None:
    path = write(cutting)
    data = json.loads(cutting("explain", "-f", path, "--service", "search", "-o", "json").out)[0]
    assert data["cut"] == "fluid"
    assert {each["profile"] for each in data["slices"]} == set(SLICES)
    assert [each["change"] for each in data["changes"]] == ["rate +10 %", "SLO +20 %"]
    shown = cutting("explain", "-f", path, "--service", "search").out
    assert "largest query" in shown


def test_the_plan_can_be_exported_compared_and_applied(cutting: Commands) -> None:
    planned(cutting)
    path = cutting.folder / "plan.json"
    assert "mig-configs" in cutting("export", "mig-parted", path).out
    assert cutting("apply", path, "--yes", "--simulate", "a100-40gb:8").code == 0
    assert cutting("diff", path).code == 0
    status = json.loads(cutting("status", "-o", "json").out)
    assert {each["name"]: each["capacity"] >= each["required"] for each in status["services"]} == {
        "search": True,
        "photos": True,
    }


def test_simulate_takes_the_batch_sizes_of_the_service(cutting: Commands) -> None:
    path = write(cutting, batches="{histogram: {1: 0.5, 16: 0.5}}")
    asked = (
        "simulate",
        "-f",
        path,
        "--service",
        "search",
        "--queries",
        2000,
        "--cut",
        "homogeneous",
        "-o",
        "json",
    )
    own = json.loads(cutting(*asked).out)
    assert own["queries"] / own["seconds"] == pytest.approx(300 / 8.5, rel=0.1)
    other = json.loads(cutting(*asked, "--median", 2, "--sigma", 0.1).out)
    assert other["queries"] / other["seconds"] == pytest.approx(300 / 2, rel=0.1)


def test_the_sample_is_planned_and_held_against_the_checker(cutting: Commands) -> None:
    sample = Path(str(resources.files("partita.examples"))) / "queries.yaml"
    made = cutting.folder / "sample.json"
    assert cutting("plan", "-f", sample, "--out", made).code == 0
    assert "meets" in cutting("plan", "-f", sample, "--check", made).out


def profiles(cutting: Commands) -> list[str]:
    gpus = json.loads(cutting("status", "-o", "json").out)["gpus"]
    return sorted(each["profile"] for gpu in gpus for each in gpu["instances"] if each["service"] == "search")


def test_when_batch_sizes_shift_run_cuts_anew_and_else_leaves_the_cut_alone(
    cutting: Commands,
) -> None:
    path = write(cutting)
    rates = cutting.folder / "rates.json"

    def look(demand: dict[str, Any]) -> list[str]:
        rates.write_text(json.dumps({"search": demand}))
        result = cutting("run", "-f", path, "--once", "--rates", rates)
        assert result.code == 0, result.err
        return profiles(cutting)

    morning = look({"rate": 300, "batches": {"1": 0.7, "2": 0.3}})
    assert look({"rate": 300, "batches": {"1": 0.69, "2": 0.31}}) == morning
    noon = look({"rate": 300, "batches": {"12": 0.5, "16": 0.5}})
    assert noon != morning
    assert "1g.5gb" not in noon  # too slow for sixteen items
    assert look({"rate": 300, "batches": {"1": 0.7, "2": 0.3}}) != noon


# --- from what runs


@pytest.fixture
def from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Commands:
    """Run commands beside a workload, one with a larger rate, and the plan of the first."""
    path = workload(tmp_path, gpus=[{"model": "a30-24gb", "count": 8}])
    text = path.read_text()
    (tmp_path / "more.yaml").write_text(text.replace("rate: 44", "rate: 60"))
    monkeypatch.chdir(tmp_path)
    run = Commands(tmp_path, monkeypatch, capsys)
    assert run("plan", "-f", "workload.yaml", "--out", "now.json").code == 0
    return run


def test_a_plan_from_a_plan_has_the_moves_that_diff_counts(from_here: Commands) -> None:
    done = from_here("plan", "-f", "more.yaml", "--from", "now.json", "--out", "next.json")
    assert done.code == 0, done.err
    plan = json.loads(Path("next.json").read_text())
    assert f"{plan['moves']['count']} move" in done.out
    assert "from what runs, proven fewest" in done.out
    assert plan["moves"]["count"] == plan["moves"]["least"] > 0
    shown = from_here("diff", "now.json", "next.json")
    assert shown.out.startswith(f"{plan['moves']['count']} move")
    fresh = from_here("plan", "-f", "more.yaml", "--out", "fresh.json")
    assert fresh.code == 0
    assert len(plan["gpus"]) == len(json.loads(Path("fresh.json").read_text())["gpus"])
    assert from_here("plan", "-f", "more.yaml", "--check", "next.json").code == 0


def test_what_runs_already_has_no_moves(from_here: Commands) -> None:
    assert "0 moves from what runs\n" in from_here("plan", "-f", "workload.yaml", "--from", "now.json").out


def test_too_few_moves_exit_with_4_and_say_the_fewest(from_here: Commands) -> None:
    done = from_here("plan", "-f", "more.yaml", "--from", "now.json", "--most-moves", "0")
    assert done.code == 4
    assert "no plan that meets the rates has at most 0 moves; the fewest are " in done.err


def test_a_workload_is_applied_and_compared_from_what_runs(from_here: Commands) -> None:
    assert from_here("apply", "workload.yaml", "--yes").code == 0
    same = from_here("diff", "workload.yaml")
    assert (same.code, same.out) == (0, "nothing to do: all runs as the plan wants it\n")
    shown = from_here("diff", "more.yaml")
    assert shown.code == 3
    planned = from_here("plan", "-f", "more.yaml", "--from", "simulated", "-o", "json")
    assert shown.out.startswith(f"{json.loads(planned.out)['moves']['count']} move")
    assert from_here("apply", "more.yaml", "--yes").code == 0
    assert from_here("diff", "more.yaml").code == 0


@pytest.mark.parametrize(
    ("options", "where"),
    [
        (["--most-moves", "3"], "--most-moves"),
        (["--from", "now.json", "--check", "now.json"], "--from"),
        (["--from", "absent.json"], "absent.json"),
        (["--from", "simulated"], "state"),
    ],
)
def test_what_has_no_meaning_is_refused(from_here: Commands, options: list[str], where: str) -> None:
    done = from_here("plan", "-f", "workload.yaml", *options)
    assert done.code == 2
    assert where in done.err
