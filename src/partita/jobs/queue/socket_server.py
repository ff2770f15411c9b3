"""The daemon's Unix socket: one JSON object a line, each answered at once; no client can block the daemon."""

from __future__ import annotations

import errno
import selectors
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from partita.documents.codec import Value
from partita.documents.text import compact, decode
from partita.errors import InputError, PartitaError
from partita.jobs.queue.access import Caller, caller_of
from partita.jobs.queue.client import FILE, KINDS, address

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    Handler = Callable[[Caller, Mapping[str, Any]], Value]

MOST_REQUEST = 2**20
"""Most bytes of a request, most of which is the environment."""

MOST_CLIENTS = 200
PATIENCE_S = 30.0
"""Seconds after which a client that neither sends nor receives is disconnected."""

_CHUNK = 65536


class RefusedRequest(Value):
    """The error (as `PartitaError`), the exit code for the command that asked, and its kind, a key of `KINDS`."""

    what: str
    where: str | None
    hint: str | None
    exit_code: int
    kind: str


class Refusal(Value):
    """The answer to a request that failed."""

    ok: bool
    error: RefusedRequest


class _Client:
    """One connection."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        self.caller = caller_of(peer)
        self.request = bytearray()
        self.answer = bytearray()
        self.last = time.monotonic()


class SocketServer:
    """Listens on a socket in a folder; `poll` does what can be done without waiting.

    Args:
        folder: where the socket is. A socket left by a killed daemon is replaced; the caller holds the daemon's lock.
        handler: answers a request, with `ok` set; what it raises is sent to the client.

    Raises:
        PartitaError: the socket cannot be created.
    """

    def __init__(self, folder: Path, handler: Handler) -> None:
        self._path = folder / FILE
        self._handler = handler
        self._clients: dict[int, _Client] = {}
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._path.unlink(missing_ok=True)
            with address(self._path) as short:
                self._listener.bind(short)
            # Anyone may connect; each request is authorized by the caller's user id.
            self._path.chmod(0o666)
            self._listener.listen(128)
        except OSError as error:
            self._listener.close()
            self._selector.close()
            raise PartitaError(
                f"the socket cannot be created: {error.strerror or error}", where=str(self._path)
            ) from None
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)

    def poll(self, seconds: float) -> None:
        """Serve clients; wait at most this long for one."""
        for key, events in self._selector.select(max(seconds, 0.0)):
            if key.fileobj is self._listener:
                self._accept()
                continue
            client = self._clients.get(key.fd)
            if client is not None:
                self._serve(client, events)
        limit = time.monotonic() - PATIENCE_S
        for slow in [each for each in self._clients.values() if each.last < limit]:
            self._drop(slow)

    def close(self) -> None:
        """Close all connections and remove the socket."""
        for client in list(self._clients.values()):
            self._drop(client)
        self._selector.close()
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._drop_oldest()
                return
            peer.setblocking(False)
            try:
                client = _Client(peer)
            except OSError:
                peer.close()
                continue
            if len(self._clients) >= MOST_CLIENTS:
                self._drop_oldest()
            self._clients[peer.fileno()] = client
            self._selector.register(peer, selectors.EVENT_READ)

    def _serve(self, client: _Client, events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                data = client.peer.recv(_CHUNK)
                if not data:
                    self._drop(client)
                    return
                client.last = time.monotonic()
                client.request += data
                self._answer_all(client)
            if events & selectors.EVENT_WRITE or client.answer:
                self._send(client)
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)

    def _answer_all(self, client: _Client) -> None:
        while (end := client.request.find(b"\n")) >= 0:
            line = bytes(client.request[:end])
            del client.request[: end + 1]
            client.answer += self._answer(client.caller, line)
            if len(client.answer) > 16 * MOST_REQUEST:
                self._drop(client)  # it sends requests but reads no answers
                return
        if len(client.request) > MOST_REQUEST:
            client.answer += _refusal(InputError(f"a request has at most {MOST_REQUEST} bytes"))
            client.request.clear()

    def _answer(self, caller: Caller, line: bytes) -> bytes:
        try:
            return _encoded(self._handler(caller, decode(line, dict[str, Any], "the request")))
        except PartitaError as error:
            return _refusal(error)
        except Exception as error:  # noqa: BLE001 -- one request's fault must not end the daemon
            return _refusal(PartitaError(f"a fault in the daemon: {type(error).__name__}: {error}"))

    def _send(self, client: _Client) -> None:
        if client.peer.fileno() < 0:
            return
        while client.answer:
            try:
                sent = client.peer.send(client.answer[:_CHUNK])
            except BlockingIOError:
                break  # full exactly between two chunks: the rest is sent when there is room
            client.last = time.monotonic()
            del client.answer[:sent]
            if sent < _CHUNK:
                break
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.answer else 0)
        self._selector.modify(client.peer, wanted)

    def _drop_oldest(self) -> None:
        if self._clients:
            self._drop(min(self._clients.values(), key=lambda client: client.last))

    def _drop(self, client: _Client) -> None:
        fd = client.peer.fileno()
        if fd < 0:
            return
        self._clients.pop(fd, None)
        with suppress(KeyError, ValueError, OSError):
            self._selector.unregister(client.peer)
        client.peer.close()


def _refusal(error: PartitaError) -> bytes:
    kind = next(name for name, each in KINDS.items() if isinstance(error, each))
    refused = RefusedRequest(error.what, error.where, error.hint, error.exit_code, kind)
    return _encoded(Refusal(ok=False, error=refused))


def _encoded(answer: Value) -> bytes:
    return compact(answer).encode() + b"\n"
