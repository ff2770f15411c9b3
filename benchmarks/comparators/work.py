"""The work of every compared server: sleep for 5 ms, and return the tensor."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

SECONDS = 0.005


def to_core() -> None:
    """Move this worker, all its threads, to the core that the benchmark gives workers, if it gives one."""
    core = os.environ.get("BENCH_WORKER_CORE")
    if core:
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), {int(core)})


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Take 5 ms, and return the first input as the first output, as the Open Inference Protocol writes it."""
    given = request["inputs"][0]
    time.sleep(SECONDS)
    return {"model_name": "emulated", "outputs": [{**given, "name": "OUTPUT0"}]}
