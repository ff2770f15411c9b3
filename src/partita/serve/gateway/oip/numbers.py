"""A tensor's data as lists of JSON, and back.

`array` and `struct` of the standard library make bytes of a list in a third of the time that numpy takes; the other
way numpy is handed to orjson, which writes numbers without making Python objects of them.
"""

from __future__ import annotations

from array import array
from itertools import chain
from math import isnan
from struct import pack
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from partita.serve.gateway.oip.faults import RequestError
from partita.serve.gateway.oip.strings import pack_strings, unpack_strings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from partita.serve.tensors import Tensor

NO_JSON = frozenset({"FP16", "BF16"})
"""Datatypes without a form in JSON: their data are binary both ways."""
_CODES = {
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP32": "f",
    "FP64": "d",
}
_FLOATS = frozenset({"FP32", "FP64"})
_NUMBERS = {int, float}
_NUMPY = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP32": "<f4",
    "FP64": "<f8",
}


def from_lists(tensor: Mapping[str, Any], count: int, most_strings: int) -> bytes:
    """Return the data of a tensor that came as lists, nested as its shape or flat.

    Args:
        tensor: as JSON has it, its name, datatype and shape checked.
        count: of its elements.
        most_strings: elements of BYTES that it may have.

    Raises:
        RequestError: wrong numbers of elements, or elements of another type or out of range.
    """
    name, datatype = tensor["name"], tensor["datatype"]
    if datatype in NO_JSON:
        raise RequestError(
            f"input {name}: {datatype} has no form in JSON; send it as binary data", reason="datatype"
        )
    return from_flat(name, datatype, _flat(name, tensor["shape"], count, tensor.get("data")), most_strings)


def from_flat(name: str, datatype: str, flat: list[Any], most_strings: int) -> bytes:
    """Return the data of a tensor whose elements, as many as it has, are a list; raises as `from_lists` does."""
    kinds = set(map(type, flat))
    if datatype in _FLOATS:
        _check_kinds(name, datatype, kinds, _NUMBERS)
        try:
            return pack(f"<{len(flat)}{_CODES[datatype]}", *flat)
        except OverflowError:  # infinite ones that say so are not too large
            raise RequestError(
                f"input {name}: a number is out of range of {datatype}", reason="data"
            ) from None
    if datatype == "BYTES":
        return _strings(name, flat, kinds, most_strings)
    if datatype == "BOOL":
        _check_kinds(name, datatype, kinds, {bool})
        return bytes(flat)
    _check_kinds(name, datatype, kinds, {int})
    try:
        return array(_CODES[datatype], flat).tobytes()
    except OverflowError:
        raise RequestError(f"input {name}: a number is out of range of {datatype}", reason="data") from None


def to_list(tensor: Tensor) -> object:
    """Return a tensor's data, flat, for orjson with OPT_SERIALIZE_NUMPY.

    Raises:
        RequestError: its elements have no form in JSON.
    """
    if tensor.datatype == "BYTES":
        try:
            return [each.decode() for each in unpack_strings(tensor.data)]
        except UnicodeDecodeError:
            raise RequestError(
                f"output {tensor.name} is no UTF-8 text; ask for it as binary data", reason="data"
            ) from None
    if tensor.datatype in NO_JSON:
        raise no_json(tensor.name, tensor.datatype)
    return np.frombuffer(bytes(tensor.data), _NUMPY[tensor.datatype])


def with_tokens(numbers: object) -> object:
    """Return numbers for orjson, those that JSON lacks as the tokens NaN, Infinity and -Infinity; others as they are.

    These tokens are what Triton writes, and what its clients and Python read. orjson writes null in their place.
    """
    if not isinstance(numbers, np.ndarray) or numbers.dtype.kind != "f" or np.isfinite(numbers).all():
        return numbers
    between = orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY).split(b"null")
    bad = numbers[~np.isfinite(numbers)].tolist()
    tokens = [b"NaN" if isnan(each) else b"Infinity" if each > 0 else b"-Infinity" for each in bad]
    text = b"".join(chain.from_iterable(zip(between, [*tokens, b""], strict=True)))
    return orjson.Fragment(text)


def no_json(name: str, datatype: str) -> RequestError:
    """Return what is said of an output that was not asked for as binary data and has no other form."""
    return RequestError(
        f"output {name}: {datatype} has no form in JSON; ask for it as binary data", reason="datatype"
    )


def _flat(name: str, shape: Sequence[int], count: int, data: object) -> list[Any]:
    if not isinstance(data, list):
        raise RequestError(f"input {name}: data is no list", reason="data")
    flat: list[Any] = data
    depth = 0
    while flat and type(flat[0]) is list:
        lengths = {len(each) if type(each) is list else -1 for each in flat}
        depth += 1
        if depth >= len(shape) or len(flat) != _product(shape[:depth]) or lengths != {shape[depth]}:
            raise RequestError(
                f"input {name}: its lists are not nested as its shape {list(shape)}", reason="shape"
            )
        flat = list(chain.from_iterable(flat))
    if len(flat) != count:
        raise RequestError(
            f"input {name}: {len(flat)} elements, and shape {list(shape)} has {count}", reason="shape"
        )
    return flat


def _product(sizes: Sequence[int]) -> int:
    found = 1
    for size in sizes:
        found *= size
    return found


def _check_kinds(name: str, datatype: str, kinds: set[type], allowed: set[type]) -> None:
    if not kinds <= allowed:
        words = ", ".join(sorted(_WORDS.get(kind, "nothing known") for kind in kinds - allowed))
        raise RequestError(f"input {name}: {words} among elements of {datatype}", reason="datatype")


_WORDS = {
    int: "whole numbers",
    float: "fractions",
    str: "texts",
    bool: "true or false",
    list: "lists",
    dict: "objects",
    type(None): "null",
}


def _strings(name: str, flat: list[Any], kinds: set[type], most: int) -> bytes:
    _check_kinds(name, "BYTES", kinds, {str})
    if len(flat) > most:
        raise RequestError(f"input {name}: {len(flat)} elements of BYTES, {most} at most", 413)
    return pack_strings([each.encode() for each in flat])
