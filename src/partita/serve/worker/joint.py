"""Several queries as one batch, and its outputs as theirs again: on raw bytes, as tensors are in row-major order."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.serve.tensors import ITEM_BYTES, Answer, Query, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from partita.serve.tensors import Buffer

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


def run_joined(
    queries: Sequence[Query], joining: Joining, run: Callable[[Query], tuple[Tensor, ...]]
) -> list[Answer]:
    """Return the answers to queries that are run in as few batches as their shapes allow.

    Args:
        queries: of any shapes.
        joining: how they may be put together.
        run: returns the outputs of one batch, whose first dimension is that of its inputs unless `apart`.

    Raises:
        Exception: what `run` raised, `InvalidQueryError` apart: that is the answer to the query to blame.
    """
    answers: dict[int, Answer] = {}
    for group in _groups(queries, joining):
        members = [queries[index] for index in group]
        answers.update(zip(group, _run_group(members, joining, run), strict=True))
    return [answers[index] for index in range(len(queries))]


def _run_group(
    members: Sequence[Query], joining: Joining, run: Callable[[Query], tuple[Tensor, ...]]
) -> list[Answer]:
    try:
        if joining.apart:
            return [Answer(_wanted(query, run(query))) for query in members]
        parts = [run(part) for part in _in_parts(joined(members), joining.most)]
        outputs = parts[0] if len(parts) == 1 else _stacked(parts)
        return split(outputs, members)
    except InvalidQueryError as error:
        if len(members) == 1:
            return [Answer(error=str(error), invalid=True)]
    # One of them is to blame; the others are not to suffer for it.
    return [_run_group([query], joining, run)[0] for query in members]


def _groups(queries: Sequence[Query], joining: Joining) -> Iterable[list[int]]:
    if joining.apart:
        return [[index] for index in range(len(queries))]
    alike: dict[object, list[int]] = {}
    for index, query in enumerate(queries):
        key = frozenset((each.name, each.datatype, tuple(each.shape[1:])) for each in query.inputs)
        alike.setdefault(key, []).append(index)
    return alike.values()


def joined(queries: Sequence[Query]) -> Query:
    """Return one query with the rows of all, which must have inputs of the same names, types and further sizes."""
    if len(queries) == 1:
        return queries[0]
    rows = sum(query.batch for query in queries)
    by_name = [{each.name: each.data for each in query.inputs} for query in queries]
    inputs = tuple(
        Tensor(
            each.name,
            each.datatype,
            (rows, *each.shape[1:]),
            b"".join(one[each.name] for one in by_name),
        )
        for each in queries[0].inputs
    )
    asked = [query.outputs for query in queries]
    wanted = tuple(dict.fromkeys(name for names in asked for name in names)) if all(asked) else ()
    return Query(inputs, wanted)


def split(outputs: Sequence[Tensor], queries: Sequence[Query]) -> list[Answer]:
    """Return each query's rows of the outputs of their joint batch.

    Raises:
        ValueError: an output's first dimension is not the batch.
    """
    total = sum(query.batch for query in queries)
    for each in outputs:
        if not each.shape or each.shape[0] != total:
            raise ValueError(
                f"output {each.name} of shape {list(each.shape)} does not have the batch of {total}"
            )
    if len(queries) == 1:
        return [Answer(_wanted(queries[0], outputs))]
    cuts = [_cuts(each, [query.batch for query in queries]) for each in outputs]
    return [
        Answer(
            _wanted(
                query,
                [
                    Tensor(each.name, each.datatype, (query.batch, *each.shape[1:]), pieces[index])
                    for each, pieces in zip(outputs, cuts, strict=True)
                ],
            )
        )
        for index, query in enumerate(queries)
    ]


def _wanted(query: Query, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    if not query.outputs:
        return tuple(outputs)
    by_name = {each.name: each for each in outputs}
    if unknown := [name for name in query.outputs if name not in by_name]:
        raise InvalidQueryError(f"there is no output {', '.join(unknown)}")
    return tuple(by_name[name] for name in query.outputs)


def _cuts(tensor: Tensor, batches: Sequence[int]) -> list[memoryview]:
    data = memoryview(tensor.data)
    per_row = math.prod(tensor.shape[1:])
    ends = _ends(tensor.datatype, data, [rows * per_row for rows in batches])
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _ends(datatype: str, data: memoryview, elements: Sequence[int]) -> list[int]:
    ends, at = [], 0
    for count in elements:
        if datatype in ITEM_BYTES:
            at += count * ITEM_BYTES[datatype]
        else:
            for _ in range(count):
                at += _LENGTH.size + _LENGTH.unpack_from(data, at)[0]
        ends.append(at)
    return ends


def _in_parts(query: Query, most: int | None) -> list[Query]:
    """Return a query in parts of at most so many rows."""
    rows = query.batch
    if most is None or rows <= most:
        return [query]
    sizes = [min(most, rows - start) for start in range(0, rows, most)]
    pieces = [_cuts(each, sizes) for each in query.inputs]
    return [
        Query(
            tuple(
                Tensor(each.name, each.datatype, (size, *each.shape[1:]), piece[index])
                for each, piece in zip(query.inputs, pieces, strict=True)
            ),
            query.outputs,
        )
        for index, size in enumerate(sizes)
    ]


def _stacked(parts: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            same[0].name,
            same[0].datatype,
            (sum(each.shape[0] for each in same), *same[0].shape[1:]),
            b"".join(each.data for each in same),
        )
        for same in zip(*parts, strict=True)
    )


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
