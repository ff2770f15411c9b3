"""`partita serve --otlp`: requests have spans in their clients' traces, over both transports, to the last one."""

from __future__ import annotations

import http.server
import json
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.cli.test_serve import TABLE, WORKLOAD, serve, wait_for
from tests.serve.worker.oip_server import serving

from partita.errors import InputError
from partita.serve.gateway.tracing import RequestTracer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BODY = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 16], "data": [0.0] * 16}]}
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """Takes spans as an OpenTelemetry collector does, uncompressed or not."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.names: set[str] = set()

    def take(self, data: bytes) -> None:
        for each in ExportTraceServiceRequest.FromString(data).resource_spans:
            self.names |= {a.value.string_value for a in each.resource.attributes if a.key == "service.name"}
            self.spans += [span for scope in each.scope_spans for span in scope.spans]

    def of(self, trace: str) -> dict[str, Any]:
        """Return the spans of a trace by name."""
        return {each.name: each for each in self.spans if each.trace_id.hex() == trace}


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    found = Collector()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            found.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield found, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


def posted(host: str, body: object, **headers: str) -> int:
    request = urllib.request.Request(
        f"http://{host}/v2/models/search/infer", json.dumps(body).encode(), headers
    )
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_requests_are_spans_of_their_clients_traces(tmp_path: Path) -> None:
    (tmp_path / "perf.csv").write_text(TABLE)
    workload = tmp_path / "workload.yaml"
    workload.write_text(WORKLOAD)
    late, wrong, by_grpc = ("1" * 32, "2" * 32, "3" * 32)
    with collecting() as (collector, url):
        with serve(workload, "--otlp", url) as served:
            served.event("ready")
            assert posted(served.http, BODY, traceparent=f"00-{TRACE}-{PARENT}-01") == 200
            refused = {"traceparent": f"00-{late}-{PARENT}-01", "partita-deadline-ms": "0.001"}
            assert posted(served.http, BODY, **refused) == 503
            assert posted(served.http, {}, traceparent=f"00-{wrong}-{PARENT}-01") == 400
            assert posted(served.http, BODY, traceparent=f"00-{'4' * 32}-{PARENT}-00") == 200  # not sampled
            assert posted(served.http, BODY, traceparent="nonsense") == 200
            given = triton_grpc.InferInput("INPUT0", [1, 16], "FP32")
            given.set_data_from_numpy(np.zeros((1, 16), np.float32))
            with triton_grpc.InferenceServerClient(served.event("listening")["grpc"]) as client:
                client.infer("search", [given], headers={"traceparent": f"00-{by_grpc}-{PARENT}-01"})
            wait_for(lambda: TRACE in {each.trace_id.hex() for each in collector.spans}, served)
            assert posted(served.http, BODY) == 200
            assert served.end() == 0
        found = collector.of(TRACE)
    assert collector.names == {"partita"}
    request, queue, run = (found[name] for name in ("POST /v2/models/{model}/infer", "queue", "run"))
    assert request.parent_span_id.hex() == PARENT
    assert queue.parent_span_id == run.parent_span_id == request.span_id
    assert request.start_time_unix_nano <= request.end_time_unix_nano
    assert queue.start_time_unix_nano <= queue.end_time_unix_nano == run.start_time_unix_nano
    said = attributes(request)
    assert said["http.response.status_code"] == 200
    assert said["partita.service"] == "search"
    assert said["partita.batch"] == 1
    assert said["partita.gpu_instance"].startswith("node-0/gpu-0/1g.10gb@")
    (span,) = (each for name, each in collector.of(late).items() if name.startswith("POST"))
    assert attributes(span)["http.response.status_code"] == 503
    assert attributes(span)["error.type"] == "late"
    assert span.status.code == 2
    (span,) = collector.of(wrong).values()
    assert attributes(span)["http.response.status_code"] == 400
    assert span.status.code == 0  # the client's fault
    assert not collector.of("4" * 32)
    span = collector.of(by_grpc)["inference.GRPCInferenceService/ModelInfer"]
    assert span.parent_span_id.hex() == PARENT
    assert attributes(span)["rpc.grpc.status_code"] == 0
    assert "run" in collector.of(by_grpc)
    # Two came without a valid parent: they begin traces, of which the last was sent when the gateway ended.
    roots = [each for each in collector.spans if each.name.startswith("POST") and not each.parent_span_id]
    assert len(roots) == 2


@pytest.mark.parametrize("traced", [False, True], ids=["handed-on", "with-spans"])
def test_the_server_behind_a_worker_is_in_the_trace_of_the_client(tmp_path: Path, *, traced: bool) -> None:
    (tmp_path / "perf.csv").write_text(TABLE)
    workload, services = tmp_path / "workload.yaml", tmp_path / "services.yaml"
    workload.write_text(WORKLOAD)
    body = {"inputs": [{"name": "X", "datatype": "UINT8", "shape": [1, 2], "data": [1, 2]}]}
    sent = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "theirs=1,yours=2", "baggage": "user=7"}
    given = triton_grpc.InferInput("X", [1, 2], "UINT8")
    given.set_data_from_numpy(np.ones((1, 2), np.uint8))
    with collecting() as (collector, url), serving() as server:
        server.limit = None  # so that no queries are joined
        side = {"datatype": "UINT8", "shape": [-1, 2]}
        server.metadata = {"inputs": [{"name": "X", **side}], "outputs": [{"name": "Y", **side}]}
        # Once: a query whose first worker is slow would go to the other one too, and to the server a second time.
        once = {"worker": {"upstream": {"url": server.url, "model": "plus"}}, "retry": False}
        services.write_text(json.dumps({"services": [{"name": "search", **once}]}))
        words = ("--otlp", url) if traced else ()
        with serve(workload, "--services", str(services), *words) as served:
            served.event("ready")
            for _ in range(2):  # the second time the head is known
                assert posted(served.http, body, **sent) == 200
            assert posted(served.http, body, baggage="user=8") == 200
            for _ in range(2):
                assert posted(served.http, body) == 200
            with triton_grpc.InferenceServerClient(served.event("listening")["grpc"]) as client:
                client.infer("search", [given], headers=sent)
            assert posted(served.http, body, **{**sent, "traceparent": "00-nonsense"}) == 200
            assert served.end() == 0
    told = [tuple(each.get(name) for name in sent) for each in server.heads]
    assert [each[2] for each in told] == ["user=7", "user=7", "user=8", None, None, "user=7", "user=7"]
    if not traced:
        same = (*sent.values(),)
        nothing = (None, None, None)
        assert told == [same, same, (None, None, "user=8"), nothing, nothing, same, (None, None, "user=7")]
        return
    # Each request to the server is a child of the span that the gateway made of that request.
    spans = {each.span_id.hex(): each for each in collector.spans}
    traces = [each["traceparent"].split("-") for each in server.heads]
    parents = [spans[each[2]] for each in traces]
    assert [each[1] for each in traces] == [each.trace_id.hex() for each in parents]
    assert [each.trace_id.hex() == TRACE for each in parents] == [
        True,
        True,
        False,
        False,
        False,
        True,
        False,
    ]
    assert len({each.span_id for each in parents}) == len(told)
    assert {each.name for each in parents} == {
        "POST /v2/models/{model}/infer",
        "inference.GRPCInferenceService/ModelInfer",
    }
    assert [each[1] for each in told] == [sent["tracestate"]] * 2 + [None] * 3 + [sent["tracestate"], None]


def test_a_collector_that_does_not_answer_holds_up_neither_queries_nor_the_end(tmp_path: Path) -> None:
    (tmp_path / "perf.csv").write_text(TABLE)
    workload = tmp_path / "workload.yaml"
    workload.write_text(WORKLOAD)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.set()
            ended.wait()

        def log_message(self, *_: object) -> None:
            pass

    asked, ended = threading.Event(), threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with serve(workload, "--otlp", f"http://127.0.0.1:{server.server_address[1]}") as served:
            served.event("ready")
            assert posted(served.http, BODY) == 200
            assert asked.wait(60.0)  # it has a batch of spans now
            assert posted(served.http, BODY) == 200
            assert served.end() == 0
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
    said = [json.loads(line)["message"] for line in served.lines]
    assert "the collector did not take the last spans within 3 seconds" in said
    assert said[-1] == "ended"


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(InputError, match="'localhost:4318' is no HTTP address"):
        RequestTracer("localhost:4318")
