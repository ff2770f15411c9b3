"""What is sent byte for byte, and what must come back: RFC 9110 and RFC 9112, and clients that mean ill."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from tests.serve.gateway.fake_gateway import ECHO, EVERY, FakeGateway
from tests.serve.gateway.transports import Serving, connected, read_all, serving

from partita.serve.gateway.http_server import ConnectionLimits
from partita.serve.gateway.metrics import ErrorCounter
from partita.serve.gateway.oip import RequestLimits
from partita.serve.tensors import Answer, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.metrics_core import Metric

PATIENCE_S = 20.0
INFER = b"POST /v2/models/echo/infer HTTP/1.1\r\n"
BODY = json.dumps(
    {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
).encode()
HOST = b"Host: x\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
ASK = INFER + HOST + LENGTH + b"\r\n" + BODY
LIVE = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
LAST = b"GET /healthz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
CHUNKED = INFER + HOST + b"Transfer-Encoding: chunked\r\n\r\n"


def chunks(*parts: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + end


def get(path: bytes, *more: bytes, version: bytes = b"1.1", method: bytes = b"GET") -> bytes:
    host = HOST if version == b"1.1" else b""
    return b"%b %b HTTP/%b\r\n%b%b\r\n" % (method, path, version, host, b"".join(more))


def ask_with(body: bytes, *more: bytes) -> bytes:
    return INFER + HOST + b"".join(more) + b"Content-Length: %d\r\n\r\n" % len(body) + body + LAST


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    limits = ConnectionLimits(head=8192, closing_s=2.0)
    with serving(FakeGateway(ECHO, EVERY), limits=RequestLimits(body=1 << 20), connections=limits) as made:
        yield made


@pytest.fixture(autouse=True)
def fresh(server):
    server.gateway.asked.clear()
    server.gateway.error = server.gateway.answer = server.gateway.hold = None


def statuses(came: bytes, *, heads: int = 0) -> list[int]:
    """Return the status of each response, the first `heads` to HEAD; nothing may be between or behind them."""
    found = []
    while came:
        head, end, came = came.partition(b"\r\n\r\n")
        assert end, head
        first, *lines = head.split(b"\r\n")
        version, status, phrase = first.split(b" ", 2)
        assert (version, bool(phrase)) == (b"HTTP/1.1", True)
        headers = dict(line.lower().split(b": ", 1) for line in lines)
        found.append(int(status))
        if found[-1] < 200:
            continue
        assert b"date" in headers
        length = int(headers[b"content-length"])
        if heads:
            heads -= 1
            continue
        assert len(came) >= length
        if found[-1] >= 400:
            assert json.loads(came[:length])["error"]
        came = came[length:]
    return found


def exchange(server: Serving, *parts: bytes, shut: bool = False, heads: int = 0) -> list[int]:
    """Send parts one after the other, and return the statuses of what comes until the server closes."""
    with connected(server.http) as link:
        for part in parts:
            link.sendall(part)
            if len(parts) > 1:
                time.sleep(0.01)
        if shut:
            link.shutdown(socket.SHUT_WR)
        return statuses(read_all(link), heads=heads)


def eventually(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def counted(server: Serving, status: int, reason: str) -> float:
    families = text_string_to_metric_families(server.metrics.page()[0].decode())
    labels = {"transport": "http", "status": str(status), "reason": reason}
    return sum(each.value for family in families for each in family.samples if each.labels == labels)


def test_a_page_that_takes_long_holds_up_no_query(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, go_on = threading.Event(), threading.Event()

    def slow() -> Iterator[Metric]:
        writing.set()
        assert go_on.wait(PATIENCE_S)
        yield GaugeMetricFamily("partita_test", "of a moment", 1)

    def broken() -> Iterator[Metric]:
        yield GaugeMetricFamily("partita_test", "of a moment", 1)
        raise ValueError("a source is broken")

    monkeypatch.setattr(server.metrics, "taken", lambda: slow)
    ask = b"GET /metrics HTTP/1.1\r\n" + HOST
    with ExitStack() as stack:
        first, leaving, half, body, head = (stack.enter_context(connected(server.http)) for _ in range(5))
        first.sendall(ask + b"\r\n" + LIVE)
        assert writing.wait(PATIENCE_S)
        leaving.sendall(ask + b"\r\n")
        leaving.close()
        half.sendall(ask + b"\r\n")
        half.shutdown(socket.SHUT_WR)
        body.sendall(ask + b"content-length: 3\r\n\r\nabc" + LIVE)
        body.shutdown(socket.SHUT_WR)
        head.sendall(b"HEAD" + ask[3:] + b"\r\n" + LIVE)
        head.shutdown(socket.SHUT_WR)
        assert exchange(server, ASK, shut=True) == [200]  # while the page is being written
        go_on.set()
        first.shutdown(socket.SHUT_WR)
        for link, pages in ((first, 1), (half, 1), (body, 1), (head, 0)):
            found = read_all(link)
            assert found.count(b"HTTP/1.1 200 OK") == (1 if link is half else 2), found
            assert found.count(b"partita_test 1.0") == pages
    monkeypatch.setattr(server.metrics, "taken", lambda: broken)
    assert exchange(server, ask + b"\r\n" + LIVE, shut=True) == [500, 200]


# Sent, whether the client then says that it sends no more, and the statuses that come before the server closes.
TABLE: dict[str, tuple[bytes, bool, list[int]]] = {
    # Half-closed clients.
    "half-closed after a request": (ASK, True, [200]),
    "half-closed after a page": (LIVE, True, [200]),
    "half-closed after chunks": (CHUNKED + chunks(BODY), True, [200]),
    "half-closed after several": (ASK * 5 + LIVE, True, [200] * 6),
    "half-closed with nothing": (b"", True, []),
    "half-closed within a head": (INFER + HOST, True, [400]),
    "half-closed within a body": (ASK[:-1], True, [400]),
    "half-closed within chunks": (CHUNKED + chunks(BODY, end=b""), True, [400]),
    "half-closed within the second": (ASK + ASK[:-1], True, [200, 400]),
    # Pipelined requests.
    "pipelined": (ASK * 30 + LAST, False, [200] * 31),
    "pipelined in chunks": ((CHUNKED + chunks(BODY[:9], BODY[9:])) * 3 + LAST, False, [200] * 4),
    "pipelined before garbage": (ASK * 3 + b"\0garbage\r\n\r\n", False, [200, 200, 200, 400]),
    "pipelined before a bad head": (ASK + LIVE + b"GET / HTTP/1.1\r\na b: c\r\n\r\n", False, [200, 200, 400]),
    "pipelined before a bad length": (ASK + INFER + HOST + b"Content-Length: x\r\n\r\n", False, [200, 400]),
    "pipelined behind an error": (get(b"/nowhere") + ASK + LAST, False, [404, 200, 200]),
    "pipelined behind the last": (LAST + ASK * 3, False, [200]),
    "an error with a body behind it": (
        b"POST /nowhere HTTP/1.1\r\n" + HOST + LENGTH + b"\r\n" + BODY + LAST,
        False,
        [404, 200],
    ),
    "an error with chunks behind it": (
        b"POST /nowhere HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(BODY) + LAST,
        False,
        [404, 200],
    ),
    "empty lines between requests": (b"\r\n" + ASK + b"\r\n\r\n" + LAST, False, [200, 200]),
    # Host: RFC 9112, section 3.2.
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", False, [400]),
    "no host in 1.0": (b"GET /healthz HTTP/1.0\r\n\r\n", False, [200]),
    "two hosts": (b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", False, [400]),
    "two hosts in 1.0": (b"GET /healthz HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n", False, [400]),
    "an empty host": (b"GET /healthz HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n", False, [200]),
    "a host of IPv6": (b"GET /healthz HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close\r\n\r\n", False, [200]),
    "a host with a path": (b"GET /healthz HTTP/1.1\r\nHost: x/y\r\n\r\n", False, [400]),
    "a host with a space": (b"GET /healthz HTTP/1.1\r\nHost: x y\r\n\r\n", False, [400]),
    "a host with a user": (b"GET /healthz HTTP/1.1\r\nHost: a@x\r\n\r\n", False, [400]),
    # Targets: RFC 9112, section 3.2.
    "absolute form": (get(b"http://x/healthz", b"Connection: close\r\n"), False, [200]),
    "absolute form with a query": (get(b"HTTPS://x:1/healthz?a=b", b"Connection: close\r\n"), False, [200]),
    "absolute form without a host": (get(b"http:///healthz"), False, [400]),
    "absolute form still needs Host": (b"GET http://x/healthz HTTP/1.1\r\n\r\n", False, [400]),
    "authority form": (b"CONNECT x:80 HTTP/1.1\r\n" + HOST + b"\r\n", False, [501]),
    "asterisk form": (get(b"*", b"Connection: close\r\n", method=b"OPTIONS"), False, [405]),
    "no path": (get(b"nowhere"), False, [400]),
    "a fragment": (get(b"/healthz#a"), False, [400]),
    "a space": (b"GET /heal thz HTTP/1.1\r\n" + HOST + b"\r\n", False, [400]),
    "half an escape": (get(b"/v2/models/%2"), False, [400]),
    "no escape": (get(b"/v2/models/%zz"), False, [400]),
    "bytes that are no ASCII": (get(b"/v2/models/\xff"), False, [400]),
    "a path too long": (get(b"/" + b"a" * 5000), False, [414]),
    # Where a request ends: RFC 9112, sections 6 and 7.
    "two lengths": (INFER + HOST + LENGTH + LENGTH + b"\r\n" + BODY, False, [400]),
    "two unlike lengths": (INFER + HOST + LENGTH + b"Content-Length: 3\r\n\r\n" + BODY, False, [400]),
    "a list of lengths": (INFER + HOST + b"Content-Length: 3, 3\r\n\r\nabc", False, [400]),
    "a signed length": (INFER + HOST + b"Content-Length: +3\r\n\r\nabc", False, [400]),
    "a negative length": (INFER + HOST + b"Content-Length: -3\r\n\r\nabc", False, [400]),
    "a length in hexadecimal": (INFER + HOST + b"Content-Length: 0x3\r\n\r\nabc", False, [400]),
    "an empty length": (INFER + HOST + b"Content-Length:\r\n\r\nabc", False, [400]),
    "a length beyond numbers": (INFER + HOST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n", False, [400]),
    "a length and chunks": (CHUNKED[:-2] + LENGTH + b"\r\n" + chunks(BODY), False, [400]),
    "chunks and a length": (
        INFER + HOST + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(BODY),
        False,
        [400],
    ),
    "chunks twice": (INFER + HOST + b"Transfer-Encoding: chunked, chunked\r\n\r\n", False, [400]),
    "chunks in two lines": (CHUNKED[:-2] + b"Transfer-Encoding: chunked\r\n\r\n", False, [400]),
    "chunks not last": (INFER + HOST + b"Transfer-Encoding: chunked, gzip\r\n\r\n", False, [400]),
    "chunks of another coding": (INFER + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", False, [501]),
    "no chunks": (INFER + HOST + b"Transfer-Encoding: identity\r\n\r\n", False, [400]),
    "chunks almost": (INFER + HOST + b"Transfer-Encoding: xchunked\r\n\r\n", False, [400]),
    "chunks behind a tab": (CHUNKED.replace(b": c", b":\tc") + chunks(BODY) + LAST, False, [200, 200]),
    "chunks in 1.0": (CHUNKED.replace(b"1.1", b"1.0") + chunks(BODY), False, [400]),
    "a chunk without a size": (CHUNKED + b"\r\n" + BODY, False, [400]),
    "a chunk of a signed size": (CHUNKED + b"+3\r\nabc\r\n", False, [400]),
    "a chunk of a size in C": (CHUNKED + b"0x3\r\nabc\r\n", False, [400]),
    "a chunk of a huge size": (CHUNKED + b"f" * 40 + b"\r\n", False, [400]),
    "a chunk longer than its size": (CHUNKED + b"2\r\n{}{}\r\n0\r\n\r\n", False, [400]),
    "a chunk with a bare LF": (CHUNKED + b"2\n{}\n0\n\n", False, [400]),
    "an endless line among chunks": (CHUNKED + b"2;" + b"a" * 2000, False, [400]),
    "chunks with extensions": (
        CHUNKED + b"%x;a=b;c\r\n%b\r\n0;d\r\n\r\n" % (len(BODY), BODY) + LAST,
        False,
        [200, 200],
    ),
    "chunks with trailers": (CHUNKED + chunks(BODY, end=b"0\r\nA: b\r\nHost: y\r\n\r\n") + LAST, False, [200, 200]),
    "trailers that are none": (CHUNKED + chunks(BODY, end=b"0\r\nA b\r\n\r\n"), False, [400]),
    "trailers without end": (CHUNKED + chunks(BODY, end=b"0\r\n" + b"A: b\r\n" * 1000), False, [400]),
    "no length at all": (INFER + HOST + b"\r\n" + LAST, False, [411, 200]),
    "a body of nothing": (INFER + HOST + b"Content-Length: 0\r\n\r\n" + LAST, False, [400, 200]),
    "a length on a page": (get(b"/healthz", b"Content-Length: 3\r\n") + b"abc" + LAST, False, [200, 200]),
    # Heads that are none.
    "folded": (get(b"/healthz", b"A: b\r\n c\r\n"), False, [400]),
    "folded with a tab": (get(b"/healthz", b"A: b\r\n\tc\r\n"), False, [400]),
    "bare LF": (b"GET /healthz HTTP/1.1\nHost: x\n\n", False, [400]),
    "one bare LF": (get(b"/healthz", b"A: b\nC: d\r\n"), False, [400]),
    "bare CR": (get(b"/healthz", b"A: b\rC: d\r\n"), False, [400]),
    "NUL in a value": (get(b"/healthz", b"A: b\0c\r\n"), False, [400]),
    "NUL in a name": (get(b"/healthz", b"A\0: b\r\n"), False, [400]),
    "an escape sequence": (get(b"/healthz", b"A: \x1b[31m\r\n"), False, [400]),
    "a space before the colon": (get(b"/healthz", b"A : b\r\n"), False, [400]),
    "no colon": (get(b"/healthz", b"A b\r\n"), False, [400]),
    "no name": (get(b"/healthz", b": b\r\n"), False, [400]),
    "a value in Latin-1": (get(b"/healthz", b"A: \xe9\r\n", b"Connection: close\r\n"), False, [200]),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", False, [400]),
    "HTTP/0.9": (b"GET /healthz\r\n\r\n", False, [505]),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", False, [501]),
    "HTTP/2 by a request line": (get(b"/healthz", version=b"2.0"), False, [505]),
    "HTTP/9.9": (get(b"/healthz", version=b"9.9"), False, [400]),
    "two tokens": (get(b"/healthz", b"Authorization: a\r\nAuthorization: b\r\n"), False, [400]),
    "a head too large": (get(b"/healthz", b"A: " + b"b" * 9000 + b"\r\n"), False, [431]),
    "a head too large that does not end": (b"GET /healthz HTTP/1.1\r\nA: " + b"b" * 9000, False, [431]),
    "many headers": (get(b"/healthz", b"A: b\r\n" * 2000), False, [431]),
    # Methods.
    "an unknown method": (get(b"/healthz", method=b"BREW"), False, [501]),
    "a method in small letters": (get(b"/healthz", method=b"get"), False, [501]),
    "a method for elsewhere": (get(b"/v2", b"Connection: close\r\n", method=b"DELETE"), False, [405]),
    "OPTIONS": (get(b"/v2", b"Connection: close\r\n", method=b"OPTIONS"), False, [405]),
    "GET where POST is": (get(b"/v2/models/echo/infer", b"Connection: close\r\n"), False, [405]),
    # Expectations and sizes: RFC 9110, section 10.1.1.
    "a body too large": (INFER + HOST + b"Content-Length: 2000000\r\n\r\n", False, [413]),
    "chunks too large": (CHUNKED + chunks(*[bytes(1 << 16)] * 17, end=b""), False, [413]),
    "too large, and asks first": (
        INFER + HOST + b"Content-Length: 2000000\r\nExpect: 100-continue\r\n\r\n",
        False,
        [413],
    ),
    "wrong, and asks first": (
        b"POST /nowhere HTTP/1.1\r\n" + HOST + LENGTH + b"Expect: 100-continue\r\n\r\n",
        False,
        [404],
    ),
    "expects what nobody does": (INFER + HOST + LENGTH + b"Expect: 200-ok\r\n\r\n", False, [417]),
    "asks first in 1.0": (
        INFER.replace(b"1.1", b"1.0") + LENGTH + b"Expect: 100-continue\r\n\r\n" + BODY,
        False,
        [200],
    ),
    # How long a connection stays: RFC 9112, section 9.3.
    "1.0 closes": (get(b"/healthz", version=b"1.0") + LIVE, False, [200]),
    "1.0 that stays": (
        get(b"/healthz", b"Connection: keep-alive\r\n", version=b"1.0") + LAST,
        False,
        [200, 200],
    ),
    "close among others": (get(b"/healthz", b"Connection: foo , Close\r\n") + LIVE, False, [200]),
    "close in a second line": (get(b"/healthz", b"Connection: foo\r\nConnection: close\r\n") + LIVE, False, [200]),
    "close in a name alone": (get(b"/healthz", b"Connection: closed\r\n") + LAST, False, [200, 200]),
    "close after inferring": (ASK.replace(HOST, HOST + b"Connection: close\r\n") + ASK, False, [200]),
    "another protocol": (
        ASK.replace(HOST, HOST + b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n") + LAST,
        False,
        [200, 200],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_each_exchange_ends_as_it_must(server, case):
    sent, shut, wanted = TABLE[case]
    assert exchange(server, sent, shut=shut) == wanted
    assert exchange(server, ASK + LAST) == [200, 200]


def test_it_does_not_matter_how_bytes_are_parted(server):
    whole = ASK + CHUNKED + chunks(BODY[:7], BODY[7:], end=b"0\r\nA: b\r\n\r\n") + ASK + LAST
    with connected(server.http) as link:
        for at in range(len(whole)):
            link.sendall(whole[at : at + 1])
        assert statuses(read_all(link)) == [200] * 4
    for at in range(1, len(whole), 37):
        assert exchange(server, whole[:at], whole[at:]) == [200] * 4


def test_an_escaped_slash_separates_nothing_and_dots_lead_nowhere(server):
    paths = {
        b"/v2%2Fmodels%2Fecho": 404,
        b"/v2/models%2Fecho": 404,
        b"/v2/models/echo%2Fready": 404,
        b"/v2/models/echo%2Fversions%2F1": 404,
        b"/%68ealthz": 200,
        b"/v2/models/every%2Ftype": 200,
        b"/v2/models/every%2ftype/ready": 200,
        b"/v2/models/every/type/config": 200,  # as NVIDIA's client writes it
        b"/v2/models/every%252Ftype": 404,
        b"/v2/models/every": 404,
        b"/v2/../v2/models/echo": 404,
        b"/v2/./models/echo": 404,
        b"/healthz/..%2f..%2fmetrics": 404,
        b"/v2/models/%2e%2e/%2e%2e/metrics": 404,
        b"//healthz": 404,
        b"/v2/": 200,
        b"/v2/models/echo/?a=/b": 200,
    }
    asking = b"".join(get(path) for path in paths) + LAST
    assert exchange(server, asking) == [*paths.values(), 200]


def test_heads_are_answered_without_bodies(server):
    asking = get(b"/v2", method=b"HEAD") + get(b"/nowhere", method=b"HEAD") + LAST
    assert exchange(server, asking, heads=2) == [200, 404, 200]
    assert exchange(server, get(b"/healthz", version=b"1.0", method=b"HEAD"), heads=1) == [200]


def test_who_waits_for_leave_is_told_to_go_on_in_its_turn(server):
    waits = INFER + HOST + LENGTH + b"Expect: 100-Continue\r\n\r\n"
    with connected(server.http) as link:
        link.sendall(LIVE + waits)
        came = b""
        while b"100 Continue\r\n\r\n" not in came:
            came += link.recv(4096)
        link.sendall(BODY + LAST)
        assert statuses(came + read_all(link)) == [200, 100, 200, 200]
    assert exchange(server, waits + BODY + LAST) == [200, 200]


def test_a_half_closed_client_s_answer_comes_when_it_is_there(server):
    server.gateway.hold = asyncio.Event()
    with connected(server.http) as link:
        link.sendall(ASK + ASK)
        link.shutdown(socket.SHUT_WR)
        eventually(lambda: server.gateway.asked)
        server.call(server.gateway.hold.set)
        assert statuses(read_all(link)) == [200, 200]


def test_clients_that_vanish_leave_nothing_behind(server):
    before = server.gateway.cancelled
    server.gateway.hold = asyncio.Event()
    for sent in (b"", INFER, ASK[:-3], CHUNKED + b"4\r\nab", ASK, ASK * 3):
        with connected(server.http) as link:
            link.sendall(sent)
            time.sleep(0.02)
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    eventually(lambda: server.gateway.cancelled == before + 2)
    server.call(server.gateway.hold.set)
    server.gateway.hold, server.gateway.answer = (
        None,
        Answer((Tensor("OUTPUT0", "FP32", (1, 1 << 20), bytes(4 << 20)),)),
    )
    with connected(server.http) as link:
        link.sendall(ASK)
        assert link.recv(10)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.gateway.answer = None
    assert exchange(server, LAST) == [200]


def test_clients_that_do_not_read_hold_back_their_own_requests(server):
    """At most what the kernel takes, one read and one answer are held of each."""
    server.gateway.answer = Answer((Tensor("OUTPUT0", "FP32", (1, 1 << 18), bytes(1 << 20)),))
    asking = json.loads(BODY) | {"parameters": {"binary_data_output": True}}
    body = json.dumps(asking).encode()
    one = INFER + HOST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with connected(server.http) as link:
        link.settimeout(0.2)
        with pytest.raises(TimeoutError):
            link.sendall(one * 100_000)
        assert len(server.gateway.asked) < 40  # as many as were answered into the kernel's buffers
        link.settimeout(PATIENCE_S)
        assert link.recv(1 << 16)
    server.gateway.answer = None
    assert exchange(server, LAST) == [200]


def test_an_error_is_read_by_a_client_that_still_sends(server):
    head = INFER + HOST + b"Content-Length: 30000000\r\n\r\n"
    with connected(server.http) as link:
        link.sendall(head)
        for _ in range(30):
            link.sendall(bytes(1 << 20))
        assert statuses(read_all(link)) == [413]


def test_errors_are_counted_by_reason_and_logged_once_in_a_while(server, caplog):
    cases = {
        b"GET /healthz HTTP/1.1\r\n\r\n": (400, "host"),
        INFER + HOST + LENGTH + LENGTH + b"\r\n": (400, "framing"),
        b"\x16\x03\x01": (400, "malformed"),
        get(b"/nowhere?a=hunter2", b"Authorization: hunter2\r\n", b"Connection: close\r\n"): (404, "not_found"),
        get(b"/%0d%0aFAKE%20LINE%1b%5b31m", b"Connection: close\r\n"): (404, "not_found"),
        get(b"/v2", b"Connection: close\r\n", method=b"PUT"): (405, "method"),
        get(b"/v2", method=b"BREW"): (501, "method"),
        INFER + HOST + b"\r\n" + LAST: (411, "length_required"),
        INFER + HOST + b"Content-Length: 2000000\r\n\r\n": (413, "too_large"),
        get(b"/" + b"a" * 5000): (414, "path"),
        get(b"/", b"A: " + b"b" * 9000 + b"\r\n"): (431, "head_too_large"),
        INFER + HOST + b"Content-Length: 1\r\n\r\n{" + LAST: (400, "json"),
        ask_with(BODY.replace(b"[1, 4]", b"[1, 5]")): (400, "shape"),
        ask_with(BODY.replace(b"FP32", b"FP64")): (400, "datatype"),
        ask_with(BODY.replace(b"[1, 2, 3, 4]", b"[1, 2, 3, 1e40]")): (400, "data"),
        ask_with(BODY.replace(b"INPUT0", b"INPUT1")): (400, "names"),
        ask_with(BODY, b"partita-deadline-ms: -1\r\n"): (400, "deadline"),
    }  # fmt: skip
    for sent, (status, reason) in cases.items():
        before = counted(server, status, reason)
        assert exchange(server, sent)[0] == status
        assert counted(server, status, reason) == before + 1, reason
    assert "hunter2" not in caplog.text
    assert all(record.getMessage().isprintable() for record in caplog.records)
    assert len(caplog.records) <= len(cases)  # the two of one kind are one line


def test_a_server_that_drains_says_so_over_new_connections_too():
    gateway = FakeGateway(ECHO)
    with serving(gateway) as server:
        gateway.hold = asyncio.Event()
        with (
            connected(server.http) as under_way,
            connected(server.http) as idle,
            connected(server.http) as late,
        ):
            idle.sendall(LIVE)
            assert statuses(idle.recv(4096)) == [200]
            under_way.sendall(ASK)
            late.sendall(ASK[:-1])
            eventually(lambda: gateway.asked)
            server.call(server.server.drain)
            assert statuses(read_all(late)) == [503]
            for asking in (ASK, get(b"/v2/health/ready"), get(b"/v2/models/echo")):
                with connected(server.http) as link:
                    link.sendall(asking)
                    came = read_all(link)
                assert statuses(came) == [503]
                assert b"\r\npartita-reason: draining\r\n" in came
                assert b"\r\nretry-after: 1\r\n" in came
            for path in (b"/metrics", b"/healthz", b"/v2/health/live"):
                assert exchange(server, get(path)) == [200]
            idle.sendall(ASK)
            assert statuses(read_all(idle)) == [503]
            server.call(gateway.hold.set)
            assert statuses(read_all(under_way)) == [200]
        assert counted(server, 503, "draining") == 5


def test_slow_clients_have_as_long_as_they_may():
    limits = ConnectionLimits(head_s=0.2, body_s=0.2, idle_s=0.2, closing_s=0.2)
    with serving(FakeGateway(ECHO), connections=limits) as server:
        began = {b"": 408, INFER: 408, INFER + HOST + b"A: ": 408, ASK[:-1]: 408, CHUNKED + b"4\r\nab": 408}
        links = [connected(server.http) for _ in began]
        for link, sent in zip(links, began, strict=True):
            link.sendall(sent)
        with connected(server.http) as idle:
            idle.sendall(ASK)
            assert statuses(read_all(idle)) == [200]  # and closed without a word, as nothing was asked
        for link, status in zip(links, began.values(), strict=True):
            assert statuses(read_all(link)) == [status]
            link.close()
        assert counted(server, 408, "timeout") == len(began)


def test_one_line_of_a_kind_is_logged_in_a_while(caplog):
    caplog.set_level("INFO", "partita.serve.requests")
    now = 0.0
    errors = ErrorCounter(lambda: now, every_s=5.0)
    for _ in range(1000):
        errors.count(("http", "400", "invalid"), ("10.0.0.1", 99), "POST '/v2'", "bad\r\nGET / \x1b[31m")
    errors.count(("http", "503", "late"), ("::1", 99), "POST '/v2'", "the deadline cannot be met")
    now = 6.0
    errors.count(("http", "400", "invalid"), None, "POST '/v2'", "x" * 1000)
    first, second, third = caplog.records
    assert first.getMessage() == "http 400 (invalid) to 10.0.0.1:99: POST '/v2': bad\\r\\nGET / \\x1b[31m"
    assert (second.levelname, vars(second)["peer"]) == ("WARNING", "[::1]:99")
    assert third.getMessage().endswith("...; 999 more of this kind before")
    assert len(third.getMessage()) < 400
    assert errors.counted["http", "400", "invalid"] == 1001
