"""Advice on a live cluster, and `kubectl partita`, with the rights of those who only look, or only approve."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.kubernetes.control_plane.cluster import wait_until
from tests.kubernetes.control_plane.controllers import Controllers
from tests.kubernetes.control_plane.installation import install_resources
from tests.kubernetes.control_plane.nodes import SimulatedNodes, Timing
from tests.kubernetes.control_plane.tools import grant, revoke
from tests.kubernetes_units.specs import TABLE, good

from partita.kubernetes.connecting import open_api
from partita.kubernetes.resources import APPROVED, PLANS
from partita.kubernetes.rights import ADVICE, APPROVAL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.kubernetes.control_plane.cluster import ControlPlane

    from partita.kubernetes.rights import Right

PLUGIN = "import sys; from partita.cli.main import kubectl_plugin; sys.argv[0] = 'kubectl-partita'; kubectl_plugin()"


class Person:
    """Somebody with some rights, and files of their own."""

    def __init__(self, plane: ControlPlane, namespace: str, folder: Path) -> None:
        self.plane, self.namespace, self.folder = plane, namespace, folder
        self.admin = plane.admin
        self.may(*ADVICE)

    def may(self, *rights: Right) -> None:
        self.kubeconfig = grant(self.plane, "person", self.namespace, rights)

    def _run(self, *words: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, *words, "--kubeconfig", str(self.kubeconfig), "--namespace", self.namespace],
            cwd=self.folder, capture_output=True, text=True, timeout=480, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def partita(self, *words: str) -> tuple[int, str, str]:
        return self._run("-m", "partita", *words)

    def plugin(self, *words: str) -> tuple[int, str, str]:
        return self._run("-c", PLUGIN, *words)

    def workload(self, **more: Any) -> None:
        body = {"apiVersion": "partita.dev/v1alpha1", "kind": "Workload", "metadata": {"name": "serving"}}
        self.admin.create("workloads", {**body, "spec": good() | more}, self.namespace)

    def state(self) -> str:
        """Return the state of the Workload."""
        found: dict[str, Any] = self.admin.find("workloads", "serving", self.namespace) or {}
        return str(found.get("status", {}).get("state", ""))

    def file(self, count: int | None = None, rate: float = 300) -> str:
        (self.folder / "perf.csv").write_text(TABLE)
        found = {key: each for key, each in good().items() if key != "pod"} | {"performance": ["perf.csv"]}
        found |= {"apiVersion": "partita/v1", "kind": "Workload"}
        found["services"][0]["rate"] = rate
        if count is not None:
            found["gpus"][0]["count"] = count
        (self.folder / "workload.yaml").write_text(yaml.safe_dump(found))
        return "workload.yaml"

    def plan_object(self, name: str, state: str = "Waiting") -> str:
        spec = {
            "workload": {"name": "serving", "uid": "u", "generation": 1}, "document": "d", "why": "w",
            "rates": {"resnet50": 300}, "objective": "gpus", "value": 1, "bound": 1, "gap": "0%", "proven": True,
            "solver": "exact", "seed": 0, "seconds": 0.1, "used": 1,
            "services": [{"name": "resnet50", "rate": 300, "capacity": 330, "latencySloMs": 100}],
            "gpus": [{"model": "a100-40gb", "gpus": ["gpu-0"], "instances": [
                {"at": "3g.20gb@0", "service": "resnet50", "model": "resnet50", "batch": 8, "processes": 1,
                 "throughput": 330, "latencyMs": 15}]}],
        }  # fmt: skip
        api = open_api(str(self.plane.kubeconfig("admin")), namespace=self.namespace)
        made = api.create(PLANS, {"metadata": {"name": name}, "spec": spec})
        api.patch(PLANS, name, {"status": {"state": state}}, subresource="status")
        api.close()
        return made.metadata.uid


@pytest.fixture
def person(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Person]:
    install_resources(control_plane)
    yield Person(control_plane, namespace, tmp_path)
    revoke(control_plane, "person", namespace)


def test_a_file_is_planned_on_the_gpus_that_are_free(person: Person, nodes: SimulatedNodes) -> None:
    _, other = nodes.add_nodes(2, 1)
    code, out, err = person.partita("plan", "-f", person.file(), "--cluster", "-o", "json")
    assert code == 0, err
    assert json.loads(out)["objective"]["value"] == 1
    assert "GPUs of the cluster that are free: 2 of a100-40gb" in err
    person.admin.patch("nodes", other, {"spec": {"unschedulable": True}})
    code, _, err = person.partita("plan", "-f", person.file(), "--cluster")
    assert code == 0
    assert f"note: {other}: 1 GPU left out: its node is cordoned" in err


def test_a_file_is_planned_from_what_a_workload_runs(
    person: Person, control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    with SimulatedNodes(control_plane, Timing(scale=0.1)) as nodes:
        nodes.add_nodes(1, 4)
        controllers = Controllers(control_plane, nodes, namespace, tmp_path)
        controllers.controller()
        try:
            spec = good()
            spec["services"][0]["rate"] = 1500
            spec["pod"]["spec"]["terminationGracePeriodSeconds"] = 1
            person.workload(**spec)
            wait_until(lambda: person.state() == "Serving", 120, "it serves")
            words = ("plan", "-f", person.file(rate=1500), "--cluster", "--from")
            code, out, err = person.partita(*words, "serving")
            assert code == 0, err
            assert "0 moves from what runs" in out
            more = ("plan", "-f", person.file(rate=1800), "--cluster", "--from", "serving")
            code, out, err = person.partita(*more, "-o", "json")
            assert code == 0, err
            moves = json.loads(out)["moves"]
            assert moves["count"] == moves["least"] == 1
            code, _, err = person.partita(*more, "--most-moves", "0")
            assert (code, "has at most 0 moves; the fewest are 1" in err) == (4, True), err
            code, out, err = person.partita("diff", "workload.yaml", "--cluster", "--workload", "serving")
            assert (code, "1 move, " in out) == (3, True), (out, err)
            code, _, err = person.partita(*words, "plan.json")
            assert (code, "plan.json: there is no such Workload" in err) == (2, True), err
            person.admin.delete("workloads", "serving", namespace)
            wait_until(lambda: not person.admin.objects("workloads", namespace), 120, "it is drained")
        finally:
            controllers.stop()


@pytest.mark.parametrize(
    "given", [{"services": {"share": True}}, {"services": {"survive": "node"}}, {"gpus": {"zone": "a"}}]
)
def test_what_cannot_be_kept_on_kubernetes_is_refused_with_its_line(
    person: Person, given: dict[str, dict[str, Any]]
) -> None:
    text = yaml.safe_load((person.folder / person.file()).read_text())
    for name, fields in given.items():
        text[name][0] |= fields
    (person.folder / "workload.yaml").write_text(yaml.safe_dump(text))
    code, _, err = person.partita("plan", "-f", "workload.yaml", "--cluster")
    assert code == 2
    assert "workload.yaml:" in err
    assert "hint: " in err
    assert ("each pod has one for itself" in err) != ("no loss is sure to be survived" in err)


def test_labels_do_where_there_is_no_driver(person: Person) -> None:
    labels = {
        "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB", "nvidia.com/gpu.count": "4", "pool": "by-labels",
        "nvidia.com/gpu.memory": "40960", "nvidia.com/mig.capable": "true",
    }  # fmt: skip
    kept_ready = {"kwok.x-k8s.io/node": "fake"}
    person.admin.create(
        "nodes", {"metadata": {"name": "labelled", "labels": labels, "annotations": kept_ready}}
    )

    def ready() -> bool:
        conditions = person.admin.get("nodes", "labelled")["status"].get("conditions") or ()
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    try:
        wait_until(ready, 60, "the node is ready")
        code, _, err = person.partita("plan", "-f", person.file(), "--cluster")
        assert code == 0, err
        assert "4 GPUs of a100-40gb are known by their nodes' labels alone" in err
        assert "free: 4 of a100-40gb" in err
    finally:
        person.admin.delete("nodes", "labelled")


def test_too_few_gpus_are_told_with_exit_code_4(person: Person) -> None:
    code, _, err = person.partita("plan", "-f", person.file(), "--cluster")
    assert code == 4
    assert "free: none" in err


def test_options_of_a_cluster_need_one(person: Person) -> None:
    code, _, err = person.partita("plan", "-f", person.file())
    assert code == 2
    assert "--kubeconfig: it has no meaning without --cluster" in err
    person.partita("plan", "-f", person.file(), "--cluster", "--out", "p.json")
    code, _, err = person.partita("diff", "a.json", "b.json", "--cluster")
    assert code == 2
    assert "leave out CURRENT, or --cluster" in err


def test_a_right_that_is_missing_is_named(person: Person) -> None:
    person.may(*(each for each in ADVICE if each.resource != "resourceslices"))
    code, _, err = person.partita("plan", "-f", person.file(), "--cluster")
    assert code == 1
    assert "no right to list resourceslices" in err
    assert "resources: [resourceslices], verbs: [list]" in err


def test_the_plugin_shows_what_a_workload_would_have(person: Person, nodes: SimulatedNodes) -> None:
    nodes.add_nodes(1, 2)
    person.workload()
    code, out, err = person.plugin("plan", "serving", "--out", "plan.json")
    assert code == 0, err
    assert "1 GPU, proven optimal" in out
    code, out, err = person.plugin("plan", "serving", "--set", "resnet50.rate=1400")
    assert code == 0, err
    assert "2 GPUs, proven optimal" in out
    code, out, err = person.plugin("diff", "serving")
    assert (code, "it has no Plan yet" in err) == (2, True)
    code, out, err = person.plugin("diff", "serving", "--plan", "plan.json")
    assert code == 3, err
    assert "create" in out
    person.plan_object("serving-1")
    code, out, err = person.plugin("diff", "serving")
    assert code == 3, err
    assert "1 create, 1 start" in out
    code, out, err = person.plugin("explain", "serving")
    assert code == 0, err
    assert "resnet50  300 items/s" in out
    code, out, err = person.partita("diff", "plan.json", "--cluster", "--workload", "serving")
    assert code == 3, err
    code, out, err = person.plugin("plan", "-f", person.file())
    assert code == 0, err
    code, out, err = person.plugin("plan")
    assert (code, "nothing says what to plan" in err) == (2, True)
    code, out, err = person.plugin("plan", "nobody")
    assert (code, "there is no such Workload" in err) == (2, True)


def test_the_plugin_shows_what_there_is(person: Person) -> None:
    code, out, err = person.plugin("status")
    assert (code, out) == (0, f"there is no Workload in namespace {person.namespace}\n"), err
    person.workload()
    code, out, err = person.plugin("status", "serving")
    assert code == 0, err
    assert "serving" in out
    code, out, err = person.plugin("status", "-o", "json")
    assert json.loads(out)[0]["name"] == "serving"
    code, out, err = person.plugin("status", "nobody")
    assert (code, "there is no such Workload" in err) == (2, True)


def test_a_plan_is_let_go_by_who_may(person: Person) -> None:
    person.workload()
    uid = person.plan_object("serving-1")
    code, _, err = person.plugin("approve", "serving-1")
    assert code == 1
    assert "no right to get plans" in err
    person.may(*APPROVAL)
    code, out, err = person.plugin("approve", "serving-1")
    assert (code, out) == (0, "serving-1 is approved: 1 GPU for serving\n"), err
    body = person.admin.get("plans", "serving-1", person.namespace)
    assert body["metadata"]["annotations"] == {APPROVED: uid}
    assert person.plugin("approve", "serving-1")[1] == "serving-1 is approved already\n"
    person.plan_object("serving-2")
    code, _, err = person.plugin("approve", "serving-1")
    assert code == 2
    assert "serving-2 has taken its place" in err
    code, _, err = person.plugin("approve", "serving")
    assert code == 2
    assert "these wait: serving-1, serving-2" in err
