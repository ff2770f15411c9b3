"""A server of both transports in a thread, in front of a gateway that a test makes."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvloop

from partita.serve.gateway.access import Authenticator, listening
from partita.serve.gateway.gateway import ModelRepository
from partita.serve.gateway.grpc_server import GrpcServer, InferenceService
from partita.serve.gateway.http_api import HttpApi
from partita.serve.gateway.http_server import HttpServer
from partita.serve.gateway.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.serve.gateway.fake_gateway import FakeGateway

    from partita.serve.gateway.http_server import ConnectionLimits
    from partita.serve.gateway.oip import RequestLimits
    from partita.serve.tls import Tls


PATIENCE_S = 20.0


@dataclass
class Serving:
    gateway: FakeGateway
    metrics: Metrics
    http: int
    grpc: int
    loop: asyncio.AbstractEventLoop
    server: HttpServer

    def call(self, function: Callable[[], Any]) -> None:
        """Have the server's event loop call a function."""
        self.loop.call_soon_threadsafe(function)


@contextmanager
def serving(
    gateway: FakeGateway,
    *,
    limits: RequestLimits | None = None,
    token: str | None = None,
    tls: Tls | None = None,
    connections: ConnectionLimits | None = None,
    grace_s: float = 0.5,
) -> Iterator[Serving]:
    """Serve while the block runs."""
    metrics = Metrics(gateway.snapshot)
    models = ModelRepository(gateway, tuple(gateway.models), limits)  # type: ignore[arg-type]
    authenticator = Authenticator(token)
    started: list[Serving] = []
    up, end = threading.Event(), threading.Event()
    listener = listening("127.0.0.1", 0, "--port")

    async def main() -> None:
        http = HttpServer(
            HttpApi(models, metrics.prepared, authenticator),
            listener,
            tls=tls,
            limits=connections,
            errors=metrics.errors,
        )
        grpc = GrpcServer(
            InferenceService(models, authenticator, metrics.errors),
            "127.0.0.1",
            0,
            most=models.limits.body,
            tls=tls,
        )
        await grpc.start()
        await http.start()
        loop = asyncio.get_running_loop()
        started.append(Serving(gateway, metrics, listener.getsockname()[1], grpc.port, loop, http))
        up.set()
        await loop.run_in_executor(None, end.wait)
        await asyncio.gather(http.stop(grace_s), grpc.stop(grace_s))

    with listener:
        thread = threading.Thread(target=lambda: uvloop.run(main()))
        thread.start()
        try:
            assert up.wait(PATIENCE_S)
            yield started[0]
        finally:
            end.set()
            thread.join(PATIENCE_S)
    assert not thread.is_alive()


def connected(port: int) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def read_all(link: socket.socket) -> bytes:
    """Return what comes until the other side closes."""
    found = b""
    try:
        while data := link.recv(65536):
            found += data
    except ConnectionResetError:
        pass
    return found


def asked(port: int, request: bytes) -> bytes:
    """Send bytes and return all that comes back; the request must ask for the connection to be closed."""
    with connected(port) as link:
        link.sendall(request)
        return read_all(link)


def posted(port: int, path: str, body: bytes, *headers: str) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of a POST."""
    head = "\r\n".join(
        [f"POST {path} HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(body)}", *headers]
    )
    return split(asked(port, head.encode() + b"\r\n\r\n" + body))


def got(port: int, path: str, *headers: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of a GET."""
    head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *headers])
    return split(asked(port, head.encode() + b"\r\n\r\n"))


def split(response: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = response.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    return int(first.split()[1]), {name.lower(): value for name, _, value in pairs}, body
