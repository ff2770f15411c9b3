"""A Service for each service: made, kept, and gone with what it is for; nobody else's is touched."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.kubernetes.control_plane.cluster import wait_until
from tests.kubernetes.control_plane.installation import install_resources
from tests.kubernetes.test_controller import Cluster, cluster, crds, spec  # noqa: F401 -- fixtures
from tests.kubernetes_units.specs import good

from partita.kubernetes.connecting import open_api
from partita.kubernetes.endpoints import ClusterEndpoints
from partita.kubernetes.objects import ENDPOINT_SLICE
from partita.kubernetes.service_objects import ServiceExposure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kubernetes.control_plane.cluster import ControlPlane

    from partita.kubernetes.api import KubernetesApi

Object = dict[str, Any]


def with_port(number: int = 9000, **more: Any) -> Object:
    """Return a Workload's spec whose pods listen."""
    found = spec(**more)
    found["pod"]["spec"]["containers"][0]["ports"] = [{"name": "partita", "containerPort": number}]
    return found


def test_a_gateway_finds_the_pods_of_a_workload_that_names_a_port(cluster: Cluster) -> None:  # noqa: F811
    cluster.controller()
    cluster.create(with_port())
    cluster.wait(lambda: cluster.state() == "Serving", "it serves")
    assert cluster.condition("Exposed")["status"] == "True"
    made = cluster.admin.get("services", "serving-resnet50", cluster.namespace)
    assert made["spec"]["clusterIP"] == "None"
    assert made["spec"]["selector"] == {
        "partita.dev/workload": "serving",
        "partita.dev/service": "resnet50",
    }
    api = open_api(str(cluster.plane.kubeconfig("admin")), namespace=cluster.namespace)
    source = ClusterEndpoints(api, "serving")
    (pod,) = cluster.objects("pods")
    cluster.wait(lambda: source.found.addresses, "the endpoint is there")
    ((service, host, port, _),) = source.found.addresses
    assert (service, host, port) == ("resnet50", pod["status"]["podIP"], 9000)
    source.close()
    api.close()

    other = with_port()
    other["services"] = [{**other["services"][0], "name": "search"}]
    cluster.change(services=other["services"])
    cluster.wait(lambda: cluster.state() == "Serving" and cluster.ready("search"), "it serves another")
    cluster.wait(
        lambda: {each["metadata"]["name"] for each in cluster.objects("services")} == {"serving-search"},
        "the Service of what is no more goes after its pods",
    )
    cluster.admin.delete("workloads", "serving", cluster.namespace)
    cluster.wait(lambda: not cluster.objects("services"), "Services go with the Workload")


def test_a_workload_that_leaves_its_replicas_leaves_its_services(cluster: Cluster) -> None:  # noqa: F811
    cluster.controller()
    cluster.create(with_port(deletionPolicy="Orphan"))
    cluster.wait(lambda: cluster.state() == "Serving", "it serves")
    cluster.admin.delete("workloads", "serving", cluster.namespace)
    cluster.wait(lambda: not cluster.workload(), "it is gone")
    time.sleep(2.0)  # in which Kubernetes would have taken away what the Workload owns
    (left,) = cluster.objects("services")
    assert not left["metadata"].get("ownerReferences")
    cluster.create(with_port())
    cluster.wait(lambda: cluster.state() == "Serving", "the next of that name serves")
    (taken,) = cluster.objects("services")
    assert taken["metadata"]["uid"] == left["metadata"]["uid"]
    assert taken["metadata"]["ownerReferences"][0]["uid"] == cluster.workload()["metadata"]["uid"]


def test_a_stranger_keeps_its_service_and_a_condition_says_so(cluster: Cluster) -> None:  # noqa: F811
    other = cluster.admin.create("configmaps", {"metadata": {"name": "x"}}, cluster.namespace)
    theirs = {"selector": {"app": "theirs"}, "ports": [{"port": 80}]}
    labels = {"app.kubernetes.io/managed-by": "partita", "partita.dev/workload": "serving"}
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": other["metadata"]["uid"]}
    before = [
        cluster.admin.create("services", {"metadata": meta, "spec": theirs}, cluster.namespace)
        for meta in (
            {"name": "serving-resnet50"},
            {"name": "serving-looks-like-ours", "labels": labels, "ownerReferences": [owner]},
        )
    ]
    cluster.controller()
    cluster.create(with_port())
    cluster.wait(lambda: cluster.state() == "Serving", "it serves all the same")
    condition = cluster.condition("Exposed")
    assert (condition["status"], condition["reason"]) == ("False", "NameTaken")
    assert "service resnet50: Service serving-resnet50 is somebody else's" in condition["message"]
    assert "delete it or give it another name; kubectl get service serving-resnet50" in condition["message"]
    assert ("Workload", "NameTaken") in {
        (each["involvedObject"]["kind"], each["reason"]) for each in cluster.objects("events")
    }
    names = [each["metadata"]["name"] for each in before]
    assert [cluster.admin.get("services", name, cluster.namespace) for name in names] == before
    cluster.admin.delete("services", "serving-resnet50", cluster.namespace)
    cluster.wait(lambda: cluster.condition("Exposed")["status"] == "True", "it is made")


def test_a_template_without_a_port_is_told_and_disturbs_nothing(cluster: Cluster) -> None:  # noqa: F811
    cluster.controller()
    cluster.create(spec())
    cluster.wait(lambda: cluster.state() == "Serving", "it serves")
    condition = cluster.condition("Exposed")
    assert (condition["status"], condition["reason"]) == ("False", "NoPort")
    assert "service resnet50: its pod template names no port" in condition["message"]
    assert "ports: [{name: partita, containerPort: 9000}]" in condition["message"]
    assert not cluster.objects("services")
    cluster.change(pod=with_port()["pod"])
    cluster.wait(lambda: cluster.condition("Exposed")["status"] == "True", "it has a port")


# Without a controller


@pytest.fixture
def api(control_plane: ControlPlane, namespace: str) -> Iterator[KubernetesApi]:
    install_resources(control_plane)
    found = open_api(str(control_plane.kubeconfig("admin")), namespace=namespace)
    yield found
    found.close()


def test_what_somebody_does_to_a_service_is_undone(control_plane: ControlPlane, api: KubernetesApi) -> None:
    admin, namespace = control_plane.admin, api.namespace
    body = {"apiVersion": "partita.dev/v1alpha1", "kind": "Workload", "metadata": {"name": "day"}}
    uid = admin.create("workloads", {**body, "spec": good()}, namespace)["metadata"]["uid"]
    owner = {"apiVersion": "partita.dev/v1alpha1", "kind": "Workload", "name": "day", "uid": uid}
    exposure = ServiceExposure(api, "day", {**owner, "controller": True}, look_s=0.0)
    templates = {"a": with_port()["pod"], "b": with_port(8000)["pod"]}

    def keep(running: tuple[str, ...] = ()) -> None:
        condition = exposure.keep(templates, lambda: running)
        assert condition is not None
        assert condition.status == "True", condition.message

    def found(name: str) -> Object:
        return dict(admin.get("services", name, namespace))

    keep()
    uids = {name: found(name)["metadata"]["uid"] for name in ("day-a", "day-b")}
    writes = sum(api.writes.values())
    keep()
    assert sum(api.writes.values()) == writes  # nothing is written where nothing is another
    changed = {
        "metadata": {"labels": {"app.kubernetes.io/managed-by": None, "mine": "too"}},
        "spec": {"selector": {"more": "than", "partita.dev/service": "z"}, "ports": [{"port": 1}]},
    }
    admin.patch("services", "day-a", changed, namespace)
    keep()
    now = found("day-a")
    assert now["spec"]["selector"] == {"partita.dev/workload": "day", "partita.dev/service": "a"}
    assert [(each["name"], each["port"]) for each in now["spec"]["ports"]] == [("partita", 9000)]
    assert now["metadata"]["labels"]["mine"] == "too"
    assert now["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "partita"
    admin.delete("services", "day-b", namespace)
    keep()
    assert found("day-b")["metadata"]["uid"] != uids["day-b"]
    assert now["metadata"]["uid"] == uids["day-a"]
    del templates["b"]
    keep(("b",))  # its pods are there still
    assert found("day-b")
    keep()
    assert admin.find("services", "day-b", namespace) is None
    wait_until(
        lambda: len(api.list_objects(ENDPOINT_SLICE, namespace).items) == 1, 30.0, "its endpoints go with it"
    )


def test_while_the_server_is_away_nothing_is_said(control_plane: ControlPlane, api: KubernetesApi) -> None:
    exposure = ServiceExposure(api, "day", {"uid": "u"}, look_s=0.0)
    with control_plane.apiserver_away():
        assert exposure.keep({"a": with_port()["pod"]}, tuple) is None
