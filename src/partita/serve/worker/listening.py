"""Listens for gateways on other hosts: TCP, proofs of a token, TLS; and serves a page for a kubelet's probes.

The handshake of each gateway has a thread of its own, so that a silent gateway delays no other. Both sides prove that
they know the token, so a gateway sends no query to another process that has taken over a worker's address. Without
TLS the traffic is not encrypted.
"""

from __future__ import annotations

import hmac
import os
import select
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from partita.errors import InputError
from partita.files import read_text
from partita.serve.worker.wire import BACKLOG, CHUNK, FrameError, FrameKind, Frames, frame

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from partita.serve.tls import ServerCertificate
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
"""Socket options of both ends (tcp(7)). With them the kernel ends a connection to an unreachable host after about
10 s, whether data are unacknowledged (USER_TIMEOUT, in ms) or not (KEEP*, in s)."""
GREETING_S = 5.0
"""Seconds for the handshake."""
_MOST_GREETERS = 64
"""Maximum number of handshakes at a time."""
_MOST_GREETING = 4096
"""Maximum bytes of a frame before the proof."""
_SHORTEST_TOKEN, _LONGEST_TOKEN = 16, 4096


def keep_alive(connection: socket.socket) -> None:
    """Set the options for sending without delay and for detecting that the other host is gone."""
    for level, option, value in KEEP_ALIVE:
        connection.setsockopt(level, option, value)


def read_token(path: Path | str) -> str:
    """Return the token in a file.

    Raises:
        InputError: the file cannot be read, or has no token.
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
    """Return a random nonce in hexadecimal."""
    return os.urandom(16).hex()


def proof(token: str, who: str, nonces: Sequence[str]) -> str:
    """Return a proof that one knows the token: HMAC-SHA-256 (RFC 2104) of two nonces, in hexadecimal.

    Args:
        token: shared by both sides.
        who: `worker` or `gateway`, so that neither side can send back the other's proof.
        nonces: the gateway's, then the worker's.
    """
    return hmac.digest(token.encode(), "\0".join([who, *nonces]).encode(), "sha256").hex()


def proves(told: object, token: str, who: str, nonces: Sequence[str]) -> bool:
    """Return whether a received value is the proof."""
    return isinstance(told, str) and hmac.compare_digest(told.encode(), proof(token, who, nonces).encode())


class Greeter:
    """Handles the handshakes of gateways that connect over TCP.

    Args:
        spec: where to listen, and the files of token and TLS.
        welcome: called with the connection after a successful handshake.
        note: called with a sentence for the log when a handshake fails.

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
        self._certificate = _certificate(spec, note)
        self._room = threading.Semaphore(_MOST_GREETERS)

    def listen(self) -> socket.socket:
        """Return a listening socket.

        Raises:
            InputError: the address cannot be used.
        """
        found = listening_at(self._spec.host, self._spec.port)
        self._note("listens at {}:{}".format(*found.getsockname()[:2]))
        return found

    def greet(self, connection: socket.socket) -> None:
        """Start the handshake of a gateway, in a thread of its own."""
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
            tls = self._certificate
            stream = connection if tls is None else TlsStream(connection, tls.current())
            self._hear_proof(stream)
        except (OSError, FrameError) as error:
            late.cancel()
            connection.close()
            self._note(f"the handshake of a gateway failed: {error}")
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
            raise FrameError("its GREET has no nonce")
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
        raise FrameError("the gateway closed the connection")
    if found.kind != kind or not isinstance(found.header, dict):
        raise FrameError(f"a frame of kind {found.kind} instead of {kind.name}")
    return found.header


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):  # gone already
        connection.shutdown(socket.SHUT_RDWR)


def listening_at(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address; port 0 takes a free port.

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


def _certificate(spec: ListenSpec, note: Callable[[str], None]) -> ServerCertificate | None:
    if spec.cert is None or spec.key is None:
        return None
    from partita.serve.tls import ServerCertificate, Tls  # noqa: PLC0415 -- only with TLS

    return ServerCertificate(Tls(Path(spec.cert), Path(spec.key)), note)


class TlsStream:
    """The server's side of TLS on a blocking socket; one thread may read while another writes.

    Before 3.13, Python's TLS sockets cannot be used by two threads at a time. Here a lock protects the TLS state, and
    is not held during network calls.

    Args:
        connection: the accepted socket.
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
        """Return the next bytes, at most `size`; empty at the end."""
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
        """Read the next bytes into the beginning of a buffer; return their number."""
        found = self.recv(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def sendall(self, message: bytes, /) -> None:
        """Send a whole message; one thread at a time."""
        view = memoryview(message)
        while view:
            with self._lock:
                view = view[self._tls.write(view[:_RECORDS]) :]
                sealed = self._goes.read()
            self._connection.sendall(sealed)

    def send(self, message: bytes, flags: int = 0, /) -> int:
        """Send a short message, or raise `BlockingIOError` if it would have to wait; one thread at a time.

        Returns:
            Its length; 0 if only a part was sent, so that the connection cannot be used any more.
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
        """Set whether the socket blocks."""
        self._connection.setblocking(flag)

    def shutdown(self, how: int, /) -> None:
        """End the connection."""
        self._connection.shutdown(how)

    def close(self) -> None:
        """Close the socket."""
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
"""Bytes that are encrypted at a time."""


# The page for probes

_MOST_HEAD = 4096
_PROBE_S = 2.0


class HealthPage:
    """Answers a kubelet's probes: `/healthz` while the process lives, `/readyz` while it can answer queries.

    Attributes:
        why_not: returns why it cannot answer queries, None if it can.

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
            with suppress(OSError):  # the client has left
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
            return _page(b"404 Not Found", "no such page; there are /healthz and /readyz")
        why = self.why_not()
        return _page(b"200 OK", "ok") if why is None else _page(b"503 Service Unavailable", why)


def _page(status: bytes, text: str) -> bytes:
    body = text.encode() + b"\n"
    return b"HTTP/1.1 %b\r\ncontent-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (
        status,
        len(body),
        body,
    )
