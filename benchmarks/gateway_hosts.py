"""The gateway over four hosts compared with one: latency of the network, two gateways, a host cut off."""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tests.kubernetes.control_plane.hosts import Network, why_no_hosts

from benchmarks.gateway_processes import come_first, may_come_first
from partita.serve.worker.spec import EmulatedSpec, ListenSpec, WorkerSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_HOSTS = 4
_SECONDS = {1: 0.005, 8: 0.012}
_SLO_S = 0.2
_RATE = 200.0
_BUSY_RATE = 500.0
"""Queries a second of which some have to wait: four slices run 800 single ones."""
_CUT_RATE = 100.0
_WORKLOAD = f"""
apiVersion: partita/v1
kind: Workload
gpus: [{{model: a100-40gb, count: 4}}]
performance: [perf.csv]
services: [{{name: search, model: m, rate: 10, slo: {{latency_ms: {1000 * _SLO_S:g}}}}}]
"""
_TABLE = """model,gpu,profile,batch,processes,throughput,latency_ms,quantile
m,a100-40gb,1g.5gb,1,1,200,5,p99
m,a100-40gb,1g.5gb,8,1,660,12,p99
"""


def run(*, quick: bool) -> str:
    why = why_no_hosts()
    if why is not None:
        return f"## The gateway over four hosts\n\nSkipped: {why}.\n"
    with tempfile.TemporaryDirectory() as scratch:
        return _Bench(Path(scratch), 1.0 if quick else 3.0, 2 if quick else 5).everything()


@dataclass(slots=True)
class _Bench:
    """Settings of the measurement.

    Attributes:
        scratch: a folder.
        seconds: of each block.
        blocks: of each arrangement, turn by turn; medians count.
    """

    scratch: Path
    seconds: float
    blocks: int
    asked: int = field(default=0)

    def everything(self) -> str:
        (self.scratch / "workload.yaml").write_text(_WORKLOAD)
        (self.scratch / "perf.csv").write_text(_TABLE)
        (self.scratch / "token").write_text("correct-horse-battery-staple")
        (self.scratch / "state" / "workers").mkdir(parents=True)
        with ExitStack() as stack:
            network = stack.enter_context(Network(_HOSTS))
            addresses = []
            for index, host in enumerate(network.hosts):
                space, address = host.space()
                addresses.append(f"{address}:9000")
                listen = ListenSpec(address, 9000, token_file=str(self.scratch / "token"))
                before = ["ip", "netns", "exec", space]
                stack.enter_context(self._worker(f"far-{index}", before, listen=listen))
                folder = str(self.scratch / "state" / "workers")
                stack.enter_context(self._worker(f"near-{index}", [], folder=folder, token=f"t{index}"))
            services = {"services": [{"name": "search", "workers": addresses}]}
            (self.scratch / "services.yaml").write_text(json.dumps(services))
            near = stack.enter_context(self._gateway("serve", "--attach"))
            over = ("--services", "services.yaml", "--worker-token-file", "token")
            far = [stack.enter_context(self._gateway("gateway", *over)) for _ in range(2)]
            come_first(os.getpid())
            return asyncio.run(self._measure(network, near, far))

    async def _measure(self, network: Network, near: int, far: Sequence[int]) -> str:
        arrangements = {
            "one host": ([near], _RATE),
            "four hosts": ([far[0]], _RATE),
            "four hosts, two gateways": (list(far), _RATE),
            "one host, busy": ([near], _BUSY_RATE),
            "four hosts, busy": ([far[0]], _BUSY_RATE),
            "four hosts, two gateways, busy": (list(far), _BUSY_RATE),
        }
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in arrangements}
        for _ in range(self.blocks + 1):  # the first one warms up
            for name, (ports, rate) in arrangements.items():
                tally = await self._block(ports, rate)
                seconds = [each for _, each in tally]
                good = sum(outcome == "answered" and each <= _SLO_S for outcome, each in tally)
                found[name].append(
                    (float(np.median(seconds)), float(np.quantile(seconds, 0.99)), good / len(tally))
                )
        cut = asyncio.create_task(self._block([far[0]], _CUT_RATE, 10.0))
        await asyncio.sleep(3.0)
        network.hosts[0].cut()
        outcomes = Counter(outcome for outcome, _ in await cut)
        network.hosts[0].join()
        return _text({name: each[1:] for name, each in found.items()}, outcomes, self)

    async def _block(
        self, ports: Sequence[int], rate: float, seconds: float = 0.0
    ) -> list[tuple[str, float]]:
        """Send queries at a steady rate to the gateways in turn; return the outcome and seconds of each query."""
        client, tasks = _Client(), []
        began = time.monotonic()
        for at in range(round(rate * (seconds or self.seconds))):
            due = began + at / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self.asked += 1
            tasks.append(asyncio.create_task(client.ask(ports[at % len(ports)], self.asked, due)))
        found = await asyncio.gather(*tasks)
        client.close()
        return list(found)

    @contextmanager
    def _worker(self, name: str, before: list[str], **more: object) -> Iterator[None]:
        fields: dict[str, object] = {"processes": 1, "seconds": _SECONDS, "hang_timeout_s": 2.0, **more}
        made = WorkerSpec(
            service="search",
            model="m",
            gpu=f"{name}/gpu-0",
            placement="1g.5gb@0",
            batch=8,
            backend=EmulatedSpec(),
            **fields,  # type: ignore[arg-type]
        )
        path = self.scratch / f"{name}.json"
        path.write_text(made.text())
        with _process([*before, sys.executable, "-m", "partita.serve.worker", str(path)], self.scratch, name):
            yield

    @contextmanager
    def _gateway(self, *words: str) -> Iterator[int]:
        """A gateway; yields its port once all workers are there."""
        name = f"gateway-{len(list(self.scratch.glob('gateway-*.log')))}"
        command = [
            sys.executable, "-m", "partita", *words, "-f", "workload.yaml", "--port", "0", "--grpc-port", "0",
        ]  # fmt: skip
        with _process(command, self.scratch, name) as process:
            end, log = time.monotonic() + 60, self.scratch / f"{name}.log"
            while not (found := re.search(r"HTTP at http://127\.0\.0\.1:(\d+)", log.read_text())):
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.05)
            time.sleep(2.0)  # until all workers are known
            come_first(process.pid)
            yield int(found[1])


@contextmanager
def _process(command: list[str], folder: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "PARTITA_STATE": str(folder / "state")}
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stderr=log, env=environment)
    try:
        time.sleep(0.2)
        come_first(process.pid)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _Client:
    """Connections to gateways, by their ports."""

    def __init__(self) -> None:
        self._free: dict[int, list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = {}

    async def ask(self, port: int, number: int, due: float) -> tuple[str, float]:
        """Return the outcome of a query, and the seconds since it was due."""
        data = [float(number % 1000 + at) for at in range(16)]
        tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 16], "data": data}
        body = json.dumps({"id": str(number), "inputs": [tensor]}).encode()
        free = self._free.setdefault(port, [])
        reader, writer = free.pop() if free else await asyncio.open_connection("127.0.0.1", port)
        head = b"POST /v2/models/search/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
        writer.write(head + body)
        try:
            async with asyncio.timeout(30):
                told = await reader.readuntil(b"\r\n\r\n")
                length = int(re.findall(rb"content-length: (\d+)", told.lower())[0])
                answer = json.loads(await reader.readexactly(length))
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            return "lost", time.monotonic() - due
        free.append((reader, writer))
        status = int(told.split()[1])
        if status != 200:
            return f"refused: {answer['error']}", time.monotonic() - due
        right = answer["id"] == str(number) and answer["outputs"][0]["data"] == data
        return "answered" if right else "wrong", time.monotonic() - due

    def close(self) -> None:
        """Close the connections."""
        for each in self._free.values():
            for _, writer in each:
                writer.close()


def _text(found: dict[str, list[tuple[float, float, float]]], cut: Counter[str], bench: _Bench) -> str:
    rows = []
    for name, blocks in found.items():
        medians = [statistics.median(each) for each in zip(*blocks, strict=True)]
        spread = [1000 * each[1] for each in blocks]
        rows.append(
            f"| {name} | {1000 * medians[0]:.1f} | {1000 * medians[1]:.1f} | {min(spread):.1f} to {max(spread):.1f} "
            f"| {100 * medians[2]:.1f} % |"
        )
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in cut.most_common())
    first = "" if may_come_first() else " Other programs ran beside it, with the same priority."
    return f"""## The gateway over four hosts

Four emulated slices take 5 ms for a query (12 ms for a batch of 8); the SLO is 200 ms. The load is an open loop over
HTTP with 200 queries/s, or 500 in rows marked "busy". "One host" uses Unix sockets (`partita serve --attach`). "Four
hosts" are network namespaces behind links of their own (veth), reached over TCP with a token (`partita gateway`). The
cases take turns in {bench.blocks} blocks of {bench.seconds:g} s each; figures are medians of blocks. Everything runs
on the same two cores.{first}

| | p50, ms | p99, ms | p99 of blocks | in time |
|---|---|---|---|---|
{chr(10).join(rows)}

In another run, at {_CUT_RATE:g} queries/s, one host's link is taken down in the third of ten seconds, without notice.
The client counted, of {sum(cut.values())} queries: {outcomes}.
"""
