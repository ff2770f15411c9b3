"""What guards a connection: limits in number, size and time that uvicorn leaves to proxies; clients that leave."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import orjson

from partita.serve.gateway.http.direct import DirectConnection

if TYPE_CHECKING:
    from collections.abc import Callable

    from uvicorn.config import Config
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
    from uvicorn.server import ServerState

    from partita.serve.gateway.http.direct import Direct


@dataclass(frozen=True, slots=True)
class Patience:
    """How many connections there may be, and how long each may take.

    Attributes:
        connections: at once.
        head: bytes of a request's line and headers.
        head_s: seconds for the line and headers, also from connecting to them.
        message_s: seconds for the whole request, and for taking some of the answer; longer than the application waits
            for a body, since that can tell the client.
    """

    connections: int = 4096
    head: int = 64 << 10
    head_s: float = 10.0
    message_s: float = 45.0


class Guard(DirectConnection):
    """One connection."""

    def __init__(self, patience: Patience, direct: Direct, *args: Any, **options: Any) -> None:  # noqa: ANN401 -- uvicorn's own
        super().__init__(direct, *args, **options)
        self._patience = patience
        self._in_head = False
        self._begun = 0  # messages in the data that were read last
        self._head = 0  # bytes of the head so far
        self._since: float | None = self.loop.time()  # from when a message is waited for
        self._stuck: float | None = None  # from when the client has not taken its answer
        self.answering: asyncio.Task[None] | None = None
        self.gone = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Take the connection, or turn it away."""
        super().connection_made(transport)
        if len(self.connections) > self._patience.connections:
            self._turn_away(503, "too many connections")

    def connection_lost(self, exc: Exception | None) -> None:
        """Take what its client waited for out of the queues."""
        super().connection_lost(exc)
        self.gone = True
        self._since = None
        if self.answering is not None:
            self.answering.cancel()

    def data_received(self, data: bytes) -> None:
        """Read on, unless the head grows too large."""
        if self.transport.is_closing():
            return
        between, self._begun = not self.in_message, 0
        if between and self.answers(data):
            self._since = None
            return
        if self._since is None:
            self._since = self.loop.time()
        most = self._patience.head
        if between and len(data) > most and data.find(b"\r\n\r\n", 0, most) < 0:
            self._turn_away_for_head()
            return
        if between and data.find(b"pgrade:", 0, _LOOKED_AT) >= 0:
            data = _staying(data)
        super().data_received(data)
        # Data in which one message ends and another begins are not counted: they are of one read at most.
        if self._in_head and self._begun <= between:
            self._head += len(data)
            if self._head > most and not self.transport.is_closing():
                self._turn_away_for_head()

    def on_message_begin(self) -> None:
        """Note that a message comes."""
        super().on_message_begin()
        self._in_head = True
        self._begun += 1
        self._head = 0
        self._since = self.loop.time()

    def on_headers_complete(self) -> None:
        """Note that the head is there."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that all is there."""
        super().on_message_complete()
        self._since = None

    def pause_writing(self) -> None:
        """Note since when the client has not taken its answer."""
        super().pause_writing()
        self._stuck = self.loop.time()

    def resume_writing(self) -> None:
        """Note that it takes it again."""
        super().resume_writing()
        self._stuck = None

    def send_400_response(self, msg: str) -> None:
        """Say what is wrong as all other errors are said."""
        self._turn_away(400, msg)

    def look(self, now: float) -> None:
        """Close the connection if its client takes too long to send or to receive."""
        if self._stuck is not None and now - self._stuck > self._patience.message_s:
            self.transport.abort()
        if self.transport.is_closing():
            return
        if self.idle_since is not None and now - self.idle_since > self.timeout_keep_alive:
            self.transport.close()
        if self._since is None:
            return
        waited = now - self._since
        if waited > _SOON_S:
            self.hand_over()
        if (self._in_head or not self.in_message) and waited > self._patience.head_s:
            self._turn_away(
                408, f"the head of the request did not come within {self._patience.head_s:g} seconds"
            )
        elif waited > self._patience.message_s:
            self.transport.close()  # the application has said what there was to say

    def _turn_away_for_head(self) -> None:
        self._turn_away(431, f"the head of the request has more than {self._patience.head} bytes")

    def _turn_away(self, status: int, what: str) -> None:
        """Say what is wrong, unless an earlier request still waits for its own answer, and close."""
        if self._may_say():
            body = orjson.dumps({"error": what})
            self.transport.write(
                b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                b"%bconnection: close\r\n\r\n%b"
                % (status, _PHRASES[status], len(body), _AGAIN if status == 503 else b"", body)
            )
        self.transport.close()

    def _may_say(self) -> bool:
        waiting = cast("RequestResponseCycle | None", self.cycle)
        if waiting is None or waiting.response_complete:
            return True
        # The body of the one request under way is at fault: nothing but this will answer it.
        in_body = self.in_message and not self._in_head
        return in_body and not self.pipeline and not waiting.response_started


def _staying(data: bytes) -> bytes:
    """Return a head, and what follows it, without its wish for another protocol.

    A server may pass it over (RFC 9110, section 7.8), but the parser would pass over the body instead. Java's client
    wishes for HTTP/2 with every first request.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    return _WISH.sub(b"\r\nx-upgrade:", head) + end + rest


_LOOKED_AT = 4096
_SOON_S = 0.25
_WISH = re.compile(rb"(?i)\r\nupgrade:")
_AGAIN = b"retry-after: 1\r\n"
_PHRASES = {
    400: b"Bad Request",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}


def guards(patience: Patience, direct: Direct) -> Callable[..., Guard]:
    """Return what makes connections for uvicorn."""

    def make(
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> Guard:
        return Guard(patience, direct, config, server_state, app_state, _loop)

    return make


async def watch(connections: set[Any], every: float) -> None:
    """Look at all connections every so many seconds, until cancelled."""
    while True:
        await asyncio.sleep(every)
        now = asyncio.get_running_loop().time()
        for each in [one for one in connections if isinstance(one, Guard)]:
            each.look(now)
