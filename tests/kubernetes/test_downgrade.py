"""With resource definitions that are older, or missing, the controller says so; with the right ones it goes on."""

from __future__ import annotations

import copy
import http.client
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.kubernetes.control_plane.client import ApiError, path_of
from tests.kubernetes.control_plane.cluster import wait_until
from tests.kubernetes.control_plane.installation import CRDS, install_resources
from tests.kubernetes.test_controller import Cluster, cluster, crds, on_larger_gpus, spec  # noqa: F401 -- fixtures
from tests.process.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kubernetes.control_plane.cluster import ControlPlane

Object = dict[str, Any]
HINT = "kubectl apply --server-side -f deploy/crds"


def definition(plural: str) -> Object:
    found: Object = yaml.safe_load((CRDS / f"{plural}.yaml").read_text())
    return found


def install(plane: ControlPlane, body: Object) -> None:
    """Put a definition in the place of the one there is."""
    at = path_of("customresourcedefinitions", None, body["metadata"]["name"])
    how = {"fieldManager": "test", "force": "true"}
    plane.admin.call("PATCH", at, body, "application/apply-patch+yaml", **how)


def without(plural: str, *path: str) -> Object:
    """Return a definition that does not know a field, as an older one would not."""
    body = definition(plural)
    node = body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for step in path[:-1]:
        node = node["properties"][step]
    del node["properties"][path[-1]]
    node["required"] = [each for each in node.get("required", ()) if each != path[-1]]
    if not node["required"]:
        del node["required"]
    return body


@pytest.fixture(autouse=True)
def right_definitions(crds: ControlPlane) -> Iterator[None]:  # noqa: F811
    """Leave a control plane as it was."""
    yield
    for path in sorted(CRDS.glob("*.yaml")):
        if crds.admin.find("customresourcedefinitions", f"{path.stem}.partita.dev") is not None:
            forget_older(crds, path.stem)
    install_resources(crds)


def forget_older(plane: ControlPlane, plural: str) -> None:
    """Have today's version alone, where objects may have been stored under an older one."""
    name = f"{plural}.partita.dev"
    found = plane.admin.get("customresourcedefinitions", name)
    body = definition(plural)
    if len(found["spec"]["versions"]) > 1:
        install(plane, both_versions(plural))
        status = {"status": {"storedVersions": ["v1alpha1"]}}
        at = path_of("customresourcedefinitions", None, name) + "/status"
        plane.admin.call("PATCH", at, status, "application/merge-patch+json")
    install(plane, body)


def both_versions(plural: str) -> Object:
    """Return today's definition beside the older version, under which objects may have been stored."""
    found = definition(plural)
    (ours,) = found["spec"]["versions"]
    found["spec"]["versions"].append({**ours, "name": "v1alpha0", "storage": False, "served": False})
    return found


class Ready:
    """A controller's page."""

    def __init__(self, cluster: Cluster) -> None:  # noqa: F811
        (port,) = free_ports(1)
        self._port = port
        cluster.controller("--port", str(port))

    def refuses(self, *texts: str) -> bool:
        """Say whether it is not ready, and says why in these words."""
        status, page = self.page()
        return status == 503 and all(text in page for text in texts)

    def page(self) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()


def two(cluster: Cluster, **more: Any) -> None:  # noqa: F811
    """Have two Workloads that serve, the second of which has what an older definition does not know."""
    cluster.nodes.add_nodes(1, 1, "a100-80gb")
    cluster.create(spec(), "plain")
    cluster.create(on_larger_gpus(**more))
    for name in ("plain", "serving"):
        cluster.wait(lambda name=name: cluster.state(name) == "Serving", f"{name} serves")


def pods(cluster: Cluster) -> set[str]:  # noqa: F811
    return {each["metadata"]["uid"] for each in cluster.objects("pods")}


def test_a_field_that_an_older_definition_drops_is_named_and_what_was_accepted_goes_on(
    cluster: Cluster,  # noqa: F811
) -> None:
    """It would be another Workload, made by nobody: one without approval, on any node."""
    cluster.controller()
    two(cluster, extraGpus=1)
    running = pods(cluster)
    plans = len(cluster.objects("plans"))
    install(cluster.plane, without("workloads", "spec", "extraGpus"))

    def dropped() -> bool:
        """Write beside the spec, by which the server drops what it does not know."""
        meta = {"metadata": {"annotations": {"somebody": "was-here"}}}
        cluster.admin.patch("workloads", "serving", meta, cluster.namespace)
        return "extraGpus" not in cluster.workload()["spec"]

    cluster.wait(dropped, "the field is dropped")
    cluster.wait(lambda: cluster.condition("Accepted")["status"] == "False", "it is told")
    condition = cluster.condition("Accepted")
    assert condition["reason"] == "SchemaChanged"
    assert "nobody changed it, and the API server has dropped extraGpus" in condition["message"]
    assert HINT in condition["message"]
    assert "going on with what was accepted before" in condition["message"]
    assert cluster.condition("Accepted", "plain")["status"] == "True"
    assert pods(cluster) == running
    assert len(cluster.objects("plans")) == plans
    install(cluster.plane, definition("workloads"))

    def again() -> bool:
        cluster.change(extraGpus=1)
        return "extraGpus" in cluster.workload()["spec"]

    cluster.wait(again, "it is applied again")
    cluster.wait(lambda: cluster.condition("Accepted")["status"] == "True", "it is accepted")
    assert pods(cluster) == running


@pytest.mark.parametrize(("plural", "field"), [("plans", "gap"), ("transitions", "algorithm")])
def test_nothing_is_written_that_an_older_definition_would_cut_short(
    cluster: Cluster,  # noqa: F811
    plural: str,
    field: str,
) -> None:
    cluster.controller()
    cluster.create(spec())
    cluster.wait(lambda: cluster.state() == "Serving", "it serves")
    running, before = pods(cluster), len(cluster.objects(plural))
    install(cluster.plane, without(plural, "spec", field))
    wait_until(lambda: not knows(cluster, plural, field), 30.0, "the server goes by it")
    cluster.change(services=[{**spec()["services"][0], "rate": 1500}])
    cluster.wait(
        lambda: f"spec.{field}" in cluster.condition("Degraded").get("message", ""), "the field is named"
    )
    condition = cluster.condition("Degraded")
    assert (condition["status"], condition["reason"]) == ("True", "CannotWrite")
    assert "strict decoding error" in condition["message"]
    assert HINT in condition["message"]
    assert pods(cluster) == running
    assert len(cluster.objects(plural)) == before  # nor does every try leave an object
    install(cluster.plane, definition(plural))
    cluster.wait(lambda: cluster.state() == "Serving" and cluster.ready() >= 2, "it goes on by itself")
    assert cluster.condition("Degraded")["status"] == "False"


def knows(cluster: Cluster, plural: str, field: str) -> bool:  # noqa: F811
    """Say whether the server takes a field; what it publishes may be newer or older than what it goes by."""
    kind = {"plans": "Plan", "transitions": "Transition"}[plural]
    body = {
        "apiVersion": "partita.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": "x"},
        "spec": {field: "x"},
    }
    how = {"dryRun": "All", "fieldValidation": "Strict"}
    with pytest.raises(ApiError) as refused:  # the others are missing
        cluster.admin.call("POST", path_of(plural, cluster.namespace), body, **how)
    return f'unknown field "spec.{field}"' not in str(refused.value)


def test_a_status_that_an_older_definition_cuts_short_is_logged(cluster: Cluster) -> None:  # noqa: F811
    install(cluster.plane, without("workloads", "status", "nearest"))
    cluster.controller()
    cluster.create(spec())
    cluster.wait(lambda: cluster.state() == "Serving", "it serves")
    cluster.wait(
        lambda: "the API server does not keep nearest of the status; its CustomResource" in cluster.logs(),
        "it is logged",
    )
    assert cluster.logs().count("does not keep nearest") == 1


def test_a_version_that_is_not_served_leaves_everything_as_it_is_until_it_is_again(
    cluster: Cluster,  # noqa: F811
) -> None:
    ready = Ready(cluster)
    cluster.create(spec())
    cluster.wait(lambda: cluster.state() == "Serving", "it serves")
    running = pods(cluster)
    for plural in ("workloads", "plans", "transitions"):
        older = definition(plural)
        (ours,) = older["spec"]["versions"]
        older["spec"]["versions"] = [{**copy.deepcopy(ours), "name": "v1alpha0"}, {**ours, "storage": False}]
        older["spec"]["versions"][1]["served"] = False
        install(cluster.plane, older)
    cluster.wait(lambda: ready.refuses("does not know", "kubectl apply -f deploy/crds"), "it is not ready")
    cluster.wait(
        lambda: "the API server does not know workloads of partita.dev/v1alpha1" in cluster.logs(),
        "it is logged",
    )
    assert pods(cluster) == running
    for plural in ("workloads", "plans", "transitions"):
        install(cluster.plane, both_versions(plural))
    cluster.wait(lambda: ready.page() == (200, "ok"), "it is ready")
    cluster.wait(lambda: "can be read again" in cluster.logs(), "that is logged")
    assert pods(cluster) == running
    cluster.change(services=[{**spec()["services"][0], "rate": 1500}])
    cluster.wait(lambda: cluster.state() == "Serving" and cluster.ready() >= 2, "it goes on")


def test_definitions_that_are_taken_away_while_it_runs(cluster: Cluster) -> None:  # noqa: F811
    """Plans and Transitions go with theirs; what runs stays, and is planned anew once they are back."""
    ready = Ready(cluster)
    cluster.create(spec())
    cluster.wait(lambda: cluster.state() == "Serving", "it serves")
    running = pods(cluster)
    for plural in ("plans", "transitions"):
        cluster.admin.delete("customresourcedefinitions", f"{plural}.partita.dev")
    cluster.wait(ready.refuses, "it is not ready")
    cluster.change(services=[{**spec()["services"][0], "rate": 1500}])

    def told() -> bool:
        """Say whether it is told; while the definitions go, the server has other words for it."""
        found = cluster.condition("Degraded")
        unknown = "the API server does not know plans of partita.dev/v1alpha1" in found.get("message", "")
        return unknown and (found["status"], found["reason"]) == ("True", "CannotWrite")

    cluster.wait(told, "it is told")
    assert "`kubectl apply -f deploy/crds`" in cluster.condition("Degraded")["message"]
    assert pods(cluster) == running
    install_resources(cluster.plane)
    cluster.wait(lambda: cluster.state() == "Serving" and cluster.ready() >= 2, "it goes on")
    assert running <= pods(cluster)
    cluster.wait(lambda: ready.page() == (200, "ok"), "it is ready")


def test_a_controller_without_definitions_waits_for_them(cluster: Cluster) -> None:  # noqa: F811
    admin = cluster.admin
    names = [each["metadata"]["name"] for each in admin.objects("customresourcedefinitions")]
    for name in names:
        admin.delete("customresourcedefinitions", name)
    wait_until(lambda: not admin.objects("customresourcedefinitions"), 60.0, "they are gone")
    ready = Ready(cluster)
    cluster.wait(lambda: ready.refuses("the API server does not know"), "it is not ready")
    cluster.wait(lambda: "`kubectl apply -f deploy/crds`" in cluster.logs(), "it is logged")
    install_resources(cluster.plane)
    cluster.create(spec())
    cluster.wait(lambda: cluster.state() == "Serving", "it serves")
    cluster.wait(lambda: ready.page() == (200, "ok"), "it is ready")
