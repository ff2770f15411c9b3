"""Clients that are silent or slow, that send what is no request, or may not read any more, over real sockets."""

from __future__ import annotations

import http.client
import json
import resource
import ssl
import time
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING, Any

import pytest
from tests.dash.test_access import READING, WRITING
from tests.dash.test_server import PATIENCE_S, Stream, Told, connect, serving

from partita.dash import connections, server
from partita.dash.access import Access, read_access
from partita.serve.tls import Tls

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


class Reach:
    """Asks servers, and closes all that it opened."""

    def __init__(self, opened: ExitStack, trust: ssl.SSLContext | None = None) -> None:
        self._opened = opened
        self.trust = trust
        self.connection = http.client.HTTPConnection("")

    def __call__(
        self,
        url: str,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: str | None = None,
    ) -> http.client.HTTPResponse:
        netloc = url.split("/")[2]
        connection = (
            http.client.HTTPConnection(netloc, timeout=PATIENCE_S)
            if self.trust is None
            else http.client.HTTPSConnection(netloc, timeout=PATIENCE_S, context=self.trust)
        )
        self.connection = connection
        self._opened.callback(connection.close)
        connection.request(method, path, body, headers or {})
        found = connection.getresponse()
        self._opened.callback(found.close)
        return found


@pytest.fixture
def reach() -> Iterator[Reach]:
    with ExitStack() as opened:
        yield Reach(opened)


def status(reach: Reach, url: str, method: str, path: str, headers: Mapping[str, str]) -> int:
    return reach(url, method, path, headers).status


def signed_in(reach: Reach, url: str) -> str:
    """Return the cookie of a new session that reads."""
    body, headers = json.dumps({"token": READING}), {"Content-Type": "application/json"}
    return reach(url, "POST", "/api/v1/session", headers, body).headers["set-cookie"].partition(";")[0]


def reading(reach: Reach, url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
    """Return a stream that is open."""
    found = reach(url, "GET", "/api/v1/stream", headers)
    assert found.readline() == b"retry: 2000\n"
    return found


def answered(data: bytes) -> tuple[int, dict[str, str], Any]:
    """Return status, headers and document of an answer."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(each.lower().split(": ", 1) for each in lines), json.loads(body)


def everything(connection: socket.socket) -> bytes:
    """Return what comes until the other side closes."""
    found = b""
    while got := connection.recv(65_536):
        found += got
    return found


@pytest.mark.parametrize(
    ("sent", "status", "why"),
    [
        (b"GET /api/v1 HTTP/1.1\r\n\r\n", 400, "Missing mandatory Host: header"),
        (b"GET /api/v1 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "Host"),
        (b"\x16\x03\x01 hello\r\n\r\n", 400, "illegal request line"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 70_000, 431, "Receive buffer too long"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: odd\r\n\r\n", 501, "Transfer-Encoding"),
    ],
)
def test_what_is_no_request_is_told_as_everything_else(sent: bytes, status: int, why: str) -> None:
    with serving(Told()) as made, closing(connect(made.url)) as asked:
        asked.sendall(sent)
        found, headers, fault = answered(everything(asked))
        assert found == status
        assert headers["content-type"] == "application/json"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert set(fault) == {"error", "where", "hint"}
        assert fault["error"].startswith("this is no request of HTTP: ")
        assert why in fault["error"]


def test_a_body_that_breaks_off_in_the_middle_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    with serving(Told()) as made:
        with closing(connect(made.url)) as asked:
            asked.sendall(
                b"POST /api/v1/session HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"
            )
            time.sleep(0.05)
            asked.sendall(b"xxxxxxxxxxxx\r\n")
            assert answered(everything(asked))[0] == 400
        with closing(Stream(made.url)) as stream:
            assert stream.event()[0] == "hello"
    assert not [each for each in caplog.records if each.name.startswith(("uvicorn", "asyncio"))]


def half_a_head(asked: socket.socket) -> None:
    asked.sendall(b"GET /api/v1 HTTP/1.1\r\nHost:")


def in_drops(asked: socket.socket) -> None:
    for letter in b"GET /api/v1 HTTP/1.1\r\nHost: localhost\r\n" * 100:
        try:
            asked.sendall(bytes((letter,)))
        except OSError:
            return
        time.sleep(0.02)
    raise AssertionError("nobody minded")


def a_second_head_in_drops(asked: socket.socket) -> None:
    asked.sendall(b"HEAD /api/v1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert asked.recv(65_536).startswith(b"HTTP/1.1 200")
    in_drops(asked)


@pytest.mark.parametrize(
    ("send", "status"),
    [(lambda _: None, None), (half_a_head, 408), (in_drops, None), (a_second_head_in_drops, None)],
)
def test_who_is_silent_or_sends_in_drops_is_closed(
    monkeypatch: pytest.MonkeyPatch, send: Callable[[socket.socket], None], status: int | None
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.2)
    with serving(Told()) as made, closing(connect(made.url)) as asked:
        send(asked)
        try:
            found = everything(asked)
        except ConnectionError:
            return  # closed while more came
        assert answered(found)[0] == status if status else not found or answered(found)[0] == 408


def test_half_a_handshake_of_tls_is_closed(
    monkeypatch: pytest.MonkeyPatch, certificate: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.2)
    with serving(Told(), Access(read=READING, tls=Tls(*certificate))) as made:
        with closing(connect(made.url)) as silent, closing(connect(made.url)) as half:
            half.sendall(b"\x16\x03\x01\x02\x00\x01")
            assert everything(silent) == everything(half) == b""
        trust = ssl.create_default_context(cafile=certificate[0])
        with trust.wrap_socket(connect(made.url), server_hostname="localhost") as asked:
            asked.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert everything(asked).startswith(b"HTTP/1.1 200")
    assert not caplog.records


@pytest.mark.parametrize("secure", [False, True])
def test_those_who_ask_nothing_make_room(
    monkeypatch: pytest.MonkeyPatch, certificate: tuple[Path, Path], reach: Reach, *, secure: bool
) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 8)
    tls = Tls(*certificate) if secure else None
    trust = ssl.create_default_context(cafile=certificate[0])
    with serving(Told(), Access(tls=tls)) as made:

        def viewer() -> http.client.HTTPResponse:
            return reach(made.url, "GET", "/api/v1/stream")

        reach.trust = trust if secure else None
        first = viewer()
        first_connection = reach.connection
        silent = [connect(made.url) for _ in range(30)]
        others = [viewer() for _ in range(7)]
        assert [each.status for each in (first, *others)] == [200] * 8
        for each in (first, *others):
            assert b"retry" in each.readline()
        for gone in silent:
            assert everything(gone) == b""
            gone.close()
        # All of them are at work now: whoever comes is told so, where no handshake stands between.
        with closing(connect(made.url)) as late:
            late.settimeout(PATIENCE_S)
            if not secure:
                assert answered(everything(late))[0] == 503
            else:
                with pytest.raises(OSError):  # noqa: PT011 -- reset, or an end before the handshake's
                    trust.wrap_socket(late, server_hostname="localhost")
        first.close()
        first_connection.close()
        end, status = time.monotonic() + PATIENCE_S, 0
        while status != 200:
            assert time.monotonic() < end
            with suppress(OSError):
                status = viewer().status
            time.sleep(0.02)


def test_sign_out_ends_the_streams_of_that_session_alone(reach: Reach) -> None:
    with serving(Told(), Access(read=READING)) as made:
        mine, other = (signed_in(reach, made.url) for _ in range(2))
        streams = [reading(reach, made.url, {"Cookie": each}) for each in (mine, mine, other)]
        status(reach, made.url, "DELETE", "/api/v1/session", {"Cookie": mine})
        for each in streams[:2]:
            each.read()
            each.close()
        assert status(reach, made.url, "GET", "/api/v1", {"Cookie": mine}) == 401
        assert status(reach, made.url, "GET", "/api/v1", {"Cookie": other}) == 200
        assert not streams[2].isclosed()
        streams[2].close()


def test_a_session_that_is_over_ends_its_streams(monkeypatch: pytest.MonkeyPatch, reach: Reach) -> None:
    monkeypatch.setattr("partita.dash.access.SESSION_S", 0.3)
    with serving(Told(), Access(read=READING)) as made:
        reading(reach, made.url, {"Cookie": signed_in(reach, made.url)}).read()


def test_a_token_that_was_taken_back_ends_all_that_it_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reach: Reach
) -> None:
    monkeypatch.setattr(server, "TOKENS_S", 0.02)
    read, write = tmp_path / "read", tmp_path / "write"
    for path, token in ((read, READING), (write, WRITING)):
        path.write_text(token)
        path.chmod(0o600)
    with serving(Told(), read_access("127.0.0.1", 0, read=read, write=write)) as made:
        session = {"Cookie": signed_in(reach, made.url)}
        old, new = {"Authorization": f"Bearer {READING}"}, {"Authorization": f"Bearer {'n' * 32}"}
        writer = {"Authorization": f"Bearer {WRITING}"}
        streams = [reading(reach, made.url, each) for each in (session, old)]
        kept = reading(reach, made.url, writer)
        read.write_text("n" * 32)
        for each in streams:
            each.read()  # to its end
        assert [status(reach, made.url, "GET", "/api/v1", each) for each in (session, old, new, writer)] == [
            401,
            401,
            200,
            200,
        ]
        for gone in (read, write):
            ended = reading(reach, made.url, new) if gone is read else kept
            gone.unlink()
            ended.read()
        assert [status(reach, made.url, "GET", "/api/v1", each) for each in ({}, old, new, writer)] == [
            401
        ] * 4
        # A token that others could read is none.
        read.write_text(READING)
        read.chmod(0o644)
        time.sleep(0.1)
        assert status(reach, made.url, "GET", "/api/v1", old) == 401
        read.chmod(0o600)
        end = time.monotonic() + PATIENCE_S
        while status(reach, made.url, "GET", "/api/v1", old) != 200:
            assert time.monotonic() < end


@pytest.mark.parametrize(
    ("files", "least"), [(64, 10), (128, 30), (256, 90), (1024, 700), (resource.RLIM_INFINITY, 1000)]
)
def test_a_low_limit_of_open_files_leaves_room_for_several_readers(
    monkeypatch: pytest.MonkeyPatch, files: int, least: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    most, waiting = connections.room_for()
    assert least <= most <= connections.MOST_CONNECTIONS
    assert files < 0 or most + waiting <= files - min(100, files // 4)
