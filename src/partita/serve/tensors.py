"""Tensors and queries of the Open Inference Protocol v2, as the gateway and its workers hand them on.

A tensor's data are raw bytes in row-major order, little-endian, as the protocol's binary tensor extension has them;
elements of type BYTES each follow their length in four bytes. Nothing is decoded on the way from client to worker.

What is made for each query is a named tuple: that takes half the time of a frozen dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview
Parameters: TypeAlias = dict[str, dict[str, Any]]
"""The protocol's parameters: of a request or an answer itself under the empty name, of a tensor under its own."""

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
"""Bytes of one element of each datatype of fixed size; BYTES is the one without."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a model takes or gives.

    Attributes:
        name: of the tensor.
        datatype: of its elements.
        shape: -1 is any size.
        symbols: what the model calls its dimensions, empty texts where it calls them nothing; no texts at all if it
            names none. Dimensions of one name have one size in a query.
        optional: whether a query may leave this input out.
        any_rank: whether it may have any number of dimensions, as the model says nothing of them; `shape` is empty.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    symbols: tuple[str, ...] = ()
    optional: bool = False
    any_rank: bool = False


@dataclass(frozen=True, slots=True)
class Batching:
    """Whether the first dimension of a model's tensors is a batch: rows that do not influence each other's answers.

    Attributes:
        rows: whether it is. Only then may queries be joined along it, and large ones split.
        most: rows that a query may have; 0 where whoever owns the model sets no limit.
        why: how that is known, or why it is not.
    """

    rows: bool = False
    most: int = 0
    why: str = ""


APART = Batching()
"""What is assumed of a model of which nothing is said."""


class Tensor(NamedTuple):
    """A tensor with its data."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Buffer


class Query(NamedTuple):
    """One request as a worker sees it.

    Attributes:
        inputs: all with the same first dimension if that is a batch.
        outputs: names of the outputs asked for; all of them if empty.
        parameters: what else the client says, for servers that know what it means; None if nothing.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...] = ()
    parameters: Parameters | None = None

    @property
    def batch(self) -> int:
        """The first size of its first input, which is its batch size if the model has one; 1 without dimensions."""
        shape = self.inputs[0].shape if self.inputs else ()
        return shape[0] if shape else 1


class Answer(NamedTuple):
    """What became of one query in a worker.

    Attributes:
        outputs: in the order asked for.
        error: why there are none.
        invalid: whether the query is to blame, so that trying it again elsewhere is of no use.
        parameters: what else the server says; None if nothing.
    """

    outputs: tuple[Tensor, ...] = ()
    error: str | None = None
    invalid: bool = False
    parameters: Parameters | None = None
