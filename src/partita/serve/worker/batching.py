"""How a worker runs queries: batches run concurrently in threads (`Lanes`), and queries are joined where possible.

`Lanes` checks queries and runs them on the back-end. Back-ends call `run_joined` to run several queries as one batch
and to give each query its own rows of the answer.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.serve.tensors import (
    ITEM_BYTES,
    Answer,
    Query,
    UnlikePartsError,
    cut,
    cut_rows,
    joined,
    stacked_answers,
    unpack_texts,
)
from partita.serve.worker.wire import MOST_DATA, pack_done

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from partita.serve.tensors import Buffer, Tensor
    from partita.serve.worker.backend import Backend
    from partita.serve.worker.connection import Connection


class Turns:
    """Lets one thread at a time run, in the order in which they came."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy = False
        self._waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._lock:
            if not self._busy:
                self._busy = True
                return
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append(gate)
        gate.acquire()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._busy = False


class Lanes:
    """Runs batches in the order of their arrival.

    If only one may run at a time, the thread that reads a batch also runs it: passing it to another thread would cost
    more than everything else that a worker does for a query.

    Args:
        backend: runs the batches.
        count: number of concurrent batches.
        finished: called after each batch, with its connection.
        note: called with a sentence for the log when a batch fails.
        most: maximum bytes of the answers to one batch: a larger frame would end the connection.
        turns: who may run; shared by the models of one worker, of which one runs at a time.
    """

    def __init__(
        self,
        backend: Backend,
        count: int,
        finished: Callable[[Connection], None],
        note: Callable[[str], None],
        most: int = MOST_DATA,
        *,
        turns: Turns | None = None,
    ) -> None:
        self._backend = backend
        self._most = most
        self._finished = finished
        self._note = note
        self._waiting: queue.SimpleQueue[tuple[Connection, int, tuple[Query, ...], float] | None] = (
            queue.SimpleQueue()
        )
        self._turn = turns or Turns()
        self._threads = [
            threading.Thread(target=self._work, args=(lane,), name=f"lane-{lane}", daemon=True)
            for lane in range(count if count > 1 else 0)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, connection: Connection, number: int, queries: tuple[Query, ...]) -> None:
        """Run a batch and answer on its connection; with one lane this blocks until then."""
        came = time.perf_counter()
        if self._threads:
            self._waiting.put((connection, number, queries, came))
            return
        with self._turn:
            done = self._done(0, number, queries, came)
        self._answer(connection, done)

    def close(self) -> None:
        """End the threads after all waiting batches."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, lane: int) -> None:
        while (batch := self._waiting.get()) is not None:
            connection, number, queries, came = batch
            self._answer(connection, self._done(lane, number, queries, came) if connection.open else b"")

    def _answer(self, connection: Connection, done: bytes) -> None:
        connection.answer(done)
        self._finished(connection)

    def _done(self, lane: int, number: int, queries: Sequence[Query], came: float) -> bytes:
        began = time.perf_counter()
        answers = _within(self._most, self._answers(lane, queries))
        return pack_done(number, answers, time.perf_counter() - began, began - came)

    def _answers(self, lane: int, queries: Sequence[Query]) -> Sequence[Answer]:
        faults = [query_fault(query, rows=self._backend.batching.rows) for query in queries]
        sound = [query for query, fault in zip(queries, faults, strict=True) if fault is None]
        answers = iter(self._run(lane, sound) if sound else ())
        return [next(answers) if fault is None else Answer(error=fault, invalid=True) for fault in faults]

    def _run(self, lane: int, queries: Sequence[Query]) -> Sequence[Answer]:
        try:
            answers = self._backend.run(lane, queries)
        except Exception as error:  # noqa: BLE001 -- whatever a model raises, the worker answers and goes on
            why = f"{type(error).__name__}: {error}"
            self._note(f"a batch of {len(queries)} queries failed: {why}")
            return [Answer(error=why)] * len(queries)
        if len(answers) != len(queries):
            return [Answer(error=f"{len(answers)} answers to {len(queries)} queries")] * len(queries)
        return answers


def _within(most: int, answers: Sequence[Answer]) -> list[Answer]:
    """Return the answers, with errors in place of those whose outputs exceed a number of bytes in all."""
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


def query_fault(query: Query, *, rows: bool) -> str | None:
    """Return the fault of a query's sizes, None if it has none.

    Args:
        query: to be checked.
        rows: whether the first size of all its inputs is its batch.
    """
    batch = query.inputs[0].shape[:1] if query.inputs else ()
    for tensor in query.inputs:
        if rows and (tensor.shape[:1] != batch or not batch):
            return f"input {tensor.name} has another batch size than {query.inputs[0].name}"
        fault = _tensor_fault(tensor)
        if fault:
            return f"input {tensor.name} {fault}"
    return None


def _tensor_fault(tensor: Tensor) -> str | None:
    if not all(type(size) is int and size >= 0 for size in tensor.shape):
        return f"has a shape of {list(tensor.shape)}"
    if tensor.datatype == "BYTES":
        return None
    if tensor.datatype not in ITEM_BYTES:
        return f"has the unknown datatype {tensor.datatype}"
    wanted = math.prod(tensor.shape) * ITEM_BYTES[tensor.datatype]
    if wanted != len(tensor.data):
        return f"has {len(tensor.data)} bytes, its shape {list(tensor.shape)} needs {wanted}"
    return None


class InvalidQueryError(Exception):
    """A query itself is at fault, so that a retry is of no use."""


@dataclass(frozen=True, slots=True)
class Joining:
    """How queries may be joined.

    Attributes:
        most: maximum rows of a batch; None for no limit.
        apart: whether each query runs by itself, since the model has no batch dimension.
    """

    most: int | None = None
    apart: bool = False


def run_joined(queries: Sequence[Query], joining: Joining, run: Callable[[Query], Answer]) -> list[Answer]:
    """Return the answers to queries that are run in as few batches as their shapes allow.

    Args:
        queries: of any shapes.
        joining: how they may be joined.
        run: returns the answer to one batch.

    Raises:
        Exception: raised by `run`, except `InvalidQueryError`, which becomes the answer to the query at fault.
    """
    answers: dict[int, Answer] = {}
    for group in _groups(queries, joining):
        members = [queries[index] for index in group]
        answers.update(zip(group, _run_group(members, joining, run), strict=True))
    return [answers[index] for index in range(len(queries))]


def _run_group(members: Sequence[Query], joining: Joining, run: Callable[[Query], Answer]) -> list[Answer]:
    if len(members) == 1:
        return [_run_alone(members[0], joining, run)]
    parts = cut(joined(members), joining.most)
    try:
        whole = stacked_answers([run(part) for part in parts], [part.batch for part in parts])
        found = split(whole, members)
    except (InvalidQueryError, UnlikePartsError):
        found = None  # one of the queries is at fault, and the others must still be answered
    # Without a usable joint answer, each query is run by itself.
    return found or [_run_alone(query, joining, run) for query in members]


def _run_alone(query: Query, joining: Joining, run: Callable[[Query], Answer]) -> Answer:
    parts = [query] if joining.apart else cut(query, joining.most)
    try:
        answers = [run(part) for part in parts]
        found = stacked_answers(answers, [part.batch for part in parts])
        return found._replace(outputs=_wanted(query, found.outputs))
    except InvalidQueryError as error:
        return Answer(error=str(error), invalid=True)
    except UnlikePartsError as error:
        return Answer(error=f"the query was run in parts, and {error}")


def _groups(queries: Sequence[Query], joining: Joining) -> Iterable[list[int]]:
    if joining.apart:
        return [[index] for index in range(len(queries))]
    alike: dict[object, list[int]] = {}
    for index, query in enumerate(queries):
        key = frozenset((each.name, each.datatype, tuple(each.shape[1:])) for each in query.inputs)
        # A query without rows runs by itself, so that the model decides about it; so does a query with parameters,
        # which must not apply to others.
        alike.setdefault(key if query.batch and not query.parameters else index, []).append(index)
    return alike.values()


def split(answer: Answer, queries: Sequence[Query]) -> list[Answer] | None:
    """Return each query's rows of the answer to a joint batch; None if an output does not have the batch's rows."""
    rows = [query.batch for query in queries]
    if any(each.shape[:1] != (sum(rows),) for each in answer.outputs):
        return None
    cuts = [cut_rows(each, rows) for each in answer.outputs]
    return [
        Answer(_wanted(query, [each[index] for each in cuts]), parameters=answer.parameters)
        for index, query in enumerate(queries)
    ]


def _wanted(query: Query, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    if not query.outputs:
        return tuple(outputs)
    by_name = {each.name: each for each in outputs}
    if unknown := [name for name in query.outputs if name not in by_name]:
        raise InvalidQueryError(f"there is no output {', '.join(unknown)}")
    return tuple(by_name[name] for name in query.outputs)


def decode_texts(data: Buffer) -> list[bytes]:
    """Return the elements of a BYTES tensor.

    Raises:
        InvalidQueryError: the data end within an element.
    """
    try:
        return unpack_texts(data)
    except ValueError as error:
        raise InvalidQueryError(str(error)) from None
