"""The node side that other tests rely on is as strict as the world: it refuses, fails, drains and destroys."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.kubernetes.control_plane.cluster import wait_until
from tests.kubernetes.control_plane.nodes import ENDS, FAILS, Timing
from tests.kubernetes.control_plane.objects import claim_object, pod_object
from tests.kubernetes.control_plane.slices import Gpu

from partita.mig.layout import maximal_layouts

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

    def condition(self, name: str, kind: str) -> str:
        conditions = self.api.get("pods", name, self.namespace)["status"].get("conditions") or []
        return next((str(each["status"]) for each in conditions if each["type"] == kind), "none")

    def containers(self, name: str) -> list[Object]:
        return list(self.api.get("pods", name, self.namespace)["status"].get("containerStatuses") or ())

    def container(self, name: str) -> Object:
        return dict(self.containers(name)[0])

    def delete(self, name: str, grace: int | None = None) -> None:
        self.api.delete("pods", name, self.namespace, grace)

    def until_ready(self, *names: str) -> None:
        for name in names:
            wait_until(lambda: self.ready(name), 40, f"{name} is ready")  # noqa: B023

    def until_gone(self, name: str) -> None:
        wait_until(lambda: self.phase(name) == "gone", 40, f"{name} is gone")

    def until_refused(self, name: str, words: str) -> None:
        wait_until(lambda: words in self.refused(name), 40, f"{name} is refused: {words}")

    def instances(self) -> set[str]:
        return self.nodes.instances()[self.node]

    def refused(self, name: str) -> str:
        """Return why a pod's claims are not prepared, as its events say."""
        return "\n".join(
            each["message"]
            for each in self.api.objects("events", self.namespace)
            if each["involvedObject"]["name"] == name and each["reason"] == "FailedPrepareDynamicResources"
        )


def test_devices_have_nvidias_names_and_counters_allow_every_layout():
    assert "gpu-1-mig-1g10gb-19-6" in Gpu.of("node-0", 1, "a100-80gb").devices
    assert "gpu-0-mig-1g5gb-me-20-0" in Gpu.of("node-0", 0, "a100-40gb").devices
    assert "gpu-0" in Gpu.of("node-0", 0, "h100-80gb").devices
    for model in ("a100-40gb", "a100-80gb", "h100-80gb"):
        gpu = Gpu.of("node-0", 0, model)
        have = {key: int(value["value"]) for key, value in gpu.counters()["counters"].items()}
        takes = {
            each["name"]: {
                key: int(value["value"]) for key, value in each["consumesCounters"][0]["counters"].items()
            }
            for each in gpu.device_objects()
        }
        for layout in maximal_layouts(gpu.model):
            names = [gpu.device(gpu.model.profile(p.profile), p.start).name for p in layout]
            sums = {key: sum(takes[name].get(key, 0) for name in names) for key in have}
            assert all(sums[key] <= have[key] for key in have), (model, str(layout))


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
    assert kinds == ["prepare", "ready", "drain", "exit", "unprepare"]


def test_the_scheduler_allocates_devices_that_do_not_overlap(world):
    wanted = "device.attributes['gpu.nvidia.com'].profile == '3g.20gb'"
    for index in range(5):
        world.api.create("resourceclaims", claim_object(f"c{index}", wanted), world.namespace)
        world.pod(f"p{index}", f"c{index}")
    wait_until(lambda: sum(world.ready(f"p{index}") for index in range(5)) == 4, 60, "four of five are ready")
    assert len(world.instances()) == 4
    assert [each.kind for each in world.nodes.records].count("refuse") == 0


def test_overlapping_devices_are_not_prepared_until_the_first_is_gone(world):
    """The API takes any allocation that a client writes; the node is the first that says no."""
    world.claim("small", "gpu-0-mig-1g5gb-19-1")
    world.pod("small", "small")
    world.until_ready("small")
    for name, device in (("same", "gpu-0-mig-1g5gb-19-1"), ("over", "gpu-0-mig-2g10gb-14-0")):
        world.claim(name, device)
        world.pod(name, name)
    world.until_refused("same", "is already prepared for claim")
    world.until_refused("over", "Insufficient Resources")
    assert world.phase("over") == "Pending"
    wait_until(lambda: world.containers("over"), 30, "its status says so, too")
    assert world.container("over")["state"] == {"waiting": {"reason": "ContainerCreating"}}
    world.delete("same")
    world.until_gone("same")
    world.delete("small")
    world.until_ready("over")
    assert world.instances() == {"gpu-0-mig-2g10gb-14-0"}


def test_a_device_that_the_node_does_not_have_is_refused(world):
    world.claim("start", "gpu-0-mig-2g10gb-14-1")
    world.claim("gpu", "gpu-2-mig-2g10gb-14-0")
    world.pod("start", "start")
    world.pod("gpu", "gpu")
    world.until_refused("start", 'allocatable not found for device "gpu-0-mig-2g10gb-14-1"')
    world.until_refused("gpu", "allocatable not found")
    assert world.instances() == set()


def test_a_pod_that_its_claim_is_not_reserved_for_is_refused(world):
    world.claim("free")
    body = pod_object("forced", "free")
    body["spec"]["nodeName"] = world.node
    world.api.create("pods", body, world.namespace)
    world.until_refused("forced", "is not allowed to use ResourceClaim free")
    missing = pod_object("missing", "none")
    missing["spec"]["nodeName"] = world.node
    world.api.create("pods", missing, world.namespace)
    world.until_refused("missing", '"none" not found')
    world.delete("missing")
    world.until_gone("missing")


def test_prepare_fails_when_it_is_told_to(world):
    world.claim("once", "gpu-0-mig-1g5gb-19-0")
    world.claim("always", "gpu-0-mig-1g5gb-19-1")
    world.claim("labelled", "gpu-0-mig-1g5gb-19-2")
    world.nodes.fail("prepare", times=2, service="bert")
    world.pod("once", "once", annotations={FAILS: "prepare-once"})
    world.pod("always", "always", annotations={FAILS: "prepare"})
    world.pod("labelled", "labelled", labels={"partita.dev/service": "bert"})
    world.until_ready("once", "labelled")

    def refused(name: str) -> int:
        return [each.pod for each in world.nodes.records if each.kind == "refuse"].count(
            f"{world.namespace}/{name}"
        )

    assert (refused("once"), refused("labelled")) == (1, 2)
    wait_until(lambda: refused("always") >= 2, 30, "the third is refused again")
    assert world.instances() == {"gpu-0-mig-1g5gb-19-0", "gpu-0-mig-1g5gb-19-2"}


def test_a_pod_that_never_gets_ready_still_holds_its_device(world):
    world.claim("a", "gpu-0-mig-1g5gb-19-0")
    world.pod("a", "a", annotations={FAILS: "ready"})
    wait_until(lambda: world.phase("a") == "Running", 30, "it runs")
    assert world.condition("a", "Ready") == "False"
    assert world.instances() == {"gpu-0-mig-1g5gb-19-0"}
    world.delete("a")
    world.until_gone("a")
    assert world.instances() == set()


def test_a_readiness_gate_is_respected(world):
    world.claim("a", "gpu-0-mig-1g5gb-19-0")
    body = pod_object("a", "a")
    body["spec"]["readinessGates"] = [{"conditionType": "example.org/open"}]
    world.api.create("pods", body, world.namespace)
    wait_until(lambda: world.condition("a", "ContainersReady") == "True", 30, "its container is ready")
    assert world.condition("a", "Ready") == "False"
    opened = {"status": {"conditions": [{"type": "example.org/open", "status": "True"}]}}
    world.api.patch(
        "pods", "a", opened, world.namespace, "status", kind="application/strategic-merge-patch+json"
    )
    world.until_ready("a")


def test_a_pod_drains_within_its_grace_and_goes_after_its_device(world):
    world.nodes.timing = Timing(scale=0.1, drain=20.0, unprepare=20.0)
    for name, start, fails in (("drains", 0, ""), ("hangs", 1, "term")):
        world.claim(name, f"gpu-0-mig-1g5gb-19-{start}")
        world.pod(name, name, grace=3, annotations={FAILS: fails})
    world.until_ready("drains", "hangs")
    begin = time.monotonic()
    world.delete("drains")
    world.delete("hangs")
    world.until_gone("drains")
    world.until_gone("hangs")
    ends = {each.pod.split("/")[1]: each for each in world.nodes.records if each.kind == "exit"}
    assert (ends["drains"].why, ends["hangs"].why) == ("0 Completed", "137 Error")
    assert 2.0 <= ends["drains"].begin - begin < ends["hangs"].begin - begin
    assert ends["hangs"].begin - begin >= 3.0
    freed = [each for each in world.nodes.records if each.kind == "unprepare"]
    assert all(each.begin >= ends[each.pod.split("/")[1]].end for each in freed)  # it was held until then
    assert freed[1].begin >= freed[0].end  # one at a time on a node
    assert freed[0].end - freed[0].begin >= 1.99
    assert world.instances() == set()


def test_a_pod_deleted_by_force_holds_its_device_for_a_while(world):
    world.nodes.timing = Timing(scale=0.1, unprepare=30.0)
    world.claim("a", "gpu-0-mig-1g5gb-19-0")
    world.pod("a", "a")
    world.until_ready("a")
    begin = time.monotonic()
    world.delete("a", grace=0)
    world.until_gone("a")
    world.claim("b", "gpu-0-mig-7g40gb-0-0")
    world.pod("b", "b")
    world.until_ready("b")
    assert world.instances() == {"gpu-0-mig-7g40gb-0-0"}
    (freed,) = (each for each in world.nodes.records if each.kind == "unprepare")
    (second,) = (each for each in world.nodes.records if each.kind == "prepare" and each.pod.endswith("/b"))
    assert second.begin >= freed.end
    assert freed.end - begin >= 2.99


def test_a_driver_that_starts_again_destroys_what_no_claim_holds(world):
    world.claim("a", "gpu-0-mig-1g5gb-19-0")
    world.pod("a", "a")
    world.until_ready("a")
    world.nodes.create_outside(world.node, "gpu-0-mig-3g20gb-9-4")
    world.claim("b", "gpu-0-mig-1g5gb-19-4")
    world.pod("b", "b")
    world.until_refused("b", "Insufficient Resources")
    assert world.nodes.restart_driver(world.node) == ["gpu-0-mig-3g20gb-9-4"]
    world.until_ready("b")
    assert world.instances() == {"gpu-0-mig-1g5gb-19-0", "gpu-0-mig-1g5gb-19-4"}
    assert world.container("a")["restartCount"] == 0


def test_a_driver_that_lost_its_checkpoint_destroys_what_runs(world):
    world.claim("a", "gpu-0-mig-1g5gb-19-0")
    world.pod("a", "a")
    world.until_ready("a")
    assert world.nodes.restart_driver(world.node, lose_checkpoint=True) == ["gpu-0-mig-1g5gb-19-0"]
    assert world.instances() == set()
    wait_until(lambda: world.container("a")["restartCount"] == 1, 30, "its container crashed")


def test_a_container_that_runs_out_of_memory_says_so(world):
    end = {
        "after": 0.2,
        "code": 137,
        "reason": "OOMKilled",
        "log": "loading\nRuntimeError: CUDA out of memory\n",
    }
    world.claim("a", "gpu-0-mig-1g5gb-19-0")
    world.pod("a", "a", restart="Never", annotations={ENDS: json.dumps(end)})
    wait_until(lambda: world.phase("a") == "Failed", 30, "it failed")
    state = world.container("a")["state"]["terminated"]
    assert (state["exitCode"], state["reason"]) == (137, "OOMKilled")
    wait_until(lambda: world.instances() == set(), 30, "its instance is gone")
    code, log = world.api.raw("GET", f"/api/v1/namespaces/{world.namespace}/pods/a/log?tailLines=1")
    assert (code, log) == (200, b"RuntimeError: CUDA out of memory\n")


def test_a_container_that_crashes_is_started_again_on_its_device(world):
    world.claim("a", "gpu-0-mig-1g5gb-19-0")
    world.pod("a", "a")
    world.until_ready("a")
    world.nodes.end_container(world.namespace, "a", 1, log="boom")
    wait_until(lambda: world.container("a")["restartCount"] == 1, 30, "it crashed")
    world.until_ready("a")
    assert world.container("a")["lastState"].get("terminated", {}).get("exitCode", 1) == 1
    kinds = [each.kind for each in world.nodes.records]
    assert kinds == ["prepare", "ready", "exit", "ready"]


def test_a_gpu_that_is_lost_leaves_the_slices_and_its_pods_crash(world):
    world.claim("a", "gpu-1-mig-1g5gb-19-0")
    world.pod("a", "a")
    world.until_ready("a")
    world.nodes.lose_gpu(world.node, 1)
    wait_until(lambda: world.container("a")["restartCount"] == 1, 30, "its container crashed")
    slices = world.api.objects("resourceslices", fieldSelector=f"spec.nodeName={world.node}")
    names = {each["name"] for part in slices for each in part["spec"].get("devices") or ()}
    assert names
    assert all(name.startswith("gpu-0-") for name in names)


def test_a_node_that_vanishes_keeps_its_devices_and_comes_back(world):
    world.claim("a", "gpu-0-mig-1g5gb-19-0")
    world.pod("a", "a")
    world.until_ready("a")
    world.nodes.vanish(world.node)
    wait_until(lambda: world.condition("a", "Ready") == "False", 60, "the cluster takes the node for lost")
    world.delete("a")
    time.sleep(1.0)
    assert world.phase("a") == "Running"  # nobody there to confirm
    world.nodes.come_back(world.node)
    world.until_gone("a")
    assert world.instances() == set()


def test_a_node_that_is_removed_takes_its_slices_and_pods(world):
    world.claim("a", "gpu-0-mig-1g5gb-19-0")
    world.pod("a", "a")
    world.until_ready("a")
    world.nodes.remove_node(world.node)
    selector = f"spec.nodeName={world.node}"
    wait_until(
        lambda: not world.api.objects("resourceslices", fieldSelector=selector), 60, "its slices are gone"
    )
    wait_until(lambda: world.phase("a") == "gone", 90, "its pod is gone")


def test_what_is_under_way_survives_a_dead_apiserver(world):
    world.nodes.timing = Timing(scale=0.1, prepare=20.0)
    world.claim("a", "gpu-0-mig-1g5gb-19-0")
    world.pod("a", "a")
    wait_until(world.nodes.preparing, 30, "its device is being prepared")
    world.plane.kill_apiserver(4.0)
    world.until_ready("a")
    world.plane.compact()
    world.plane.restart_apiserver()
    world.delete("a")
    world.until_gone("a")
    assert world.instances() == set()
    assert [each.kind for each in world.nodes.records] == ["prepare", "ready", "drain", "exit", "unprepare"]
