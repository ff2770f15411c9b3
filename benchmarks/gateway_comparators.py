"""Other servers with 56 workers of 5 ms: each in an environment of its own, made by pip on first use."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.gateway_clients import CACHE, Asked, MissingError
from benchmarks.gateway_processes import Pinning, running
from benchmarks.served import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent / "comparators"
WORKERS = 56
_PATIENCE_S = 240.0
_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Comparator:
    """Another server.

    Attributes:
        name: as its project writes it.
        packages: for pip; the first is its own.
        path: of inference.
        how: its configuration, in words.
        command: after the environment's `bin/`, with {port}, {workers} and {here}.
        environment: variables it is run with.
        warm_s: seconds of load before it is measured.
    """

    name: str
    packages: tuple[str, ...]
    path: str
    how: str
    command: tuple[str, ...]
    environment: dict[str, str]
    warm_s: float = 3.0

    @property
    def folder(self) -> Path:
        """Where its environment is."""
        return CACHE / self.packages[0].split("[")[0]

    def install(self) -> str:
        """Make its environment if it is not there, and return the version.

        Raises:
            MissingError: pip cannot.
        """
        python = self.folder / "bin" / "python"
        marker = self.folder / "complete"
        if not marker.exists():
            subprocess.run([sys.executable, "-m", "venv", self.folder], check=True)
            ran = subprocess.run(
                [python, "-m", "pip", "install", "--quiet", *self.packages],
                check=False,
                capture_output=True,
                text=True,
            )
            if ran.returncode:
                raise MissingError(f"pip cannot install {self.name}: {ran.stderr.strip().splitlines()[-1:]}")
            marker.touch()
        asked = f"from importlib.metadata import version; print(version({self.packages[0].split('[')[0]!r}))"
        return subprocess.run(
            [python, "-c", asked], check=True, capture_output=True, text=True
        ).stdout.strip()

    @contextmanager
    def serving(self, body: Path, pinning: Pinning, scratch: Path) -> Iterator[tuple[int, Asked]]:
        """Run it until the block ends; yield its process and what to ask."""
        port = free_port()
        self._write(scratch, port)
        filled = [each.format(port=port, workers=WORKERS, here=HERE) for each in self.command]
        command = [*pinning.front, str(self.folder / "bin" / filled[0]), *filled[1:]]
        environment = {
            **self.environment,
            **pinning.environment,
            "BENCH_WORKERS": str(WORKERS),
            "PYTHONPATH": str(HERE),
        }
        asked = Asked(f"http://127.0.0.1:{port}{self.path}", body, _JSON)
        with running(command, asked, environment, scratch, _PATIENCE_S) as pid:
            yield pid, asked

    def _write(self, scratch: Path, port: int) -> None:
        """Write MLServer's settings, which are files."""
        settings = {
            "host": "127.0.0.1",
            "http_port": port,
            "grpc_port": free_port(),
            "metrics_endpoint": None,
            "parallel_workers": WORKERS,
            "debug": False,
        }
        (scratch / "settings.json").write_text(json.dumps(settings))
        (scratch / "emulated").mkdir(exist_ok=True)
        model = {"name": "emulated", "implementation": "mlserver_runtime.Emulated"}
        (scratch / "emulated" / "model-settings.json").write_text(json.dumps(model))


COMPARATORS = (
    Comparator(
        "LitServe",
        ("litserve", "uvloop", "httptools"),
        "/infer",
        "56 workers_per_device, no batching, fast_queue (ZeroMQ), one API server, uvloop and httptools installed",
        ("python", "{here}/litserve_server.py", "{port}", "{workers}"),
        {},
    ),
    Comparator(
        "Mosec",
        ("mosec",),
        "/inference",
        "one stage of 56 workers, max_batch_size 1; its front is in Rust",
        ("python", "{here}/mosec_server.py", "--port", "{port}", "--log-level", "error"),
        {},
    ),
    Comparator(
        "Ray Serve",
        ("ray[serve]", "psutil"),
        "/infer",
        "56 replicas, max_ongoing_requests 4, RAY_SERVE_THROUGHPUT_OPTIMIZED=1, no dashboard, workers not "
        "niced; its proxy is pinned as the front, its controller, raylet and replicas as the workers; 56 "
        "replicas and their management fill two cores by themselves, so the figures say little about the proxy",
        ("python", "{here}/ray_server.py", "{port}", "{workers}"),
        {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_worker_niceness": "0"},
        10.0,
    ),
    Comparator(
        "MLServer",
        ("mlserver", "uvloop<0.22"),
        "/v2/models/emulated/infer",
        "56 parallel_workers, no adaptive batching, metrics off; uvloop below 0.22, since its workers do not "
        "start with later versions",
        ("mlserver", "start", "."),
        {},
        10.0,
    ),
)
