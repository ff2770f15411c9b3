"""The emulated back-end: takes the performance table's seconds and returns inputs as outputs; needs no GPU."""

from __future__ import annotations

import math
import random
import time
from bisect import bisect_left
from typing import TYPE_CHECKING

from partita.errors import InputError
from partita.serve.tensors import ITEM_BYTES, Answer, Batching, Tensor
from partita.serve.worker.spec import UNDECLARED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from partita.serve.tensors import Query, TensorSpec
    from partita.serve.worker.spec import DeclaredBatch, EmulatedSpec


_EMPTY_TEXT = bytes(4)


class EmulatedBackend:
    """A `Backend` that sleeps.

    Args:
        spec: tensors, jitter, slow-down.
        seconds: by batch size.
        declared: what is declared about the model's batch.

    Raises:
        InputError: `seconds` is empty, or the tensors are not as declared.
    """

    most: int | None = None

    def __init__(
        self, spec: EmulatedSpec, seconds: Mapping[int, float], declared: DeclaredBatch = UNDECLARED
    ) -> None:
        if not seconds:
            raise InputError(
                "an emulated worker needs the seconds of at least one batch size", where="seconds"
            )
        self.inputs = spec.inputs
        self.outputs = spec.outputs
        self.batching = _batching(spec, declared)
        self.fault = None
        self._spec = spec
        self._known = sorted(seconds.items())
        self._random = random.Random()

    def run(self, lane: int, queries: Sequence[Query]) -> Sequence[Answer]:
        """Sleep for the seconds of the joint batch, or of each query alone, and return inputs as outputs."""
        del lane
        rows = [query.batch for query in queries] if self.batching.rows else [1] * len(queries)
        batches = [sum(rows)] if self.batching.rows else rows
        end = time.monotonic() + sum(map(self._seconds, batches))
        answers = [Answer(self._outputs(query)) for query in queries]
        time.sleep(max(0.0, end - time.monotonic()))
        return answers

    def close(self) -> None:
        """Do nothing."""

    def _seconds(self, batch: int) -> float:
        spread = self._spec.jitter
        factor = math.exp(self._random.gauss(-spread * spread / 2, spread)) if spread else 1.0
        return interpolated(self._known, batch) * factor * self._spec.slow_down

    def _outputs(self, query: Query) -> tuple[Tensor, ...]:
        return tuple(
            self._output(spec, query, at)
            for at, spec in enumerate(self.outputs)
            if not query.outputs or spec.name in query.outputs
        )

    def _output(self, spec: TensorSpec, query: Query, at: int) -> Tensor:
        given = query.inputs[at] if at < len(query.inputs) else None
        if given is not None and _alike(spec, given):
            return Tensor(spec.name, given.datatype, given.shape, given.data)
        first = (query.batch if size < 0 else size for size in spec.shape[:1])
        shape = (*first, *(max(size, 1) for size in spec.shape[1:]))
        item = _EMPTY_TEXT if spec.datatype == "BYTES" else bytes(ITEM_BYTES[spec.datatype])
        return Tensor(spec.name, spec.datatype, shape, item * math.prod(shape))


def _batching(spec: EmulatedSpec, declared: DeclaredBatch) -> Batching:
    """Return whether queries may be joined: if all first sizes are free, since outputs are copies of input rows."""
    if declared.rows is False:
        return Batching(why="it is declared to have no batch dimension")
    if all(each.shape[:1] == (-1,) for each in (*spec.inputs, *spec.outputs)):
        return Batching(rows=True, most=declared.most or 0, why="it is emulated, row by row")
    if declared.rows:
        raise InputError(
            "it is declared `batch: rows`, and not all of its tensors have a free first size",
            hint="write -1 as the first size of each input and output",
        )
    return Batching(why="not all of its tensors have a free first size")


def interpolated(known: Sequence[tuple[int, float]], batch: int) -> float:
    """Return the seconds of a batch, interpolated.

    They are linear between known sizes, constant below the smallest (it is padded), and proportional above the
    largest, as if the batch were run in parts.

    Args:
        known: pairs of batch size and seconds, ascending, at least one.
        batch: the size.
    """
    at = bisect_left(known, (batch,))
    if at == len(known):
        largest, seconds = known[-1]
        return seconds * batch / largest
    if at == 0 or known[at][0] == batch:
        return known[at][1]
    (low, before), (high, after) = known[at - 1], known[at]
    return before + (after - before) * (batch - low) / (high - low)


def _alike(spec: TensorSpec, given: Tensor) -> bool:
    return (
        spec.datatype == given.datatype
        and len(spec.shape) == len(given.shape)
        and all(size in (-1, has) for size, has in zip(spec.shape, given.shape, strict=True))
    )
