"""An endpoint picker: the gateway's router for a proxy such as Envoy, which forwards the requests itself.

For each request the proxy opens a stream and asks which endpoint to use (Envoy's external processing; the Endpoint
Picker Protocol 1.0 of the Gateway API inference extension). Each request is a query of a gateway that sends nothing:
it waits for a slice that answers it in time, or is refused. Each endpoint is a worker of that gateway. A batch of one
query begins when its endpoint is picked, and ends when the answer passes the proxy.

The tensor servers at the endpoints join queries themselves. So an endpoint gets as many rows at once as all batches
of its plan have, and durations are learned from when answers pass.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar, cast
from urllib.parse import unquote

import grpc
import orjson
import uvloop
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from partita.metrics import ServedPages, serving_pages
from partita.serve.dispatching.query import QueryFailedError, QueryRefusedError, RefusalReason
from partita.serve.gateway.access import host_and_port
from partita.serve.gateway.addresses import Served
from partita.serve.gateway.gateway import Gateway
from partita.serve.gateway.grpc_server import GrpcServer, descriptors, message_classes
from partita.serve.gateway.grpc_server import message as oip_message
from partita.serve.gateway.http_api import json_length
from partita.serve.gateway.link import Link
from partita.serve.gateway.metrics import Metrics
from partita.serve.gateway.oip import RequestError, RequestLimits, deadline_of, header_deadline
from partita.serve.gateway.server import background, signals_to, unless
from partita.serve.tensors import Answer, Batching, Query, Tensor
from partita.serve.worker.wire import Hello

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from partita.metrics import MetricsSource
    from partita.serve.dispatching.query import Worker
    from partita.serve.gateway.addresses import ServiceSource
    from partita.serve.gateway.link import LinkHandler
    from partita.serve.gateway.route import ServedService
    from partita.serve.services import WorkerAddress
    from partita.serve.tensors import Buffer
    from partita.serve.tls import Tls

T = TypeVar("T")
_LOG = logging.getLogger("partita.serve.picker")
Proto: TypeAlias = Any
"""A message of the protocol. Its class is made at run time and has no static type."""
DESTINATION = "x-gateway-destination-endpoint"
"""Header and metadata key: the picked endpoints, the best first, as `IP:PORT,IP:PORT`."""
SUBSET = "x-gateway-destination-endpoint-subset"
"""Metadata key: the endpoints from which to pick."""
LOAD_BALANCER, SUBSET_HINT = "envoy.lb", "envoy.lb.subset_hint"
"""Metadata namespaces."""
SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
_PIECE = 62_000
"""Bytes of a body in one message back to the proxy, below the proxies' limit of 64 KiB."""
_MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/[^/]+)?/infer/?")
_GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"
_LOOK_S = 0.25
_BATCHING = Batching(rows=True, why="an endpoint joins queries by itself")
_LEFT = Answer(error="the client left", invalid=True)
_FAILED = Answer(error="the server failed")
_LEAVING_S = 1.0
"""Seconds in which a picker that was told to end still picks, until whoever asks for its health has heard of it."""
_PAGE_S = 10.0
_MOST_NAMES = 5
_LATE = frozenset({RefusalReason.LATE, RefusalReason.FULL})


message = message_classes(descriptors(__package__, "ext_proc.binpb"), "partita.ext_proc")
"""Returns the class of a message of the protocol."""


# Requests, as far as the choice of an endpoint needs them


class AskedQuery(NamedTuple):
    """The fields of a request that the choice of an endpoint needs.

    Attributes:
        service: None if the request does not name it.
        items: its batch size.
        deadline_s: seconds; None for the service's own deadline.
        inference: whether it is an inference request; any endpoint can answer others.
    """

    service: str | None
    items: int = 1
    deadline_s: float | None = None
    inference: bool = True


def read_asked(headers: Mapping[str, str], body: bytes, limits: RequestLimits) -> AskedQuery:
    """Return what an HTTP or gRPC request asks. An invalid body is passed on, and the server reports its faults.

    Raises:
        RequestError: its deadline is invalid.
    """
    path = headers.get(":path", "").partition("?")[0]
    told = headers.get("partita-deadline-ms")
    deadline_s = header_deadline(None if told is None else told.encode(), limits)
    if path == _GRPC_PATH:
        return _grpc_query(body, deadline_s)
    found = _MODEL.fullmatch(path)
    if found is None:
        name = re.match(r"/v2/models/([^/]+)", path)
        return AskedQuery(unquote(name[1]) if name else None, inference=False)
    length = (
        json_length({b"inference-header-content-length": headers[key].encode()})
        if (key := "inference-header-content-length") in headers
        else None
    )
    try:
        document = orjson.loads(body[:length])
        shape = document["inputs"][0]["shape"]
        parameters = document.get("parameters")
        items = shape[0] if shape and type(shape[0]) is int else 1
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError):
        return AskedQuery(unquote(found[1]), 1, deadline_s)
    if deadline_s is None and isinstance(parameters, dict):
        deadline_s = deadline_of(parameters, limits)
    return AskedQuery(unquote(found[1]), max(1, items), deadline_s)


def _grpc_query(body: bytes, deadline_s: float | None) -> AskedQuery:
    try:
        asked = oip_message("ModelInferRequest").FromString(body[5:])  # after gRPC's flag and length
    except DecodeError:
        return AskedQuery(None, 1, deadline_s)
    shape = asked.inputs[0].shape if asked.inputs else ()
    return AskedQuery(asked.model_name or None, max(1, shape[0]) if shape else 1, deadline_s)


# Endpoints as workers of the gateway


class EndpointLink(Link):
    """An endpoint in place of a worker's connection: to run a query means to send its request there.

    Attributes:
        address: of the endpoint.
        elsewhere: rows under way at the endpoint beyond the gateway's own batches.

    Args:
        address: of the endpoint.
        handler: the gateway.
        begins: called with this link, the batch's number and the query when its request may go there.
    """

    def __init__(
        self,
        address: WorkerAddress,
        handler: LinkHandler,
        begins: Callable[[EndpointLink, int, Query], None],
    ) -> None:
        super().__init__(str(address), handler)
        self.address, self._begins = address, begins
        self._connected = True
        self.elsewhere = 0

    @property
    def open(self) -> bool:
        """Whether requests may go there."""
        return self._connected

    def run(self, number: int, queries: Sequence[Query]) -> None:
        """Let the request of a query go there."""
        (query,) = queries
        self._begins(self, number, query)

    def take(self, rows: int) -> None:
        """Add rows (negative: remove) to those under way there beyond the gateway's own batches."""
        if rows:
            self.elsewhere += rows
            self._handler.said_load(self, self.elsewhere)

    def close(self, fault: str = "") -> None:
        """Let no more requests go there."""
        if self._connected:
            self._connected = False
            self._handler.lost(self, fault)


def hello_of(address: WorkerAddress, model: str) -> Hello:
    """Return the HELLO of an endpoint as a worker: its processes are all rows of its batches together."""
    slice_ = address.slice
    gpu, placement, batch, processes, seconds = slice_ or (str(address), "?@0", 1, 1, {})
    return Hello(
        service=address.service,
        model=model,
        gpu=gpu,
        placement=placement,
        profile=placement.partition("@")[0],
        batch=batch,
        processes=batch * processes,
        pid=0,
        inputs=(),
        outputs=(),
        seconds=dict(seconds),
        batching=_BATCHING,
        retry=False,
    )


class Pick:
    """A request whose endpoints are picked and whose answer has not passed yet.

    Attributes:
        endpoints: the best first.

    Args:
        link: of the first endpoint.
        number: of its batch; None if it was picked without the router.
        rows: of the request.
        fallback: endpoints to use if the first does not answer.
    """

    def __init__(self, link: EndpointLink, number: int | None, rows: int, fallback: Sequence[str]) -> None:
        self.endpoints = (link.name, *fallback)
        self._link, self._number, self._rows = link, number, rows
        self._begun: float | None = time.monotonic()
        link.take(rows if number is None else rows - 1)

    def end(self, answer: Answer) -> None:
        """Report how it ended; only the first call counts."""
        if self._begun is None:
            return
        link, seconds, self._begun = self._link, time.monotonic() - self._begun, None
        if self._number is not None:
            link._handler.said_done(link, self._number, (answer,), seconds, 0.0)  # noqa: SLF001 -- of one kind
        link.take(-self._rows if self._number is None else 1 - self._rows)


class _Receiver:
    """Receives why a query gets no endpoint; the stream itself sees the answer."""

    def __init__(self, picked: asyncio.Future[Pick]) -> None:
        self._picked = picked

    def done(self) -> bool:
        return False

    def set_result(self, result: Answer, /) -> None:
        """Do nothing: the stream sees the answer."""

    def set_exception(self, exception: BaseException, /) -> None:
        if not self._picked.done():
            self._picked.set_exception(exception)


class EndpointPicker:
    """Picks endpoints with a gateway that sends nothing.

    Attributes:
        gateway: its workers are the endpoints.

    Args:
        services: to be served.
        router: name of the policy.
    """

    def __init__(self, services: Sequence[ServedService], router: str = "late-binding") -> None:
        self.gateway = Gateway(services, None, router=router, batching=False, dividing=False)
        self._services = {each.name: each for each in services}
        self._links: dict[str, EndpointLink] = {}
        self._picked: dict[int, tuple[asyncio.Future[Pick], int, float]] = {}  # by the query's id

    def follow(self, served: Served) -> None:
        """Serve these services with these endpoints from now on; requests at other endpoints go on."""
        self._services = {each.name: each for each in served.services}
        self.gateway.follow(Served(served.services, ()))
        wanted = {str(each): each for each in served.addresses if each.service in self._services}
        for name, link in list(self._links.items()):
            if wanted.get(name) != link.address:
                del self._links[name]
                self.gateway.let_go(link)
        for name, address in wanted.items():
            if name not in self._links:
                link = EndpointLink(address, self.gateway, self._begins)
                if self.gateway.said_hello(link, hello_of(address, self._services[address.service].model)):
                    self._links[name] = link

    def ready(self) -> bool:
        """Return whether every service has an endpoint."""
        return all(map(self.gateway.ready, self._services))

    def endpoints(self) -> Counter[str]:
        """Return how many endpoints each service has."""
        found = Counter(dict.fromkeys(self._services, 0))
        found.update(link.service for link in self._links.values())
        return found

    async def pick(self, asked: AskedQuery, size: int, subset: frozenset[str] | None) -> Pick:
        """Wait until an endpoint can take a request, and return it.

        Args:
            asked: the request.
            size: bytes of its body.
            subset: endpoints from which to pick; None for all.

        Raises:
            RequestError: there is no such service.
            QueryRefusedError: no endpoint can answer it in time.
        """
        service = self._service(asked.service)
        deadline_s = self._services[service].deadline_s if asked.deadline_s is None else asked.deadline_s
        able = {
            worker.link.name: worker
            for worker in self.gateway.workers(service)
            if isinstance(worker.link, EndpointLink) and worker.group is not None
        }
        if not able or (subset is not None and subset.isdisjoint(able)):
            raise QueryRefusedError(RefusalReason.NO_WORKER, 1.0)
        rows = min(asked.items, max(worker.hello.batch for worker in able.values()))
        if not asked.inference or (subset is not None and not subset >= able.keys()):
            among = [worker for name, worker in able.items() if subset is None or name in subset]
            return self._cheapest(among, rows, deadline_s if asked.inference else math.inf)
        # The gateway sends nothing, so only the number of bytes matters.
        data = cast("Buffer", range(size))
        query = Query((Tensor("", "UINT8", (rows, size // rows), data),))
        picked: asyncio.Future[Pick] = asyncio.get_running_loop().create_future()
        self._picked[id(query)] = picked, rows, deadline_s
        waiting = self.gateway.ask(service, query, deadline_s, _Receiver(picked))
        try:
            return await picked
        except asyncio.CancelledError:
            self.gateway.forget(service, waiting)
            if picked.done() and not picked.cancelled() and picked.exception() is None:
                picked.result().end(_LEFT)
            raise
        finally:
            self._picked.pop(id(query), None)

    def known(self, name: str | None) -> str:
        """Return the service that a request means, empty if there is none."""
        try:
            return self._service(name)
        except RequestError:
            return ""

    def _service(self, name: str | None) -> str:
        if name is None and len(self._services) == 1:
            return next(iter(self._services))
        if name not in self._services or name is None:
            raise RequestError(f"no model {name}" if name else "the request names no model", 404)
        return name

    def _begins(self, link: EndpointLink, number: int, query: Query) -> None:
        picked, rows, deadline_s = self._picked.get(id(query), (None, 1, 0.0))
        if picked is None or picked.done():
            Pick(link, number, 1, ()).end(_LEFT)
            return
        picked.set_result(Pick(link, number, rows, self._fallback(link, rows, deadline_s)))

    def _fallback(self, link: EndpointLink, rows: int, deadline_s: float) -> list[str]:
        """Return the endpoint to use if the first does not answer: the cheapest other one in time; empty if none."""
        others = [
            worker
            for worker in self.gateway.workers(link.service)
            if worker.link is not link and worker.takes_work and worker.group is not None
        ]
        chosen = min(others, key=lambda worker: _cost(worker, rows, deadline_s), default=None)
        if chosen is None or not isinstance(chosen.link, EndpointLink):
            return []
        return [chosen.link.name]

    def _cheapest(self, workers: Sequence[Worker], rows: int, deadline_s: float) -> Pick:
        """Pick from some endpoints without the router: idle ones first, then those in time, then the cheapest."""
        chosen = min(workers, key=lambda worker: (not worker.takes_work, _cost(worker, rows, deadline_s)))
        if not chosen.takes_work and _cost(chosen, rows, deadline_s) == (True, math.inf):
            raise QueryRefusedError(RefusalReason.LATE, 1.0)
        assert isinstance(chosen.link, EndpointLink)  # noqa: S101 -- as all of a picker's are
        return Pick(chosen.link, None, rows, ())


class PickerMetrics(Metrics):
    """Makes the metrics page of a picker: the gateway's own, with picks and endpoints.

    Attributes:
        picks: by service (empty where there is no such service) and outcome.

    Args:
        picker: whose.
    """

    def __init__(self, picker: EndpointPicker) -> None:
        super().__init__(picker.gateway.snapshot)
        self.picks: Counter[tuple[str, str]] = Counter()
        self._picker = picker

    def taken(self) -> MetricsSource:
        """Return what yields all metrics as they are now."""
        gateway, counted, known = super().taken(), dict(self.picks), dict(self._picker.endpoints())

        def collect() -> Iterator[Metric]:
            yield from gateway()
            picks = CounterMetricFamily(
                "partita_picks",
                "Requests by what the proxy was told: picked, why it was refused, or cancelled",
                labels=("service", "outcome"),
            )
            for key, count in sorted(counted.items()):
                picks.add_metric(key, count)
            endpoints = GaugeMetricFamily(
                "partita_endpoints", "Endpoints that are known", labels=("service",)
            )
            for name, count in sorted(known.items()):
                endpoints.add_metric((name,), count)
            yield from (picks, endpoints)

        return collect


def _cost(worker: Worker, rows: int, deadline_s: float) -> tuple[bool, float]:
    group = worker.group
    if group is None or rows > group.most:
        return True, math.inf
    seconds = group.seconds[0][rows]
    return seconds > deadline_s, group.price * seconds


# The server


def serve_picker(source: ServiceSource, endpoint: PickerEndpoint, router: str, *, grace_s: float) -> bool:
    """Pick endpoints until SIGTERM or SIGINT, then wait for open streams.

    Args:
        source: of the services and their endpoints.
        endpoint: where to listen.
        router: name of the policy.
        grace_s: seconds that open streams have to end.

    Returns:
        Whether it ended in order; False if a second signal cut it short.

    Raises:
        InputError: the port cannot be used, or there is no such router.
    """
    return uvloop.run(_serve(source, endpoint, router, grace_s))


async def _serve(source: ServiceSource, endpoint: PickerEndpoint, router: str, grace_s: float) -> bool:
    picker = EndpointPicker((), router)
    limits = RequestLimits()
    metrics = PickerMetrics(picker)
    service = PickerService(picker, limits, metrics)
    ask, hurry = asyncio.Event(), asyncio.Event()
    server = GrpcServer(service, endpoint.host, endpoint.port, most=limits.body, tls=endpoint.tls)
    async with AsyncExitStack() as stack:
        stack.enter_context(signals_to(ask, hurry))
        await picker.gateway.start()
        stack.push_async_callback(picker.gateway.close)
        await stack.enter_async_context(background(source.follow(picker.follow)))
        await stack.enter_async_context(background(service.tell_health()))
        await server.start()
        stack.push_async_callback(server.stop, 0.0)
        pages = _pages(service, metrics)
        port = await stack.enter_async_context(_serving_pages(pages, endpoint))
        at, also = host_and_port(endpoint.host, server.port), host_and_port(endpoint.host, port)
        told = {"event": "listening", "grpc": at, "metrics": f"http://{also}/metrics"}
        _LOG.info("picking endpoints at %s, metrics at %s", at, told["metrics"], extra=told)
        await ask.wait()
        _LOG.info("draining: streams may end within %g seconds", grace_s)
        await unless(hurry, _end(service, server, grace_s))
    _LOG.info("ended")
    return not hurry.is_set()


async def _end(service: PickerService, server: GrpcServer, grace_s: float) -> None:
    """Say that it leaves, pick on until the proxy has had time to hear of it, and let streams end."""
    service.leaving = True
    leaving_s = min(_LEAVING_S, grace_s)
    await asyncio.sleep(leaving_s)
    await server.stop(grace_s - leaving_s)


def _pages(service: PickerService, metrics: PickerMetrics) -> ServedPages:
    """Return what is said over HTTP: found out in the loop, to which all that is known belongs."""
    loop = asyncio.get_running_loop()

    def asked(find: Callable[[], T]) -> T:
        async def found() -> T:
            return find()

        return asyncio.run_coroutine_threadsafe(found(), loop).result(_PAGE_S)

    return ServedPages(
        lambda accept: asked(lambda: metrics.prepared(accept))(),
        lambda: asked(lambda: None),
        lambda: asked(service.why_not),
    )


@asynccontextmanager
async def _serving_pages(pages: ServedPages, endpoint: PickerEndpoint) -> AsyncIterator[int]:
    """Answer over HTTP while the block runs, and end in another thread: a page may wait for this one's loop."""
    serving = serving_pages(pages, endpoint.host, endpoint.metrics_port, ("--listen", "--metrics-port"))
    port = serving.__enter__()
    try:
        yield port
    finally:
        await asyncio.to_thread(serving.__exit__, None, None, None)


class PickerEndpoint(NamedTuple):
    """Where a picker listens: host, ports of gRPC and of metrics (0 for a free one), and gRPC's TLS."""

    host: str
    port: int
    metrics_port: int
    tls: Tls | None


class PickerService:
    """The gRPC methods that a proxy calls, and health checks (a `GrpcService` for the gateway's server).

    Attributes:
        leaving: whether it is about to end.

    Args:
        picker: picks the endpoints.
        limits: of requests.
        metrics: counts.
    """

    def __init__(self, picker: EndpointPicker, limits: RequestLimits, metrics: PickerMetrics) -> None:
        self.leaving = False
        self._picker, self._limits, self._metrics = picker, limits, metrics
        self._health = health.aio.HealthServicer()

    def handlers(self) -> tuple[Any, ...]:
        """Return the gRPC handlers of the methods."""
        process = grpc.stream_stream_rpc_method_handler(
            self.process,
            message("ProcessingRequest").FromString,
            message("ProcessingResponse").SerializeToString,
        )
        checks = {
            "Check": grpc.unary_unary_rpc_method_handler(
                self._health.Check,
                health_pb2.HealthCheckRequest.FromString,
                health_pb2.HealthCheckResponse.SerializeToString,
            ),
            "Watch": grpc.unary_stream_rpc_method_handler(
                self._health.Watch,
                health_pb2.HealthCheckRequest.FromString,
                health_pb2.HealthCheckResponse.SerializeToString,
            ),
        }
        return (
            grpc.method_handlers_generic_handler(SERVICE, {"Process": process}),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", checks),
        )

    def end_streams(self) -> None:
        """Do nothing: each stream belongs to one request and ends with it."""

    def why_not(self) -> str | None:
        """Return why it is not ready, None if it is."""
        if self.leaving:
            return "it is about to end"
        missing = sorted(name for name, count in self._picker.endpoints().items() if not count)
        return f"no endpoint of {', '.join(missing[:_MOST_NAMES])} is ready" if missing else None

    async def tell_health(self) -> None:
        """Keep the health status up to date until cancelled: ready if every service has an endpoint."""
        serving, not_serving = (
            health_pb2.HealthCheckResponse.SERVING,
            health_pb2.HealthCheckResponse.NOT_SERVING,
        )
        await self._health.set("liveness", serving)
        while True:
            for name in ("", "readiness", SERVICE):
                ready = self._picker.ready() and not self.leaving
                await self._health.set(name, serving if ready else not_serving)
            await asyncio.sleep(_LOOK_S)

    async def process(self, requests: AsyncIterator[Proto], _: object) -> AsyncIterator[Proto]:
        """Answer the messages of a proxy about one request."""
        stream = _RequestStream(self._picker, self._limits, self._metrics)
        try:
            async for request in requests:
                async for response in stream.answers(request):
                    yield response
                    if response.WhichOneof("response") == "immediate_response":
                        return
        finally:
            stream.end()


class _RequestStream:
    """One request on its way through the proxy."""

    def __init__(self, picker: EndpointPicker, limits: RequestLimits, metrics: PickerMetrics) -> None:
        self._picker, self._limits, self._metrics = picker, limits, metrics
        self._headers: dict[str, str] = {}
        self._subset: frozenset[str] | None = None
        self._body = bytearray()
        self._modes = message("ProtocolConfiguration")(
            request_body_mode="FULL_DUPLEX_STREAMED", response_body_mode="FULL_DUPLEX_STREAMED"
        )
        self._pick: Pick | None = None
        self._failed = self._answered = False

    def end(self) -> None:
        """Take note that the stream has ended."""
        if self._pick is not None:
            self._pick.end(_FAILED if self._failed else Answer() if self._answered else _LEFT)

    async def answers(self, request: Proto) -> AsyncIterator[Proto]:
        """Yield the responses to a message of the proxy."""
        if request.HasField("protocol_config"):
            self._modes = request.protocol_config
        kind = request.WhichOneof("request")
        if kind == "request_headers":
            self._headers = _read_headers(request.request_headers.headers)
            self._subset = _read_subset(request.metadata_context)
            mode = self._mode("request_body_mode")
            if request.request_headers.end_of_stream or mode in {"NONE", "STREAMED"}:
                yield await self._chosen("request_headers")
            elif mode != "FULL_DUPLEX_STREAMED":  # the proxy waits for this before it sends the body
                yield _response("request_headers")
        elif kind in {"request_body", "request_trailers"}:
            async for each in self._read_body(request, kind):
                yield each
        elif kind == "response_headers":
            self._answered = True
            self._failed = _read_headers(request.response_headers.headers).get(":status", "").startswith("5")
            if request.response_headers.end_of_stream or self._mode("response_body_mode") == "NONE":
                self.end()
            yield _response(kind)
        elif kind in {"response_body", "response_trailers"}:
            if kind == "response_trailers" or request.response_body.end_of_stream:
                self.end()
            for each in self._passed(request, kind):
                yield each

    async def _read_body(self, request: Proto, kind: str) -> AsyncIterator[Proto]:
        """Collect the body; pick when it is complete; send it back if the proxy streams in full duplex."""
        whole = kind == "request_trailers" or request.request_body.end_of_stream
        mode = self._mode("request_body_mode")
        if mode in {"NONE", "STREAMED"}:
            yield _response(kind)
            return
        if kind == "request_body":
            if len(self._body) + len(request.request_body.body) > self._limits.body:
                yield _refusal(413, f"the body has more than {self._limits.body} bytes")
                return
            self._body += request.request_body.body
        if mode != "FULL_DUPLEX_STREAMED":
            if kind == "request_trailers":
                yield _response(kind)
            elif whole or mode == "BUFFERED_PARTIAL":
                yield await self._chosen("request_body")
            return
        if not whole:
            return
        if self._pick is None:
            yield await self._chosen("request_headers")
        if self._pick is not None:
            for each in _pieces("request_body", bytes(self._body), end=kind == "request_body"):
                yield each
            if kind == "request_trailers":
                yield _response(kind)

    def _passed(self, request: Proto, kind: str) -> Iterator[Proto]:
        """Yield the responses that pass an answer on unchanged."""
        if kind == "response_body" and self._mode("response_body_mode") == "FULL_DUPLEX_STREAMED":
            body = request.response_body
            yield from _pieces("response_body", body.body, end=body.end_of_stream)
        else:
            yield _response(kind)

    def _mode(self, name: str) -> str:
        number = getattr(self._modes, name)
        return str(message("ProtocolConfiguration").BodySendMode.Name(number))

    async def _chosen(self, kind: str) -> Proto:
        """Return the response with the picked endpoints, or a refusal."""
        asked, refusal, outcome = AskedQuery(None), None, "cancelled"
        try:
            asked = read_asked(self._headers, bytes(self._body), self._limits)
            size = len(self._body) or int(self._headers.get("content-length", "0") or 0)
            self._pick = await self._picker.pick(asked, size, self._subset)
            outcome = "picked"
        except QueryRefusedError as error:
            status, outcome = 429 if error.reason in _LATE else 503, str(error.reason)
            refusal = _refusal(status, str(error), outcome, error.retry_after_s)
        except RequestError as error:
            refusal, outcome = _refusal(error.status, error.what), error.reason
        except (QueryFailedError, ValueError) as error:
            refusal, outcome = _refusal(400, str(error)), "invalid"
        finally:
            self._metrics.picks[self._picker.known(asked.service), outcome] += 1
        if self._pick is None or refusal is not None:
            return refusal
        endpoints = ",".join(self._pick.endpoints)
        response = _response(kind)
        common = getattr(response, kind).response
        common.header_mutation.set_headers.append(_header(DESTINATION, endpoints))
        common.clear_route_cache = True
        response.dynamic_metadata.update({LOAD_BALANCER: {DESTINATION: endpoints}})
        return response


def _response(kind: str) -> Proto:
    """Return a response of some kind that changes nothing."""
    response = message("ProcessingResponse")()
    getattr(response, kind).SetInParent()
    return response


def _pieces(kind: str, body: bytes, *, end: bool) -> Iterator[Proto]:
    """Yield a body in pieces of at most `_PIECE` bytes."""
    for at in range(0, max(1, len(body)), _PIECE):
        response = _response(kind)
        streamed = getattr(response, kind).response.body_mutation.streamed_response
        streamed.body = body[at : at + _PIECE]
        streamed.end_of_stream = end and at + _PIECE >= len(body)
        yield response


def _refusal(status: int, what: str, reason: str = "", retry_after_s: float = 0.0) -> Proto:
    response = message("ProcessingResponse")()
    refusal = response.immediate_response
    refusal.status.code = status
    refusal.body = orjson.dumps({"error": what})
    refusal.details = f"partita: {what}"
    headers = {"content-type": "application/json", "partita-reason": reason}
    if retry_after_s:
        headers["retry-after"] = str(math.ceil(retry_after_s))
    refusal.headers.set_headers.extend(_header(name, value) for name, value in headers.items() if value)
    return response


def _header(name: str, value: str) -> Proto:
    made = message("HeaderValueOption")(append_action="OVERWRITE_IF_EXISTS_OR_ADD")
    made.header.key, made.header.raw_value = name, value.encode()
    return made


def _read_headers(headers: Proto) -> dict[str, str]:
    return {
        each.key.lower(): (each.raw_value.decode("latin-1") if each.raw_value else each.value)
        for each in headers.headers
    }


def _read_subset(metadata: Proto) -> frozenset[str] | None:
    """Return the endpoints to which the proxy limits the choice, from a list or a comma-separated text."""
    hint = metadata.filter_metadata.get(SUBSET_HINT) if SUBSET_HINT in metadata.filter_metadata else None
    if hint is None or SUBSET not in hint.fields:
        return None
    value = hint.fields[SUBSET]
    texts = (
        [each.string_value for each in value.list_value.values]
        if value.WhichOneof("kind") == "list_value"
        else value.string_value.split(",")
    )
    return frozenset(each.strip() for each in texts if each.strip())
