"""Real worker processes, and the traffic of tests."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from partita.serve.tensors import Query, Tensor
from partita.serve.worker.spec import EmulatedSpec, WorkerSpec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def spec(folder: Path | None, number: int, seconds: dict[int, float], **more: object) -> WorkerSpec:
    fields: dict[str, object] = {
        "service": "one",
        "model": "m",
        "gpu": f"node-0/gpu-{number}",
        "placement": "1g.10gb@0",
        "batch": 8,
        "backend": EmulatedSpec(),
        "folder": str(folder or ""),
        "token": f"t{number}",
        "seconds": seconds,
        "grace_s": 5.0,
    }
    return WorkerSpec(**{**fields, **more})  # type: ignore[arg-type]


class Workers:
    """Processes, by number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, number: int, seconds: dict[int, float], **more: object) -> subprocess.Popen[bytes]:
        made = spec(self.folder, number, seconds, **more)
        path = self.folder / f"{number}.json"
        path.write_text(made.text())
        self.running[number] = subprocess.Popen([sys.executable, "-m", "partita.serve.worker", str(path)])
        return self.running[number]

    def wait_ready(self, count: int) -> None:
        end = time.monotonic() + 60
        while len(list(self.folder.glob("*.sock"))) < count:
            assert time.monotonic() < end
            time.sleep(0.01)


@contextmanager
def workers(folder: Path) -> Iterator[Workers]:
    made = Workers(folder)
    try:
        yield made
    finally:
        for process in made.running.values():
            process.kill()
        for process in made.running.values():
            process.wait()


def query(batch: int = 1, fill: int = 0) -> Query:
    return Query((Tensor("INPUT0", "FP32", (batch, 16), bytes([fill]) * 64 * batch),))


def document(path: Path) -> Any:
    return json.loads(path.read_text())
