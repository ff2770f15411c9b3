"""The controller as a process of its own, on a real control plane with a strict node side."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from tests.kubernetes.control_plane.client import path_of
from tests.kubernetes.control_plane.cluster import wait_until
from tests.kubernetes.control_plane.controllers import Controllers
from tests.kubernetes.control_plane.dashboard import Dashboard
from tests.kubernetes.control_plane.installation import install_resources
from tests.kubernetes.control_plane.nodes import SimulatedNodes, Timing
from tests.kubernetes.test_rights import start
from tests.kubernetes_units.specs import good
from tests.process.ports import free_ports

from partita.kubernetes.connecting import open_api
from partita.kubernetes.journal import ApiPlans

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.kubernetes.control_plane.cluster import ControlPlane

Object = dict[str, Any]
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def crds(control_plane: ControlPlane) -> ControlPlane:
    """A control plane that knows Partita's resources."""
    install_resources(control_plane)
    return control_plane


class Cluster(Controllers):
    """A namespace with nodes, and controllers that are started and killed."""

    hold_s = 5

    def create(self, spec: Object, name: str = "serving") -> None:
        self.admin.create(
            "workloads",
            {
                "apiVersion": "partita.dev/v1alpha1",
                "kind": "Workload",
                "metadata": {"name": name},
                "spec": spec,
            },
            self.namespace,
        )

    def change(self, name: str = "serving", **fields: Any) -> None:
        """Change a Workload's spec."""
        path = path_of("workloads", self.namespace, name)
        self.admin.call("PATCH", path, {"spec": fields}, "application/merge-patch+json")

    def approve(self, plan: str, uid: str) -> None:
        path = path_of("plans", self.namespace, plan)
        meta = {"annotations": {"partita.dev/approved": uid}}
        self.admin.call("PATCH", path, {"metadata": meta}, "application/merge-patch+json")

    def objects(self, plural: str) -> list[Object]:
        """Return the namespace's objects, in the order of their names' numbers."""
        found = self.admin.objects(plural, self.namespace)
        return sorted(found, key=lambda each: (len(each["metadata"]["name"]), each["metadata"]["name"]))

    def holder(self) -> str:
        found = self.admin.find("leases", f"partita-{self.namespace}", "default") or {"spec": {}}
        return str(found["spec"].get("holderIdentity", ""))

    def clear(self) -> None:
        """Delete the Workloads while a controller can drain them."""
        if any(each.poll() is None for each in self._running):
            for each in self.objects("workloads"):
                self.admin.delete("workloads", each["metadata"]["name"], self.namespace)
            self.wait(lambda: not self.objects("workloads"), "all Workloads are gone")

    def workload(self, name: str = "serving") -> Object:
        found = self.admin.find("workloads", name, self.namespace)
        return found or {}

    def state(self, name: str = "serving") -> str:
        """Return the state that belongs to the spec as it is now."""
        found = self.workload(name)
        status = found.get("status", {})
        known = status.get("observedGeneration") == found.get("metadata", {}).get("generation")
        return str(status.get("state", "")) if known else ""

    def condition(self, kind: str, name: str = "serving") -> Object:
        found = self.workload(name).get("status", {}).get("conditions", ())
        return next((each for each in found if each["type"] == kind), {})

    def ready(self, service: str = "resnet50") -> int:
        """Return how many pods of a service are ready."""
        return sum(
            each["metadata"]["labels"].get("partita.dev/service") == service
            and "deletionTimestamp" not in each["metadata"]
            and any(
                one["type"] == "Ready" and one["status"] == "True"
                for one in each["status"].get("conditions", ())
            )
            for each in self.admin.objects("pods", self.namespace)
        )

    def wait(self, condition: Any, what: str, seconds: float = PATIENCE_S) -> None:
        def asked() -> object:
            assert not any(each.poll() for each in self._running if each.poll() != -signal.SIGKILL), (
                self.logs()
            )
            return condition()

        try:
            wait_until(asked, seconds, what)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.workload()}\n{self.logs()}") from None


@pytest.fixture
def cluster(crds: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Cluster]:
    with SimulatedNodes(crds, Timing(scale=0.1)) as nodes:
        nodes.add_nodes(1, 4)
        found = Cluster(crds, nodes, namespace, tmp_path)
        try:
            yield found
            found.clear()
        finally:
            found.stop()


def spec(rate: float = 300, **more: Any) -> Object:
    found = good() | more
    found["services"][0]["rate"] = rate
    found["pod"]["spec"]["terminationGracePeriodSeconds"] = 1
    return found


def on_larger_gpus(**more: Any) -> Object:
    """Return a spec for A100s of 80 GB, which share no node with those of the others."""
    found = spec(gpus=[{"model": "a100-80gb"}], **more)
    table = found["performance"][0]["csv"].replace("a100-40gb", "a100-80gb")
    for profile in ("1g.5gb", "2g.10gb", "3g.20gb", "7g.40gb"):
        slices, memory = profile.removesuffix("gb").split("g.")
        table = table.replace(profile, f"{slices}g.{2 * int(memory)}gb")
    found["performance"][0]["csv"] = table
    return found


def test_a_workload_becomes_a_plan_a_transition_and_pods(cluster: Cluster) -> None:
    cluster.controller()
    cluster.create(spec(1500))
    cluster.wait(lambda: cluster.state() == "Serving", "it serves")
    assert cluster.ready() >= 2
    (plan,) = cluster.objects("plans")
    assert plan["spec"]["why"] == "there is no plan yet"
    assert plan["status"]["state"] == "Current"
    (transition,) = cluster.objects("transitions")
    status = transition["status"]
    assert status["state"] == "Reached"
    assert status["done"] == status["actions"] >= 4
    begun, ended = (datetime.fromisoformat(status[each]) for each in ("begun", "ended"))
    in_time = 2 * (
        (ended - begun).total_seconds() + 1
    )  # the lease and the progress, which are written by the clock
    assert status["writes"] <= 6 * status["actions"] + in_time
    assert {each["type"]: each["status"] for each in status["conditions"]} == {
        "Progressing": "False",
        "Degraded": "False",
        "Reached": "True",
    }
    assert {each["type"]: each["status"] for each in cluster.workload()["status"]["conditions"]} == {
        "Accepted": "True",
        "Planned": "True",
        "Approved": "True",
        "Ready": "True",
        "Degraded": "False",
        "Exposed": "False",  # the pods name no port
    }
    reasons = {(each["involvedObject"]["kind"], each["reason"]) for each in cluster.objects("events")}
    assert {
        ("Workload", "Planned"),
        ("Plan", "Planned"),
        ("Transition", "Began"),
        ("Transition", "Reached"),
    } <= reasons

    cluster.change(services=[{**spec()["services"][0], "rate": 300}])
    cluster.wait(lambda: cluster.workload()["status"]["plan"] == "serving-2", "it is planned anew")
    cluster.wait(lambda: cluster.state() == "Serving", "it serves less")
    assert cluster.workload()["status"]["gpus"] == 1
    assert cluster.objects("plans")[1]["spec"]["why"] == "the workload has changed"
    assert [each["status"]["state"] for each in cluster.objects("plans")] == ["Superseded", "Current"]


def test_a_plan_waits_for_an_approval_that_names_it(cluster: Cluster) -> None:
    cluster.controller()
    cluster.create(spec(300, approve="Manual"))
    cluster.wait(lambda: cluster.state() == "Waiting", "it waits")
    approved = cluster.condition("Approved")
    assert approved["reason"] == "WaitingForApproval"
    assert "kubectl partita approve serving-1" in approved["message"]
    cluster.approve("serving-1", "another-uid")
    (plan,) = cluster.objects("plans")
    cluster.wait(lambda: cluster.objects("plans")[0]["status"]["state"] == "Waiting", "the plan waits")
    assert not cluster.objects("pods")
    assert cluster.workload()["status"]["gpus"] == 0
    cluster.approve("serving-1", plan["metadata"]["uid"])
    cluster.wait(lambda: cluster.state() == "Serving", "it serves")
    cluster.change(services=[{**spec()["services"][0], "rate": 1500}])
    cluster.wait(lambda: cluster.workload()["status"]["plan"] == "serving-2", "it is planned anew")
    cluster.approve("serving-2", plan["metadata"]["uid"])  # of the plan before
    cluster.wait(lambda: cluster.state() == "Waiting", "the new plan waits")
    assert cluster.ready() == 1
    cluster.approve("serving-2", cluster.objects("plans")[1]["metadata"]["uid"])
    cluster.wait(lambda: cluster.state() == "Serving" and cluster.ready() >= 2, "it serves more")


def test_an_approval_that_comes_as_a_step_ends_is_carried_out(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step has found the plan not approved, and what is told of it afterwards finds it approved."""
    ask, late = ApiPlans.approved, True

    def approved(plans: ApiPlans) -> bool:
        nonlocal late
        found = ask(plans)
        if late and not found:
            late = False
            (plan,) = cluster.objects("plans")
            cluster.approve("serving-1", plan["metadata"]["uid"])
            wait_until(lambda: ask(plans), 30.0, "it is seen to be approved")
            plans.held = not found
        return found

    monkeypatch.setattr(ApiPlans, "approved", approved)
    api = open_api(str(cluster.plane.kubeconfig("admin")), namespace=cluster.namespace)
    stop = threading.Event()
    thread, said = start(api, cluster.namespace, stop)
    try:
        cluster.create(spec(300, approve="Manual"))
        cluster.wait(lambda: cluster.state() == "Serving", f"it serves: {said}")
        cluster.admin.delete("workloads", "serving", cluster.namespace)
        cluster.wait(lambda: not cluster.workload(), f"it is gone: {said}")
    finally:
        stop.set()
        thread.join()
        api.close()
    assert not late


def test_what_cannot_be_carried_has_a_condition_with_a_hint_and_disturbs_nothing(cluster: Cluster) -> None:
    cluster.controller()
    cluster.create(spec())
    cluster.wait(lambda: cluster.state() == "Serving", "the first serves")

    def refused(name: str, reason: str, *texts: str) -> None:
        cluster.wait(lambda: cluster.condition("Accepted", name).get("reason") == reason, f"{name}: {reason}")
        found = cluster.condition("Accepted", name)
        assert found["status"] == "False"
        for text in texts:
            assert text in found["message"]
        assert cluster.state(name) == "Refused"

    cluster.create(spec(), "second")
    refused(
        "second",
        "PoolTaken",
        "serving has the GPUs of model a100-40gb",
        "give each Workload nodes of its own",
    )
    cluster.create(spec(performance=[{"configMap": {"name": "perf"}}], nodes={"no": "node"}), "third")
    refused(
        "third",
        "TableMissing",
        "performance[0].configMap",
        "kubectl create configmap perf --from-file=perf.csv",
    )
    cluster.admin.create("configmaps", config_map({"perf.csv": "a,b\n1,2\n"}), cluster.namespace)
    cluster.wait(
        lambda: cluster.condition("Accepted", "third").get("reason") == "TableInvalid", "the table is wrong"
    )
    assert "ConfigMap perf perf.csv" in cluster.condition("Accepted", "third")["message"]
    cluster.create(spec(gpus=[{"model": "a1000"}]), "fourth")
    refused("fourth", "InvalidSpec", "a1000")
    other = spec(nodes={"no": "node"})
    other["services"][0]["model"] = "unheard-of"
    cluster.create(other, "fifth")
    refused("fifth", "InvalidSpec", "services[0].model", "unheard-of")
    template = spec(nodes={"no": "node"})
    template["pod"]["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": 1}}
    cluster.create(template, "sixth")
    refused("sixth", "InvalidSpec", "pod.spec.containers[0].resources", "nvidia.com/gpu")
    cluster.create(spec(nodes={"no": "node"}), "seventh")
    cluster.wait(
        lambda: cluster.condition("Planned", "seventh").get("reason") == "Infeasible", "there are no GPUs"
    )
    assert cluster.state() == "Serving"
    assert cluster.ready() == 1
    assert len(cluster.objects("transitions")) == 1
    cluster.admin.delete("workloads", "serving", cluster.namespace)
    cluster.wait(
        lambda: cluster.condition("Accepted", "second").get("status") == "True", "the second has its turn"
    )


def test_with_a_wrong_change_what_was_accepted_before_goes_on(cluster: Cluster) -> None:
    cluster.controller()
    cluster.create(spec())
    cluster.wait(lambda: cluster.state() == "Serving", "it serves")
    cluster.change(services=[{**spec()["services"][0], "profiles": ["9g"]}])
    cluster.wait(lambda: cluster.condition("Accepted").get("status") == "False", "it is refused")
    assert "going on with what was accepted before" in cluster.condition("Accepted")["message"]
    (pod,) = cluster.objects("pods")
    cluster.admin.delete("pods", pod["metadata"]["name"], cluster.namespace, grace=0)
    cluster.wait(
        lambda: (
            cluster.ready() == 1 and cluster.objects("pods")[0]["metadata"]["uid"] != pod["metadata"]["uid"]
        ),
        "the pod is made anew",
    )


@pytest.mark.parametrize("policy", ["Drain", "Orphan"])
def test_a_workload_that_is_deleted_ends_its_replicas_as_it_says(cluster: Cluster, policy: str) -> None:
    cluster.controller()
    cluster.create(spec(1500, deletionPolicy=policy))
    cluster.wait(lambda: cluster.state() == "Serving", "it serves")
    pods = cluster.ready()
    cluster.admin.delete("workloads", "serving", cluster.namespace)
    cluster.wait(lambda: not cluster.workload(), "it is gone")
    if policy == "Drain":
        cluster.wait(lambda: not cluster.objects("pods"), "its pods are gone")
        cluster.wait(lambda: not cluster.objects("resourceclaims"), "its claims are gone")
    else:
        assert cluster.ready() == pods
    cluster.wait(lambda: not cluster.objects("plans"), "its plans are gone")


def test_a_workload_that_is_deleted_half_way_is_drained(cluster: Cluster) -> None:
    cluster.controller()
    cluster.create(spec(1500))
    cluster.wait(lambda: cluster.objects("pods"), "it begins")
    cluster.admin.delete("workloads", "serving", cluster.namespace)
    cluster.wait(lambda: not cluster.workload(), "it is gone")
    cluster.wait(lambda: not cluster.objects("pods") and not cluster.objects("resourceclaims"), "all is gone")


def test_of_two_controllers_one_acts_and_the_other_follows_within_twenty_seconds(cluster: Cluster) -> None:
    first = cluster.controller()
    cluster.create(spec())
    cluster.wait(lambda: cluster.state() == "Serving", "it serves")
    second = cluster.controller()
    cluster.wait(lambda: "waiting: " in cluster.log_of(second), "the second waits")
    holder = cluster.holder()
    first.kill()
    cluster.wait(lambda: cluster.holder() not in {holder, ""}, "the second leads", 20.0)
    cluster.change(services=[{**spec()["services"][0], "rate": 1500}])
    cluster.wait(lambda: cluster.state() == "Serving" and cluster.ready() >= 2, "the second acts")
    following = cluster.holder()
    third = cluster.controller()
    cluster.wait(lambda: "waiting: " in cluster.log_of(third), "the third waits")
    second.send_signal(signal.SIGTERM)  # it hands the lease over, and ends
    assert second.wait(PATIENCE_S) == 0
    assert cluster.holder() not in {holder, following}
    cluster.wait(lambda: "leading as" in cluster.log_of(third), "the third leads")
    assert third.poll() is None


def test_a_holder_that_slept_too_long_writes_nothing_more(cluster: Cluster) -> None:
    first = cluster.controller()
    cluster.create(spec())
    cluster.wait(lambda: cluster.state() == "Serving", "it serves")
    second = cluster.controller()
    cluster.wait(lambda: "waiting: " in cluster.log_of(second), "the second waits")
    first.send_signal(signal.SIGSTOP)
    cluster.wait(lambda: "leading as" in cluster.log_of(second), "the second leads", 30.0)
    cluster.change(services=[{**spec()["services"][0], "rate": 1500}])
    first.send_signal(signal.SIGCONT)
    cluster.wait(lambda: cluster.state() == "Serving" and cluster.ready() >= 2, "the second acts")
    assert len(cluster.objects("plans")) == 2
    assert all(each["status"]["state"] == "Reached" for each in cluster.objects("transitions"))
    assert second.poll() is None
    assert first.poll() is None


def test_while_the_api_server_is_away_nothing_ends_and_then_it_goes_on(cluster: Cluster) -> None:
    cluster.controller()
    cluster.create(spec())
    cluster.wait(lambda: cluster.state() == "Serving", "it serves")
    with cluster.plane.apiserver_away():
        time.sleep(20)  # longer than the lease
    cluster.change(services=[{**spec()["services"][0], "rate": 1500}])
    cluster.wait(lambda: cluster.state() == "Serving" and cluster.ready() >= 2, "it goes on")


def test_probes_and_metrics(cluster: Cluster) -> None:
    (port,) = free_ports(1)
    cluster.controller("--port", str(port))
    cluster.create(spec())
    cluster.wait(lambda: cluster.state() == "Serving", "it serves")

    def page(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    assert page("/healthz") == page("/readyz") == "ok"
    metrics = page("/metrics")
    assert "partita_controller_leads 1.0" in metrics
    assert 'partita_controller_writes_total{resource="plans",verb="create"} 1.0' in metrics
    assert (
        f'partita_workload{{state="Serving",workload="serving",workload_namespace="{cluster.namespace}"}} 1.0'
        in metrics
    )
    own = f'workload="serving",workload_namespace="{cluster.namespace}"'
    assert f'partita_transition{{state="reached",{own}}} 1.0' in metrics
    assert re.search(rf'partita_gpus{{model="[^"]+",state="used",{own}}} [1-9]', metrics)
    services = set(re.findall(rf'partita_required_rate{{service="([^"]+)",{own}}} [1-9]', metrics))
    assert services
    for name in ("ready_capacity", "planned_capacity", "capacity_floor", "slo_seconds", "slo_objective"):
        assert set(re.findall(rf'partita_{name}{{service="([^"]+)",{own}}} (?!0\.0$)', metrics)) == services
    assert re.search(r'partita_instance_info{GPU_I_ID="",GPU_I_PROFILE="[^"]+",UUID="GPU-[^"]+",', metrics)


def test_without_partitas_resources_it_says_how_to_make_them(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "alone.log"
    path = cluster.plane.kubeconfig_as("nobody", "nobody")
    words = [sys.executable, "-m", "partita", "controller", "--kubeconfig", str(path), "--port", "0"]
    with log.open("wb") as stream:
        process = subprocess.Popen(words, stderr=stream)
    try:
        cluster.wait(lambda: "no right to get leases" in log.read_text(), "it says what is missing")
    finally:
        process.kill()
        process.wait()


def config_map(data: Object) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "perf"}, "data": data}


def test_the_controllers_own_api_shows_what_runs_and_approves(cluster: Cluster, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    token = tmp_path / "token"
    token.write_text("secret-of-those-who-approve")
    token.chmod(0o600)
    cluster.controller("--dash-port", str(port), "--dash-write-token-file", str(token))

    ask = Dashboard(port).ask

    def newest() -> Any:
        found = ask("/transitions")[1]["transitions"]
        return found[0] if found else {"state": "", "id": ""}

    cluster.create(spec(300, approve="Manual"))
    cluster.wait(lambda: ask("")[0] == 200, "the API answers")
    cluster.wait(lambda: newest()["state"] == "waiting", "the plan waits for approval")
    waiting = newest()["id"]
    assert waiting == f"{cluster.namespace}.serving-1"
    path = f"/transitions/{waiting}/approve"
    assert ask(path, "POST", if_match=f'"{waiting}.waiting"')[0] == 403
    write = {"authorization": "Bearer secret-of-those-who-approve"}
    assert ask(path, "POST", **write)[0] == 428
    assert ask(path, "POST", **write, if_match=f'"{waiting}.running"')[0] == 412
    plan = ask("/plan")[1]
    assert (plan["gpus"], plan["proven"]) == (1, True)
    status, told = ask(path, "POST", **write, if_match=f'"{waiting}.waiting"')
    assert (status, told["text"]) == (200, "serving-1 is approved")
    cluster.wait(lambda: cluster.state() == "Serving", "it serves")
    cluster.wait(lambda: newest()["state"] == "reached", "the transition is seen to be reached")
    assert ask(f"/transitions/{newest()['id']}")[1]["transition"]["done"] == newest()["done"] > 0

    def serving() -> bool:
        fleet = ask("/fleet")[1]
        return fleet["services"] == ["resnet50"] and 0 in fleet["instances"]["service"]

    cluster.wait(serving, "the replica is in the fleet")
    (service,) = ask("/services")[1]["services"]
    assert service["capacity"] >= service["required"] == 300
    assert service["slo_ms"] is not None
    assert ask("")[1]["parts"] == ["fleet", "services", "plan", "transitions", "jobs", "energy", "what-if"]
    assert ask("/plan/difference")[1]["actions"] == 0
    assert {each["kind"] for each in ask("/events")[1]["events"]} == {"action", "goal", "note", "state"}
    assert ask("/jobs") == (200, {"jobs": [], "counts": {}, "next": None})
    inputs = ask("/what-if")[1]
    assert inputs["workload"] == f"{cluster.namespace}/serving"
    assert [each["count"] for each in inputs["pools"]] == [len(ask("/gpus")[1]["gpus"])]
    before = cluster.admin.get("workloads", "serving", cluster.namespace)["spec"]
    asked = {"services": {"resnet50": {"rate": 1400.0}}}
    status, answer = ask("/what-if", "POST", asked)
    assert (status, answer["feasible"], answer["now"]) == (200, True, 1)
    assert answer["plan"]["gpus"] == answer["bound"] == 2
    assert answer["command"].startswith(f"kubectl partita plan serving --namespace {cluster.namespace} --set")
    assert cluster.admin.get("workloads", "serving", cluster.namespace)["spec"] == before
    status, found = ask("/services/resnet50/explain")
    assert status == 200
    assert found["explanation"]["service"] == "resnet50"
    assert ask("/services/nobody/explain")[0] == 404
    assert ask("/apply", "POST", **write, if_match='"x"')[0] in (409, 412, 415)
