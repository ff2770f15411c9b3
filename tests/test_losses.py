"""Losses from the workload to the plan's file: what is refused, said, written, checked and explained."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.cli.commands import Commands
from tests.web.reading import report_in

from partita.errors import InputError
from partita.planner import check, plan, read_prepared
from partita.planning.document import read_plan
from partita.planning.domains import domain
from partita.planning.overview import percent, survival

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from partita.workload import ServiceSpec

TABLE = """model,gpu,profile,batch,processes,throughput,latency_ms,quantile
net,a30-24gb,1g.6gb,8,1,10,20,mean
net,a30-24gb,2g.12gb,8,1,21,18,mean
net,a30-24gb,4g.24gb,8,1,44,9,mean
"""
WORKLOAD = """apiVersion: partita/v1
kind: Workload
performance: [perf.csv]
gpus:
- {model: a30-24gb, name: a, count: 8, per_node: 2, nodes_per_rack: 2, zone: east}
- {model: a30-24gb, name: b, count: 8, per_node: 2, nodes_per_rack: 2, zone: west, spot: true}
limits: {survive: node}
services:
- {name: one, model: net, rate: 80, slo: {latency_ms: 100}}
- {name: two, model: net, rate: 60, slo: {latency_ms: 100}, survive: {loss: zone, share: 0.5}, spot: 0.5}
- {name: three, model: net, rate: 5, slo: {latency_ms: 100}, survive: none}
"""


def written(folder: Path, old: str = "", new: str = "") -> Path:
    assert old in WORKLOAD
    (folder / "perf.csv").write_text(TABLE)
    path = folder / "workload.yaml"
    path.write_text(WORKLOAD.replace(old, new) if old else WORKLOAD)
    return path


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (", zone: east", "", "the zone of the GPUs of a is not known, and two may use them"),
        ("count: 8, per_node: 2, nodes_per_rack: 2, zone: west", "nodes_per_rack: 2, zone: west",
         "racks of a pool without a count are not known"),
        ("rate: 5,", "rate: 5, cut: search, batches: {median: 2},", "and another service has a cut"),
        ("survive: none", "survive: {loss: rack}, cut: search, batches: {median: 2}",
         "service three has a cut, and a service with a cut survives no loss"),
        ("survive: none", "spot: 1, survive: none, cut: search, batches: {median: 2}",
         "spot is not for services with a cut"),
        ("survive: {loss: zone, share: 0.5}", "survive: {loss: zone, share: 2}", "share: must be at most 1"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(InputError) as told:
        read_prepared(written(tmp_path, old, new))
    assert said in str(told.value)


def test_other_planners_know_no_losses(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this planner looks at no losses"):
        plan(read_prepared(written(tmp_path)), planner="greedy")


def test_the_plan_says_what_surviving_takes_and_the_worst_losses(tmp_path: Path) -> None:
    asked = read_prepared(written(tmp_path))
    found = plan(asked)
    assert check(found.plan, asked) == []
    without = found.plan.without_survival
    assert without is not None
    assert without.proven
    more = int(found.plan.objective.value - without.value)
    assert more > 0
    assert f"surviving losses takes {more} GPU" in found.notes[-1]
    assert found.notes[-1].endswith("(both proven optimal)")
    losses = {each.name: each.loss for each in found.plan.services}
    assert losses["three"] is None
    assert losses["one"] is not None
    assert losses["one"].level == "node"
    assert losses["one"].left >= losses["one"].least == 80
    assert losses["two"] is not None
    assert (losses["two"].level, losses["two"].least) == ("zone", 30)
    assert {(gpu.pool, gpu.zone) for gpu in found.plan.gpus} == {("a", "east"), ("b", "west")}
    for gpu in found.plan.gpus:
        assert gpu.rack == f"rack-{int(gpu.id.split('/')[0].removeprefix('node-')) // 2}"


def test_one_kind_of_loss_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "survive: {loss: zone, share: 0.5}, spot: 0.5", "spot: 1")
    path.write_text(path.read_text().replace("limits: {survive: node}", "limits: {survive: gpu}"))
    found = plan(read_prepared(path)).plan
    assert found.without_survival is not None
    assert "surviving any one GPU takes" in str(survival(found))
    twice = replace(found.objective, value=2 * found.without_survival.value)
    assert "GPUs more (100 %)" in str(survival(replace(found, objective=twice)))


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0 %"),
        (1e-9, "0 %"),
        (0.00021, "0.021 %"),
        (0.0312, "3.1 %"),
        (0.99, "99 %"),
        (0.996, "100 %"),
        (12, "1,200 %"),
    ],
)
def test_shares_need_no_exponent(share: float, text: str) -> None:
    assert percent(share) == text


def test_the_plan_is_written_reported_and_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    partita = Commands(tmp_path, monkeypatch, capsys)
    path, out, html = written(tmp_path), tmp_path / "plan.json", tmp_path / "plan.html"
    partita("plan", "-f", path, "--out", out, "--html", html)
    data = json.loads(out.read_text())
    assert data["without_survival"]["value"] < data["objective"]["value"]
    assert data["services"][0]["loss"]["level"] == "node"
    made = read_plan(out)
    assert made.services[0].loss is not None
    assert "worst loss" in html.read_text()
    drawn = report_in(html).sections[-1].gpus
    assert drawn is not None
    assert "east" in {node.zone for node in drawn.fleet.nodes}

    told = partita("explain", "-f", path, "--plan", out, "--service", "one").out
    assert f"without {made.services[0].loss.domain}, the worst node to lose" in " ".join(told.split())
    assert "survive: none: -" in told


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_checker_takes_each_domain_away(tmp_path: Path, share: float) -> None:
    asked = read_prepared(written(tmp_path))
    good = plan(asked, compare=False).plan
    loss = plan(asked).plan.services[0].loss
    assert loss is not None
    on_one = replace(good, gpus=tuple(replace(gpu, id=f"node-0/gpu-{i}") for i, gpu in enumerate(good.gpus)))
    said = [str(each) for each in check(on_one, asked)]
    assert "service one: without node-0, 0 items/s are left, below 80" in said
    spot = replace(good, gpus=tuple(replace(gpu, pool="b") for gpu in good.gpus))
    said = [str(each) for each in check(spot, asked)]
    assert "service one: runs on spot GPUs, and has no `spot`" in said
    assert any("service two: without zone west, 0 items/s are left, below 30" in each for each in said)
    assert any("service two: 0 items/s are not on spot GPUs, below 30" in each for each in said)
    less = asked.workload.replace(
        services=tuple(
            each.replace(rate=each.rate * (1 + share)) if each.name == "one" else each
            for each in asked.workload.services
        )
    )
    said = [str(each) for each in check(good, replace(asked, workload=less))]
    assert any(each.startswith(f"service one: without {loss.domain[:5]}") for each in said)


def test_best_effort_says_which_services_a_loss_leaves_short(tmp_path: Path) -> None:
    found = plan(read_prepared(written(tmp_path, "rate: 80", "rate: 300")), best_effort=True)
    assert any(note.startswith("these fall short after a loss: ") for note in found.notes)


def test_what_a_loss_leaves_holds_its_rate_with_queries_waiting(tmp_path: Path) -> None:
    """Fewer instances pool less: capacities of the whole set say too much of what is left of it."""
    path = written(tmp_path, "limits: {survive: node}", "limits: {survive: node, max_batch: 8}")
    path.write_text(path.read_text().replace("latency_ms: 100}", "latency_ms: 100, quantile: 0.95}"))
    asked = read_prepared(path)
    model = asked.formulation.capacities
    assert model is not None
    found = plan(asked).plan
    assert check(found, asked) == []
    for spec in asked.workload.services[:2]:
        loss = next(each.loss for each in found.services if each.name == spec.name)
        assert loss is not None
        left = Counter(
            (gpu.model, each.point.profile, each.point.batch, each.point.processes)
            for gpu in found.gpus
            if domain(gpu, loss.level) != loss.domain
            for each in gpu.instances
            if each.service == spec.name
        )
        assert model.held(spec, left, loss.least) == loss.least


class Pooling:
    """Capacities by which a set from which a node was lost holds a third of its rate less, the first time."""

    def __init__(self, least: float) -> None:
        self.asked: list[float] = []
        self._least = least

    def held(self, service: ServiceSpec, instances: Mapping[Any, int], rate: float) -> float:
        """Return what is held, and note the rate that was asked for."""
        assert instances
        if service.name != "one":
            return rate
        self.asked.append(rate)
        return rate * 2 / 3 if rate == self._least and self.asked.count(rate) == 1 else rate


def test_all_is_planned_again_where_what_is_left_does_not_hold(tmp_path: Path) -> None:
    path = written(
        tmp_path, "limits: {survive: node}", "limits: {survive: {loss: node, share: 0.75}, max_batch: 8}"
    )
    path.write_text(path.read_text().replace("latency_ms: 100}", "latency_ms: 100, quantile: 0.95}"))
    asked = read_prepared(path)
    model = Pooling(60.0)
    pooling: Any = model
    found = plan(replace(asked, formulation=replace(asked.formulation, capacities=pooling)), compare=False)
    assert model.asked == [80.0, 60.0, 80.0, 60.0]
    assert any(note.startswith("unlike instances hold less together") for note in found.notes)
