"""`partita picker` as a user starts it: over TLS, with Envoy's published messages, until it is told to end."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.cli.commands import Commands
from tests.kubernetes_units.envoy import PATIENCE_S, Published
from tests.serve.gateway.certificates import make_certificates

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INFER = {":path": "/v2/models/search/infer", ":method": "POST", "content-type": "application/json"}
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
WORKLOAD = """
apiVersion: partita/v1
kind: Workload
gpus: [{model: a100-40gb, count: 1}]
performance: [perf.csv]
services: [{name: search, model: m, rate: 10, slo: {latency_ms: 20000}}]
"""
TABLE = """model,gpu,profile,batch,processes,throughput,latency_ms,quantile
m,a100-40gb,1g.5gb,4,1,200,20,p99
"""
SMALL = '{server: "10.0.0.1:8000", placement: 1g.5gb@0, batch: 4, latency_ms: 4000}'
LARGE = '{server: "10.0.0.2:8000", placement: 3g.20gb@4, batch: 16, latency_ms: 4000}'


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    monkeypatch.setenv("NO_COLOR", "1")
    return Commands(tmp_path, monkeypatch, capsys)


def write(folder: Path, *servers: str) -> tuple[str, ...]:
    """Write a workload and where its servers are; return the options that name both."""
    (folder / "workload.yaml").write_text(WORKLOAD)
    (folder / "perf.csv").write_text(TABLE)
    text = f"services: [{{name: search, workers: [{', '.join(servers)}]}}]"
    (folder / "new.yaml").write_text(text)
    (folder / "new.yaml").replace(folder / "services.yaml")
    return "-f", str(folder / "workload.yaml"), "--services", str(folder / "services.yaml")


class Picker:
    """A picker that runs: its process, and where it answers."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, pages: str, log: Path) -> None:
        self.process, self.port, self.pages, self.log = process, port, pages, log

    def page(self, path: str) -> tuple[int, str]:
        try:
            with urlopen(f"http://{self.pages}{path}", timeout=PATIENCE_S) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, line: str) -> float:
        """Return a metric's value, 0 if it is not there."""
        found = re.search(rf"^{re.escape(line)} (\S+)$", self.page("/metrics")[1], re.MULTILINE)
        return float(found[1]) if found else 0.0

    def channel(self, ca: Path) -> aio.Channel:
        return aio.secure_channel(f"localhost:{self.port}", grpc.ssl_channel_credentials(ca.read_bytes()))

    async def wait_for_endpoints(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            name = 'partita_endpoints{service="search"}'
            while await asyncio.to_thread(self.metric, name) != count:  # noqa: ASYNC110 -- a test
                await asyncio.sleep(0.05)


@contextmanager
def picker(folder: Path, *words: str) -> Iterator[Picker]:
    """`partita picker` at free ports, with `server.pem` of the folder."""
    command = [
        sys.executable, "-m", "partita", "picker", *words, "--port", "0", "--metrics-port", "0",
        "--tls-cert", str(folder / "server.pem"), "--tls-key", str(folder / "server.key"),
    ]  # fmt: skip
    log = folder / "picker.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stderr=file, env={**os.environ, "NO_COLOR": "1"})
    pattern = r"picking endpoints at 127\.0\.0\.1:(\d+), metrics at http://(127\.0\.0\.1:\d+)/metrics"
    try:
        end = time.monotonic() + PATIENCE_S
        while not (found := re.search(pattern, log.read_text())):
            assert time.monotonic() < end
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        yield Picker(process, int(found[1]), found[2], log)
    finally:
        process.kill()
        process.wait()


def body(items: int) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [items, 2], "data": [1.0, 2.0] * items}
    return json.dumps({"inputs": [tensor]}).encode()


async def health(channel: aio.Channel, service: str = "readiness") -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return int((await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_S)).status)


async def until_health(channel: aio.Channel, status: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await health(channel) != status:  # noqa: ASYNC110 -- a test
            await asyncio.sleep(0.02)


def test_it_picks_follows_its_files_and_drains(tmp_path: Path) -> None:
    make_certificates(tmp_path)

    async def test(made: Picker) -> None:
        async with made.channel(tmp_path / "ca.pem") as channel:
            await until_health(channel, SERVING)
            assert await health(channel, "liveness") == SERVING
            assert made.page("/readyz") == (200, "ok")
            for items, first in ((1, "10.0.0.1:8000"), (16, "10.0.0.2:8000")):
                stream = Published(channel)
                picked = await stream.ask(INFER, body(items))
                assert (picked.endpoints[0], picked.sent) == (first, body(items))
                await stream.answer()
            assert made.metric('partita_picks_total{outcome="picked",service="search"}') == 2
            assert made.metric('partita_offered_items_total{service="search"}') == 17
            write(tmp_path)
            await made.wait_for_endpoints(0)
            assert made.page("/readyz") == (503, "no endpoint of search is ready")
            assert (await Published(channel).ask(INFER, body(1))).status == 503
            await until_health(channel, NOT_SERVING)
            write(tmp_path, SMALL)
            await until_health(channel, SERVING)
            under_way = Published(channel)
            assert (await under_way.ask(INFER, body(1))).endpoints == ["10.0.0.1:8000"]
            watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watching.read()).status == SERVING
            made.process.send_signal(signal.SIGTERM)
            # Whoever watches hears that it leaves while it still picks; what is under way passes.
            assert (await asyncio.wait_for(watching.read(), PATIENCE_S)).status == NOT_SERVING
            watching.cancel()
            await under_way.answer()
        assert await asyncio.to_thread(made.process.wait, PATIENCE_S) == 0

    with picker(tmp_path, *write(tmp_path, SMALL, LARGE), "--grace", "20") as made:
        asyncio.run(test(made))
        assert made.log.read_text().splitlines()[-1].endswith("ended")


def test_whoever_does_not_trust_it_or_speaks_no_tls_gets_no_answer(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    (tmp_path / "others").mkdir()
    stranger = make_certificates(tmp_path / "others") / "ca.pem"

    async def test(made: Picker) -> None:
        for channel in (made.channel(stranger), aio.insecure_channel(f"127.0.0.1:{made.port}")):
            async with channel:
                with pytest.raises(aio.AioRpcError) as found:
                    await health(channel)
                assert found.value.code() == grpc.StatusCode.UNAVAILABLE

    with picker(tmp_path, *write(tmp_path, SMALL)) as made:
        asyncio.run(test(made))


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    make_certificates(tmp_path)

    async def test(made: Picker) -> None:
        async with made.channel(tmp_path / "ca.pem") as channel:
            await until_health(channel, SERVING)
            stream = Published(channel)
            await stream.ask(INFER, body(1))
            made.process.send_signal(signal.SIGTERM)
            await until_health(channel, NOT_SERVING)
            made.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(made.process.wait, PATIENCE_S) == 130
            stream.call.cancel()

    with picker(tmp_path, *write(tmp_path, SMALL), "--grace", "3600") as made:
        asyncio.run(test(made))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-f", "workload.yaml"), "what to serve is unclear"),
        (("-f", "workload.yaml", "--kubernetes", "shop"), "what to serve is unclear"),
        (("--router", "best"), "best"),
        (("--tls-cert", "server.pem"), "TLS needs a certificate and its key"),
        (("--tls-cert", "workload.yaml", "--tls-key", "workload.yaml"), "certificate"),
        (("--metrics-port", "taken"), "127.0.0.1:taken: Address already in use"),
        (("--port", "taken"), "taken"),
        (("--kubernetes", "shop", "--kubeconfig", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_picked(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    files = write(tmp_path, SMALL)
    (tmp_path / "server.pem").write_text("no certificate")
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = tuple(port if each == "taken" else each for each in words)
        rest = () if {"-f", "--kubernetes"} & set(words) else files
        free = [each for name in ("--port", "--metrics-port") if name not in words for each in (name, "0")]
        done = commands("picker", *words, *rest, *free)
    assert done.code == 2, done.err
    assert said.replace("taken", port) in done.err
    assert "Traceback" not in done.err


def test_a_server_without_a_slice_is_refused(commands: Commands, tmp_path: Path) -> None:
    done = commands("picker", *write(tmp_path, '"10.0.0.1:8000"'))
    assert done.code == 2
    assert "nothing says which slice 10.0.0.1:8000 has" in done.err
