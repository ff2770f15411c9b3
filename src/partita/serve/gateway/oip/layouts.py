"""What is known of requests that differ from an earlier one in their data alone: it need not be checked again.

Clients ask the same model in the same form over and over. The bytes around the data are the key, so that nothing of
them is read twice; whatever is in doubt, and all that is wrong, is read in full by `read_request`.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from partita.serve.gateway.oip.faults import RequestError
from partita.serve.gateway.oip.numbers import from_flat
from partita.serve.tensors import Query, Tensor

if TYPE_CHECKING:
    from partita.serve.gateway.oip.request import InferRequest

_MOST = 256
_LONGEST = 1024


class _Binary(NamedTuple):
    """A request whose data all are binary: name, datatype, shape, begin and end of each, and the body's size."""

    request: InferRequest
    tensors: tuple[tuple[str, str, tuple[int, ...], int, int], ...]
    size: int


class _Listed(NamedTuple):
    """A request with one input, whose data are one flat list."""

    request: InferRequest
    name: str
    datatype: str
    shape: tuple[int, ...]
    elements: int


class Layouts:
    """Requests to one model by what surrounds their data."""

    __slots__ = ("_binary", "_listed")

    def __init__(self) -> None:
        self._binary: dict[bytes, _Binary] = {}
        self._listed: dict[tuple[bytes, bytes], _Listed] = {}

    def found(self, body: bytes, header_length: int | None, most_strings: int) -> InferRequest | None:
        """Return what a body asks, None if it has to be read in full."""
        if header_length is not None:
            if header_length > _LONGEST:
                return None
            binary = self._binary.get(body[:header_length])
            return _from_binary(binary, body) if binary is not None and binary.size == len(body) else None
        begin, end = _list_in(body)
        if end <= 0 or begin + len(body) - end > _LONGEST:
            return None
        listed = self._listed.get((body[:begin], body[end:]))
        return _from_list(listed, body[begin:end], most_strings) if listed is not None else None

    def keep(
        self, body: bytes, header_length: int | None, document: dict[str, Any], request: InferRequest
    ) -> None:
        """Remember a request that has been read in full, if others may be like it."""
        if request.id:
            return
        if header_length is not None:
            if header_length <= _LONGEST:
                self._keep_binary(body, header_length, document["inputs"], request)
        elif len(document["inputs"]) == 1:
            self._keep_listed(body, document, request)

    def _keep_binary(self, body: bytes, at: int, inputs: list[dict[str, Any]], request: InferRequest) -> None:
        key, begins = body[:at], {}
        for each in inputs:
            if each["datatype"] == "BYTES" or "data" in each:
                return
            begins[each["name"]] = at
            at += each["parameters"]["binary_data_size"]
        tensors = tuple(
            (name, datatype, shape, begins[name], begins[name] + len(data))
            for name, datatype, shape, data in request.query.inputs
        )
        _put(self._binary, key, _Binary(_bare(request), tensors, len(body)))

    def _keep_listed(self, body: bytes, document: dict[str, Any], request: InferRequest) -> None:
        tensor = document["inputs"][0]
        begin, end = _list_in(body)
        if end <= 0 or begin + len(body) - end > _LONGEST or "data" not in tensor:
            return
        before, behind = body[:begin], body[end:]
        tensor["data"] = []
        # Another list in its place must be its data, and nothing else: the word may stand elsewhere, or twice.
        try:
            same = orjson.loads(before + b"[]" + behind) == document
        except orjson.JSONDecodeError:
            return
        if same:
            name, datatype, shape, _ = request.query.inputs[0]
            layout = _Listed(_bare(request), name, datatype, shape, prod(shape))
            _put(self._listed, (before, behind), layout)


def _put(kept: dict[Any, Any], key: object, layout: _Binary | _Listed) -> None:
    if len(kept) >= _MOST:
        kept.clear()
    kept[key] = layout


def _bare(request: InferRequest) -> InferRequest:
    """Return a request without its data, which would be kept alive with it."""
    return request._replace(query=request.query._replace(inputs=()))


def _list_in(body: bytes) -> tuple[int, int]:
    """Return begin and end of what may be the first list of data; the end is 0 where there is none."""
    begin = body.find(b"[", body.find(b'"data"') + 1 or len(body))
    return begin, body.find(b"]", begin) + 1 if begin >= 0 else 0


def _from_binary(layout: _Binary, body: bytes) -> InferRequest:
    view = memoryview(body)
    inputs = tuple(
        [
            Tensor(name, datatype, shape, view[begin:end])
            for name, datatype, shape, begin, end in layout.tensors
        ]
    )
    return _with(layout.request, inputs)


def _from_list(layout: _Listed, text: bytes, most_strings: int) -> InferRequest | None:
    name, datatype = layout.name, layout.datatype
    try:
        flat = orjson.loads(text)
        if len(flat) != layout.elements:
            return None
        data = from_flat(name, datatype, flat, most_strings)
    except (orjson.JSONDecodeError, RequestError):
        return None  # it is told in full what is wrong
    return _with(layout.request, (Tensor(name, datatype, layout.shape, data),))


def _with(request: InferRequest, inputs: tuple[Tensor, ...]) -> InferRequest:
    query, name, deadline_s, binary, default = request
    return type(request)(Query(inputs, query.outputs, query.parameters), name, deadline_s, binary, default)
