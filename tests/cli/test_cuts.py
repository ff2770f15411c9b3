"""Services with a cut of their own, from the workload to the running cluster."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from tests.cli.commands import Commands

SLICES = {"1g.5gb": 1.0, "2g.10gb": 1.9, "3g.20gb": 2.7, "7g.40gb": 5.5}
"""How much faster a slice is than the smallest."""

WORKLOAD = """apiVersion: partita/v1
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


@pytest.fixture
def partita(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    rows = ["model,gpu,profile,batch,processes,throughput,latency_ms,quantile"]
    for profile, speed in SLICES.items():
        for batch in (1, 4, 16):
            ms = 2 + 10 * batch / speed
            rows.append(f"bert,a100-40gb,{profile},{batch},1,{batch / ms * 1000},{ms},0.99")
        rows.append(f"vgg,a100-40gb,{profile},8,1,{60 * speed},20,0.99")
    (tmp_path / "perf.csv").write_text("\n".join(rows) + "\n")
    return Commands(tmp_path, monkeypatch, capsys)


def write(
    partita: Commands, rate: float = 300, batches: str = SMALL, count: int = 8, cut: str = "fluid"
) -> Path:
    path = partita.folder / "workload.yaml"
    path.write_text(WORKLOAD.format(rate=rate, batches=batches, count=count, cut=cut))
    return path


def planned(partita: Commands, *words: object, **given: Any) -> tuple[dict[str, Any], str]:
    result = partita(
        "plan", "-f", write(partita, **given), "-o", "json", "--out", partita.folder / "plan.json", *words
    )
    assert result.code == 0, result.err
    return json.loads(result.out), " ".join(result.err.split())


def of(plan: dict[str, Any], name: str) -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
    service = next(each for each in plan["services"] if each["name"] == name)
    return service, [gpu["instances"] for gpu in plan["gpus"] if gpu["instances"][0]["service"] == name]


@pytest.mark.parametrize("cut", ["search", "fluid", "paris", "homogeneous"])
def test_a_service_with_a_cut_has_gpus_of_its_own_whose_shares_add_up(partita: Commands, cut: str) -> None:
    plan, notes = planned(partita, cut=cut, rate=900, batches="{median: 4, max: 16}")
    service, gpus = of(plan, "search")
    instances = [each for gpu in gpus for each in gpu]
    assert {each["service"] for each in instances} == {"search"}
    assert sum(each["throughput"] for each in instances) == pytest.approx(service["capacity"])
    assert service["capacity"] >= service["rate"] == 900
    assert all(each["latency_ms"] <= 60 for each in instances)
    assert plan["objective"]["value"] == len(plan["gpus"])
    assert f"search: {len(gpus)} a100-40gb alone, cut by {cut} into" in notes
    assert partita("plan", "-f", write(partita, cut=cut, rate=900, batches="{median: 4, max: 16}"),
                   "--check", partita.folder / "plan.json").code == 0  # fmt: skip


def test_the_same_seed_makes_the_same_plan(partita: Commands) -> None:
    once, again = planned(partita)[0], planned(partita)[0]
    for each in (once, again):
        each["solver"]["seconds"] = 0
    assert once == again


def test_headroom_and_replicas_are_kept(partita: Commands) -> None:
    bare = planned(partita, rate=300)[0]
    path = write(partita, rate=300)
    path.write_text(
        path.read_text().replace("cut: fluid", "cut: fluid\n    headroom: 1.5\n    min_replicas: 9")
    )
    plan = json.loads(partita("plan", "-f", path, "-o", "json").out)
    service, gpus = of(plan, "search")
    assert service["capacity"] >= 300 * 2.5
    assert sum(map(len, gpus)) >= 9
    assert len(plan["gpus"]) >= len(bare["gpus"])


def test_profiles_are_honoured(partita: Commands) -> None:
    path = write(partita)
    path.write_text(path.read_text().replace("cut: fluid", "cut: fluid\n    profiles: [2g]"))
    gpus = of(json.loads(partita("plan", "-f", path, "-o", "json").out), "search")[1]
    assert {each["profile"] for gpu in gpus for each in gpu} == {"2g.10gb"}


def test_a_deadline_that_no_slice_keeps_is_told_with_its_line(partita: Commands) -> None:
    path = write(partita, batches="{histogram: {16: 1}}")
    path.write_text(path.read_text().replace("latency_ms: 60", "latency_ms: 20"))
    result = partita("plan", "-f", path)
    assert result.code == 4
    assert (
        "workload.yaml:9: services[0].slo.latency_ms: search: no slice answers more than 0 of" in result.err
    )
    assert "queries of 16 items take 31.09 ms" in " ".join(result.err.split())


def test_too_few_gpus_are_told_and_shared_out_by_priority_when_asked(partita: Commands) -> None:
    path = write(partita, rate=5000, count=2)
    result = partita("plan", "-f", path)
    assert result.code == 4
    assert "search needs whole ones of its own" in " ".join(result.err.split())
    plan = json.loads(partita("plan", "-f", path, "--best-effort", "-o", "json").out)
    service, gpus = of(plan, "search")
    assert 0 < service["capacity"] < service["rate"] == 5000
    assert len(gpus) == 1
    assert of(plan, "photos")[0]["capacity"] >= 90


def test_a_sharing_service_of_higher_priority_goes_first(partita: Commands) -> None:
    path = write(partita, rate=300, count=1)
    path.write_text(path.read_text().replace("rate: 90", "rate: 90, priority: 5"))
    plan = json.loads(partita("plan", "-f", path, "--best-effort", "-o", "json").out)
    assert [each["capacity"] > 0 for each in plan["services"]] == [False, True]
    path.write_text(path.read_text().replace("priority: 5", "priority: -5"))
    plan = json.loads(partita("plan", "-f", path, "--best-effort", "-o", "json").out)
    assert [each["capacity"] > 0 for each in plan["services"]] == [True, False]


def test_a_capacity_that_the_cut_does_not_hold_is_found_by_the_checker(partita: Commands) -> None:
    plan, _ = planned(partita)
    text = json.dumps(plan)
    service, gpus = of(plan, "search")
    for each in {each["throughput"] for gpu in gpus for each in gpu}:
        text = text.replace(f'"throughput": {each}', f'"throughput": {each * 1.2}')
    text = text.replace(f'"capacity": {service["capacity"]}', f'"capacity": {service["capacity"] * 1.2}')
    (partita.folder / "bold.json").write_text(text)
    result = partita("plan", "-f", write(partita), "--check", partita.folder / "bold.json")
    assert result.code == 1
    assert "service search: " in result.out
    assert "at its capacity" in result.out or "no router holds more" in result.out


def test_a_stranger_on_its_gpus_is_found_by_the_checker(partita: Commands) -> None:
    plan, _ = planned(partita)
    mine = next(gpu for gpu in plan["gpus"] if gpu["instances"][0]["service"] == "search")
    mine["instances"][0].update(service="photos", model="vgg", batch=8, throughput=60, latency_ms=20)
    (partita.folder / "mixed.json").write_text(json.dumps(plan))
    result = partita("plan", "-f", write(partita), "--check", partita.folder / "mixed.json")
    assert "service search must have its GPUs for itself" in result.out


def test_explain_says_what_each_slice_is_to_it(partita: Commands) -> None:
    path = write(partita)
    data = json.loads(partita("explain", "-f", path, "--service", "search", "-o", "json").out)[0]
    assert data["cut"] == "fluid"
    assert {each["profile"] for each in data["slices"]} == set(SLICES)
    assert [each["change"] for each in data["changes"]] == ["rate +10 %", "SLO +20 %"]
    shown = partita("explain", "-f", path, "--service", "search").out
    assert "largest query" in shown


def test_the_plan_can_be_exported_compared_and_applied(partita: Commands) -> None:
    planned(partita)
    path = partita.folder / "plan.json"
    assert "mig-configs" in partita("export", "mig-parted", path).out
    assert partita("apply", path, "--yes", "--simulate", "a100-40gb:8").code == 0
    assert partita("diff", path).code == 0
    status = json.loads(partita("status", "-o", "json").out)
    assert {each["name"]: each["capacity"] >= each["required"] for each in status["services"]} == {
        "search": True,
        "photos": True,
    }


def test_simulate_takes_the_batch_sizes_of_the_service(partita: Commands) -> None:
    path = write(partita, batches="{histogram: {1: 0.5, 16: 0.5}}")
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
    own = json.loads(partita(*asked).out)
    assert own["queries"] / own["seconds"] == pytest.approx(300 / 8.5, rel=0.1)
    other = json.loads(partita(*asked, "--median", 2, "--sigma", 0.1).out)
    assert other["queries"] / other["seconds"] == pytest.approx(300 / 2, rel=0.1)


def test_the_sample_is_planned_and_held_against_the_checker(partita: Commands) -> None:
    sample = Path(str(resources.files("partita.examples"))) / "queries.yaml"
    made = partita.folder / "sample.json"
    assert partita("plan", "-f", sample, "--out", made).code == 0
    assert "meets" in partita("plan", "-f", sample, "--check", made).out


def profiles(partita: Commands) -> list[str]:
    gpus = json.loads(partita("status", "-o", "json").out)["gpus"]
    return sorted(each["profile"] for gpu in gpus for each in gpu["instances"] if each["service"] == "search")


def test_when_batch_sizes_shift_run_cuts_anew_and_else_leaves_the_cut_alone(partita: Commands) -> None:
    path = write(partita)
    rates = partita.folder / "rates.json"

    def look(demand: dict[str, Any]) -> list[str]:
        rates.write_text(json.dumps({"search": demand}))
        result = partita("run", "-f", path, "--once", "--rates", rates)
        assert result.code == 0, result.err
        return profiles(partita)

    morning = look({"rate": 300, "batches": {"1": 0.7, "2": 0.3}})
    assert look({"rate": 300, "batches": {"1": 0.69, "2": 0.31}}) == morning
    noon = look({"rate": 300, "batches": {"12": 0.5, "16": 0.5}})
    assert noon != morning
    assert "1g.5gb" not in noon  # too slow for sixteen items
    assert look({"rate": 300, "batches": {"1": 0.7, "2": 0.3}}) != noon
