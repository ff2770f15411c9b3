"""What a gateway serves from a cluster: a real control plane makes the EndpointSlices of pods that hold claims."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from tests.kubernetes.control_plane.cluster import wait_until
from tests.kubernetes_units.specs import good

from partita.errors import InputError
from partita.kubernetes.connecting import open_api
from partita.kubernetes.dra import DraDriver, DraSettings
from partita.kubernetes.endpoints import ClusterEndpoints
from partita.mig.layout import Placement
from partita.serve.gateway.route import ServedService
from partita.transition.deployment import Replica
from partita.transition.transition import Action, ActionKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.kubernetes.control_plane.cluster import ControlPlane
    from tests.kubernetes.control_plane.nodes import SimulatedNodes

    from partita.serve.gateway.addresses import Served

PATIENCE_S = 240.0
CRDS = Path(__file__).parents[2] / "deploy" / "crds"
RESNET = Replica("resnet50", "resnet50", 8, 1, 900.0, 12.0)
TEMPLATE = {
    "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "server", "image": "server:1", "ports": [{"containerPort": 9000}]}],
    }
}


def know_workloads(plane: ControlPlane) -> None:
    for path in sorted(CRDS.glob("*.yaml")):
        body = yaml.safe_load(path.read_text())
        if plane.admin.find("customresourcedefinitions", body["metadata"]["name"]) is None:
            plane.admin.create("customresourcedefinitions", body)
    wait_until(lambda: plane.admin.raw("GET", "/apis/partita.dev/v1alpha1/workloads")[0] == 200, 30.0, "CRDs")


def perform(driver: DraDriver, *actions: Action) -> None:
    for each in actions:
        driver.begin(each)
    left = {each.id for each in actions}
    until = driver.clock.now() + PATIENCE_S
    while left:
        found = driver.wait(until)
        assert found
        assert all(each.error is None for each in found)
        left -= {each.action.id for each in found}


def test_endpoints_follow_the_pods_and_services_the_workload(
    control_plane: ControlPlane, nodes: SimulatedNodes, namespace: str
) -> None:
    know_workloads(control_plane)
    admin = control_plane.admin
    (node,) = nodes.add_nodes(1, 1)
    kubeconfig = str(control_plane.kubeconfig("admin"))
    with pytest.raises(InputError, match=f"no Workload day in namespace {namespace}"):
        ClusterEndpoints(open_api(kubeconfig, namespace=namespace), "day")
    header = {"apiVersion": "partita.dev/v1alpha1", "kind": "Workload", "metadata": {"name": "day"}}
    workload = admin.create("workloads", {**header, "spec": good()}, namespace)
    port = {"name": "partita", "port": 9000}
    service = {"clusterIP": "None", "selector": {"partita.dev/service": "resnet50"}, "ports": [port]}
    admin.create("services", {"metadata": {"name": "resnet50"}, "spec": service}, namespace)
    driver = DraDriver(
        open_api(kubeconfig, namespace=namespace),
        "day",
        lambda _: TEMPLATE,
        settings=DraSettings(start_timeout_s=PATIENCE_S),
    )
    places = [Placement.parse(each) for each in ("1g.5gb@0", "3g.20gb@4")]

    def act(kind: ActionKind, *at: Placement) -> None:
        replica = RESNET if kind in {ActionKind.START_REPLICA, ActionKind.STOP_REPLICA} else None
        gpu = f"{node}/gpu-0"
        perform(driver, *(Action(f"{kind}{each}", kind, gpu, each, replica, (), 1.0) for each in at))

    async def body() -> None:
        source = ClusterEndpoints(open_api(kubeconfig, namespace=namespace), "day")
        told: list[Served] = []
        following = asyncio.create_task(source.follow(told.append))

        async def until(true: Callable[[Served], object]) -> None:
            async with asyncio.timeout(PATIENCE_S):
                while not told or not true(told[-1]):  # noqa: ASYNC110 -- a test
                    await asyncio.sleep(0.01)

        await until(lambda served: served.services == [ServedService("resnet50", "resnet50", 0.1)])
        assert told[-1].addresses == []
        await asyncio.to_thread(act, ActionKind.CREATE_INSTANCE, *places)
        await asyncio.to_thread(act, ActionKind.START_REPLICA, *places)
        await until(lambda served: len(served.addresses) == 2)
        ips = {pod["status"]["podIP"] for pod in admin.objects("pods", namespace)}
        assert {(each.service, each.host, each.port) for each in told[-1].addresses} == {
            ("resnet50", ip, 9000) for ip in ips
        }
        slices = [each.slice for each in told[-1].addresses]
        assert {(each.gpu, each.placement, each.batch) for each in slices if each} == {
            (f"{node}/gpu-0", str(each), 8) for each in places
        }
        await asyncio.to_thread(act, ActionKind.STOP_REPLICA, places[0])
        await until(lambda served: len(served.addresses) == 1)
        spec = good()
        spec["services"][0]["slo"]["latency_ms"] = 50
        version = admin.get("workloads", "day", namespace)["metadata"]["resourceVersion"]
        changed = {**workload, "metadata": {**workload["metadata"], "resourceVersion": version}, "spec": spec}
        await asyncio.to_thread(admin.replace, "workloads", changed)
        await until(lambda served: served.services == [ServedService("resnet50", "resnet50", 0.05)])
        following.cancel()
        await asyncio.to_thread(source.close)

    try:
        asyncio.run(body())
    finally:
        act(ActionKind.STOP_REPLICA, places[1])
        act(ActionKind.DESTROY_INSTANCE, *places)
        driver.release()
        driver.close()
