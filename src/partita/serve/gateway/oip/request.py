"""A request to infer, from its body: JSON, and behind it the data of tensors that came as binary."""

from __future__ import annotations

import json
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from partita.serve.gateway.oip.faults import RequestError, shown
from partita.serve.gateway.oip.numbers import from_lists, no_json
from partita.serve.gateway.oip.signature import check_size, elements
from partita.serve.gateway.oip.strings import check_strings
from partita.serve.tensors import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.serve.gateway.oip.limits import Limits
    from partita.serve.gateway.oip.signature import Signature
    from partita.serve.tensors import Parameters, Query

_NOTHING: dict[str, Any] = {}
_REFUSED = {
    "shared_memory_region": "shared memory is not served",
    "classification": "classification is not served",
    "sequence_id": "sequences are not served",
}


_OWN = (
    frozenset({"binary_data_size", "binary_data_output", "binary_data", "deadline_ms", "timeout"})
    | _REFUSED.keys()
)


class InferRequest(NamedTuple):
    """What a client asks.

    Attributes:
        query: what the model is to answer.
        id: the client's name for the request, sent back; empty where it gave none.
        deadline_s: seconds from its arrival, None for the service's own.
        binary: by output, whether its data are sent as binary.
        binary_default: for outputs that are not in `binary`.
    """

    query: Query
    id: str
    deadline_s: float | None
    binary: Mapping[str, bool]
    binary_default: bool


def read_request(
    body: bytes, header_length: int | None, signature: Signature, limits: Limits
) -> InferRequest:
    """Return what a body of HTTP asks.

    Args:
        body: the whole of it.
        header_length: bytes of JSON before the binary data; None where all of it is JSON.
        signature: of the model asked.
        limits: what is too large.

    Raises:
        RequestError: it cannot be answered as it is.
    """
    known = signature.layouts.found(body, header_length, limits.strings)
    if known is not None:
        return known
    document = _document(body, header_length, limits)
    parameters = _parameters(document)
    tensors = _tensors(document, body, header_length, signature, limits)
    listed = _items(document, "outputs", signature.most_outputs(limits)) if "outputs" in document else []
    default = _flag(parameters, "binary_data_output")
    names, binary = _outputs(listed, default) if listed else ((), _NOTHING)
    query = signature.query(tensors, names)
    for name in signature.binary_only:
        if not binary.get(name, default) and (not names or name in names):
            raise no_json(name, "a half-precision datatype")
    more = _more(document, parameters)
    if more:
        query = query._replace(parameters=more)
    request = InferRequest(query, _text(document, limits), deadline_of(parameters, limits), binary, default)
    signature.layouts.keep(body, header_length, document, request)
    return request


def _more(document: dict[str, Any], parameters: dict[str, Any]) -> Parameters | None:
    """Return the parameters of a request and its inputs that are not Partita's own, for the server behind."""
    if not parameters and not any(each.get("parameters") for each in document["inputs"]):
        return None  # nearly always
    given = {"": parameters} | {each["name"]: _parameters(each) for each in document["inputs"]}
    return others(given)


def others(given: Mapping[str, Mapping[str, Any]]) -> Parameters | None:
    """Return parameters without those that are read here; None if there are no others.

    Raises:
        RequestError: one is no finite number.
    """
    for name, value in ((name, value) for told in given.values() for name, value in told.items()):
        if isinstance(value, float) and not isfinite(value):
            raise RequestError(f"parameter {shown(name)} is {value}, which JSON cannot hand on")
    left = {
        name: {key: value for key, value in told.items() if key not in _OWN} for name, told in given.items()
    }
    return {name: told for name, told in left.items() if told} or None


def deadline_of(parameters: Mapping[str, Any], limits: Limits) -> float | None:
    """Return the deadline among a request's parameters in seconds, None where there is none.

    It is `deadline_ms`, or Triton's `timeout` in microseconds, of which 0 is none.

    Raises:
        RequestError: it is no positive number, or too large.
    """
    if not parameters:
        return None
    if "deadline_ms" in parameters:
        return checked_deadline(parameters["deadline_ms"], 1e3, "deadline_ms", limits)
    if parameters.get("timeout"):
        return checked_deadline(parameters["timeout"], 1e6, "timeout", limits)
    return None


def checked_deadline(value: object, per_second: float, name: str, limits: Limits) -> float:
    """Return a deadline in seconds.

    Raises:
        RequestError: it is no positive number, or too large.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value) or value <= 0:
        raise RequestError(f"{name} is {shown(value)}, not a number above 0", reason="deadline")
    seconds = value / per_second
    if seconds > limits.deadline_s:
        raise RequestError(
            f"{name} is {shown(value)}, more than {limits.deadline_s:g} seconds", reason="deadline"
        )
    return seconds


def told_deadline(text: bytes, limits: Limits) -> float:
    """Return the seconds of a `partita-deadline-ms` header; raises as `checked_deadline` does."""
    value: object
    try:
        value = float(text)
    except ValueError:
        value = text.decode("latin-1")
    return checked_deadline(value, 1e3, "partita-deadline-ms", limits)


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Refuse what would be answered wrongly if it were passed over.

    Raises:
        RequestError: a parameter asks for what is not served.
    """
    if _REFUSED.keys().isdisjoint(parameters):
        return
    for name, why in _REFUSED.items():
        if parameters.get(name):
            raise RequestError(f"parameter {name}: {why}", reason="unsupported")


def _document(body: bytes, header_length: int | None, limits: Limits) -> dict[str, Any]:
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
        raise RequestError("the body is no JSON object", reason="json")
    return document


def _loaded(header: bytes | memoryview) -> Any:  # noqa: ANN401 -- whatever is JSON
    """Return what JSON says, in which numbers may be NaN, Infinity and -Infinity, as Triton and Python have them.

    orjson takes these for faults, so that what has them, and only that, is read by the standard library.
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
    document: dict[str, Any], body: bytes, at: int | None, signature: Signature, limits: Limits
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
        if size is None:
            data: bytes | memoryview = from_lists(each, count, limits.strings)
        else:
            if type(size) is not int or not 0 <= size <= end - at:
                raise RequestError(
                    f"input {name}: binary_data_size is {shown(size)}, {end - at} bytes are left",
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


def check_data(name: str, datatype: str, count: int, data: bytes | memoryview, limits: Limits) -> None:
    """Check that an input's data are so many elements.

    Raises:
        RequestError: they are not, or too many.
    """
    if datatype != "BYTES":
        check_size(name, datatype, count, len(data))
        return
    if count > limits.strings:
        raise RequestError(f"input {name}: {count} elements of BYTES, {limits.strings} at most", 413)
    check_strings(name, data, count)


def _outputs(listed: list[dict[str, Any]], default: bool) -> tuple[list[object], dict[str, bool]]:  # noqa: FBT001 -- as the protocol has it
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
        raise RequestError(f"{key} is no list of tensors")
    if len(items) > most:
        raise RequestError(f"{len(items)} {key}, {most} at most", 413)
    for each in items:
        if type(each) is not dict:
            raise RequestError(f"{shown(each)} among {key} is no tensor")
    return items


def _parameters(part: dict[str, Any]) -> dict[str, Any]:
    parameters = part.get("parameters")
    if parameters is None:
        return _NOTHING
    if type(parameters) is not dict:
        raise RequestError(f"parameters is {shown(parameters)}, not an object")
    check_parameters(parameters)
    return parameters


def _flag(parameters: Mapping[str, Any], name: str) -> bool:
    value = parameters.get(name, False)
    if type(value) is not bool:
        raise RequestError(f"parameter {name} is {shown(value)}, not true or false")
    return value


def _text(document: dict[str, Any], limits: Limits) -> str:
    value = document.get("id", "")
    if type(value) is not str or len(value) > limits.name:
        raise RequestError(f"id is {shown(value)}, not a text of at most {limits.name} characters")
    return value
