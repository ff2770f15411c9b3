"""`partita serve` in a process of its own, with emulated workers."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.request import urlopen

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SERVICE = "emulated"
_WORKLOAD = """\
apiVersion: partita/v1
kind: Workload
performance: [perf.csv]
gpus:
  - {{model: a100-80gb, count: {gpus}}}
services:
  - {{name: {service}, model: {service}, rate: {rate}, slo: {{latency_ms: {slo}, quantile: 0.99}}}}
limits: {{latency_factor: 1.0}}
"""
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_START_S = 120.0


class Servable(Protocol):
    """What `serving` serves."""

    @property
    def workers(self) -> int:
        """Instances, each with a worker."""
        ...

    def write(self, folder: Path) -> list[str]:
        """Write its files into a folder, and return the options of `partita serve` that name them."""
        ...


@dataclass(frozen=True, slots=True)
class Emulation:
    """The emulated service.

    Attributes:
        gpus: A100-80GB, each cut into seven 1g.10gb.
        latency_ms: that each query takes on an instance, one at a time.
        slo_ms: the deadline of a query.
        shape: of a query's FP32 tensor, behind the batch size.
    """

    gpus: int = 8
    latency_ms: float = 5.0
    slo_ms: float = 100.0
    shape: tuple[int, ...] = (16,)

    @property
    def workers(self) -> int:
        """Instances, each with a worker."""
        return 7 * self.gpus

    def write(self, folder: Path) -> list[str]:
        """Write its workload, table and services, and return the options that name them."""
        each = 1000.0 / self.latency_ms
        (folder / "perf.csv").write_text(
            "model,gpu,profile,batch,processes,throughput,latency_ms,quantile\n"
            f"{SERVICE},a100-80gb,1g.10gb,1,1,{each:g},{self.latency_ms:g},0.99\n"
        )
        text = _WORKLOAD.format(
            gpus=self.gpus, service=SERVICE, rate=each * (self.workers - 0.5), slo=self.slo_ms
        )
        (folder / "workload.yaml").write_text(text)
        tensor = f"[{{datatype: FP32, shape: {[-1, *self.shape]}, name: "
        (folder / "services.yaml").write_text(
            f"services: [{{name: {SERVICE}, worker: "
            f"{{emulated: {{inputs: {tensor}INPUT0}}], outputs: {tensor}OUTPUT0}}]}}}}}}]\n"
        )
        return ["-f", str(folder / "workload.yaml"), "--services", str(folder / "services.yaml")]


@dataclass(frozen=True, slots=True)
class Served:
    """A gateway that answers.

    Attributes:
        pid: of its process.
        http: its address, as `http://127.0.0.1:8000`.
        grpc: its address, as `127.0.0.1:8001`.
        folder: of its state.
    """

    pid: int
    http: str
    grpc: str
    folder: Path

    @property
    def infer(self) -> str:
        """Where inference is asked for."""
        return self.infer_of(SERVICE)

    def infer_of(self, service: str) -> str:
        """Return where a service's inference is asked for."""
        return f"{self.http}/v2/models/{service}/infer"

    def samples(self, name: str) -> dict[str, float]:
        """Return the samples of a metric by their labels."""
        with urlopen(f"{self.http}/metrics", timeout=30) as page:  # noqa: S310 -- on this host
            text = page.read().decode()
        return {labels: float(value) for each, labels, value in _SAMPLE.findall(text) if each == name}


@contextmanager
def serving(what: Servable, *, before: Sequence[str] = ()) -> Iterator[Served]:
    """Serve until the block ends.

    Args:
        what: is served.
        before: words before the command, as `taskset -c 0`; its workers inherit what they set.

    Raises:
        RuntimeError: it does not get ready.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        http, grpc = free_port(), free_port()
        words = [*what.write(folder), "--port", str(http), "--grpc-port", str(grpc)]
        environment = {**os.environ, "PARTITA_STATE": str(folder / "state")}
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*before, sys.executable, "-m", "partita", "--debug", "serve", *words],
                env=environment,
                stderr=log,
            )
        served = Served(process.pid, f"http://127.0.0.1:{http}", f"127.0.0.1:{grpc}", folder / "state")
        try:
            _await(process, served, what.workers, folder / "log")
            yield served
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await(process: subprocess.Popen[bytes], served: Served, workers: int, log: Path) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            if len(served.samples("partita_instance_busy_seconds_total")) == workers:
                return
        except (OSError, HTTPException):
            pass
        time.sleep(0.2)
    raise RuntimeError(f"partita serve does not get ready:\n{log.read_text()}")


def free_port() -> int:
    """Return a TCP port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(stat.parent.name))
    return sorted(found)
