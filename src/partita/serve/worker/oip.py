"""Bodies of the Open Inference Protocol v2: requests written and answers read, with and without binary data."""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING, Any

from partita.files import json_value
from partita.serve.tensors import ITEM_BYTES, Answer, Tensor
from partita.serve.worker.joint import InvalidQueryError, decode_texts, encode_texts
from partita.serve.worker.oip_client import UpstreamError

if TYPE_CHECKING:
    from partita.serve.tensors import Query

_CODES = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}


_FRACTIONS = frozenset({"FP16", "FP32", "FP64"})


def write_query(query: Query, *, binary: bool) -> tuple[int | None, bytes]:
    """Return the length of a body's JSON if binary data follow, else None, and the body.

    Raises:
        InvalidQueryError: a datatype that JSON cannot carry.
    """
    inputs, data, more = [], [], query.parameters or {}
    for each in query.inputs:
        told: dict[str, Any] = {"name": each.name, "datatype": each.datatype, "shape": list(each.shape)}
        if each.name in more:
            told["parameters"] = dict(more[each.name])
        if binary:
            told.setdefault("parameters", {})["binary_data_size"] = len(each.data)
            data.append(each.data)
        else:
            told["data"] = _values(each)
        inputs.append(told)
    document: dict[str, Any] = {"inputs": inputs}
    if query.outputs:
        document["outputs"] = [
            {"name": name, **({"parameters": {"binary_data": True}} if binary else {})}
            for name in query.outputs
        ]
    elif binary:
        document["parameters"] = {"binary_data_output": True}
    if "" in more:
        document["parameters"] = {**more[""], **document.get("parameters", {})}
    text = json.dumps(document, separators=(",", ":")).encode()
    return (len(text) if binary else None), b"".join([text, *data])


def read_answer(body: bytes, header: int | None) -> Answer:
    """Return the answer that a body holds, of whose bytes the first `header` are JSON if it is given.

    Raises:
        UpstreamError: it is no answer.
        InvalidQueryError: the answer has numbers that the server does not tell.
    """
    try:
        document = json_value(bytes(body if header is None else body[:header]))
        data = memoryview(body)[len(body) if header is None else header :]
        found, more = [], {"": dict(document.get("parameters") or {})}
        for each in document["outputs"]:
            name = str(each["name"])
            if name in more or not name:
                raise ValueError(f"output {name!r} is there twice, or without a name")
            more[name] = told = dict(each.get("parameters") or {})
            size = told.pop("binary_data_size", None)
            shape = tuple(_size(one) for one in each["shape"])
            datatype = str(each["datatype"])
            if size is None:
                raw: bytes | memoryview = _packed(name, datatype, each["data"])
            else:
                raw, data = data[: _size(size)], data[_size(size) :]
            found.append(_checked(Tensor(name, datatype, shape, raw)))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, struct.error) as error:
        raise UpstreamError(f"the server's answer cannot be read: {error!r}") from None
    return Answer(tuple(found), parameters={name: told for name, told in more.items() if told} or None)


def _size(told: object) -> int:
    """Return a number of elements or bytes; some servers write 64-bit numbers as texts (protobuf's JSON)."""
    if isinstance(told, str) and told.isascii() and told.isdigit():
        return int(told)
    if isinstance(told, bool) or not isinstance(told, int | float) or told < 0 or told != int(told):
        raise ValueError(f"{told!r} is no size")
    return int(told)


def _checked(tensor: Tensor) -> Tensor:
    name, datatype, shape, data = tensor
    count = math.prod(shape)
    if datatype == "BYTES":
        try:
            found = len(decode_texts(data))
        except InvalidQueryError as error:
            raise ValueError(f"output {name}: {error}") from None
        if found != count:
            raise ValueError(f"output {name} has {found} elements, not {count}")
    elif len(data) != (wanted := count * ITEM_BYTES[datatype]):
        raise ValueError(f"output {name} has {len(data)} bytes, not {wanted}")
    return tensor


def _values(tensor: Tensor) -> list[Any]:
    if tensor.datatype == "BYTES":
        return [_text(each) for each in decode_texts(tensor.data)]
    if tensor.datatype not in _CODES:
        raise InvalidQueryError(f"the server takes no binary data, and JSON cannot carry {tensor.datatype}")
    count = len(tensor.data) // ITEM_BYTES[tensor.datatype]
    return list(struct.unpack(f"<{count}{_CODES[tensor.datatype]}", tensor.data))


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidQueryError("the server takes no binary data, and an element is not UTF-8") from None


def _packed(name: str, datatype: str, values: Any) -> bytes:  # noqa: ANN401 -- nested lists of anything
    if not isinstance(values, list):
        raise TypeError(f"the data of output {name} are no list")
    flat = list(_flat(values))
    if None in flat:
        what = "null where it has NaN or an infinity" if datatype in _FRACTIONS else "null for an element"
        raise InvalidQueryError(f"output {name}: the server writes {what}, and which it is cannot be told")
    if datatype == "BYTES":
        return encode_texts(_written(each) for each in flat)
    if datatype == "BOOL" and not all(each in (0, 1) for each in flat):
        raise ValueError(f"output {name} is BOOL, and not all of its elements are true or false")
    return struct.pack(f"<{len(flat)}{_CODES[datatype]}", *flat)


def _written(value: object) -> bytes:
    """Return an element of a BYTES tensor; numbers among texts are taken as they are written."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError(f"{value!r} is no text")
    return str(value).encode()


def _flat(values: Any) -> Any:  # noqa: ANN401 -- nested lists of anything
    for each in values:
        if isinstance(each, list):
            yield from _flat(each)
        else:
            yield each
