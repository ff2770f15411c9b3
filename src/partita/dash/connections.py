"""Connections of clients: none may be silent for long, and those that are make room for those that ask.

uvicorn answers requests; what it leaves open is what a client may do before its request is there. A connection that
sends nothing, half a head or half a TLS handshake is closed after some seconds, and at once where there is no room
for another: whoever asks is not kept out by those who do not.
"""

from __future__ import annotations

import asyncio
import resource
import sys
from typing import TYPE_CHECKING, Any

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol

from partita.dash.model import Fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.serve.tls import ServerCertificate

HEAD_S = 10.0
"""Seconds within which a connection's TLS handshake is over, and then the head of each request is there."""

MOST_CONNECTIONS = 1000
_BACKLOG = 200
_OTHER_FILES = 100
_HANDSHAKE = 22
"""The first byte of TLS (RFC 8446, section 5.1); no request of HTTP begins so."""


def room_for() -> tuple[int, int]:
    """Return how many connections there may be, with what this process may open, and how many may wait beside them.

    Those that wait to be accepted are accepted all at once.
    """
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS, _BACKLOG
    waiting = max(1, min(_BACKLOG, files // 4))  # 256 files are usual on some systems
    return max(1, min(MOST_CONNECTIONS, files - waiting - min(_OTHER_FILES, files // 2))), waiting


class Room:
    """All open connections, and those among them that have not asked for anything.

    Args:
        most: of all.
        headers: of answers to what is no request.
    """

    def __init__(self, most: int, headers: Mapping[str, str]) -> None:
        self._most = most
        self._open: set[Connection] = set()
        self._silent: dict[Connection, None] = {}
        self.headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    def enter(self, connection: Connection) -> bool:
        """Add a connection, in the place of the one that has been silent longest; return whether there is room."""
        if len(self._open) >= self._most and self._silent:
            oldest = next(iter(self._silent))
            self.leave(oldest)
            oldest.drop()
        if len(self._open) >= self._most:
            return False
        self._open.add(connection)
        self.silent(connection)
        return True

    def silent(self, connection: Connection) -> None:
        """Note that a connection waits for a request."""
        if connection in self._open:
            self._silent.setdefault(connection)

    def asks(self, connection: Connection) -> None:
        """Note that a connection has a request."""
        self._silent.pop(connection, None)

    def leave(self, connection: Connection) -> None:
        """Remove a connection."""
        self._open.discard(connection)
        self._silent.pop(connection, None)

    def close(self, *, busy: bool) -> None:
        """Close all connections that wait for a request, or all."""
        for each in list(self._open if busy else self._silent):
            self.leave(each)
            each.drop()


class Connection(H11Protocol):
    """A connection, whose client has some seconds for each head.

    Args:
        room: for all connections.
        tls: None for plain text.
        given: what uvicorn gives each connection.
    """

    def __init__(self, room: Room, tls: ServerCertificate | None, **given: Any) -> None:  # noqa: ANN401 -- uvicorn's
        super().__init__(**given)
        self._room = room
        self._tls = tls
        self._accepted: asyncio.Transport | None = None
        self._begun = False
        self._early = b""
        self._patience: asyncio.TimerHandle | None = None
        self._handshake: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin with a connection."""
        self._accepted = transport
        if not self._room.enter(self):
            if self._tls is None:
                super().connection_made(transport)
                self._begun = True
                self._refuse(503, Fault("too many connections are open", hint="come again"))
            else:
                transport.abort()
            return
        if self._tls is None:
            self._ready(transport)
        else:
            self._patience = self.loop.call_later(HEAD_S, transport.abort)

    def _begin(self, transport: asyncio.Transport, tls: ServerCertificate, data: bytes) -> None:
        """Begin with the first bytes of a connection that should be of TLS."""
        self._calm()
        if data[0] == _HANDSHAKE:
            transport.pause_reading()  # TLS resumes it
            self._handshake = self.loop.create_task(self._secure(transport, tls, data))
            return
        H11Protocol.connection_made(self, transport)
        self._begun = True
        self._refuse(400, Fault("this port speaks TLS", hint="use its https:// address"))

    async def _secure(self, transport: asyncio.Transport, tls: ServerCertificate, hello: bytes) -> None:
        securing = self.loop.create_task(
            self.loop.start_tls(
                transport, self, tls.current(), server_side=True, ssl_handshake_timeout=HEAD_S
            )
        )
        try:
            await asyncio.sleep(0)  # until TLS takes what comes, of which the beginning is here already
            _give(transport.get_protocol(), hello)
            made = await securing
        except OSError:  # of TLS and of its time limit, too
            made = None
        finally:
            securing.cancel()
        if made is None:
            self._room.leave(self)
            transport.abort()
            return
        self._ready(made)
        if self._early:  # what came with the end of the handshake
            super().data_received(self._early)
            self._noted()

    def _ready(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._begun = True
        self._noted()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        if not self._begun:
            if self._tls is not None and self._accepted is not None and self._handshake is None:
                self._begin(self._accepted, self._tls, data)
            else:
                self._early += data
            return
        super().data_received(data)
        self._noted()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._noted()

    def connection_lost(self, exc: Exception | None) -> None:
        """End with a connection."""
        self._room.leave(self)
        self._calm()
        if self._begun:
            super().connection_lost(exc)

    def drop(self) -> None:
        """Close the connection at once."""
        if self._handshake is not None:
            self._handshake.cancel()
        if self._accepted is not None:
            self._accepted.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request of HTTP, with h11's own words."""
        error = sys.exception()
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        self._refuse(
            status, Fault(f"this is no request of HTTP: {error or msg}", hint="HTTP/1.1 with one Host")
        )

    def _noted(self) -> None:
        """Give the client some seconds from when it has nothing asked; what comes in drops gives it no more."""
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self._calm()
            self._room.asks(self)
        elif self._patience is None:
            self._patience = self.loop.call_later(HEAD_S, self._late)
            self._room.silent(self)

    def _calm(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _late(self) -> None:
        self._patience = None
        begun = self.conn.trailing_data[0] != b""
        if begun and self.conn.our_state is h11.IDLE:
            self._refuse(408, Fault(f"the head of the request has not come within {HEAD_S:g} s"))
        else:
            self.transport.close()

    def _refuse(self, status: int, fault: Fault) -> None:
        """Answer with a fault, where no answer has begun, and close."""
        if self.cycle is not None:
            self.cycle.disconnected = True  # what it still sends goes nowhere
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = msgspec.json.encode(fault)
            headers = [
                *self._room.headers,
                (b"cache-control", b"no-store"),
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            for event in (
                h11.Response(status_code=status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _give(protocol: asyncio.BaseProtocol, data: bytes) -> None:
    """Have a protocol take bytes as if they came."""
    while data and isinstance(protocol, asyncio.BufferedProtocol):  # else the connection is over already
        room = memoryview(protocol.get_buffer(len(data)))
        size = min(len(room), len(data))
        room[:size] = data[:size]
        protocol.buffer_updated(size)
        data = data[size:]
