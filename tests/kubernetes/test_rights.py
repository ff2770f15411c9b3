"""Partita works with exactly the rights that are written, uses each of them, and names the one that is missing."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.kubernetes.control_plane.cluster import wait_until
from tests.kubernetes.control_plane.installation import install_resources
from tests.kubernetes.control_plane.objects import claim_object, pod_object
from tests.kubernetes.control_plane.tools import grant, revoke
from tests.kubernetes.test_mig_manager import MAP, OperatorNode
from tests.kubernetes_units.specs import TABLE, good

from partita.control.reconciler import Hysteresis
from partita.drive.driver import RefusedError
from partita.errors import InputError
from partita.kubernetes import api as api_module
from partita.kubernetes import journal
from partita.kubernetes.advice import look, newest_plan, read_workload_object
from partita.kubernetes.claims import RESOURCE_CLAIM
from partita.kubernetes.connecting import open_api
from partita.kubernetes.controller import ClusterController
from partita.kubernetes.dra import DraDriver, DraDrivers, DraSettings
from partita.kubernetes.endpoints import ClusterEndpoints
from partita.kubernetes.evictions import DISRUPTION_BUDGET
from partita.kubernetes.fence import TAINT_RULES
from partita.kubernetes.inventory import NODE, RESOURCE_SLICE
from partita.kubernetes.job_objects import CLAIM_TEMPLATE, JOB
from partita.kubernetes.leader import LEASES, Leader
from partita.kubernetes.leader_mark import LEADS, LeaderMark
from partita.kubernetes.mig_manager import MigManager
from partita.kubernetes.objects import (
    CONFIG_MAP,
    ENDPOINT_SLICE,
    EVENT,
    ForbiddenError,
    Kind,
    KubernetesError,
)
from partita.kubernetes.pods import POD, instance_name, pod_name
from partita.kubernetes.rates import GatewayCounters
from partita.kubernetes.resources import PLANS, TRANSITIONS, WORKLOADS, GatewayRates
from partita.kubernetes.rights import (
    ADVICE,
    APPROVAL,
    CONTROLLER,
    DASH,
    GATEWAY,
    MIG_MANAGER,
    Right,
    missing_rights,
)
from partita.kubernetes.service_objects import SERVICES, ServiceExposure
from partita.kubernetes.workload_session import ControllerSettings
from partita.mig.layout import Placement
from partita.transition.deployment import DeployedGpu, DeployedInstance, Layouts, Replica
from partita.transition.transition import Action, ActionKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kubernetes.control_plane.cluster import ControlPlane
    from tests.kubernetes.control_plane.nodes import SimulatedNodes

    from partita.kubernetes.api import KubernetesApi

PATIENCE_S = 120.0
KINDS: dict[str, Kind[Any]] = {
    each.plural: each
    for each in (
        NODE, RESOURCE_SLICE, RESOURCE_CLAIM, TAINT_RULES[0], WORKLOADS, PLANS, TRANSITIONS, CONFIG_MAP, POD,
        DISRUPTION_BUDGET, EVENT, ENDPOINT_SLICE, LEASES, JOB, CLAIM_TEMPLATE, SERVICES,
    )
}  # fmt: skip
NOT_USED_HERE = {
    ("get", "resourceclaims"): "a claim of that name is there already",
    ("get", "pods"): "a pod of that name is there already",
    ("get", "transitions"): "a transition is planned anew",
    ("update", "transitions"): "a transition is planned anew",
    ("list", "events"): "a pod does not become ready",
    ("list", "endpointslices"): "rates.gateway",
    ("get", "services"): "a Service of that name is there already",
    ("patch", "services"): "a Service is another than it should be",
    ("delete", "services"): "a service is no more",
}
"""Rights that one Workload's quiet life does not need, and when they are; flows of their own try them below."""


@pytest.fixture(scope="module")
def crds(control_plane: ControlPlane) -> ControlPlane:
    install_resources(control_plane)
    return control_plane


JOB_THAT_FAILS = {
    "metadata": {"name": "fails", "labels": {"partita.dev/queue": "serving"}},
    "spec": {
        "suspend": True,
        "backoffLimit": 0,
        "template": {
            "metadata": {"annotations": {"test.partita.dev/ends": '{"after": 0.1, "code": 1}'}},
            "spec": {
                "restartPolicy": "Never",
                "containers": [{"name": "a", "image": "a:1", "resources": {"claims": [{"name": "partita"}]}}],
                "resourceClaims": [{"name": "partita", "resourceClaimTemplateName": "partita"}],
            },
        },
    },
}
Asked = set[tuple[str, str]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Verbs and resources that are asked of the API server from now on."""
    found: Asked = set()
    send = api_module._send

    def noted(client: Any, request: Any, silence_s: float) -> Any:
        found.add((request.verb, request.resource))
        return send(client, request, silence_s)

    monkeypatch.setattr(api_module, "_send", noted)
    return found


def each_verb(rights: tuple[Right, ...]) -> list[tuple[str, str]]:
    return [(verb, each.resource) for each in rights for verb in each.verbs]


def without(rights: tuple[Right, ...], verb: str, resource: str) -> list[Right]:
    return [
        replace(each, verbs=tuple(one for one in each.verbs if one != verb))
        if each.resource == resource
        else each
        for each in rights
    ]


class Account:
    """A service account whose rights change."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.plane, self.namespace = plane, namespace
        self.name = "tried"

    def have(self, rights: tuple[Right, ...] | list[Right]) -> KubernetesApi:
        kubeconfig = grant(self.plane, self.name, self.namespace, [each for each in rights if each.verbs])
        return open_api(str(kubeconfig), namespace=self.namespace)


@pytest.fixture
def account(crds: ControlPlane, namespace: str) -> Iterator[Account]:
    yield Account(crds, namespace)
    revoke(crds, "tried", namespace)


def missing(api: KubernetesApi, rights: tuple[Right, ...], count: int) -> list[str]:
    """Return the rights that are missing, once the server knows of the change."""
    found: list[str] = []

    def known() -> bool:
        found[:] = missing_rights(api, rights, None)
        return len(found) == count

    wait_until(known, 30.0, f"{count} rights are missing")
    return found


def request(api: KubernetesApi, verb: str, resource: str) -> None:
    """Ask for something that is not there, with a verb on a resource."""
    plural, _, sub = resource.partition("/")
    kind = KINDS[plural]
    body = {"metadata": {"name": "none"}}
    match verb:
        case "get" if sub:
            api.read_bytes(kind, "none", subresource=sub, query={})
        case "get":
            api.get(kind, "none")
        case "list":
            api.list_objects(kind)
        case "watch":
            next(api.events(kind, None, {"resourceVersion": "1"}, lambda _: None), None)
        case "create":
            api.create(kind, body)
        case "update":
            api.replace(kind, body, subresource=sub or None)
        case "patch":
            api.patch(kind, "none", {}, subresource=sub or None)
        case "delete":
            api.delete(kind, "none")


@pytest.mark.parametrize(("verb", "resource"), sorted(set(each_verb(CONTROLLER))))
def test_a_right_that_is_missing_is_named(account: Account, verb: str, resource: str) -> None:
    api = account.have(without(CONTROLLER, verb, resource))
    scopes = [each for each in CONTROLLER if each.resource == resource and verb in each.verbs]
    for text, right in zip(missing(api, CONTROLLER, len(scopes)), scopes, strict=True):
        assert text.startswith(f"no right to {verb} {resource}")
        assert text.endswith(right.reason)
    if resource != "resourceclaims/binding":  # which has no path of its own; see below
        with pytest.raises(ForbiddenError, match=f"no right to {verb} {resource}: ") as found:
            request(api, verb, resource)
        assert found.value.hint is not None
        assert f"resources: [{resource}], verbs: [{verb}]" in found.value.hint
    api.close()


def start(api: KubernetesApi, namespace: str, stop: threading.Event) -> tuple[threading.Thread, list[str]]:
    said: list[str] = []
    drivers = DraDrivers(DraSettings(start_timeout_s=60.0))
    settings = ControllerSettings(namespace=namespace, poll_s=0.3, hysteresis=Hysteresis(0.1, 1.0))
    controller = ClusterController(api, Leader(api, "tried", said.append), drivers, settings, said.append)

    def run() -> None:
        try:
            controller.run(stop)
        except KubernetesError as error:
            said.append(f"ended: {error}")
        finally:
            drivers.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread, said


def test_all_rights_suffice_and_each_is_used(
    account: Account, nodes: SimulatedNodes, namespace: str, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Workload is made, changed and deleted, and nothing is asked for that is not among the rights."""
    monkeypatch.setattr(journal, "KEPT", 0)  # so that old plans and transitions go
    nodes.add_nodes(1, 2)
    admin = account.plane.admin
    admin.create("configmaps", {"metadata": {"name": "perf"}, "data": {"perf.csv": TABLE}}, namespace)
    spec = good() | {"performance": [{"configMap": {"name": "perf"}}]}
    spec["pod"]["spec"]["terminationGracePeriodSeconds"] = 1
    spec["pod"]["spec"]["containers"][0]["ports"] = [{"containerPort": 9000}]
    api = account.have(CONTROLLER)
    assert missing(api, CONTROLLER, 0) == []
    asked.clear()
    stop = threading.Event()
    thread, said = start(api, namespace, stop)

    def state() -> tuple[str, int]:
        found = admin.get("workloads", "serving", namespace)
        status = found.get("status", {})
        return status.get("state", ""), status.get("observedGeneration", 0)

    try:
        body = {"apiVersion": "partita.dev/v1alpha1", "kind": "Workload", "metadata": {"name": "serving"}}
        admin.create("workloads", {**body, "spec": spec}, namespace)
        wait_until(lambda: state() == ("Serving", 1), PATIENCE_S, f"it serves: {said}")
        admin.create("jobs", JOB_THAT_FAILS, namespace)
        wait_until(lambda: ("get", "pods/log") in asked, PATIENCE_S, f"a Job's pod ends: {said}")
        spec["services"][0]["rate"] = 100
        admin.patch("workloads", "serving", {"spec": spec}, namespace)
        wait_until(lambda: state() == ("Serving", 2), PATIENCE_S, f"it serves less: {said}")
        wait_until(lambda: admin.find("plans", "serving-2", namespace), PATIENCE_S, f"another plan: {said}")
        admin.delete("workloads", "serving", namespace)
        wait_until(
            lambda: admin.find("workloads", "serving", namespace) is None, PATIENCE_S, f"it goes: {said}"
        )
    finally:
        stop.set()
        thread.join()
        api.close()
    assert not [each for each in said if "no right" in each]
    rights = set(each_verb(CONTROLLER))
    assert asked <= rights
    # The server asks for two of them beside those that are asked for: see the tests of their own.
    beside = {
        ("update", "resourceclaims/binding"),
        ("create", "poddisruptionbudgets"),
        ("create", "resourceclaimtemplates"),
    }
    assert rights - asked - beside <= set(NOT_USED_HERE)


@pytest.mark.parametrize("verb", ["", *DASH[0].verbs])
def test_the_pod_that_leads_is_marked_with_exactly_these_rights(account: Account, verb: str) -> None:
    admin = account.plane.admin
    spec = {"containers": [{"name": "a", "image": "a:1"}], "nodeSelector": {"no": "node"}}
    for name, labels in (("own", {}), ("before", {LEADS: "true"})):
        admin.create("pods", {"metadata": {"name": name, "labels": labels}, "spec": spec}, account.namespace)
    api = account.have(without(DASH, verb, "pods"))
    missing(api, DASH, 1 if verb else 0)
    said: list[str] = []
    LeaderMark(api, "own", said.append).keep()
    assert [f"no right to {verb} pods" in each for each in said] == ([True] if verb else [])
    found = {
        each["metadata"]["name"]: each["metadata"].get("labels", {}).get(LEADS)
        for each in admin.objects("pods", account.namespace)
    }
    assert found == ({"own": None, "before": "true"} if verb else {"own": "true", "before": None})
    api.close()


@pytest.fixture
def driver_of(account: Account) -> Iterator[Any]:
    """Makes a driver with some rights, and performs an action with it."""
    made: list[tuple[KubernetesApi, DraDriver]] = []
    template = {"spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "a", "image": "a:1"}]}}

    def perform(node: str, rights: list[Right], *kinds: ActionKind, seconds: float = PATIENCE_S) -> Any:
        api = account.have(rights)
        settings = DraSettings(start_timeout_s=seconds, keep_off="None")
        driver = DraDriver(api, "day", lambda _: template, settings=settings)
        made.append((api, driver))
        error = None
        for kind in kinds:
            replica = Replica("resnet50", "resnet50", 8, 1, 900.0, 12.0)
            runs = replica if kind in {ActionKind.START_REPLICA, ActionKind.STOP_REPLICA} else None
            driver.begin(
                Action(str(kind), kind, f"{node}/gpu-0", Placement.parse("3g.20gb@0"), runs, (), 1.0)
            )
            (ended,) = driver.wait(time.time() + 2 * PATIENCE_S)
            error = ended.error
        return error

    yield perform
    for api, driver in made:
        driver.close()
        api.close()


def test_the_right_to_bind_is_asked_for_with_the_allocation(
    account: Account, driver_of: Any, nodes: SimulatedNodes
) -> None:
    (node,) = nodes.add_nodes(1, 1)
    rights = without(CONTROLLER, "update", "resourceclaims/binding")
    missing(account.have(rights), CONTROLLER, 1)
    error = driver_of(node, rights, ActionKind.CREATE_INSTANCE)
    assert isinstance(error, RefusedError)
    assert "resourceclaims/binding" in f"{error} {error.hint}"


def test_the_right_to_create_is_asked_for_with_an_apply(account: Account) -> None:
    api = account.have(without(CONTROLLER, "create", "poddisruptionbudgets"))
    missing(api, CONTROLLER, 1)
    body = {"metadata": {"name": "a"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}}
    with pytest.raises(ForbiddenError, match="no right to create poddisruptionbudgets: ") as found:
        api.apply(DISRUPTION_BUDGET, body)
    assert "verbs: [create]" in str(found.value.hint)
    api.close()


@pytest.mark.parametrize("plural", ["resourceclaims", "pods"])
def test_whose_an_object_of_that_name_is_must_be_read(
    account: Account, driver_of: Any, nodes: SimulatedNodes, plural: str
) -> None:
    """After a crash the object may be one of its own, which the cache does not show yet."""
    (node,) = nodes.add_nodes(1, 1)
    place = f"{node}/gpu-0", Placement.parse("3g.20gb@0")
    kind = ActionKind.CREATE_INSTANCE
    account.have(CONTROLLER)
    if plural == "pods":
        assert driver_of(node, list(CONTROLLER), kind) is None
        kind = ActionKind.START_REPLICA
    theirs = claim_object(instance_name(*place)) if plural == "resourceclaims" else pod_object("x", "x")
    if plural == "pods":
        theirs["metadata"]["name"] = pod_name("resnet50", instance_name(*place))
    account.plane.admin.create(plural, theirs, account.namespace)
    rights = without(CONTROLLER, "get", plural)
    missing(account.have(rights), CONTROLLER, 1)
    assert f"no right to get {plural}" in str(driver_of(node, rights, kind))
    missing(account.have(CONTROLLER), CONTROLLER, 0)
    assert "someone else's" in str(driver_of(node, list(CONTROLLER), kind))


def test_events_are_read_where_a_pod_does_not_become_ready(
    driver_of: Any, nodes: SimulatedNodes, asked: Asked
) -> None:
    (node,) = nodes.add_nodes(1, 1)
    kinds = ActionKind.CREATE_INSTANCE, ActionKind.START_REPLICA
    assert driver_of(node, list(CONTROLLER), *kinds, seconds=0.05) is not None
    assert ("list", "events") in asked


def test_gateways_that_count_are_found_by_endpoint_slices(account: Account, asked: Asked) -> None:
    api = account.have(CONTROLLER)
    missing(api, CONTROLLER, 0)
    asked.clear()
    with pytest.raises(InputError, match="the Service has no endpoints"):
        GatewayCounters(api, account.namespace, GatewayRates("gateway")).rates()
    assert asked == {("list", "endpointslices")}
    api.close()


LISTENS = {"spec": {"containers": [{"name": "a", "image": "a:1", "ports": [{"containerPort": 9000}]}]}}


@pytest.mark.parametrize("verb", ["list", "create", "get", "patch", "delete"])
def test_without_a_right_to_services_a_condition_names_it_and_nothing_else_is_kept_back(
    account: Account, asked: Asked, verb: str
) -> None:
    admin, namespace = account.plane.admin, account.namespace
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "controller": True}
    owner["uid"] = admin.create("configmaps", {"metadata": {"name": "owner"}}, namespace)["metadata"]["uid"]

    def kept(rights: list[Right], *services: str) -> Any:
        api = account.have(rights)
        missing(api, CONTROLLER, len(set(each_verb(CONTROLLER)) - set(each_verb(tuple(rights)))))
        asked.clear()
        found = ServiceExposure(api, "day", owner, look_s=0.0).keep(dict.fromkeys(services, LISTENS), tuple)
        api.close()
        return found

    assert kept(list(CONTROLLER), "a", "b", "c").status == "True"
    # One to make, one to change, one that is somebody else's, and one that is no more.
    admin.delete("services", "day-a", namespace)
    admin.patch("services", "day-b", {"spec": {"selector": {"x": "y"}}}, namespace)
    port = [{"port": 80}]
    admin.create("services", {"metadata": {"name": "day-d"}, "spec": {"ports": port}}, namespace)
    condition = kept(without(CONTROLLER, verb, "services"), "a", "b", "d")
    assert (condition.type, condition.status) == ("Exposed", "False")
    assert f"no right to {verb} services" in condition.message
    assert f"resources: [services], verbs: [{verb}]" in condition.message
    done = {
        "create": admin.find("services", "day-a", namespace) is not None,
        "patch": admin.get("services", "day-b", namespace)["spec"]["selector"].get("x") is None,
        "delete": admin.find("services", "day-c", namespace) is None,
    }
    if verb != "list":
        assert done == {each: each != verb for each in done}
    condition = kept(list(CONTROLLER), "a", "b", "d")
    assert (condition.reason, "somebody else's" in condition.message) == ("NameTaken", True)
    admin.delete("services", "day-d", namespace)
    assert kept(list(CONTROLLER), "a", "b", "d").status == "True"


def test_a_condition_names_the_right_that_is_missing(
    account: Account, nodes: SimulatedNodes, namespace: str
) -> None:
    nodes.add_nodes(1, 1)
    admin = account.plane.admin
    rights = without(CONTROLLER, "create", "pods")
    api = account.have(rights)
    missing(api, CONTROLLER, 1)
    stop = threading.Event()
    thread, said = start(api, namespace, stop)

    def trouble() -> str:
        found = admin.get("workloads", "serving", namespace).get("status", {}).get("conditions", ())
        return " ".join(each["message"] for each in found if each["type"] == "Degraded")

    try:
        body = {"apiVersion": "partita.dev/v1alpha1", "kind": "Workload", "metadata": {"name": "serving"}}
        admin.create("workloads", {**body, "spec": good()}, namespace)
        wait_until(lambda: "no right to create pods" in trouble(), PATIENCE_S, f"it is told: {said}")
        assert "resources: [pods], verbs: [create]" in trouble()
        account.have(CONTROLLER)

        def serves() -> bool:
            found = admin.get("workloads", "serving", namespace)
            return bool(found["status"]["state"] == "Serving")

        wait_until(serves, PATIENCE_S, f"it goes on with the right: {said}")
        admin.delete("workloads", "serving", namespace)
        wait_until(
            lambda: admin.find("workloads", "serving", namespace) is None, PATIENCE_S, f"it goes: {said}"
        )
    finally:
        stop.set()
        thread.join()
        api.close()


# What runs without a controller

PLAN = Layouts((DeployedGpu(f"{OperatorNode.name}/gpu-0", "a100-40gb", ()),))


@pytest.fixture
def operator_node(crds: ControlPlane, namespace: str) -> Iterator[OperatorNode]:
    found = OperatorNode(crds, namespace)
    yield found
    found.close()


@pytest.mark.usefixtures("operator_node")
def test_mig_manager_needs_no_more_than_its_rights(account: Account, asked: Asked) -> None:
    api = account.have(MIG_MANAGER)
    missing(api, MIG_MANAGER, 0)
    asked.clear()
    manager = MigManager(api, namespace=account.namespace, settle_s=0.2)
    plans = [
        Layouts((replace(PLAN.gpus[0], instances=(DeployedInstance(Placement.parse(at), None),)),))
        for at in ("3g.20gb@0", "1g.5gb@0")
    ]
    for plan in plans:
        manager.cut(plan)
    assert asked == set(each_verb(MIG_MANAGER))
    api.close()


@pytest.mark.parametrize(("verb", "resource"), each_verb(MIG_MANAGER))
def test_mig_manager_says_which_right_it_lacks_and_leaves_no_node_cordoned(
    account: Account, operator_node: OperatorNode, verb: str, resource: str
) -> None:
    if (verb, resource) == ("patch", "configmaps"):  # asked for where the map is there
        body = {"metadata": {"name": MAP}, "data": {"config.yaml": ""}}
        account.plane.admin.create("configmaps", body, account.namespace)
    api = account.have(without(MIG_MANAGER, verb, resource))
    missing(api, MIG_MANAGER, 1)
    instances = (DeployedInstance(Placement.parse("3g.20gb@0"), None),)
    with pytest.raises(ForbiddenError, match=f"no right to {verb} {resource}") as found:
        MigManager(api, namespace=account.namespace).cut(
            Layouts((replace(PLAN.gpus[0], instances=instances),))
        )
    assert f"resources: [{resource}], verbs: [{verb}]" in str(found.value.hint)
    node = account.plane.admin.get("nodes", operator_node.name)
    assert not node["spec"].get("unschedulable")
    api.close()


# Those who only look


def made_workload(plane: ControlPlane, namespace: str) -> None:
    body = {"apiVersion": "partita.dev/v1alpha1", "kind": "Workload", "metadata": {"name": "serving"}}
    plane.admin.create("workloads", {**body, "spec": good()}, namespace)


def test_a_gateway_needs_no_more_than_its_rights(account: Account, namespace: str, asked: Asked) -> None:
    made_workload(account.plane, namespace)
    api = account.have(GATEWAY)
    missing(api, GATEWAY, 0)
    asked.clear()
    source = ClusterEndpoints(api, "serving")
    assert [each.name for each in source.found.services] == ["resnet50"]
    wait_until(lambda: asked == set(each_verb(GATEWAY)), 10.0, "all its rights are used")
    source.close()
    api.close()


@pytest.mark.parametrize("resource", [each.resource for each in GATEWAY])
def test_a_gateway_says_which_right_it_lacks(account: Account, namespace: str, resource: str) -> None:
    made_workload(account.plane, namespace)
    api = account.have(without(GATEWAY, "list", resource))
    missing(api, GATEWAY, 1)
    cache = api.watch(KINDS[resource], namespace)
    with pytest.raises(ForbiddenError, match=f"no right to list {resource}"):
        cache.synced(PATIENCE_S)
    cache.close()
    api.close()


def test_advice_is_read_only_and_its_rights_suffice(
    account: Account, nodes: SimulatedNodes, namespace: str, asked: Asked
) -> None:
    nodes.add_nodes(1, 2)
    made_workload(account.plane, namespace)
    api = account.have(ADVICE)
    missing(api, ADVICE, 0)
    asked.clear()
    found = read_workload_object(api, "serving")
    assert found.look(api).free == {"a100-40gb": 2}
    assert look(api).free == {"a100-40gb": 2}
    assert newest_plan(api, "serving") is None
    # Beside these: a table in a ConfigMap, where a Workload names one, and `status` (test_advice.py).
    beside = {("get", "configmaps"), ("list", "workloads"), ("list", "transitions")}
    assert set(each_verb(ADVICE)) - asked <= beside | {("watch", each) for each in KINDS}
    assert {verb for verb, _ in asked} <= {"get", "list", "watch"}
    api.close()


def test_who_may_approve_may_do_nothing_else(account: Account) -> None:
    api = account.have(APPROVAL)
    missing(api, APPROVAL, 0)
    for verb, resource in set(each_verb(CONTROLLER)) - set(each_verb(APPROVAL)):
        if "/" not in resource:
            with pytest.raises(ForbiddenError):
                request(api, verb, resource)
    api.close()
