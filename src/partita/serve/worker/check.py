"""Whether a query is what it says: a worker believes nobody's sizes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from partita.serve.tensors import ITEM_BYTES

if TYPE_CHECKING:
    from partita.serve.tensors import Query, Tensor


def query_fault(query: Query, *, rows: bool) -> str | None:
    """Return what is wrong with a query's sizes, None if nothing is.

    Args:
        query: as it came.
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
