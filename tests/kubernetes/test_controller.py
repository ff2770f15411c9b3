"""The controller as a process of its own, on a real control plane with a strict node side."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from tests.kubernetes.control_plane.cluster import wait_until
from tests.kubernetes.control_plane.installation import install_resources
from tests.kubernetes_units.specs import good

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.kubernetes.control_plane.cluster import ControlPlane
    from tests.kubernetes.control_plane.nodes import SimulatedNodes

Object = dict[str, Any]
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def crds(control_plane: ControlPlane) -> ControlPlane:
    """A control plane that knows Partita's resources."""
    install_resources(control_plane)
    return control_plane


class Cluster:
    """A namespace with nodes, and controllers that are started and killed."""

    def __init__(self, plane: ControlPlane, nodes: SimulatedNodes, namespace: str, folder: Path) -> None:
        self.plane, self.nodes, self.namespace = plane, nodes, namespace
        self.admin = plane.admin
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    def controller(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a controller."""
        log = (self._folder / f"controller-{len(self._running)}.log").open("wb")
        command = [
            sys.executable, "-m", "partita", "controller", "--kubeconfig", str(self.plane.kubeconfig("admin")),
            "--namespace", self.namespace, "--lease", f"partita-{self.namespace}", "--poll", "0.5", "--port", "0",
            "--hold", "5", *words,
        ]  # fmt: skip
        process = subprocess.Popen(command, stdout=log, stderr=log)
        log.close()
        self._running.append(process)
        return process

    def stop(self) -> None:
        for process in self._running:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self._folder.glob("controller-*.log")))

    def create(self, spec: Object, name: str = "serving") -> None:
        self.admin.create(
            "workloads",
            {
                "apiVersion": "partita.dev/v1alpha1",
                "kind": "Workload",
                "metadata": {"name": name},
                "spec": spec,
            },
            self.namespace,
        )

    def workload(self, name: str = "serving") -> Object:
        found = self.admin.find("workloads", name, self.namespace)
        return found or {}

    def state(self, name: str = "serving") -> str:
        return str(self.workload(name).get("status", {}).get("state", ""))

    def condition(self, kind: str, name: str = "serving") -> Object:
        found = self.workload(name).get("status", {}).get("conditions", ())
        return next((each for each in found if each["type"] == kind), {})

    def ready(self, service: str = "resnet50") -> int:
        """Return how many pods of a service are ready."""
        return sum(
            each["metadata"]["labels"].get("partita.dev/service") == service
            and "deletionTimestamp" not in each["metadata"]
            and any(
                one["type"] == "Ready" and one["status"] == "True"
                for one in each["status"].get("conditions", ())
            )
            for each in self.admin.objects("pods", self.namespace)
        )

    def wait(self, condition: Any, what: str, seconds: float = PATIENCE_S) -> None:
        try:
            wait_until(condition, seconds, what)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.workload()}\n{self.logs()}") from None


@pytest.fixture
def cluster(crds: ControlPlane, nodes: SimulatedNodes, namespace: str, tmp_path: Path) -> Iterator[Cluster]:
    nodes.add_nodes(1, 4)
    found = Cluster(crds, nodes, namespace, tmp_path)
    yield found
    found.stop()


def spec(rate: float = 300, **more: Any) -> Object:
    found = good() | more
    found["services"][0]["rate"] = rate
    found["pod"]["spec"]["terminationGracePeriodSeconds"] = 1
    return found


def test_a_workload_becomes_a_plan_a_transition_and_pods(cluster: Cluster) -> None:
    cluster.controller()
    cluster.create(spec(1500))
    cluster.wait(lambda: cluster.state() == "Serving", "it serves")
    assert cluster.ready() >= 2
