"""Several queries run as few batches as may be, and their outputs handed back to each."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.serve.rows import UnlikePartsError, cut, cut_rows, joined, stacked_answers
from partita.serve.tensors import Answer, Query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from partita.serve.tensors import Buffer, Tensor

_LENGTH = struct.Struct("<I")


class InvalidQueryError(Exception):
    """A query is to blame for its failure, not who ran it."""


@dataclass(frozen=True, slots=True)
class Joining:
    """How queries may be put together.

    Attributes:
        most: rows of the largest batch that may run at once; None for no limit.
        apart: whether every query runs by itself, as the model has no batch dimension.
    """

    most: int | None = None
    apart: bool = False


def run_joined(queries: Sequence[Query], joining: Joining, run: Callable[[Query], Answer]) -> list[Answer]:
    """Return the answers to queries that are run in as few batches as their shapes allow.

    Args:
        queries: of any shapes.
        joining: how they may be put together.
        run: returns the answer to one batch.

    Raises:
        Exception: what `run` raised, `InvalidQueryError` apart: that is the answer to the query to blame.
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
        found = None  # one of them is to blame; the others are not to suffer for it
    # Outputs of other sizes than the batch cannot be told apart: then each query is run for itself.
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
        return Answer(error=f"it was run in parts, and {error}")


def _groups(queries: Sequence[Query], joining: Joining) -> Iterable[list[int]]:
    if joining.apart:
        return [[index] for index in range(len(queries))]
    alike: dict[object, list[int]] = {}
    for index, query in enumerate(queries):
        key = frozenset((each.name, each.datatype, tuple(each.shape[1:])) for each in query.inputs)
        # The model alone says what it makes of no rows: beside others' it would not be asked. And what else a client
        # says is not said for others.
        alike.setdefault(key if query.batch and not query.parameters else index, []).append(index)
    return alike.values()


def split(answer: Answer, queries: Sequence[Query]) -> list[Answer] | None:
    """Return each query's rows of the answer to their joint batch; None if its outputs are not rows of the batch."""
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


def encode_texts(texts: Iterable[bytes]) -> bytes:
    """Return the data of a BYTES tensor: each element after its length in four bytes, little-endian."""
    return b"".join(_LENGTH.pack(len(text)) + text for text in texts)


def decode_texts(data: Buffer) -> list[bytes]:
    """Return the elements of a BYTES tensor.

    Raises:
        InvalidQueryError: the data end within one.
    """
    view, at, found = memoryview(data), 0, []
    while at < len(view):
        size = _LENGTH.unpack_from(view, at)[0] if len(view) - at >= _LENGTH.size else len(view)
        at += _LENGTH.size
        if at + size > len(view):
            raise InvalidQueryError("the data of a BYTES tensor end within an element")
        found.append(bytes(view[at : at + size]))
        at += size
    return found
