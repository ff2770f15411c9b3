"""What runs a model in a worker (`Backend`), how it is loaded, and the log in which workers note what went wrong."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from partita.serve.worker.spec import EmulatedSpec, OnnxSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.serve.tensors import Answer, Batching, Query, TensorSpec
    from partita.serve.worker.spec import WorkerSpec


class Backend(Protocol):
    """Runs batches, in as many threads side by side as the worker has processes.

    Attributes:
        inputs: what the model takes.
        outputs: what it gives.
        batching: whether its queries may be joined and split.
        most: rows that it runs at once at most; None for no limit.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batching: Batching
    most: int | None

    @property
    def fault(self) -> str | None:
        """Why it cannot answer now, although no batch has shown it yet; None if it can."""
        ...

    def run(self, lane: int, queries: Sequence[Query]) -> Sequence[Answer]:
        """Return the answers to the queries of one batch, in their order.

        Args:
            lane: which of the threads asks, from 0; no two ask with one number at once.
            queries: at least one.

        Raises:
            Exception: whatever went wrong; it is every query's answer then.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds; called when nothing runs any more."""
        ...


def load(spec: WorkerSpec) -> Backend:
    """Return a worker's back-end, its model loaded.

    Raises:
        InputError: there is no such model, or nothing to run it with.
    """
    # Each kind imports its own modules: an emulated worker needs none of the others'.
    if isinstance(spec.backend, EmulatedSpec):
        from partita.serve.worker.emulated import EmulatedBackend  # noqa: PLC0415 -- as said above

        return EmulatedBackend(spec.backend, spec.seconds, spec.declared)
    if isinstance(spec.backend, OnnxSpec):
        from partita.serve.worker.onnx_runtime import OnnxBackend  # noqa: PLC0415 -- as said above

        return OnnxBackend(spec.backend, spec.batch, spec.processes, spec.declared)
    from partita.serve.worker.upstream import UpstreamBackend  # noqa: PLC0415 -- as said above

    return UpstreamBackend(
        spec.backend,
        spec.model,
        spec.processes,
        spec.declared,
        hang_timeout_s=spec.hang_timeout_s,
        retry=spec.retry,
    )


def note(text: str) -> None:
    """Write one line to the log, which is stderr."""
    line = text.replace("\n", " | ")
    with suppress(OSError, ValueError):  # nobody to tell
        sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {line}\n")
        sys.stderr.flush()
