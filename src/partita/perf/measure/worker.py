"""The process that runs the model: `python -m partita.perf.measure.worker`, spoken to in lines of JSON.

It ends when its stdin ends, so that none outlives the command that started it, however that ended.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TextIO

from partita.oom import OUT_OF_MEMORY, classify
from partita.perf.measure.statistics import Warmup

if TYPE_CHECKING:
    from collections.abc import Mapping

TELL_EVERY = 0.2
_HOST = "CPUExecutionProvider"


def main() -> None:
    """Describe a model, or run it until told to stop; what to do is the first line of stdin."""
    # Libraries print to stdout as they please: the protocol keeps a copy of it, and they get stderr.
    said = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    spec = json.loads(sys.stdin.readline())
    told: SimpleQueue[dict[str, Any]] = SimpleQueue()
    threading.Thread(target=_listen, args=(told,), daemon=True).start()
    try:
        if spec["do"] == "describe":
            _say(said, **_describe(spec))
        else:
            _run(spec, told, said)
    except ImportError as error:
        _say(said, error="missing", message=str(error))
    except Exception as error:  # noqa: BLE001 -- whatever ONNX Runtime raises is the parent's to tell
        memory = ran_out(error, on_host=on_host(spec))
        _say(said, error="memory" if memory else "model", message=str(error))
    os._exit(0)  # the listening thread holds stdin, which an orderly end would wait for


def on_host(spec: Mapping[str, Any]) -> bool:
    """Say whether a model runs in the host's memory."""
    return bool(spec.get("providers", [_HOST])[0] == _HOST)


def ran_out(error: Exception, *, on_host: bool) -> bool:
    """Say whether an exception tells that the memory of the device ran out."""
    # As the interpreter would have written it: ONNX Runtime's exceptions are RuntimeErrors by another name.
    text = f"Traceback (most recent call last):\n{type(error).__name__}: {error}"
    return classify(1, text, host_memory=on_host).verdict == OUT_OF_MEMORY


def _listen(told: SimpleQueue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        told.put(json.loads(line))
    os._exit(1)


def _say(said: TextIO, **fields: object) -> None:
    said.write(json.dumps(fields) + "\n")
    said.flush()


def _describe(spec: Mapping[str, Any]) -> dict[str, object]:
    """Return what ONNX Runtime there is, and a model's inputs where one is named."""
    import onnxruntime as ort  # noqa: PLC0415 -- optional

    found: dict[str, object] = {"version": ort.__version__, "providers": ort.get_available_providers()}
    if spec.get("path"):
        session = _session(spec)
        found["inputs"] = [[each.name, each.type, list(each.shape)] for each in session.get_inputs()]
    return found


def _session(spec: Mapping[str, Any]) -> Any:  # noqa: ANN401 -- ONNX Runtime is optional and has no types
    import onnxruntime as ort  # noqa: PLC0415 -- optional

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = spec["threads"]
    options.inter_op_num_threads = 1
    if spec["do"] == "describe":
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(spec["path"], options, providers=spec["providers"])
    # ONNX Runtime falls back to the CPU without an error: such figures would be a CPU's under a GPU's name.
    if session.get_providers()[0] != spec["providers"][0]:
        raise RuntimeError(f"ONNX Runtime could not use {spec['providers'][0]}")
    return session


def _data(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Make random inputs: normal floats; integers 0 or 1, which are valid as indices and as masks."""
    import numpy as np  # noqa: PLC0415 -- slow to import

    random = np.random.default_rng(0)
    made = {}
    for name, dtype, shape in spec["inputs"]:
        if dtype.startswith("float"):
            made[name] = random.standard_normal(shape).astype(dtype)
        else:
            made[name] = random.integers(0, 2, shape).astype(dtype)
    return made


def _run(spec: Mapping[str, Any], told: SimpleQueue[dict[str, Any]], said: TextIO) -> None:
    session, data = _session(spec), _data(spec)
    steady = _warm_up(session, data, spec["warmup_s"])
    _say(said, ready=True, steady=steady)
    # The device stays busy until all processes are ready: one that rests loses its clocks and caches again.
    while told.empty():
        session.run(None, data)
    begin = told.get()["begin"]
    runs: list[tuple[float, float]] = []
    spoke = time.monotonic()
    while told.empty():
        before = time.monotonic()
        session.run(None, data)
        after = time.monotonic()
        if before >= begin:
            runs.append((before, after))
        if after - spoke >= TELL_EVERY:
            _say(said, done=len(runs))
            spoke = after
    _say(said, runs=runs, peak_rss=_peak_rss())
    told.get()  # "stop"
    told.get()  # there is no more to come: it ends with its stdin


def _warm_up(session: Any, data: Mapping[str, Any], longest: float) -> bool:  # noqa: ANN401
    session.run(None, data)  # the first one also allocates and chooses kernels
    warmup, end = Warmup(), time.monotonic() + longest
    while time.monotonic() < end:
        before = time.monotonic()
        session.run(None, data)
        if warmup.add(time.monotonic() - before):
            return True
    return False


def _peak_rss() -> int | None:
    """Return the most bytes of this process that were resident; None where the host does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next((each for each in status.read_text().splitlines() if each.startswith("VmHWM:")), None)
    return None if line is None else int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
