"""A gateway over four hosts, one of which is cut off without a word, counted by a client outside."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from urllib.request import urlopen

from tests.kubernetes.control_plane.hosts import Host, Network

from partita.serve.worker.spec import EmulatedSpec, ListenSpec, WorkerSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE_S = 60.0
TOKEN = "correct-horse-battery-staple"  # noqa: S105 -- it opens nothing else
SLO_S = 5.0
WORKLOAD = f"""
apiVersion: partita/v1
kind: Workload
gpus: [{{model: a100-40gb, count: 4}}]
performance: [perf.csv]
services: [{{name: search, model: m, rate: 10, slo: {{latency_ms: {SLO_S * 1000:g}}}}}]
"""
TABLE = """model,gpu,profile,batch,processes,throughput,latency_ms,quantile
m,a100-40gb,1g.5gb,1,1,100,10,p99
m,a100-40gb,1g.5gb,4,1,200,20,p99
"""


@contextmanager
def worker(folder: Path, host: Host) -> Iterator[str]:
    """A worker on a host; yields its address."""
    space, address = host.space()
    made = WorkerSpec(
        service="search",
        model="m",
        gpu=f"host-{host.index}/gpu-0",
        placement="1g.5gb@0",
        batch=4,
        backend=EmulatedSpec(),
        seconds={1: 0.01, 4: 0.02},
        hang_timeout_s=4.0,  # well after it is suspected, which is told apart
        listen=ListenSpec(address, 9000, token_file=str(folder / "token")),
    )
    path = folder / f"worker-{host.index}.json"
    path.write_text(made.text())
    command = ["ip", "netns", "exec", space, sys.executable, "-m", "partita.serve.worker", str(path)]
    with (folder / f"worker-{host.index}.log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        yield f"{address}:9000"
    finally:
        process.kill()
        process.wait()


@contextmanager
def gateway(folder: Path, addresses: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`partita gateway` in front of them; yields its process and its port."""
    (folder / "workload.yaml").write_text(WORKLOAD)
    (folder / "perf.csv").write_text(TABLE)
    (folder / "services.yaml").write_text(
        json.dumps({"services": [{"name": "search", "workers": addresses}]})
    )
    command = [
        sys.executable, "-m", "partita", "gateway", "-f", "workload.yaml", "--services", "services.yaml",
        "--worker-token-file", "token", "--port", "0", "--grpc-port", "0", "--grace", "5",
    ]  # fmt: skip
    log = folder / "gateway.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=folder, stderr=file, env={**os.environ, "NO_COLOR": "1"})
    try:
        end = time.monotonic() + PATIENCE_S
        while not (found := re.search(r"HTTP at http://127\.0\.0\.1:(\d+)", log.read_text())):
            assert time.monotonic() < end
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        yield process, int(found[1])
    finally:
        process.kill()
        process.wait()


def wait_for_workers(port: int, count: int) -> None:
    end = time.monotonic() + PATIENCE_S
    while True:
        with urlopen(f"http://127.0.0.1:{port}/metrics") as page:
            if page.read().count(b"\npartita_instance_answered_total{") == count:
                return
        assert time.monotonic() < end
        time.sleep(0.05)


class Client:
    """Asks at a steady rate over connections of its own, and counts what became of each query, by its number."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.outcomes: dict[int, str] = {}
        self.seconds: dict[int, float] = {}
        self.stopped = False
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, number: int) -> None:
        data = [float(number % 1000 + at) for at in range(16)]
        tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 16], "data": data}
        body = json.dumps({"id": str(number), "inputs": [tensor]}).encode()
        connection = self._free.pop() if self._free else await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = connection
        began = time.monotonic()
        writer.write(
            b"POST /v2/models/search/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        try:
            async with asyncio.timeout(PATIENCE_S):
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(re.findall(rb"content-length: (\d+)", head)[0])
                answer = json.loads(await reader.readexactly(length))
        except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            self._count(number, f"lost: {error!r}")
            return
        status = int(head.split()[1])
        if status == 200:
            right = answer["id"] == str(number) and answer["outputs"][0]["data"] == data
            self._count(number, "answered" if right else "wrong")
        else:
            self._count(number, f"{status} {answer['error']}")
        self.seconds[number] = time.monotonic() - began
        self._free.append(connection)

    def _count(self, number: int, outcome: str) -> None:
        assert number not in self.outcomes, "answered twice"
        self.outcomes[number] = outcome

    async def steadily(self, rate: float, numbers: range) -> None:
        """Ask, whatever became of those before, until it is stopped."""
        began, asked = time.monotonic(), []
        for at, number in enumerate(numbers):
            if self.stopped:
                break
            await asyncio.sleep(max(0.0, began + at / rate - time.monotonic()))
            asked.append(asyncio.create_task(self.ask(number)))
        await asyncio.gather(*asked)

    async def close(self) -> None:
        for _, writer in self._free:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in self._free))


def test_a_host_that_is_cut_off_loses_no_query(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)

    async def body(network: Network, port: int, said: Callable[[], str]) -> None:
        client = Client(port)
        await asyncio.to_thread(wait_for_workers, port, 4)
        await client.steadily(50.0, range(50))
        assert Counter(client.outcomes.values()) == {"answered": 50}
        asking = asyncio.create_task(client.steadily(60.0, range(1000, 1600)))
        while len(client.outcomes) < 200:  # noqa: ASYNC110 -- a test
            await asyncio.sleep(0.01)
        network.hosts[0].cut()
        network.hosts[1].cut()
        await asking
        told = Counter(client.outcomes.values())
        assert sum(told.values()) == 650
        assert {each for each in told if each != "answered"} <= {
            "503 the query's worker is gone or does not answer",
            "503 the deadline cannot be met",
        }, told
        assert told["answered"] > 600
        # Whoever was refused heard of it when its time was over, not when a connection was given up.
        assert max(client.seconds.values()) < SLO_S + 5.0
        assert "fails or does not answer" in said()
        network.hosts[0].join()
        network.hosts[1].join()
        end = time.monotonic() + PATIENCE_S
        while said().count("gave no sign of life") < 2:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)
        await client.steadily(60.0, range(2000, 2120))
        assert Counter(client.outcomes.values())["answered"] == told["answered"] + 120
        await client.close()

    with Network(4) as network, ExitStack() as stack:
        addresses = [stack.enter_context(worker(tmp_path, host)) for host in network.hosts]
        process, port = stack.enter_context(gateway(tmp_path, addresses))
        asyncio.run(body(network, port, (tmp_path / "gateway.log").read_text))
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
