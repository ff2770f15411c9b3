"""A worker that hangs when it is asked to, and takes as long as its inputs: `python hanging.py SPEC.json`.

It is a real worker but for its back-end, in which the first byte of a query says what happens. An emulated worker
sleeps, and gives signs of life whatever it is asked; models that hang do not all leave that to it.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from typing import TYPE_CHECKING

from partita.serve.worker import main as worker
from partita.serve.worker.emulated import EmulatedBackend
from partita.serve.worker.spec import EmulatedSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.serve.tensors import Answer, Query
    from partita.serve.worker.spec import WorkerSpec

HOLDS_INTERPRETER, COMPUTES_HOLDING_IT, LOOPS, DEADLOCKS = 101, 102, 103, 104
COMPUTED_S = 1.6
BYTE_S = 1e-6
"""Seconds for each byte of a query, where the model takes tensors of any size."""


class Hanging(EmulatedBackend):
    """Answers like an emulated worker, unless it is told to hang."""

    def run(self, lane: int, queries: Sequence[Query]) -> Sequence[Answer]:
        asked = bytes(queries[0].inputs[0].data)[0]
        if asked == HOLDS_INTERPRETER:
            ctypes.PyDLL(None).sleep(600)  # as a native operation that waits and does not let go
        elif asked == COMPUTES_HOLDING_IT:
            compute(COMPUTED_S)
        elif asked == LOOPS:
            while True:
                pass
        elif asked == DEADLOCKS:
            lock = threading.Lock()
            lock.acquire()
            lock.acquire()
        elif -1 in self.inputs[0].shape[1:]:
            time.sleep(len(queries[0].inputs[0].data) * BYTE_S)
        return super().run(lane, queries)


def compute(seconds: float) -> None:
    """Use a core for about so long, in one call that does not let go of the interpreter."""
    began = time.process_time()
    sum(range(1_000_000))
    took = time.process_time() - began
    sum(range(int(1_000_000 * seconds / max(took, 1e-3))))


def load(spec: WorkerSpec) -> Hanging:
    assert isinstance(spec.backend, EmulatedSpec)
    return Hanging(spec.backend, spec.seconds)


if __name__ == "__main__":
    vars(worker)["load"] = load
    sys.exit(worker.main(sys.argv[1:]))
