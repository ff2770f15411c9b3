"""What the other tests stand on: programs that end with the tests, a proxy that cuts, hosts that reach each other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.kubernetes.control_plane.client import ApiError, Client, Stop
from tests.kubernetes.control_plane.cluster import folder_of_programs, wait_until
from tests.kubernetes.control_plane.hosts import LiveRuntime, Network
from tests.kubernetes.control_plane.nodes import SimulatedNodes, Timing
from tests.kubernetes.control_plane.objects import claim_object, pod_object
from tests.kubernetes.control_plane.proxy import Answer, Proxy

if TYPE_CHECKING:
    from tests.kubernetes.control_plane.cluster import ControlPlane

ROOT = Path(__file__).resolve().parents[2]

START = """
import sys, time
from pathlib import Path
from tests.kubernetes.control_plane.cluster import ControlPlane, folder_of_programs
plane = ControlPlane(folder_of_programs(), Path(sys.argv[1]))
plane.start()
print(*(process.pid for process in plane._running.values()), flush=True)
time.sleep(600)
"""

SERVER = """
import http.server, os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = os.environ["POD_IP"].encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
print("here I am", flush=True)
http.server.HTTPServer((os.environ["POD_IP"], 8080), Handler).serve_forever()
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(folder_of_programs() is None, reason="there are no programs of a control plane")
def test_the_programs_end_with_the_tests_even_when_these_are_killed(tmp_path):
    tests = subprocess.Popen(
        [sys.executable, "-c", START, str(tmp_path / "plane")],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert tests.stdout is not None
    pids = [int(pid) for pid in tests.stdout.readline().split()]
    assert len(pids) == 5
    assert all(alive(pid) for pid in pids)
    tests.send_signal(signal.SIGKILL)
    tests.wait()
    tests.stdout.close()
    wait_until(lambda: not any(alive(pid) for pid in pids), 20, "the programs ended")


def account(control_plane: ControlPlane, namespace: str, *verbs: str) -> None:
    """Make a service account that may do these things with pods, and nothing else."""
    name = "someone"
    admin = control_plane.admin
    admin.create("serviceaccounts", {"metadata": {"name": name}}, namespace)
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": list(verbs)}]
    admin.create("roles", {"metadata": {"name": name}, "rules": rules}, namespace)
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    admin.create(
        "rolebindings", {"metadata": {"name": name}, "subjects": [subject], "roleRef": role}, namespace
    )


def test_an_account_may_do_what_its_role_says_and_no_more(control_plane, namespace):
    account(control_plane, namespace, "list")
    client = Client(control_plane.kubeconfig_of("someone", namespace))
    assert client.objects("pods", namespace) == []
    with pytest.raises(ApiError, match=r'403 Forbidden: pods is forbidden: User ".*:someone" cannot create'):
        client.create("pods", pod_object("a", "a"), namespace)
    client.close()


def test_the_proxy_counts_refuses_stalls_and_cuts(control_plane, namespace):
    account(control_plane, namespace, "*")
    with Proxy(control_plane) as proxy:
        kubeconfig = proxy.kubeconfig_of("someone", namespace)
        client, hurried = Client(kubeconfig), Client(kubeconfig, timeout=2.0)
        stop = Stop()
        heard: list[tuple[str, str]] = []
        watch = threading.Thread(
            target=lambda: heard.extend(
                (each.kind, each.object["metadata"]["name"])
                for each in client.watch("pods", stop, namespace)
                if each.object
            )
        )
        watch.start()
        body = pod_object("a", "a")
        client.create("pods", body, namespace)
        assert [(each.verb, each.plural) for each in proxy.writes()] == [("POST", "pods")]
        wait_until(lambda: heard, 20, "the watch has begun")
        proxy.before = lambda request: Answer(409, "Conflict", "not now") if request.verb == "PATCH" else None
        with pytest.raises(ApiError, match="409 Conflict: not now"):
            client.patch("pods", "a", {"metadata": {"labels": {"x": "y"}}}, namespace)
        proxy.before = None
        proxy.stall()
        with pytest.raises(OSError, match="timed out"):
            hurried.get("pods", "a", namespace)
        proxy.resume()
        proxy.cut()
        client.patch("pods", "a", {"metadata": {"labels": {"x": "z"}}}, namespace)
        wait_until(lambda: ("MODIFIED", "a") in heard, 20, "the watch goes on")
        stop.set()
        watch.join()
        client.close()
        hurried.close()


def test_a_real_process_serves_at_its_pods_address_until_it_is_cut_off(control_plane, namespace):
    with (
        Network(2) as network,
        LiveRuntime(control_plane.guard) as runtime,
        SimulatedNodes(control_plane, Timing(scale=0.02), runtime) as side,
    ):
        names = side.add_nodes(2, 1)
        runtime.hosts = dict(zip(names, network.hosts, strict=True))
        admin = control_plane.admin
        for index, node in enumerate(names):
            expression = "device.attributes['gpu.nvidia.com'].profile == '1g.5gb'"
            admin.create("resourceclaims", claim_object(f"c{index}", expression), namespace)
            body = pod_object(
                f"p{index}", f"c{index}", command=[sys.executable, "-u", "-c", SERVER], grace=60
            )
            body["spec"]["nodeSelector"] = {"kubernetes.io/hostname": node}
            body["spec"]["containers"][0]["readinessProbe"] = {"httpGet": {"path": "/", "port": 8080}}
            admin.create("pods", body, namespace)

        def ready(name: str) -> bool:
            conditions = admin.get("pods", name, namespace)["status"].get("conditions") or []
            return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

        wait_until(lambda: ready("p0") and ready("p1"), 40, "both are ready")
        address = admin.get("pods", "p1", namespace)["status"]["podIP"]
        assert address.startswith(network.hosts[1].subnet)
        assert fetch(address, 60) == address
        network.hosts[1].cut()
        with pytest.raises(OSError, match=r"timed out|No route"):
            fetch(address)
        wait_until(lambda: not ready("p1"), 20, "its probe fails")
        wait_until(lambda: ready("p0"), 20, "the other's succeeds")
        network.hosts[1].join()
        wait_until(lambda: ready("p1"), 20, "its probe succeeds again")
        runtime.containers[f"{namespace}/p1"].kill()
        wait_until(
            lambda: admin.get("pods", "p1", namespace)["status"]["containerStatuses"][0]["restartCount"] == 1,
            20,
            "it is started again",
        )
        code, log = admin.raw("GET", f"/api/v1/namespaces/{namespace}/pods/p0/log")
        assert (code, log.splitlines()[0]) == (200, b"here I am")
        admin.delete("pods", "p0", namespace)
        wait_until(lambda: admin.find("pods", "p0", namespace) is None, 20, "it ended")
        ended = [each.why for each in side.records if (each.kind, each.pod) == ("exit", f"{namespace}/p0")]
        assert ended == ["0 Completed"]  # when it was asked to: it was not killed at the end of its grace


def fetch(address: str, seconds: int = 2) -> str:
    done = subprocess.run(
        ["curl", "-s", "--max-time", str(seconds), f"http://{address}:8080/"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise OSError(f"timed out ({done.returncode})")
    return done.stdout
