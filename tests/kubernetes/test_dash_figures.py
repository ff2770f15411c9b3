"""What the dashboard of a controller shows of queries, as a gateway counts them, and of several Workloads."""

from __future__ import annotations

import copy
import json
import socket
import threading
import urllib.parse
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from tests.kubernetes.control_plane.dashboard import Dashboard
from tests.kubernetes.control_plane.shop import DAY, NIGHT, scaled
from tests.process.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.kubernetes.control_plane.shop import Shop

SMALL = scaled(DAY, 0.3)
SERVICES = [each["name"] for each in SMALL["services"]]


def own_address() -> str:
    """Return an address of this host that an EndpointSlice may have: not its loopback; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect(("203.0.113.1", 9))
        except OSError:
            pytest.skip("this host has no address but its loopback")
        return str(asked.getsockname()[0])


class Page(BaseHTTPRequestHandler):
    """A gateway's metrics page: at each reading 20 more items of each service were offered, 16 of them in time."""

    readings = 0

    def do_GET(self) -> None:
        type(self).readings += 1
        lines = []
        for name in SERVICES:
            label, count = f'service="{name}"', self.readings
            lines += [
                f"partita_offered_items_total{{{label}}} {20 * count}",
                f'partita_requests_total{{{label},outcome="in_time"}} {16 * count}',
                f'partita_requests_total{{{label},outcome="late"}} {3 * count}',
                f'partita_requests_total{{{label},outcome="refused"}} {count}',
                f'partita_refused_total{{{label},reason="full"}} {count}',
                f'partita_request_seconds_bucket{{{label},le="0.1"}} {16 * count}',
                f'partita_request_seconds_bucket{{{label},le="+Inf"}} {19 * count}',
                f"partita_queue_length{{{label}}} 4",
                f"partita_in_flight{{{label}}} 2",
            ]
        body = ("\n".join(lines) + "\n").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def gateway(shop: Shop) -> Iterator[int]:
    """A Service `gateways` with one endpoint, which is a page of this process; yield its port."""
    address, admin, namespace = own_address(), shop.plane.admin, shop.partita.namespace
    server = ThreadingHTTPServer((address, 0), Page)
    port = server.server_port
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    try:
        ports = [{"name": "http", "port": port}]
        admin.create("services", {"metadata": {"name": "gateways"}, "spec": {"ports": ports}}, namespace)
        ends: Any = {
            "metadata": {"name": "gateways-a", "labels": {"kubernetes.io/service-name": "gateways"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address]}],
            "ports": ports,
        }
        admin.create("endpointslices", ends, namespace)
        yield port
    finally:
        server.shutdown()
        server.server_close()


def test_what_gateways_measure_and_its_past_are_shown_and_outlive_the_controller(
    shop: Shop, tmp_path: Path
) -> None:
    partita = shop.partita
    api = Dashboard(free_ports(1)[0])
    words = ("--dash-port", api.url.rpartition(":")[2], "--dash-history", str(tmp_path / "history"))

    def services() -> list[Any]:
        return api.ask("/services")[1]["services"] if api.ask("")[0] == 200 else []

    def measured(few: int = 3) -> bool:
        return len(services()) == len(SERVICES) and all(
            each["rate"] is not None and each["refused"].get("full", 0) > few for each in services()
        )

    def points(series: str, name: str) -> list[float]:
        status, found = api.ask(f"/{series}/series?seconds=600")
        assert status == 200
        return [each for each in found["values"].get(name, ()) if each is not None]

    with gateway(shop) as port:
        spec = copy.deepcopy(SMALL)
        spec["rates"] = {"gateway": {"service": "gateways", "port": port}}
        shop.nodes.add_nodes(1, 8, "a100-80gb")
        partita.apply(spec)  # first: without a Workload no GPU is anybody's, and the past says so
        partita.start(*words)
        partita.wait_reached()
        partita.wait(measured, "all services are measured")
        for each in services():
            assert each["rate"] > 0
            assert each["attainment"] == pytest.approx(0.8, abs=0.01)
            assert (each["queue"], each["in_flight"]) == (4, 2)
            assert 0 < each["p50_ms"] <= 100
        name = urllib.parse.quote(SERVICES[0])
        partita.wait(lambda: len(points(f"services/{name}", "rate")) > 0, "the past has a point")
        assert set(points("fleet", "gpus")) <= {8}
        assert not any("not measured" in each for each in api.ask("")[1]["notes"])

        # The controller ends and another one leads: the past is there at once, and no zero is in it.
        before = points(f"services/{name}", "attainment")
        partita.running[0].end()
        partita.free_lease()
        partita.start(*words)
        partita.wait(lambda: measured(0), "it is measured again")
        partita.wait(lambda: len(points(f"services/{name}", "attainment")) > len(before), "the past goes on")
        assert points(f"services/{name}", "attainment")[: len(before)] == pytest.approx(before, rel=1e-3)
        assert set(points("fleet", "gpus")) == {8}
    assert shop.faults() == []


def test_each_workload_has_its_plan_and_its_difference(shop: Shop) -> None:
    partita = shop.partita
    api = Dashboard(free_ports(1)[0])
    shop.serve(SMALL, 1, 8, "--dash-port", api.url.rpartition(":")[2])
    first, second = f"{partita.namespace}/shop", f"{partita.namespace}/waiting"
    partita.wait(lambda: api.ask("/plan")[0] == 200, "the Plan is shown")
    alone = api.ask("/plan")[1]
    assert (alone["workload"], alone["workloads"]) == (first, [first])
    spec = copy.deepcopy(scaled(NIGHT, 0.2))
    spec["approve"] = "Manual"
    spec["nodes"] = {"for": "waiting"}
    partita.apply(spec, "waiting")
    partita.wait(lambda: api.ask("/plan")[1].get("workloads") == [first, second], "both are known")
    found = api.ask(f"/plan?workload={first}")[1]
    assert (found["workload"], found["version"]) == (first, alone["version"])
    partita.wait(lambda: api.ask(f"/plan/difference?workload={first}")[0] == 200, "its GPUs are seen")
    difference = api.ask(f"/plan/difference?workload={first}")[1]
    assert (difference["workload"], difference["actions"], difference["services"]) == (first, 0, [])
    body = {"plan": found["document"]}
    assert api.ask("/plan/difference", "POST", body)[0] == 422
    status, same = api.ask(f"/plan/difference?workload={first}", "POST", body)
    assert (status, same["actions"]) == (200, 0), json.dumps(same)
    assert api.ask("/plan?workload=no/such")[0] == 404
    status, told = api.ask(f"/plan?workload={second}")
    assert (status, told["error"]) == (404, f"Workload {second} has no Plan yet")
    (newest,) = api.ask("/transitions")[1]["transitions"]
    bars = api.ask(f"/transitions/{newest['id']}")[1]["actions"]
    assert newest["state"] == "reached"
    assert newest["seconds"] == round(max(each["end"] for each in bars)), "predicted, not what it took"
