"""A model's answer as the body of a response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from partita.serve.gateway.oip.numbers import to_list, with_tokens
from partita.serve.gateway.oip.version import VERSION

if TYPE_CHECKING:
    from partita.serve.gateway.oip.request import InferRequest
    from partita.serve.tensors import Answer, Buffer


def write_answer(service: str, request: InferRequest, answer: Answer) -> tuple[bytes, int | None]:
    """Return the body, and the bytes of JSON in it where binary data follow.

    Numbers in JSON are written as FP32 or FP64 have them; infinite ones and NaN, which JSON lacks, as the tokens that
    Triton writes.

    Raises:
        RequestError: an output was not asked for as binary and has no form in JSON.
    """
    data: list[Buffer] = []
    more = answer.parameters or {}
    outputs: list[dict[str, Any]] = []
    for tensor in answer.outputs:
        told: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if tensor.name in more:
            told["parameters"] = dict(more[tensor.name])
        if request.binary.get(tensor.name, request.binary_default):
            told.setdefault("parameters", {})["binary_data_size"] = len(tensor.data)
            data.append(tensor.data)
        else:
            told["data"] = to_list(tensor)
        outputs.append(told)
    document: dict[str, Any] = {"model_name": service, "model_version": VERSION, "outputs": outputs}
    if "" in more:
        document["parameters"] = more[""]
    if request.id:
        document["id"] = request.id
    header = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" in header:  # so orjson has it; or a text does
        for told in outputs:
            if "data" in told:
                told["data"] = with_tokens(told["data"])
        header = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not data:
        return header, None
    return b"".join([header, *data]), len(header)
