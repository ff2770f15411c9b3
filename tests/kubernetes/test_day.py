"""A day, a night and a day of 24 A100s with a real worker in each pod, and queries through gateways all the while."""

from __future__ import annotations

import copy
import csv
import io
import re
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest
from tests.kubernetes.control_plane.cluster import wait_until
from tests.kubernetes.control_plane.hosts import LiveRuntime, Network
from tests.kubernetes.control_plane.nodes import SimulatedNodes, Timing
from tests.kubernetes.control_plane.shop import DAY, NIGHT, rates
from tests.kubernetes.control_plane.tools import grant, revoke
from tests.kubernetes.control_plane.traffic import Traffic
from tests.kubernetes.test_gateway import gateway

from partita.kubernetes.rights import GATEWAY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.kubernetes.control_plane.client import Object
    from tests.kubernetes.control_plane.cluster import ControlPlane
    from tests.kubernetes.control_plane.shop import Shop

SLOWER = 40
"""How much slower the clock of this day is: rates are so much less, batches and SLOs so much longer, plans alike."""
PATIENT = 4
"""How much more time queries have, of which batches may take so much less a share: plans are alike, and a busy
machine makes nobody late."""
LOAD = 0.6
"""Share of the promised rates that is asked for."""
PATIENCE_S = 120.0
TOKEN = "correct-horse-battery-staple"  # noqa: S105 -- it opens nothing else


def slowed(spec: Object, token: Path) -> Object:
    """Return a workload on a slower clock, with workers that emulate it."""
    found = copy.deepcopy(spec)
    for each in found["services"]:
        each["rate"] /= SLOWER
        each["slo"]["latency_ms"] *= SLOWER * PATIENT
    found["limits"]["latency_factor"] /= PATIENT
    rows = list(csv.DictReader(io.StringIO(found["performance"][0]["csv"])))
    for row in rows:
        row["throughput"] = str(float(row["throughput"]) / SLOWER)
        row["latency_ms"] = str(float(row["latency_ms"]) * SLOWER)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    found["performance"] = [{"csv": text.getvalue()}]
    command = [
        sys.executable, "-m", "partita", "worker", "--emulated", "--listen", "0.0.0.0:9000",
        "--token-file", str(token), "--health-port", "9001", "--grace", "20",
    ]  # fmt: skip
    container = {
        "name": "worker",
        "image": "partita:1",
        "command": command,
        "ports": [{"name": "partita", "containerPort": 9000}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 9001}},
    }
    found["pod"] = {"spec": {"terminationGracePeriodSeconds": 30, "containers": [container]}}
    return found


def answered(port: int) -> dict[str, float]:
    """Return how many queries each replica that a gateway knows has answered."""
    with urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        found = re.findall(
            rb'partita_instance_answered_total\{.*gpu_instance="([^"]+)".*\} (\S+)', page.read()
        )
    return {name.decode(): float(count) for name, count in found}


@pytest.fixture
def nodes(control_plane: ControlPlane) -> Iterator[SimulatedNodes]:
    """A node side of three hosts on which pods are processes."""
    with (
        Network(3) as network,
        LiveRuntime(control_plane.guard) as runtime,
        SimulatedNodes(control_plane, Timing(scale=0.1), runtime) as side,
    ):
        runtime.hosts = {f"node-{at}": host for at, host in enumerate(network.hosts)}
        yield side


@pytest.mark.parametrize("gateways", [1, 2])
def test_no_request_fails_by_day_by_night_and_by_day(
    shop: Shop, control_plane: ControlPlane, namespace: str, tmp_path: Path, gateways: int
) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    day, night = slowed(DAY, token), slowed(NIGHT, token)
    shop.serve(day, 3, 8)
    shop.exact()
    kubeconfig = grant(control_plane, "gateway", namespace, GATEWAY)
    words = ("--kubernetes", "shop", "--kubeconfig", str(kubeconfig), "--namespace", namespace)

    def known() -> bool:
        wanted = sum(map(len, shop.partita.target().values()))
        return all(len(answered(port)) == wanted for port in ports)

    def everybody_answers() -> bool:
        found = [answered(port) for port in ports]
        return known() and all(sum(one.get(name, 0) for one in found) for name in found[0])

    try:
        with ExitStack() as stack:
            ports = []
            for number in range(gateways):
                folder = tmp_path / str(number)
                folder.mkdir()
                _, at = stack.enter_context(gateway(folder, *words, "--worker-token-file", str(token)))
                ports.append(at)
            wait_until(known, PATIENCE_S, "the gateways know all replicas")
            traffic = stack.enter_context(Traffic(ports, rates(day)))
            share = {name: rate * LOAD for name, rate in rates(day).items()}
            traffic.ask(share)
            wait_until(everybody_answers, PATIENCE_S, "each replica answers")
            for old, new in ((day, night), (night, day)):
                floors = shop.floors(old, new)
                traffic.ask({name: rate * LOAD for name, rate in floors.items()})
                shop.go(old, new)
                shop.exact()
                traffic.ask({name: rate * LOAD for name, rate in rates(new).items()})
                wait_until(known, PATIENCE_S, "the gateways know all replicas")
                wait_until(everybody_answers, PATIENCE_S, "each replica answers")
            traffic.stop()
            logs = "\n".join(path.read_text() for path in sorted(tmp_path.glob("*/gateway.log")))
            assert set(traffic.total()) == {"answered"}, (traffic.outcomes, logs)
    finally:
        revoke(control_plane, "gateway", namespace)
    assert shop.faults() == []
    assert [each for each in shop.nodes.records if each.kind == "refuse"] == []
