"""A gateway in few words, and workers that end with their test."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from partita.serve.tensors import Answer, Query, Tensor
from partita.serve.worker.spec import EmulatedSpec, WorkerSpec
from partita.serve.worker.wire import (
    Frame,
    FrameKind,
    Frames,
    Hello,
    connected,
    frame,
    run_parts,
    unpack_done,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from partita.serve.worker.spec import BackendSpec

PATIENCE_S = 60.0


def until(done: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    end = time.monotonic() + patience_s
    while not done():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def spec_of(folder: Path, backend: BackendSpec | None = None, **more: object) -> WorkerSpec:
    fields: dict[str, object] = {
        "seconds": {1: 0.005},
        "processes": 1,
        "grace_s": 10.0,
        "token": "a1",
        **more,
    }
    return WorkerSpec(
        service="bert",
        model="bert-large",
        gpu="node-0/gpu-0",
        placement="3g.20gb@4",
        batch=8,
        backend=backend or EmulatedSpec(),
        folder=str(folder),
        **fields,  # type: ignore[arg-type]
    )


def numbered(number: int, rows: int = 1) -> Query:
    """A query that can be told from every other."""
    data = number.to_bytes(8, "little") * (rows * 8)
    return Query((Tensor("INPUT0", "FP32", (rows, 16), data),))


@contextmanager
def running(spec: WorkerSpec, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process, killed when the block ends if it has not ended."""
    path = Path(spec.folder) / f"{spec.token}.json"
    path.write_text(spec.text())
    with subprocess.Popen(
        [sys.executable, "-m", "partita.serve.worker", str(path)],
        **options,  # type: ignore[call-overload]
    ) as process:
        try:
            until(lambda: socket_of(spec).exists() or process.poll() is not None)
            yield process
        finally:
            process.kill()


def socket_of(spec: WorkerSpec) -> Path:
    return Path(spec.folder) / spec.socket_name


@dataclass
class Gateway:
    """One connection to a worker."""

    stream: socket.socket
    frames: Frames
    hello: Hello
    numbers: count[int]

    def send(self, *queries: Query) -> int:
        number = next(self.numbers)
        self.stream.sendall(b"".join(run_parts(number, queries)))
        return number

    def next(self) -> Frame:
        """The next frame that is no sign of life."""
        while (found := self.frames.next()) is not None and found.kind == FrameKind.BEAT:
            pass
        assert found is not None, "the worker left"
        return found

    def beat(self) -> Frame:
        """The next sign of life."""
        while (found := self.frames.next()) is not None and found.kind != FrameKind.BEAT:
            pass
        assert found is not None, "the worker left"
        return found

    def left(self) -> bool:
        """Whether it says nothing more but signs of life, and leaves."""
        while (found := self.frames.next()) is not None:
            if found.kind != FrameKind.BEAT:
                return False
        return True

    def done(self) -> tuple[int, tuple[Answer, ...], float]:
        found = self.next()
        assert found.kind == FrameKind.DONE
        answers, seconds, _ = unpack_done(found.header, found.data)
        return found.number, answers, seconds

    def ask(self, *queries: Query) -> tuple[Answer, ...]:
        number = self.send(*queries)
        answered, answers, _ = self.done()
        assert answered == number
        return answers

    def drained(self) -> None:
        self.stream.sendall(frame(FrameKind.DRAINED, 0))


@contextmanager
def gateway(spec: WorkerSpec) -> Iterator[Gateway]:
    with connected(Path(spec.folder), spec.socket_name, PATIENCE_S) as stream:
        frames = Frames(stream)
        first = frames.next()
        if first is None:
            raise ConnectionResetError("the worker left before it said hello")
        assert first.kind == FrameKind.HELLO
        yield Gateway(stream, frames, Hello.unpacked(first.header), count(1))
