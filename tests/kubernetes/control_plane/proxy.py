"""A proxy for the API server with which tests count writes, and cut, stall, refuse or kill clients.

It terminates TLS with a certificate of the test's authority and forwards everything unchanged, also watches. Users
are identified by tokens, since client certificates are not forwarded.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self

from tests.kubernetes.control_plane.client import BROKEN, Object

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.kubernetes.control_plane.cluster import ControlPlane

HOP = {"connection", "host", "keep-alive", "transfer-encoding", "content-length", "te", "upgrade"}
_VOLATILE = re.compile(
    r'"(resourceVersion|writes|secondsLeft|left|seconds)":("[^"]*"|[0-9.]+)|"\d{4}-\d\d-\d\dT[^"]*"'
)
"""What differs between two writes that say the same."""
_FREE = {"leases", "events", "selfsubjectaccessreviews"}
WRITES = {"POST", "PUT", "PATCH", "DELETE"}


@dataclass(frozen=True)
class Request:
    """A client's request."""

    verb: str
    path: str
    body: bytes

    @property
    def plural(self) -> str:
        """The kind that it is about, and the subresource: `pods`, `resourceclaims/status`."""
        parts = self.path.split("?")[0].strip("/").split("/")
        parts = parts[2:] if parts[0] == "api" else parts[3:]
        if parts[:1] == ["namespaces"] and len(parts) > 2:
            parts = parts[2:]
        return "/".join([parts[0], *parts[2:]]) if parts else ""

    @property
    def write(self) -> bool:
        """Whether it changes anything."""
        return self.verb in WRITES


@dataclass(frozen=True)
class Answer:
    """An answer to a client instead of the API server's."""

    code: int
    reason: str
    message: str

    def body(self) -> bytes:
        """Return it as the API server's `Status`."""
        status: Object = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "metadata": {}}
        return json.dumps(
            status | {"code": self.code, "reason": self.reason, "message": self.message}
        ).encode()


class WriteGate:
    """Lets one write through that was never let through last before, and holds all others until it is opened again.

    Put its methods into a proxy's `before` and `after`. Leases, events and questions pass freely. A write that was
    once the last passes from then on, and so does what says the same but for times and versions: or else what a
    controller writes first would be all that ever got through.
    """

    def __init__(self, died: Callable[[Request], None]) -> None:
        """Args: `died` is called with the last write, done by the API server and not heard of by whoever wrote it."""
        self.last: list[Request] = []
        self._died = died
        self._known: set[str] = set()
        self._changed = threading.Condition()
        self._under_way = False
        self._closed = False
        self._open = 0  # how often it was opened

    def before(self, request: Request) -> Answer | None:
        """Pass, or wait for one's turn."""
        if not request.write or request.plural in _FREE:
            return None
        with self._changed:
            turn = self._open
            while self._under_way and turn == self._open:
                self._changed.wait()
            if self._closed or turn != self._open:
                return Answer(503, "ServiceUnavailable", "too late")
            self._under_way = True
        return None

    def after(self, request: Request, code: int) -> None:
        """Let the next one through, unless this was the last."""
        if not request.write or request.plural in _FREE:
            return
        said = f"{request.verb} {request.path} {_VOLATILE.sub('', request.body.decode(errors='replace'))}"
        with self._changed:
            if code >= 300 or said in self._known:
                self._under_way = False
                self._changed.notify_all()
                return
            self._known.add(said)
            self._closed = True
            self.last.append(request)
        self._died(request)

    def open(self) -> None:
        """Refuse what is held, and let through what comes from now on."""
        with self._changed:
            self._open += 1
            self._under_way = self._closed = False
            self._changed.notify_all()


class Proxy:
    """Passes requests on; a context manager.

    Attributes:
        before: called before a request is forwarded; if it returns an answer, the client gets that instead.
        after: called with each answer before the client gets it, when the API server has done its work.
    """

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.before: Callable[[Request], Answer | None] | None = None
        self.after: Callable[[Request, int], None] | None = None
        self._lock = threading.Lock()
        self._asked: list[tuple[Request, int]] = []
        self._open: set[socket.socket] = set()
        self._going = threading.Event()
        self._going.set()
        self._upstream = ssl.create_default_context(cafile=str(plane.authority.own.certificate))
        proxy = self

        class Handler(_Handler):
            owner = proxy

        pair = plane.authority.sign("proxy", "proxy", addresses=("127.0.0.1", "localhost"))
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(pair.certificate, pair.key)
        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.socket = tls.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(target=self._server.serve_forever, name="proxy", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._going.set()
        self._server.shutdown()
        self.cut()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Its address."""
        return f"https://127.0.0.1:{self._server.server_address[1]}"

    def kubeconfig_of(self, account: str, namespace: str) -> Path:
        """Return a kubeconfig of a service account with the proxy's address."""
        return self.plane.kubeconfig_of(account, namespace, self.url)

    @property
    def asked(self) -> list[tuple[Request, int]]:
        """All requests that were answered so far, with the codes of the answers."""
        with self._lock:
            return list(self._asked)

    def writes(self) -> list[Request]:
        """Return the writes that the API server accepted, in order, without leases and events."""
        return [
            each
            for each, code in self.asked
            if each.write and code < 300 and each.plural not in {"leases", "events"}
        ]

    def cut(self) -> None:
        """Break all open connections, including watches."""
        with self._lock:
            for each in self._open:
                with contextlib.suppress(OSError):
                    # Not TLS's own shutdown: its state is the handler's thread's.
                    socket.socket.shutdown(each, socket.SHUT_RDWR)

    def stall(self) -> None:
        """Forward nothing more, with connections open, until `resume`."""
        self._going.clear()

    def resume(self) -> None:
        """End a stall."""
        self._going.set()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Ignore clients that have left."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = (
        True  # head and body are two writes: the second would wait 40 ms for an acknowledgement
    )
    owner: Proxy

    def setup(self) -> None:
        super().setup()
        self.upstream: http.client.HTTPSConnection | None = None
        with self.owner._lock:
            self.owner._open.add(self.connection)

    def finish(self) -> None:
        with self.owner._lock:
            self.owner._open.discard(self.connection)
        if self.upstream is not None:
            self.upstream.close()
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *_: object) -> None:
        pass

    def _pass(self) -> None:
        owner = self.owner
        request = Request(self.command, self.path, self._body())
        owner._going.wait()
        own = owner.before(request) if owner.before is not None else None
        if own is not None:
            self._say(own.code, "application/json", own.body())
            return
        answer = self._ask(request)
        if answer is None:
            self.close_connection = True
            return
        with owner._lock:
            owner._asked.append((request, answer.status))
        if owner.after is not None:
            owner.after(request, answer.status)
        kind = answer.getheader("Content-Type", "application/json")
        if answer.getheader("Content-Length") is not None:
            self._say(answer.status, kind, answer.read())
        else:
            self._stream(answer, kind)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _ask(self, request: Request) -> http.client.HTTPResponse | None:
        headers = {key: value for key, value in self.headers.items() if key.lower() not in HOP}
        for fresh in (False, True):
            if self.upstream is None or fresh:
                if self.upstream is not None:
                    self.upstream.close()
                port = self.owner.plane.url.rsplit(":", 1)[1]
                self.upstream = http.client.HTTPSConnection(
                    "127.0.0.1", int(port), context=self.owner._upstream
                )
                fresh = True  # noqa: PLW2901
            try:
                self.upstream.request(request.verb, request.path, request.body or None, headers)
                return self.upstream.getresponse()
            except BROKEN:
                if fresh:
                    return None
        return None

    def _say(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, answer: http.client.HTTPResponse, kind: str) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            while part := answer.read1(1 << 16):
                self.owner._going.wait()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
        except BROKEN:
            self.close_connection = True
