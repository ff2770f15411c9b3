"""Worker processes, by their sockets."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serve.worker.client import gateway, numbered, running, socket_of, spec_of

from partita.serve.tensors import Query, Tensor, TensorSpec
from partita.serve.worker.connection import Connection
from partita.serve.worker.spec import EmulatedSpec
from partita.serve.worker.wire import HEAD, FrameKind, connected, frame

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from partita.serve.worker.spec import WorkerSpec


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerSpec]:
    """A worker for all tests that leave it as it is."""
    found = spec_of(tmp_path_factory.mktemp("workers"), processes=2, seconds={1: 0.002, 8: 0.004})
    with running(found):
        yield found


def test_it_says_what_it_is(spec: WorkerSpec) -> None:
    with gateway(spec) as one:
        hello = one.hello
    assert (hello.service, hello.model, hello.gpu) == ("bert", "bert-large", "node-0/gpu-0")
    assert (hello.placement, hello.profile, hello.batch, hello.processes) == ("3g.20gb@4", "3g.20gb", 8, 2)
    assert hello.inputs == (TensorSpec("INPUT0", "FP32", (-1, 16)),)
    assert hello.outputs == (TensorSpec("OUTPUT0", "FP32", (-1, 16)),)
    assert hello.seconds == {1: 0.002, 8: 0.004}


def test_every_query_gets_its_own_inputs_back(spec: WorkerSpec) -> None:
    with gateway(spec) as one:
        sent = {}
        for number in range(60):
            queries = [numbered(100 * number + i, rows=1 + i) for i in range(1 + number % 3)]
            sent[one.send(*queries)] = queries
        while sent:
            number, answers, seconds = one.done()
            assert seconds >= 0.002
            for query, answer in zip(sent.pop(number), answers, strict=True):
                (output,) = answer.outputs
                assert (output.name, output.shape) == ("OUTPUT0", query.inputs[0].shape)
                assert bytes(output.data) == query.inputs[0].data


def test_gateways_do_not_hear_each_others_answers(spec: WorkerSpec) -> None:
    with gateway(spec) as one, gateway(spec) as other:
        for number in range(20):
            one.send(numbered(number))
            other.send(numbered(1000 + number))
        for each, first in ((one, 0), (other, 1000)):
            told = sorted(
                (number, bytes(answers[0].outputs[0].data))
                for number, answers, _ in (each.done() for _ in range(20))
            )
            assert [data for _, data in told] == [
                bytes(numbered(first + i).inputs[0].data) for i in range(20)
            ]


def test_a_batch_takes_what_the_table_says_and_as_many_run_at_once_as_there_are_processes(
    tmp_path: Path,
) -> None:
    slow = spec_of(tmp_path, processes=2, seconds={1: 0.6, 5: 1.8})
    with running(slow), gateway(slow) as one:
        began = time.monotonic()
        for rows in (3, 3):
            one.send(numbered(rows, rows))
        times = [one.done()[2] for _ in range(2)]
        took = time.monotonic() - began
    assert all(1.2 <= each < 1.8 for each in times)  # halfway between 0.6 and 1.8
    assert took < sum(times)


def test_outputs_unlike_the_inputs_are_zeros_and_only_those_asked_for_come(tmp_path: Path) -> None:
    backend = EmulatedSpec(
        inputs=(TensorSpec("IMAGE", "UINT8", (-1, 3)), TensorSpec("WORDS", "BYTES", (-1, 1))),
        outputs=(TensorSpec("CLASS", "FP32", (-1, 5)), TensorSpec("TEXT", "BYTES", (-1, -1))),
    )
    spec = spec_of(tmp_path, backend)
    image = Tensor("IMAGE", "UINT8", (2, 3), bytes(range(6)))
    words = Tensor("WORDS", "BYTES", (2, 1), b"\2\0\0\0hi\0\0\0\0")
    with running(spec), gateway(spec) as one:
        all_of_it, some = one.ask(Query((image, words)), Query((image, words), ("TEXT",)))
    assert [(each.name, each.shape, bytes(each.data)) for each in all_of_it.outputs] == [
        ("CLASS", (2, 5), bytes(40)),
        ("TEXT", (2, 1), bytes(words.data)),
    ]
    assert [each.name for each in some.outputs] == ["TEXT"]


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("INPUT0", "FP32", (1, 16), b"short"),
        Tensor("INPUT0", "FP32", (-1, 16), bytes(64)),
        Tensor("INPUT0", "FP99", (1, 16), bytes(64)),
        Tensor("INPUT0", "FP32", (10**15, 16), bytes(64)),
    ],
)
def test_a_query_that_is_not_what_it_says_is_to_blame_alone(spec: WorkerSpec, tensor: Tensor) -> None:
    with gateway(spec) as one:
        good, bad, other = one.ask(numbered(1), Query((tensor,)), numbered(2))
    assert bad.invalid
    assert "INPUT0" in str(bad.error)
    assert [bytes(each.outputs[0].data) for each in (good, other)] == [
        numbered(i).inputs[0].data for i in (1, 2)
    ]


GARBAGE = [
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    HEAD.pack(2**32 - 1, 2**32 - 1, FrameKind.RUN, 1),
    HEAD.pack(0, 2**31, FrameKind.RUN, 1),
    HEAD.pack(4, 0, FrameKind.RUN, 1) + b"[[[[",
    HEAD.pack(4, 0, FrameKind.RUN, 1) + b"\xff\xff\xff\xff",
    HEAD.pack(200_000, 0, FrameKind.RUN, 1) + b"[" * 200_000,
    frame(FrameKind.RUN, 1, {"queries": 1}),
    frame(FrameKind.RUN, 1, [{"inputs": [["INPUT0", "FP32", [1, 16], 64]], "outputs": []}], [bytes(3)]),
    frame(FrameKind.RUN, 1, [{"inputs": [["INPUT0", "FP32", [1, 16], -64]], "outputs": []}], [bytes(3)]),
    frame(FrameKind.RUN, 1, [7]),
    frame(FrameKind.HELLO, 1, {}),
    struct.pack("<IIB3xQ", 0, 0, 99, 1),
]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_who_sends_garbage_is_cut_off_and_nobody_else(spec: WorkerSpec, garbage: bytes) -> None:
    with gateway(spec) as good, gateway(spec) as bad:
        bad.stream.sendall(garbage)
        bad.stream.shutdown(socket.SHUT_WR)
        assert bad.frames.next() is None
        (answer,) = good.ask(numbered(7))
    assert answer.error is None


@given(st.binary(max_size=300))
def test_no_bytes_end_it(spec: WorkerSpec, garbage: bytes) -> None:
    with connected_raw(spec) as stream:
        stream.sendall(garbage)
        stream.shutdown(socket.SHUT_WR)
    with gateway(spec) as good:
        assert good.ask(numbered(7))[0].error is None


def connected_raw(spec: WorkerSpec) -> socket.socket:
    return connected(socket_of(spec).parent, spec.socket_name, 30.0)


def test_a_gateway_that_vanishes_leaves_nothing_behind(tmp_path: Path) -> None:
    slow = spec_of(tmp_path, seconds={1: 0.1})
    with running(slow):
        for _ in range(20):
            with gateway(slow) as gone:
                for number in range(30):
                    gone.send(numbered(number))
        with gateway(slow) as one:
            began = time.monotonic()
            assert one.ask(numbered(1))[0].error is None
        assert time.monotonic() - began < 30.0  # what waited for those that left is not run: a minute's work


def test_draining_finishes_the_old_work_and_takes_no_new_gateway(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, seconds={1: 0.2})
    with running(spec) as process, gateway(spec) as one, gateway(spec) as other:
        numbers = [one.send(numbered(i)) for i in range(3)]
        process.send_signal(signal.SIGTERM)
        assert other.next().kind == FrameKind.DRAINING
        assert not socket_of(spec).exists()
        with pytest.raises(OSError, match="No such file"):
            connected(tmp_path, spec.socket_name)
        kinds: list[int] = []
        while len(kinds) < 3:
            found = one.next()
            if found.kind == FrameKind.DRAINING:
                numbers.append(one.send(numbered(3)))  # sent before the gateway knew
            else:
                kinds.append(found.number)
        one.drained()
        last = one.next()
        assert [*kinds, last.number] == numbers
        assert process.poll() is None  # the other has not said that it will send nothing more
        other.drained()
        assert one.left()
        assert process.wait(30) == 0


def test_a_gateway_that_left_is_not_waited_for(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    with running(spec) as process:
        with gateway(spec) as one:
            one.send(numbered(1))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_its_grace_has_an_end(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, seconds={1: 600.0}, grace_s=0.2)
    with running(spec, stderr=subprocess.PIPE) as process, gateway(spec) as one:
        one.send(numbered(1))
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        told = process.stderr.read()
        assert process.wait(30) == 1
    assert b"work unfinished" in told


def test_a_supervised_worker_ends_with_its_supervisor(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, supervised=True)
    read, write = os.pipe()
    with running(spec, stdin=read) as process:
        os.close(read)
        assert process.poll() is None
        os.close(write)
        assert process.wait(30) == 0
    assert not socket_of(spec).exists()


def test_a_folder_of_any_length_will_do(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30) / ("longer" * 20)
    folder.mkdir(parents=True)
    spec = spec_of(folder)
    with running(spec), gateway(spec) as one:
        assert one.ask(numbered(1))[0].error is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ("{", "ends in the middle"),
        ("{}", "service is missing"),
    ],
)
def test_what_is_wrong_with_its_specification_is_said(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "spec.json"
    path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "partita.serve.worker", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_an_emulated_worker_imports_nothing_heavy() -> None:
    script = "import sys, partita.serve.worker.main, partita.serve.worker.emulated; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"numpy", "asyncio", "http.client", "yaml", "subprocess", "ctypes"} & set(modules)


def test_a_gateway_that_does_not_read_is_given_up() -> None:
    notes: list[str] = []
    ours, theirs = socket.socketpair()
    with theirs:
        one = Connection(ours, lambda *_: None, lambda: None, notes.append, stalled_s=0.05)
        one.start(b"hello")
        while one.open:
            one.send(bytes(100_000))
        one.send(b"nothing more is sent")
        assert theirs.recv(5) == b"hello"
        one.close()
    assert notes == ["a gateway did not read its answers for 0.05 s"]
