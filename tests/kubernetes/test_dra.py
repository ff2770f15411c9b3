"""The driver of a Kubernetes cluster, on a real control plane with a strict node side."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from partita.errors import InputError
from partita.kubernetes.api import open_api
from partita.kubernetes.dra import DraDriver, DraSettings
from partita.mig.layout import Placement
from partita.transition.deployment import Replica
from partita.transition.transition import Action, ActionKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kubernetes.control_plane.cluster import ControlPlane
    from tests.kubernetes.control_plane.nodes import SimulatedNodes

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
        self.settings = DraSettings(start_timeout_s=60.0)
        self._drivers: list[DraDriver] = []

    def driver(self, workload: str = "day") -> DraDriver:
        api = open_api(str(self.plane.kubeconfig("admin")), namespace=self.namespace)
        found = DraDriver(api, workload, self._template, settings=self.settings)
        self._drivers.append(found)
        return found

    def _template(self, service: str) -> Object:
        if service == "nobody":
            raise InputError("it has no pod template", where=f"services.{service}.pod", hint="write one")
        return self.template

    def close(self) -> None:
        for each in self._drivers:
            each.release()
            each.close()

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
    until = driver.clock.now() + seconds
    while len(ended) < len(actions):
        found = driver.wait(until)
        assert found, f"not within {seconds} s: {[each for each in actions if each.id not in ended]}"
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
    assert told == {
        "PARTITA_SERVICE": "resnet50",
        "PARTITA_MODEL": "resnet50",
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
