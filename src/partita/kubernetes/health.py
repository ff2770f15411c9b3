"""The HTTP endpoints of a process: /healthz and /readyz for kubelets, /metrics for Prometheus."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple

from partita.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from partita.kubernetes.controller import ClusterController

_HUNG_S = 60.0
"""Seconds without an iteration of the main loop after which it counts as hung."""
_STALE_S = 90.0
"""Seconds without an answer of the API server after which the controller is not ready."""


class HealthPages(NamedTuple):
    """What the endpoints of a process answer; called in other threads than its own.

    Attributes:
        alive: returns why it must be restarted, None if it need not be.
        ready: returns why it is not ready, None if it is.
        metrics: returns the page in Prometheus's text format.
    """

    alive: Callable[[], str | None]
    ready: Callable[[], str | None]
    metrics: Callable[[], bytes]


@contextmanager
def serving_health(pages: HealthPages, host: str, port: int, option: str = "--port") -> Iterator[int]:
    """Serve the endpoints while the block runs; yield the port.

    Args:
        pages: what they answer.
        host: name or address; empty for all addresses.
        port: of HTTP; 0 takes a free one.
        option: of the command line that chose the port, for errors.

    Raises:
        InputError: the port cannot be opened.
    """

    class Handler(_Handler):
        asked = pages

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise InputError(f"port {port} cannot be opened: {error.strerror}", where=option) from None
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()


def controller_health(controller: ClusterController) -> HealthPages:
    """Return what the endpoints of a controller answer."""
    return HealthPages(
        lambda: _alive(controller), lambda: _ready(controller), lambda: metrics_page(controller)
    )


def _alive(controller: ClusterController) -> str | None:
    """Return why the controller must be restarted; None if it need not be."""
    silent = time.monotonic() - controller.ticked
    return f"the main loop has not moved for {silent:.0f} s" if silent > _HUNG_S else None


def _ready(controller: ClusterController) -> str | None:
    """Return why the controller is not ready; None if it is. A controller that waits for the lease is ready."""
    for text in controller.troubles.values():
        return text
    for each in controller.caches if controller.leader.leads else ():
        if each.age_s > _STALE_S:
            return f"{each.kind.plural}: {each.error or 'the API server is silent'}"
    return None


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
    asked: HealthPages

    def do_GET(self) -> None:
        """Answer."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(200, self.asked.metrics(), "text/plain; version=0.0.4; charset=utf-8")
        elif path in {"/healthz", "/readyz"}:
            why = self.asked.alive() if path == "/healthz" else self.asked.ready()
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
