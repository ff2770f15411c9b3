"""What may go wrong around Partita: it goes on, or stops with a clear condition; floors hold where they can."""

from __future__ import annotations

import copy
import threading
import time
from typing import TYPE_CHECKING

import pytest
from tests.kubernetes.control_plane.client import ApiError, Client
from tests.kubernetes.control_plane.objects import claim_object, pod_object
from tests.kubernetes.control_plane.proxy import Answer
from tests.kubernetes.control_plane.shop import DAY, NIGHT, scaled

if TYPE_CHECKING:
    from tests.kubernetes.control_plane.client import Object
    from tests.kubernetes.control_plane.shop import Shop

SMALL_DAY, SMALL_NIGHT = scaled(DAY, 0.3), scaled(NIGHT, 0.45)


def test_an_apiserver_that_is_away_for_a_minute(shop: Shop) -> None:
    """What runs on the nodes serves on, and nothing of it is ended for the outage.

    After it the cluster takes all nodes for silent until each has spoken again, and withdraws the word of their pods.
    """
    shop.serve(SMALL_DAY, 2, 8)
    before = shop.pods()
    shop.begin(SMALL_DAY, SMALL_NIGHT)
    plans = shop.plans()
    shop.plane.kill_apiserver(60.0)
    shop.partita.wait_reached()
    shop.exact()
    assert shop.faults() == []
    assert shop.watcher.unserved(shop.nodes.records) == []
    assert [each for each in shop.nodes.records if each.kind == "refuse"] == []
    assert shop.plans() == plans
    after = shop.pods()
    assert all(
        before[each] == after[each] for each in before.keys() & after.keys()
    )  # what stays was not restarted
    assert shop.partita.running[0].process.poll() is None


def test_nodes_that_all_fall_silent_at_once_are_waited_for(shop: Shop) -> None:
    """As after an outage of the API server: it is told, nothing is moved, and it goes on when they speak again."""
    names = shop.serve(SMALL_DAY, 2, 8, "--node-timeout", "15")
    before = shop.pods()
    shop.begin(SMALL_DAY, SMALL_NIGHT)
    plans = shop.plans()
    shop.silence(*names)
    condition = shop.degraded(
        "NodesSilent", "2 of 2 nodes are not ready: node-0, node-1; most are silent at once"
    )
    assert "`kubectl delete node NAME`" in condition["message"]
    shop.partita.wait(lambda: shop.partita.status()["state"] == "Degraded", "its state says so")

    def settled() -> bool:
        """Say whether what was begun before has been asked for."""
        before = shop.deletions()
        time.sleep(1.0)
        return shop.deletions() == before

    shop.partita.wait(settled, "nothing more is begun")
    ended = shop.deletions()
    time.sleep(20.0)  # longer than a node that is silent alone is waited for
    assert shop.deletions() == ended
    assert shop.plans() == plans
    for name in names:
        shop.nodes.come_back(name)
    shop.partita.wait_reached()
    assert shop.partita.condition("Degraded")["status"] == "False"
    shop.exact()
    assert shop.faults() == []
    assert shop.watcher.unserved(shop.nodes.records) == []
    assert shop.plans() == plans
    after = shop.pods()
    assert all(
        before[each] == after[each] for each in before.keys() & after.keys()
    )  # what stays was not restarted


def test_a_node_that_is_silent_for_long_while_others_answer_is_replaced(shop: Shop) -> None:
    shop.serve(SMALL_DAY, 3, 4, "--node-timeout", "20")
    lost = next(iter(shop.partita.target())).split("/")[0]
    shop.silence(lost)
    shop.degraded("NodesSilent", f"1 of 3 nodes are not ready: {lost}; nothing begins")

    def moved() -> bool:
        target = shop.partita.target()
        return shop.partita.reached() and not any(gpu.startswith(f"{lost}/") for gpu in target)

    shop.partita.wait(moved, "what ran there runs elsewhere", 180.0)
    shop.nodes.come_back(lost)

    def exact() -> bool:
        target = shop.partita.target()
        cut = {gpu: len(placed) for gpu, placed in target.items()}
        return shop.partita.reached() and shop.watcher.deployed() == target and shop.cut() == cut

    # With what came back with the node there is more than is wanted, there or elsewhere.
    shop.partita.wait(exact, "one of both is cleared away", 180.0)
    assert shop.faults("floor") == []


def test_watches_that_break_stall_and_expire(shop: Shop) -> None:
    shop.serve(SMALL_DAY, 2, 8)
    shop.begin(SMALL_DAY, SMALL_NIGHT)
    for _ in range(10):
        time.sleep(0.3)
        shop.partita.proxy.cut()
    shop.partita.proxy.stall()
    time.sleep(8.0)
    shop.partita.proxy.resume()
    shop.partita.wait_reached()
    shop.exact()
    # A watch cannot go on where it was: what changed meanwhile is forgotten (410).
    shop.begin(SMALL_NIGHT, SMALL_DAY)
    shop.partita.proxy.before = lambda _: Answer(503, "ServiceUnavailable", "away")
    shop.partita.proxy.cut()
    for index in range(20):
        shop.plane.admin.create("configmaps", {"metadata": {"name": f"c{index}"}}, shop.partita.namespace)
    shop.plane.compact()
    shop.plane.restart_apiserver()
    shop.partita.proxy.before = None
    shop.partita.wait_reached()
    shop.exact()
    assert shop.faults() == []


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


def test_a_claim_and_a_pod_that_are_deleted_by_hand(shop: Shop) -> None:
    """A claim that is in use stays until its pod has gone; a pod is replaced where it was."""
    shop.serve(SMALL_DAY, 2, 8)
    admin, namespace, target = shop.plane.admin, shop.partita.namespace, shop.partita.target()
    first, second, *_ = admin.objects("pods", namespace)

    def replaced(pod: Object) -> None:
        """Delete a pod, and wait for another in its place."""
        admin.delete("pods", pod["metadata"]["name"], namespace)
        uid = pod["metadata"]["uid"]
        shop.partita.wait(
            lambda: uid not in {each["metadata"]["uid"] for each in admin.objects("pods", namespace)},
            "it is gone",
        )
        shop.partita.wait(lambda: shop.watcher.deployed() == target, "it is replaced", 120.0)

    claim = first["spec"]["resourceClaims"][0]["resourceClaimName"]
    admin.delete("resourceclaims", claim, namespace)
    condition = shop.degraded("ClaimDeleted", f"somebody deleted ResourceClaim {claim}")
    assert f"`kubectl delete pod {first['metadata']['name']}`" in condition["message"]
    assert shop.watcher.deployed() == target
    replaced(first)
    shop.partita.wait(
        lambda: shop.partita.condition("Degraded").get("status") == "False", "all is well again"
    )
    claim = admin.get("resourceclaims", claim, namespace)
    assert not claim["metadata"].get("deletionTimestamp")
    replaced(second)
    shop.go(SMALL_DAY, SMALL_NIGHT)
    shop.exact()
    shop.go(SMALL_NIGHT, SMALL_DAY)
    shop.exact()
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


def test_a_pod_that_never_gets_ready(shop: Shop) -> None:
    shop.nodes.add_nodes(2, 8, "a100-80gb")
    shop.partita.start("--start-timeout", "5")
    shop.partita.apply(SMALL_NIGHT)
    shop.partita.wait_reached()
    shop.nodes.fail("ready", service="moderation")
    shop.watcher.require(shop.floors(SMALL_NIGHT, SMALL_DAY))
    shop.partita.apply(SMALL_DAY)
    assert "ready" in shop.degraded("", "moderation")["message"]
    shop.nodes.mend()
    for each in shop.plane.admin.objects("pods", shop.partita.namespace):
        if not any(
            c["type"] == "Ready" and c["status"] == "True" for c in each["status"].get("conditions") or ()
        ):
            shop.plane.admin.delete("pods", each["metadata"]["name"], shop.partita.namespace)
    shop.partita.wait_reached()
    shop.exact()
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
        shop.degraded("", said)
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


def test_strangers_that_were_there_stay_and_others_are_kept_off(shop: Shop) -> None:
    shop.nodes.add_nodes(2, 4, "a100-80gb")
    admin, namespace = shop.plane.admin, shop.partita.namespace
    expression = "device.attributes['gpu.nvidia.com'].profile == '3g.40gb'"

    def stranger(name: str) -> None:
        admin.create("resourceclaims", claim_object(name, expression), namespace)
        admin.create("pods", pod_object(name, name), namespace)

    def ready(name: str) -> bool:
        conditions = admin.get("pods", name, namespace)["status"].get("conditions") or ()
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    stranger("early")
    shop.partita.wait(lambda: ready("early"), "the stranger runs")
    shop.partita.start()
    shop.partita.apply(SMALL_DAY)
    shop.partita.wait_reached()
    stranger("late")
    shop.go(SMALL_DAY, SMALL_NIGHT)
    assert ready("early")
    assert admin.get("pods", "late", namespace)["status"]["phase"] == "Pending"
    assert shop.faults() == []


def test_a_node_whose_driver_fails_and_starts_again(shop: Shop) -> None:
    shop.serve(SMALL_DAY, 2, 8)
    shop.nodes.fail("prepare", times=3)
    shop.nodes.fail("unprepare", times=2)
    shop.begin(SMALL_DAY, SMALL_NIGHT)
    for node in ("node-0", "node-1"):
        assert shop.nodes.restart_driver(node, 2.0) == []
    shop.partita.wait_reached()
    shop.exact()
    assert shop.faults() == []
