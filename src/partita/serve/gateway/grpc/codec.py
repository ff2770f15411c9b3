"""Requests and answers as the protocol's messages."""

from __future__ import annotations

import json
from array import array
from typing import TYPE_CHECKING, Any

from partita.serve.gateway.grpc.messages import message
from partita.serve.gateway.oip import (
    VERSION,
    RequestError,
    check_data,
    check_parameters,
    deadline_of,
    elements,
    others,
    pack_strings,
)
from partita.serve.tensors import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.serve.gateway.oip import RequestLimits, Signature
    from partita.serve.tensors import Answer, Query, TensorSpec

_FIELDS = {
    "BOOL": ("bool_contents", "B"),
    "INT8": ("int_contents", "b"),
    "INT16": ("int_contents", "h"),
    "INT32": ("int_contents", "i"),
    "INT64": ("int64_contents", "q"),
    "UINT8": ("uint_contents", "B"),
    "UINT16": ("uint_contents", "H"),
    "UINT32": ("uint_contents", "I"),
    "UINT64": ("uint64_contents", "Q"),
    "FP32": ("fp32_contents", "f"),
    "FP64": ("fp64_contents", "d"),
    "BYTES": ("bytes_contents", ""),
}
"""By datatype, the field of typed contents, and `array`'s code for it."""
_PARAMETERS = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
_RESPONSE = message("ModelInferResponse")
_OUTPUT = _RESPONSE.InferOutputTensor


def read_message(request: Any, signature: Signature, limits: RequestLimits) -> tuple[Query, float | None]:  # noqa: ANN401 -- a message
    """Return the query that a ModelInferRequest asks, and its deadline in seconds, None without one.

    Raises:
        RequestError: it cannot be answered as it is.
    """
    deadline_s, given = None, {}
    if request.parameters:
        given[""] = _parameters(request.parameters)
        deadline_s = deadline_of(given[""], limits)
    inputs, raw = request.inputs, request.raw_input_contents
    if len(inputs) > signature.most_inputs(limits):
        raise RequestError(f"{len(inputs)} inputs, {signature.most_inputs(limits)} at most", 413)
    if len(request.outputs) > signature.most_outputs(limits):
        raise RequestError(f"{len(request.outputs)} outputs, {signature.most_outputs(limits)} at most", 413)
    if len(request.id) > limits.name:
        raise RequestError(f"id has {len(request.id)} characters, {limits.name} at most")
    if raw and len(raw) != len(inputs):
        raise RequestError(f"{len(inputs)} inputs, and {len(raw)} raw_input_contents")
    specs = signature.specs([(each.name, each.datatype, tuple(each.shape)) for each in inputs])
    tensors = [_tensor(each, raw[i] if raw else None, specs[i], limits) for i, each in enumerate(inputs)]
    outputs = []
    for each in request.outputs:
        if each.parameters:
            _parameters(each.parameters)
        outputs.append(each.name)
    given.update((each.name, _parameters(each.parameters)) for each in inputs if each.parameters)
    query = signature.query(tensors, outputs)
    return (query._replace(parameters=others(given)) if given else query), deadline_s


def write_message(service: str, request_id: str, answer: Answer) -> Any:  # noqa: ANN401 -- a message
    """Return an answer as a ModelInferResponse; its data are raw."""
    found = _RESPONSE(
        model_name=service,
        model_version=VERSION,
        id=request_id,
        outputs=[
            _OUTPUT(name=each.name, datatype=each.datatype, shape=each.shape) for each in answer.outputs
        ],
        raw_output_contents=[bytes(each.data) for each in answer.outputs],
    )
    if answer.parameters:
        _tell(found.parameters, answer.parameters.get("", {}))
        for each in found.outputs:
            _tell(each.parameters, answer.parameters.get(each.name, {}))
    return found


def _tensor(each: Any, raw: bytes | None, spec: TensorSpec, limits: RequestLimits) -> Tensor:  # noqa: ANN401 -- a message
    name, datatype, shape = each.name, each.datatype, tuple(each.shape)
    count = elements(spec, datatype, shape)
    if each.parameters:
        _parameters(each.parameters)
    if raw is None:
        data = _contents(each, count)
        if datatype == "BYTES":
            check_data(name, datatype, count, data, limits)
    elif each.HasField("contents"):
        raise RequestError(f"input {name} has both contents and raw_input_contents")
    else:
        data = raw
        check_data(name, datatype, count, data, limits)
    return Tensor(name, datatype, shape, data)


def _contents(each: Any, count: int) -> bytes:  # noqa: ANN401 -- a message
    if each.datatype not in _FIELDS:
        raise RequestError(
            f"input {each.name}: {each.datatype} has no typed contents; send raw_input_contents",
            reason="datatype",
        )
    field, code = _FIELDS[each.datatype]
    values = getattr(each.contents, field)
    if len(values) != count:
        raise RequestError(f"input {each.name}: {len(values)} elements in {field}, its shape has {count}")
    if not code:
        return pack_strings(values)
    try:
        return array(code, values).tobytes()
    except OverflowError:
        raise RequestError(f"input {each.name}: a number is out of range of {each.datatype}") from None


def _tell(into: Any, told: Mapping[str, Any]) -> None:  # noqa: ANN401 -- a map of messages
    """Write parameters as the protocol's messages have them; what they cannot hold as JSON."""
    for name, value in told.items():
        field = _PARAMETERS.get(type(value))
        if field is None or (field == "int64_param" and not -(2**63) <= value < 2**63):
            into[name].string_param = json.dumps(value)
        else:
            setattr(into[name], field, value)


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in given.items():
        kind = value.WhichOneof("parameter_choice")
        found[name] = getattr(value, kind) if kind else None
    check_parameters(found)
    return found
