"""`partita gateway` in front of real workers in a cluster's pods, while replicas come and go."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from http.client import HTTPConnection
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from tests.kubernetes.control_plane import tensor_server
from tests.kubernetes.control_plane.cluster import wait_until
from tests.kubernetes.control_plane.hosts import LiveRuntime, Network
from tests.kubernetes.control_plane.nodes import SimulatedNodes, Timing
from tests.kubernetes.control_plane.tensor_server import MODEL
from tests.kubernetes.test_endpoints import know_workloads, perform
from tests.kubernetes_units.specs import good
from tests.serve.gateway.test_hosts import (
    PATIENCE_S,
    TABLE,
    TOKEN,
    WORKLOAD,
    Client,
    wait_for_workers,
    worker,
)

from partita.kubernetes.connecting import open_api
from partita.kubernetes.dra import DraDriver, DraSettings
from partita.kubernetes.rates import GatewayAccess, GatewayCounters
from partita.kubernetes.resources import GatewayRates
from partita.mig.layout import Placement
from partita.transition.deployment import Replica
from partita.transition.transition import Action, ActionKind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.kubernetes.control_plane.client import Object
    from tests.kubernetes.control_plane.cluster import ControlPlane

SEARCH = Replica("search", "resnet50", 4, 1, 200.0, 10.0)
REFUSED = ("503 the query's worker is gone or does not answer", "503 the deadline cannot be met")
"""What a query may be told whose host is cut off, if its deadline leaves no time for another."""


@contextmanager
def gateway(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    command = [sys.executable, "-m", "partita", "gateway", *words, "--port", "0", "--grpc-port", "0"]
    log = folder / "gateway.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stderr=file, env={**os.environ, "NO_COLOR": "1"})
    try:
        end = time.monotonic() + PATIENCE_S
        while not (found := re.search(r"HTTP at http://127\.0\.0\.1:(\d+)", log.read_text())):
            assert time.monotonic() < end
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield process, int(found[1])
    finally:
        process.kill()
        process.wait()


class Cluster:
    """Two hosts, a service with replicas on them, and a gateway that follows them."""

    def __init__(self, network: Network, side: SimulatedNodes, driver: DraDriver, names: list[str]) -> None:
        self.network, self.side, self.names = network, side, names
        self._driver = driver

    def act(self, kind: ActionKind, *at: tuple[str, str]) -> None:
        """Carry out an action at some placements of nodes, all at once."""
        replica = SEARCH if kind in {ActionKind.START_REPLICA, ActionKind.STOP_REPLICA} else None
        perform(
            self._driver,
            *(
                Action(
                    f"{kind}{node}{place}", kind, f"{node}/gpu-0", Placement.parse(place), replica, (), 1.0
                )
                for node, place in at
            ),
        )


def pods(folder: Path, backend: str) -> Object:
    """Return a pod template of a worker that emulates its model, or with a tensor server beside it."""
    runs = (
        ["--emulated"] if backend == "emulated" else ["--upstream", "http://127.0.0.1:8000", "--model", MODEL]
    )
    (folder / "token").write_text(TOKEN)
    command = [
        sys.executable, "-m", "partita", "worker", *runs, "--listen", "0.0.0.0:9000",
        "--token-file", str(folder / "token"), "--health-port", "9001", "--grace", "10",
    ]  # fmt: skip
    container = {
        "name": "worker",
        "image": "partita:1",
        "command": command,
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 9001}},
    }
    spec: Object = {"terminationGracePeriodSeconds": 15, "containers": [container]}
    if backend == "sidecar":
        server = {
            "name": "server",
            "image": "server:1",
            "restartPolicy": "Always",
            "command": [sys.executable, tensor_server.__file__, "8000"],
            "resources": {"claims": [{"name": "partita"}]},
        }
        spec["initContainers"] = [server]
    return {"spec": spec}


@contextmanager
def cluster(plane: ControlPlane, namespace: str, template: Object) -> Iterator[Cluster]:
    """A Workload of one service on two nodes with a GPU each, and a Service that selects its pods."""
    know_workloads(plane)
    spec = good()
    spec["services"] = [{"name": "search", "model": "resnet50", "rate": 10, "slo": {"latency_ms": 10000}}]
    header = {"apiVersion": "partita.dev/v1alpha1", "kind": "Workload", "metadata": {"name": "day"}}
    plane.admin.create("workloads", {**header, "spec": spec}, namespace)
    port = {"name": "partita", "port": 9000}
    service = {"clusterIP": "None", "selector": {"partita.dev/service": "search"}, "ports": [port]}
    plane.admin.create("services", {"metadata": {"name": "search"}, "spec": service}, namespace)
    with (
        Network(2) as network,
        LiveRuntime(plane.guard) as runtime,
        SimulatedNodes(plane, Timing(scale=0.02), runtime) as side,
    ):
        names = side.add_nodes(2, 1)
        runtime.hosts = dict(zip(names, network.hosts, strict=True))
        driver = DraDriver(
            open_api(str(plane.kubeconfig("admin")), namespace=namespace),
            "day",
            lambda _: template,
            settings=DraSettings(start_timeout_s=120.0),
        )
        try:
            yield Cluster(network, side, driver, names)
        finally:
            driver.release()
            driver.close()


@contextmanager
def following(plane: ControlPlane, namespace: str, folder: Path) -> Iterator[int]:
    """A gateway that follows the cluster, and ends in order; yields its port."""
    kubeconfig = str(plane.kubeconfig("admin"))
    words = ("--kubernetes", "day", "--kubeconfig", kubeconfig, "--namespace", namespace)
    with gateway(folder, *words, "--worker-token-file", str(folder / "token")) as (process, port):
        yield port
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


async def more_outcomes(client: Client, count: int) -> Counter[str]:
    """Wait for so many further answers; return what became of those queries that had none before."""
    known = set(client.outcomes)
    while len(client.outcomes) < len(known) + count:  # noqa: ASYNC110 -- a test
        await asyncio.sleep(0.05)
    return Counter(outcome for number, outcome in client.outcomes.items() if number not in known)


@pytest.mark.parametrize("backend", ["emulated", "sidecar"])
def test_no_query_fails_while_replicas_move(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, backend: str
) -> None:
    with cluster(control_plane, namespace, pods(tmp_path, backend)) as made:
        before = [(name, "1g.5gb@0") for name in made.names]
        after = [(name, "2g.10gb@2") for name in made.names]
        made.act(ActionKind.CREATE_INSTANCE, *before, *after)
        made.act(ActionKind.START_REPLICA, *before)

        async def body(port: int) -> Counter[str]:
            client = Client(port)
            await asyncio.to_thread(wait_for_workers, port, 2)
            asking = asyncio.create_task(client.steadily(20.0, range(100_000)))
            await asyncio.to_thread(made.act, ActionKind.START_REPLICA, *after)
            # Kubernetes tells a gateway of new pods some moments after they are ready (docs/kubernetes.md, "Limits").
            await asyncio.to_thread(wait_for_workers, port, 4)
            await asyncio.to_thread(made.act, ActionKind.STOP_REPLICA, *before)
            await asyncio.to_thread(wait_for_workers, port, 2)
            await more_outcomes(client, 40)
            client.stopped = True
            await asking
            await client.close()
            return Counter(client.outcomes.values())

        try:
            with following(control_plane, namespace, tmp_path) as port:
                told = asyncio.run(body(port))
            assert set(told) == {"answered"}, (told, (tmp_path / "gateway.log").read_text())
        finally:
            made.act(ActionKind.STOP_REPLICA, *after)
            made.act(ActionKind.DESTROY_INSTANCE, *before, *after)


def test_a_node_that_is_cut_off_loses_no_query(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """Its packets are lost, and its kubelet is silent; the cluster takes its pods out of service seconds later."""
    with cluster(control_plane, namespace, pods(tmp_path, "emulated")) as made:
        places = [(name, "1g.5gb@0") for name in made.names]
        made.act(ActionKind.CREATE_INSTANCE, *places)
        made.act(ActionKind.START_REPLICA, *places)

        def ready() -> int:
            found = control_plane.admin.objects("endpointslices", namespace)
            ends = [end for each in found for end in each["endpoints"] or ()]
            return sum(bool(end["conditions"].get("ready")) for end in ends)

        async def body(port: int) -> None:
            client = Client(port)
            await asyncio.to_thread(wait_for_workers, port, 2)
            asking = asyncio.create_task(client.steadily(40.0, range(100_000)))
            assert set(await more_outcomes(client, 40)) == {"answered"}
            made.network.hosts[0].cut()
            await asyncio.to_thread(made.side.vanish, made.names[0])
            await asyncio.to_thread(wait_until, lambda: ready() == 1, PATIENCE_S, "the cluster knows")
            await asyncio.to_thread(wait_for_workers, port, 1)
            assert set(await more_outcomes(client, 200)) <= {"answered", *REFUSED}
            assert set(await more_outcomes(client, 80)) == {"answered"}
            made.network.hosts[0].join()
            await asyncio.to_thread(made.side.come_back, made.names[0])
            await asyncio.to_thread(wait_for_workers, port, 2)
            assert set(await more_outcomes(client, 80)) == {"answered"}
            client.stopped = True
            await asking
            await client.close()
            told = Counter(client.outcomes.values())
            assert set(told) <= {"answered", *REFUSED}  # none is lost, and none waits for longer than it may
            assert told["answered"] > 0.9 * told.total()

        try:
            with following(control_plane, namespace, tmp_path) as port:
                asyncio.run(body(port))
        finally:
            made.act(ActionKind.STOP_REPLICA, *places)
            made.act(ActionKind.DESTROY_INSTANCE, *places)


def test_the_rates_of_gateways_side_by_side_are_added_up(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two gateways in front of one worker, each in the place of a pod."""
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "workload.yaml").write_text(WORKLOAD)
    (tmp_path / "perf.csv").write_text(TABLE)
    command = [
        sys.executable, "-m", "partita", "gateway", "-f", "workload.yaml", "--services", "services.yaml",
        "--listen", "0.0.0.0", "--port", "8000", "--grpc-port", "8001", "--token-file", "token",  # noqa: S104
        "--worker-token-file", "token",
    ]  # fmt: skip
    passed = 0.0

    def now() -> float:
        return time.monotonic() + passed

    monkeypatch.setattr("partita.kubernetes.rates.time", SimpleNamespace(monotonic=now))
    guard = control_plane.guard
    api = open_api(str(control_plane.kubeconfig("admin")), namespace=namespace)
    with Network(2) as network, worker(tmp_path, network.hosts[0]) as at:
        (tmp_path / "services.yaml").write_text(f'services: [{{name: search, workers: ["{at}"]}}]')
        spaces = [host.space() for host in network.hosts]
        addresses = [address for _, address in spaces]
        with (tmp_path / "log").open("wb") as log:
            processes = [
                guard.start(["ip", "netns", "exec", space, *command], log, cwd=tmp_path)
                for space, _ in spaces
            ]
        try:
            for each in addresses:
                wait_until(lambda at=each: _status(at, "/v2/health/ready") == 200, PATIENCE_S, "it is ready")  # type: ignore[misc]
            body = {
                "metadata": {"name": "gateways", "labels": {"kubernetes.io/service-name": "gateways"}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [each]} for each in addresses],
                "ports": [{"name": "http", "port": 8000}],
            }
            control_plane.admin.create("endpointslices", body, namespace)
            counters = GatewayCounters(api, namespace, GatewayRates("gateways", 8000), GatewayAccess(TOKEN))
            began = now()
            assert counters.rates() == {}
            begun = now()
            asked = 0
            for address, times, items in ((addresses[0], 30, 2), (addresses[1], 10, 4)):
                assert {_status(address, "/v2/models/search/infer", items) for _ in range(times)} == {200}
                asked += times * items
            ending = now()
            rate = counters.rates()["search"]
            assert asked / (now() - began) <= rate <= asked / (ending - begun)
            guard.end(processes[0], signal.SIGKILL)
            _status(addresses[1], "/v2/models/search/infer", 1)
            assert counters.rates()["search"] >= rate  # nobody knows yet where its queries go
            passed = 100.0
            _status(addresses[1], "/v2/models/search/infer", 4)
            assert counters.rates()["search"] < 0.1  # it is listed still, and does not count any more
        finally:
            for process in processes:
                guard.end(process, signal.SIGKILL)


def _status(address: str, path: str, items: int = 0) -> int:
    """Ask a gateway's page, or a query of some items; return the status, 0 if there is no answer."""
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [items, 16], "data": [0.0] * 16 * items}
    connection = HTTPConnection(address, 8000, timeout=PATIENCE_S)
    try:
        body = json.dumps({"inputs": [tensor]}) if items else None
        headers = {"Authorization": f"Bearer {TOKEN}"}
        connection.request("POST" if items else "GET", path, body, headers)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()
