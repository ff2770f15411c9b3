"""The hot path beside ASGI: a request to infer of a small body is answered without a task.

uvicorn makes a task, an event, a scope and a timer for each request, and checks each header that is sent: most of
what a small request costs. Here such a request is an `Exchange`, which the gateway tells its answer; everything else,
a body that is long in coming among it, goes through uvicorn to the application.

A client that keeps its connection sends the same head over and over. One that was parsed is known again byte for
byte, and a request that comes as a whole behind it is not given to the parser at all.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from partita.serve.gateway.http.application import CONNECTION
from partita.serve.gateway.http.inferring import (
    answer_reply,
    deadline,
    error_reply,
    header_length,
    infer_paths,
)
from partita.serve.gateway.http.reply import refusal
from partita.serve.gateway.oip.request import read_request
from partita.serve.gateway.values import Reason, RefusedError

if TYPE_CHECKING:
    from partita.serve.gateway.front import Front
    from partita.serve.gateway.http.reply import Reply
    from partita.serve.gateway.oip.request import InferRequest
    from partita.serve.gateway.security import Doorkeeper
    from partita.serve.gateway.waiting import Waiting
    from partita.serve.tensors import Answer

_MOST_HEADS, _LONGEST_HEAD = 256, 2048
_DIGITS = 5
"""Of the length of a small body."""
_ELSEWHERE = frozenset({b"expect", b"transfer-encoding", b"content-encoding", b"upgrade"})
"""Headers of requests that are left to the application."""


class _Head(NamedTuple):
    """A request's line and headers as they were parsed, and the bytes of the body behind them."""

    service: str
    headers: dict[bytes, bytes]
    length: int


class Direct:
    """What exchanges share.

    Attributes:
        heads: of requests that came as a whole and leave the connection open, by their bytes.

    Args:
        front: the models.
        doorkeeper: says who may ask.
    """

    def __init__(self, front: Front, doorkeeper: Doorkeeper) -> None:
        self.front, self.doorkeeper = front, doorkeeper
        self.paths = {path.encode(): service for path, service in infer_paths(front.services).items()}
        self.heads: dict[bytes, _Head] = {}
        self._server_headers: list[tuple[bytes, bytes]] = []
        self._server_head = b""

    def takes(self, headers: dict[bytes, bytes]) -> bool:
        """Return whether a request with these headers may be answered without the application."""
        length = headers.get(b"content-length", b"")
        return (
            0 < len(length) <= _DIGITS
            and int(length) <= self.front.limits.body
            and _ELSEWHERE.isdisjoint(headers)
            and not headers.get(b"content-type", b"").startswith(b"multipart/")
        )

    def keep(self, data: bytes, service: str, headers: dict[bytes, bytes], length: int) -> None:
        """Know a head again, if `data` are just that and a body of so many bytes."""
        end = data.find(b"\r\n\r\n") + 4
        if end + length == len(data) and end <= _LONGEST_HEAD:
            if len(self.heads) >= _MOST_HEADS:
                self.heads.clear()
            self.heads[data[:end]] = _Head(service, headers, length)

    def written(self, reply: Reply, server_headers: list[tuple[bytes, bytes]], *, last: bool) -> bytes:
        """Return a response as it is sent.

        Args:
            reply: that is sent.
            server_headers: that each response has; uvicorn makes another list when they change.
            last: whether the connection is closed behind it.
        """
        if server_headers is not self._server_headers:
            self._server_headers = server_headers
            self._server_head = b"".join(b"%b: %b\r\n" % each for each in server_headers)
        more = b"".join([b"%b: %b\r\n" % each for each in reply.headers]) if reply.headers else b""
        return b"%b%bcontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n%b" % (
            STATUS_LINE[reply.status],
            self._server_head,
            reply.media,
            len(reply.body),
            more,
            b"connection: close\r\n" if last else b"",
            reply.body,
        )


class DirectConnection(HttpToolsProtocol):
    """A connection of uvicorn's that answers small requests to infer by itself."""

    def __init__(self, direct: Direct, *args: Any, **options: Any) -> None:  # noqa: ANN401 -- uvicorn's own
        super().__init__(*args, **options)
        self.direct = direct
        self.exchange: Exchange | None = None
        self.idle_since: float | None = (
            None  # from when it waits for a request, where uvicorn has no timer for that
        )
        self._coming: tuple[str, dict[bytes, bytes], bool] | None = (
            None  # service, headers, whether to keep alive
        )
        self._parts: list[bytes] = []
        self.in_message = False  # whether some of a message has come, and not yet all of it
        self._first = b""  # what was read last, if a message is to begin with it

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the query out of the queues."""
        super().connection_lost(exc)
        if self.exchange is not None:
            self.exchange.leave()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        self.idle_since = None
        self._first = b"" if self.in_message else data
        super().data_received(data)
        self._first = b""

    def answers(self, data: bytes) -> bool:
        """Ask for a whole request with a known head, which comes between messages; return whether it is one."""
        end = data.find(b"\r\n\r\n") + 4
        head = self.direct.heads.get(data[:end])
        if head is None or len(data) != end + head.length:
            return False
        cycle = cast("Any", self.cycle)
        if self.flow.write_paused or (cycle is not None and not cycle.response_complete):
            return False
        self._unset_keepalive_if_required()
        self.idle_since = None
        self._ask(head.service, head.headers, data[end:], keep_alive=True)
        return True

    def shutdown(self) -> None:
        """End when what has begun to come is answered."""
        self.hand_over()
        super().shutdown()

    def hand_over(self) -> None:
        """Leave a request whose body is still coming to the application, which knows how long to wait."""
        if self._coming is not None:
            self._coming, parts = None, self._parts
            self._parts = []
            self._to_application()
            for part in parts:
                super().on_body(part)

    def on_message_begin(self) -> None:
        """Leave the scope to who needs it."""
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self.in_message = True

    def on_headers_complete(self) -> None:
        """See who answers it."""
        service = self.direct.paths.get(self.url)
        if service is not None and self._is_free():
            headers = dict(self.headers)
            if self.direct.takes(headers):
                self._coming = service, headers, self.parser.should_keep_alive()
                return
        self._to_application()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if self._coming is not None:
            self._parts.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Ask."""
        self.in_message = False
        if self._coming is None:
            super().on_message_complete()
            return
        (service, headers, keep_alive), self._coming = self._coming, None
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = []
        if keep_alive and self._first:
            self.direct.keep(self._first, service, headers, len(body))
        self._ask(service, headers, body, keep_alive=keep_alive)

    def respond(self, reply: Reply, *, last: bool) -> None:
        """Send the answer of the exchange, and go on with the next request."""
        self.exchange = None
        if self.transport.is_closing():
            return
        self.transport.write(self.direct.written(reply, self.server_state.default_headers, last=last))
        if last:
            self.transport.close()
        if self.pipeline:
            self.on_response_complete()
        else:
            self.server_state.total_requests += 1
            self.flow.resume_reading()
            self.idle_since = self.loop.time()

    def _ask(self, service: str, headers: dict[bytes, bytes], body: bytes, *, keep_alive: bool) -> None:
        self.exchange = exchange = Exchange(self, service, keep_alive=keep_alive)
        self.cycle = exchange  # type: ignore[assignment]  # has what is asked of one
        exchange.ask(headers, body)

    def _is_free(self) -> bool:
        """Return whether nothing stands between this request and its answer."""
        cycle = cast("Any", self.cycle)
        return (
            (cycle is None or cycle.response_complete)
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and not self.flow.write_paused
            and not self.parser.should_upgrade()
        )

    def _to_application(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        cast("dict[str, Any]", self.scope)[CONNECTION] = self
        super().on_headers_complete()


class Exchange:
    """One request and its answer; to uvicorn it is the connection's cycle, to the gateway who asks.

    Attributes:
        response_complete: whether nothing more is to be sent.
        keep_alive: whether the connection stays when it has been.
    """

    __slots__ = (
        "_connection", "_request", "_service", "_waiting", "disconnected", "keep_alive", "response_complete",
    )  # fmt: skip
    message_event = asyncio.Event()
    """uvicorn sets it when the connection is lost; nobody waits."""

    def __init__(self, connection: DirectConnection, service: str, *, keep_alive: bool) -> None:
        self._connection, self._service, self.keep_alive = connection, service, keep_alive
        self.response_complete = self.disconnected = False
        self._request: InferRequest | None = None
        self._waiting: Waiting | None = None

    def ask(self, headers: dict[bytes, bytes], body: bytes) -> None:
        """Ask the gateway, or say at once what is wrong."""
        direct = self._connection.direct
        front = direct.front
        try:
            direct.doorkeeper.check(headers.get(b"authorization"))
            signature = front.signature(self._service)
            request = read_request(body, header_length(headers), signature, front.limits)
            self._request = request
            allowed = deadline(headers, request, front.limits)
            self._waiting = front.gateway.ask(self._service, request.query, allowed, self)
        except Exception as error:  # noqa: BLE001 -- it ends one request, not the server
            self.set_exception(error)

    def done(self) -> bool:
        """Return whether no answer is waited for any longer."""
        return self.response_complete

    def set_result(self, answer: Answer) -> None:
        """Send the answer."""
        assert self._request is not None  # noqa: S101 -- it was asked
        try:
            reply = answer_reply(self._service, self._request, answer)
        except Exception as error:  # noqa: BLE001 -- it ends one request, not the dispatcher
            self.set_exception(error)
        else:
            self._send(reply)

    def set_exception(self, error: BaseException) -> None:
        """Send what is said of an error."""
        if isinstance(error, asyncio.CancelledError):
            self.end()
        else:
            self._send(error_reply(error, "POST", f"/v2/models/{self._service}/infer"))

    def end(self) -> None:
        """Refuse the request: the server ends."""
        self._send(refusal(RefusedError(Reason.DRAINING, 1.0)))

    def leave(self) -> None:
        """Take the query out of the queues: its client is gone."""
        self.response_complete = True
        self._connection.exchange = None
        if self._waiting is not None:
            self._connection.direct.front.gateway.forget(self._service, self._waiting)

    def _send(self, reply: Reply) -> None:
        if not self.response_complete:
            self.response_complete = True
            self._connection.respond(reply, last=not self.keep_alive)
