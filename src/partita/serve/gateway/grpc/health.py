"""The standard health service, `grpc.health.v1.Health`: what probes and load balancers ask of any gRPC server.

Its names are those of the models; the empty name, and that of the protocol's own service, is the server.
https://github.com/grpc/grpc/blob/master/doc/health-checking.md says what each method answers.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2

from partita.serve.gateway.grpc.messages import SERVICE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from partita.serve.gateway.oip import ModelRepository

HEALTH_SERVICE = "grpc.health.v1.Health"
_LOOK_S = 0.1
"""Seconds between two looks whether what is watched has changed."""
_Status = health_pb2.HealthCheckResponse.ServingStatus
Proto: TypeAlias = Any


class HealthService:
    """Answers `Check` and `Watch`, from what the gateway is at that moment.

    Args:
        front: the models.
    """

    def __init__(self, front: ModelRepository) -> None:
        self._front = front
        self._ended = asyncio.Event()

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what a server needs to find the methods."""
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
        """End the streams of those who watch, each with its last status."""
        self._ended.set()

    def _status(self, name: str) -> int:
        front = self._front
        if name in ("", SERVICE):
            ready = front.ready
        elif name in front.services:
            ready = front.gateway.ready(name)
        else:
            return int(_Status.Value("SERVICE_UNKNOWN"))
        return int(_Status.Value("SERVING" if ready else "NOT_SERVING"))

    async def _check(self, request: Proto, context: Any) -> Proto:  # noqa: ANN401 -- gRPC has no types
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
