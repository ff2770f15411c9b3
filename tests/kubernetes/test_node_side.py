"""The node side that other tests rely on is as strict as the world: it refuses, fails, drains and destroys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.kubernetes.control_plane.cluster import wait_until
from tests.kubernetes.control_plane.objects import claim_object, pod_object

if TYPE_CHECKING:
    from tests.kubernetes.control_plane.cluster import ControlPlane
    from tests.kubernetes.control_plane.nodes import SimulatedNodes

Object = dict[str, Any]


@pytest.fixture
def world(control_plane: ControlPlane, nodes: SimulatedNodes, namespace: str) -> World:
    (node,) = nodes.add_nodes(1, 2)
    return World(control_plane, nodes, namespace, node)


class World:
    """One node of two A100s."""

    def __init__(self, plane: ControlPlane, nodes: SimulatedNodes, namespace: str, node: str) -> None:
        self.plane, self.nodes, self.namespace, self.node = plane, nodes, namespace, node
        self.api = plane.admin

    def claim(self, name: str, device: str | None = None, *, pool: str | None = None) -> None:
        """Make a claim; with a device, allocate it by hand."""
        made = self.api.create("resourceclaims", claim_object(name), self.namespace)
        if device is not None:
            results = [
                {"request": "gpu", "driver": "gpu.nvidia.com", "pool": pool or self.node, "device": device}
            ]
            made["status"] = {
                "allocation": {
                    "devices": {"results": results},
                    "allocationTimestamp": made["metadata"]["creationTimestamp"],
                }
            }
            self.api.replace("resourceclaims", made, "status")

    def pod(self, name: str, claim: str, **more: Any) -> Object:
        return self.api.create("pods", pod_object(name, claim, **more), self.namespace)

    def phase(self, name: str) -> str:
        pod = self.api.find("pods", name, self.namespace)
        return "gone" if pod is None else str(pod["status"]["phase"])

    def ready(self, name: str) -> bool:
        pod = self.api.find("pods", name, self.namespace)
        conditions = (pod or {"status": {}})["status"].get("conditions") or []
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def refused(self, name: str) -> str:
        """Return why a pod's claims are not prepared, as its events say."""
        return "\n".join(
            each["message"]
            for each in self.api.objects("events", self.namespace)
            if each["involvedObject"]["name"] == name and each["reason"] == "FailedPrepareDynamicResources"
        )


def test_a_pod_runs_on_the_device_that_its_claim_is_allocated(world):
    world.claim("a", "gpu-1-mig-2g10gb-14-2")
    world.pod("a", "a")
    wait_until(lambda: world.ready("a"), 30, "the pod is ready")
    assert world.nodes.instances() == {world.node: {"gpu-1-mig-2g10gb-14-2"}}
    assert world.nodes.prepared() == {world.node: {f"{world.namespace}/a": ("gpu-1-mig-2g10gb-14-2",)}}
    world.api.delete("pods", "a", world.namespace)
    wait_until(lambda: world.phase("a") == "gone", 30, "the pod is gone")
    assert world.nodes.instances() == {world.node: set()}
    kinds = [each.kind for each in world.nodes.records]
    assert kinds == ["prepare", "ready", "exit", "unprepare"]
