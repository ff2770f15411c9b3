"""`partita gateway` in front of real workers in a cluster's pods, while replicas come and go."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.kubernetes.control_plane.hosts import LiveRuntime, Network
from tests.kubernetes.control_plane.nodes import SimulatedNodes, Timing
from tests.kubernetes.test_endpoints import know_workloads, perform
from tests.kubernetes_units.specs import good
from tests.serve.gateway.test_hosts import PATIENCE_S, TOKEN, Client, wait_for_workers

from partita.kubernetes.api import open_api
from partita.kubernetes.dra import DraDriver, DraSettings
from partita.mig.layout import Placement
from partita.transition.deployment import Replica
from partita.transition.transition import Action, ActionKind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.kubernetes.control_plane.cluster import ControlPlane

SEARCH = Replica("search", "resnet50", 4, 1, 200.0, 10.0)


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


def test_no_query_fails_while_replicas_move(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    know_workloads(control_plane)
    admin, kubeconfig = control_plane.admin, str(control_plane.kubeconfig("admin"))
    token = tmp_path / "token"
    token.write_text(TOKEN)
    worker = [
        sys.executable, "-m", "partita", "worker", "--emulated", "--listen", "0.0.0.0:9000",
        "--token-file", str(token), "--health-port", "9001", "--grace", "10",
    ]  # fmt: skip
    container = {
        "name": "worker",
        "image": "partita:1",
        "command": worker,
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 9001}},
    }
    template = {"spec": {"terminationGracePeriodSeconds": 15, "containers": [container]}}
    spec = good()
    spec["services"] = [{"name": "search", "model": "resnet50", "rate": 10, "slo": {"latency_ms": 2000}}]
    header = {"apiVersion": "partita.dev/v1alpha1", "kind": "Workload", "metadata": {"name": "day"}}
    admin.create("workloads", {**header, "spec": spec}, namespace)
    port = {"name": "partita", "port": 9000}
    service = {"clusterIP": "None", "selector": {"partita.dev/service": "search"}, "ports": [port]}
    admin.create("services", {"metadata": {"name": "search"}, "spec": service}, namespace)
    with (
        Network(2) as network,
        LiveRuntime(control_plane.guard) as runtime,
        SimulatedNodes(control_plane, Timing(scale=0.02), runtime) as side,
    ):
        names = side.add_nodes(2, 1)
        runtime.hosts = dict(zip(names, network.hosts, strict=True))
        driver = DraDriver(
            open_api(kubeconfig, namespace=namespace),
            "day",
            lambda _: template,
            settings=DraSettings(start_timeout_s=120.0),
        )

        def act(kind: ActionKind, *at: tuple[str, str]) -> None:
            replica = SEARCH if kind in {ActionKind.START_REPLICA, ActionKind.STOP_REPLICA} else None
            perform(
                driver,
                *(
                    Action(
                        f"{kind}{node}{place}",
                        kind,
                        f"{node}/gpu-0",
                        Placement.parse(place),
                        replica,
                        (),
                        1.0,
                    )
                    for node, place in at
                ),
            )

        before = [(name, "1g.5gb@0") for name in names]
        after = [(name, "2g.10gb@2") for name in names]
        act(ActionKind.CREATE_INSTANCE, *before, *after)
        act(ActionKind.START_REPLICA, *before)

        async def body(port: int) -> Counter[str]:
            client = Client(port)
            await asyncio.to_thread(wait_for_workers, port, 2)
            asking = asyncio.create_task(client.steadily(20.0, range(100_000)))
            await asyncio.to_thread(act, ActionKind.START_REPLICA, *after)
            await asyncio.to_thread(act, ActionKind.STOP_REPLICA, *before)
            await asyncio.to_thread(wait_for_workers, port, 2)
            asked = len(client.outcomes)
            while len(client.outcomes) < asked + 40:  # noqa: ASYNC110 -- a test
                await asyncio.sleep(0.05)
            client.stopped = True
            await asking
            await client.close()
            return Counter(client.outcomes.values())

        words = ("--kubernetes", "day", "--kubeconfig", kubeconfig, "--namespace", namespace)
        try:
            with gateway(tmp_path, *words, "--worker-token-file", str(token)) as (process, http_port):
                told = asyncio.run(body(http_port))
                assert set(told) == {"answered"}, (told, (tmp_path / "gateway.log").read_text())
                process.send_signal(signal.SIGTERM)
                assert process.wait(PATIENCE_S) == 0
        finally:
            act(ActionKind.STOP_REPLICA, *after)
            act(ActionKind.DESTROY_INSTANCE, *before, *after)
            driver.release()
            driver.close()
