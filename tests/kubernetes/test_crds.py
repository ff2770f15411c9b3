"""The API server holds Workloads to what the YAML reader says, in the same words, and prints all three kinds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from tests.kubernetes.control_plane.client import ApiError
from tests.kubernetes.control_plane.cluster import wait_until
from tests.kubernetes.control_plane.installation import install_resources
from tests.kubernetes.control_plane.tools import run
from tests.kubernetes_units.specs import BAD, good

from partita.kubernetes.connecting import open_api
from partita.kubernetes.resources import PLANS, WORKLOADS

if TYPE_CHECKING:
    from tests.kubernetes.control_plane.cluster import ControlPlane


@pytest.fixture(scope="module")
def crds(control_plane: ControlPlane) -> ControlPlane:
    """A control plane that knows Partita's resources."""
    install_resources(control_plane)
    return control_plane


def workload(spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "partita.dev/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": "serving"},
        "spec": spec,
    }


def test_a_right_workload_is_taken_as_it_is(crds, namespace):
    spec = good() | {"nodes": {"a": "b"}, "rates": {"gateway": {"service": "g"}}, "extraGpus": 1}
    made = crds.admin.create("workloads", workload(spec), namespace)
    assert made["spec"] == spec


@pytest.mark.parametrize(("change", "by_the_reader", "said"), BAD)
def test_a_wrong_workload_is_refused_in_the_readers_words(crds, namespace, change, by_the_reader, said):
    del by_the_reader
    if said is None:  # what no rule can say becomes a condition
        crds.admin.create("workloads", workload(change(good())), namespace)
        return
    with pytest.raises(ApiError) as found:
        crds.admin.create("workloads", workload(change(good())), namespace)
    assert found.value.code == 422
    assert re.search(said, str(found.value)), found.value


PLAN = {
    "workload": {"name": "serving", "uid": "u", "generation": 1},
    "document": "d",
    "why": "there is no plan yet",
    "rates": {"resnet50": 300},
    "objective": "gpus",
    "value": 1,
    "bound": 1,
    "gap": "0%",
    "proven": True,
    "solver": "exact",
    "seed": 0,
    "seconds": 0.1,
    "used": 1,
    "services": [],
    "gpus": [],
}


def test_a_plan_never_changes(crds, namespace):
    api = open_api(str(crds.kubeconfig("admin")), namespace=namespace)
    made = api.create(PLANS, {"metadata": {"name": "p"}, "spec": PLAN})
    assert made.spec.why == "there is no plan yet"
    with pytest.raises(Exception, match="a plan never changes; change the Workload"):
        api.patch(PLANS, "p", {"spec": {"used": 2}})
    api.patch(PLANS, "p", {"status": {"state": "Current"}}, subresource="status")
    api.close()


def test_kubectl_prints_them_as_the_command_does(crds, namespace):
    api = open_api(str(crds.kubeconfig("admin")), namespace=namespace)
    api.create(WORKLOADS, workload(good()))
    status = {
        "state": "Serving",
        "services": 1,
        "gpus": 1,
        "nearest": "resnet50 330/300",
        "plan": "serving-1",
    }
    api.patch(WORKLOADS, "serving", {"status": status}, subresource="status")
    api.create(PLANS, {"metadata": {"name": "serving-1"}, "spec": PLAN})
    api.close()
    names = (
        f"--kubeconfig={crds.kubeconfig('admin')}",
        "api-resources",
        "--api-group=partita.dev",
        "--output=name",
    )
    wait_until(lambda: len(run("kubectl", *names).split()) == 3, 30.0, "kubectl can find their names")
    printed = kubectl(crds, namespace, "get", "workloads,pplan,partita")
    assert re.search(r"NAME +STATE +SERVICES +GPUS +NEAREST +PLAN +AGE", printed)
    assert re.search(r"serving +Serving +1 +1 +resnet50 330/300 +serving-1 ", printed)
    assert re.search(r"NAME +WORKLOAD +STATE +GPUS +BOUND +GAP +PROVEN +AGE", printed)
    assert re.search(r"serving-1 +serving +1 +1 +0% +true ", printed)


def kubectl(plane: ControlPlane, namespace: str, *words: str) -> str:
    return run("kubectl", f"--kubeconfig={plane.kubeconfig('admin')}", "-n", namespace, *words)
