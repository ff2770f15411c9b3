"""Answers that are more than a frame may hold are told to whoever asked, and cost nobody the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from partita.serve.tensors import APART, Answer, Query, Tensor
from partita.serve.worker.frames import Frames
from partita.serve.worker.lanes import Lanes
from partita.serve.worker.wire import unpack_done

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from partita.serve.worker.backend import Backend
    from partita.serve.worker.connection import Connection


class Growing:
    """Answers with as many bytes as a query's first one says."""

    batching = APART

    def run(self, _: int, queries: Sequence[Query]) -> Sequence[Answer]:
        sizes = [bytes(query.inputs[0].data)[0] for query in queries]
        return [Answer((Tensor("Y", "UINT8", (size,), bytes(size)),)) for size in sizes]


class Kept:
    """A connection whose answers are kept; a stream of them too."""

    open = True
    left = b""

    def answer(self, message: bytes) -> None:
        self.left += message

    def recv(self, size: int) -> bytes:
        taken, self.left = self.left[:size], self.left[size:]
        return taken


def test_answers_that_no_frame_holds_are_told() -> None:
    kept = Kept()
    lanes = Lanes(cast("Backend", Growing()), 1, lambda: None, lambda _: None, most=100)
    queries = tuple(Query((Tensor("X", "UINT8", (1,), bytes([size])),)) for size in (60, 101, 50, 40))
    lanes.put(cast("Connection", kept), 7, queries)
    frame = Frames(cast("socket.socket", kept)).next()
    assert frame is not None
    first, alone, together, last = unpack_done(frame.header, frame.data)[0]
    assert [len(each.outputs[0].data) for each in (first, last)] == [60, 40]
    assert (alone.invalid, alone.error) == (
        True,
        "its outputs have more than the 100 bytes that an answer may have",
    )
    assert not together.invalid  # by itself, elsewhere, it has an answer
    assert "outputs of its batch" in str(together.error)
