"""Plans and deployments survive being written as resources, and the definitions say what the reader says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.kubernetes_units.specs import BAD, good

from partita.errors import InputError
from partita.kubernetes.crds import definitions
from partita.kubernetes.resources import (
    Owner,
    PlanObject,
    PlanSpec,
    ServiceRow,
    deployment_from,
    plan_groups,
    plan_of,
    read_spec,
    target_groups,
)
from partita.mig.layout import Placement
from partita.perf.operating_point import OperatingPoint
from partita.planning.plan import Instance, Objective, Plan, PlannedGpu, ServiceCapacity, Solver
from partita.transition.deployment import DeployedGpu, DeployedInstance, Deployment, Replica

CRDS = Path(__file__).parents[2] / "deploy" / "crds"


def test_the_definitions_in_deploy_are_those_of_the_types() -> None:
    found = {path.name: path.read_text() for path in CRDS.glob("*.yaml")}
    assert found == definitions(), "run `make docs`"


def test_a_good_workload_is_read() -> None:
    spec = read_spec(good(), "Workload default/w")
    assert spec.approve == "Automatic"
    assert spec.services[0].name == "resnet50"
    assert spec.deletion == "Drain"
    assert read_spec({**good(), "extraGpus": 2, "nodes": {"a": "b"}}, "w").extra_gpus == 2


@pytest.mark.parametrize(("change", "said", "by_the_api"), BAD)
def test_a_wrong_workload_is_refused_with_the_field_and_a_hint(
    change: Any, said: str, by_the_api: str | None
) -> None:
    del by_the_api
    with pytest.raises(InputError) as found:
        read_spec(change(good()), "Workload default/w")
    text = f"{found.value}; {found.value.hint}"
    assert re.search(said, text), text


def test_a_plan_survives_and_gpus_cut_alike_stand_together() -> None:
    point = OperatingPoint("3g.40gb", 8, 2, 812.123456789, 19.5, "", estimated=True)
    one = (
        Instance(Placement(0, "3g.40gb"), "a", "m", point),
        Instance(Placement(4, "3g.40gb"), "b", "m", point),
    )
    gpus = tuple(
        PlannedGpu(f"node-{n // 8}/gpu-{n % 8}", "a100-80gb", one if n % 3 else ()) for n in range(8_000)
    )
    plan = Plan(
        Objective("gpus", 8000.0, 7999.5),
        Solver("exact", 3, 1.5),
        (ServiceCapacity("a", 800.0, 812.0, 100.0),),
        tuple(sorted(gpus, key=lambda each: each.id)),
    )
    spec = PlanSpec(
        Owner("w", "u", 1), "f", "why", {"a": 1.0}, "gpus", 8000.0, 7999.5, "0.0%", False, "exact", 3, 1.5, 8000,
        (ServiceRow("a", 800.0, 812.0, 100.0),), plan_groups(plan.gpus),
    )  # fmt: skip
    text = msgspec.json.encode(spec)
    assert len(spec.gpus) == 2
    assert len(text) < 200_000
    assert plan_of(msgspec.json.decode(text, type=PlanSpec)) == plan
    body = json.dumps({"metadata": {"name": "p"}, "spec": json.loads(text)}).encode()
    assert msgspec.json.decode(body, type=PlanObject).spec == spec


def test_a_deployment_survives_with_empty_gpus_and_instances() -> None:
    runs = Replica("a", "m", 8, 1, 700.0, 20.0)
    cut = (DeployedInstance(Placement(0, "3g.40gb"), runs), DeployedInstance(Placement(4, "3g.40gb"), None))
    gpus = [DeployedGpu(f"n/gpu-{n}", "a100-80gb", cut if n < 4 else ()) for n in range(6)]
    deployment = Deployment(tuple(gpus))
    groups = target_groups(deployment)
    assert len(groups) == 2
    assert deployment_from(groups) == deployment
