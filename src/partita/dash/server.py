"""The server of API and dashboard: endpoints, stream, static files, and a look at the source each second."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import logging
import queue
import re
import socket
import threading
import time
from concurrent.futures import Future
from functools import partial
from importlib import resources
from math import isinf
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Mount, Route, Router
from starlette.staticfiles import StaticFiles

from partita import __version__
from partita.dash.access import Guard
from partita.dash.connections import Connection, Room, room_for
from partita.dash.endpoint import Call
from partita.dash.endpoints import ALL
from partita.dash.metrics import dash_metrics
from partita.dash.model import ClusterFault, Fault, Hello, Part, Reset, Role, Session, SignIn
from partita.dash.openapi import ROOT, document
from partita.dash.refusal import RequestFault
from partita.dash.samples import samples
from partita.dash.state import ApiState, Encoded
from partita.dash.stream import encoded
from partita.documents.codec import DocumentSource, convert
from partita.documents.text import json_data
from partita.errors import InfeasibleError, InputError, PartitaError
from partita.metrics import MetricsPage
from partita.process.keeper import ending_signals
from partita.serve.gateway.access import listening
from partita.serve.tls import ServerCertificate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from starlette.types import ASGIApp, Receive, Scope, Send

    from partita.dash.access import Access, Grant
    from partita.dash.endpoint import Endpoint, IfMatch
    from partita.dash.history import History
    from partita.dash.on_demand import OnDemand
    from partita.dash.source import Look, Source
    from partita.dash.stream import Named
    from partita.documents.codec import Value

R = TypeVar("R")

_LOG = logging.getLogger("partita.dash")

LOOK_S = 1.0
"""Seconds between two looks at the source."""

PING_S = 15.0
"""Seconds after which a stream without events has a comment line, so that proxies keep it."""

SEND_S = 30.0
"""Seconds after which a reader that takes nothing is dropped."""

BODY_S = 30.0
"""Seconds after which a body that has not come in full is refused."""

TOKENS_S = 1.0
"""Seconds between two looks at the tokens' files."""

MOST_STREAMS = 500
_LONGEST_ID = 20
_GZIP = re.compile(r"(?:^|,)\s*gzip\s*(?:,|$|;\s*q=(?!0(?:\.0*)?\s*(?:,|$)))", re.IGNORECASE)
MOST_BODY = 8 << 20
_WORTH_GZIP = 1400

SECURITY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}
"""Headers of every answer: nothing is loaded from elsewhere, and no other page holds ours in a frame."""


def application(api: ApiState, guard: Guard) -> ASGIApp:
    """Return the whole of API and dashboard as an ASGI application; somebody else must look at the source."""
    by_path: dict[str, list[Endpoint]] = {}
    for each in ALL:
        by_path.setdefault(each.path, []).append(each)
    index = by_path.pop("")
    streams = _Streams(api, guard)
    routes = [
        Route("/stream", streams.answer, methods=["GET"]),
        Route("/session", _session(guard), methods=["POST", "DELETE"]),
        Route("/openapi.json", _openapi(guard), methods=["GET"]),
        *(
            Route(path, _handler(api, guard, endpoints), methods=[each.method for each in endpoints])
            for path, endpoints in by_path.items()
        ),
    ]
    bundle = resources.files("partita.dash") / "bundle"
    app = Starlette(
        routes=[
            Route(ROOT, _handler(api, guard, index), methods=["GET"]),
            Mount(ROOT, Router(routes, redirect_slashes=False)),
            Route("/metrics", _metrics(api, guard, streams), methods=["GET"]),
            Mount("/", StaticFiles(directory=str(bundle), html=True)),
        ],
        exception_handlers={
            RequestFault: _refused,
            HTTPException: _http_fault,
            PartitaError: _partita_fault,
            Exception: _broken,
        },
    )
    return _Secured(app, guard)


class _Secured:
    """Checks host and origin of every request, takes a proxy's path away, and adds headers for safety."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def secured(message: Any) -> None:  # noqa: ANN401 -- ASGI's
            if message["type"] == "http.response.start":
                headers = message.setdefault("headers", [])
                headers += [(name.encode(), value.encode()) for name, value in SECURITY.items()]
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-cache"))
            await send(message)

        request = Request(scope)
        try:
            self._guard.check_host(request.headers.get("host", ""))
            self._guard.check_origin(request.method, request.headers)
        except RequestFault as fault:
            await _fault(fault.status, fault.fault)(scope, receive, secured)
            return
        path = self._guard.inner_path(scope["path"])
        if path is None:
            moved = Response(status_code=308, headers={"location": f"{scope['path']}/"})
            await moved(scope, receive, secured)
            return
        if path != scope["path"]:
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, secured)


def _handler(api: ApiState, guard: Guard, endpoints: list[Endpoint]) -> Callable[[Request], Any]:
    methods: dict[str, Endpoint] = {each.method: each for each in endpoints}

    async def handle(request: Request) -> Response:
        endpoint = methods["GET" if request.method == "HEAD" else request.method]
        role = _grant(guard, request, endpoint.role).role
        if endpoint.part is not None and endpoint.part not in api.parts:
            raise RequestFault(404, f"this cluster has no {endpoint.part.value}", where=request.url.path)
        call = Call(
            request.path_params,
            _query(request, endpoint.query),
            await _body(request, endpoint.body) if endpoint.body is not None else None,
            role,
            await _matched(api, request, endpoint.if_match) if endpoint.if_match is not None else None,
        )
        if endpoint.slow:
            turns = api.searches if endpoint.part is Part.WHAT_IF else api.threads
            return await _in_thread(turns, _respond, api, request, endpoint, call)
        return _respond(api, request, endpoint, call)

    return handle


async def _in_thread(turns: asyncio.Semaphore, function: Callable[..., R], *given: Any) -> R:  # noqa: ANN401 -- the function's own
    """Return what a function returns that takes long; its thread does not hold up the end of the process."""
    done: Future[R] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(function(*given))
        except BaseException as error:  # noqa: BLE001 -- raised where it is waited for
            done.set_exception(error)

    async with turns:
        threading.Thread(target=run, name="answer", daemon=True).start()
        return await asyncio.wrap_future(done)


def _respond(api: ApiState, request: Request, endpoint: Endpoint, call: Call) -> Response:
    """Answer a request: nothing where the caller has it already."""
    asked, reading = request.headers.get("if-none-match"), endpoint.method == "GET"
    etag = endpoint.etag(api, call) if endpoint.etag is not None else None
    if etag is not None and reading and _same(asked, etag):
        return _unchanged(etag)
    found = endpoint.answer(api, call)
    zipped = _GZIP.search(request.headers.get("accept-encoding", "")) is not None
    headers = {"vary": "accept-encoding", "content-type": "application/json"}
    if isinstance(found, Encoded):
        body = found.gzipped if zipped else found.body
    else:
        body = msgspec.json.encode(found)
        zipped = zipped and len(body) > _WORTH_GZIP
        if reading and etag is None:
            etag = hashlib.blake2b(body, digest_size=9).hexdigest()
            if _same(asked, etag):
                return _unchanged(etag)
        body = gzip.compress(body, 4, mtime=0) if zipped else body
    if etag is not None:
        headers["etag"] = f'"{etag}"'
    if zipped:
        headers["content-encoding"] = "gzip"
    return Response(body, endpoint.status, headers)


def _unchanged(etag: str) -> Response:
    return Response(status_code=304, headers={"etag": f'"{etag}"', "vary": "accept-encoding"})


def _same(asked: str | None, etag: str) -> bool:
    """Return whether an If-None-Match header names an ETag; weak ones count (RFC 9110, section 13.1.2)."""
    if asked is None:
        return False
    return asked.strip() == "*" or f'"{etag}"' in (
        each.strip().removeprefix("W/") for each in asked.split(",")
    )


async def _matched(api: ApiState, request: Request, wanted: IfMatch) -> str:
    asked = request.headers.get("if-match")
    if asked is None:
        raise RequestFault(
            428,
            "say what this is for, as you saw it",
            where="If-Match",
            hint=f"send {wanted.about} in quotes",
        )
    if asked.strip() == "*":
        raise RequestFault(
            428, "`*` does not say what you saw", where="If-Match", hint=f"send {wanted.about} in quotes"
        )
    current = await _in_thread(api.threads, wanted.current, api, request.path_params)
    named = [each.strip() for each in asked.split(",")]
    if f'"{current}"' not in named:
        if any(each.removeprefix("W/").strip('"') == current for each in named):
            raise RequestFault(
                412,
                f"{wanted.about} must be in quotes, and without W/",
                where="If-Match",
                hint=f'send If-Match: "{current}"',
            )
        raise RequestFault(
            412, f"it has changed, and is `{current}` now", where="If-Match", hint="look again"
        )
    return current


def _grant(guard: Guard, request: Request, wanted: Role = Role.READ) -> Grant:
    grant = guard.grant(request.headers, request.cookies)
    if grant is None:
        raise RequestFault(
            401,
            "a token is needed",
            where="Authorization",
            hint="send `Authorization: Bearer TOKEN`, or sign in",
        )
    if wanted is Role.WRITE and grant.role is not Role.WRITE:
        none = guard.access.write is None
        hint = "start `partita dash` with --write-token-file" if none else "use the token that may write"
        raise RequestFault(403, "this needs a token that may write", where="Authorization", hint=hint)
    return grant


def _query(request: Request, kind: type[Value]) -> Value:
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in given:
            raise RequestFault(422, f"{name} is given twice", where=name, hint="give it once")
        given[name] = value
    try:
        made = msgspec.convert(given, kind, strict=False)
        for name, text in given.items():
            if isinstance(getattr(made, name), int) and not (text.isascii() and text.isdecimal()):
                raise RequestFault(
                    422, f"{text[:40]!r} is no whole number", where=name, hint="write digits alone"
                )
        return made
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$.")
        raise RequestFault(
            422,
            what,
            where=path.rstrip("`") or None,
            hint=f"parameters: {', '.join(kind.__struct_fields__) or 'none'}",
        ) from None


_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([^\s;\"]+)", re.IGNORECASE)


def _require_json(request: Request) -> None:
    """Refuse a body that is not JSON in UTF-8 as it is.

    Raises:
        RequestFault: its headers say that it is something else.
    """
    media = request.headers.get("content-type", "")
    if media.partition(";")[0].strip().lower() != "application/json":
        raise RequestFault(415, "the body must be JSON", where="Content-Type", hint="application/json")
    charset = _CHARSET.search(media)
    if charset is not None and charset[1].lower() not in ("utf-8", "utf8"):
        what = f"the body must be in UTF-8, not {charset[1][:40]}"
        raise RequestFault(415, what, where="Content-Type", hint="application/json")
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() not in ("identity", ""):
        raise RequestFault(
            415,
            f"the body is encoded with {coding[:40]}, and must be sent as it is",
            where="Content-Encoding",
            hint="send it without compression (Accept-Encoding: identity)",
        )


async def _body(request: Request, kind: type[Value]) -> Value:
    _require_json(request)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_BODY:
                    raise RequestFault(
                        413, f"the body is larger than {MOST_BODY >> 20} MiB", hint="send less"
                    )
    except ClientDisconnect:
        raise RequestFault(400, "the body broke off") from None  # which nobody hears
    except TimeoutError:
        raise RequestFault(408, f"the body has not come within {BODY_S:g} s", hint="send it again") from None
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestFault(
            400,
            f"the body is no UTF-8: {error.reason} at byte {error.start}",
            where="body",
            hint="send JSON in UTF-8",
        ) from None
    try:
        data = json_data(text, "body")
    except InputError as error:
        raise RequestFault(400, error.what, where=error.where, hint=error.hint) from None
    try:
        return convert(data, kind, DocumentSource("body"))
    except InputError as error:
        raise RequestFault(422, error.what, where=error.where, hint=error.hint) from None


def _session(guard: Guard) -> Callable[[Request], Any]:
    async def handle(request: Request) -> Response:
        if request.method == "DELETE":
            cookie = guard.sign_out(request.cookies, request.headers.get("origin"))
            role = Role.READ
        else:
            asked = await _body(request, SignIn)
            assert isinstance(asked, SignIn)  # noqa: S101 -- for the type
            role, cookie = guard.sign_in(asked.token, request.headers.get("origin"))
        body = msgspec.json.encode(Session(role))
        return Response(body, 200, {"set-cookie": cookie, "cache-control": "no-store"}, "application/json")

    return handle


def _openapi(guard: Guard) -> Callable[[Request], Any]:
    body = msgspec.json.encode(document())

    async def handle(request: Request) -> Response:
        _grant(guard, request)
        return Response(body, media_type="application/json")

    return handle


def _metrics(api: ApiState, guard: Guard, streams: _Streams) -> Callable[[Request], Any]:
    page = MetricsPage(lambda: dash_metrics(api, streams.count))

    async def handle(request: Request) -> Response:
        _grant(guard, request)
        body, media = page.read(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": media, "cache-control": "no-store"})

    return handle


class _Streams:
    """The streams of all readers."""

    def __init__(self, api: ApiState, guard: Guard) -> None:
        self._api = api
        self._guard = guard
        self._open = 0

    @property
    def count(self) -> int:
        """Readers that have a stream open."""
        return self._open

    async def answer(self, request: Request) -> Response:
        """Return the stream of one reader."""
        grant = _grant(self._guard, request)
        told = request.headers.get("last-event-id") or request.query_params.get("last_event") or ""
        if self._open >= MOST_STREAMS:
            raise RequestFault(503, f"{MOST_STREAMS} readers have a stream", hint="close some, or come again")
        if told and not (told.isascii() and told.isdecimal() and len(told) <= _LONGEST_ID):
            raise RequestFault(
                422,
                f"{told[:40]!r} is no number of an event",
                where="Last-Event-ID",
                hint="send the last `id:` that came, or leave it out",
            )
        return _StreamResponse(self, int(told) if told else None, grant)

    async def send(self, position: int | None, send: Send) -> None:
        """Send events until the reader is gone or takes nothing, or the server ends."""
        stream, fleet = self._api.stream, self._api.fleet
        at = stream.last if position is None else position
        head = encoded("hello", Hello(__version__, fleet.version, stream.last))
        self._open += 1
        try:
            await _sent(send, b"retry: 2000\n\n" + head)
            while not stream.closed:
                found = stream.after(at)
                newest = stream.last
                if found is None:
                    found = encoded("reset", Reset(fleet.version, "events are missing"), newest)
                if found:
                    at = newest
                    await _sent(send, found)
                elif not await stream.wait(at, PING_S):
                    await _sent(send, b": ping\n\n")
        finally:
            self._open -= 1


async def _sent(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


class _StreamResponse(Response):
    """A response that goes on until either side ends it, or the reader may not read any more."""

    def __init__(self, streams: _Streams, position: int | None, grant: Grant) -> None:
        super().__init__()
        self._streams = streams
        self._position = position
        self._grant = grant

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-type", b"text/event-stream; charset=utf-8"),
                    (b"cache-control", b"no-store, no-transform"),  # compressing proxies hold back
                    (b"x-accel-buffering", b"no"),
                ],
            }
        )
        sending = asyncio.create_task(self._streams.send(self._position, send))
        gone = asyncio.create_task(_gone(receive))
        ended = asyncio.create_task(self._grant.ended.wait())
        left = None if isinf(self._grant.ends) else self._grant.ends - time.monotonic()
        try:
            await asyncio.wait((sending, gone, ended), timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (sending, gone, ended):
                each.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError):
                    await each
        with contextlib.suppress(OSError):
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


# Faults


_TOLD_WITH = {
    401: {"www-authenticate": 'Bearer realm="partita"'},
    415: {"accept": "application/json", "accept-encoding": "identity"},
}
"""Headers by status, of what a client can send instead (RFC 9110, sections 11.6.1 and 15.5.16)."""


def _fault(status: int, fault: Fault, headers: Mapping[str, str] | None = None) -> Response:
    more = _TOLD_WITH.get(status, {})
    return Response(
        msgspec.json.encode(fault),
        status,
        {**(headers or {}), **more, "cache-control": "no-store"},
        "application/json",
    )


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestFault)  # noqa: S101 -- that is what it is registered for
    return _fault(error.status, error.fault)


async def _http_fault(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 -- likewise
    what = {404: "there is nothing here", 405: f"{request.method} is not for this"}
    told = Fault(
        what.get(error.status_code, error.detail), request.url.path[:200], f"GET {ROOT}/openapi.json"
    )
    return _fault(error.status_code, told, error.headers)


async def _partita_fault(_: Request, error: Exception) -> Response:
    assert isinstance(error, PartitaError)  # noqa: S101 -- likewise
    status = 422 if isinstance(error, InputError | InfeasibleError) else 503
    return _fault(status, Fault(error.what, error.where, error.hint))


async def _broken(_: Request, error: Exception) -> Response:
    return _fault(500, Fault(f"a fault in partita itself: {type(error).__name__}: {error}"))


# Running


async def look_on(api: ApiState, every_s: float = LOOK_S) -> None:
    """Look at the source again and again, until cancelled, and tell the readers of the stream what has changed."""
    while not api.stream.closed:
        began = time.monotonic()
        await look(api)
        # A cluster so large that a look takes long is looked at less often, rather than all the time.
        took = time.monotonic() - began
        await asyncio.sleep(max(every_s - took, took))


async def look(api: ApiState) -> PartitaError | None:
    """Look at the source once; return why nothing at all could be seen, None where something was."""
    try:
        await _seen(api)
    except PartitaError as error:
        _tell_fault(api, error)
        return error
    except Exception as error:  # noqa: BLE001 -- one look that fails must not be the last
        if api.fault is None:
            _LOG.exception("a look at the cluster failed")
        ours = PartitaError(f"a fault in partita itself: {type(error).__name__}: {error}")
        _tell_fault(api, ours)
        return ours
    return None


async def _seen(api: ApiState) -> None:
    run = asyncio.get_running_loop().run_in_executor
    seen = await run(api.looker, _look, api)
    events: list[Named] = [*api.fleet.update(seen)]
    if changed := api.services_due(seen):
        events.append(("services", changed))
    if seen.transition is not None:
        events.append(("transition", seen.transition))
    events += (("job", each) for each in seen.jobs)
    events += (("event", each) for each in seen.events)
    api.stream.publish(events)
    _tell_fault(api, seen.fault)
    if not seen.unknown and api.history.due(seen.at):
        await run(api.looker, api.history.record, seen.at, samples(api.fleet))


def _tell_fault(api: ApiState, error: PartitaError | None) -> None:
    """Tell the readers of the stream what cannot be seen, or that all can be seen again, if that is news."""
    before, api.fault = api.fault, error
    if error is None and before is not None:
        _LOG.info("%s is seen again", api.source.cluster)
        api.stream.publish([("fault", ClusterFault(None))])
    elif error is not None and str(before) != str(error):
        _LOG.warning("%s", error.with_hint)
        api.stream.publish([("fault", ClusterFault(Fault(error.what, error.where, error.hint)))])


def _look(api: ApiState) -> Look:
    with api.lock:
        return api.source.look()


def serve(
    source: Source,
    access: Access,
    history: History,
    tell: Callable[[str], None],
    on_demand: OnDemand | None = None,
) -> None:
    """Serve a source until told to stop.

    Args:
        source: what is shown.
        access: where, and for whom.
        history: where the past is kept.
        tell: called with the address once it answers.
        on_demand: answers what is asked for on demand; None where nothing does.

    Raises:
        InputError: the address cannot be used.
        PartitaError: nothing can be seen at the start.
    """
    with contextlib.closing(listening(access.host, access.port, "--port")) as bound:
        asyncio.run(_Running(source, access, history, on_demand).run(bound, tell))


class BackgroundServer:
    """A server in a thread of its own, beside what the process does otherwise, until it is closed.

    Args:
        source: what is shown.
        access: where, and for whom.
        history: where the past is kept.
        option: of the command line that chose the port, for errors.
        on_demand: as in `serve`.

    Attributes:
        url: its address for a browser.

    Raises:
        InputError: the address cannot be used.
        PartitaError: nothing can be seen at the start.
    """

    def __init__(
        self,
        source: Source,
        access: Access,
        history: History,
        option: str = "--dash-port",
        on_demand: OnDemand | None = None,
    ) -> None:
        self._running = _Running(source, access, history, on_demand)
        self._bound = listening(access.host, access.port, option)
        self._told: queue.SimpleQueue[str | PartitaError] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="dash")
        self._thread.start()
        found = self._told.get()
        if isinstance(found, PartitaError):
            self._thread.join()
            raise found
        self.url = found

    def close(self) -> None:
        """End the streams and answers, and return when all is closed; source and history stay open."""
        self._running.end()
        self._thread.join()

    def _run(self) -> None:
        with contextlib.closing(self._bound):
            try:
                asyncio.run(self._running.run(self._bound, self._told.put))
            except PartitaError as error:
                self._told.put(error)
            except Exception as error:  # noqa: BLE001 -- else whoever started it waits for ever
                _LOG.exception("the dashboard ended")
                self._told.put(PartitaError(f"a fault in partita itself: {type(error).__name__}: {error}"))


class _Running:
    """A server from its first look to its end."""

    def __init__(self, source: Source, access: Access, history: History, on_demand: OnDemand | None) -> None:
        self._source, self._access, self._history = source, access, history
        self._on_demand = on_demand
        self._server: _Server | None = None
        self._ended = False

    def end(self) -> None:
        """End in order; a second call ends at once. It may be called from any thread."""
        if self._server is not None:
            self._server.force_exit = self._ended
            self._server.should_exit = True
        self._ended = True

    async def run(self, bound: socket.socket, tell: Callable[[str], None]) -> None:
        """Serve until `end` is called.

        Raises:
            PartitaError: nothing can be seen at the start.
        """
        api = ApiState.of(self._source, self._history, self._on_demand)
        unseen = await look(api)
        if unseen is not None:
            raise unseen
        tls, port = self._access.tls, bound.getsockname()[1]
        most, waiting = room_for()
        guard, room = Guard(self._access, port), Room(most, SECURITY)
        certificate = None if tls is None else ServerCertificate(tls, _LOG.warning)
        connection: Any = partial(Connection, room, certificate)
        config = uvicorn.Config(
            application(api, guard),
            http=connection,  # on h11, which limits heads, as httptools does not; what it costs is not seen
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
            backlog=waiting,
            log_level="error",
        )
        self._server = _Server(config, api, room)
        self._server.should_exit = self._ended
        if threading.current_thread() is threading.main_thread():
            for each in ending_signals():
                asyncio.get_running_loop().add_signal_handler(each, self.end)
        tasks = [asyncio.create_task(each) for each in (look_on(api), _read_tokens(guard))]
        # Else a reader that is there and takes nothing keeps its connection for ever: whatever is sent waits for it.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SEND_S * 1000))
        tell(self._access.url(port))
        try:
            await self._server.serve([bound])
        finally:
            for task in tasks:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            api.looker.shutdown()


async def _read_tokens(guard: Guard) -> None:
    while True:
        await asyncio.sleep(TOKENS_S)
        guard.read_tokens()


class _Server(uvicorn.Server):
    """uvicorn, which ends streams and searches when it is told to end, since they would go on for long."""

    def __init__(self, config: uvicorn.Config, api: ApiState, room: Room) -> None:
        super().__init__(config)
        self._api = api
        self._room = room

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to whoever runs the server: uvicorn would end the process by them."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams and searches, and then the connections."""
        self._api.stream.close()
        self._room.close(busy=False)
        if self._api.on_demand is not None:
            await asyncio.to_thread(self._api.on_demand.close)
        await super().shutdown(sockets)
        self._room.close(busy=True)  # those whose client does not answer the end of TLS
        await asyncio.sleep(0)
