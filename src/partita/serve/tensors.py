"""Tensors and queries of the Open Inference Protocol v2, as the gateway and its workers hand them on.

A tensor's data are raw bytes in row-major order, little-endian, as the protocol's binary tensor extension has them;
elements of type BYTES each follow their length in four bytes. Nothing is decoded on the way from client to worker.

What is made for each query is a named tuple: that takes half the time of a frozen dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

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
    """What a model takes or gives: -1 in `shape` is any size. The first dimension is the batch."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Tensor(NamedTuple):
    """A tensor with its data."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Buffer


class Query(NamedTuple):
    """One request as a worker sees it.

    Attributes:
        inputs: all with the same first dimension, the query's batch size.
        outputs: names of the outputs asked for; all of them if empty.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...] = ()

    @property
    def batch(self) -> int:
        """The query's batch size, 1 where its inputs have no dimensions."""
        shape = self.inputs[0].shape if self.inputs else ()
        return shape[0] if shape else 1


class Answer(NamedTuple):
    """What became of one query in a worker.

    Attributes:
        outputs: in the order asked for.
        error: why there are none.
        invalid: whether the query is to blame, so that trying it again elsewhere is of no use.
    """

    outputs: tuple[Tensor, ...] = ()
    error: str | None = None
    invalid: bool = False
