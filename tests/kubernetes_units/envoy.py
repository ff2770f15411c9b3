"""A client that speaks external processing as Envoy does, and keeps Envoy's rules."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from grpc.aio import EOF

from partita.kubernetes.picker import SERVICE, message

if TYPE_CHECKING:
    from grpc import aio

PATIENCE_S = 30.0


class _EnvoysFolder:
    """Finds Envoy's messages in the folder that `make test` installs them to, and nothing else there.

    It also has old copies of opentelemetry-proto's files: on the path of modules they would hide the newer ones.
    """

    packages = frozenset({"envoy", "udpa", "validate", "xds"})
    at = Path(sys.prefix) / "envoy"

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        del path, target
        return PathFinder.find_spec(name, [str(cls.at)]) if name in cls.packages else None


sys.meta_path.append(_EnvoysFolder)


def published(name: str) -> Any:
    """Return a module of Envoy's messages, made of its own files, which `xds-protos` of the gRPC project has."""
    if not _EnvoysFolder.at.is_dir():
        pytest.skip(f"Envoy's messages are not in {_EnvoysFolder.at}: `make test` installs them")
    return import_module(f"envoy.{name}")


@dataclass
class Picked:
    """What the proxy was told of a request."""

    endpoints: list[str] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)
    status: int | None = None
    refusal: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    sent: bytes = b""


class Stream:
    """One request: headers, body in chunks, and the answer's headers and body, in the modes of a filter.

    In FULL_DUPLEX_STREAMED the body is sent without waiting, and belongs to the processor: what it hands back is what
    goes on. In BUFFERED each message is sent when the one before was answered.
    """

    def __init__(
        self, channel: aio.Channel, mode: str = "FULL_DUPLEX_STREAMED", *, tells_mode: bool = True
    ) -> None:
        ask = channel.stream_stream(
            f"/{SERVICE}/Process",
            request_serializer=message("ProcessingRequest").SerializeToString,
            response_deserializer=message("ProcessingResponse").FromString,
        )
        self.call = ask()
        self.mode, self._tells = mode, tells_mode
        self.picked = Picked()

    async def send(self, **fields: Any) -> None:
        request = message("ProcessingRequest")(**fields)
        if self._tells:
            request.protocol_config.request_body_mode = self.mode
            request.protocol_config.response_body_mode = (
                "FULL_DUPLEX_STREAMED" if self.mode == "FULL_DUPLEX_STREAMED" else "NONE"
            )
            self._tells = False
        await self.call.write(request)

    async def next(self) -> Any:
        found = await asyncio.wait_for(self.call.read(), PATIENCE_S)
        assert hasattr(found, "WhichOneof"), "the processor ended the stream"
        return found

    async def ask(
        self, headers: dict[str, str], body: bytes, subset: list[str] | None = None, chunk: int = 16_000
    ) -> Picked:
        """Send a request; return what becomes of it."""
        fields: dict[str, Any] = {
            "request_headers": {"headers": header_map(headers), "end_of_stream": not body}
        }
        if subset is not None:
            fields["metadata_context"] = {
                "filter_metadata": {
                    "envoy.lb.subset_hint": struct({"x-gateway-destination-endpoint-subset": subset})
                }
            }
        await self.send(**fields)
        pieces = [body[at : at + chunk] for at in range(0, len(body), chunk)]
        if self.mode != "FULL_DUPLEX_STREAMED" and body:
            if not self._take(await self.next(), "request_headers"):
                return self.picked
            pieces = [body] if self.mode == "BUFFERED" else []
        for at, piece in enumerate(pieces):
            await self.send(request_body={"body": piece, "end_of_stream": at == len(pieces) - 1})
        wanted = (["request_headers"] if self.mode == "FULL_DUPLEX_STREAMED" or not body else []) + (
            ["request_body"] if pieces else []
        )
        for kind in wanted:
            while self._take(await self.next(), kind) and kind == "request_body" and not self._ended:
                pass
            if self.picked.status is not None:
                break
        return self.picked

    _ended = False

    def _take(self, response: Any, wanted: str) -> bool:
        kind = response.WhichOneof("response")
        if kind == "immediate_response":
            refusal = response.immediate_response
            self.picked.status, self.picked.body = refusal.status.code, refusal.body
            self.picked.refusal = read(refusal.headers.set_headers)
            return False
        assert kind == wanted, f"{kind} where {wanted} was due"
        common = getattr(response, kind).response
        found = read(common.header_mutation.set_headers).get("x-gateway-destination-endpoint")
        if found:
            assert common.clear_route_cache
            self.picked.endpoints = found.split(",")
            metadata = response.dynamic_metadata.fields["envoy.lb"].struct_value.fields
            self.picked.metadata = metadata["x-gateway-destination-endpoint"].string_value.split(",")
        if kind == "request_body":
            streamed = common.body_mutation.streamed_response
            if self.mode == "FULL_DUPLEX_STREAMED":
                assert common.body_mutation.WhichOneof("mutation") == "streamed_response"
                assert len(streamed.body) < 65_536
                self.picked.sent += streamed.body
                self._ended = streamed.end_of_stream
            else:
                self._ended = True
        return True

    async def answer(self, status: int = 200, body: bytes = b"{}") -> None:
        """Pass the server's answer by the processor."""
        await self.send(
            response_headers={"headers": header_map({":status": str(status)}), "end_of_stream": False}
        )
        assert (await self.next()).WhichOneof("response") == "response_headers"
        if self.mode == "FULL_DUPLEX_STREAMED":
            await self.send(response_body={"body": body, "end_of_stream": True})
            found = await self.next()
            assert found.response_body.response.body_mutation.streamed_response.body == body
            assert found.response_body.response.body_mutation.streamed_response.end_of_stream
        await self.call.done_writing()

    def cancel(self) -> None:
        """The client has left."""
        self.call.cancel()


def header_map(headers: dict[str, str]) -> Any:
    return {"headers": [{"key": key, "raw_value": value.encode()} for key, value in headers.items()]}


def struct(fields: dict[str, list[str]]) -> Any:
    found = message("ProcessingResponse")().dynamic_metadata
    found.update(fields)
    return found


def read(options: Any) -> dict[str, str]:
    return {each.header.key: each.header.raw_value.decode() for each in options}


class Published:
    """The same in Envoy's own published messages: one request at a time, its body in one piece."""

    def __init__(self, channel: aio.Channel) -> None:
        self._core = published("config.core.v3.base_pb2")
        self._messages = published("service.ext_proc.v3.external_processor_pb2")
        stubs = published("service.ext_proc.v3.external_processor_pb2_grpc")
        self.call = stubs.ExternalProcessorStub(channel).Process()

    async def _next(self) -> Any:
        return await asyncio.wait_for(self.call.read(), PATIENCE_S)

    def _headers(self, headers: dict[str, str], *, end: bool) -> Any:
        found = [self._core.HeaderValue(key=key, raw_value=value.encode()) for key, value in headers.items()]
        return self._messages.HttpHeaders(headers=self._core.HeaderMap(headers=found), end_of_stream=end)

    async def ask(self, headers: dict[str, str], body: bytes) -> Picked:
        """Send a request; return what becomes of it."""
        asked = self._messages.ProcessingRequest
        await self.call.write(asked(request_headers=self._headers(headers, end=False)))
        piece = self._messages.HttpBody(body=body, end_of_stream=True)
        await self.call.write(asked(request_body=piece))
        picked, told = Picked(), await self._next()
        if told.HasField("immediate_response"):
            picked.status, picked.body = (
                int(told.immediate_response.status.code),
                told.immediate_response.body,
            )
            return picked
        found = read(told.request_headers.response.header_mutation.set_headers)
        picked.endpoints = found["x-gateway-destination-endpoint"].split(",")
        handed = (await self._next()).request_body.response.body_mutation.streamed_response
        assert handed.end_of_stream
        picked.sent = handed.body
        return picked

    async def answer(self) -> None:
        """Pass the server's answer by the processor, and end."""
        ok = self._headers({":status": "200"}, end=True)
        await self.call.write(self._messages.ProcessingRequest(response_headers=ok))
        assert (await self._next()).HasField("response_headers")
        await self.call.done_writing()
        assert await self._next() is EOF
