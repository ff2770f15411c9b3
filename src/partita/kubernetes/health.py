"""The HTTP endpoints of the controller: /healthz and /readyz for kubelets, /metrics for Prometheus."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from partita.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from partita.kubernetes.controller import ClusterController

_HUNG_S = 60.0
"""Seconds without an iteration of the main loop after which it counts as hung."""
_STALE_S = 90.0
"""Seconds without an answer of the API server after which the controller is not ready."""


def serve_health(controller: ClusterController, port: int) -> Callable[[], None]:
    """Serve the endpoints on a port of all addresses; return a function that ends the server.

    Raises:
        InputError: the port cannot be opened.
    """

    class Handler(_Handler):
        asked = controller

    try:
        server = ThreadingHTTPServer(("", port), Handler)
    except OSError as error:
        raise InputError(f"port {port} cannot be opened: {error.strerror}", where="--port") from None
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()

    def end() -> None:
        server.shutdown()
        server.server_close()

    return end


def _alive(controller: ClusterController) -> str | None:
    """Return why the controller must be restarted; None if it need not be."""
    silent = time.monotonic() - controller.ticked
    return f"the main loop has not moved for {silent:.0f} s" if silent > _HUNG_S else None


def _ready(controller: ClusterController) -> str | None:
    """Return why the controller is not ready; None if it is. A controller that waits for the lease is ready."""
    for each in controller.caches if controller.leader.leads else ():
        if each.age_s > _STALE_S:
            return f"{each.kind.plural}: {each.error or 'the API server is silent'}"
    return None


_ASKED = {"/healthz": _alive, "/readyz": _ready}


def metrics_page(controller: ClusterController) -> bytes:
    """Return the page in Prometheus's text format."""
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415 -- of the extra
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415
    from prometheus_client.registry import Collector  # noqa: PLC0415

    class Page(Collector):
        def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
            leads = GaugeMetricFamily("partita_controller_leads", "1 while this controller acts")
            leads.add_metric((), int(controller.leader.leads))
            yield leads
            writes = CounterMetricFamily(
                "partita_controller_writes", "Writes sent to the API server", labels=("verb", "resource")
            )
            for key, count in sorted(dict(controller.api.writes).items()):
                writes.add_metric(key, count)
            yield writes
            age = GaugeMetricFamily(
                "partita_controller_cache_age_seconds",
                "Seconds since the API server's last answer",
                labels=("resource",),
            )
            for each in controller.caches:
                age.add_metric((each.kind.plural,), each.age_s)
            yield age
            state = GaugeMetricFamily(
                "partita_workload", "1 for each Workload", labels=("namespace", "name", "state")
            )
            gpus = GaugeMetricFamily(
                "partita_workload_gpus", "GPUs in use by a Workload", labels=("namespace", "name")
            )
            for (namespace, name), keeper in sorted(dict(controller.keepers).items()):
                state.add_metric((namespace, name, keeper.status.state), 1)
                gpus.add_metric((namespace, name), keeper.status.gpus)
            yield from (state, gpus)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Page())
    page: bytes = generate_latest(registry)
    return page


class _Handler(BaseHTTPRequestHandler):
    asked: ClusterController

    def do_GET(self) -> None:
        """Answer."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(200, metrics_page(self.asked), "text/plain; version=0.0.4; charset=utf-8")
        elif path in _ASKED:
            why = _ASKED[path](self.asked)
            self._answer(503 if why else 200, (why or "ok").encode())
        else:
            self._answer(404, b"no such page; there are /healthz, /readyz and /metrics")

    def _answer(self, code: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the library's name
        """Log nothing: probes come every few seconds."""
