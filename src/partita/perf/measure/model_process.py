"""A process that runs the model, and its parent's side; they exchange lines of JSON.

`python -m partita.perf.measure.model_process` ends when its stdin ends, so that none outlives the command that
started it, however that ended.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from typing import IO, TYPE_CHECKING, Any, TextIO, cast

from partita.errors import InputError, PartitaError
from partita.oom import END, OUT_OF_MEMORY, classify
from partita.process import keeper
from partita.process.keeper import how_it_ended

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


TELL_EVERY = 0.2
_HOST = "CPUExecutionProvider"


def main() -> None:
    """Describe a model, or run it until told to stop, as the first line of stdin says."""
    # Libraries print to stdout. The protocol keeps a copy of it, and the libraries get stderr instead.
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
    except Exception as error:  # noqa: BLE001 -- the parent reports whatever ONNX Runtime raises
        memory = ran_out(error, on_host=on_host(spec))
        _say(said, error="memory" if memory else "model", message=str(error))
    os._exit(0)  # the listening thread holds stdin, which an orderly end would wait for


def on_host(spec: Mapping[str, Any]) -> bool:
    """Say whether a model runs in the host's memory."""
    return bool(spec.get("providers", [_HOST])[0] == _HOST)


def ran_out(error: Exception, *, on_host: bool) -> bool:
    """Return whether an exception means that the device's memory ran out."""
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
    """Return ONNX Runtime's version and providers, and a model's inputs where one is named."""
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
    # The device stays busy until all processes are ready: an idle one lowers its clocks and loses its caches.
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
    told.get()  # nothing more comes: the process ends with its stdin


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
    """Return the peak resident set of this process in bytes; None where the host does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next((each for each in status.read_text().splitlines() if each.startswith("VmHWM:")), None)
    return None if line is None else int(line.split()[1]) * 1024


class Warmup:
    """Says when repetitions have become steady: two windows in a row whose medians differ by little."""

    def __init__(self, window: int = 5, tolerance: float = 0.05) -> None:
        self._tolerance = tolerance
        self._last: deque[float] = deque(maxlen=2 * window)

    def add(self, seconds: float) -> bool:
        """Take one more repetition, and return whether they are steady now."""
        self._last.append(seconds)
        full = self._last.maxlen or 0
        if len(self._last) < full:
            return False
        values = list(self._last)
        before, after = median(values[: full // 2]), median(values[full // 2 :])
        return abs(after - before) <= self._tolerance * before


class OutOfMemoryError(Exception):
    """A worker ran out of memory."""


class ModelProcess:
    """One worker process: `say` and `heard` are lines of JSON; a worker that fails or ends raises in `heard`.

    Attributes:
        output: its output, for a selector.
    """

    def __init__(self, spec: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 -- closed with the worker
        self._what = str(spec.get("path", "ONNX Runtime"))
        self._on_host = on_host(spec)
        self._rest = b""
        self._process = keeper.start(
            [sys.executable, "-m", "partita.perf.measure.model_process"],
            {**os.environ, **environ},
            stdin=keeper.PIPE,
            output=keeper.PIPE,
            errors=self._errors,
        )
        self._input = cast("IO[bytes]", self._process.stdin)
        self.output = cast("IO[bytes]", self._process.stdout)
        self.say(**spec)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def say(self, **fields: object) -> None:
        """Send a line; if the process is gone, `heard` raises."""
        with suppress(BrokenPipeError):
            self._input.write(json.dumps(fields).encode() + b"\n")
            self._input.flush()

    def heard(self) -> list[dict[str, Any]]:
        """Return the lines that came, waiting for some bytes.

        Raises:
            OutOfMemoryError: its device ran out of memory; on the host that is a kill by the kernel.
            InputError: the model cannot be run.
            PartitaError: the process ended otherwise.
        """
        chunk = os.read(self.output.fileno(), 1 << 20)
        if not chunk:
            raise self._ended()
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        found = [json.loads(line) for line in lines]
        for each in found:
            if "error" in each:
                raise self._failed(each["error"], each["message"])
        return found

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._process.close()
        self._errors.close()

    def _failed(self, kind: str, message: str) -> Exception:
        if kind == "memory":
            return OutOfMemoryError(message)
        if kind == "missing":
            return InputError(f"measuring needs ONNX Runtime ({message})", hint="pip install 'partita[onnx]'")
        return InputError(_first_line(message), where=self._what, hint=_model_hint(message))

    def _ended(self) -> Exception:
        code = self._process.wait() or 0
        if code == -signal.SIGKILL and self._on_host:
            return OutOfMemoryError("the process was killed, as the kernel does when memory runs out")
        self._errors.seek(0)
        text = self._errors.read()[-END:].decode(errors="replace").strip()
        found = classify(code, text, host_memory=self._on_host)
        if found.verdict == OUT_OF_MEMORY:
            return OutOfMemoryError(found.text or found.why)
        told = text.splitlines()
        last = f": {told[-1]}" if told else ""
        return PartitaError(f"the process that runs the model {how_it_ended(code)}{last}", where=self._what)


def _first_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return f"ONNX Runtime cannot use this model: {lines[0] if lines else 'it does not say why'}"


def _model_hint(message: str) -> str | None:
    lower = message.lower()
    if "external data" in lower or "external_data" in lower or "external initializer" in lower:
        return "keep the files with the weights beside the model, under the names that it gives them"
    if "protobuf" in lower:
        return "export the model to ONNX; other formats are not read"
    if "could not use" in lower:
        return "pip install onnxruntime-gpu for the CUDA that the driver has, or measure with --device cpu"
    return None


@contextmanager
def model_processes(
    count: int, spec: Mapping[str, Any], environ: Mapping[str, str]
) -> Iterator[tuple[ModelProcess, ...]]:
    """Start workers, and end them with the block."""
    started: list[ModelProcess] = []
    try:
        for _ in range(count):
            started.append(ModelProcess(spec, environ))  # noqa: PERF401 -- those started must be closed if one cannot be
        yield tuple(started)
    finally:
        for each in started:
            each.close()


def listen(group: Sequence[ModelProcess], until: float) -> Iterator[tuple[ModelProcess, dict[str, Any]]]:
    """Yield what workers say until a time of the monotonic clock.

    Raises:
        as `ModelProcess.heard`.
    """
    with selectors.DefaultSelector() as selector:
        for each in group:
            selector.register(each.output, selectors.EVENT_READ, each)
        while (left := until - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                worker: ModelProcess = key.data
                for line in worker.heard():
                    yield worker, line


def ask_model_process(spec: Mapping[str, Any], environ: Mapping[str, str], seconds: float) -> dict[str, Any]:
    """Return a single worker's only answer.

    Raises:
        as `ModelProcess.heard`, and PartitaError where there is none in time.
    """
    with model_processes(1, spec, environ) as group:
        for _, line in listen(group, time.monotonic() + seconds):
            return line
    raise PartitaError(f"no answer in {seconds:g} s", where=str(spec.get("path", "ONNX Runtime")))


if __name__ == "__main__":
    main()
