"""The HTTP server: it listens, drains and ends as the gateway says."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

from partita.serve.gateway.http.connection import ConnectionLimits, Connections, HttpConnection
from partita.serve.gateway.refusals import Refusals
from partita.serve.gateway.sockets import BACKLOG

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from partita.serve.gateway.http.application import Application
    from partita.serve.gateway.security import Tls

_LOOK_S = 0.01
_LAST_S = 1.0
"""Seconds in which clients may take what they were told last."""


class HttpServer:
    """Serves the application on a socket that listens.

    Args:
        application: answers.
        listener: is closed with the server.
        tls: None for plain HTTP.
        limits: of connections.
        refusals: counts and logs errors.
    """

    def __init__(
        self,
        application: Application,
        listener: socket.socket,
        *,
        tls: Tls | None = None,
        limits: ConnectionLimits | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self._application = application
        self._listener, self._tls = listener, tls
        self._connections = Connections(application, limits or ConnectionLimits(), refusals or Refusals())
        self._server: asyncio.Server | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return when it answers."""
        context = _context(self._tls) if self._tls is not None else None
        limits = self._connections.limits
        self._server = await asyncio.get_running_loop().create_server(
            lambda: HttpConnection(self._connections),
            sock=self._listener,
            backlog=BACKLOG,
            ssl=context,
            ssl_handshake_timeout=limits.head_s if context is not None else None,
        )
        self._watching = asyncio.create_task(self._watch(min(1.0, limits.head_s / 10)))

    def drain(self) -> None:
        """Refuse what comes from now on, also over new connections; each is closed behind its next answer.

        Liveness and metrics are still told.
        """
        self._application.draining = True
        for each in list(self._connections.open):
            each.drain()

    async def answered(self, seconds: float) -> None:
        """Return when no answer is waited for and all have been taken, or in so long."""
        await _until(lambda: not self._connections.under_way, seconds)

    async def stop(self, grace_s: float) -> None:
        """Take no new connections, and return when the requests under way have ended or the grace is over."""
        server, self._server = self._server, None
        if server is None or self._watching is None:
            return
        server.close()
        self.drain()
        await self.answered(grace_s)
        for each in list(self._connections.open):
            each.end()
        await _until(lambda: not self._connections.open, _LAST_S)
        for each in list(self._connections.open):
            each.abort()
        self._watching.cancel()
        with suppress(asyncio.CancelledError):
            await self._watching

    async def _watch(self, every: float) -> None:
        """Look at all connections every so many seconds, until cancelled."""
        while True:
            await asyncio.sleep(every)
            self._connections.writer.renew()
            now = asyncio.get_running_loop().time()
            for each in list(self._connections.open):
                each.look(now)


async def _until(true: Callable[[], bool], seconds: float) -> None:
    """Return when something is true, or in so many seconds."""
    end = asyncio.get_running_loop().time() + seconds
    while not true() and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110 -- connections tell nobody
        await asyncio.sleep(_LOOK_S)


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.cert, tls.key)
    context.set_alpn_protocols(["http/1.1"])
    if tls.client_ca is not None:
        context.load_verify_locations(tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
