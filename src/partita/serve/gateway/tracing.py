"""Spans of requests, for an OpenTelemetry collector.

A request that comes with `traceparent` (W3C Trace Context) belongs to its trace; any other begins one. It has a span
from the time at which it was read to its answer, with a span each for waiting and for running below it. They are sent
in a thread of their own, over HTTP (OTLP). OpenTelemetry's environment variables hold, such as OTEL_SERVICE_NAME,
OTEL_TRACES_SAMPLER and OTEL_EXPORTER_OTLP_HEADERS.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from partita import __version__
from partita.errors import InputError
from partita.serve.dispatching.query import PendingQuery
from partita.serve.trace_context import TraceContext

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

_PATH = "/v1/traces"
_TIMEOUT_S = 5.0
_CLOSE_S = 3.0
_LOG = logging.getLogger("partita.serve")


class RequestTracer:
    """Makes and sends the spans.

    Args:
        url: of the collector, such as `http://localhost:4318`.

    Raises:
        InputError: the URL is none, or OpenTelemetry is not installed.
    """

    def __init__(self, url: str) -> None:
        if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).netloc:
            hint = "write http://localhost:4318"
            raise InputError(f"{url!r} is no HTTP address", where="--otlp", hint=hint)
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 -- of the extra
                OTLPSpanExporter,
            )
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
            from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
                TraceContextTextMapPropagator,
            )
        except ImportError as error:
            what = f"spans need OpenTelemetry, which cannot be imported: {error}"
            raise InputError(what, where="--otlp", hint='pip install "partita[otel]"') from None
        name = os.environ.get("OTEL_SERVICE_NAME", "partita")
        resource = Resource.create({"service.name": name, "service.version": __version__})
        endpoint = url if url.endswith(_PATH) else url.rstrip("/") + _PATH
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=_TIMEOUT_S))
        )
        self._tracer = self._provider.get_tracer("partita.serve", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, name: str, service: str, context: TraceContext | None) -> RequestTrace:
        """Begin the span of a request.

        Args:
            name: of the span.
            service: that is asked.
            context: as the client sent it; None begins another trace.
        """
        from opentelemetry.trace import SpanKind, set_span_in_context  # noqa: PLC0415 -- of the extra

        span = self._tracer.start_span(
            name,
            self._propagator.extract({} if context is None else context.headers()),
            kind=SpanKind.SERVER,
            attributes={"partita.service": service},
        )
        told: dict[str, str] = {}
        self._propagator.inject(told, set_span_in_context(span))
        if context is not None:
            told["baggage"] = context.baggage
        return RequestTrace(self._tracer, span, TraceContext(**told))

    def close(self) -> None:
        """Send what is left, within seconds.

        OpenTelemetry's own limit counts between attempts alone, and each lasts as long as a collector that is slow or
        absent has it: the thread that still tries then is left to end with the process.
        """
        closing = threading.Thread(target=self._provider.shutdown, name="spans", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)
        if closing.is_alive():
            _LOG.warning("the collector did not take the last spans within %g seconds", _CLOSE_S)


class RequestTrace:
    """The span of one request.

    Attributes:
        context: for who is asked on behalf of the request: this span is their parent.
    """

    __slots__ = ("_span", "_tracer", "context")

    def __init__(self, tracer: Tracer, span: Span, context: TraceContext) -> None:
        self._tracer, self._span = tracer, span
        self.context = context

    def end(
        self, status: tuple[str, int | str], reason: str, waiting: object = None, *, fault: bool = False
    ) -> None:
        """End the span.

        Args:
            status: name and value of the attribute with the status of the answer.
            reason: of an error, in one word; empty for an answer.
            waiting: the query, where the gateway had it.
            fault: whether the error is the server's.
        """
        from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 -- of the extra

        span = self._span
        if span.is_recording():
            span.set_attribute(*status)
            if reason:
                span.set_attribute("error.type", reason)
            if fault:
                span.set_status(Status(StatusCode.ERROR, reason))
            if isinstance(waiting, PendingQuery):
                self._tell(waiting)
        span.end()

    def _tell(self, query: PendingQuery) -> None:
        """Add what became of the query: its batch, its instance, and spans for waiting and running."""
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415 -- of the extra

        span, context = self._span, set_span_in_context(self._span)
        span.set_attribute("partita.batch", query.batch)
        span.set_attribute("partita.deadline_ms", round(query.allowed * 1000, 3))
        to_wall = time.time_ns() - time.monotonic_ns()

        def wall(seconds: float) -> int:
            return to_wall + int(seconds * 1e9)

        begun = wall(query.begun) if query.begun else None
        queue = self._tracer.start_span("queue", context, start_time=wall(query.arrived))
        queue.end(begun)
        if begun is None:
            return
        run = self._tracer.start_span("run", context, start_time=begun)
        if query.worker is not None:
            for each in (span, run):
                each.set_attribute("partita.gpu_instance", query.worker.name)
        run.set_attribute("partita.seconds", query.seconds)
        run.end()
