"""What may go wrong around Partita: it goes on, or stops with a clear condition; floors hold where they can."""

from __future__ import annotations

import copy
import threading
import time
from typing import TYPE_CHECKING

import pytest
from tests.kubernetes.control_plane.client import ApiError, Client
from tests.kubernetes.control_plane.objects import pod_object
from tests.kubernetes.control_plane.shop import DAY, NIGHT, scaled

if TYPE_CHECKING:
    from tests.kubernetes.control_plane.shop import Shop

SMALL_DAY, SMALL_NIGHT = scaled(DAY, 0.3), scaled(NIGHT, 0.45)


def test_an_apiserver_that_is_away_for_a_minute(shop: Shop) -> None:
    shop.serve(SMALL_DAY, 2, 8)
    shop.begin(SMALL_DAY, SMALL_NIGHT)
    shop.plane.kill_apiserver(60.0)
    shop.partita.wait_reached()
    shop.exact()
    assert shop.faults() == []
    assert shop.partita.running[0].process.poll() is None


def test_somebody_who_writes_the_same_objects_all_the_time(shop: Shop) -> None:
    shop.serve(SMALL_DAY, 2, 8)
    stop = threading.Event()

    def write() -> None:
        client = Client(shop.plane.kubeconfig("admin"))
        for index in range(1_000_000):
            for plural in ("pods", "resourceclaims", "workloads", "transitions", "plans"):
                for each in client.objects(plural, shop.partita.namespace):
                    if stop.is_set():
                        client.close()
                        return
                    try:
                        changed = {"metadata": {"annotations": {"example.org/n": str(index)}}}
                        client.patch(plural, each["metadata"]["name"], changed, shop.partita.namespace)
                    except ApiError:
                        pass  # it is gone by now

    writer = threading.Thread(target=write)
    writer.start()
    try:
        shop.begin(SMALL_DAY, SMALL_NIGHT)
        shop.partita.wait_reached()
        shop.exact()
        shop.go(SMALL_NIGHT, SMALL_DAY)
        shop.exact()
    finally:
        stop.set()
        writer.join()
    assert shop.faults() == []


def test_a_node_that_is_deleted(shop: Shop) -> None:
    shop.serve(SMALL_DAY, 3, 4)
    lost = next(iter(shop.partita.target())).split("/")[0]
    shop.nodes.remove_node(lost)

    def moved() -> bool:
        target = shop.partita.target()
        return shop.partita.reached() and not any(gpu.startswith(f"{lost}/") for gpu in target)

    shop.partita.wait(moved, "what ran there runs elsewhere", 180.0)
    # The cluster collects the pods of a node that is gone 40 seconds later; until then they look ready.
    target = shop.partita.target()
    shop.partita.wait(lambda: shop.watcher.deployed() == target, "nothing else runs", 120.0)
    shop.exact()
    capacity = {name: each.now for name, each in shop.watcher.services().items()}
    for name, rate in shop.floors(SMALL_DAY, SMALL_DAY).items():
        assert capacity[name] >= rate
    assert shop.faults() == []


@pytest.mark.parametrize("how", ["quota", "admission"])
def test_a_cluster_that_refuses_pods(shop: Shop, how: str) -> None:
    shop.serve(SMALL_NIGHT, 2, 8)
    admin, namespace = shop.plane.admin, shop.partita.namespace
    if how == "quota":
        count = str(len(admin.objects("pods", namespace)))
        admin.create(
            "resourcequotas", {"metadata": {"name": "few"}, "spec": {"hard": {"pods": count}}}, namespace
        )
        shop.partita.wait(
            lambda: (
                admin.get("resourcequotas", "few", namespace)["status"].get("used", {}).get("pods") == count
            ),
            "the quota counts",
        )
    else:
        deny(shop)
    shop.watcher.require(shop.floors(SMALL_NIGHT, SMALL_DAY))
    shop.partita.apply(copy.deepcopy(SMALL_DAY))
    said = "exceeded quota" if how == "quota" else "not on my watch"
    try:
        shop.partita.wait(
            lambda: said in shop.partita.condition("Degraded").get("message", ""), "it says so", 90.0
        )
        assert shop.partita.condition("Degraded")["status"] == "True"
        time.sleep(3.0)
    finally:
        if how == "quota":
            admin.delete("resourcequotas", "few", namespace)
        else:
            admin.delete("validatingadmissionpolicybindings", "deny")
            admin.delete("validatingadmissionpolicies", "deny")
    shop.partita.wait_reached()
    shop.exact()
    assert shop.faults() == []


def deny(shop: Shop) -> None:
    """Have pods of Partita refused."""
    admin = shop.plane.admin
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    policy = {
        "metadata": {"name": "deny"},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": "false", "message": "not on my watch"}],
        },
    }
    admin.create("validatingadmissionpolicies", policy)
    selector = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": shop.partita.namespace}}}
    binding = {"policyName": "deny", "validationActions": ["Deny"], "matchResources": selector}
    admin.create("validatingadmissionpolicybindings", {"metadata": {"name": "deny"}, "spec": binding})

    def works() -> bool:
        try:
            admin.call(
                "POST", f"/api/v1/namespaces/{shop.partita.namespace}/pods?dryRun=All", pod_object("p", "c")
            )
        except ApiError as error:
            return "not on my watch" in str(error)
        return False

    shop.partita.wait(works, "the policy is in force")
