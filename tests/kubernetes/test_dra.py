"""The driver of a Kubernetes cluster, on a real control plane with a strict node side."""

from __future__ import annotations

import itertools
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from tests.kubernetes.conftest import remove_all
from tests.kubernetes.control_plane.client import ApiError
from tests.kubernetes.control_plane.cluster import PATIENCE, wait_until
from tests.kubernetes.control_plane.nodes import STRATEGIC
from tests.kubernetes.control_plane.objects import claim_object, pod_object
from tests.kubernetes.control_plane.proxy import Proxy
from tests.kubernetes.control_plane.tools import grant, revoke

from partita.drive.driver import (
    FailedError,
    GpuLostError,
    InUseError,
    NoRoomError,
    RefusedError,
    TimedOutError,
)
from partita.errors import InputError
from partita.kubernetes.connecting import open_api
from partita.kubernetes.dra import DraDriver, DraSettings
from partita.kubernetes.evictions import EvictionGuard
from partita.kubernetes.pods import SERVICE
from partita.kubernetes.rights import CONTROLLER
from partita.mig.layout import Placement
from partita.transition.deployment import Replica
from partita.transition.transition import Action, ActionKind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.kubernetes.control_plane.cluster import ControlPlane
    from tests.kubernetes.control_plane.nodes import SimulatedNodes
    from tests.kubernetes.control_plane.proxy import Request

    from partita.drive.driver import DriveError, ObservedInstance, ObservedReplica

Object = dict[str, Any]
_IDS = itertools.count()
RESNET = Replica("resnet50", "resnet50", 8, 1, 900.0, 12.0)
BERT = Replica("bert", "bert", 4, 2, 120.0, 40.0)


class World:
    """A driver of a cluster of A100-40GBs."""

    def __init__(self, plane: ControlPlane, nodes: SimulatedNodes, namespace: str) -> None:
        self.plane, self.nodes, self.namespace = plane, nodes, namespace
        self.admin = plane.admin
        self.template: Object = {
            "metadata": {"labels": {"team": "vision"}},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "server", "image": "server:1"}],
            },
        }
        self.settings = DraSettings(start_timeout_s=PATIENCE * 60.0)
        self._drivers: list[DraDriver] = []

    def driver(self, workload: str = "day", kubeconfig: Path | None = None) -> DraDriver:
        api = open_api(str(kubeconfig or self.plane.kubeconfig("admin")), namespace=self.namespace)
        found = DraDriver(api, workload, self._template, settings=self.settings)
        self._drivers.append(found)
        return found

    def _template(self, service: str) -> Object:
        if service == "nobody":
            raise InputError("it has no pod template", where=f"services.{service}.pod", hint="write one")
        return self.template

    def dismiss(self, driver: DraDriver) -> None:
        self._drivers.remove(driver)
        driver.release()
        driver.close()

    def close(self) -> None:
        for each in tuple(self._drivers):
            self.dismiss(each)
        remove_all(self.admin, "resourceclaims", self.namespace)

    def claims(self) -> dict[str, Object]:
        return {
            each["metadata"]["name"]: each for each in self.admin.objects("resourceclaims", self.namespace)
        }

    def pods(self) -> dict[str, Object]:
        return {each["metadata"]["name"]: each for each in self.admin.objects("pods", self.namespace)}


@pytest.fixture
def world(control_plane: ControlPlane, nodes: SimulatedNodes, namespace: str) -> Iterator[World]:
    found = World(control_plane, nodes, namespace)
    yield found
    found.close()


def action(kind: ActionKind, gpu: str, placement: str, replica: Replica | None = None) -> Action:
    return Action(f"a{next(_IDS)}", kind, gpu, Placement.parse(placement), replica, (), 1.0)


def create(gpu: str, placement: str) -> Action:
    return action(ActionKind.CREATE_INSTANCE, gpu, placement)


def destroy(gpu: str, placement: str) -> Action:
    return action(ActionKind.DESTROY_INSTANCE, gpu, placement)


def start(gpu: str, placement: str, replica: Replica = RESNET) -> Action:
    return action(ActionKind.START_REPLICA, gpu, placement, replica)


def stop(gpu: str, placement: str, replica: Replica = RESNET) -> Action:
    return action(ActionKind.STOP_REPLICA, gpu, placement, replica)


def perform(driver: DraDriver, *actions: Action, seconds: float = 90.0) -> list[DriveError | None]:
    """Perform actions side by side; return how each ended."""
    for each in actions:
        driver.begin(each)
    ended: dict[str, DriveError | None] = {}
    until = driver.clock.now() + PATIENCE * seconds
    while len(ended) < len(actions):
        found = driver.wait(until)
        assert found, f"not in time: {[each for each in actions if each.id not in ended]}"
        ended |= {each.action.id: each.error for each in found}
    return [ended[each.id] for each in actions]


def done(driver: DraDriver, *actions: Action) -> None:
    assert perform(driver, *actions) == [None] * len(actions)


def instances(driver: DraDriver, gpu: str) -> dict[str, ObservedInstance]:
    found = driver.observe().gpu(gpu)
    assert found is not None
    return {str(each.placement): each for each in found.instances}


def replica_at(driver: DraDriver, gpu: str, placement: str) -> ObservedReplica:
    found = instances(driver, gpu)[placement].replica
    assert found is not None
    return found


def test_instances_stand_exactly_where_the_plan_says_and_replicas_run_on_them(world):
    (node,) = world.nodes.add_nodes(1, 2)
    driver = world.driver()
    gpu = f"{node}/gpu-1"
    assert [each.id for each in driver.observe().gpus] == [f"{node}/gpu-0", gpu]
    assert driver.observe().gpu(gpu).model == "a100-40gb"
    places = ["1g.5gb@6", "2g.10gb@2", "1g.5gb@0", "1g.10gb@4"]
    done(driver, *(create(gpu, each) for each in places))
    found = instances(driver, gpu)
    assert set(found) == set(places)
    assert all(
        each.ours and each.complete and each.replica is None and not each.busy for each in found.values()
    )
    assert all(each.identity.gi_id is None for each in found.values())
    done(driver, *(start(gpu, each) for each in places))
    assert world.nodes.instances()[node] == {
        "gpu-1-mig-1g5gb-19-6",
        "gpu-1-mig-2g10gb-14-2",
        "gpu-1-mig-1g5gb-19-0",
        "gpu-1-mig-1g10gb-15-4",
    }
    assert all(replica_at(driver, gpu, each).ready for each in places)
    assert all(replica_at(driver, gpu, each).replica == RESNET for each in places)
    pod = next(iter(world.pods().values()))
    assert pod["metadata"]["labels"]["team"] == "vision"
    told = {each["name"]: each["value"] for each in pod["spec"]["containers"][0]["env"]}
    assert told.pop("PARTITA_PLACEMENT") in places
    assert told == {
        "PARTITA_SERVICE": "resnet50",
        "PARTITA_MODEL": "resnet50",
        "PARTITA_GPU": gpu,
        "PARTITA_LATENCY_MS": "12",
        "PARTITA_BATCH": "8",
        "PARTITA_PROCESSES": "1",
    }
    done(driver, *(stop(gpu, each) for each in places))
    assert world.nodes.instances()[node] == set()
    assert all(
        each.replica is None and each.complete and not each.busy for each in instances(driver, gpu).values()
    )
    done(driver, *(destroy(gpu, each) for each in places))
    assert instances(driver, gpu) == {}
    assert world.claims() == {}


def test_an_instance_goes_from_one_service_to_another(world):
    (node,) = world.nodes.add_nodes(1, 1)
    driver = world.driver()
    gpu = f"{node}/gpu-0"
    done(driver, create(gpu, "3g.20gb@4"))
    uid = instances(driver, gpu)["3g.20gb@4"].identity.mig_uuid
    for replica in (RESNET, BERT, RESNET):
        done(driver, start(gpu, "3g.20gb@4", replica))
        assert replica_at(driver, gpu, "3g.20gb@4").replica == replica
        done(driver, stop(gpu, "3g.20gb@4", replica))
    assert instances(driver, gpu)["3g.20gb@4"].identity.mig_uuid == uid


def text(error: DriveError | None) -> str:
    assert error is not None
    return f"{error} | {error.hint}"


def stranger(world: World, name: str, node: str, device: str) -> None:
    """Have somebody else hold a device."""
    made = world.admin.create("resourceclaims", claim_object(name), world.namespace)
    results = [{"request": "gpu", "driver": "gpu.nvidia.com", "pool": node, "device": device}]
    allocation = {
        "devices": {"results": results},
        "allocationTimestamp": made["metadata"]["creationTimestamp"],
    }
    world.admin.replace("resourceclaims", made | {"status": {"allocation": allocation}}, "status")


# What is half done, or done already


def test_what_is_done_already_ends_at_once_and_writes_nothing(world):
    (node,) = world.nodes.add_nodes(1, 1)
    driver = world.driver()
    gpu = f"{node}/gpu-0"
    done(driver, create(gpu, "2g.10gb@0"))
    done(driver, start(gpu, "2g.10gb@0"))
    versions = [
        each["metadata"]["resourceVersion"] for each in (*world.claims().values(), *world.pods().values())
    ]
    done(driver, create(gpu, "2g.10gb@0"), start(gpu, "2g.10gb@0"))
    done(world.driver(), create(gpu, "2g.10gb@0"), start(gpu, "2g.10gb@0"))
    now = [each["metadata"]["resourceVersion"] for each in (*world.claims().values(), *world.pods().values())]
    assert versions == now
    done(driver, stop(gpu, "1g.5gb@3"), destroy(gpu, "1g.5gb@3"))


def test_a_claim_that_was_made_and_not_allocated_is_completed(world):
    (node,) = world.nodes.add_nodes(1, 1)
    driver = world.driver()
    gpu = f"{node}/gpu-0"
    done(driver, create(gpu, "2g.10gb@0"))
    (name,) = world.claims()
    body = world.claims()[name]
    done(driver, destroy(gpu, "2g.10gb@0"))
    keep = {key: body["metadata"][key] for key in ("name", "labels", "annotations", "finalizers")}
    world.admin.create(
        "resourceclaims", {**body, "metadata": keep, "status": None}, world.namespace
    )  # as a controller that was killed between its two writes leaves it
    wait_until(lambda: "2g.10gb@0" in instances(driver, gpu), 10, "the claim is seen")
    half = instances(driver, gpu)["2g.10gb@0"]
    assert half.ours
    assert not half.complete
    assert isinstance(perform(driver, start(gpu, "2g.10gb@0"))[0], NoRoomError)
    done(driver, create(gpu, "2g.10gb@0"))
    assert instances(driver, gpu)["2g.10gb@0"].complete
    done(driver, start(gpu, "2g.10gb@0"))


def test_another_controller_goes_on_where_a_pod_is_not_ready_yet(world):
    (node,) = world.nodes.add_nodes(1, 1)
    driver = world.driver()
    gpu = f"{node}/gpu-0"
    done(driver, create(gpu, "1g.5gb@0"))
    world.nodes.fail("ready")
    driver.begin(start(gpu, "1g.5gb@0"))
    wait_until(world.pods, 10, "the pod is there")
    (pod,) = world.pods().values()
    second = world.driver()
    assert instances(second, gpu)["1g.5gb@0"].replica is not None
    world.admin.delete("pods", pod["metadata"]["name"], world.namespace)
    (error,) = perform_begun(driver)
    assert isinstance(error, FailedError)
    assert "someone else" in text(error)
    world.nodes.mend()
    wait_until(
        lambda: instances(second, gpu)["1g.5gb@0"].replica is None, 30, "it is seen that the pod is gone"
    )
    done(second, start(gpu, "1g.5gb@0"))


def perform_begun(driver: DraDriver) -> list[DriveError | None]:
    found = driver.wait(driver.clock.now() + PATIENCE * 60)
    return [each.error for each in found]


# Strangers


def test_a_strangers_device_is_seen_and_left_alone(world):
    (node,) = world.nodes.add_nodes(1, 1)
    driver = world.driver()
    gpu = f"{node}/gpu-0"
    stranger(world, "theirs", node, "gpu-0-mig-3g20gb-9-4")
    wait_until(lambda: "3g.20gb@4" in instances(driver, gpu), 10, "it is seen")
    seen = instances(driver, gpu)["3g.20gb@4"]
    assert not seen.ours
    assert not seen.busy
    errors = perform(
        driver,
        create(gpu, "3g.20gb@4"),
        create(gpu, "7g.40gb@0"),
        create(gpu, "1g.5gb@5"),
        destroy(gpu, "3g.20gb@4"),
    )
    assert isinstance(errors[0], RefusedError)
    assert isinstance(errors[1], NoRoomError)
    assert isinstance(errors[2], NoRoomError)
    assert errors[3] is None  # there is none of ours
    assert list(world.claims()) == ["theirs"]
    done(driver, create(gpu, "3g.20gb@0"))
    with pytest.raises(RefusedError, match="somebody else's claim"):
        driver.adopt(gpu, Placement.parse("3g.20gb@4"))


def test_another_workloads_instances_are_a_strangers(world):
    (node,) = world.nodes.add_nodes(1, 1)
    day, night = world.driver("day"), world.driver("night")
    gpu = f"{node}/gpu-0"
    done(day, create(gpu, "3g.20gb@4"))
    wait_until(lambda: "3g.20gb@4" in instances(night, gpu), 10, "it is seen")
    assert not instances(night, gpu)["3g.20gb@4"].ours
    assert isinstance(perform(night, create(gpu, "3g.20gb@4"))[0], RefusedError)
    assert isinstance(perform(night, start(gpu, "3g.20gb@4"))[0], RefusedError)


def test_strangers_pods_get_no_device_of_a_managed_gpu(world):
    (node,) = world.nodes.add_nodes(1, 1)
    driver = world.driver()
    gpu = f"{node}/gpu-0"
    done(driver, create(gpu, "1g.5gb@6"))
    world.admin.create("resourceclaims", claim_object("theirs"), world.namespace)
    world.admin.create("pods", pod_object("theirs", "theirs"), world.namespace)

    def unschedulable() -> bool:
        conditions = world.pods()["theirs"]["status"].get("conditions") or []
        return any(each.get("reason") == "Unschedulable" for each in conditions)

    wait_until(unschedulable, 30, "the scheduler found nothing")
    done(driver, create(gpu, "3g.20gb@0"), start(gpu, "1g.5gb@6"))
    assert not world.claims()["theirs"].get("status", {}).get("allocation")
    driver.release()
    wait_until(lambda: world.claims()["theirs"].get("status", {}).get("allocation"), 30, "it gets one then")


def test_an_overlap_that_the_api_accepted_is_found_before_a_pod_starts(world):
    (node,) = world.nodes.add_nodes(1, 1)
    driver = world.driver()
    gpu = f"{node}/gpu-0"
    done(driver, create(gpu, "2g.10gb@0"))
    stranger(world, "theirs", node, "gpu-0-mig-7g40gb-0-0")
    wait_until(lambda: len(driver.observe().gpus[0].instances) == 1, 10, "one of the two is shown")
    wait_until(
        lambda: "7g.40gb@0" in instances(driver, gpu), 10, "the stranger's is shown, since ours does not run"
    )
    (error,) = perform(driver, start(gpu, "2g.10gb@0"))
    assert isinstance(error, NoRoomError)
    assert "theirs holds gpu-0-mig-7g40gb-0-0" in text(error)
    assert world.pods() == {}


def test_an_instance_that_a_stranger_overlaps_is_not_made_again(world):
    (node,) = world.nodes.add_nodes(1, 1)
    driver = world.driver()
    gpu = f"{node}/gpu-0"
    done(driver, create(gpu, "1g.5gb@6"))
    stranger(world, "theirs", node, "gpu-0-mig-7g40gb-0-0")
    wait_until(lambda: "7g.40gb@0" in instances(driver, gpu), 10, "the stranger's is shown")
    (error,) = perform(driver, create(gpu, "1g.5gb@6"))
    assert isinstance(error, NoRoomError)
    assert set(instances(driver, gpu)) == {"7g.40gb@0"}


def test_a_strangers_pod_on_our_claim_keeps_it_busy(world):
    (node,) = world.nodes.add_nodes(1, 1)
    driver = world.driver()
    gpu = f"{node}/gpu-0"
    done(driver, create(gpu, "1g.5gb@0"))
    (name,) = world.claims()
    world.admin.create("pods", pod_object("theirs", name), world.namespace)
    wait_until(lambda: instances(driver, gpu)["1g.5gb@0"].busy, 30, "it is busy")
    errors = perform(driver, start(gpu, "1g.5gb@0"), destroy(gpu, "1g.5gb@0"))
    assert all(isinstance(each, InUseError) for each in errors)
    world.admin.delete("pods", "theirs", world.namespace)
    wait_until(lambda: not instances(driver, gpu)["1g.5gb@0"].busy, 60, "it is free")
    done(driver, start(gpu, "1g.5gb@0"))


# What others take away


def test_a_strangers_pod_that_fits_nowhere_does_not_cost_a_claim_its_device(world):
    first, _ = world.nodes.add_nodes(2, 1)
    driver = world.driver()
    gpu = f"{first}/gpu-0"
    done(driver, create(gpu, "1g.5gb@0"))
    (name,) = world.claims()
    body = pod_object("theirs", name)
    body["spec"]["containers"][0]["resources"]["requests"] = {"cpu": "10000"}
    world.admin.create("pods", body, world.namespace)

    def refused() -> bool:
        conditions = world.pods()["theirs"]["status"].get("conditions") or []
        return any(each.get("reason") == "Unschedulable" for each in conditions)

    wait_until(refused, 30, "the scheduler has looked at it, and at what it could take away")
    assert world.claims()[name]["status"]["allocation"]
    done(driver, start(gpu, "1g.5gb@0"))


def test_a_claim_that_somebody_deletes_stays_while_its_pod_runs(world):
    (node,) = world.nodes.add_nodes(1, 1)
    driver = world.driver()
    gpu = f"{node}/gpu-0"
    done(driver, create(gpu, "2g.10gb@2"))
    done(driver, start(gpu, "2g.10gb@2"))
    (name,) = world.claims()
    world.admin.delete("resourceclaims", name, world.namespace)
    wait_until(lambda: not instances(driver, gpu)["2g.10gb@2"].complete, 10, "it is seen")
    assert replica_at(driver, gpu, "2g.10gb@2").ready
    assert isinstance(perform(driver, create(gpu, "2g.10gb@2"))[0], InUseError)
    assert isinstance(perform(driver, create(gpu, "4g.20gb@0"))[0], NoRoomError)
    done(driver, stop(gpu, "2g.10gb@2"))
    done(driver, create(gpu, "2g.10gb@2"))  # the old claim goes, another comes
    assert instances(driver, gpu)["2g.10gb@2"].complete
    done(driver, start(gpu, "2g.10gb@2"))


def test_a_pod_that_vanishes_is_seen(world):
    (node,) = world.nodes.add_nodes(1, 1)
    driver = world.driver()
    gpu = f"{node}/gpu-0"
    done(driver, create(gpu, "1g.5gb@0"))
    done(driver, start(gpu, "1g.5gb@0"))
    mark = driver.observe_changes(None, ()).mark
    (name,) = world.pods()
    world.admin.delete("pods", name, world.namespace)
    wait_until(lambda: instances(driver, gpu)["1g.5gb@0"].replica is None, 30, "it is gone")
    seen = driver.observe_changes(mark, ())
    assert [each.id for each in seen.gpus] == [gpu]

    def told() -> bool:
        """Say whether what was told is not told again: the claim changes once more when its pod is gone."""
        nonlocal seen
        seen = driver.observe_changes(seen.mark, ())
        return not seen.gpus

    wait_until(told, 30, "nothing is told twice")
    done(driver, start(gpu, "1g.5gb@0"))


def test_others_evictions_are_refused(world):
    (node,) = world.nodes.add_nodes(1, 1)
    driver = world.driver()
    gpu = f"{node}/gpu-0"
    done(driver, create(gpu, "1g.5gb@0"))
    done(driver, start(gpu, "1g.5gb@0"))
    (name,) = world.pods()
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}

    def refused() -> bool:
        path = f"/api/v1/namespaces/{world.namespace}/pods/{name}/eviction"
        try:
            world.admin.call("POST", path, eviction)
        except ApiError as error:
            return error.code == 429
        raise AssertionError("it was evicted")

    wait_until(refused, 30, "evictions are refused")
    done(driver, stop(gpu, "1g.5gb@0"))
    driver.release()
    assert world.admin.objects("poddisruptionbudgets", world.namespace) == []


# What fails


def test_a_pod_that_is_never_ready_is_given_up_with_the_reason(world):
    world.settings = DraSettings(start_timeout_s=6.0)
    (node,) = world.nodes.add_nodes(1, 1)
    driver = world.driver()
    gpu = f"{node}/gpu-0"
    done(driver, create(gpu, "1g.5gb@0"))
    world.nodes.fail("ready")
    (error,) = perform(driver, start(gpu, "1g.5gb@0"))
    assert isinstance(error, TimedOutError)
    assert "not ready after 6 s" in text(error)
    assert "kubectl describe pod resnet50-" in text(error)
    assert not replica_at(driver, gpu, "1g.5gb@0").ready
    world.nodes.mend()
    done(driver, stop(gpu, "1g.5gb@0"))
    world.settings = DraSettings()
    done(world.driver(), start(gpu, "1g.5gb@0"))


def test_a_device_that_cannot_be_prepared_is_told_in_the_nodes_words(world):
    world.settings = DraSettings(start_timeout_s=6.0)
    (node,) = world.nodes.add_nodes(1, 1)
    driver = world.driver()
    gpu = f"{node}/gpu-0"
    done(driver, create(gpu, "1g.5gb@0"))
    world.nodes.create_outside(node, "gpu-0-mig-7g40gb-0-0")

    def told() -> bool:
        """Say whether the node's words are told: on a busy machine it has none yet when the time is over."""
        (error,) = perform(driver, start(gpu, "1g.5gb@0"))
        assert isinstance(error, TimedOutError)
        return "FailedPrepareDynamicResources" in text(error)

    wait_until(told, 60, "the node's words are told")


def test_a_service_without_a_template_is_refused(world):
    (node,) = world.nodes.add_nodes(1, 1)
    driver = world.driver()
    gpu = f"{node}/gpu-0"
    done(driver, create(gpu, "1g.5gb@0"))
    (error,) = perform(driver, start(gpu, "1g.5gb@0", Replica("nobody", "m", 1, 1, 1.0, 1.0)))
    assert isinstance(error, RefusedError)
    assert "no pod template" in text(error)
    world.template = {
        "spec": {"containers": [{"name": "a", "image": "a", "ports": [{"containerPort": 99999999}]}]}
    }
    (error,) = perform(driver, start(gpu, "1g.5gb@0"))
    assert isinstance(error, RefusedError)
    assert "spec.containers[0].ports[0].containerPort" in text(error)


def test_a_quota_that_refuses_is_told_in_its_words(world):
    (node,) = world.nodes.add_nodes(1, 1)
    driver = world.driver()
    gpu = f"{node}/gpu-0"
    done(driver, create(gpu, "1g.5gb@0"))
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "small"},
        "spec": {"hard": {"pods": "0"}},
    }
    world.admin.create("resourcequotas", quota, world.namespace)

    def refused() -> bool:
        (error,) = perform(driver, start(gpu, "1g.5gb@0"))
        if error is None:  # the quota had not been counted yet
            done(driver, stop(gpu, "1g.5gb@0"))
            return False
        assert isinstance(error, RefusedError)
        assert "exceeded quota: small" in text(error)
        assert "raise the quota" in text(error)
        return True

    wait_until(refused, 60, "the quota refuses")


def test_placements_that_do_not_fit_are_refused_side_by_side(world):
    (node,) = world.nodes.add_nodes(1, 1)
    driver = world.driver()
    gpu = f"{node}/gpu-0"
    errors = perform(
        driver, *(create(gpu, each) for each in ("4g.20gb@0", "7g.40gb@0", "1g.5gb@2", "3g.20gb@4"))
    )
    kept = {str(each.placement) for each in driver.observe().gpus[0].instances}
    assert len(kept) == errors.count(None)
    assert kept in ({"4g.20gb@0", "3g.20gb@4"}, {"7g.40gb@0"}, {"1g.5gb@2", "3g.20gb@4"})
    assert all(isinstance(each, NoRoomError) for each in errors if each is not None)
    (error,) = perform(driver, create(gpu, "2g.10gb@1"))
    assert isinstance(error, NoRoomError)


# Nodes


def test_a_cordoned_node_keeps_what_it_has_and_gets_nothing_new(world):
    (node,) = world.nodes.add_nodes(1, 1)
    driver = world.driver()
    gpu = f"{node}/gpu-0"
    done(driver, create(gpu, "1g.5gb@0"))
    done(driver, start(gpu, "1g.5gb@0"))
    world.admin.patch("nodes", node, {"spec": {"unschedulable": True}})
    wait_until(lambda: driver.inventory.gpus[gpu].condition == "leaving", 10, "it is seen")
    (error,) = perform(driver, create(gpu, "1g.5gb@1"))
    assert isinstance(error, RefusedError)
    assert "cordoned" in text(error)
    assert [each.leaving for each in driver.observe().gpus] == [True]
    assert replica_at(driver, gpu, "1g.5gb@0").ready
    done(driver, stop(gpu, "1g.5gb@0"))
    done(driver, destroy(gpu, "1g.5gb@0"))


def test_a_node_that_is_deleted_takes_its_gpus_along(world):
    first, second = world.nodes.add_nodes(2, 1)
    driver = world.driver()
    gpu = f"{first}/gpu-0"
    done(driver, create(gpu, "1g.5gb@0"), create(f"{second}/gpu-0", "1g.5gb@0"))
    done(driver, start(gpu, "1g.5gb@0"))
    mark = driver.observe_changes(None, ()).mark
    world.nodes.fail("ready")
    done(driver, create(gpu, "1g.5gb@1"))
    driver.begin(start(gpu, "1g.5gb@1"))
    wait_until(lambda: len(world.pods()) == 2, 20, "the second pod is there")
    world.nodes.remove_node(first)
    (error,) = perform_begun(driver)
    assert isinstance(error, GpuLostError)
    wait_until(
        lambda: driver.observe().gpu(gpu) is None or driver.observe().gpu(gpu).lost, 30, "its GPU is lost"
    )
    assert isinstance(perform(driver, create(gpu, "1g.5gb@3"))[0], GpuLostError)
    wait_until(lambda: driver.observe().gpu(gpu) is None, 60, "its GPU is gone, when its slices are")
    assert driver.observe_changes(mark, ()).gone == (gpu,)
    wait_until(lambda: not world.pods(), 90, "its pods are gone")
    wait_until(lambda: len(world.claims()) == 1, 30, "its claims are gone")
    assert set(instances(driver, f"{second}/gpu-0")) == {"1g.5gb@0"}


def test_a_node_that_is_silent_is_lost_after_a_while_and_comes_back_as_it_was(world, monkeypatch):
    passed = 0.0
    clock = SimpleNamespace(time=time.time, monotonic=lambda: time.monotonic() + passed)
    monkeypatch.setattr("partita.kubernetes.cluster_state.time", clock)
    world.settings = DraSettings(start_timeout_s=PATIENCE * 60.0, node_timeout_s=3600.0)
    node, other = world.nodes.add_nodes(2, 1)
    driver = world.driver()
    gpu = f"{node}/gpu-0"
    done(driver, create(gpu, "1g.5gb@0"), create(gpu, "1g.5gb@1"))
    done(driver, start(gpu, "1g.5gb@0"))
    world.nodes.vanish(node)
    silent = [
        {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}
    ]  # as the node controller finds
    world.admin.patch("nodes", node, {"status": {"conditions": silent}}, sub="status")
    wait_until(lambda: driver.silence() is not None, 60, "it is silent")
    assert not driver.observe().gpu(gpu).lost
    assert replica_at(driver, gpu, "1g.5gb@0").ready
    (error,) = perform(driver, start(gpu, "1g.5gb@1"))
    assert isinstance(error, FailedError)
    assert error.retry
    passed = 3700.0
    wait_until(lambda: driver.observe().gpu(gpu).lost, 60, "it is lost")
    wait_until(lambda: driver.silence() is None, 60, "no other is silent")
    assert isinstance(perform(driver, stop(gpu, "1g.5gb@0"))[0], GpuLostError)
    assert not driver.observe().gpu(f"{other}/gpu-0").lost
    world.nodes.come_back(node)
    wait_until(lambda: not driver.observe().gpu(gpu).lost, 60, "it is back")
    done(driver, stop(gpu, "1g.5gb@0"))
    done(driver, destroy(gpu, "1g.5gb@0"), destroy(gpu, "1g.5gb@1"))


def test_while_all_nodes_are_silent_what_they_hold_stays_as_it_is_and_nothing_runs_out_of_time(world):
    """A pod that is given up after 15 s is waited for, for as long as no node speaks."""
    (node,) = world.nodes.add_nodes(1, 1)
    gpu = f"{node}/gpu-0"
    patient = world.driver()
    done(patient, create(gpu, "1g.5gb@0"), create(gpu, "1g.5gb@1"))
    done(patient, start(gpu, "1g.5gb@0"))
    world.settings = DraSettings(start_timeout_s=15.0, node_timeout_s=0.5)
    driver = world.driver()
    before = driver.observe()
    world.nodes.fail("ready", times=1)
    world.nodes.vanish(node)
    driver.begin(start(gpu, "1g.5gb@1"))
    wait_until(lambda: len(world.pods()) == 2, 20, "the second pod is there")
    silent = [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}]
    world.admin.patch("nodes", node, {"status": {"conditions": silent}}, sub="status")
    wait_until(lambda: driver.silence() is not None, 60, "it is silent")
    assert "most are silent at once" in driver.silence()
    for pod in world.pods().values():  # as the node controller does
        unready = {"conditions": [{"type": "Ready", "status": "False"}]}
        world.admin.patch(
            "pods", pod["metadata"]["name"], {"status": unready}, world.namespace, "status", kind=STRATEGIC
        )
    assert driver.wait(driver.clock.now() + 20.0) == ()
    seen = driver.observe()
    assert [(each.lost, each.leaving) for each in seen.gpus] == [(False, False)]
    assert seen.gpu(gpu).instances[0] == before.gpu(gpu).instances[0]
    world.nodes.come_back(node)
    wait_until(lambda: driver.silence() is None, 60, "it is back")
    (error,) = perform_begun(driver)
    assert isinstance(error, TimedOutError)


# The API server


def test_actions_outlast_an_api_server_that_is_away(world):
    (node,) = world.nodes.add_nodes(1, 1)
    driver = world.driver()
    gpu = f"{node}/gpu-0"
    done(driver, create(gpu, "2g.10gb@0"), create(gpu, "1g.5gb@6"))
    done(driver, start(gpu, "1g.5gb@6"))
    with world.plane.apiserver_away():
        for each in (create(gpu, "2g.10gb@2"), start(gpu, "2g.10gb@0"), stop(gpu, "1g.5gb@6")):
            driver.begin(each)
        assert driver.wait(driver.clock.now() + 5) == ()
        assert replica_at(driver, gpu, "1g.5gb@6").ready  # as it was seen last
    ended: list[DriveError | None] = []
    while len(ended) < 3:
        ended += perform_begun(driver)
    assert ended == [None] * 3
    found = instances(driver, gpu)
    assert found["2g.10gb@2"].complete
    assert replica_at(driver, gpu, "2g.10gb@0").ready
    assert found["1g.5gb@6"].replica is None


def test_writes_an_action_are_few(world):
    (node,) = world.nodes.add_nodes(1, 1)
    driver = world.driver()
    gpu = f"{node}/gpu-0"
    places = [f"1g.5gb@{i}" for i in range(7)]
    done(driver, create(gpu, "3g.20gb@0"))
    done(driver, start(gpu, "3g.20gb@0"))  # the taint rule and the disruption budget are once for all
    done(driver, stop(gpu, "3g.20gb@0"))
    done(driver, destroy(gpu, "3g.20gb@0"))

    def written() -> int:
        """Return the writes of claims and pods; rules and budgets are looked after by the clock."""
        found = driver.writes.items()
        return sum(count for (_, at), count in found if at.startswith(("resourceclaims", "pods")))

    counted = []
    for kind in (create, start, stop, destroy):
        before = written()
        done(driver, *(kind(gpu, each) for each in places))
        counted.append((written() - before) / len(places))
    assert counted == [2.0, 1.0, 1.0, 2.0]


def test_a_claim_that_an_action_removes_is_removed_once(world):
    (node,) = world.nodes.add_nodes(1, 1)
    gpu = f"{node}/gpu-0"
    grant(world.plane, "driver", world.namespace, CONTROLLER)
    with Proxy(world.plane) as proxy:
        driver = world.driver(kubeconfig=proxy.kubeconfig_of("driver", world.namespace))
        done(driver, create(gpu, "1g.5gb@0"))

        def late(request: Request) -> None:
            """Keep a claim that was deleted for longer than it takes to look for useless ones."""
            if (request.verb, request.plural) == ("PATCH", "resourceclaims"):
                proxy.before = None
                time.sleep(4.0)

        proxy.before = late
        done(driver, destroy(gpu, "1g.5gb@0"))
        sent = [each.verb for each, _ in proxy.asked if each.write and each.plural == "resourceclaims"]
        world.dismiss(driver)
    revoke(world.plane, "driver", world.namespace)
    assert sent == ["POST", "DELETE", "PATCH"]


def test_a_service_that_starts_while_its_budget_is_deleted_has_one(world):
    api = open_api(str(world.plane.kubeconfig("admin")), namespace=world.namespace)
    guard = EvictionGuard(api, "day", [])
    guard.guard("bert")
    guard.guard("resnet50")
    answers = iter([{"bert"}, {"bert", "resnet50"}])
    guard.keep(lambda: next(answers))
    assert budgets(world) == {"bert", "resnet50"}
    guard.keep(lambda: {"bert"})
    assert budgets(world) == {"bert"}
    guard.guard("resnet50")  # it is known that the budget is no longer there
    assert budgets(world) == {"bert", "resnet50"}
    guard.lift()
    assert budgets(world) == set()
    api.close()


def budgets(world: World) -> set[str]:
    found = world.admin.objects("poddisruptionbudgets", world.namespace)
    return {each["spec"]["selector"]["matchLabels"][SERVICE] for each in found}
