"""Frames that come back as they were sent, however they are cut on the way."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.documents.text import parse_json
from partita.serve.tensors import Answer, Batching, Query, Tensor, TensorSpec
from partita.serve.worker.spec import EmulatedSpec, OnnxSpec, UpstreamSpec, WorkerSpec
from partita.serve.worker.wire import (
    CHUNK,
    HEAD,
    FrameError,
    FrameKind,
    Frames,
    Hello,
    frame,
    pack_done,
    run_parts,
    unpack_done,
    unpack_run,
)

NAMES = st.text(min_size=1, max_size=8)
SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)
TENSORS = st.builds(Tensor, NAMES, st.sampled_from(["FP32", "BYTES"]), SHAPES, st.binary(max_size=40))
PARAMETERS = st.none() | st.dictionaries(
    st.text(max_size=3),
    st.dictionaries(NAMES, st.integers(-9, 9) | st.booleans() | st.text(max_size=5)),
    max_size=2,
)
QUERIES = st.builds(
    Query, st.lists(TENSORS, max_size=3).map(tuple), st.lists(NAMES, max_size=2).map(tuple), PARAMETERS
)
ANSWERS = st.one_of(
    st.builds(Answer, st.lists(TENSORS, max_size=3).map(tuple), st.none(), st.just(False), PARAMETERS),
    st.builds(Answer, st.just(()), st.text(max_size=9), st.booleans(), st.none()),
)
BIG = Query((Tensor("BIG", "UINT8", (3 * CHUNK,), bytes(range(256)) * (3 * CHUNK // 256)),))


def received(data: bytes, pieces: list[int]) -> Frames:
    """Frames of bytes that are sent in pieces; the stream ends after them."""
    ours, theirs = socket.socketpair()

    def send() -> None:
        with theirs, suppress(BrokenPipeError):  # who has read enough may be gone
            at = 0
            for size in pieces:
                theirs.sendall(data[at : at + size])
                at += size
            theirs.sendall(data[at:])

    threading.Thread(target=send, daemon=True).start()
    return Frames(Owned(ours))


class Owned:
    """A socket that is closed with whoever reads it."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self.recv = stream.recv
        self.recv_into = stream.recv_into

    def __del__(self) -> None:
        self._stream.close()


PIECES = st.lists(st.integers(1, 60), max_size=8)


@given(st.lists(st.lists(QUERIES, max_size=3), max_size=4), PIECES)
def test_batches_come_as_they_were_sent(batches: list[list[Query]], pieces: list[int]) -> None:
    batches.append([BIG])
    sent = b"".join(b"".join(run_parts(number, batch)) for number, batch in enumerate(batches))
    frames = received(sent, pieces)
    for number, batch in enumerate(batches):
        found = frames.next()
        assert found is not None
        assert (found.kind, found.number) == (FrameKind.RUN, number)
        assert unpack_run(found.header, found.data) == tuple(batch)
    assert frames.next() is None


@given(st.lists(ANSWERS, max_size=4), st.floats(0, 9), PIECES)
def test_answers_come_as_they_were_sent(answers: list[Answer], seconds: float, pieces: list[int]) -> None:
    found = received(pack_done(2**64 - 1, answers, seconds), pieces).next()
    assert found is not None
    assert (found.kind, found.number) == (FrameKind.DONE, 2**64 - 1)
    assert unpack_done(found.header, found.data) == (tuple(answers), seconds, 0.0)


@given(st.lists(QUERIES, min_size=1, max_size=3), st.integers(1, 50))
def test_a_frame_cut_short_is_told(queries: list[Query], cut: int) -> None:
    sent = b"".join(run_parts(1, queries))
    with pytest.raises(FrameError, match="ended within a frame"):
        received(sent[:-cut] if cut < len(sent) - 1 else sent[:1], []).next()


def test_a_head_that_promises_too_much_is_refused() -> None:
    with pytest.raises(FrameError, match="4294967295"):
        received(HEAD.pack(2**32 - 1, 0, 2, 1), []).next()


def test_a_hello_comes_back_and_others_do_not() -> None:
    spec = TensorSpec("A", "FP32", (-1, 3), ("batch", ""), optional=True)
    batching = Batching(rows=True, most=64, why="it says so")
    hello = Hello(
        "s", "m", "g", "1g.5gb@0", "1g.5gb", 8, 2, 77, (spec,), (spec, spec), {1: 0.5, 8: 1.5}, batching
    )
    found = received(hello.packed(), []).next()
    assert found is not None
    assert Hello.unpacked(found.header) == hello
    for header in ({}, {"protocol": 2}, {"protocol": 1, "inputs": []}):
        told = received(frame(FrameKind.HELLO, 0, header), []).next()
        assert told is not None
        with pytest.raises(ValueError, match="worker"):
            Hello.unpacked(told.header)


BACKENDS = st.sampled_from(
    [
        EmulatedSpec(jitter=0.5, slow_down=3.0),
        EmulatedSpec((TensorSpec("X", "BYTES", (-1,)),), (TensorSpec("Y", "INT8", (-1, 2, 3)),)),
        OnnxSpec("/models/m.onnx", 3),
        UpstreamSpec("https://h:1/x", "name", 2.0, 3.0),
    ]
)


@given(
    BACKENDS,
    st.dictionaries(st.integers(1, 128), st.floats(0, 9), max_size=4),
    st.integers(1, 9),
    st.booleans(),
)
def test_a_specification_comes_back(backend, seconds, processes, supervised) -> None:
    spec = WorkerSpec(
        "s", "m", "node-0/gpu-0", "1g.5gb@6", 8, backend, "/f", "t0", processes, seconds, 2.5, supervised
    )
    assert parse_json(spec.text(), WorkerSpec, "spec") == spec
    assert spec.socket_name == "node-0_gpu-0@6-t0.sock"
