"""Server reflection: clients such as grpcurl learn methods and messages from the server itself.

The two versions of the service have the same messages under other names
(https://github.com/grpc/grpc-proto/blob/master/grpc/reflection/v1/reflection.proto); both are answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from partita.serve.gateway.grpc.health import HEALTH_SERVICE
from partita.serve.gateway.grpc.messages import SERVICE, protocol_files
from partita.serve.gateway.oip import RequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_ALPHA, _V1 = "grpc.reflection.v1alpha", "grpc.reflection.v1"


class ReflectionService:
    """Answers `ServerReflectionInfo` of both versions.

    Args:
        check: raises RequestError where the client of a call may not ask.
    """

    def __init__(self, check: Callable[[Any], None]) -> None:
        self._check = check
        names = [SERVICE, HEALTH_SERVICE, *(f"{package}.ServerReflection" for package in (_ALPHA, _V1))]
        self._answers = reflection.aio.ReflectionServicer(names, _pool())

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Return what a server needs to find the methods."""
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

    async def _answer(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: ANN401 -- gRPC has no types
        try:
            self._check(context)
        except RequestError as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, error.what)
        async for answer in self._answers.ServerReflectionInfo(requests, context):
            yield answer


def _pool() -> DescriptorPool:
    """Return the descriptors of all services, in a pool of their own as the protocol's messages are."""
    pool = DescriptorPool()
    for each in protocol_files():
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
    """Return the first version's file with the second's names."""
    text = text_format.MessageToString(file).replace("v1alpha", "v1")
    return text_format.Parse(text, FileDescriptorProto())
