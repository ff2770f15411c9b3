"""The protocol's methods over gRPC."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError

from partita.serve.gateway.grpc.codec import read_message, write_message
from partita.serve.gateway.grpc.health import HealthService
from partita.serve.gateway.grpc.messages import SERVICE, message
from partita.serve.gateway.grpc.reflection import ReflectionService
from partita.serve.gateway.oip import (
    VERSION,
    RequestError,
    checked,
    header_deadline,
    model_config,
    model_metadata,
    repository_index,
    server_metadata,
    statistics,
)
from partita.serve.gateway.refusals import Refusals
from partita.serve.gateway.values import FailedError, Reason, RefusedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from partita.serve.gateway.oip import ModelRepository
    from partita.serve.gateway.security import Doorkeeper

_LOG = logging.getLogger("partita.serve.grpc")
Proto: TypeAlias = Any
Context: TypeAlias = Any
_OPEN = frozenset({"ServerLive", "ServerReady"})
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_MALFORMED = "malformed message"
_UNDER_WAY = 64
"""Requests of one stream that are answered at the same time."""
_STREAMED = message("ModelStreamInferResponse")


class Service:
    """Answers the methods of inference.GRPCInferenceService, and the standard ones of health and reflection.

    Args:
        front: the models.
        doorkeeper: says who may ask.
        refusals: counts and logs errors.
    """

    def __init__(
        self, front: ModelRepository, doorkeeper: Doorkeeper, refusals: Refusals | None = None
    ) -> None:
        self._front = front
        self._refusals = refusals or Refusals()
        self._doorkeeper = doorkeeper
        self._health = HealthService(front)
        self._streams: set[asyncio.Task[None]] = set()

    def check(self, context: Context) -> None:
        """Refuse a call whose client may not ask.

        Raises:
            RequestError: it shows no token that is good.
        """
        self._doorkeeper.check(_metadata(context, "authorization"))

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Return what a server needs to find the methods of the protocol, of health and of reflection."""
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
        front, gateway = self._front, self._front.gateway

        def told(
            name: str, of: Callable[[Proto], dict[str, Any]]
        ) -> Callable[[Proto, Context], Awaitable[Proto]]:
            response = message(f"{name}Response")

            async def answer(request: Proto, _: Context) -> Proto:
                return ParseDict(of(request), response())

            return answer

        def ready(request: Proto) -> dict[str, bool]:
            # Of a model that is not there this is no error, as with Triton: whoever waits for it goes on asking.
            return {"ready": request.version in ("", VERSION) and gateway.ready(request.name)}

        def metadata(request: Proto) -> dict[str, Any]:
            return model_metadata(front.described(request.name, request.version))

        def config(request: Proto) -> dict[str, Any]:
            return {"config": model_config(front.described(request.name, request.version))}

        def counted(request: Proto) -> dict[str, Any]:
            names = [front.model(request.name, request.version).service] if request.name else front.services
            return statistics((name, gateway.statistics(name)) for name in names)

        def index(request: Proto) -> dict[str, Any]:
            models = ((name, gateway.ready(name)) for name in front.services)
            return {"models": repository_index(each for each in models if each[1] or not request.ready)}

        return {
            "ModelInfer": self._infer,
            "ServerLive": told("ServerLive", lambda _: {"live": True}),
            "ServerReady": told("ServerReady", lambda _: {"ready": front.ready}),
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
        """Return the method with its errors told as gRPC has them."""

        async def method(request: Proto, context: Context) -> Proto:
            try:
                if name not in _OPEN:
                    self.check(context)
                if request is None:
                    raise RequestError(_MALFORMED, reason="malformed")
                return await answer(request, context)
            except (RequestError, RefusedError, FailedError) as error:
                code, trailing = _status(error, context)
                self._count(code, error, name, context)
                await context.abort(code, str(error), trailing)
            except Exception as error:
                if isinstance(error, grpc.aio.AbortError):
                    raise
                _LOG.exception("a fault in partita itself at %s", name)
                self._count(grpc.StatusCode.INTERNAL, error, name, context)
                await context.abort(grpc.StatusCode.INTERNAL, "a fault in partita itself; its log says more")

        return method

    async def _infer(self, request: Proto, context: Context) -> Proto:
        front, service = self._front, request.model_name
        signature = front.signature(service, request.model_version)
        query, deadline_s = read_message(request, signature, front.limits)
        asked = _metadata(context, "partita-deadline-ms")
        if asked is not None:
            deadline_s = header_deadline(asked, front.limits)
        left = context.time_remaining()
        if left is not None and left < (signature.model.deadline_s if deadline_s is None else deadline_s):
            deadline_s = left
        answer = checked(await front.gateway.infer(service, query, deadline_s))
        return write_message(service, request.id, answer)

    async def _stream(self, requests: AsyncIterator[Proto], context: Context) -> AsyncIterator[Proto]:
        """Answer the requests of a stream in their order, several at a time."""
        try:
            self.check(context)
        except RequestError as error:
            self._count(_CODES[error.status], error, "ModelStreamInfer", context)
            await context.abort(_CODES[error.status], error.what)
        waiting: asyncio.Queue[asyncio.Task[Proto] | None] = asyncio.Queue()
        room = asyncio.Semaphore(_UNDER_WAY)
        taking = asyncio.create_task(self._take(requests, context, waiting, room))
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

    def _count(self, code: grpc.StatusCode, error: Exception, method: str, context: Context) -> None:
        if isinstance(error, RequestError | RefusedError):
            reason = str(error.reason)
        else:
            reason = "failed" if isinstance(error, FailedError) else "internal"
        self._refusals.count(("grpc", code.name, reason), context.peer(), method, str(error))

    async def _take(
        self,
        requests: AsyncIterator[Proto],
        context: Context,
        waiting: asyncio.Queue[asyncio.Task[Proto] | None],
        room: asyncio.Semaphore,
    ) -> None:
        async for request in requests:
            await room.acquire()
            waiting.put_nowait(asyncio.create_task(self._streamed(request, context)))

    def end_streams(self) -> None:
        """Take nothing more from the streams there are: each ends when what it has sent is answered."""
        self._health.end_watches()
        for taking in self._streams:
            taking.cancel()

    async def _streamed(self, request: Proto, context: Context) -> Proto:
        if request is None:
            return _STREAMED(error_message=_MALFORMED)
        try:
            return _STREAMED(infer_response=await self._infer(request, context))
        except (RequestError, RefusedError, FailedError) as error:
            self._count(_status(error, context)[0], error, "ModelStreamInfer", context)
            # The identity tells the client which of its requests it was.
            return _STREAMED(error_message=str(error), infer_response={"id": request.id})
        except Exception:  # noqa: BLE001 -- it ends one request, not the stream
            _LOG.exception("a fault in partita itself at ModelStreamInfer")
            return _STREAMED(error_message="a fault in partita itself; its log says more")


def _reader(name: str) -> Callable[[bytes], Proto | None]:
    """Return what reads a message, and reads None where there is none: gRPC would log a fault of ours."""
    read = message(name).FromString

    def reader(data: bytes) -> Proto | None:
        try:
            return read(data)
        except DecodeError:
            return None

    return reader


def _status(
    error: RequestError | RefusedError | FailedError, context: Context
) -> tuple[grpc.StatusCode, tuple[tuple[str, str], ...]]:
    """Return the code of an error, and the metadata that go with it: when to try again (gRFC A6)."""
    if isinstance(error, RequestError):
        return _CODES.get(error.status, grpc.StatusCode.INVALID_ARGUMENT), ()
    if isinstance(error, FailedError):
        return grpc.StatusCode.INTERNAL, ()
    left = context.time_remaining()
    if error.reason is Reason.LATE and left is not None and left <= error.retry_after_s:
        return grpc.StatusCode.DEADLINE_EXCEEDED, ()
    code = grpc.StatusCode.RESOURCE_EXHAUSTED if error.reason is Reason.FULL else grpc.StatusCode.UNAVAILABLE
    after = max(1, round(error.retry_after_s * 1000))
    return code, (("grpc-retry-pushback-ms", str(after)), ("partita-reason", str(error.reason)))


def _metadata(context: Context, key: str) -> bytes | None:
    for name, value in context.invocation_metadata():
        if name == key:
            return value.encode() if isinstance(value, str) else value
    return None
