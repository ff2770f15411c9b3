"""The gateway over HTTP: clients that nobody here wrote, and clients that mean ill."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import socket
import struct
import time
import zlib
from contextlib import closing

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.serve.gateway.fake_gateway import ALL_TYPES, ECHO, EVERY, FakeGateway, refused
from tests.serve.gateway.transports import Serving, asked, connected, got, posted, read_all, serving, split
from tritonclient.utils import InferenceServerException

from partita.serve.dispatching.query import QueryFailedError, RefusalReason
from partita.serve.gateway.http_server import ConnectionLimits
from partita.serve.gateway.oip import RequestLimits
from partita.serve.tensors import Answer, Tensor

INFER = "/v2/models/echo/infer"
BODY = json.dumps(
    {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
).encode()
NUMPY = {"BOOL": "?", "FP16": "f2", "FP32": "f4", "FP64": "f8", "BYTES": "O", "BF16": ml_dtypes.bfloat16}
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def server():
    with serving(FakeGateway(ECHO, EVERY), limits=RequestLimits(body=1 << 20, header=1 << 18)) as made:
        yield made


@pytest.fixture(autouse=True)
def fresh(request):
    if "server" in request.fixturenames:
        gateway = request.getfixturevalue("server").gateway
        gateway.asked.clear()
        gateway.error = gateway.answer = gateway.hold = None
        gateway.is_ready = True


def client(server: Serving) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(f"127.0.0.1:{server.http}")


def numbers(rows: int = 2) -> np.ndarray:
    return np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)


def given_input(value: np.ndarray, *, binary: bool = True) -> triton.InferInput:
    made = triton.InferInput("INPUT0", list(value.shape), "FP32")
    made.set_data_from_numpy(value, binary_data=binary)
    return made


def eventually(true) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("packing", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_infers(server, binary, packing):
    value = numbers()
    with client(server) as link:
        found = link.infer(
            "echo",
            [given_input(value, binary=binary)],
            outputs=[triton.InferRequestedOutput("OUTPUT0", binary_data=binary)],
            request_id="some id",
            request_compression_algorithm=packing,
            response_compression_algorithm="gzip",
            parameters={"deadline_ms": 20},
        )
    assert (found.as_numpy("OUTPUT0") == value).all()
    assert found.get_response()["id"] == "some id"
    assert server.gateway.asked[0][2] == pytest.approx(0.02)


def test_tritonclient_sends_and_gets_every_datatype(server):
    inputs, values = [], {}
    for datatype in ALL_TYPES:
        made = triton.InferInput(f"IN_{datatype}", [1, 2], datatype)
        numpy_type = NUMPY.get(datatype, datatype.lower())
        value = (
            np.array([b"\xff\0", "ä".encode()], object)
            if datatype == "BYTES"
            else np.array([1, 0], numpy_type)
        )
        made.set_data_from_numpy(value.reshape(1, 2))
        inputs.append(made)
        values[datatype] = value.reshape(1, 2)
    with client(server) as link:
        found = link.infer("every/type", inputs)
    for datatype, value in values.items():
        assert (found.as_numpy(f"OUT_{datatype}") == value).all(), datatype


def test_tritonclient_asks_for_all_there_is_to_know(server):
    with client(server) as link:
        assert link.is_server_live()
        assert link.is_server_ready()
        assert link.is_model_ready("echo", "1")
        assert link.get_server_metadata()["name"] == "partita"
        assert link.get_model_metadata("every/type")["inputs"][0]["name"] == "IN_BOOL"
        config = link.get_model_config("echo")
        assert config["max_batch_size"] == 8
        assert config["input"] == [{"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [4]}]
        assert link.get_inference_statistics("echo")["model_stats"][0]["inference_count"] == 12
        assert len(link.get_inference_statistics()["model_stats"]) == 2
        assert [each["state"] for each in link.get_model_repository_index()] == ["READY", "READY"]


def test_the_async_client_infers_many_at_once(server):
    async def main() -> None:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{server.http}") as link:
            values = [numbers(1) + i for i in range(50)]
            found = await asyncio.gather(*(link.infer("echo", [given_input(each)]) for each in values))
            assert all((a.as_numpy("OUTPUT0") == b).all() for a, b in zip(found, values, strict=True))

    asyncio.run(main())


def test_what_is_wrong_is_said_to_tritonclient(server):
    with client(server) as link, pytest.raises(InferenceServerException, match=r"400.*batch size 9"):
        link.infer("echo", [given_input(numbers(9))])
    with client(server) as link, pytest.raises(InferenceServerException, match="no model 'other'"):
        link.infer("other", [given_input(numbers())])


def test_health_follows_the_workers(server):
    server.gateway.is_ready = False
    assert got(server.http, "/healthz")[0] == 200
    assert got(server.http, "/v2/health/live")[0] == 200
    assert got(server.http, "/v2/health/ready")[0] == 503
    assert got(server.http, "/v2/models/echo/ready")[0] == 503
    assert b"UNAVAILABLE" in posted(server.http, "/v2/repository/index", b"")[2]
    assert posted(server.http, "/v2/repository/index", b'{"ready": true}')[2] == b"[]"


def test_an_overloaded_gateway_says_when_to_come_again(server):
    server.gateway.error = refused(RefusalReason.LATE, 1.2)
    status, headers, body = posted(server.http, INFER, BODY)
    assert (status, headers["retry-after"], headers["partita-reason"]) == (503, "2", "late")
    assert json.loads(body) == {"error": "the deadline cannot be met"}


def test_failures_are_told_apart_from_faults_of_the_query(server):
    server.gateway.error = QueryFailedError("the worker died twice")
    assert posted(server.http, INFER, BODY)[0] == 500
    server.gateway.error = None
    server.gateway.answer = Answer(error="no such token", invalid=True)
    assert posted(server.http, INFER, BODY)[0] == 400
    server.gateway.answer = Answer(error="out of memory")
    assert posted(server.http, INFER, BODY)[0] == 500


def test_a_fault_of_partita_itself_is_logged_and_ends_one_request(server, caplog):
    server.gateway.error = ZeroDivisionError()
    status, _, body = posted(server.http, INFER, BODY)
    assert (status, json.loads(body)["error"]) == (
        500,
        "a fault in partita itself; the log of the gateway says more",
    )
    assert "ZeroDivisionError" in caplog.text
    assert got(server.http, "/healthz")[0] == 200


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [((), None), (("partita-deadline-ms: 12.5",), 0.0125), (("Partita-Deadline-Ms: 3",), 0.003)],
)
def test_a_deadline_comes_as_a_header(server, headers, seconds):
    assert posted(server.http, INFER, BODY, *headers)[0] == 200
    assert server.gateway.asked[0][2] == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        (INFER, b"", (), 400),
        (INFER, b"{", (), 400),
        (INFER, BODY, ("partita-deadline-ms: nan",), 400),
        (INFER, BODY, ("partita-deadline-ms: inf",), 400),
        (INFER, BODY, ("partita-deadline-ms: -1",), 400),
        (INFER, BODY, ("partita-deadline-ms: soon",), 400),
        (INFER, BODY, ("Inference-Header-Content-Length: -1",), 400),
        (INFER, BODY, ("Inference-Header-Content-Length: 99999",), 400),
        (INFER, BODY, ("Inference-Header-Content-Length: 1e3",), 400),
        (INFER, BODY, ("Content-Encoding: gzip",), 400),
        (INFER, gzip.compress(BODY, mtime=0)[:-4], ("Content-Encoding: gzip",), 400),
        (INFER, zlib.compress(BODY) + b"x", ("Content-Encoding: deflate",), 400),
        (INFER, gzip.compress(bytes(2 << 20), mtime=0), ("Content-Encoding: gzip",), 413),
        (INFER, BODY, ("Content-Encoding: br",), 415),
        (INFER, BODY, ("Content-Type: multipart/form-data; boundary=x",), 415),
        (INFER, bytes((1 << 20) + 1), (), 413),
        (INFER, b" " * ((1 << 18) + 1), (), 413),
        ("/v2/models/echo/versions/2/infer", BODY, (), 404),
        ("/v2/models/other/infer", BODY, (), 404),
        ("/v2/models//infer", BODY, (), 404),
        ("/v2/models/echo/versions/1/infer", BODY, (), 200),
        (INFER + "?a=b", BODY, (), 200),
        (INFER, BODY, ("Content-Type: application/x-www-form-urlencoded",), 200),
        ("/nowhere", b"", (), 404),
        ("/" + "x" * 5000, b"", (), 414),
        ("/v2", b"", (), 405),
        ("/v2/repository/index", b"[]", (), 400),
        ("/v2/repository/index", b"{", (), 400),
        ("/v2/repository/index", b" " * 70_000, (), 413),
    ],
)
def test_each_fault_has_its_status(server, path, body, headers, status):
    found, _, told = posted(server.http, path, body, *headers)
    assert found == status
    assert status == 200 or json.loads(told)["error"]
    assert got(server.http, "/healthz")[2] == b"ok\n"


def test_methods_that_are_not_for_a_path_are_told_which_are(server):
    status, headers, _ = got(server.http, INFER)
    assert (status, headers["allow"]) == (405, "POST")
    status, headers, body = got(server.http, "/v2", method="HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 10
    assert got(server.http, "/v2/repository/index")[0] == 405


def test_a_body_without_a_length_is_asked_for_one_and_chunks_are_taken(server):
    assert (
        split(asked(server.http, f"POST {INFER} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()))[
            0
        ]
        == 411
    )
    with closing(http.client.HTTPConnection("127.0.0.1", server.http)) as link:
        for parts, status in (([BODY[:10], BODY[10:]], 200), ([bytes(1 << 16)] * 40, 413), ([BODY], 200)):
            chunked = {"Transfer-Encoding": "chunked"}
            link.request("POST", INFER, iter(parts), encode_chunked=True, headers=chunked)
            response = link.getresponse()
            assert (response.status, bool(response.read())) == (status, True)


def test_a_large_body_that_waits_for_leave_is_told_before_it_is_sent(server):
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"
    assert split(asked(server.http, head.encode()))[0] == 413
    with connected(server.http) as link:
        link.sendall(
            f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\nExpect: 100-continue\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        assert link.recv(100).startswith(b"HTTP/1.1 100 ")
        link.sendall(BODY)
        assert split(read_all(link))[0] == 200


def test_pipelined_requests_are_answered_in_order(server):
    one = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY
    last = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    found = asked(server.http, one * 20 + last)
    assert found.count(b"HTTP/1.1 200 OK") == 21
    assert found.endswith(b"ok\n")


def test_a_head_that_is_known_again_changes_nothing(server):
    def exchanged(link: http.client.HTTPConnection, *parts: bytes) -> tuple[int, bytes]:
        link.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            link.sock.sendall(part)
            time.sleep(0.02)  # so that the parts come apart
        response = http.client.HTTPResponse(link.sock, method="POST")
        response.begin()
        return response.status, response.read()

    wrong = BODY[:-1] + b"!"
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
    with closing(http.client.HTTPConnection("127.0.0.1", server.http, timeout=20)) as link:
        link.connect()
        first = exchanged(link, head + BODY)
        assert first[0] == 200
        for parts in ([head + BODY], [head, BODY], [head[:9], head[9:] + BODY], [b"\r\n" + head + BODY]) * 2:
            assert exchanged(link, *parts) == first
        assert exchanged(link, head + wrong)[0] == 400
        assert exchanged(link, head + BODY) == first
    with connected(server.http) as other:
        last = head.replace(b"Host: x", b"Host: x\r\nConnection: close")
        other.sendall(head + BODY)
        time.sleep(0.1)
        other.sendall((head + BODY) * 2 + last + BODY)
        assert read_all(other).count(first[1]) == 4


@pytest.mark.parametrize("wish", ["Upgrade: h2c", "upgrade: websocket"])
def test_a_wish_for_another_protocol_is_passed_over(server, wish):
    assert posted(server.http, INFER, BODY, wish, "Connection: Upgrade, close")[0] == 200
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n{wish}\r\nContent-Length: {len(BODY)}\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert asked(server.http, head.encode() + BODY + last).count(b"HTTP/1.1 200 OK") == 2


def test_a_client_that_resets_its_connection_takes_its_query_along(server):
    server.gateway.hold = asyncio.Event()
    before = server.gateway.cancelled
    request = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY
    with connected(server.http) as link:
        link.sendall(request)
        eventually(lambda: server.gateway.asked)
        # What a process leaves behind that dies on bytes it has not read.
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    eventually(lambda: server.gateway.cancelled == before + 1)


def test_names_may_have_any_character(server):
    for path in ("/v2/models/every/type", "/v2/models/every%2Ftype", "/v2/models/every%2ftype/config"):
        assert got(server.http, path)[0] == 200
    for path in ("/v2/models/%00", "/v2/models/%ff%fe", "/v2/models/%1b%5b31m"):
        status, _, body = got(server.http, path)
        assert status == 404
        assert json.loads(body)["error"].isprintable()


@pytest.mark.parametrize(
    "request_",
    [
        b"\0\1\2\3\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\na b: c\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n",
        f"POST {INFER} HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n{{}}".encode(),
        f"POST {INFER} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n".encode(),
        f"POST {INFER} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}and more\r\n".encode(),
    ],
)
def test_what_is_no_http_is_refused(server, request_):
    status, headers, body = split(asked(server.http, request_))
    assert (status, headers["connection"]) == (400, "close")
    assert json.loads(body)["error"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=40)
@given(
    start=st.sampled_from([b"", f"POST {INFER} HTTP/1.1\r\n".encode(), b"GET /v2 HTTP/1.1\r\nHost: x\r\n"]),
    noise=st.binary(max_size=300),
)
def test_noise_disturbs_nobody(server, start, noise):
    with connected(server.http) as link:
        link.sendall(start + noise)
        link.shutdown(socket.SHUT_WR)
    assert got(server.http, "/v2/health/live")[0] == 200


def test_the_metrics_page_tells_of_queries_services_and_instances(server):
    status, headers, page = got(server.http, "/metrics")
    assert (status, headers["content-type"].split(";")[0]) == (200, "text/plain")
    for line in (
        b'partita_queue_length{service="echo"} 3.0',
        b'partita_refused_total{reason="late",service="echo"} 1.0',
        b'partita_instance_busy_seconds_total{GPU_I_ID="7",GPU_I_PROFILE="1g.10gb",UUID="GPU-1",gpu_instance=',
        b'partita_decision_seconds_bucket{le="1e-06",service="echo"} 5.0',
    ):
        assert line in page
    _, headers, page = got(server.http, "/metrics", "Accept: application/openmetrics-text;version=1.0.0")
    assert headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert page.endswith(b"# EOF\n")


def test_a_token_is_asked_for_everywhere_but_at_health():
    token = "correct-horse-battery"  # noqa: S105 -- it opens nothing but this test
    with serving(FakeGateway(ECHO), token=token) as server:
        assert posted(server.http, INFER, BODY, f"Authorization: Bearer {token}")[0] == 200
        assert posted(server.http, INFER, BODY, f"authorization: bearer  {token}")[0] == 200
        for wrong in (
            (),
            ("Authorization: Bearer x",),
            (f"Authorization: Basic {token}",),
            ("Authorization: é",),
        ):
            status, headers, _ = posted(server.http, INFER, BODY, *wrong)
            assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="partita"')
        assert got(server.http, "/metrics")[0] == 401
        assert got(server.http, "/nowhere")[0] == 401
        assert [
            got(server.http, path)[0] for path in ("/healthz", "/v2/health/live", "/v2/health/ready")
        ] == [200] * 3


def test_slow_clients_are_sent_away_and_disturb_nobody():
    with serving(
        FakeGateway(ECHO), connections=ConnectionLimits(head_s=0.3, body_s=0.3, closing_s=0.3)
    ) as server:
        with connected(server.http) as silent, connected(server.http) as head, connected(server.http) as body:
            head.sendall(b"GET /healthz HTTP/1.1\r\nHost")
            body.sendall(
                f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY[:5]
            )
            assert posted(server.http, INFER, BODY)[0] == 200
            for link in (silent, head, body):
                assert split(link.recv(65536))[0] == 408
            assert read_all(silent) == b""
            assert read_all(head) == b""
            assert read_all(body) == b""  # whatever else would come of it is not waited for
        assert posted(server.http, INFER, BODY)[0] == 200


def test_connections_and_heads_are_limited():
    with serving(FakeGateway(ECHO), connections=ConnectionLimits(connections=3, head=4096)) as server:
        status, _, _ = split(asked(server.http, b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 5000))
        assert status == 431
        whole = b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 5000 + b"\r\n\r\n"
        assert split(asked(server.http, whole))[0] == 431
        links = [connected(server.http) for _ in range(3)]
        for link in links:
            link.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert split(link.recv(4096))[0] == 200
        with connected(server.http) as more:
            status, headers, _ = split(read_all(more))
            assert (status, headers["retry-after"]) == (503, "1")
        links.pop().close()
        eventually(lambda: got(server.http, "/healthz")[0] == 200)
        for link in links:
            link.close()


def test_a_client_that_does_not_take_its_answers_is_left():
    gateway = FakeGateway(ECHO)
    wide = Tensor("OUTPUT0", "FP32", (1, 1 << 20), bytes(4 << 20))
    gateway.answer = Answer((wide,))
    with (
        serving(gateway, connections=ConnectionLimits(head_s=0.5, unread_s=0.5)) as server,
        connected(server.http) as link,
    ):
        asking = json.loads(BODY) | {"parameters": {"binary_data_output": True}}
        body = json.dumps(asking).encode()
        link.sendall(
            (f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body) * 5
        )
        end = time.monotonic() + PATIENCE_S
        with pytest.raises(OSError, match=r"Broken pipe|reset"):  # noqa: PT012 -- until it is noticed
            while time.monotonic() < end:
                time.sleep(0.05)
                link.sendall(b"G")
        assert got(server.http, "/healthz")[0] == 200
