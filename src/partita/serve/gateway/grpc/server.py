"""The gRPC server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from grpc import aio

from partita.errors import InputError
from partita.serve.gateway.sockets import shown

if TYPE_CHECKING:
    from partita.serve.gateway.grpc.service import Service
    from partita.serve.gateway.security import Tls

_MESSAGE_EXTRA = 1 << 16
"""Bytes that names and shapes may take beside the tensors' data."""
_MOST_CALLS = 10_000


class GrpcServer:
    """Serves the protocol's methods.

    Args:
        service: answers.
        host: to listen at.
        port: of TCP; 0 takes a free one.
        most: bytes of a request's tensors.
        tls: None for plain text.
    """

    def __init__(self, service: Service, host: str, port: int, *, most: int, tls: Tls | None = None) -> None:
        self._server = aio.server(
            maximum_concurrent_rpcs=_MOST_CALLS,
            options=(
                ("grpc.max_receive_message_length", most + _MESSAGE_EXTRA),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # a second gateway on the same port is a mistake, and told
            ),
        )
        self._service = service
        self._server.add_generic_rpc_handlers(service.handlers())
        self._host, self._port, self._tls = host, port, tls
        self.port = port

    async def start(self) -> None:
        """Return when it answers.

        Raises:
            InputError: the port cannot be had.
        """
        address = shown(self._host, self._port)
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
        """Take no new calls, and return when those under way have ended or the grace is over."""
        self._service.end_streams()
        await self._server.stop(grace_s)


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    authority = tls.client_ca.read_bytes() if tls.client_ca else None
    return grpc.ssl_server_credentials(
        [(tls.key.read_bytes(), tls.cert.read_bytes())], authority, require_client_auth=authority is not None
    )
