"""Worker processes as the measuring side holds them."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, cast

from partita.errors import InputError, PartitaError
from partita.oom import END, OUT_OF_MEMORY, classify
from partita.perf.measure.worker import on_host

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class OutOfMemoryError(Exception):
    """A worker ran out of memory."""


class Worker:
    """One worker process: `say` and `heard` are lines of JSON; a worker that fails or ends raises in `heard`.

    Attributes:
        output: what it says, for a selector.
    """

    def __init__(self, spec: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 -- closed with the worker
        self._what = str(spec.get("path", "ONNX Runtime"))
        self._on_host = on_host(spec)
        self._rest = b""
        # A session of its own: Ctrl-C is for the measuring side, which stops its workers.
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-m", "partita.perf.measure.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **environ},
            start_new_session=True,
        )
        self._input = cast("IO[bytes]", self._process.stdin)
        self.output = cast("IO[bytes]", self._process.stdout)
        self.say(**spec)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def say(self, **fields: object) -> None:
        """Send a line; a worker that is gone is found out when it is heard."""
        with suppress(BrokenPipeError):
            self._input.write(json.dumps(fields).encode() + b"\n")
            self._input.flush()

    def heard(self) -> list[dict[str, Any]]:
        """Return the lines that came, waiting for some bytes.

        Raises:
            OutOfMemoryError: its device ran out of memory; the kernel kills where that is the host's.
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
        for stream in (self._input, self.output, self._errors):
            with suppress(BrokenPipeError):
                stream.close()

    def _failed(self, kind: str, message: str) -> Exception:
        if kind == "memory":
            return OutOfMemoryError(message)
        if kind == "missing":
            return InputError(f"measuring needs ONNX Runtime ({message})", hint="pip install 'partita[onnx]'")
        return InputError(_first_line(message), where=self._what, hint=_hint(message))

    def _ended(self) -> Exception:
        code = self._process.wait()
        if code == -signal.SIGKILL and self._on_host:
            return OutOfMemoryError("the process was killed, as the kernel does when memory runs out")
        self._errors.seek(0)
        text = self._errors.read()[-END:].decode(errors="replace").strip()
        found = classify(code, text, host_memory=self._on_host)
        if found.verdict == OUT_OF_MEMORY:
            return OutOfMemoryError(found.text or found.why)
        told = text.splitlines()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        last = f": {told[-1]}" if told else ""
        return PartitaError(f"the process that runs the model ended with {how}{last}", where=self._what)


def _first_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return f"ONNX Runtime cannot use this model: {lines[0] if lines else 'it does not say why'}"


def _hint(message: str) -> str | None:
    lower = message.lower()
    if "external data" in lower or "external_data" in lower or "external initializer" in lower:
        return "keep the files with the weights beside the model, under the names that it gives them"
    if "protobuf" in lower:
        return "export the model to ONNX; other formats are not read"
    if "could not use" in lower:
        return "pip install onnxruntime-gpu for the CUDA that the driver has, or measure with --device cpu"
    return None


@contextmanager
def workers(count: int, spec: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[tuple[Worker, ...]]:
    """Start workers, and end them with the block."""
    started: list[Worker] = []
    try:
        for _ in range(count):
            started.append(Worker(spec, environ))  # noqa: PERF401 -- those started must be closed if one cannot be
        yield tuple(started)
    finally:
        for each in started:
            each.close()


def listen(group: Sequence[Worker], until: float) -> Iterator[tuple[Worker, dict[str, Any]]]:
    """Yield what workers say until a time of the monotonic clock.

    Raises:
        as `Worker.heard`.
    """
    with selectors.DefaultSelector() as selector:
        for each in group:
            selector.register(each.output, selectors.EVENT_READ, each)
        while (left := until - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                worker: Worker = key.data
                for line in worker.heard():
                    yield worker, line


def ask(spec: Mapping[str, Any], environ: Mapping[str, str], seconds: float) -> dict[str, Any]:
    """Return a single worker's only answer.

    Raises:
        as `Worker.heard`, and PartitaError where there is none in time.
    """
    with workers(1, spec, environ) as group:
        for _, line in listen(group, time.monotonic() + seconds):
            return line
    raise PartitaError(f"no answer in {seconds:g} s", where=str(spec.get("path", "ONNX Runtime")))
