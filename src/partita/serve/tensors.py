"""Tensors and queries of the Open Inference Protocol v2, and how they are joined and split.

A tensor's data are raw bytes, row-major and little-endian, as in the protocol's binary tensor extension. Each element
of type BYTES follows its length in four bytes. Nothing is decoded between client and worker.

Types of which each query needs one are named tuples: making one takes half the time of a frozen dataclass.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeAlias

from partita.documents.codec import FieldFault, Meta, Value, check
from partita.errors import InputError, counted
from partita.serve.trace_context import shared_context

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from partita.serve.trace_context import TraceContext


Buffer: TypeAlias = bytes | bytearray | memoryview
Parameters: TypeAlias = dict[str, dict[str, Any]]
"""The protocol's parameters: by tensor name, and under the empty name those of the whole request or answer."""
ITEM_BYTES = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "BF16": 2,
    "FP32": 4,
    "FP64": 8,
}
"""Bytes of one element of each datatype of fixed size, which is all but BYTES."""
_LENGTH = struct.Struct("<I")


def _datatype(text: str) -> None:
    if text not in ITEM_BYTES and text != "BYTES":
        raise InputError(f"unknown datatype {text!r}", hint=f"datatypes are {', '.join(ITEM_BYTES)}, BYTES")


class TensorSpec(Value):
    """An input or output of a model.

    Attributes:
        name: of the tensor.
        datatype: of its elements.
        shape: sizes of its dimensions; -1 for any size.
        symbols: the model's names for the dimensions, empty for a dimension without a name; no entries if no
            dimension has one. Dimensions of the same name have the same size in a query.
        optional: whether a query may leave this input out.
        any_rank: whether the model leaves the number of dimensions open; `shape` is then empty.
    """

    name: Annotated[str, Meta(min_length=1)]
    datatype: Annotated[str, check(_datatype)]
    shape: tuple[Annotated[int, Meta(ge=-1)], ...]
    symbols: tuple[str, ...] = ()
    optional: bool = False
    any_rank: bool = False

    def faults(self) -> Iterator[FieldFault]:
        """Yield what is wrong between the fields."""
        if self.symbols and len(self.symbols) != len(self.shape):
            yield FieldFault(
                ("symbols",),
                "each dimension needs an entry",
                "write a name for each, empty if it has none",
            )
        if self.any_rank and self.shape:
            yield FieldFault(("any_rank",), "is for tensors without a shape", "write shape: []")


class Batching(Value):
    """Whether the first dimension of a model's tensors is a batch of rows with independent answers.

    Attributes:
        rows: whether it is. Only then may queries be joined along it, and large ones split.
        most: maximum rows of a query; 0 if the owner of the model sets no limit.
        why: how that is known, or why it is not known.
    """

    rows: bool = False
    most: int = 0
    why: str = ""


APART = Batching()
"""The default for a model without further information: queries run one by one."""


class Tensor(NamedTuple):
    """A tensor with its data."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Buffer


class Query(NamedTuple):
    """One request as a worker gets it.

    Attributes:
        inputs: all with the same first dimension if that is a batch.
        outputs: names of the requested outputs; empty for all.
        parameters: the client's parameters, which only some servers understand; None if there are none.
        context: of its trace; None if it has none.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...] = ()
    parameters: Parameters | None = None
    context: TraceContext | None = None

    @property
    def batch(self) -> int:
        """The first size of its first input, the batch size if the model has batches; 1 without dimensions."""
        shape = self.inputs[0].shape if self.inputs else ()
        return shape[0] if shape else 1


class Answer(NamedTuple):
    """A worker's answer to one query.

    Attributes:
        outputs: in the requested order.
        error: why there are no outputs; None if there are.
        invalid: whether the query itself is at fault, so that a retry elsewhere is of no use.
        parameters: the server's parameters; None if there are none.
    """

    outputs: tuple[Tensor, ...] = ()
    error: str | None = None
    invalid: bool = False
    parameters: Parameters | None = None


def pack_texts(texts: Iterable[bytes]) -> bytes:
    """Return the data of a BYTES tensor: each element after its length in four bytes, little-endian."""
    return b"".join([part for each in texts for part in (_LENGTH.pack(len(each)), each)])


def unpack_texts(data: Buffer) -> list[bytes]:
    """Return the elements of a BYTES tensor.

    Raises:
        ValueError: the data end within an element.
    """
    view, at, found = memoryview(data), 0, []
    while at < len(view):
        size = _LENGTH.unpack_from(view, at)[0] if len(view) - at >= _LENGTH.size else len(view)
        at += _LENGTH.size
        if at + size > len(view):
            raise ValueError("the data of a BYTES tensor end within an element")
        found.append(bytes(view[at : at + size]))
        at += size
    return found


class UnlikePartsError(Exception):
    """The answers to the parts of a query do not fit together."""


def joined(queries: Sequence[Query]) -> Query:
    """Return one query with the rows of all; their inputs must have equal names, types and sizes beyond the first."""
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
    return Query(inputs, wanted, context=shared_context(query.context for query in queries))


def cut(query: Query, most: int | None) -> list[Query]:
    """Return a query in parts of at most `most` rows, in order; the query itself if it has no more."""
    rows = query.batch
    if most is None or rows <= most:
        return [query]
    sizes = [min(most, rows - start) for start in range(0, rows, most)]
    pieces = [cut_rows(each, sizes) for each in query.inputs]
    return [query._replace(inputs=tuple(piece[index] for piece in pieces)) for index in range(len(sizes))]


def split_off(query: Query, rows: int) -> tuple[Query, Query | None]:
    """Return the first rows of a query, and a query of the rest; None if there is no rest."""
    left = query.batch - rows
    if left <= 0:
        return query, None
    pairs = [_split_off(each, rows) for each in query.inputs]
    first, rest = (query._replace(inputs=tuple(side)) for side in zip(*pairs, strict=True))
    return first, rest


def cut_rows(tensor: Tensor, rows: Sequence[int]) -> list[Tensor]:
    """Return a tensor in parts with these numbers of rows; the parts are views of its data."""
    data = memoryview(tensor.data)
    per_row = math.prod(tensor.shape[1:])
    ends = _ends(tensor.datatype, data, [each * per_row for each in rows])
    return [
        Tensor(tensor.name, tensor.datatype, (each, *tensor.shape[1:]), data[start:end])
        for each, start, end in zip(rows, [0, *ends], ends, strict=False)
    ]


def stacked(parts: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
    """Return the outputs of several batches, concatenated along the rows.

    Raises:
        UnlikePartsError: they differ in names, types or sizes beyond the first.
    """
    if len(parts) == 1:
        return tuple(parts[0])
    if any(len(part) != len(parts[0]) for part in parts):
        raise UnlikePartsError("its parts have different outputs")
    found = []
    for same in zip(*parts, strict=True):
        first = same[0]
        for each in same:
            if (each.name, each.datatype, each.shape[1:]) != (first.name, first.datatype, first.shape[1:]):
                raise UnlikePartsError(
                    f"output {first.name} is {first.datatype} {list(first.shape)} in one part of the query and "
                    f"{each.datatype} {list(each.shape)} in another"
                )
        rows = sum(each.shape[0] for each in same)
        data = b"".join(each.data for each in same)
        found.append(Tensor(first.name, first.datatype, (rows, *first.shape[1:]), data))
    return tuple(found)


def stacked_answers(parts: Sequence[Answer], rows: Sequence[int]) -> Answer:
    """Return the answers to the parts of a query as one answer, with the parameters that are equal in all.

    Args:
        parts: the answers.
        rows: number of rows of each part.

    Raises:
        UnlikePartsError: the outputs differ in names, types or sizes, or do not have the rows of their part.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    for part, wanted in zip(parts, rows, strict=True):
        for each in part.outputs:
            if each.shape[:1] != (wanted,):
                raise UnlikePartsError(
                    f"output {each.name} is {list(each.shape)} for {counted(wanted, 'row')}"
                )
    outputs = stacked([each.outputs for each in parts])
    if first.parameters is None:
        return Answer(outputs)
    common = {
        name: {
            key: value
            for key, value in told.items()
            if all(
                key in (found := (each.parameters or {}).get(name, {})) and found[key] == value
                for each in parts
            )
        }
        for name, told in first.parameters.items()
    }
    return Answer(outputs, parameters={name: told for name, told in common.items() if told} or None)


def _split_off(tensor: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    name, datatype, (all_rows, *further), data = tensor
    view = memoryview(data)
    (end,) = _ends(datatype, view, [rows * math.prod(further)])
    return (
        Tensor(name, datatype, (rows, *further), view[:end]),
        Tensor(name, datatype, (all_rows - rows, *further), view[end:]),
    )


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
