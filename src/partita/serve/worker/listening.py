"""Where a worker listens for gateways on other hosts: TCP, proofs of a token, TLS; and a page for a kubelet's probes.

Each gateway that comes is heard in a thread of its own until it has proved that it knows the token: nobody holds up
the others by saying nothing. The proofs are of both sides, so that a gateway sends no query to whoever has got the
address of a worker that is gone. Without TLS what is said can be read on the way.
"""

from __future__ import annotations

import hmac
import os
import select
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from partita.errors import InputError
from partita.files import read_text
from partita.serve.worker.wire import BACKLOG, CHUNK, FrameError, FrameKind, Frames, frame

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from partita.serve.worker.spec import ListenSpec
    from partita.serve.worker.wire import Frame


KEEP_ALIVE = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000),
)
"""Options of both ends (tcp(7)). A host that is cut off sends no end: after some 10 s the kernel gives it up, whether
something was sent to it (USER_TIMEOUT, in ms) or not (KEEP*, in s)."""
GREETING_S = 5.0
"""Seconds that a gateway has to say who it is."""
_MOST_GREETERS = 64
"""Gateways that may be about to say who they are; one more is turned away."""
_MOST_GREETING = 4096
"""Bytes of a frame from whoever has proved nothing."""
_SHORTEST_TOKEN, _LONGEST_TOKEN = 16, 4096


def keep_alive(connection: socket.socket) -> None:
    """Send at once what is written, and find out when the other host is gone."""
    for level, option, value in KEEP_ALIVE:
        connection.setsockopt(level, option, value)


def read_token(path: Path | str) -> str:
    """Return the token in a file.

    Raises:
        InputError: it cannot be read, or holds no token.
    """
    token = read_text(path).strip()
    if (
        not _SHORTEST_TOKEN <= len(token) <= _LONGEST_TOKEN
        or not token.isascii()
        or not token.isprintable()
        or " " in token
    ):
        raise InputError(
            f"the file has no token: it needs one line of at least {_SHORTEST_TOKEN} letters and digits",
            where=str(path),
            hint=f"make one: openssl rand -hex 32 > {path}",
        )
    return token


def nonce() -> str:
    """Return a number that is used once, in hexadecimal."""
    return os.urandom(16).hex()


def proof(token: str, who: str, nonces: Sequence[str]) -> str:
    """Return what only one who knows the token can say of two nonces: HMAC-SHA-256 (RFC 2104), in hexadecimal.

    Args:
        token: that both know.
        who: `worker` or `gateway`, so that neither can send back what it has just heard.
        nonces: the gateway's, then the worker's.
    """
    return hmac.digest(token.encode(), "\0".join([who, *nonces]).encode(), "sha256").hex()


def proves(told: object, token: str, who: str, nonces: Sequence[str]) -> bool:
    """Return whether what was told is the proof."""
    return isinstance(told, str) and hmac.compare_digest(told.encode(), proof(token, who, nonces).encode())


class Greeter:
    """Hears gateways that connect over TCP until they have said who they are.

    Args:
        spec: where to listen, and what gateways must prove.
        welcome: takes the connection of one that has.
        note: told why one was turned away.

    Raises:
        InputError: a file cannot be used.
    """

    def __init__(
        self,
        spec: ListenSpec,
        welcome: Callable[[socket.socket | TlsStream], None],
        note: Callable[[str], None],
    ) -> None:
        self._spec, self._welcome, self._note = spec, welcome, note
        self._token = None if spec.token_file is None else read_token(spec.token_file)
        self._tls = None if spec.cert is None or spec.key is None else server_context(spec.cert, spec.key)
        self._room = threading.Semaphore(_MOST_GREETERS)

    def listen(self) -> socket.socket:
        """Return a socket that listens.

        Raises:
            InputError: the address cannot be used.
        """
        found = listening_at(self._spec.host, self._spec.port)
        self._note("listens at {}:{}".format(*found.getsockname()[:2]))
        return found

    def greet(self, connection: socket.socket) -> None:
        """Hear a gateway that has connected, in a thread of its own."""
        if not self._room.acquire(blocking=False):
            connection.close()
            return
        threading.Thread(target=self._hear, args=(connection,), name="greeter", daemon=True).start()

    def _hear(self, connection: socket.socket) -> None:
        late = threading.Timer(GREETING_S, _shut, (connection,))
        late.daemon = True
        late.start()
        try:
            connection.setblocking(True)
            keep_alive(connection)
            stream = connection if self._tls is None else TlsStream(connection, self._tls)
            self._hear_proof(stream)
        except (OSError, FrameError) as error:
            late.cancel()
            connection.close()
            self._note(f"a gateway is turned away: {error}")
        else:
            late.cancel()
            self._welcome(stream)
        finally:
            self._room.release()

    def _hear_proof(self, stream: socket.socket | TlsStream) -> None:
        frames = Frames(stream, (_MOST_GREETING, 0))
        theirs = _said(frames.next(), FrameKind.GREET).get("nonce")
        if self._token is None:
            return
        if not isinstance(theirs, str):
            raise FrameError("it greets without a nonce")
        nonces = theirs, nonce()
        stream.sendall(
            frame(
                FrameKind.CHALLENGE,
                0,
                {"nonce": nonces[1], "proof": proof(self._token, "worker", nonces)},
            )
        )
        told = _said(frames.next(), FrameKind.PROOF).get("proof")
        if not proves(told, self._token, "gateway", nonces):
            raise FrameError("it does not know the token")


def _said(found: Frame | None, kind: FrameKind) -> dict[str, object]:
    if found is None:
        raise FrameError("it left without a word")
    if found.kind != kind or not isinstance(found.header, dict):
        raise FrameError(f"a frame of kind {found.kind} where {kind.name} was due")
    return found.header


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):  # gone already
        connection.shutdown(socket.SHUT_RDWR)


def listening_at(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address; port 0 takes a free one.

    Raises:
        InputError: the address or the port cannot be used.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise InputError(
            f"cannot listen: {error.strerror}",
            where=f"{host}:{port}",
            hint="0.0.0.0 is every address of this host",
        ) from None


def server_context(cert: Path | str, key: Path | str) -> ssl.SSLContext:
    """Return the TLS of a server.

    Raises:
        InputError: the files are no certificate with its key.
    """
    import ssl  # noqa: PLC0415 -- only with TLS

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ValueError) as error:
        raise InputError(
            f"not a certificate with its key: {error}",
            where=f"{cert}, {key}",
            hint="give unencrypted PEM files",
        ) from None
    return context


class TlsStream:
    """The server's side of TLS on a blocking socket; one thread may read while another writes.

    Python's own TLS sockets allow no two threads at once before 3.13. Here the state of TLS is touched under a lock,
    which nobody holds while it waits for the network.

    Args:
        connection: as accepted.
        context: with the certificate.

    Raises:
        OSError: the handshake failed.
    """

    def __init__(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        import ssl  # noqa: PLC0415 -- only with TLS

        self._connection, self._lock = connection, threading.Lock()
        self._more, self._ends = ssl.SSLWantReadError, (ssl.SSLZeroReturnError, ssl.SSLEOFError)
        self._came, self._goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._came, self._goes, server_side=True)
        while True:
            try:
                self._tls.do_handshake()
            except self._more:
                self._flush()
                self._feed()
            else:
                self._flush()
                return

    def recv(self, size: int, /) -> bytes:
        """Return what comes next, at most so many bytes; nothing at the end."""
        while True:
            with self._lock:
                try:
                    return self._tls.read(size)
                except self._more:
                    pass
                except self._ends:
                    return b""
            self._feed()

    def recv_into(self, buffer: memoryview, /) -> int:
        """Fill a buffer from its beginning with what comes next; return how many bytes that were."""
        found = self.recv(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def sendall(self, message: bytes, /) -> None:
        """Send all of it; one thread at a time."""
        view = memoryview(message)
        while view:
            with self._lock:
                view = view[self._tls.write(view[:_RECORDS]) :]
                sealed = self._goes.read()
            self._connection.sendall(sealed)

    def send(self, message: bytes, flags: int = 0, /) -> int:
        """Send a short message, or raise `BlockingIOError` if it would have to wait; one thread at a time.

        Returns:
            Its length; less if the connection is broken by it, as part of what was sealed is on its way.
        """
        ready = select.poll()  # select.select() takes no descriptor above 1023
        ready.register(self._connection, select.POLLOUT)
        if not ready.poll(0):
            raise BlockingIOError
        with self._lock:
            self._tls.write(message)
            sealed = self._goes.read()
        try:
            return len(message) if self._connection.send(sealed, flags) == len(sealed) else 0
        except BlockingIOError:
            return 0

    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None:
        """Set an option of the socket."""
        self._connection.setsockopt(level, option, value)

    def setblocking(self, flag: bool, /) -> None:  # noqa: FBT001 -- as a socket's
        """Have the socket block, or not."""
        self._connection.setblocking(flag)

    def shutdown(self, how: int, /) -> None:
        """End the connection."""
        self._connection.shutdown(how)

    def close(self) -> None:
        """Let go of the socket."""
        self._connection.close()

    def _feed(self) -> None:
        got = self._connection.recv(CHUNK)
        with self._lock:
            if got:
                self._came.write(got)
            else:
                self._came.write_eof()

    def _flush(self) -> None:
        sealed = self._goes.read()
        if sealed:
            self._connection.sendall(sealed)


_RECORDS = 1 << 20
"""Bytes that are sealed at a time."""


# The page that probes read.

_MOST_HEAD = 4096
_PROBE_S = 2.0


class HealthPage:
    """Answers a kubelet's probes: `/healthz` while the process lives, `/readyz` while it can answer queries.

    Attributes:
        why_not: says why it cannot, None if it can.

    Args:
        host: name or address.
        port: of HTTP.

    Raises:
        InputError: the address cannot be used.
    """

    def __init__(self, host: str, port: int) -> None:
        self.why_not: Callable[[], str | None] = lambda: "the model is loading"
        self._listener = listening_at(host, port)
        threading.Thread(target=self._serve, name="health", daemon=True).start()

    def _serve(self) -> None:
        while True:
            with suppress(OSError):  # it has gone again
                connection, _ = self._listener.accept()
                with connection:
                    connection.settimeout(_PROBE_S)
                    connection.sendall(self._answer(connection))

    def _answer(self, connection: socket.socket) -> bytes:
        head, end = b"", time.monotonic() + _PROBE_S
        while b"\r\n\r\n" not in head and len(head) < _MOST_HEAD and time.monotonic() < end:
            got = connection.recv(_MOST_HEAD)
            if not got:
                break
            head += got
        path = head.split(b" ", 2)[1:2]
        if path == [b"/healthz"]:
            return _page(b"200 OK", "ok")
        if path != [b"/readyz"]:
            return _page(b"404 Not Found", "there are /healthz and /readyz")
        why = self.why_not()
        return _page(b"200 OK", "ok") if why is None else _page(b"503 Service Unavailable", why)


def _page(status: bytes, text: str) -> bytes:
    body = text.encode() + b"\n"
    return b"HTTP/1.1 %b\r\ncontent-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (
        status,
        len(body),
        body,
    )
