"""A connection to a server that does not keep to what servers should do: nobody gets another one's answer."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO

import pytest

from partita.serve.worker.oip_client import OipClient, UpstreamError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"


def response(body: bytes, headers: bytes = b"", *, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n%b\r\n%b" % (status, len(body), headers, body)


class Server:
    """Answers each request by the next of its answers; an empty one closes the connection."""

    def __init__(self, answers: Sequence[bytes]) -> None:
        self.requests, self.connections = 0, 0
        self._answers = list(answers)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                stream = self._listener.accept()[0]
            except OSError:
                return
            self.connections += 1
            with stream, stream.makefile("rb") as lines, suppress(ConnectionError):
                while self._request(lines):
                    self.requests += 1
                    answer = self._answers.pop(0)
                    if not answer:
                        break
                    stream.sendall(answer)

    @staticmethod
    def _request(lines: BinaryIO) -> bool:
        line = lines.readline()
        length = 0
        while line.strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
            line = lines.readline()
            if not line.strip():
                lines.read(length)
                return True
        return False


@contextmanager
def serving(*answers: bytes) -> Iterator[tuple[Server, OipClient]]:
    server = Server(answers)
    client = OipClient(server.url, 5.0)
    try:
        yield server, client
    finally:
        client.close()
        server.close()


def posted(client: OipClient) -> bytes:
    return client.post("/infer", None, b"{}")[1]


@pytest.mark.parametrize("interim", [EARLY, EARLY * 3, b"HTTP/1.1 102 Processing\r\n\r\n" + EARLY])
def test_interim_responses_are_passed_over(interim: bytes) -> None:
    with serving(interim + response(b"1"), interim + response(b"2"), response(b"3")) as (server, client):
        assert [posted(client) for _ in range(3)] == [b"1", b"2", b"3"]
        assert server.connections == 1


def test_a_server_that_sends_interim_responses_alone_has_failed() -> None:
    with serving(EARLY * 40) as (_, client), pytest.raises(UpstreamError, match="interim"):
        posted(client)


def test_a_connection_on_which_something_waits_that_nobody_asked_for_is_not_used_again() -> None:
    """A second response to one request, or one that came late, would be taken for the answer to the next."""
    stray = b"x" * (1 << 20)  # more than is read along with the first
    with serving(response(b"1") + response(stray), response(b"2")) as (server, client):
        assert posted(client) == b"1"
        assert posted(client) == b"2"
        assert server.connections == 2


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        (b"Inference-Header-Content-Length: abc\r\n", "Inference-Header-Content-Length is 'abc'"),
        (b"Inference-Header-Content-Length: -5\r\n", "not a number of bytes"),
        (b"Content-Encoding: gzip\r\n", r"compressed \(gzip\)"),
    ],
)
def test_what_cannot_be_read_is_told(headers: bytes, told: str) -> None:
    with serving(response(b"1", headers), response(b"2")) as (_, client):
        with pytest.raises(UpstreamError, match=told):
            posted(client)
        assert posted(client) == b"2"


@pytest.mark.parametrize(("again", "requests"), [(True, 3), (False, 2)])
def test_a_query_is_sent_again_only_where_it_may_run_twice(again: bool, requests: int) -> None:  # noqa: FBT001
    """The server had it when it closed the connection, and may have run it."""
    with serving(response(b"1"), b"", response(b"2")) as (server, _):
        client = OipClient(server.url, 5.0, again=again)
        assert posted(client) == b"1"
        if again:
            assert posted(client) == b"2"
        else:
            with pytest.raises(UpstreamError, match="closed connection without response"):
                posted(client)
        assert server.requests == requests
        client.close()
