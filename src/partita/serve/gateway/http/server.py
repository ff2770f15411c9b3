"""uvicorn under the application: it starts, listens and ends as the gateway says."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import uvicorn

from partita.serve.gateway.http.guard import Guard, Patience, guards, watch
from partita.serve.gateway.sockets import BACKLOG

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from partita.serve.gateway.http.application import Application
    from partita.serve.gateway.http.direct import Direct
    from partita.serve.gateway.security import Tls

_CLOSE = (b"connection", b"close")
_LOOK_S = 0.01
_IDLE_S = 75
"""Seconds that a connection may be idle between two requests."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: who composes the gateway has those."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self.up.set()


class HttpServer:
    """Serves the application on a socket that listens.

    Args:
        app: answers.
        direct: answers small requests to infer without it.
        listener: is closed with the server.
        tls: None for plain HTTP.
        patience: with connections.
    """

    def __init__(
        self,
        app: Application,
        direct: Direct,
        listener: socket.socket,
        *,
        tls: Tls | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._listener = listener
        self._patience = patience or Patience()
        self._server = _Server(_config(app, direct, tls, self._patience))
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Return when it answers."""
        self._tasks = [
            asyncio.create_task(self._server.serve([self._listener])),
            asyncio.create_task(watch(self._server.server_state.connections, self._patience.head_s / 10)),
        ]
        await self._server.up.wait()

    async def leave_off(self, seconds: float) -> None:
        """Take no new connections, and close each behind its next answer; return when none are left, or in so long.

        A client that is about to ask over a connection it keeps is thus told, where closing would cut it off.
        """
        for server in self._server.servers:
            server.close()
        config, state = self._server.config, self._server.server_state
        config.encoded_headers.append(_CLOSE)
        state.default_headers = [*state.default_headers, _CLOSE]
        end = asyncio.get_running_loop().time() + seconds
        while state.connections and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110 -- uvicorn tells nobody
            await asyncio.sleep(_LOOK_S)

    async def stop(self, grace_s: float) -> None:
        """Take no new connections, and return when the requests under way have ended or the grace is over."""
        tasks, self._tasks = self._tasks, []
        if not tasks:
            return
        # uvicorn declares whole seconds, and waits for any.
        self._server.config.timeout_graceful_shutdown = grace_s  # type: ignore[assignment]
        self._server.should_exit = True
        serving, watching = tasks
        watching.cancel()
        await serving
        for each in list(self._server.server_state.connections):
            if isinstance(each, Guard) and each.exchange is not None:
                each.exchange.end()
        with suppress(asyncio.CancelledError):
            await watching


def _config(app: Application, direct: Direct, tls: Tls | None, patience: Patience) -> uvicorn.Config:
    options = {}
    if tls is not None:
        import ssl  # noqa: PLC0415 -- only with TLS

        options = {
            "ssl_certfile": tls.cert,
            "ssl_keyfile": tls.key,
            "ssl_ca_certs": tls.client_ca and str(tls.client_ca),
            "ssl_cert_reqs": ssl.CERT_REQUIRED if tls.client_ca else ssl.CERT_NONE,
        }
    return uvicorn.Config(
        app,
        http=guards(patience, direct),  # type: ignore[arg-type]  # a function that makes one is as good as the class
        ws="none",
        lifespan="off",
        interface="asgi3",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        backlog=BACKLOG,
        timeout_keep_alive=_IDLE_S,
        **options,  # type: ignore[arg-type]
    )
