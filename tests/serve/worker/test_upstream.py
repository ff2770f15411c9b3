"""Batches forwarded to a server that runs already."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.serve.worker.client import gateway, running, spec_of, until
from tests.serve.worker.oip_server import Server, serving

from partita.errors import InputError
from partita.serve.tensors import Answer, Parameters, Query, Tensor, TensorSpec, pack_texts
from partita.serve.trace_context import TraceContext
from partita.serve.worker.batching import InvalidQueryError, decode_texts
from partita.serve.worker.oip_client import UpstreamError, read_answer, write_query
from partita.serve.worker.spec import UNDECLARED, DeclaredBatch, UpstreamSpec
from partita.serve.worker.upstream import UpstreamBackend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


@pytest.fixture(params=[True, False], ids=["binary", "json"])
def upstream(server: Server, request: pytest.FixtureRequest) -> Iterator[UpstreamBackend]:
    server.binary = request.param
    made = UpstreamBackend(UpstreamSpec(server.url), "plus", 2)
    yield made
    made.close()


def asking(*rows: int, texts: tuple[str, ...] | None = None) -> Query:
    data = bytes(value for row in rows for value in (row, row + 1))
    said = pack_texts(each.encode() for each in (texts or ("grüß",) * len(rows)))
    return Query((Tensor("X", "UINT8", (len(rows), 2), data), Tensor("T", "BYTES", (len(rows), 1), said)))


def values(answer: Answer) -> list[int]:
    assert answer.error is None
    return list(bytes(answer.outputs[0].data))


def test_its_metadata_are_the_upstreams(upstream: UpstreamBackend) -> None:
    assert upstream.inputs == (TensorSpec("X", "UINT8", (-1, 2)), TensorSpec("T", "BYTES", (-1, 1)))
    assert [each.name for each in upstream.outputs] == ["Y", "U"]


def test_queries_are_forwarded_as_one_and_their_answers_split(
    server: Server, upstream: UpstreamBackend
) -> None:
    first, second = upstream.run(0, [asking(1), asking(20, 30, texts=("a", "bc"))])
    assert (values(first), values(second)) == ([2, 3], [21, 22, 31, 32])
    assert decode_texts(second.outputs[1].data) == [b"a", b"bc"]
    assert server.requests == [3]


def test_a_request_brings_the_context_of_its_queries_traces(
    server: Server, upstream: UpstreamBackend
) -> None:
    parents = [f"00-{digit * 32}-{'a' * 16}-01" for digit in "12"]
    contexts = [TraceContext(each, "from=me", "user=7") for each in parents]
    upstream.run(0, [asking(1)._replace(context=contexts[0]), asking(2)._replace(context=contexts[1])])
    upstream.run(0, [asking(*range(100, 200))._replace(context=contexts[1])])  # in two parts
    upstream.run(0, [asking(1)])
    told = [[each.get(name) for name in TraceContext._fields] for each in server.heads]
    assert told == [list(contexts[0]), list(contexts[1]), list(contexts[1]), [None] * 3]
    # A query at fault is answered for itself, in its own trace.
    server.heads.clear()
    upstream.run(0, [asking(1)._replace(context=contexts[0]), asking(13)._replace(context=contexts[1])])
    assert [each["traceparent"] for each in server.heads] == [parents[0], *parents]


@pytest.mark.parametrize(
    ("limit", "declared", "batching", "requests"),
    [
        (64, UNDECLARED, (True, 64), [3]),
        (2, UNDECLARED, (True, 2), [2, 1]),
        (0, UNDECLARED, (False, 0), [1, 2]),
        (None, UNDECLARED, (False, 0), [1, 2]),
        (64, DeclaredBatch(rows=False), (False, 0), [1, 2]),
        (None, DeclaredBatch(rows=True), (True, 0), [3]),
        (0, DeclaredBatch(rows=True, most=9), (True, 9), [3]),
        (2, DeclaredBatch(most=9), (True, 9), [2, 1]),
    ],
)
def test_queries_are_joined_as_the_servers_own_configuration_says_or_the_declaration(
    server: Server,
    limit: int | None,
    declared: DeclaredBatch,
    batching: tuple[bool, int],
    requests: list[int],
) -> None:
    server.limit = limit
    made = UpstreamBackend(UpstreamSpec(server.url), "plus", 1, declared)
    assert (made.batching.rows, made.batching.most) == batching
    first, second = made.run(0, [asking(1), asking(20, 30)])
    assert (values(first), values(second)) == ([2, 3], [21, 22, 31, 32])
    assert server.requests == requests
    made.close()


def test_a_server_that_keeps_sequences_is_asked_one_by_one(server: Server) -> None:
    server.config = {"sequence_batching": {}}
    made = UpstreamBackend(UpstreamSpec(server.url), "plus", 1)
    assert not made.batching.rows
    assert "sequences" in made.batching.why
    made.close()


@pytest.mark.parametrize("status", [400, 409, 413, 422, 451])
def test_what_the_server_blames_on_the_client_is_told_in_its_words(
    server: Server, upstream: UpstreamBackend, status: int
) -> None:
    server.fail_with = status
    (answer,) = upstream.run(0, [asking(1)])
    assert answer.invalid
    assert f"{status}: a bad day" in str(answer.error)


def test_connections_are_kept(server: Server, upstream: UpstreamBackend) -> None:
    before = server.connections
    for _ in range(5):
        upstream.run(0, [asking(1)])
        upstream.run(1, [asking(1)])
    assert server.connections == before + 1  # the second lane's


def test_a_connection_that_the_server_closed_meanwhile_is_opened_again(upstream: UpstreamBackend) -> None:
    upstream.run(0, [asking(1)])
    upstream._clients[0]._connection.sock.shutdown(2)
    assert values(upstream.run(0, [asking(1)])[0]) == [2, 3]


def test_a_query_that_the_server_blames_is_invalid_and_alone(upstream: UpstreamBackend) -> None:
    good, bad, other = upstream.run(0, [asking(1), asking(13), asking(3)])
    assert (values(good), values(other)) == ([2, 3], [4, 5])
    assert bad.invalid
    assert "13 is unlucky" in str(bad.error)


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_a_server_that_fails_is_not_the_querys_fault(
    server: Server, upstream: UpstreamBackend, status: int
) -> None:
    server.fail_with = status
    with pytest.raises(UpstreamError, match=f"{status}: a bad day"):
        upstream.run(0, [asking(1)])
    server.fail_with = 0
    assert values(upstream.run(0, [asking(1)])[0]) == [2, 3]


def test_a_server_that_hangs_up_has_failed(server: Server, upstream: UpstreamBackend) -> None:
    server.hang_up = True
    with pytest.raises((OSError, UpstreamError)):
        upstream.run(0, [asking(1)])


def test_it_waits_until_the_server_has_the_model(server: Server) -> None:
    server.ready_after = 2
    UpstreamBackend(UpstreamSpec(server.url, model="plus"), "ours", 1).close()
    assert server.ready_after < 0


@pytest.mark.parametrize("spec", [{"model": "none"}, {"url": "http://127.0.0.1:1"}])
def test_a_server_that_never_has_it_is_given_up(server: Server, spec: dict[str, str]) -> None:
    with pytest.raises(InputError, match="did not have the model ready"):
        UpstreamBackend(UpstreamSpec(**{"url": server.url, **spec}, load_timeout_s=0.0), "plus", 1)  # type: ignore[arg-type]


def test_a_worker_forwards_and_survives_its_server(tmp_path: Path) -> None:
    with serving() as server:
        spec = spec_of(tmp_path, UpstreamSpec(server.url, "plus"))
        with running(spec), gateway(spec) as one:
            (answer,) = one.ask(asking(4))
            assert values(answer) == [5, 6]
            server.fail_with = 503
            (failed,) = one.ask(asking(4))
            assert failed.error is not None
            assert not failed.invalid
            server.fail_with = 0
            assert values(one.ask(asking(4))[0]) == [5, 6]


STARTED = (sys.executable, "-m", "tests.serve.worker.oip_server", "{port}")


def test_a_server_may_be_started_and_ends_with_its_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    spec = spec_of(tmp_path, UpstreamSpec("http://127.0.0.1:{port}/base", "plus", command=STARTED))
    with running(spec) as process, gateway(spec) as one:
        assert values(one.ask(asking(4))[0]) == [5, 6]
        (server,) = children(process.pid)
        process.kill()
        until(lambda: not Path(f"/proc/{server}").exists() or zombie(server))
    with running(spec.replace(token="a2")) as process:  # noqa: S106 -- no secret
        (server,) = children(process.pid)
        process.terminate()
        assert process.wait(30) == 0
        assert not Path(f"/proc/{server}").exists()


def test_a_worker_ends_when_the_server_that_it_started_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    spec = spec_of(tmp_path, UpstreamSpec("http://127.0.0.1:{port}/base", "plus", command=STARTED))
    with running(spec, stderr=subprocess.DEVNULL) as process:
        (server,) = children(process.pid)
        os.kill(server, signal.SIGKILL)
        assert process.wait(30) == 0
    broken = spec_of(tmp_path, UpstreamSpec("http://127.0.0.1:{port}", "plus", command=("false",)))
    with running(broken, stderr=subprocess.PIPE, text=True) as process:
        assert process.wait(30) in (2, -signal.SIGTERM)


def test_an_idle_server_that_no_longer_answers_is_noticed_and_so_is_its_return(server: Server) -> None:
    made = UpstreamBackend(UpstreamSpec(server.url), "plus", 2, hang_timeout_s=0.4)
    try:
        for mute in (True, False):
            server.mute = mute
            until(lambda: (made.fault is not None) == server.mute)
        server.ready_after = 10**6  # it answers, and says no
        until(lambda: made.fault is not None)
        server.ready_after = 0
        until(lambda: made.fault is None)
        assert values(made.run(0, [asking(1)])[0]) == [2, 3]
    finally:
        made.close()


def test_a_server_that_is_asked_something_is_not_asked_whether_it_lives(server: Server) -> None:
    """It may serve one connection, or one request, at a time."""
    made = UpstreamBackend(UpstreamSpec(server.url), "plus", 2, hang_timeout_s=0.2)
    try:
        with made._health.lanes[1]:
            server.ready_after, asked, fault = 10**6, server.connections, made.fault
            time.sleep(0.5)
            assert (server.ready_after, made.fault) == (10**6, fault)
        until(lambda: made.fault is not None)
        assert server.connections <= asked + 1, "over the first lane's own"
    finally:
        made.close()


def test_a_server_that_accepts_and_never_answers_is_not_waited_for_beyond_the_time_to_load() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(InputError, match="did not have the model ready"):
            UpstreamBackend(UpstreamSpec(url, load_timeout_s=0.2), "plus", 1)
        assert time.monotonic() - began < 10


def test_a_server_of_its_own_that_hangs_is_killed_and_its_worker_ends_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    backend = UpstreamSpec("http://127.0.0.1:{port}/base", "plus", command=STARTED)
    spec = spec_of(tmp_path, backend, hang_timeout_s=1.0)
    with running(spec, stderr=subprocess.PIPE, text=True) as process:
        (server,) = children(process.pid)
        with gateway(spec) as one:
            assert one.beat().header is None
            os.kill(server, signal.SIGSTOP)
            while (beat := one.beat()).header is None:
                pass
            assert "does not say" in beat.header["fault"]
            one.drained()
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert "it is killed" in str(process.stderr.read())


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def zombie(pid: int) -> bool:
    """Whether it is dead and only waits for someone to ask; where there is no init, nobody does."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"outputs": [{"name": "Y", "datatype": "UINT8", "shape": [2], "data": [1]}]}',
        b'{"outputs": [{"name": "Y", "datatype": "UINT8", "shape": [1], "data": [300]}]}',
        b'{"outputs": [{"name": "Y", "datatype": "FP99", "shape": [1], "data": [1]}]}',
        b'{"outputs": [{"name": "Y", "datatype": "UINT8", "shape": ["a"], "data": [1]}]}',
        b'{"outputs": [{"name": "Y", "datatype": "UINT8", "shape": [-1, -1], "data": [1]}]}',
        b'{"outputs": [{"name": "Y", "datatype": "UINT8", "shape": [1.5], "data": [1]}]}',
        b'{"outputs": [{"name": "Y", "datatype": "UINT8", "shape": [true], "data": [1]}]}',
        b'{"outputs": [{"name": "Y", "datatype": "UINT8", "shape": [1], "data": 1}]}',
        b'{"outputs": [{"name": "Y", "datatype": "FP32", "shape": [1], "data": [1e39]}]}',
        b'{"outputs": [{"name": "Y", "datatype": "BOOL", "shape": [1], "data": ["false"]}]}',
        b'{"outputs": [{"name": "Y", "datatype": "BYTES", "shape": [2], "data": ["a"]}]}',
        b'{"outputs": [{"name": "Y", "datatype": "BYTES", "shape": [2], "data": "ab"}]}',
        b'{"outputs": [{"name": "Y", "datatype": "BYTES", "shape": [1], "data": [{"a": 1}]}]}',
        b'{"outputs": [%b, %b]}' % ((b'{"name": "Y", "datatype": "UINT8", "shape": [1], "data": [1]}',) * 2),
    ],
)
def test_answers_that_are_none_are_told(body: bytes) -> None:
    with pytest.raises(UpstreamError, match="cannot be read"):
        read_answer(body, None)


def test_what_json_cannot_carry_is_told() -> None:
    with pytest.raises(InvalidQueryError, match="BF16"):
        write_query(Query((Tensor("X", "BF16", (1,), bytes(2)),)), binary=False)
    with pytest.raises(InvalidQueryError, match="UTF-8"):
        write_query(Query((Tensor("X", "BYTES", (1,), pack_texts([b"\xff"])),)), binary=False)


def test_numbers_that_a_server_hides_behind_null_are_told_and_tokens_read() -> None:
    body = '{"outputs": [{"name": "Y", "datatype": "FP32", "shape": [1, 2], "data": [%s]}]}'
    with pytest.raises(InvalidQueryError, match="output Y: the server writes null"):
        read_answer((body % "1.0, null").encode(), None)
    (tensor,) = read_answer((body % "NaN, -Infinity").encode(), None).outputs
    assert str(struct.unpack("<2f", tensor.data)) == "(nan, -inf)"
    _, sent = write_query(
        Query((Tensor("X", "FP32", (2,), struct.pack("<2f", float("nan"), float("inf"))),)), binary=False
    )
    assert b"[NaN,Infinity]" in sent


@pytest.mark.parametrize("datatype", ["BOOL", "BYTES", "INT64", "FP64"])
def test_null_is_never_an_element(datatype: str) -> None:
    body = {"outputs": [{"name": "Y", "datatype": datatype, "shape": [1], "data": [None]}]}
    with pytest.raises(InvalidQueryError, match="output Y: the server writes null"):
        read_answer(json.dumps(body).encode(), None)


def test_sizes_may_be_texts_and_numbers_stand_among_texts() -> None:
    body = b'{"outputs": [{"name": "Y", "datatype": "BYTES", "shape": ["2", 1.0], "data": [["a"], [3]]}]}'
    (tensor,) = read_answer(body, None).outputs
    assert (tensor.shape, decode_texts(tensor.data)) == ((2, 1), [b"a", b"3"])


@pytest.mark.parametrize("raw", [b"", b"\x01\0\0\0a", b"\x09\0\0\0a", b"\x01\0\0\0a" * 3])
def test_binary_texts_are_as_many_as_their_shape_says(raw: bytes) -> None:
    told = {"name": "Y", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"outputs": [told]}).encode()
    with pytest.raises(UpstreamError, match="output Y"):
        read_answer(head + raw, len(head))


@pytest.mark.parametrize("binary", [True, False])
def test_what_else_is_said_is_handed_on_both_ways(binary: bool) -> None:  # noqa: FBT001 -- by name
    more: Parameters = {"": {"seed": 7}, "X": {"content_type": "np"}}
    query = Query((Tensor("X", "UINT8", (1, 2), b"ab"),), parameters=more)
    header, body = write_query(query, binary=binary)
    document = json.loads(body[:header])
    assert document["parameters"]["seed"] == 7
    assert document["inputs"][0]["parameters"]["content_type"] == "np"
    size = b'"binary_data_size": 2, ' if binary else b""
    head = (
        b'{"parameters": {"took": 3}, "outputs": [{"name": "Y", "datatype": "UINT8", "shape": [2], '
        b'"parameters": {%b"kind": "np"}%b}]}' % (size, b"" if binary else b', "data": [1, 2]')
    )
    answer = read_answer(head + (b"\1\2" if binary else b""), len(head) if binary else None)
    assert answer.parameters == {"": {"took": 3}, "Y": {"kind": "np"}}
    assert bytes(answer.outputs[0].data) == b"\1\2"


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"inputs": None, "outputs": None},
        {"inputs": [{"name": "X", "datatype": "STRING", "shape": [-1]}], "outputs": []},
        {"inputs": [{"name": "X", "datatype": "FP32"}], "outputs": []},
    ],
)
def test_a_server_whose_metadata_say_nothing_of_use_is_asked_unchecked(
    server: Server, told: dict[str, Any]
) -> None:
    """No query could ever be what such metadata say: it would be ready, and refuse them all."""
    server.metadata = told
    made = UpstreamBackend(UpstreamSpec(server.url), "plus", 1)
    assert made.inputs == ()
    assert values(made.run(0, [asking(1)])[0]) == [2, 3]
    made.close()


def test_a_server_without_metadata_of_its_own_is_asked_in_json(server: Server) -> None:
    server.nameless = True
    made = UpstreamBackend(UpstreamSpec(server.url), "plus", 1)
    assert values(made.run(0, [asking(1)])[0]) == [2, 3]
    made.close()


@pytest.mark.parametrize("restarted", [True, False], ids=["restarted", "reloaded"])
def test_a_worker_ends_when_its_server_has_another_kind_of_model(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    restarted: bool,  # noqa: FBT001 -- by name
) -> None:
    """What was a batch may be a list now: joined queries would answer each other."""
    signals: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _, which: signals.append(which))
    made = UpstreamBackend(UpstreamSpec(server.url), "plus", 1)
    now = time.monotonic
    assert values(made.run(0, [asking(1)])[0]) == [2, 3]
    server.limit = 0
    if restarted:
        server.hang_up = True
        with pytest.raises(UpstreamError):
            made.run(0, [asking(1)])
        server.hang_up = False
    else:
        monkeypatch.setattr(time, "monotonic", lambda: now() + 10)
    with pytest.raises(UpstreamError, match="other inputs"):
        made.run(0, [asking(1), asking(2)])
    assert signals == [signal.SIGTERM]
    made.close()


def test_a_server_that_cannot_tell_now_keeps_its_worker(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = UpstreamBackend(UpstreamSpec(server.url), "plus", 1)
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + 10)
    server.limit = None  # its configurations cannot be had
    assert values(made.run(0, [asking(1)])[0]) == [2, 3]
    made.close()
