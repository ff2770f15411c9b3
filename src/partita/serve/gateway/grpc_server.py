"""The gRPC server, in the event loop of HTTP: the protocol, and the standard health and reflection services."""

from __future__ import annotations

import asyncio
import json
import logging
from array import array
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import grpc
from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from partita.errors import InputError
from partita.registry import culprit
from partita.serve.dispatching.query import QueryFailedError, QueryRefusedError, RefusalReason
from partita.serve.gateway.access import host_and_port
from partita.serve.gateway.gateway import checked
from partita.serve.gateway.metrics import ErrorCounter
from partita.serve.gateway.oip import (
    VERSION,
    RequestError,
    check_data,
    check_parameters,
    deadline_of,
    elements,
    header_deadline,
    model_config,
    model_metadata,
    others,
    repository_index,
    server_metadata,
    statistics,
)
from partita.serve.tensors import Tensor, pack_texts
from partita.serve.tls import ServerCertificate, Tls
from partita.serve.trace_context import TraceContext, read_trace_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence

    from partita.serve.gateway.access import Authenticator
    from partita.serve.gateway.gateway import ModelRepository
    from partita.serve.gateway.oip import RequestLimits, Signature
    from partita.serve.gateway.tracing import RequestTrace, RequestTracer
    from partita.serve.tensors import Answer, Query, TensorSpec


Proto: TypeAlias = Any
"""A message, or a map of messages. Classes that are made at run time have no static type."""
Context: TypeAlias = Any
"""The context of a call; gRPC has no types."""
PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"
HEALTH_SERVICE = "grpc.health.v1.Health"
DESCRIPTORS = "open_inference.binpb"
"""The descriptor set beside this module, made from the .proto file there."""
_MESSAGE_EXTRA = 1 << 16
"""Bytes of a message in addition to the tensors' data, for names and shapes."""
_MOST_CALLS = 10_000


class GrpcService(Protocol):
    """The methods of a server."""

    def handlers(self) -> Sequence[Any]:
        """Return the gRPC handlers of the methods."""
        ...

    def end_streams(self) -> None:
        """End streams that have no end of their own."""
        ...


class GrpcServer:
    """A gRPC server.

    Args:
        service: its methods.
        host: to listen at.
        port: TCP port; 0 for a free one.
        most: maximum bytes of a request's tensors.
        tls: None for plain text.

    Attributes:
        port: the port in use, after `start`.
    """

    def __init__(
        self, service: GrpcService, host: str, port: int, *, most: int, tls: Tls | None = None
    ) -> None:
        self._server = aio.server(
            maximum_concurrent_rpcs=_MOST_CALLS,
            options=(
                ("grpc.max_receive_message_length", most + _MESSAGE_EXTRA),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # so that a second gateway on the same port is an error
            ),
        )
        self._service = service
        self._server.add_generic_rpc_handlers(service.handlers())
        self._host, self._port, self._tls = host, port, tls
        self.port = port

    async def start(self) -> None:
        """Return when it accepts calls.

        Raises:
            InputError: the port cannot be used.
        """
        address = host_and_port(self._host, self._port)
        try:
            self.port = (
                self._server.add_secure_port(address, _credentials(self._tls))
                if self._tls
                else self._server.add_insecure_port(address)
            )
        except RuntimeError:
            self.port = 0
        if not self.port:
            raise InputError(
                f"cannot listen at {address}",
                where="--grpc-port",
                hint="another process may be there; --grpc-port 0 takes a free port",
            )
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Accept no new calls, and return when running ones have ended or the grace period is over."""
        self._service.end_streams()
        await self._server.stop(grace_s)


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    certificate = ServerCertificate(tls, _LOG.warning)
    known = certificate.current()

    def newest() -> grpc.ServerCertificateConfiguration | None:
        nonlocal known
        found = certificate.current()
        if found is known:
            return None
        known = found
        return _configuration(tls)

    return grpc.dynamic_ssl_server_credentials(_configuration(tls), newest, tls.client_ca is not None)


def _configuration(tls: Tls) -> grpc.ServerCertificateConfiguration:
    authority = tls.client_ca.read_bytes() if tls.client_ca else None
    return grpc.ssl_server_certificate_configuration(
        [(tls.key.read_bytes(), tls.cert.read_bytes())], authority
    )


# Messages, in descriptor pools of their own: clients of the same protocol in this process register the same names in
# protobuf's default pool.


def descriptors(package: str, name: str) -> tuple[FileDescriptorProto, ...]:
    """Return the descriptors in a descriptor set, which is a file of a Python package."""
    return tuple(FileDescriptorSet.FromString(files(package).joinpath(name).read_bytes()).file)


def message_classes(found: Iterable[FileDescriptorProto], package: str) -> Callable[[str], Any]:
    """Return a function from a message's name to its class.

    Args:
        found: descriptors of the messages.
        package: of the messages, in the sense of protobuf.
    """
    pool = DescriptorPool()
    for each in found:
        pool.Add(each)
    return cache(lambda name: GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")))


_FILES = descriptors(__package__, DESCRIPTORS)
message = message_classes(_FILES, PACKAGE)
"""Returns the class of a message of the protocol."""


# The protocol's methods


_LOG = logging.getLogger("partita.serve.grpc")
_OPEN = frozenset({"ServerLive", "ServerReady"})
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_CLIENT_S = frozenset({grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.CANCELLED})
"""Statuses that are no fault of the server's."""
_MALFORMED = "malformed message"
_UNDER_WAY = 64
"""Maximum number of a stream's requests that run concurrently."""
_STREAMED = message("ModelStreamInferResponse")


class InferenceService:
    """The methods of inference.GRPCInferenceService, and of the standard health and reflection services.

    Args:
        models: by name.
        authenticator: checks the token.
        errors: counts and logs errors; None for a new counter.
        tracer: makes spans of requests; None for none.
    """

    def __init__(
        self,
        models: ModelRepository,
        authenticator: Authenticator,
        errors: ErrorCounter | None = None,
        tracer: RequestTracer | None = None,
    ) -> None:
        self._models = models
        self._tracer = tracer
        self._errors = errors or ErrorCounter()
        self._authenticator = authenticator
        self._health = HealthService(models)
        self._streams: set[asyncio.Task[None]] = set()

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Return the handlers of the protocol, of health and of reflection."""
        return self._protocol(), self._health.handler(), *ReflectionService(self.check).handlers()

    def _protocol(self) -> grpc.GenericRpcHandler:
        methods = {
            name: grpc.unary_unary_rpc_method_handler(
                self._guarded(name, answer),
                request_deserializer=_reader(f"{name}Request"),
                response_serializer=message(f"{name}Response").SerializeToString,
            )
            for name, answer in self._methods().items()
        }
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=_reader("ModelInferRequest"),
            response_serializer=_STREAMED.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _methods(self) -> dict[str, Callable[[Proto, Context], Awaitable[Proto]]]:
        models, gateway = self._models, self._models.gateway

        def told(
            name: str, of: Callable[[Proto], dict[str, Any]]
        ) -> Callable[[Proto, Context], Awaitable[Proto]]:
            response = message(f"{name}Response")

            async def answer(request: Proto, _: Context) -> Proto:
                return ParseDict(of(request), response())

            return answer

        def ready(request: Proto) -> dict[str, bool]:
            # As in Triton, an unknown model is not an error, so that clients can wait for it.
            return {"ready": request.version in ("", VERSION) and gateway.ready(request.name)}

        def metadata(request: Proto) -> dict[str, Any]:
            return model_metadata(models.described(request.name, request.version))

        def config(request: Proto) -> dict[str, Any]:
            return {"config": model_config(models.described(request.name, request.version))}

        def counted(request: Proto) -> dict[str, Any]:
            names = [models.model(request.name, request.version).service] if request.name else models.services
            return statistics((name, gateway.statistics(name)) for name in names)

        def index(request: Proto) -> dict[str, Any]:
            listed = ((name, gateway.ready(name)) for name in models.services)
            return {"models": repository_index(each for each in listed if each[1] or not request.ready)}

        return {
            "ModelInfer": self._infer,
            "ServerLive": told("ServerLive", lambda _: {"live": True}),
            "ServerReady": told("ServerReady", lambda _: {"ready": models.ready}),
            "ServerMetadata": told("ServerMetadata", lambda _: server_metadata()),
            "ModelReady": told("ModelReady", ready),
            "ModelMetadata": told("ModelMetadata", metadata),
            "ModelConfig": told("ModelConfig", config),
            "ModelStatistics": told("ModelStatistics", counted),
            "RepositoryIndex": told("RepositoryIndex", index),
        }

    def _guarded(
        self, name: str, answer: Callable[[Proto, Context], Awaitable[Proto]]
    ) -> Callable[[Proto, Context], Awaitable[Proto]]:
        """Return the method with a token check, and with errors as gRPC statuses."""

        async def method(request: Proto, context: Context) -> Proto:
            try:
                if name not in _OPEN:
                    self.check(context)
                if request is None:
                    raise RequestError(_MALFORMED, reason="malformed")
                return await answer(request, context)
            except (RequestError, QueryRefusedError, QueryFailedError) as error:
                code, trailing = _status(error, context)
                self._count(code, error, name, context)
                await context.abort(code, str(error), trailing)
            except Exception as error:
                if isinstance(error, aio.AbortError):
                    raise
                text = f"a fault in {culprit(error)}"
                _LOG.exception("%s at %s", text, name)
                self._count(grpc.StatusCode.INTERNAL, error, name, context)
                await context.abort(grpc.StatusCode.INTERNAL, f"{text}; the log of the gateway says more")

        return method

    def check(self, context: Context) -> None:
        """Check the token of a call.

        Raises:
            RequestError: the token is missing or wrong.
        """
        self._authenticator.check(_metadata(context, "authorization"))

    async def _infer(self, request: Proto, context: Context) -> Proto:
        models, service = self._models, request.model_name
        signature = models.signature(service, request.model_version)
        query, deadline_s = read_message(request, signature, models.limits)
        asked = _metadata(context, "partita-deadline-ms")
        if asked is not None:
            deadline_s = header_deadline(asked, models.limits)
        left = context.time_remaining()
        if left is not None and left < (signature.model.deadline_s if deadline_s is None else deadline_s):
            deadline_s = left
        told = _trace_context(context)
        if self._tracer is None:
            query = query if told is None else query._replace(context=told)
            answer = await models.gateway.infer(service, query, deadline_s)
        else:
            trace = self._tracer.begin(f"{SERVICE}/ModelInfer", service, told)
            query = query._replace(context=trace.context)
            answer = await self._traced(trace, service, query, deadline_s, context)
        return write_message(service, request.id, checked(answer))

    async def _traced(
        self,
        trace: RequestTrace,
        service: str,
        query: Query,
        deadline_s: float | None,
        context: Context,
    ) -> Answer:
        """Return the answer of `Gateway.infer`, and end the request's span."""
        gateway = self._models.gateway
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        waiting = gateway.ask(service, query, deadline_s, future)
        code, reason = grpc.StatusCode.OK, ""
        try:
            answer = await future
            if answer.error is not None:
                invalid = answer.invalid
                code = grpc.StatusCode.INVALID_ARGUMENT if invalid else grpc.StatusCode.INTERNAL
                reason = "model" if invalid else "failed"
        except asyncio.CancelledError:
            code, reason = grpc.StatusCode.CANCELLED, "cancelled"
            gateway.forget(service, waiting)
            raise
        except (QueryRefusedError, QueryFailedError) as error:
            code, _ = _status(error, context)
            reason = str(error.reason) if isinstance(error, QueryRefusedError) else "failed"
            raise
        else:
            return answer
        finally:
            number: int = code.value[0]
            fault = code not in _CLIENT_S
            trace.end(("rpc.grpc.status_code", number), reason, waiting, fault=fault)

    async def _stream(self, requests: AsyncIterator[Proto], context: Context) -> AsyncIterator[Proto]:
        """Run the requests of a stream concurrently, and answer them in order."""
        try:
            self.check(context)
        except RequestError as error:
            self._count(_CODES[error.status], error, "ModelStreamInfer", context)
            await context.abort(_CODES[error.status], error.what)
        waiting: asyncio.Queue[asyncio.Task[Proto] | None] = asyncio.Queue()
        room = asyncio.Semaphore(_UNDER_WAY)

        async def take() -> None:
            async for request in requests:
                await room.acquire()
                waiting.put_nowait(asyncio.create_task(self._streamed(request, context)))

        taking = asyncio.create_task(take())
        taking.add_done_callback(lambda _: waiting.put_nowait(None))
        self._streams.add(taking)
        try:
            while (task := await waiting.get()) is not None:
                yield await task
                room.release()
        finally:
            self._streams.discard(taking)
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)
            while not waiting.empty():
                left = waiting.get_nowait()
                if left is not None:
                    left.cancel()

    async def _streamed(self, request: Proto, context: Context) -> Proto:
        if request is None:
            return _STREAMED(error_message=_MALFORMED)
        try:
            return _STREAMED(infer_response=await self._infer(request, context))
        except (RequestError, QueryRefusedError, QueryFailedError) as error:
            self._count(_status(error, context)[0], error, "ModelStreamInfer", context)
            # The id tells the client which of its requests failed.
            return _STREAMED(error_message=str(error), infer_response={"id": request.id})
        except Exception as error:  # noqa: BLE001 -- it ends one request, not the stream
            text = f"a fault in {culprit(error)}"
            _LOG.exception("%s at ModelStreamInfer", text)
            return _STREAMED(error_message=f"{text}; the log of the gateway says more")

    def end_streams(self) -> None:
        """Read no more requests of open streams; each stream ends when its requests are answered."""
        self._health.end_watches()
        for taking in self._streams:
            taking.cancel()

    def _count(self, code: grpc.StatusCode, error: Exception, method: str, context: Context) -> None:
        if isinstance(error, RequestError | QueryRefusedError):
            reason = str(error.reason)
        else:
            reason = "failed" if isinstance(error, QueryFailedError) else "internal"
        self._errors.count(("grpc", code.name, reason), context.peer(), method, str(error))


def _reader(name: str) -> Callable[[bytes], Proto | None]:
    """Return a function that reads a message, or returns None for an invalid one, since gRPC would log exceptions."""
    read = message(name).FromString

    def reader(data: bytes) -> Proto | None:
        try:
            return read(data)
        except DecodeError:
            return None

    return reader


def _status(
    error: RequestError | QueryRefusedError | QueryFailedError, context: Context
) -> tuple[grpc.StatusCode, tuple[tuple[str, str], ...]]:
    """Return the status code of an error, and the trailing metadata with the time to retry (gRFC A6)."""
    if isinstance(error, RequestError):
        return _CODES.get(error.status, grpc.StatusCode.INVALID_ARGUMENT), ()
    if isinstance(error, QueryFailedError):
        return grpc.StatusCode.INTERNAL, ()
    left = context.time_remaining()
    if error.reason is RefusalReason.LATE and left is not None and left <= error.retry_after_s:
        return grpc.StatusCode.DEADLINE_EXCEEDED, ()
    code = (
        grpc.StatusCode.RESOURCE_EXHAUSTED
        if error.reason is RefusalReason.FULL
        else grpc.StatusCode.UNAVAILABLE
    )
    after = max(1, round(error.retry_after_s * 1000))
    return code, (("grpc-retry-pushback-ms", str(after)), ("partita-reason", str(error.reason)))


def _metadata(context: Context, key: str) -> bytes | None:
    for name, value in context.invocation_metadata():
        if name == key:
            return value.encode() if isinstance(value, str) else value
    return None


def _trace_context(context: Context) -> TraceContext | None:
    """Return what the metadata say of a trace; repeated keys are joined by commas, as headers of HTTP are."""
    found: dict[str, bytes] = {}
    for key, value in context.invocation_metadata():
        if key in TraceContext._fields:
            text = value.encode() if isinstance(value, str) else value
            found[key] = found[key] + b"," + text if key in found else text
    return read_trace_context(*map(found.get, TraceContext._fields)) if found else None


# Requests and answers as messages


_FIELDS = {
    "BOOL": ("bool_contents", "B"),
    "INT8": ("int_contents", "b"),
    "INT16": ("int_contents", "h"),
    "INT32": ("int_contents", "i"),
    "INT64": ("int64_contents", "q"),
    "UINT8": ("uint_contents", "B"),
    "UINT16": ("uint_contents", "H"),
    "UINT32": ("uint_contents", "I"),
    "UINT64": ("uint64_contents", "Q"),
    "FP32": ("fp32_contents", "f"),
    "FP64": ("fp64_contents", "d"),
    "BYTES": ("bytes_contents", ""),
}
"""The field of typed contents and `array`'s code for it, by datatype."""
_PARAMETERS = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
_RESPONSE = message("ModelInferResponse")
_OUTPUT = _RESPONSE.InferOutputTensor


def read_message(request: Proto, signature: Signature, limits: RequestLimits) -> tuple[Query, float | None]:
    """Return the query of a ModelInferRequest, and its deadline in seconds, None if it has none.

    Raises:
        RequestError: the request has a fault.
    """
    deadline_s, given = None, {}
    if request.parameters:
        given[""] = _parameters(request.parameters)
        deadline_s = deadline_of(given[""], limits)
    inputs, raw = request.inputs, request.raw_input_contents
    if len(inputs) > signature.most_inputs(limits):
        raise RequestError(f"{len(inputs)} inputs, {signature.most_inputs(limits)} at most", 413)
    if len(request.outputs) > signature.most_outputs(limits):
        raise RequestError(f"{len(request.outputs)} outputs, {signature.most_outputs(limits)} at most", 413)
    if len(request.id) > limits.name:
        raise RequestError(f"id has {len(request.id)} characters, {limits.name} at most")
    if raw and len(raw) != len(inputs):
        raise RequestError(f"{len(inputs)} inputs, and {len(raw)} raw_input_contents")
    specs = signature.specs([(each.name, each.datatype, tuple(each.shape)) for each in inputs])
    tensors = [_tensor(each, raw[i] if raw else None, specs[i], limits) for i, each in enumerate(inputs)]
    outputs = []
    for each in request.outputs:
        if each.parameters:
            _parameters(each.parameters)
        outputs.append(each.name)
    given.update((each.name, _parameters(each.parameters)) for each in inputs if each.parameters)
    query = signature.query(tensors, outputs)
    return (query._replace(parameters=others(given)) if given else query), deadline_s


def _tensor(each: Proto, raw: bytes | None, spec: TensorSpec, limits: RequestLimits) -> Tensor:
    name, datatype, shape = each.name, each.datatype, tuple(each.shape)
    count = elements(spec, datatype, shape)
    if each.parameters:
        _parameters(each.parameters)
    if raw is None:
        data = _contents(each, count)
        if datatype == "BYTES":
            check_data(name, datatype, count, data, limits)
    elif each.HasField("contents"):
        raise RequestError(f"input {name} has both contents and raw_input_contents")
    else:
        data = raw
        check_data(name, datatype, count, data, limits)
    return Tensor(name, datatype, shape, data)


def _contents(each: Proto, count: int) -> bytes:
    if each.datatype not in _FIELDS:
        raise RequestError(
            f"input {each.name}: {each.datatype} has no typed contents; send raw_input_contents",
            reason="datatype",
        )
    field, code = _FIELDS[each.datatype]
    values = getattr(each.contents, field)
    if len(values) != count:
        raise RequestError(f"input {each.name}: {len(values)} elements in {field}, its shape has {count}")
    if not code:
        return pack_texts(values)
    try:
        return array(code, values).tobytes()
    except OverflowError:
        raise RequestError(f"input {each.name}: a number is out of range of {each.datatype}") from None


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in given.items():
        kind = value.WhichOneof("parameter_choice")
        found[name] = getattr(value, kind) if kind else None
    check_parameters(found)
    return found


def write_message(service: str, request_id: str, answer: Answer) -> Proto:
    """Return an answer as a ModelInferResponse with raw contents."""
    found = _RESPONSE(
        model_name=service,
        model_version=VERSION,
        id=request_id,
        outputs=[
            _OUTPUT(name=each.name, datatype=each.datatype, shape=each.shape) for each in answer.outputs
        ],
        raw_output_contents=[bytes(each.data) for each in answer.outputs],
    )
    if answer.parameters:
        _tell(found.parameters, answer.parameters.get("", {}))
        for each in found.outputs:
            _tell(each.parameters, answer.parameters.get(each.name, {}))
    return found


def _tell(into: Proto, told: Mapping[str, Any]) -> None:
    """Write parameters into a message; a value of an unsupported type becomes a JSON text."""
    for name, value in told.items():
        field = _PARAMETERS.get(type(value))
        if field is None or (field == "int64_param" and not -(2**63) <= value < 2**63):
            into[name].string_param = json.dumps(value)
        else:
            setattr(into[name], field, value)


# The standard health service for probes and load balancers. Its service names are those of the models; the empty name
# and that of the protocol's service stand for the server.
# Source: https://github.com/grpc/grpc/blob/master/doc/health-checking.md


_LOOK_S = 0.1
"""Seconds between two checks of watched statuses."""
_Status = health_pb2.HealthCheckResponse.ServingStatus


class HealthService:
    """Answers `Check` and `Watch` with the current state of the gateway.

    Args:
        models: by name.
    """

    def __init__(self, models: ModelRepository) -> None:
        self._models = models
        self._ended = asyncio.Event()

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the handler of the methods."""
        request = health_pb2.HealthCheckRequest.FromString
        response = health_pb2.HealthCheckResponse.SerializeToString
        return grpc.method_handlers_generic_handler(
            HEALTH_SERVICE,
            {
                "Check": grpc.unary_unary_rpc_method_handler(self._check, request, response),
                "Watch": grpc.unary_stream_rpc_method_handler(self._watch, request, response),
            },
        )

    def end_watches(self) -> None:
        """End all `Watch` streams, each with its last status."""
        self._ended.set()

    def _status(self, name: str) -> int:
        models = self._models
        if name in ("", SERVICE):
            ready = models.ready
        elif name in models.services:
            ready = models.gateway.ready(name)
        else:
            return int(_Status.Value("SERVICE_UNKNOWN"))
        return int(_Status.Value("SERVING" if ready else "NOT_SERVING"))

    async def _check(self, request: Proto, context: Context) -> Proto:
        status = self._status(request.service)
        if status == _Status.Value("SERVICE_UNKNOWN"):
            await context.abort(grpc.StatusCode.NOT_FOUND, "no model of that name")
        return health_pb2.HealthCheckResponse(status=status)

    async def _watch(self, request: Proto, _: object) -> AsyncIterator[Proto]:
        told = None
        while True:
            ended = self._ended.is_set()
            status = self._status(request.service)
            if status != told:
                told = status
                yield health_pb2.HealthCheckResponse(status=status)
            if ended:
                return
            try:
                await asyncio.wait_for(self._ended.wait(), _LOOK_S)
            except TimeoutError:
                continue


# Server reflection: clients such as grpcurl get methods and messages from the server. The two versions of the service
# have the same messages under different names; both are supported.
# Source: https://github.com/grpc/grpc-proto/blob/master/grpc/reflection/v1/reflection.proto


_ALPHA, _V1 = "grpc.reflection.v1alpha", "grpc.reflection.v1"


class ReflectionService:
    """Answers `ServerReflectionInfo` of both versions.

    Args:
        check: raises `RequestError` if the token of a call is missing or wrong.
    """

    def __init__(self, check: Callable[[Context], None]) -> None:
        self._check = check
        names = [SERVICE, HEALTH_SERVICE, *(f"{package}.ServerReflection" for package in (_ALPHA, _V1))]
        self._answers = reflection.aio.ReflectionServicer(names, _all_descriptors())

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Return the handlers of the methods."""
        method = grpc.stream_stream_rpc_method_handler(
            self._answer,
            reflection_pb2.ServerReflectionRequest.FromString,
            reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        return tuple(
            grpc.method_handlers_generic_handler(
                f"{package}.ServerReflection", {"ServerReflectionInfo": method}
            )
            for package in (_ALPHA, _V1)
        )

    async def _answer(self, requests: AsyncIterator[Proto], context: Context) -> AsyncIterator[Proto]:
        try:
            self._check(context)
        except RequestError as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, error.what)
        async for answer in self._answers.ServerReflectionInfo(requests, context):
            yield answer


def _all_descriptors() -> DescriptorPool:
    """Return a descriptor pool of its own with all services."""
    pool = DescriptorPool()
    for each in _FILES:
        pool.Add(each)
    for module in (health_pb2, reflection_pb2):
        pool.Add(_file(module))
    pool.Add(_renamed(_file(reflection_pb2)))
    return pool


def _file(module: Any) -> FileDescriptorProto:  # noqa: ANN401 -- a generated module
    found = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(found)
    return found


def _renamed(file: FileDescriptorProto) -> FileDescriptorProto:
    """Return the v1alpha file with the names of v1."""
    text = text_format.MessageToString(file).replace("v1alpha", "v1")
    return text_format.Parse(text, FileDescriptorProto())
