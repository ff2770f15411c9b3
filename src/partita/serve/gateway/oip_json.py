"""Inference requests and answers as HTTP bodies: JSON, followed by the data of binary tensors.

`array` and `struct` of the standard library make bytes from a list in a third of numpy's time. In the other direction
orjson writes numpy arrays without making Python objects of their numbers.
"""

from __future__ import annotations

import json
from array import array
from itertools import chain
from math import isfinite, isnan, prod
from struct import pack
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from partita.serve.gateway.oip import (
    NO_JSON,
    VERSION,
    RequestError,
    check_data,
    check_parameters,
    deadline_of,
    elements,
    others,
    quoted,
)
from partita.serve.tensors import Query, Tensor, pack_texts, unpack_texts

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from partita.serve.gateway.oip import RequestLimits, Signature
    from partita.serve.tensors import Answer, Buffer, Parameters


class InferRequest(NamedTuple):
    """An inference request.

    Attributes:
        query: for the model.
        id: the client's id of the request, which the answer repeats; empty if there is none.
        deadline_s: seconds from its arrival; None for the service's own deadline.
        binary: whether an output's data are sent as binary, by output.
        binary_default: for outputs that are not in `binary`.
    """

    query: Query
    id: str
    deadline_s: float | None
    binary: Mapping[str, bool]
    binary_default: bool


def read_request(
    body: bytes, header_length: int | None, signature: Signature, limits: RequestLimits
) -> InferRequest:
    """Return the request in an HTTP body.

    Args:
        body: the whole body.
        header_length: bytes of JSON before the binary data; None if all of it is JSON.
        signature: of the model.
        limits: of requests.

    Raises:
        RequestError: the request has a fault.
    """
    known = _known(signature.layouts, body, header_length, limits.strings)
    if known is not None:
        return known
    document = _document(body, header_length, limits)
    parameters = _parameters(document)
    tensors = _tensors(document, body, header_length, signature, limits)
    listed = _items(document, "outputs", signature.most_outputs(limits)) if "outputs" in document else []
    default = _flag(parameters, "binary_data_output")
    names, binary = _outputs(listed, default=default) if listed else ((), _NOTHING)
    query = signature.query(tensors, names)
    for name in signature.binary_only:
        if not binary.get(name, default) and (not names or name in names):
            raise _no_json(name, "a half-precision datatype")
    if parameters or any(each.get("parameters") for each in document["inputs"]):
        more = others({"": parameters} | {each["name"]: _parameters(each) for each in document["inputs"]})
        query = query._replace(parameters=more) if more else query
    identity = document.get("id", "")
    if type(identity) is not str or len(identity) > limits.name:
        raise RequestError(f"id is {quoted(identity)}, not a text of at most {limits.name} characters")
    request = InferRequest(query, identity, deadline_of(parameters, limits), binary, default)
    if not identity:
        _keep(signature.layouts, body, header_length, document, request)
    return request


# Layouts: clients send requests of the same form again and again. A request that differs from a checked one only in
# its data need not be checked again. The key of a layout is the bytes around the data. `read_request` reads every
# other request in full, and every invalid one.

_MOST_LAYOUTS = 512
_LONGEST_LAYOUT = 1024
"""Maximum bytes around the data of a request with a layout."""
Layouts = dict["Hashable", Any]
"""Layouts by the bytes around their data: the JSON before binary data, or the texts before and after a list."""


class _BinaryLayout(NamedTuple):
    """A request with only binary data: each tensor's name, datatype, shape, begin and end, and the body's size."""

    request: InferRequest
    tensors: tuple[tuple[str, str, tuple[int, ...], int, int], ...]
    size: int


class _ListLayout(NamedTuple):
    """A request with one input whose data are a flat list."""

    request: InferRequest
    name: str
    datatype: str
    shape: tuple[int, ...]
    elements: int


def _known(
    layouts: Layouts, body: bytes, header_length: int | None, most_strings: int
) -> InferRequest | None:
    """Return the request in a body with a known layout; None if it has to be read in full."""
    if header_length is None:
        return _known_list(layouts, body, most_strings)
    binary: _BinaryLayout | None = (
        layouts.get(body[:header_length]) if header_length <= _LONGEST_LAYOUT else None
    )
    if binary is None or binary.size != len(body):
        return None
    view = memoryview(body)
    return _with(
        binary.request,
        tuple(
            [
                Tensor(name, datatype, shape, view[begin:end])
                for name, datatype, shape, begin, end in binary.tensors
            ]
        ),
    )


def _known_list(layouts: Layouts, body: bytes, most_strings: int) -> InferRequest | None:
    begin, end = _list_in(body)
    if end <= 0 or begin + len(body) - end > _LONGEST_LAYOUT:
        return None
    listed: _ListLayout | None = layouts.get((body[:begin], body[end:]))
    if listed is None:
        return None
    request, name, datatype, shape, count = listed
    try:
        flat = orjson.loads(body[begin:end])
        if len(flat) != count:
            return None
        data = _packed(name, datatype, flat, most_strings)
    except (orjson.JSONDecodeError, RequestError):
        return None  # `read_request` reports the fault
    return _with(request, (Tensor(name, datatype, shape, data),))


def _keep(
    layouts: Layouts,
    body: bytes,
    header_length: int | None,
    document: dict[str, Any],
    request: InferRequest,
) -> None:
    """Remember a request that has been read in full, if others may be like it."""
    # Without its data, which would be kept alive with it.
    bare, given = request._replace(query=request.query._replace(inputs=())), document["inputs"]
    key: Hashable
    layout: _BinaryLayout | _ListLayout
    if header_length is not None:
        if header_length > _LONGEST_LAYOUT or any(
            each["datatype"] == "BYTES" or "data" in each for each in given
        ):
            return
        begins, at = {}, header_length
        for each in given:
            begins[each["name"]] = at
            at += each["parameters"]["binary_data_size"]
        tensors = tuple(
            (name, datatype, shape, begins[name], begins[name] + len(data))
            for name, datatype, shape, data in request.query.inputs
        )
        key, layout = body[:header_length], _BinaryLayout(bare, tensors, len(body))
    else:
        begin, end = _list_in(body)
        if len(given) != 1 or "data" not in given[0] or end <= 0:
            return
        if begin + len(body) - end > _LONGEST_LAYOUT:
            return
        before, behind = body[:begin], body[end:]
        given[0]["data"] = []
        # Another list in its place must be its data, and nothing else: the word may stand elsewhere, or twice.
        try:
            if orjson.loads(before + b"[]" + behind) != document:
                return
        except orjson.JSONDecodeError:
            return
        name, datatype, shape, _ = request.query.inputs[0]
        key, layout = (before, behind), _ListLayout(bare, name, datatype, shape, prod(shape))
    if len(layouts) >= _MOST_LAYOUTS:
        layouts.clear()
    layouts[key] = layout


def _list_in(body: bytes) -> tuple[int, int]:
    """Return begin and end of what may be the first list of data; the end is 0 where there is none."""
    begin = body.find(b"[", body.find(b'"data"') + 1 or len(body))
    return begin, body.find(b"]", begin) + 1 if begin >= 0 else 0


def _with(request: InferRequest, inputs: tuple[Tensor, ...]) -> InferRequest:
    query, name, deadline_s, binary, default = request
    return InferRequest(Query(inputs, query.outputs, query.parameters), name, deadline_s, binary, default)


# The document of a request, part by part.

_NOTHING: dict[str, Any] = {}


def _document(body: bytes, header_length: int | None, limits: RequestLimits) -> dict[str, Any]:
    header: bytes | memoryview = body
    if header_length is not None:
        if header_length > len(body):
            raise RequestError(
                f"Inference-Header-Content-Length is {header_length}, and the body has {len(body)} bytes",
                reason="data",
            )
        header = memoryview(body)[:header_length]
    if len(header) > limits.header:
        raise RequestError(
            f"{len(header)} bytes of JSON, {limits.header} at most; send the tensors as binary data", 413
        )
    document = _loaded(header)
    if type(document) is not dict:
        raise RequestError("the body is not a JSON object", reason="json")
    return document


def _loaded(header: bytes | memoryview) -> Any:  # noqa: ANN401 -- whatever is JSON
    """Return the content of JSON that may contain NaN, Infinity and -Infinity, as Triton and Python write them.

    orjson refuses these, so texts with them are read by the slower standard library.
    """
    try:
        return orjson.loads(header)
    except orjson.JSONDecodeError as error:
        text = bytes(header)
        if b"NaN" not in text and b"Infinity" not in text:
            raise RequestError(f"malformed JSON: {error}", reason="json") from None
    try:
        return json.loads(text.decode(), parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"malformed JSON: {error}", reason="json") from None


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"the number {text:.20} is out of range")
    return value


def _tensors(
    document: dict[str, Any], body: bytes, at: int | None, signature: Signature, limits: RequestLimits
) -> list[Tensor]:
    view = memoryview(body)
    end = len(body)
    at = end if at is None else at
    found = []
    items = _items(document, "inputs", signature.most_inputs(limits))
    specs = signature.specs([(each.get("name"), each.get("datatype"), each.get("shape")) for each in items])
    for each, spec in zip(items, specs, strict=True):
        count = elements(spec, each.get("datatype"), each.get("shape"))
        name, datatype, shape = spec.name, spec.datatype, each["shape"]
        size = _parameters(each).get("binary_data_size")
        data: bytes | memoryview
        if size is None:
            if datatype in NO_JSON:
                raise RequestError(
                    f"input {name}: {datatype} has no form in JSON; send it as binary data", reason="datatype"
                )
            data = _packed(name, datatype, _flat(name, shape, count, each.get("data")), limits.strings)
        else:
            if type(size) is not int or not 0 <= size <= end - at:
                raise RequestError(
                    f"input {name}: binary_data_size is {quoted(size)}, {end - at} bytes are left",
                    reason="data",
                )
            if "data" in each:
                raise RequestError(f"input {name} has both data and binary_data_size", reason="data")
            data = view[at : at + size]
            at += size
            check_data(name, datatype, count, data, limits)
        found.append(Tensor(name, datatype, tuple(shape), data))
    if at != end:
        raise RequestError(f"{end - at} bytes of binary data belong to no input", reason="data")
    return found


def _outputs(listed: list[dict[str, Any]], *, default: bool) -> tuple[list[object], dict[str, bool]]:
    names: list[object] = []
    binary = {}
    for each in listed:
        name = each.get("name")
        names.append(name)
        parameters = _parameters(each)
        if isinstance(name, str):
            binary[name] = _flag(parameters, "binary_data") if "binary_data" in parameters else default
    return names, binary


def _items(document: dict[str, Any], key: str, most: int) -> list[dict[str, Any]]:
    items = document.get(key)
    if type(items) is not list:
        raise RequestError(f"{key} is not a list of tensors")
    if len(items) > most:
        raise RequestError(f"{len(items)} {key}, {most} at most", 413)
    for each in items:
        if type(each) is not dict:
            raise RequestError(f"{quoted(each)} among {key} is not a tensor")
    return items


def _parameters(part: dict[str, Any]) -> dict[str, Any]:
    parameters = part.get("parameters")
    if parameters is None:
        return _NOTHING
    if type(parameters) is not dict:
        raise RequestError(f"parameters is {quoted(parameters)}, not an object")
    check_parameters(parameters)
    return parameters


def _flag(parameters: Mapping[str, Any], name: str) -> bool:
    value = parameters.get(name, False)
    if type(value) is not bool:
        raise RequestError(f"parameter {name} is {quoted(value)}, not true or false")
    return value


# A tensor's data as JSON lists, and back

_CODES = {
    "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q",
    "FP32": "f", "FP64": "d",
}  # fmt: skip
"""Codes of `array` and `struct` by datatype."""
_NUMPY = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_FLOATS = frozenset({"FP32", "FP64"})
_NUMBERS = {int, float}
_WORDS = {
    int: "whole numbers",
    float: "fractions",
    str: "texts",
    bool: "true or false",
    list: "lists",
    dict: "objects",
    type(None): "null",
}


def _flat(name: str, shape: Sequence[int], count: int, data: object) -> list[Any]:
    """Return a tensor's elements as a flat list, from a flat list or one nested like its shape."""
    if not isinstance(data, list):
        raise RequestError(f"input {name}: data is not a list", reason="data")
    flat: list[Any] = data
    depth = 0
    while flat and type(flat[0]) is list:
        lengths = {len(each) if type(each) is list else -1 for each in flat}
        depth += 1
        if depth >= len(shape) or len(flat) != prod(shape[:depth]) or lengths != {shape[depth]}:
            raise RequestError(
                f"input {name}: its lists are not nested as its shape {list(shape)}", reason="shape"
            )
        flat = list(chain.from_iterable(flat))
    if len(flat) != count:
        raise RequestError(
            f"input {name}: {len(flat)} elements, and shape {list(shape)} has {count}", reason="shape"
        )
    return flat


def _packed(name: str, datatype: str, flat: list[Any], most_strings: int) -> bytes:
    """Return the data of a tensor from the flat list of its elements.

    Raises:
        RequestError: elements are of another type or out of range, or there are too many of BYTES.
    """
    kinds = set(map(type, flat))
    if datatype in _FLOATS:
        _check_kinds(name, datatype, kinds, _NUMBERS)
        try:
            return pack(f"<{len(flat)}{_CODES[datatype]}", *flat)
        except OverflowError:  # a finite number that is too large; infinities are allowed
            raise _out_of_range(name, datatype) from None
    if datatype == "BYTES":
        _check_kinds(name, "BYTES", kinds, {str})
        if len(flat) > most_strings:
            raise RequestError(f"input {name}: {len(flat)} elements of BYTES, {most_strings} at most", 413)
        return pack_texts([each.encode() for each in flat])
    if datatype == "BOOL":
        _check_kinds(name, datatype, kinds, {bool})
        return bytes(flat)
    _check_kinds(name, datatype, kinds, {int})
    try:
        return array(_CODES[datatype], flat).tobytes()
    except OverflowError:
        raise _out_of_range(name, datatype) from None


def _check_kinds(name: str, datatype: str, kinds: set[type], allowed: set[type]) -> None:
    if not kinds <= allowed:
        words = ", ".join(sorted(_WORDS.get(kind, "nothing known") for kind in kinds - allowed))
        raise RequestError(f"input {name}: {words} among elements of {datatype}", reason="datatype")


def _out_of_range(name: str, datatype: str) -> RequestError:
    return RequestError(f"input {name}: a number is out of range of {datatype}", reason="data")


def _no_json(name: str, datatype: str) -> RequestError:
    return RequestError(
        f"output {name}: {datatype} has no form in JSON; ask for it as binary data", reason="datatype"
    )


def write_answer(service: str, request: InferRequest, answer: Answer) -> tuple[bytes, int | None]:
    """Return the body of an answer, and the number of its JSON bytes if binary data follow, else None.

    Infinities and NaN, which JSON lacks, are written as the tokens that Triton writes.

    Raises:
        RequestError: an output that was not requested as binary has no JSON representation.
    """
    data: list[Buffer] = []
    more: Parameters = answer.parameters or {}
    outputs: list[dict[str, Any]] = []
    for tensor in answer.outputs:
        told: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if tensor.name in more:
            told["parameters"] = dict(more[tensor.name])
        if request.binary.get(tensor.name, request.binary_default):
            told.setdefault("parameters", {})["binary_data_size"] = len(tensor.data)
            data.append(tensor.data)
        else:
            told["data"] = _listed(tensor)
        outputs.append(told)
    document: dict[str, Any] = {"model_name": service, "model_version": VERSION, "outputs": outputs}
    if "" in more:
        document["parameters"] = more[""]
    if request.id:
        document["id"] = request.id
    header = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" in header:  # orjson writes it for NaN and infinities; a text may also contain it
        for told in outputs:
            if "data" in told:
                told["data"] = _with_tokens(told["data"])
        header = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not data:
        return header, None
    return b"".join([header, *data]), len(header)


def _listed(tensor: Tensor) -> object:
    """Return a tensor's data as a flat list or array, for orjson with OPT_SERIALIZE_NUMPY."""
    if tensor.datatype == "BYTES":
        try:
            return [each.decode() for each in unpack_texts(tensor.data)]
        except UnicodeDecodeError:
            raise RequestError(
                f"output {tensor.name} is not UTF-8 text; ask for it as binary data", reason="data"
            ) from None
    if tensor.datatype in NO_JSON:
        raise _no_json(tensor.name, tensor.datatype)
    return np.frombuffer(bytes(tensor.data), _NUMPY[tensor.datatype])


def _with_tokens(numbers: object) -> object:
    """Return numbers for orjson with the tokens NaN, Infinity and -Infinity, for which orjson would write null.

    Triton writes these tokens, and its clients and Python read them.
    """
    if not isinstance(numbers, np.ndarray) or numbers.dtype.kind != "f" or np.isfinite(numbers).all():
        return numbers
    between = orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY).split(b"null")
    bad = numbers[~np.isfinite(numbers)].tolist()
    tokens = [b"NaN" if isnan(each) else b"Infinity" if each > 0 else b"-Infinity" for each in bad]
    text = b"".join(chain.from_iterable(zip(between, [*tokens, b""], strict=True)))
    return orjson.Fragment(text)
