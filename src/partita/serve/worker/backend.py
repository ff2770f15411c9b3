"""The back-end of a worker, which runs its model (`Backend`), how it is loaded, and the worker's log."""

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
    """Runs batches, concurrently in as many threads (lanes) as the worker has processes.

    Attributes:
        inputs: of the model.
        outputs: of the model.
        batching: whether its queries may be joined and split.
        most: maximum rows of a batch; None for no limit.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batching: Batching
    most: int | None

    @property
    def fault(self) -> str | None:
        """Why it cannot answer now; None if it can."""
        ...

    def run(self, lane: int, queries: Sequence[Query]) -> Sequence[Answer]:
        """Return the answers to the queries of one batch, in their order.

        Args:
            lane: number of the calling thread, from 0; calls with the same number are never concurrent.
            queries: at least one.

        Raises:
            Exception: the batch failed; the error is the answer to each of its queries.
        """
        ...

    def close(self) -> None:
        """Free its resources; called when nothing runs any more."""
        ...


def load(spec: WorkerSpec) -> Backend:
    """Return a worker's back-end with its model loaded.

    Raises:
        InputError: the model does not exist, or cannot be run.
    """
    # Each kind imports only its own modules, as many workers run on a host.
    if isinstance(spec.backend, EmulatedSpec):
        from partita.serve.worker.emulated import EmulatedBackend  # noqa: PLC0415 -- see above

        return EmulatedBackend(spec.backend, spec.seconds, spec.declared)
    if isinstance(spec.backend, OnnxSpec):
        from partita.serve.worker.onnx_runtime import OnnxBackend  # noqa: PLC0415 -- see above

        return OnnxBackend(spec.backend, spec.batch, spec.processes, spec.declared)
    from partita.serve.worker.upstream import UpstreamBackend  # noqa: PLC0415 -- see above

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
    with suppress(OSError, ValueError):  # stderr is closed
        sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {line}\n")
        sys.stderr.flush()
