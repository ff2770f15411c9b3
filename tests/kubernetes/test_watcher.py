"""The watcher sees each thing that must not be, when others do it by hand, and nothing where all is well."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.kubernetes.control_plane.cluster import wait_until
from tests.kubernetes.control_plane.objects import claim_object, pod_object
from tests.kubernetes.control_plane.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kubernetes.control_plane.cluster import ControlPlane
    from tests.kubernetes.control_plane.nodes import SimulatedNodes

MANAGED = {"app.kubernetes.io/managed-by": "partita"}


class Scene:
    """One node, one service, and somebody who does as they please."""

    def __init__(self, plane: ControlPlane, nodes: SimulatedNodes, namespace: str, watcher: Watcher) -> None:
        self.plane, self.nodes, self.namespace, self.watcher = plane, nodes, namespace, watcher
        self.api = plane.admin
        (self.node,) = nodes.add_nodes(1, 2)

    def claim(self, name: str, device: str, placement: str | None = None, *, ours: bool = True) -> None:
        body = claim_object(name, labels=MANAGED if ours else {})
        if placement is not None:
            body["metadata"]["annotations"] = {"partita.dev/placement": f"{self.node}/{placement}"}
        made = self.api.create("resourceclaims", body, self.namespace)
        results = [{"request": "gpu", "driver": "gpu.nvidia.com", "pool": self.node, "device": device}]
        allocation = {
            "devices": {"results": results},
            "allocationTimestamp": made["metadata"]["creationTimestamp"],
        }
        self.api.replace("resourceclaims", made | {"status": {"allocation": allocation}}, "status")

    def replica(self, name: str, throughput: float) -> None:
        runs = {"partita.dev/replica": json.dumps({"throughput": throughput})}
        body = pod_object(name, name, labels=MANAGED | {"partita.dev/service": "bert"}, annotations=runs)
        self.api.create("pods", body, self.namespace)

    def served(self) -> float:
        found = self.watcher.services().get("bert")
        return found.now if found else 0.0

    def kinds(self) -> list[str]:
        return [each.kind for each in self.watcher.violations()]


@pytest.fixture
def scene(control_plane: ControlPlane, nodes: SimulatedNodes, namespace: str) -> Iterator[Scene]:
    with Watcher(control_plane, namespace) as watcher:
        yield Scene(control_plane, nodes, namespace, watcher)


def test_a_service_that_is_kept_up_is_no_fault_and_one_that_is_not_is(scene):
    scene.claim("a", "gpu-0-mig-1g5gb-19-0", "gpu-0 1g.5gb@0")
    scene.claim("b", "gpu-1-mig-3g20gb-9-4", "gpu-1 3g.20gb@4")
    scene.replica("a", 100.0)
    scene.replica("b", 300.0)
    wait_until(lambda: scene.served() == 400.0, 40, "both serve")
    assert scene.watcher.deployed() == {
        f"{scene.node}/gpu-0": {"1g.5gb@0": "bert"},
        f"{scene.node}/gpu-1": {"3g.20gb@4": "bert"},
    }
    scene.watcher.require({"bert": 300.0})
    scene.api.delete("pods", "a", scene.namespace)
    wait_until(lambda: scene.served() == 300.0, 40, "one serves")
    assert scene.kinds() == []
    scene.plane.restart_apiserver()
    scene.api.delete("pods", "b", scene.namespace)
    wait_until(lambda: scene.served() == 0.0, 40, "none serves")
    (fault,) = scene.watcher.violations()
    assert (fault.kind, fault.words) == ("floor", "pods: bert serves 0 of 300 items/s")
    assert scene.watcher.services()["bert"].least == 0.0


def test_claims_that_overlap_or_hold_what_they_are_not_for_are_faults(scene):
    scene.claim("a", "gpu-0-mig-2g10gb-14-0", "gpu-0 2g.10gb@0")
    assert scene.kinds() == []
    scene.claim("b", "gpu-0-mig-1g5gb-19-1", "gpu-0 1g.5gb@1")
    assert scene.kinds() == ["overlap"]
    scene.claim("c", "gpu-1-mig-1g5gb-19-1", "gpu-1 1g.5gb@2")
    scene.claim("d", "gpu-1-mig-1g5gb-19-7", "gpu-1 1g.5gb@7")
    assert scene.kinds() == ["overlap", "placement", "placement"]
    assert "which there is not" in scene.watcher.report()
    scene.api.delete("resourceclaims", "b", scene.namespace)
    assert len(scene.kinds()) == 3


def test_a_claim_that_goes_under_its_pod_and_a_strangers_that_goes_are_faults(scene):
    scene.claim("a", "gpu-0-mig-1g5gb-19-0")
    scene.claim("theirs", "gpu-0-mig-1g5gb-19-3", ours=False)
    scene.claim("known", "gpu-0-mig-1g5gb-19-4", ours=False)
    scene.replica("a", 100.0)
    wait_until(lambda: scene.served() == 100.0, 40, "it serves")
    assert scene.kinds() == []
    scene.watcher.expect(f"{scene.namespace}/known")
    scene.api.delete("resourceclaims", "known", scene.namespace)
    scene.api.delete("resourceclaims", "theirs", scene.namespace)
    assert scene.kinds() == ["stranger"]
    scene.api.delete("resourceclaims", "a", scene.namespace)
    assert scene.kinds() == ["stranger", "orphan"]
