"""Fixtures for all tests."""

from __future__ import annotations

import gc
import os
import re
import shutil
import signal
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from benchmarks.checked import check_every_plan
from hypothesis import HealthCheck, settings

from partita.mig import catalogue

if TYPE_CHECKING:
    from collections.abc import Iterator

# Deadlines are off because the machines that run the tests are shared and noisy.
settings.register_profile(
    "partita", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60
)
settings.load_profile("partita")

# A shell starts what it runs in the background deaf to Ctrl-C, and so would be all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Whoever runs the tests may have GPUs of their own; tests know the catalogue's alone.
os.environ["PARTITA_CONFIG"] = os.devnull

ROOT = Path(__file__).resolve().parents[1]

MEMORY, LEAST_FREE = Path("/dev/shm"), 8 << 30  # noqa: S108 -- pytest makes a folder of its own in it


def _free_memory() -> int:
    """Return how many bytes both files in memory and programs can still have."""
    found = re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text())
    return min(shutil.disk_usage(MEMORY).free, 1024 * int(found[1]) if found else 0)


# Files of tests lie in memory where that has room: the queue and the journal wait for the disk at each write, and
# a disk that others use as well makes the tests take twice as long.
if MEMORY.is_dir() and _free_memory() >= LEAST_FREE:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

DEPENDENCIES = {
    "numpy": ["tests/perf/test_table.py", "tests/planning/test_column_generation.py"],
    "highspy": [
        "tests/planning/test_exact.py",
        "tests/planning/test_on_nodes.py",
        "tests/planning/test_bound.py",
        "tests/cli/test_output.py",
    ],
    "numba": ["tests/serve/test_simulation.py", "tests/planning/test_column_generation.py"],
    "msgspec": ["tests/test_workload.py", "tests/cli/test_convert.py"],
    "pyyaml": ["tests/test_workload.py", "tests/test_nesting.py"],
    "typer": ["tests/cli/test_main.py", "tests/cli/test_gpus.py", "tests/cli/test_json_log.py"],
    "rich": ["tests/cli/test_plan_view.py", "tests/cli/test_gpus.py"],
    "nvidia-ml-py": [
        "tests/drive/test_survey.py",
        "tests/drive/test_nvml.py",
        "tests/drive/test_own_device.py",
    ],
    "pyarrow": ["tests/perf/test_reading.py"],
    "narwhals": ["tests/perf/test_frames.py"],
    "onnx": ["tests/jobs/memory"],
    "onnxruntime": ["tests/serve/worker/test_onnx_runtime.py"],
    "httptools": ["tests/serve/gateway/test_http_server.py", "tests/serve/gateway/test_http_exchanges.py"],
    "uvloop": ["tests/serve/clients/test_tritonclient_http.py"],
    "orjson": ["tests/serve/gateway/test_oip_json.py"],
    "grpcio": ["tests/serve/clients/test_tritonclient_grpc.py"],
    "grpcio-health-checking": ["tests/serve/gateway/test_grpc_server.py"],
    "grpcio-reflection": ["tests/serve/gateway/test_grpc_server.py"],
    "protobuf": ["tests/serve/gateway/test_grpc_server.py"],
    "prometheus-client": [
        "tests/serve/gateway/test_metrics.py",
        "tests/dash/test_gateway.py",
        "tests/test_metrics.py",
    ],
    "opentelemetry-sdk": ["tests/cli/test_tracing.py", "tests/serve/test_trace_context.py"],
    "opentelemetry-exporter-otlp-proto-http": ["tests/cli/test_tracing.py"],
    "starlette": ["tests/dash/test_access.py", "tests/dash/test_server.py"],
    "uvicorn": ["tests/dash/test_server.py"],
    "textual": ["tests/cli/test_top.py"],
    "kubernetes": ["tests/kubernetes_units/test_api.py"],
    "urllib3": ["tests/kubernetes_units/test_api.py"],
}
"""The tests that meet each dependency's code, as files and folders; they have the mark `dependencies`."""


PLANNING = {"cli", "control", "planning", "serve", "test_planner.py", "transition", "web"}
"""Folders whose tests may make plans; the others are spared the import of the planners."""


MARKED = {ROOT / path for paths in DEPENDENCIES.values() for path in paths}


def _is_marked(path: Path) -> bool:
    return not MARKED.isdisjoint({path, *path.parents})


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no file in vain where the tests of `DEPENDENCIES` alone are asked for."""
    alone = config.option.markexpr == "dependencies" and not collection_path.is_dir()
    return True if alone and not _is_marked(collection_path) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Import the files of tests, where several processes are to, from another one on in each process.

    What one of them has compiled the others read: on a fresh clone they would else all compile everything, in step.
    """
    worker: dict[str, Any] | None = getattr(session.config, "workerinput", None)
    if worker is None or session.config.args != session.config.getini("testpaths"):
        return
    own = ROOT / "tests" / "kubernetes"  # they are left out
    files = [path for path in sorted(ROOT.glob("tests/**/test_*.py")) if own not in path.parents]
    first = len(files) * int(worker["workerid"].removeprefix("gw")) // worker["workercount"]
    for path in files[first:] + files[:first]:
        with suppress(Exception, pytest.skip.Exception):  # which pytest meets again, and tells
            import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of `DEPENDENCIES`."""
    gone = sorted(str(path) for path in MARKED if not path.exists())
    if gone:
        raise pytest.UsageError(f"DEPENDENCIES names what is not there: {', '.join(gone)}")
    for item in items:
        if _is_marked(item.path):
            item.add_marker("dependencies")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Have every planner's plan go through the checker, where a test may make one; leave the tests to themselves.

    What is there now stays to the end: the garbage collector need not look through it again and again.
    """
    folders = {item.path.relative_to(ROOT).parts[1] for item in session.items}
    if not PLANNING.isdisjoint(folders):
        check_every_plan()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the public measurements, which are never copied into the project."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"public measurements are not at {folder}")
    return folder


@pytest.fixture(autouse=True)
def _catalogue_alone() -> Iterator[None]:
    """Has every test begin with the catalogue's own GPUs, whatever the one before found on its host."""
    catalogue.reset()
    yield
    catalogue.reset()
