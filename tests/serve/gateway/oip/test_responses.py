"""Answers are written as the client asked for them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.serve.gateway.oip.faults import RequestError
from partita.serve.gateway.oip.request import InferRequest
from partita.serve.gateway.oip.response import write_answer
from partita.serve.gateway.oip.strings import pack_strings
from partita.serve.tensors import Answer, Parameters, Query, Tensor

X = Tensor("x", "FP32", (1, 3), memoryview(np.array([0.1, -2, 3e38], "<f4").tobytes()))
Y = Tensor("y", "INT64", (1, 1), np.array([-(2**63)], "<i8").tobytes())
TEXT = Tensor("t", "BYTES", (1, 2), pack_strings(["ä".encode(), b""]))


def request(binary: dict[str, bool], *, default: bool = False, name: str = "") -> InferRequest:
    return InferRequest(Query(()), name, None, binary, default)


def test_outputs_in_json_are_flat_lists():
    body, size = write_answer("m", request({}), Answer((X, Y, TEXT)))
    assert size is None
    assert json.loads(body) == {
        "model_name": "m",
        "model_version": "1",
        "outputs": [
            {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [0.1, -2.0, 3e38]},
            {"name": "y", "datatype": "INT64", "shape": [1, 1], "data": [-(2**63)]},
            {"name": "t", "datatype": "BYTES", "shape": [1, 2], "data": ["ä", ""]},
        ],
    }


def test_binary_outputs_follow_the_json_in_order():
    body, size = write_answer("m", request({"y": False}, default=True, name="q"), Answer((X, Y, TEXT)))
    assert size is not None
    header = json.loads(body[:size])
    assert header["id"] == "q"
    assert [each.get("parameters") for each in header["outputs"]] == [
        {"binary_data_size": 12},
        None,
        {"binary_data_size": len(TEXT.data)},
    ]
    assert body[size:] == bytes(X.data) + bytes(TEXT.data)


def test_what_else_the_server_says_is_handed_on():
    more: Parameters = {"": {"took": 3}, "y": {"content_type": "np"}}
    body, size = write_answer("m", request({"y": True}), Answer((X, Y), parameters=more))
    told = json.loads(body[:size])
    assert told["parameters"] == {"took": 3}
    assert [each.get("parameters") for each in told["outputs"]] == [
        None,
        {"content_type": "np", "binary_data_size": 8},
    ]


@pytest.mark.parametrize("datatype", ["BOOL", "UINT8", "INT16", "UINT64", "FP64"])
def test_every_number_survives_json(datatype):
    values = {
        "BOOL": np.array([True, False]),
        "UINT8": np.array([0, 255], np.uint8),
        "INT16": np.array([-32768, 5], np.int16),
        "UINT64": np.array([2**64 - 1, 0], np.uint64),
        "FP64": np.array([1e-300, 0.1]),
    }[datatype]
    body, _ = write_answer("m", request({}), Answer((Tensor("o", datatype, (2,), values.tobytes()),)))
    assert json.loads(body)["outputs"][0]["data"] == values.tolist()


@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
@given(values=st.lists(st.floats(width=32), max_size=6))
def test_numbers_that_json_lacks_are_written_as_triton_writes_them(datatype, values):
    dtype = "<f4" if datatype == "FP32" else "<f8"
    outputs = (
        Tensor("null", datatype, (len(values),), np.array(values, dtype).tobytes()),
        Tensor("t", "BYTES", (1,), pack_strings([b"null, null"])),
        Y,
    )
    body, _ = write_answer("m", request({}), Answer(outputs))
    found, text, whole = json.loads(body)["outputs"]
    np.testing.assert_array_equal(np.array(found["data"], dtype), np.array(values, dtype))
    assert (text["data"], whole["data"]) == (["null, null"], [-(2**63)])
    assert b"null" not in body.replace(b'"null"', b"").replace(b"null, null", b"")


def test_tritonclient_reads_nan_and_infinities_that_came_as_json():
    result = pytest.importorskip("tritonclient.http").InferResult
    data = np.array([np.nan, np.inf, -np.inf, 1.5], "<f4")
    body, _ = write_answer("m", request({}), Answer((Tensor("o", "FP32", (4,), data.tobytes()),)))
    np.testing.assert_array_equal(result.from_response_body(body).as_numpy("o"), data)


@pytest.mark.parametrize(
    ("datatype", "data"), [("BF16", b"ab"), ("FP16", b"ab"), ("BYTES", b"\x01\0\0\0\xff")]
)
def test_what_has_no_form_in_json_must_be_asked_for_as_binary(datatype, data):
    answer = Answer((Tensor("o", datatype, (1,), data),))
    with pytest.raises(RequestError, match="as binary"):
        write_answer("m", request({}), answer)
    body, size = write_answer("m", request({}, default=True), answer)
    assert body[size:] == data
