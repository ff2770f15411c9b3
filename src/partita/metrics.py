"""Metrics pages for Prometheus: what stands on all of them, in which format, and one server for who has none.

No label of Partita's is named `instance` or `job`: Prometheus sets those itself, and renames what is in its way. An
instance of a GPU has the labels of NVIDIA's DCGM exporter, `UUID`, `GPU_I_ID` and `GPU_I_PROFILE`, so that the series
of both join.
"""

from __future__ import annotations

import gzip
import logging
import platform
import re
import socket
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from partita import __version__
from partita.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric

TEXT = "text/plain; version=0.0.4; charset=utf-8"
_PLAIN = "text/plain; charset=utf-8"
_SMALL = 1000
"""Bytes up to which a page is not compressed."""
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
    for media, weight in _weighted(accept):
        if media == "application/openmetrics-text":
            open_metrics = max(open_metrics, weight)
        elif media in {"text/plain", "text/*"}:
            text = max(text, weight)
    return open_metrics > 0 and open_metrics >= text


def accepts_gzip(accept_encoding: str) -> bool:
    """Say whether an `Accept-Encoding` header (RFC 9110, section 12.5.3) takes gzip."""
    weights = dict(_weighted(accept_encoding))
    return weights.get("gzip", weights.get("*", 0.0)) > 0


_QUALITY = re.compile(r"0(\.\d*)?|1(\.0*)?")


def _weighted(header: str) -> Iterator[tuple[str, float]]:
    """Yield what a header prefers, in lower case, with its weight; what is no weight is 0."""
    for part in header.lower().split(","):
        what, *parameters = (each.strip() for each in part.split(";"))
        quality = next((each[2:].strip() for each in parameters if each.startswith("q=")), "1")
        yield what, float(quality) if _QUALITY.fullmatch(quality) else 0.0


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
def serving_pages(
    pages: ServedPages, host: str, port: int, options: tuple[str, str] = ("--listen", "--port")
) -> Iterator[int]:
    """Serve /metrics for Prometheus, and /healthz and /readyz for probes, while the block runs; yield the port.

    Args:
        pages: what they answer.
        host: name or address, also of IPv6; empty for all addresses of both.
        port: of HTTP; 0 takes a free one.
        options: of the command line that chose host and port, for errors.

    Raises:
        InputError: the address or the port cannot be used.
    """

    class Handler(_Handler):
        asked = pages

    server = _Server(_listening(host, port, options), Handler)
    thread = threading.Thread(target=server.serve_forever, name="pages", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def page_url(host: str, port: int) -> str:
    """Return where /metrics of an address is."""
    return f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"


def _listening(host: str, port: int, options: tuple[str, str]) -> socket.socket:
    try:
        if not host and socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        family, *_, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family)
    except socket.gaierror as error:
        raise InputError(
            f"{host} is not an address of this host: {error.strerror}",
            where=options[0],
            hint=f"{options[0]} 127.0.0.1 is this host alone, {options[0]} 0.0.0.0 every address of it",
        ) from None
    except UnicodeError as error:
        raise InputError(f"{host!r} is not an address: {error}", where=options[0]) from None
    except OSError as error:
        at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise InputError(
            f"cannot listen at {at}: {error.strerror}",
            where=options[1],
            hint=f"another process may be there; {options[1]} 0 takes a free port",
        ) from None


_MOST_CONNECTIONS = 64
"""With one more, the oldest is closed: clients that are slow or silent keep nobody out."""
_PATIENCE_S = 10.0
"""Seconds that a client may take to ask, and to read any part of the answer."""
_LOG = logging.getLogger("partita.metrics")


class _Server(ThreadingHTTPServer):
    """Serves on a socket that listens."""

    def __init__(self, listener: socket.socket, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("", 0), handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_address = listener.getsockname()
        self._open: dict[socket.socket, None] = {}
        self._changing = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 -- as the base has it
        """Handle a connection in a thread of its own."""
        with self._changing:
            if len(self._open) >= _MOST_CONNECTIONS:
                oldest = next(iter(self._open))
                del self._open[oldest]
                with suppress(OSError):  # its client has left
                    oldest.shutdown(socket.SHUT_RDWR)
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 -- likewise
        """End a connection."""
        with self._changing:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 -- likewise
        """Log nothing: a client that leaves is no fault, and `_Handler` tells its own."""


class _Handler(BaseHTTPRequestHandler):
    asked: ServedPages
    timeout = _PATIENCE_S

    def do_GET(self) -> None:
        """Answer."""
        path = self.path.partition("?")[0]
        try:
            code, body, media = self._found(path)
        except Exception:  # noqa: BLE001 -- it ends one request, not the server
            _LOG.exception("a fault at %s", path if path.isprintable() else ascii(path))
            code, body, media = 500, b"a fault; the log says more", _PLAIN
        self._answer(code, body, media)

    do_HEAD = do_GET  # noqa: N815 -- the library's name

    def _found(self, path: str) -> tuple[int, bytes, str]:
        if path == "/metrics":
            return 200, *self.asked.metrics(self.headers.get("Accept", ""))
        if path in {"/healthz", "/readyz"}:
            why = self.asked.alive() if path == "/healthz" else self.asked.ready()
            return 503 if why else 200, (why or "ok").encode(), _PLAIN
        return 404, b"no such page; there are /healthz, /readyz and /metrics", _PLAIN

    def _answer(self, code: int, body: bytes, media: str) -> None:
        zipped = len(body) > _SMALL and accepts_gzip(self.headers.get("Accept-Encoding", ""))
        if zipped:
            body = gzip.compress(body, 1)
        self.send_response(code)
        self.send_header("Content-Type", media)
        if zipped:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Vary", "Accept, Accept-Encoding")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the library's name
        """Log nothing: probes come every few seconds."""
