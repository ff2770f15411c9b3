"""Runs one model with ONNX Runtime on the CPU and says what memory it took; stderr tells how its arena grew.

`python -m benchmarks.model_memory_child SMALL MODEL BATCH`: SMALL is a model of one operator, run first, so that what
the runtime itself takes is not counted.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

RUNS = 3


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def settle() -> None:
    """Return freed memory to the system, so that the following peak shows only memory in use."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def load(path: str) -> Any:  # noqa: ANN401 -- ONNX Runtime has no types
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 2
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(session: Any, batch: int) -> None:  # noqa: ANN401
    random = np.random.default_rng(0)
    feeds = {}
    for each in session.get_inputs():
        shape = [batch if isinstance(dim, str) else dim for dim in each.shape]
        whole = "int64" in each.type
        feeds[each.name] = np.zeros(shape, "int64") if whole else random.random(shape, dtype="float32")
    for _ in range(RUNS):
        session.run(None, feeds)


def main() -> None:
    small, path, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
    first = load(small)
    run(first, 1)
    settle()
    before = resident("VmRSS")
    sys.stderr.flush()
    ort.set_default_logger_severity(1)
    session = load(path)
    loading = resident("VmHWM") - before
    settle()
    loaded = resident("VmRSS") - before
    print("loaded", file=sys.stderr, flush=True)
    run(session, batch)
    print(json.dumps({"loading": loading, "loaded": loaded, "peak": resident("VmHWM") - before}))


main()
