"""Metrics pages for Prometheus: what stands on all of them, in which format, and one server for who has none.

No label of Partita's is named `instance` or `job`: Prometheus sets those itself, and renames what is in its way. An
instance of a GPU has the labels of NVIDIA's DCGM exporter, `UUID`, `GPU_I_ID` and `GPU_I_PROFILE`, so that the series
of both join.
"""

from __future__ import annotations

import gzip
import platform
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from partita import __version__
from partita.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
INSTANCE_LABELS = ("gpu_instance", "UUID", "GPU_I_ID", "GPU_I_PROFILE")
"""Labels of an instance: `node-0/gpu-3/3g.40gb@4`, the UUID of its GPU, and its id and profile there. The second and
third are empty where they are not known."""

MetricsSource: TypeAlias = "Callable[[], Iterable[Metric]]"
"""Returns metrics as they are at the moment of the call."""


class MetricsPage:
    """What one process has to say to Prometheus: the metrics of its sources, its build, and the process itself.

    Args:
        sources: are asked for each reading, in the thread that reads.

    Raises:
        InputError: prometheus-client is not installed.
    """

    def __init__(self, *sources: MetricsSource) -> None:
        try:
            from prometheus_client import ProcessCollector  # noqa: PLC0415 -- of the extras
        except ImportError:
            raise InputError("metrics need prometheus-client", hint='pip install "partita[serve]"') from None
        self._sources = (*sources, _build, ProcessCollector(registry=None).collect)

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        for source in self._sources:
            yield from source()

    def read(self, accept: str = "") -> tuple[bytes, str]:
        """Return the page and its media type, as a client's `Accept` prefers: OpenMetrics 1.0, or text 0.0.4."""
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415
        from prometheus_client.openmetrics import exposition  # noqa: PLC0415
        from prometheus_client.registry import Collector  # noqa: PLC0415

        page = self

        class All(Collector):
            def collect(self) -> Iterator[Metric]:
                return page.collect()

        registry = CollectorRegistry(auto_describe=False)
        registry.register(All())
        if wants_open_metrics(accept):
            return exposition.generate_latest(registry), OPEN_METRICS  # type: ignore[no-untyped-call]
        return generate_latest(registry), TEXT


def wants_open_metrics(accept: str) -> bool:
    """Say whether an `Accept` header (RFC 9110, section 12.5.1) prefers OpenMetrics to plain text."""
    open_metrics, text = 0.0, 0.0
    for part in accept.lower().split(","):
        media, *parameters = (each.strip() for each in part.split(";"))
        quality = next((each[2:] for each in parameters if each.startswith("q=")), "1")
        try:
            weight = float(quality)
        except ValueError:
            weight = 0.0
        if media == "application/openmetrics-text":
            open_metrics = max(open_metrics, weight)
        elif media in {"text/plain", "text/*"}:
            text = max(text, weight)
    return open_metrics > 0 and open_metrics >= text


def _build() -> Iterator[Metric]:
    from prometheus_client.core import InfoMetricFamily  # noqa: PLC0415 -- of the extras

    build = InfoMetricFamily("partita_build", "Version of Partita, and of the Python that runs it")
    build.add_metric((), {"version": __version__, "python": platform.python_version()})
    yield build


def instance_labels(
    gpu: str, placement: str, uuid: str | None, gpu_instance_id: int | None
) -> tuple[str, ...]:
    """Return the values of `INSTANCE_LABELS`.

    Args:
        gpu: id of the GPU.
        placement: of the instance, such as `3g.40gb@4`.
        uuid: of the GPU; None if it is not known.
        gpu_instance_id: None if it is not known.
    """
    number = "" if gpu_instance_id is None else str(gpu_instance_id)
    return f"{gpu}/{placement}", uuid or "", number, placement.partition("@")[0]


def states(family: Metric, labels: Mapping[str, str], known: Iterable[str], current: str) -> None:
    """Add a sample to a gauge for each state that there can be: 1 for the current one, 0 for all others."""
    for each in known:
        family.add_sample(family.name, {**labels, "state": each}, float(each == current))


# The server


class ServedPages(NamedTuple):
    """What a process answers by HTTP; called in other threads than its own.

    Attributes:
        metrics: returns the page and its media type, for an `Accept`.
        alive: returns why the process must be restarted, None if it need not be.
        ready: returns why it is not ready, None if it is.
    """

    metrics: Callable[[str], tuple[bytes, str]]
    alive: Callable[[], str | None] = lambda: None
    ready: Callable[[], str | None] = lambda: None


@contextmanager
def serving_pages(pages: ServedPages, host: str, port: int, option: str = "--port") -> Iterator[int]:
    """Serve /metrics for Prometheus, and /healthz and /readyz for probes, while the block runs; yield the port.

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
    thread = threading.Thread(target=server.serve_forever, name="pages", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    asked: ServedPages

    def do_GET(self) -> None:
        """Answer."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            page, media = self.asked.metrics(self.headers.get("Accept", ""))
            self._answer(200, page, media, may_zip=True)
        elif path in {"/healthz", "/readyz"}:
            why = self.asked.alive() if path == "/healthz" else self.asked.ready()
            self._answer(503 if why else 200, (why or "ok").encode())
        else:
            self._answer(404, b"no such page; there are /healthz, /readyz and /metrics")

    def _answer(
        self, code: int, body: bytes, media: str = "text/plain; charset=utf-8", *, may_zip: bool = False
    ) -> None:
        zipped = may_zip and "gzip" in self.headers.get("Accept-Encoding", "")
        if zipped:
            body = gzip.compress(body, 1)
        self.send_response(code)
        self.send_header("Content-Type", media)
        if zipped:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the library's name
        """Log nothing: probes come every few seconds."""
