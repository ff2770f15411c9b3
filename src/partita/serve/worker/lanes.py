"""The threads that run batches: one for each that may run side by side."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING

from partita.serve.tensors import Answer
from partita.serve.worker.check import query_fault
from partita.serve.worker.frames import MOST_DATA
from partita.serve.worker.wire import pack_done

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from partita.serve.tensors import Query
    from partita.serve.worker.backend import Backend
    from partita.serve.worker.connection import Connection


class Lanes:
    """Runs batches in the order in which they came.

    Where only one may run at once, the thread that brings it runs it: to hand it to another would cost more than all
    else that a worker does for a query.

    Args:
        backend: runs each.
        count: how many run side by side.
        finished: told after each.
        note: told why one failed.
        most: bytes that the answers to one batch may have: no frame holds more, and one that says so would end the
            connection, and the worker with it.
    """

    def __init__(
        self,
        backend: Backend,
        count: int,
        finished: Callable[[], None],
        note: Callable[[str], None],
        most: int = MOST_DATA,
    ) -> None:
        self._backend = backend
        self._most = most
        self._finished = finished
        self._note = note
        self._waiting: queue.SimpleQueue[tuple[Connection, int, tuple[Query, ...]] | None] = (
            queue.SimpleQueue()
        )
        self._turn = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, args=(lane,), name=f"lane-{lane}", daemon=True)
            for lane in range(count if count > 1 else 0)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, connection: Connection, number: int, queries: tuple[Query, ...]) -> None:
        """Have a batch run, and its connection told; by then if only one may run at once."""
        if self._threads:
            self._waiting.put((connection, number, queries))
            return
        with self._turn:
            done = self._done(0, number, queries)
        self._answer(connection, done)

    def close(self) -> None:
        """End the threads when they have run what waits."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, lane: int) -> None:
        while (batch := self._waiting.get()) is not None:
            connection, number, queries = batch
            self._answer(connection, self._done(lane, number, queries) if connection.open else b"")

    def _answer(self, connection: Connection, done: bytes) -> None:
        connection.answer(done)
        self._finished()

    def _done(self, lane: int, number: int, queries: Sequence[Query]) -> bytes:
        began = time.perf_counter()
        answers = _within(self._most, self._answers(lane, queries))
        return pack_done(number, answers, time.perf_counter() - began)

    def _answers(self, lane: int, queries: Sequence[Query]) -> Sequence[Answer]:
        faults = [query_fault(query, rows=self._backend.batching.rows) for query in queries]
        sound = [query for query, fault in zip(queries, faults, strict=True) if fault is None]
        answers = iter(self._run(lane, sound) if sound else ())
        return [next(answers) if fault is None else Answer(error=fault, invalid=True) for fault in faults]

    def _run(self, lane: int, queries: Sequence[Query]) -> Sequence[Answer]:
        try:
            answers = self._backend.run(lane, queries)
        except Exception as error:  # noqa: BLE001 -- whatever a model does, the worker answers and goes on
            why = f"{type(error).__name__}: {error}"
            self._note(f"a batch of {len(queries)} queries failed: {why}")
            return [Answer(error=why)] * len(queries)
        if len(answers) != len(queries):
            return [Answer(error=f"{len(answers)} answers to {len(queries)} queries")] * len(queries)
        return answers


def _within(most: int, answers: Sequence[Answer]) -> list[Answer]:
    """Return the answers, without the outputs that are more than so many bytes, by themselves or together."""
    left, found = most, []
    for answer in answers:
        size = sum(len(each.data) for each in answer.outputs)
        if size > left:
            what = "its outputs have" if size > most else "outputs of its batch have, with its own,"
            answer = Answer(  # noqa: PLW2901 -- in its place
                error=f"{what} more than the {most} bytes that an answer may have", invalid=size > most
            )
        else:
            left -= size
        found.append(answer)
    return found
