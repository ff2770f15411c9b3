"""The HTTP/1.1 server: reads requests, answers them in order, and enforces limits of size and time.

Clients that keep their connection send the same head again and again. Heads of inference requests are cached by their
bytes, so that a request with a known head that arrives as a whole costs one look-up in a dictionary. No request has a
task: the connection itself receives the gateway's answer (it is an `AnswerReceiver`).

While a request is being answered, further data wait in a bounded buffer, so that clients that send many requests at
once or do not read their answers cost no more memory than one read and one answer.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import orjson

from partita.serve.dispatching.query import QueryRefusedError, RefusalReason
from partita.serve.gateway.access import BACKLOG
from partita.serve.gateway.gateway import until
from partita.serve.gateway.http_api import LongPage, answer_reply, draining, error_reply, json_length
from partita.serve.gateway.http_message import (
    END,
    IN_PLACE,
    ChunkedBody,
    ProtocolError,
    Reply,
    RequestHead,
    Writer,
    check_beginning,
    check_body,
    content_coding,
    read_head,
    too_large,
    unavailable,
    unpacked,
)
from partita.serve.gateway.metrics import ErrorCounter
from partita.serve.gateway.oip import RequestError, header_deadline, quoted
from partita.serve.gateway.oip_json import read_request
from partita.serve.tls import ServerCertificate
from partita.serve.trace_context import read_trace_context

if TYPE_CHECKING:
    import socket

    from partita.serve.dispatching.query import PendingQuery
    from partita.serve.gateway.http_api import BodyWanted, HttpApi
    from partita.serve.gateway.oip_json import InferRequest
    from partita.serve.gateway.tracing import RequestTrace, RequestTracer
    from partita.serve.tensors import Answer
    from partita.serve.tls import Tls
    from partita.serve.trace_context import TraceContext


_LOG = logging.getLogger("partita.serve.http")

_MOST_HEADS, _LONGEST_HEAD, _SMALL_BODY = 256, 2048, 99_999
"""Limits of cached heads: their number, their bytes, and the bytes of the body."""
_WELL_KNOWN = frozenset({b"expect", b"content-encoding", b"transfer-encoding", b"traceparent", b"baggage"})
"""A head with one of these headers is not cached; the last two are others each time."""
_BUFFERED = 1 << 16
"""Bytes that may wait unread while a request is being answered."""
_TOGETHER = 1 << 16
"""Maximum bytes of a body that is copied behind its head; a longer body is written separately."""
_AT_ONCE = 32
"""Requests of one connection that are answered before other connections have their turn."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_SPAN = "POST /v2/models/{model}/infer"
_CLIENT_LEFT = 499
"""Status of a request whose client has left, in its span, as nginx logs it."""
_LAST_S = 1.0
"""Seconds that clients have to read the last response."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of connections.

    Attributes:
        connections: open at a time.
        head: bytes of a request's line and headers.
        head_s: seconds for the line and headers; for the first request from the start of the connection.
        body_s: seconds for the body.
        idle_s: seconds between two requests.
        unread_s: seconds in which a client reads nothing of its answer.
        closing_s: seconds in which a client may go on sending an aborted request, so that it reads the error.
        bodies: bytes of all incomplete bodies together.
    """

    connections: int = 4096
    head: int = 64 << 10
    head_s: float = 10.0
    body_s: float = 30.0
    idle_s: float = 75.0
    unread_s: float = 45.0
    closing_s: float = 5.0
    bodies: int = 1 << 30


class HttpServer:
    """Serves the API on a listening socket.

    Args:
        api: answers requests.
        listener: is closed with the server.
        tls: None for plain HTTP.
        limits: of connections; None for the defaults.
        errors: counts and logs errors; None for a new counter.
        tracer: makes spans of requests; None for none.
    """

    def __init__(
        self,
        api: HttpApi,
        listener: socket.socket,
        *,
        tls: Tls | None = None,
        limits: ConnectionLimits | None = None,
        errors: ErrorCounter | None = None,
        tracer: RequestTracer | None = None,
    ) -> None:
        self._application = api
        self._listener, self._tls = listener, tls
        self._connections = Connections(api, limits or ConnectionLimits(), errors or ErrorCounter(), tracer)
        self._server: asyncio.Server | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return when it accepts connections."""
        tls = self._tls
        context = None if tls is None else ServerCertificate(tls, _LOG.warning, ["http/1.1"]).context()
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
        """Refuse new requests from now on, also on new connections; close each connection after its next answer.

        Liveness and metrics are still answered.
        """
        self._application.draining = True
        for each in list(self._connections.open):
            each.drain()

    async def answered(self, seconds: float) -> None:
        """Return when all answers have been sent and read, or after so many seconds."""
        await until(lambda: not self._connections.under_way, seconds)

    async def stop(self, grace_s: float) -> None:
        """Accept no new connections, and return when running requests have ended or the grace period is over."""
        server, self._server = self._server, None
        if server is None or self._watching is None:
            return
        server.close()
        self.drain()
        await self.answered(grace_s)
        for each in list(self._connections.open):
            each.end()
        await until(lambda: not self._connections.open, _LAST_S)
        for each in list(self._connections.open):
            each.abort()
        self._connections.pages.shutdown(wait=False, cancel_futures=True)
        self._watching.cancel()
        with suppress(asyncio.CancelledError):
            await self._watching

    async def _watch(self, every: float) -> None:
        """Check the time limits of all connections every so many seconds, until cancelled."""
        while True:
            await asyncio.sleep(every)
            self._connections.writer.renew()
            now = asyncio.get_running_loop().time()
            for each in list(self._connections.open):
                each.look(now)


def _context_of(head: RequestHead) -> TraceContext | None:
    told = head.headers.get
    return read_trace_context(told(b"traceparent"), told(b"tracestate"), told(b"baggage"))


class Connections:
    """The state that all connections share.

    Attributes:
        limits: of each connection, and of all together.
        open: the open connections.
        room: remaining bytes for incomplete bodies.
        heads: cached heads of inference requests, by their bytes.
        writer: of responses.
        pages: a thread that writes long pages, one at a time, so that this one goes on with queries.

    Args:
        api: answers requests.
        limits: of connections.
        errors: counts and logs errors.
        tracer: makes spans of requests; None for none.
    """

    def __init__(
        self, api: HttpApi, limits: ConnectionLimits, errors: ErrorCounter, tracer: RequestTracer | None
    ) -> None:
        self.api, self.limits, self.errors, self.tracer = api, limits, errors, tracer
        self.open: set[HttpConnection] = set()
        self.room = max(limits.bodies, 4 * api.models.limits.body)
        self.heads: dict[bytes, KnownHead] = {}
        self.writer = Writer()
        self.pages = ThreadPoolExecutor(1, "pages")

    def keep(self, data: bytes, head: KnownHead) -> None:
        """Cache a head."""
        if len(self.heads) >= _MOST_HEADS:
            self.heads.clear()
        self.heads[data] = head

    @property
    def under_way(self) -> bool:
        """Whether some answer has not been sent or read completely."""
        return any(each.is_under_way for each in self.open)


class KnownHead(NamedTuple):
    """The cached head of an inference request that keeps its connection open."""

    service: str
    length: int
    json_size: int | None
    deadline_s: float | None


IDLE, HEAD, BODY, CHUNKS, ANSWERING, SKIPPING, CLOSING, CLOSED = range(8)
"""What a connection does: waits for a request, reads its head, its body, a body in chunks; waits for an answer;
skips a body that nobody wants; has sent its last and lets the client finish; is closed."""


class HttpConnection(asyncio.Protocol):
    """One client.

    Args:
        shared: with all others.
    """

    def __init__(self, shared: Connections) -> None:
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        self._state = IDLE
        self._since = self._loop.time()  # start of the current time limit
        self._buffer = b""  # received data that is not parsed yet
        self._head: RequestHead | None = None  # of the current request; None for a cached one
        self._wanted: BodyWanted | None = None
        self._parts: list[bytes] = []
        self._held = 0  # bytes in the parts
        self._left = 0  # missing bytes of the body
        self._chunks: ChunkedBody | None = None
        self._service = ""
        self._request: InferRequest | None = None
        self._waiting: PendingQuery | None = None
        self._trace: RequestTrace | None = None
        self._keep_alive = True
        self._ended = False  # whether the client will send nothing more
        self._reading = False
        self._paused = False  # whether receiving is paused
        self._unread: tuple[float, int] | None = None  # bytes that the client has not read, and since when
        self._fresh = True  # whether it has had no request yet

    @property
    def is_under_way(self) -> bool:
        """Whether it waits for an answer, or its client has not read all of one."""
        return self._state == ANSWERING or bool(self._transport.get_write_buffer_size())

    # Callbacks of the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept the connection, or refuse it if there are too many."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not registered as one
        self._tls = transport.get_extra_info("sslcontext") is not None
        connections, limits = self._shared.open, self._shared.limits
        connections.add(self)
        if len(connections) > limits.connections:
            self._break_off(unavailable("too many connections", "connections", 1.0))

    def data_received(self, data: bytes) -> None:
        """Handle received data."""
        if self._state == IDLE and not self._buffer and self._unread is None:
            end = data.find(END) + 4
            known = self._shared.heads.get(data[:end])
            if known is not None and len(data) == end + known.length and not self._shared.api.draining:
                self._head, self._keep_alive = None, True
                self._ask(known.service, data[end:], known.json_size, known.deadline_s)
                return
        if self._state < CLOSING:
            self._buffer = self._buffer + data if self._buffer else data
            self._read()

    def eof_received(self) -> bool:
        """Answer complete requests: a client may close its side and wait for the answer (RFC 9112, section 9.6)."""
        if self._tls:
            return False  # with TLS both directions end together
        self._ended = True
        if self._state == CLOSING:
            self._close()
        else:
            self._read()
        return True

    def pause_writing(self) -> None:
        """Start no new request while the client does not read its answers."""
        self._unread = self._loop.time(), self._transport.get_write_buffer_size()

    def resume_writing(self) -> None:
        """Continue with the next request."""
        self._unread = None
        if not self._reading:
            self._read()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's
        """Cancel the query of a client that has left."""
        self._shared.open.discard(self)
        answering, self._state = self._state == ANSWERING, CLOSED
        self._let_go_of_parts()
        self._buffer = b""
        if answering:
            self._forget()

    # Reading a request: its head, then its body

    def _read(self) -> None:
        """Handle as much of the received data as possible."""
        self._reading, turns = True, 0
        try:
            while self._unread is None and self._step():
                turns += self._state <= HEAD
                if turns > _AT_ONCE:
                    self._loop.call_soon(self._read_on)
                    break
            else:
                if self._ended and self._unread is None:
                    self._end_of_input()
        except ProtocolError as error:
            self._break_off(self._reply_to(error))
        finally:
            self._reading = False
        self._hold()

    def _read_on(self) -> None:
        if not self._reading:
            self._read()

    def _step(self) -> bool:
        """Handle the next part of the data; return whether another part may follow."""
        if not self._buffer:
            return False
        if self._state <= HEAD:
            return self._take_head()
        if self._state in (BODY, CHUNKS, SKIPPING):
            return self._take_body()
        if self._state >= CLOSING:
            self._buffer = b""
        return False

    def _hold(self) -> None:
        """Pause receiving while the buffer is full or the client does not read its answers."""
        full = self._state < CLOSING and (self._unread is not None or len(self._buffer) > _BUFFERED)
        if full != self._paused and not self._transport.is_closing():
            self._paused = full
            if full:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _end_of_input(self) -> None:
        """Close after the client has closed its side, unless it waits for an answer."""
        if self._state in (IDLE, SKIPPING, CLOSING):
            self._close()
        elif self._state in (HEAD, BODY, CHUNKS):
            self._break_off(self._reply_to(ProtocolError("the request is cut short", reason="cut_short")))

    def _take_head(self) -> bool:
        if self._state == IDLE:
            self._buffer = self._buffer.lstrip(b"\r\n")  # RFC 9112, section 2.2
            if not self._buffer:
                return False
            self._state, self._since, self._fresh = HEAD, self._loop.time(), False
            self._head, self._keep_alive = None, False
        data, most = self._buffer, self._shared.limits.head
        end = data.find(END, 0, most) + 4
        if end < 4:
            check_beginning(data[:most])
            if len(data) >= most:
                raise ProtocolError(
                    f"the head of the request has more than {most} bytes", 431, "head_too_large"
                )
            return False
        self._head = head = read_head(data[:end])
        self._keep_alive, self._buffer = head.keep_alive, data[end:]
        self._begin(head, data[:end])
        return True

    def _begin(self, head: RequestHead, data: bytes) -> None:
        """Answer a request that needs no body, or go on with reading the body."""
        api = self._shared.api
        try:
            found = api.begin(head)
            if isinstance(found, LongPage):
                self._state = ANSWERING
                self._loop.run_in_executor(self._shared.pages, found.write).add_done_callback(self._written)
                return
            if not isinstance(found, Reply):
                if found.service is not None or head.has_body:
                    check_body(head, found.most)
                self._expect(head, found)
                if found.service is not None:
                    self._know_again(head, data, found.service)
                return
        except Exception as error:  # noqa: BLE001 -- it ends one request, not the server
            found = self._reply_to(error)
        if head.has_body:
            self._skip(head, found)
        else:
            self._respond(found)

    def _written(self, done: asyncio.Future[Reply]) -> None:
        """Answer with a page that another thread has written, unless the client has left."""
        error = None if done.cancelled() else done.exception()
        if self._state != ANSWERING or done.cancelled():
            return
        reply = done.result() if error is None else self._reply_to(error)
        if self._head is not None and self._head.has_body:
            self._skip(self._head, reply)
            self._read()
        else:
            self._respond(reply)

    def _expect(self, head: RequestHead, wanted: BodyWanted) -> None:
        """Prepare for reading a body."""
        self._wanted, self._since = wanted, self._loop.time()
        if head.length is None:
            self._state, self._chunks = CHUNKS, ChunkedBody()
        elif head.length:
            self._state, self._left = BODY, head.length
        else:
            self._whole()
            return
        if head.expects and not self._buffer:
            self._transport.write(_CONTINUE)

    def _know_again(self, head: RequestHead, data: bytes, service: str) -> None:
        """Cache a request's head if later requests with it can take the fast path."""
        length = head.length
        if (
            length is not None
            and 0 < length <= _SMALL_BODY
            and len(data) <= _LONGEST_HEAD
            and head.keep_alive
            and head.version == "1.1"
            and _WELL_KNOWN.isdisjoint(head.headers)
        ):
            try:
                json_size = json_length(head.headers)
                deadline_s = header_deadline(
                    head.headers.get(b"partita-deadline-ms"), self._shared.api.models.limits
                )
            except RequestError:
                return  # reported when the request is handled
            self._shared.keep(data, KnownHead(service, length, json_size, deadline_s))

    def _skip(self, head: RequestHead, reply: Reply) -> None:
        """Answer, and skip the body; close if it is too long to be skipped."""
        most = self._shared.api.models.limits.body
        if head.expects or reply.status in {408, 413} or (head.length or 0) > most:
            self._break_off(reply)
            return
        self._left = most if head.length is None else head.length
        self._chunks = ChunkedBody() if head.length is None else None
        self._send(reply)
        self._state, self._since = SKIPPING, self._loop.time()

    def _take_body(self) -> bool:
        """Take received data of a body; return whether the body is complete."""
        data, parts = self._buffer, self._parts
        before = len(parts)
        if self._chunks is not None:
            behind = self._chunks.take(data, parts)
            self._buffer = behind or b""
            came = sum(map(len, parts[before:]))
            whole = behind is not None
        else:
            part = data if len(data) <= self._left else data[: self._left]
            self._buffer = data[len(part) :]
            parts.append(part)
            came = len(part)
            self._left -= came
            whole = not self._left
        if self._state == SKIPPING:
            return self._skipped(came, whole=whole)
        if whole and not before:
            self._whole()
            return True
        self._held += came
        self._shared.room -= came
        assert self._wanted is not None  # noqa: S101 -- set before a body is read
        if self._held > self._wanted.most:
            self._break_off(self._reply_to(too_large(self._wanted.most)))
        elif self._shared.room < 0 and not whole:
            self._break_off(self._reply_to(QueryRefusedError(RefusalReason.FULL, 1.0)))
        elif whole:
            self._whole()
        return whole

    def _skipped(self, came: int, *, whole: bool) -> bool:
        self._parts = []
        if self._chunks is not None:
            self._left -= came
        if whole and self._keep_alive:
            self._next()
        elif whole or self._left < 0:
            self._linger()
        return whole

    # Submitting a request to the gateway

    def _whole(self) -> None:
        """Handle a request whose body is complete."""
        parts, head, wanted = self._parts, self._head, self._wanted
        assert head is not None  # noqa: S101 -- read before the body
        assert wanted is not None  # noqa: S101
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._let_go_of_parts()
        self._chunks = None
        self._state = ANSWERING
        if len(body) > wanted.most:
            self._respond(self._reply_to(too_large(wanted.most)))
            return
        coding = content_coding(head)
        if coding is None:
            self._ask_of(head, wanted, body)
        elif len(body) <= IN_PLACE:
            try:
                body = unpacked(body, coding, wanted.most)
            except RequestError as error:
                self._respond(self._reply_to(error))
            else:
                self._ask_of(head, wanted, body)
        else:
            unpacking = self._loop.run_in_executor(None, unpacked, body, coding, wanted.most)
            unpacking.add_done_callback(lambda done: self._unpacked(head, wanted, done))

    def _unpacked(self, head: RequestHead, wanted: BodyWanted, done: asyncio.Future[bytes]) -> None:
        error = None if done.cancelled() else done.exception()
        if self._state != ANSWERING or done.cancelled():
            return
        if error is not None:
            self._respond(self._reply_to(error))
        else:
            self._ask_of(head, wanted, done.result())

    def _ask_of(self, head: RequestHead, wanted: BodyWanted, body: bytes) -> None:
        try:
            if wanted.service is None:
                self._respond(self._shared.api.index(body))
                return
            json_size = json_length(head.headers)
            deadline_s = header_deadline(
                head.headers.get(b"partita-deadline-ms"), self._shared.api.models.limits
            )
        except Exception as error:  # noqa: BLE001 -- it ends one request, not the server
            self._respond(self._reply_to(error))
            return
        self._ask(wanted.service, body, json_size, deadline_s)

    def _ask(self, service: str, body: bytes, json_size: int | None, deadline_s: float | None) -> None:
        """Submit a query to the gateway, or answer at once if the request has a fault."""
        self._state, self._service = ANSWERING, service
        context = None if self._head is None else _context_of(self._head)
        if self._shared.tracer is not None:
            self._trace = self._shared.tracer.begin(_SPAN, service, context)
            context = self._trace.context
        models = self._shared.api.models
        try:
            request = read_request(body, json_size, models.signature(service), models.limits)
            self._request = request
            query = request.query if context is None else request.query._replace(context=context)
            self._waiting = models.gateway.ask(
                service, query, request.deadline_s if deadline_s is None else deadline_s, self
            )
        except Exception as error:  # noqa: BLE001 -- it ends one request, not the server
            self._respond(self._reply_to(error))

    def _end_trace(self, status: int, reason: str) -> None:
        if self._trace is not None:
            self._trace.end(("http.response.status_code", status), reason, self._waiting, fault=status >= 500)
            self._trace = None

    def _forget(self) -> None:
        """Cancel the query."""
        self._end_trace(_CLIENT_LEFT, "cancelled")
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._state = CLOSED
            self._shared.api.models.gateway.forget(self._service, waiting)

    # The answer of the gateway (`AnswerReceiver`)

    def done(self) -> bool:
        """Return whether it no longer waits for an answer."""
        return self._state != ANSWERING

    def set_result(self, answer: Answer) -> None:
        """Send the answer."""
        assert self._request is not None  # noqa: S101 -- set before the query is submitted
        try:
            reply = answer_reply(self._service, self._request, answer)
        except Exception as error:  # noqa: BLE001 -- it ends one request, not the dispatcher
            reply = self._reply_to(error)
        self._respond(reply)

    def set_exception(self, error: BaseException) -> None:
        """Send an error."""
        self._respond(self._reply_to(draining() if isinstance(error, asyncio.CancelledError) else error))

    # Responses

    def _respond(self, reply: Reply) -> None:
        """Send a response, and continue with the next request."""
        if self._trace is not None:
            self._end_trace(reply.status, reply.reason)
        self._request = self._waiting = None
        if self._transport.is_closing():
            return
        if not self._send(reply):
            if self._buffer and not self._ended:
                self._linger()
            else:
                self._close()
            return
        self._next()

    def _send(self, reply: Reply, *, last: bool = False) -> bool:
        """Write a response; return whether the connection stays open after it."""
        head = self._head
        if reply.reason:
            self._count(reply)
        last = last or not self._keep_alive or self._shared.api.draining
        last = last or (self._ended and not self._buffer)
        connection = b""
        if last:
            self._keep_alive, connection = False, b"close"
        elif head is not None and head.version == "1.0":
            connection = b"keep-alive"
        first = self._shared.writer.head(reply, connection=connection)
        if head is not None and head.method == "HEAD":
            self._transport.write(first)
        elif len(reply.body) <= _TOGETHER:
            self._transport.write(first + reply.body)
        else:
            self._transport.writelines((first, reply.body))
        return not last

    def _next(self) -> None:
        """Handle the next request if it has arrived, or wait for it."""
        self._state, self._since, self._fresh = IDLE, self._loop.time(), False
        if (self._buffer or self._ended or self._paused) and not self._reading:
            self._read()

    def _break_off(self, reply: Reply) -> None:
        """Send an error for a request that is not read to its end, and close."""
        if self._state < CLOSING:
            self._let_go_of_parts()
            self._send(reply, last=True)
            self._linger()

    def _linger(self) -> None:
        """Close after what is sent, but give the client time: closing with unread data would reset the connection."""
        self._state, self._since, self._buffer = CLOSING, self._loop.time(), b""
        self._hold()
        if self._ended:
            self._close()
        elif self._transport.can_write_eof():
            self._transport.write_eof()

    def _close(self) -> None:
        self._state, self._since, self._buffer = CLOSED, self._loop.time(), b""
        self._let_go_of_parts()
        self._transport.close()

    def _let_go_of_parts(self) -> None:
        self._shared.room += self._held
        self._parts, self._held = [], 0

    def _reply_to(self, error: BaseException) -> Reply:
        return error_reply(error, self._told())

    def _count(self, reply: Reply) -> None:
        peer = self._transport.get_extra_info("peername")
        kind = ("http", str(reply.status), reply.reason)
        self._shared.errors.count(kind, peer, self._told(), orjson.loads(reply.body)["error"])

    def _told(self) -> str:
        """Return method and path of the request for the log, printable and without secrets."""
        if self._head is not None:
            return f"{self._head.method} {quoted('/' + '/'.join(self._head.path))}"
        if self._state in (ANSWERING, CLOSED):
            return f"POST {quoted(f'/v2/models/{self._service}/infer')}"
        return "an incomplete request"

    # Calls of the server

    def look(self, now: float) -> None:
        """Close the connection if its client takes too long to send or to receive."""
        if self._unread is not None:
            since, unread = self._unread
            left = self._transport.get_write_buffer_size()
            if left != unread:
                self._unread = now, left
            elif now - since > self._shared.limits.unread_s:
                self._transport.abort()
            return
        limits = self._shared.limits
        part = "head" if self._state == HEAD or (self._state == IDLE and self._fresh) else "body"
        allowed = {
            IDLE: limits.head_s if self._fresh else limits.idle_s,
            HEAD: limits.head_s,
            CLOSING: limits.closing_s,
            CLOSED: limits.unread_s,
        }.get(self._state, limits.body_s)
        if self._state == ANSWERING or now - self._since <= allowed:
            return
        if self._state == CLOSED:
            self._transport.abort()
        elif self._state in (SKIPPING, CLOSING) or (self._state == IDLE and not self._fresh):
            self._close()
        else:
            what = f"the {part} of the request did not come within {allowed:g} seconds"
            self._break_off(self._reply_to(ProtocolError(what, 408, "timeout")))

    def drain(self) -> None:
        """Refuse an incomplete request."""
        if self._state in (BODY, CHUNKS):
            self._break_off(self._reply_to(draining()))

    def end(self) -> None:
        """Refuse the current request, and close."""
        if self._state == ANSWERING:
            self._forget()
            self._send(self._reply_to(draining()), last=True)
        self._close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()
