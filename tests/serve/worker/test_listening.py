"""A worker at an address: who is turned away, and what probes are told."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from tests.process.ports import free_ports
from tests.serve.gateway.remote import (
    PATIENCE_S,
    TOKEN,
    RemoteWorker,
    RemoteWorkers,
    remote_workers,
)

from partita.serve.worker.listening import nonce, proof
from partita.serve.worker.wire import HEAD, FrameKind, Frames, Hello, frame

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteWorkers]:
    with remote_workers(tmp_path_factory.mktemp("listening")) as found:
        yield found


@pytest.fixture(scope="module")
def worker(workers: RemoteWorkers) -> RemoteWorker:
    found = workers.start({1: 0.001}, {"health_port": free_ports(1)[0]}, token=True)
    found.wait_listening()
    return found


def connected(worker: RemoteWorker) -> socket.socket:
    return socket.create_connection(("127.0.0.1", worker.listen.port), PATIENCE_S)


def challenged(stream: socket.socket, ours: str) -> dict[str, str]:
    stream.sendall(frame(FrameKind.GREET, 0, {"nonce": ours}))
    found = Frames(stream).next()
    assert found is not None
    assert found.kind == FrameKind.CHALLENGE
    header: dict[str, str] = found.header
    return header


def test_both_sides_prove_that_they_know_the_token(worker: RemoteWorker) -> None:
    ours = nonce()
    with connected(worker) as stream:
        theirs = challenged(stream, ours)
        nonces = ours, theirs["nonce"]
        assert theirs["proof"] == proof(TOKEN, "worker", nonces)
        stream.sendall(frame(FrameKind.PROOF, 0, {"proof": proof(TOKEN, "gateway", nonces)}))
        found = Frames(stream).next()
        assert found is not None
        assert Hello.unpacked(found.header).service == "one"


@pytest.mark.parametrize("how", ["nothing", "wrong", "its own", "of another connection", "a batch"])
def test_who_proves_nothing_hears_nothing_of_the_model(worker: RemoteWorker, how: str) -> None:
    ours = nonce()
    with connected(worker) as stream:
        theirs = challenged(stream, ours)
        nonces = ours, theirs["nonce"]
        told = {
            "nothing": frame(FrameKind.PROOF, 0, {}),
            "wrong": frame(
                FrameKind.PROOF, 0, {"proof": proof("another-token-of-some-length", "gateway", nonces)}
            ),
            "its own": frame(FrameKind.PROOF, 0, {"proof": theirs["proof"]}),
            "of another connection": frame(
                FrameKind.PROOF, 0, {"proof": proof(TOKEN, "gateway", (ours, nonce()))}
            ),
            "a batch": frame(FrameKind.RUN, 1, []),
        }[how]
        stream.sendall(told)
        assert stream.recv(1) == b""
    assert worker.process.poll() is None


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        HEAD.pack(1 << 20, 0, FrameKind.GREET, 0),
        HEAD.pack(2, 1 << 20, FrameKind.GREET, 0) + b"{}",
        HEAD.pack(3, 0, FrameKind.GREET, 0) + b"{{{",
        frame(FrameKind.GREET, 0, {"nonce": 7}),
        frame(FrameKind.GREET, 0, []),
    ],
)
def test_noise_is_turned_away_before_anything_is_held_for_it(worker: RemoteWorker, noise: bytes) -> None:
    with connected(worker) as stream:
        stream.sendall(noise)
        assert stream.recv(1) == b""


def test_those_who_say_nothing_hold_up_nobody(worker: RemoteWorker) -> None:
    silent = [connected(worker) for _ in range(40)]
    try:
        with connected(worker) as stream:
            assert challenged(stream, nonce())["proof"]
        for each in silent:  # they are given up
            assert each.recv(1) == b""
    finally:
        for each in silent:
            each.close()


def asked(port: int, path: str) -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)) as link:
        link.request("GET", path)
        return link.getresponse().status


def test_probes_hear_whether_it_lives_and_can_answer(worker: RemoteWorker) -> None:
    port = worker.listen.health_port
    assert port is not None
    assert [asked(port, path) for path in ("/healthz", "/readyz", "/")] == [200, 200, 404]
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as stream:
        stream.sendall(b"\x00\xff" * 10)
        stream.shutdown(socket.SHUT_WR)
        assert b"404" in stream.recv(100)
    assert asked(port, "/readyz") == 200


def test_it_is_not_ready_while_it_loads_nor_when_told_to_end(workers: RemoteWorkers, tmp_path: Path) -> None:
    port, upstream, listen = free_ports(3)
    command = [
        sys.executable, "-m", "partita", "worker", "--service", "one", "--placement", "1g.5gb@0",
        "--upstream", f"http://127.0.0.1:{upstream}", "--listen", f"127.0.0.1:{listen}",
        "--health-port", str(port), "--load-timeout", "600",
    ]  # fmt: skip
    with subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PARTITA_MODEL": "m"}) as loading:
        try:
            end = time.monotonic() + PATIENCE_S
            while True:
                try:
                    assert (asked(port, "/readyz"), asked(port, "/healthz")) == (503, 200)
                    break
                except OSError:
                    assert time.monotonic() < end
                    time.sleep(0.05)
        finally:
            loading.kill()
    slow = workers.start({1: 0.5}, {"health_port": free_ports(1)[0]})
    slow.wait_listening()
    with connected(slow) as stream:
        stream.sendall(frame(FrameKind.GREET, 0, {"nonce": nonce()}))
        frames = Frames(stream)
        assert (found := frames.next()) is not None
        assert found.kind == FrameKind.HELLO
        slow.process.send_signal(signal.SIGTERM)
        while (found := frames.next()) is not None and found.kind == FrameKind.BEAT:
            pass
        assert found is not None
        assert found.kind == FrameKind.DRAINING
        assert slow.listen.health_port is not None
        assert asked(slow.listen.health_port, "/readyz") == 503
        with pytest.raises(ConnectionRefusedError):
            connected(slow)
        stream.sendall(frame(FrameKind.DRAINED, 0))
        assert slow.process.wait(PATIENCE_S) == 0


def test_a_worker_by_itself_says_which_instance_it_has(tmp_path: Path) -> None:
    gpu, (port,) = "GPU-41255406-c9af-f94b-4ebf-9d57ad1853da", free_ports(1)
    command = [
        sys.executable, "-m", "partita", "worker", "--service", "one", "--placement", "1g.5gb@0",
        "--emulated", "--latency-ms", "1", "--listen", f"127.0.0.1:{port}",
    ]  # fmt: skip
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": f"MIG-{gpu}/7/0"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment) as process:
        try:
            end = time.monotonic() + PATIENCE_S
            while True:
                try:
                    stream = socket.create_connection(("127.0.0.1", port))
                    break
                except OSError:
                    assert time.monotonic() < end
                    time.sleep(0.05)
            with stream:
                stream.sendall(frame(FrameKind.GREET, 0, {"nonce": nonce()}))
                found = Frames(stream).next()
            assert found is not None
            hello = Hello.unpacked(found.header)
            assert (hello.gpu_uuid, hello.gpu_instance_id) == (gpu, 7)
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--emulated", "--latency-ms", "1", "--listen", "0.0.0.0:1"], "can be reached by others"),
        (["--emulated"], "give --latency-ms"),
        ([], "give one of --onnx FILE, --upstream URL and --emulated"),
        (["--emulated", "--onnx", "x"], "--onnx and --emulated are too many"),
        (["--emulated", "--latency-ms", "1", "--listen", "here"], "'here' is no address of a worker"),
        (["--emulated", "--latency-ms", "1", "--tls-cert", "x"], "TLS needs a certificate and its key"),
        (["--emulated", "--latency-ms", "1", "--token-file", "absent"], "absent"),
        (["--upstream", "ftp://x"], "is no HTTP address"),
    ],
)
def test_what_is_wrong_is_said_before_anything_listens(words: list[str], said: str) -> None:
    command = [sys.executable, "-m", "partita", "worker", "--service", "s", "--placement", "1g.5gb@0", *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert ended.returncode == 2
    assert said in ended.stderr
