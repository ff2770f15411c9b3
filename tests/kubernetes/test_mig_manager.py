"""Nodes without a DRA driver are cut through mig-manager's label, if nothing is on them."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.kubernetes.control_plane.client import BROKEN, ApiError
from tests.kubernetes.control_plane.cluster import wait_until
from tests.kubernetes.control_plane.slices import Gpu, node_object

from partita.kubernetes.connecting import open_api
from partita.kubernetes.mig_manager import CutFailedError, MigManager, NotEmptyError
from partita.mig.layout import Placement
from partita.transition.deployment import DeployedGpu, DeployedInstance, Layouts
from partita.transition.document import write_layouts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kubernetes.control_plane.cluster import ControlPlane
    from tests.kubernetes.control_plane.nodes import SimulatedNodes

Object = dict[str, Any]
MAP = "partita-mig-parted-config"


class SimulatedMigManager:
    """What mig-manager and gpu-feature-discovery do on one node.

    Attributes:
        volume: False while a change of the ConfigMap is not in its volume.
        fails: whether it can cut nothing.
        silent: whether it does not run.
        counts: what stands, by profile; gpu-feature-discovery tells it.
    """

    def __init__(self, plane: ControlPlane, namespace: str, node: str) -> None:
        self.admin, self.namespace, self.node = plane.admin, namespace, node
        self.volume, self.fails, self.silent, self.wrong = True, False, False, False
        self.applied: list[str] = []
        self.cordoned: list[bool] = []
        self._done: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            try:
                self._look()
            except (ApiError, *BROKEN):
                continue

    def _look(self) -> None:
        node = self.admin.find("nodes", self.node)
        if node is None or self.silent:
            return
        config = node["metadata"]["labels"].get("nvidia.com/mig.config")
        if config == self._done:
            return
        self._done = config
        if config is None:
            return
        self._tell({"nvidia.com/mig.config.state": "pending"})
        self.applied.append(config)
        self.cordoned.append(bool(node["spec"].get("unschedulable")))
        found = self.admin.find("configmaps", MAP, self.namespace)
        configs = yaml.safe_load(found["data"]["config.yaml"])["mig-configs"] if found and self.volume else {}
        if self.fails or config not in configs:
            self.volume = True
            self._tell({"nvidia.com/mig.config.state": "failed"})
            return
        counts: Counter[str] = Counter()
        for entry in configs[config]:
            for profile, count in entry["mig-devices"].items():
                counts[profile] += count * len(entry["devices"])
        if self.wrong:
            counts = Counter({"1g.5gb": 1})
        told = {
            f"nvidia.com/mig-{name.replace('+', '.')}.count": str(count) for name, count in counts.items()
        }
        self._tell({**told, "nvidia.com/mig.strategy": "mixed", "nvidia.com/mig.config.state": "success"})

    def _tell(self, labels: dict[str, str]) -> None:
        self.admin.patch("nodes", self.node, {"metadata": {"labels": labels}})


class OperatorNode:
    """A node of two A100-40GBs that the GPU operator labels, without a DRA driver."""

    name = "operator-0"

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.plane, self.admin, self.namespace = plane, plane.admin, namespace
        gpus = tuple(Gpu.of(self.name, minor, "a100-40gb") for minor in range(2))
        self.admin.create("nodes", node_object(self.name, gpus, 0))
        wait_until(self._ready, 60, "the node is ready")
        self.manager = SimulatedMigManager(plane, namespace, self.name)

    def _ready(self) -> bool:
        node = self.admin.get("nodes", self.name)
        ready = any(
            each["type"] == "Ready" and each["status"] == "True"
            for each in node["status"].get("conditions", ())
        )
        return ready and not node["spec"].get("taints")

    def client(self, **more: Any) -> MigManager:
        api = open_api(str(self.plane.kubeconfig("admin")), namespace=self.namespace)
        settings = {"timeout_s": 240.0, "settle_s": 0.2, **more}
        return MigManager(api, namespace=self.namespace, **settings)

    def labels(self) -> dict[str, str]:
        return dict(self.admin.get("nodes", self.name)["metadata"]["labels"])

    def close(self) -> None:
        self.manager.close()
        self.admin.delete("nodes", self.name)


@pytest.fixture
def node(control_plane: ControlPlane, namespace: str) -> Iterator[OperatorNode]:
    found = OperatorNode(control_plane, namespace)
    yield found
    found.close()


def layouts(**by_gpu: str) -> Layouts:
    """Return layouts: `layouts(gpu0="3g.20gb@0 3g.20gb@4")`."""
    return Layouts(
        tuple(
            DeployedGpu(
                f"{OperatorNode.name}/gpu-{name.removeprefix('gpu')}",
                "a100-40gb",
                tuple(DeployedInstance(Placement.parse(each), None) for each in text.split()),
            )
            for name, text in by_gpu.items()
        )
    )


NIGHT = layouts(gpu0="3g.20gb@0 3g.20gb@4", gpu1="1g.5gb@0 1g.5gb@1 2g.10gb@2")


def test_an_empty_node_is_cut_by_counts_while_it_is_cordoned(node):
    (cut,) = node.client().cut(NIGHT)
    assert cut.node == node.name
    assert node.labels()["nvidia.com/mig.config"] == cut.config
    assert node.labels()["nvidia.com/mig-3g.20gb.count"] == "2"
    assert node.labels()["nvidia.com/mig-2g.10gb.count"] == "1"
    config = yaml.safe_load(node.admin.get("configmaps", MAP, node.namespace)["data"]["config.yaml"])
    assert config["mig-configs"][cut.config] == [
        {"devices": [0], "mig-enabled": True, "mig-devices": {"3g.20gb": 2}},
        {"devices": [1], "mig-enabled": True, "mig-devices": {"1g.5gb": 2, "2g.10gb": 1}},
    ]
    assert node.manager.cordoned == [True]
    left = node.admin.get("nodes", node.name)
    assert not left["spec"].get("unschedulable")
    assert "partita.dev/cordoned" not in left["metadata"].get("annotations", {})


def test_a_node_that_is_cut_as_planned_is_left_alone(node):
    node.client().cut(NIGHT)
    told: list[str] = []
    node.client().cut(NIGHT, told.append)
    assert told == [f"{node.name}: the node is cut as planned already"]
    assert len(node.manager.applied) == 1
    node.client().cut(layouts(gpu0="7g.40gb@0"))
    assert len(set(node.manager.applied)) == 2


def test_configs_of_others_stay_in_the_map(node):
    body = {
        "version": "v1",
        "mig-configs": {"mine": [{"devices": "all", "mig-enabled": False, "mig-devices": {}}]},
    }
    head = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": MAP}}
    node.admin.create("configmaps", {**head, "data": {"config.yaml": yaml.safe_dump(body)}}, node.namespace)
    (cut,) = node.client().cut(NIGHT)
    config = yaml.safe_load(node.admin.get("configmaps", MAP, node.namespace)["data"]["config.yaml"])
    assert {"mine", cut.config} <= set(config["mig-configs"])


def test_a_config_that_is_not_in_its_volume_yet_is_asked_for_again(node):
    node.manager.volume = False
    (cut,) = node.client().cut(NIGHT)
    assert [each[-2:] for each in node.manager.applied] == ["-a", "-b"]
    assert node.manager.applied[-1] == cut.config


def test_a_node_with_a_pod_on_its_gpus_is_refused_and_not_touched(node):
    limits = {"nvidia.com/mig-1g.5gb": "1"}
    node.admin.patch(
        "nodes", node.name, {"status": {"capacity": limits, "allocatable": limits}}, sub="status"
    )
    container = {"name": "c", "image": "c", "resources": {"limits": limits}}
    spec = {"nodeName": node.name, "containers": [container]}
    head = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "training"}}
    node.admin.create("pods", {**head, "spec": spec}, node.namespace)
    with pytest.raises(NotEmptyError, match=r"1 pods hold its GPUs: .*/training") as caught:
        node.client().cut(NIGHT)
    assert "drain" in str(caught.value.hint)
    assert "nvidia.com/mig.config" not in node.labels()


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ({"nvidia.com/mig.capable": "false"}, "mig.capable is not true"),
        (
            {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.memory": "81559"},
            "the GPU is h100-80gb",
        ),
        ({"nvidia.com/gpu.count": "1"}, "not there"),
    ],
)
def test_a_node_that_does_not_have_what_the_plan_says_is_refused(node, labels, why):
    node.admin.patch("nodes", node.name, {"metadata": {"labels": labels}})
    with pytest.raises(NotEmptyError, match=why):
        node.client().cut(NIGHT)
    assert node.manager.applied == []


def test_a_node_of_the_dra_driver_is_refused(
    nodes: SimulatedNodes, control_plane: ControlPlane, namespace: str
):
    (name,) = nodes.add_nodes(1, 1)
    api = open_api(str(control_plane.kubeconfig("admin")), namespace=namespace)
    instance = DeployedInstance(Placement.parse("7g.40gb@0"), None)
    wanted = Layouts((DeployedGpu(f"{name}/gpu-0", "a100-40gb", (instance,)),))
    with pytest.raises(NotEmptyError, match="NVIDIA's DRA driver manages its GPUs"):
        MigManager(api, namespace=namespace).cut(wanted)
    elsewhere = Layouts((DeployedGpu("nowhere/gpu-0", "a100-40gb", (instance,)),))
    with pytest.raises(NotEmptyError, match="no such node"):
        MigManager(api, namespace=namespace).cut(elsewhere)


def test_a_mig_manager_that_fails_is_told_and_the_node_is_free_again(node):
    node.manager.fails = True
    with pytest.raises(CutFailedError, match="failed 3 times") as caught:
        node.client().cut(NIGHT)
    assert "migManager.config.name" in str(caught.value.hint)
    assert not node.admin.get("nodes", node.name)["spec"].get("unschedulable")


def test_a_mig_manager_that_does_not_run_is_told(node):
    node.manager.silent = True
    with pytest.raises(CutFailedError, match="its state is unknown") as caught:
        node.client(timeout_s=2.0).cut(NIGHT)
    assert "check that it runs there" in str(caught.value.hint)


def test_what_stands_in_the_end_is_held_against_the_plan(node):
    node.manager.wrong = True
    with pytest.raises(
        CutFailedError, match=r"shows 1 x 1g\.5gb instead of 2 x 1g\.5gb, 1 x 2g\.10gb, 2 x 3g\.20gb"
    ):
        node.client(timeout_s=10.0).cut(NIGHT)


def test_the_command_cuts_the_nodes_of_a_plan(node, tmp_path):
    text = io.StringIO()
    write_layouts(NIGHT, text)
    plan = tmp_path / "night.json"
    plan.write_text(text.getvalue())
    words = ["mig-manager", str(plan), "--kubeconfig", str(node.plane.kubeconfig("admin"))]
    more = ["--operator-namespace", node.namespace, "--timeout", "240"]
    command = [sys.executable, "-m", "partita", *words, *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=480, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{node.name}: cut by partita-{node.name}-")
    assert "mig-manager is to apply" in done.stderr
    again = subprocess.run(command, capture_output=True, text=True, timeout=480, check=False)
    assert "is cut as planned already" in again.stderr
