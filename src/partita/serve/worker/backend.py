"""The back-end of a worker, which runs its model (`Backend`), and the worker's log."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.serve.tensors import Answer, Batching, Query, TensorSpec


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


def note(text: str) -> None:
    """Write one line to the log, which is stderr."""
    line = text.replace("\n", " | ")
    with suppress(OSError, ValueError):  # stderr is closed
        sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {line}\n")
        sys.stderr.flush()
