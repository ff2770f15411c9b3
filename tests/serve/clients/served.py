"""`partita serve` as a process, with emulated workers that answer with what they were asked."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.request import urlopen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_START_S = 120.0
_ADDRESSES = re.compile(r"HTTP at http://(\S+), gRPC at (\S+)")
_TABLE = """\
model,gpu,profile,batch,processes,throughput,latency_ms,quantile
mixed,a100-80gb,1g.10gb,1,1,200,5,0.99
mixed,a100-80gb,1g.10gb,4,1,400,10,0.99
"""
_WORKLOAD = """\
apiVersion: partita/v1
kind: Workload
performance: [perf.csv]
gpus: [{model: a100-80gb, count: 1}]
services: [{name: mixed, model: mixed, rate: 700, slo: {latency_ms: 5000, quantile: 0.99}}]
limits: {latency_factor: 1.0}
"""
_SERVICES = """\
services:
  - name: mixed
    max_batch_size: 64
    worker:
      emulated:
        inputs:
          - {name: TEXT, datatype: BYTES, shape: [-1, 1]}
          - {name: HALF, datatype: FP16, shape: [-1, 4]}
          - {name: WHOLE, datatype: INT64, shape: [-1, 2]}
        outputs:
          - {name: TEXT_OUT, datatype: BYTES, shape: [-1, 1]}
          - {name: HALF_OUT, datatype: FP16, shape: [-1, 4]}
          - {name: WHOLE_OUT, datatype: INT64, shape: [-1, 2]}
"""


@dataclass(frozen=True)
class Served:
    """Addresses as clients take them, `127.0.0.1:8000`."""

    http: str
    grpc: str


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """Serve one service, `mixed`, until the block ends."""
    for name, text in {"perf.csv": _TABLE, "workload.yaml": _WORKLOAD, "services.yaml": _SERVICES}.items():
        (folder / name).write_text(text)
    words = ["-f", "workload.yaml", "--services", "services.yaml", "--port", "0", "--grpc-port", "0"]
    environment = {**os.environ, "PARTITA_STATE": str(folder / "state")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "partita", "serve", *words], cwd=folder, env=environment, stderr=log
        )
    try:
        yield _ready(process, folder / "log")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ready(process: subprocess.Popen[bytes], log: Path) -> Served:
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        found = _ADDRESSES.search(log.read_text())
        if found and _is_ready(found[1]):
            return Served(found[1], found[2])
        time.sleep(0.05)
    raise AssertionError(f"partita serve does not get ready:\n{log.read_text()}")


def _is_ready(http: str) -> bool:
    try:
        with urlopen(f"http://{http}/v2/health/ready", timeout=10) as reply:
            return int(reply.status) == 200
    except OSError:
        return False
