"""Kubernetes Jobs on what services leave free, on a real control plane with a strict node side."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.kubernetes.control_plane.client import path_of
from tests.kubernetes.control_plane.cluster import wait_until
from tests.kubernetes.control_plane.controllers import Controllers
from tests.kubernetes.control_plane.dashboard import Dashboard
from tests.kubernetes.control_plane.installation import install_resources
from tests.kubernetes.control_plane.tools import run
from tests.kubernetes_units.specs import good
from tests.process.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kubernetes.control_plane.cluster import ControlPlane
    from tests.kubernetes.control_plane.nodes import SimulatedNodes

Object = dict[str, Any]
PATIENCE_S = 120.0
POLICY = Path(__file__).parents[2] / "deploy" / "jobs" / "policy.yaml"
ENDS = "test.partita.dev/ends"
TABLE = """model,gpu,profile,batch,processes,throughput,latency_ms,quantile
resnet50,a100-40gb,1g.5gb,8,1,100,20,p99
resnet50,a100-40gb,2g.10gb,8,1,210,18,p99
resnet50,a100-40gb,3g.20gb,8,1,330,15,p99
"""
OUT_OF_MEMORY = "step 1\nstep 2\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> ControlPlane:
    """A control plane that knows Partita's resources, and writes the claim into Jobs."""
    install_resources(control_plane)
    for body in yaml.safe_load_all(POLICY.read_text()):
        plural = {"MutatingAdmissionPolicy": "mutatingadmissionpolicies"}.get(
            body["kind"], "mutatingadmissionpolicybindings"
        )
        at = path_of(plural, None, body["metadata"]["name"])
        control_plane.admin.call("PATCH", at, body, "application/apply-patch+yaml", fieldManager="test")

    def works() -> bool:
        body = job_body("probe") | {"metadata": {"name": "probe", "labels": {"partita.dev/queue": "nobody"}}}
        made = control_plane.admin.call("POST", path_of("jobs", "default"), body, dryRun="All")
        return bool(made["spec"].get("suspend"))

    wait_until(works, 30.0, "the policy is in force")
    return control_plane


def job_body(name: str, *, memory: str = "", ends: Object | None = None, **spec: Any) -> Object:
    """Return a plain Job of the queue `serving`."""
    labels = {"partita.dev/queue": "serving"} | ({"partita.dev/memory": memory} if memory else {})
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "backoffLimit": 6,
            "template": {
                "metadata": {"annotations": {ENDS: json.dumps(ends)} if ends else {}},
                "spec": {
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": 2,
                    "containers": [{"name": "train", "image": "train:1", "command": ["train", name]}],
                },
            },
        }
        | spec,
    }


class Cluster(Controllers):
    """A namespace with one node, a Workload and controllers."""

    def free_lease(self) -> None:
        lease = self.admin.get("leases", f"partita-{self.namespace}", "default")
        lease["spec"]["holderIdentity"] = ""
        self.admin.replace("leases", lease)

    def serve(self, rate: float) -> None:
        """Have a Workload `serving`, or have it ask for another rate."""
        spec = good()
        spec["services"][0]["rate"] = rate
        spec["performance"] = [{"csv": TABLE}]
        spec["pod"]["spec"]["terminationGracePeriodSeconds"] = 1
        if self.admin.find("workloads", "serving", self.namespace) is None:
            body = {"apiVersion": "partita.dev/v1alpha1", "kind": "Workload", "metadata": {"name": "serving"}}
            self.admin.create("workloads", body | {"spec": spec}, self.namespace)
        else:
            self.admin.patch("workloads", "serving", {"spec": spec}, self.namespace)

    def capacity(self) -> int:
        """Return how many pods of the service are ready."""
        return sum(
            "partita.dev/service" in each["metadata"].get("labels", {}) and _ready(each)
            for each in self.pods()
        )

    def submit(self, body: Object) -> None:
        self.admin.create("jobs", body, self.namespace)

    def delete(self, job: str) -> None:
        """Delete a Job as `kubectl delete` does, with its pods."""
        how = {"propagationPolicy": "Background"}
        self.admin.call("DELETE", path_of("jobs", self.namespace, job), how)

    def job(self, name: str) -> Object:
        return self.admin.find("jobs", name, self.namespace) or {"metadata": {}, "spec": {}, "status": {}}

    def said(self, name: str, key: str) -> str:
        return str(self.job(name)["metadata"].get("annotations", {}).get(f"partita.dev/{key}", ""))

    def pods(self) -> list[Object]:
        return self.admin.objects("pods", self.namespace)

    def pods_of(self, job: str) -> list[Object]:
        key = "batch.kubernetes.io/job-name"
        return [each for each in self.pods() if each["metadata"].get("labels", {}).get(key) == job]

    def running(self, job: str) -> int:
        return sum(_ready(each) for each in self.pods_of(job))

    def slices(self) -> dict[str, str]:
        """Return the device that each pod has prepared, by the pod's name, from what the node side recorded."""
        return {each.pod.split("/")[1]: each.device for each in self.nodes.records if each.kind == "prepare"}

    def queue(self) -> Object:
        """Return what `partita queue` shows of the namespace."""
        command = [
            sys.executable, "-m", "partita", "queue", "--kubeconfig", str(self.plane.kubeconfig("admin")),
            "--namespace", self.namespace, "-o", "json",
        ]  # fmt: skip
        found: Object = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return found

    def wait(self, condition: Any, what: str, seconds: float = PATIENCE_S) -> None:
        try:
            wait_until(condition, seconds, what)
        except TimeoutError as error:
            logs = "\n".join(path.read_text() for path in sorted(self._folder.glob("controller-*.log")))
            jobs = [
                (
                    each["metadata"]["name"],
                    each["metadata"].get("annotations"),
                    each["spec"].get("suspend"),
                    each["status"],
                )
                for each in self.admin.objects("jobs", self.namespace)
            ]
            pods = [(each["metadata"]["name"], each["status"]["phase"]) for each in self.pods()]
            workload = self.admin.find("workloads", "serving", self.namespace) or {}
            text = json.dumps([jobs, pods, workload.get("status")])
            raise AssertionError(f"{error}\n{text}\n{logs}") from None


def _ready(pod: Object) -> bool:
    ready = (one["status"] == "True" for one in pod["status"].get("conditions", ()) if one["type"] == "Ready")
    return "deletionTimestamp" not in pod["metadata"] and any(ready)


@pytest.fixture
def cluster(plane: ControlPlane, nodes: SimulatedNodes, namespace: str, tmp_path: Path) -> Iterator[Cluster]:
    nodes.add_nodes(1, 1)
    found = Cluster(plane, nodes, namespace, tmp_path)
    yield found
    found.stop()


def test_three_jobs_are_packed_beside_a_service(cluster: Cluster) -> None:
    cluster.controller()
    cluster.serve(300)
    cluster.wait(lambda: cluster.capacity() >= 1, "the service runs")
    for name in ("a", "b", "c"):
        cluster.submit(job_body(name, memory="4Gi"))
    cluster.wait(lambda: all(cluster.running(name) for name in "abc"), "the Jobs run")
    prepared = cluster.nodes.prepared()["node-0"]
    assert len(prepared) == 4
    assert not [each for each in cluster.nodes.records if each.kind == "refuse"]
    cluster.wait(lambda: cluster.said("a", "state") == "Running", "it says so")
    assert " on node-0/gpu-0" in cluster.said("a", "reason")
    cluster.submit(job_body("d", memory="18Gi"))
    cluster.wait(lambda: "all busy" in cluster.said("d", "reason"), "the fourth waits")
    cluster.wait(lambda: cluster.said("d", "expected-start").startswith("~"), "a start is foretold")

    def told() -> bool:
        """Say whether the queue tells the same; a reason may be written anew between the two."""
        rows = {row["name"]: row for row in cluster.queue()["jobs"]}
        assert rows["d"]["start_estimated"] is True
        states = [rows[name]["state"] for name in "abcd"]
        told = rows["d"]["reason"] == cluster.said("d", "reason")
        return told and states == ["running", "running", "running", "waiting"]

    cluster.wait(told, "the queue tells the same")


def test_a_job_out_of_memory_gets_the_next_larger_slice(cluster: Cluster) -> None:
    cluster.controller()
    cluster.serve(300)
    cluster.wait(lambda: cluster.capacity() >= 1, "the service runs")
    body = job_body("grows", ends={"after": 0.5, "code": 1, "log": OUT_OF_MEMORY})
    cluster.submit(body)

    def grown() -> bool:
        found = json.loads(cluster.said("grows", "attempts") or "{}")
        return len(found.get("ends", ())) >= 2

    cluster.wait(grown, "two attempts ran out of memory")
    ends = json.loads(cluster.said("grows", "attempts"))["ends"]
    assert [each["placement"].partition("@")[0] for each in ends[:2]] == ["1g.5gb", "1g.10gb"]
    assert {each["verdict"] for each in ends} == {"out of memory"}
    assert ends[0]["said"].startswith("torch.OutOfMemoryError")
    devices = [
        each.device for each in cluster.nodes.records if each.kind == "prepare" and "grows" in each.pod
    ]
    assert ["1g5gb" in devices[0], "1g10gb" in devices[1]] == [True, True]
    cluster.wait(
        lambda: (
            "OutOfMemory" in {each["reason"] for each in cluster.admin.objects("events", cluster.namespace)}
        ),
        "an event tells it",
    )


def test_a_container_that_is_started_again_after_out_of_memory_moves_to_the_next_larger_slice(
    cluster: Cluster,
) -> None:
    cluster.controller()
    cluster.serve(300)
    cluster.wait(lambda: cluster.capacity() >= 1, "the service runs")
    body = job_body("again", ends={"after": 0.5, "code": 1, "log": OUT_OF_MEMORY})
    body["spec"]["template"]["spec"]["restartPolicy"] = "OnFailure"
    cluster.submit(body)

    def ends() -> list[Object]:
        return list(json.loads(cluster.said("again", "attempts") or "{}").get("ends", ()))

    cluster.wait(lambda: len(ends()) >= 2, "two attempts ran out of memory")
    assert [each["placement"].partition("@")[0] for each in ends()[:2]] == ["1g.5gb", "1g.10gb"]
    devices = [
        each.device for each in cluster.nodes.records if each.kind == "prepare" and "again" in each.pod
    ]
    assert ["1g5gb" in devices[0], "1g10gb" in devices[1]] == [True, True]
    assert not cluster.job("again")["status"].get("failed")  # it was suspended, which counts against nothing


def test_of_several_pods_only_the_one_out_of_memory_is_replaced(cluster: Cluster) -> None:
    cluster.controller()
    cluster.serve(300)
    cluster.wait(lambda: cluster.capacity() >= 1, "the service runs")
    body = job_body("two", parallelism=2, completions=2)
    body["spec"]["template"]["spec"]["restartPolicy"] = "OnFailure"
    cluster.submit(body)
    cluster.wait(lambda: cluster.running("two") == 2, "both run")
    first, other = cluster.pods_of("two")
    before = cluster.slices()[first["metadata"]["name"]]
    cluster.nodes.end_container(cluster.namespace, first["metadata"]["name"], 1, "Error", OUT_OF_MEMORY)

    def replaced() -> bool:
        names = {each["metadata"]["name"] for each in cluster.pods_of("two")}
        return first["metadata"]["name"] not in names and cluster.running("two") == 2

    cluster.wait(replaced, "it is replaced")
    uids = {each["metadata"]["uid"] for each in cluster.pods_of("two") if _ready(each)}
    assert other["metadata"]["uid"] in uids  # which ran on all the while
    (new,) = uids - {other["metadata"]["uid"]}
    name = next(each["metadata"]["name"] for each in cluster.pods_of("two") if each["metadata"]["uid"] == new)
    assert ("1g5gb" in before, "1g10gb" in cluster.slices()[name]) == (True, True)


def test_jobs_yield_to_a_service_that_comes(cluster: Cluster) -> None:
    cluster.controller()
    cluster.serve(300)
    cluster.wait(lambda: cluster.capacity() >= 1, "the service runs")
    cluster.submit(job_body("large", memory="18Gi"))
    cluster.wait(lambda: cluster.running("large") == 1, "the Job runs")
    cluster.serve(640)
    cluster.wait(lambda: cluster.job("large")["spec"].get("suspend"), "it is suspended")
    cluster.wait(lambda: cluster.said("large", "state") == "Waiting", "it waits again")
    assert "services need" in cluster.said("large", "reason")
    assert not cluster.job("large")["status"].get("failed")

    def order() -> list[str]:
        cut = [each for each in cluster.nodes.records if each.kind in {"prepare", "unprepare"}]
        return [each.kind for each in cut if "large" in each.pod]

    cluster.wait(lambda: order() == ["prepare", "unprepare"], "its slice is free")
    assert not [each for each in cluster.nodes.records if each.kind == "refuse"]
    cluster.nodes.add_nodes(1, 1)
    cluster.wait(lambda: cluster.running("large") == 1, "it runs again where there is room")


def test_kueues_jobs_yield_by_their_pods_and_go_when_kueue_says(cluster: Cluster) -> None:
    """Kueue is played by its label, and by whoever sets `spec.suspend`."""
    cluster.controller()
    cluster.serve(300)
    cluster.wait(lambda: cluster.capacity() >= 1, "the service runs")
    body = job_body("admitted", memory="18Gi", suspend=False)
    body["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "team"
    cluster.submit(body)
    cluster.wait(lambda: cluster.running("admitted") == 1, "Kueue's Job runs")
    (pod,) = cluster.pods_of("admitted")
    cluster.serve(640)
    cluster.wait(
        lambda: (
            pod["metadata"]["uid"] not in {each["metadata"]["uid"] for each in cluster.pods_of("admitted")}
        ),
        "its pod makes room",
    )
    cluster.wait(lambda: cluster.capacity() >= 2, "the service has it")
    cluster.wait(lambda: cluster.said("admitted", "state") == "Waiting", "the next pod waits")
    assert cluster.job("admitted")["spec"].get("suspend") is False  # that is Kueue's affair
    assert cluster.running("admitted") == 0
    cluster.nodes.add_nodes(1, 1)
    cluster.wait(lambda: cluster.running("admitted") == 1, "it runs where there is room")
    cluster.admin.patch(
        "jobs", "admitted", {"spec": {"suspend": True}}, cluster.namespace
    )  # Kueue preempts it
    cluster.wait(lambda: cluster.said("admitted", "state") == "Suspended", "it says so")
    assert cluster.said("admitted", "reason") == "Kueue has not admitted it"
    cluster.wait(lambda: not cluster.pods_of("admitted"), "its slice is free")
    cluster.submit(job_body("next", memory="30Gi"))
    cluster.wait(lambda: cluster.running("next") == 1, "another has all of the GPU")
    cluster.admin.patch("jobs", "admitted", {"spec": {"suspend": False}}, cluster.namespace)
    cluster.wait(lambda: cluster.said("admitted", "state") == "Waiting", "it waits for a slice")
    cluster.delete("next")
    cluster.wait(lambda: cluster.running("admitted") == 1, "and gets it")
    assert not [each for each in cluster.nodes.records if each.kind == "refuse"]


def test_kubectl_and_the_queue_tell_the_same(cluster: Cluster) -> None:
    cluster.controller()
    cluster.serve(300)
    cluster.wait(lambda: cluster.capacity() >= 1, "the service runs")
    refused = job_body("refused")
    limits = {"limits": {"nvidia.com/gpu": "1"}}
    refused["spec"]["template"]["spec"]["containers"][0]["resources"] = limits
    kueues = job_body("kueues", memory="4Gi", suspend=True)
    kueues["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "team"
    for body in (job_body("runs", memory="18Gi"), refused, kueues, job_body("huge", memory="90Gi")):
        cluster.submit(body)
    cluster.wait(lambda: cluster.said("runs", "state") == "Running", "one runs")
    cluster.submit(job_body("waits", memory="18Gi"))
    states = {
        "runs": "Running",
        "refused": "Refused",
        "kueues": "Suspended",
        "huge": "Waiting",
        "waits": "Waiting",
    }
    cluster.wait(
        lambda: all(cluster.said(name, "state") == state for name, state in states.items()), "all are seen"
    )
    cluster.wait(lambda: cluster.said("waits", "expected-start"), "a start is foretold")
    words = ["--kubeconfig", str(cluster.plane.kubeconfig("admin")), "--namespace", cluster.namespace]

    def told() -> bool:
        """Say whether both say the same; a reason may be written anew between the two."""
        rows = {row["name"]: row for row in cluster.queue()["jobs"]}
        table = json.loads(run("kubectl", "get", "jobs", "--output", "json", *words))["items"]
        found = {each["metadata"]["name"]: each["metadata"]["annotations"] for each in table}
        return {name: (row["state"], row["reason"]) for name, row in rows.items()} == {
            name: (notes["partita.dev/state"].lower(), notes["partita.dev/reason"])
            for name, notes in found.items()
        }

    cluster.wait(told, "kubectl and the queue tell the same")

    def described(name: str) -> bool:
        text = " ".join(run("kubectl", "describe", "job", name, *words).split())  # it breaks long lines
        return f"partita.dev/reason: {' '.join(cluster.said(name, 'reason').split())}" in text

    for name in states:
        cluster.wait(lambda name=name: described(name), f"it describes {name} so, too")
    assert "nvidia.com/gpu" in cluster.said("refused", "reason")
    assert "all busy" in cluster.said("waits", "reason")


def test_another_controller_goes_on(cluster: Cluster) -> None:
    first = cluster.controller()
    cluster.serve(300)
    cluster.wait(lambda: cluster.capacity() >= 1, "the service runs")
    cluster.submit(job_body("runs", memory="4Gi"))
    cluster.wait(lambda: cluster.running("runs") == 1, "a Job runs")
    first.kill()
    first.wait()
    before = [each["metadata"]["uid"] for each in cluster.pods_of("runs")]
    cluster.submit(job_body("waits", memory="4Gi"))
    name = cluster.pods_of("runs")[0]["metadata"]["name"]
    cluster.nodes.end_container(cluster.namespace, name, 1, "Error", OUT_OF_MEMORY)
    cluster.free_lease()
    cluster.controller()
    cluster.wait(lambda: cluster.running("waits") == 1, "the next controller starts what waits")

    def after() -> list[str]:
        """Return the names of those pods that are ready and were not there before."""
        new = [each for each in cluster.pods_of("runs") if each["metadata"]["uid"] not in before]
        return [each["metadata"]["name"] for each in new if _ready(each)]

    cluster.wait(after, "and goes on with what has ended")
    assert "1g10gb" in cluster.slices()[after()[0]]
    assert not [each for each in cluster.nodes.records if each.kind == "refuse"]


def test_a_deleted_job_frees_its_slice_and_others_jobs_are_left_alone(cluster: Cluster) -> None:
    cluster.controller()
    cluster.serve(300)
    cluster.wait(lambda: cluster.capacity() >= 1, "the service runs")
    foreign = job_body("foreign", suspend=True)
    del foreign["metadata"]["labels"]
    cluster.submit(foreign)
    kueue = job_body("kueue", memory="4Gi", suspend=True)
    kueue["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "team"
    cluster.submit(kueue)
    cluster.submit(job_body("whole", memory="18Gi", parallelism=1))
    cluster.wait(lambda: cluster.running("whole") == 1, "it runs")
    cluster.submit(job_body("next", memory="18Gi"))
    cluster.wait(lambda: "all busy" in cluster.said("next", "reason"), "the next one waits")
    cluster.delete("whole")
    cluster.wait(lambda: cluster.running("next") == 1, "the next one has its slice")
    cluster.wait(lambda: cluster.said("kueue", "state") == "Suspended", "Kueue's waits for Kueue")
    assert cluster.job("kueue")["spec"]["suspend"] is True
    cluster.admin.patch("jobs", "kueue", {"spec": {"suspend": False}}, cluster.namespace)
    cluster.delete("next")
    cluster.wait(lambda: cluster.running("kueue") == 1, "Kueue lets it go")
    assert cluster.job("foreign")["spec"]["suspend"] is True
    assert "annotations" not in cluster.job("foreign")["metadata"]


def test_each_pod_of_a_job_has_a_slice_of_its_own(cluster: Cluster) -> None:
    cluster.controller()
    cluster.serve(300)
    cluster.wait(lambda: cluster.capacity() >= 1, "the service runs")
    ends = {"after": 1.0, "code": 0}
    cluster.submit(job_body("many", memory="4Gi", ends=ends, parallelism=3, completions=5))
    cluster.wait(lambda: cluster.job("many")["status"].get("succeeded") == 5, "all are done")
    cluster.wait(lambda: cluster.said("many", "state") == "Succeeded", "it says so")
    assert not [each for each in cluster.nodes.records if each.kind == "refuse"]


def test_a_pod_that_never_starts_loses_its_slice_and_is_tried_again(cluster: Cluster) -> None:
    cluster.controller("--start-timeout", "8")
    cluster.serve(300)
    cluster.wait(lambda: cluster.capacity() >= 1, "the service runs")
    body = job_body("stuck", memory="18Gi")
    body["spec"]["template"]["metadata"]["annotations"]["test.partita.dev/fails"] = "prepare"
    cluster.submit(body)
    cluster.wait(lambda: "have not begun" in cluster.said("stuck", "attempts"), "its slice is taken away")
    cluster.wait(lambda: cluster.said("stuck", "state") == "Stopped", "it is given up after four times")
    cluster.submit(job_body("next", memory="18Gi"))
    assert "last of 4 attempts" in cluster.said("stuck", "reason")
    assert cluster.job("stuck")["spec"]["suspend"] is True
    cluster.wait(lambda: cluster.running("next") == 1, "the next one has its slice")


def test_the_controllers_api_shows_jobs_their_attempts_and_their_logs(cluster: Cluster) -> None:
    (port,) = free_ports(1)
    cluster.controller("--dash-port", str(port))
    ask = Dashboard(port).ask
    cluster.serve(300)
    cluster.wait(lambda: cluster.capacity() >= 1, "the service runs")
    cluster.submit(job_body("small", memory="4Gi"))
    cluster.wait(lambda: cluster.running("small"), "the Job runs")
    cluster.submit(job_body("large", memory="30Gi"))
    cluster.submit(job_body("grows", ends={"after": 0.5, "code": 1, "log": OUT_OF_MEMORY}))

    def jobs() -> dict[str, Object]:
        return {each["id"].partition(".")[2]: each for each in ask("/jobs")[1]["jobs"]}

    cluster.wait(lambda: cluster.said("large", "reason"), "the large one has a reason")
    cluster.wait(lambda: jobs().get("small", {}).get("state") == "running", "the API says what runs")
    found = jobs()
    assert found["small"]["gpu"] == "node-0/gpu-0"
    assert found["small"]["memory_bytes"] == [0.0, 4.0 * 2**30]
    assert found["large"]["state"] == "waiting"
    assert found["large"]["advice"] == "add nodes, or plan services on fewer GPUs: see What if"

    def on_the_gpu() -> list[str]:
        gpu = ask("/gpus/node-0%2Fgpu-0")[1]
        return [each["job"] for each in gpu["instances"] if each["state"] == "job"]

    cluster.wait(lambda: f"{cluster.namespace}.small" in on_the_gpu(), "the fleet shows it on its slice")

    def grown() -> Object:
        return dict(ask(f"/jobs/{cluster.namespace}.grows")[1])

    cluster.wait(lambda: len(grown()["attempts"]) >= 2, "it climbs the ladder")
    first, second, *_ = grown()["attempts"]
    assert first["placement"].startswith("1g.5gb@")
    assert second["placement"].startswith("1g.10gb@")
    assert (first["verdict"], first["code"]) == ("out of memory", 1)
    assert first["limit_bytes"] < second["limit_bytes"]
    path = f"/jobs/{cluster.namespace}.grows/log?attempt=1"
    status, log = ask(path)
    assert (status, log["text"], log["attempt"]) == (200, OUT_OF_MEMORY, 1)
    assert ask(f"{path}&after={log['next']}")[1] == {
        "text": "", "next": len(OUT_OF_MEMORY), "over": True, "attempt": 1,
    }  # fmt: skip
    assert ask(f"/jobs/{cluster.namespace}.large/log")[1]["attempt"] == 0
    status, page = ask("/jobs?limit=1")
    assert ask(f"/jobs?limit=1&after={page['next']}")[1]["jobs"][0]["id"] != page["jobs"][0]["id"]
    assert ask("/jobs?after=3")[0] == 422
    lost = job_body("lost")
    lost["metadata"]["labels"]["partita.dev/queue"] = "nobody"
    cluster.submit(lost)
    cluster.wait(lambda: "lost" in jobs(), "a Job of no Workload is shown, too")
    assert "no Workload nobody is accepted" in jobs()["lost"]["reason"]
    assert ask(f"/jobs/{cluster.namespace}.nobody")[0] == 404
    assert ask("/gpus/node-0%2Fgpu-0")[1]["watts"] > 100
    used = {("service", "resnet50"), ("job", f"{cluster.namespace}.small"), ("idle", "")}
    energy: Object = {}

    def counted() -> bool:
        energy.update(ask("/energy")[1])
        return used <= {(each["kind"], each["name"]) for each in energy["rows"] if each["joules"] > 0}

    cluster.wait(counted, "what each has used is counted")
    assert all(each["joules"] >= 0 for each in energy["rows"])
    assert energy["estimated"]
    assert "estimates by the power model" in ask("")[1]["notes"][-1]
