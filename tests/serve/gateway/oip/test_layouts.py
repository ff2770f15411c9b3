"""What an earlier request has taught changes how fast the next one is read, never what is read."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serve.gateway.front_fake import ROWS

from partita.serve.gateway.oip.faults import RequestError
from partita.serve.gateway.oip.limits import Limits
from partita.serve.gateway.oip.request import InferRequest, read_request
from partita.serve.gateway.oip.signature import Signature
from partita.serve.gateway.values import Model
from partita.serve.tensors import TensorSpec

LIMITS = Limits(strings=50, tensors=20)
ONE = Model(
    "m", "m", (TensorSpec("data", "FP32", (-1, 2)),), (TensorSpec("o", "FP32", (-1, 2)),), 8, 0.1, 0.95, ROWS
)
TWO = Model(
    "m", "m", tuple(TensorSpec(each, "FP32", (-1, 2)) for each in "ab"), ONE.outputs, 8, 0.1, 0.95, ROWS
)
LISTS = st.sampled_from(
    [
        "[1,2]",
        "[ 3 , 4.5 ]",
        "[[1,2]]",
        "[1]",
        "[1,2,3,4]",
        "[]",
        '["a]","b"]',
        "[1,true]",
        "[1,2",
        "[1e99,0]",
        "{}",
    ]
)
FORMS = st.sampled_from(
    [
        '{"inputs":[{"name":"data","datatype":"FP32","shape":[1,2],"data":%s}]}',
        '{"inputs":[{"name":"data","datatype":"FP32","data":%s,"shape":[1,2]}],"parameters":{"deadline_ms":5}}',
        '{"inputs":[{"name":"data","datatype":"FP32","shape":%s,"data":[1,2]}]}',
        '{"inputs":[{"name":"data","datatype":"FP32","shape":[1,2],"data":%s,"data":[5,6]}]}',
        '{"inputs":[{"name":"data","datatype":"FP32","shape":[1,2],"data":[5,6],"data":%s}]}',
        '{"x":{"data":%s},"inputs":[{"name":"data","datatype":"FP32","shape":[1,2],"data":[1,2]}]}',
        '{"id":"\\"data\\":%s","inputs":[{"name":"data","datatype":"FP32","shape":[1,2],"data":[1,2]}]}',
        '{"inputs":[{"name":"data","datatype":"FP32","shape":[1,2],"data":%s}],"outputs":[{"name":"o"}]}',
    ]
)


def outcome(body: bytes, header_length: int | None, signature: Signature) -> InferRequest | str:
    try:
        return read_request(body, header_length, signature, LIMITS)
    except RequestError as error:
        return f"{error.status} {error.what}"


@given(st.lists(st.tuples(FORMS, LISTS), min_size=2, max_size=12))
def test_lists_are_read_as_if_they_were_the_first(asked: list[tuple[str, str]]) -> None:
    taught = Signature(ONE)
    for form, values in asked * 2:
        body = (form % values).encode()
        assert outcome(body, None, taught) == outcome(body, None, Signature(ONE))


def binary(order: str, sizes: tuple[int, int], data: bytes) -> tuple[bytes, int]:
    inputs = ",".join(
        f'{{"name":"{name}","datatype":"FP32","shape":[1,2],"parameters":{{"binary_data_size":{size}}}}}'
        for name, size in zip(order, sizes, strict=True)
    )
    head = f'{{"inputs":[{inputs}]}}'.encode()
    return head + data, len(head)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ab", "ba", "aa"]),
            st.sampled_from([(8, 8), (8, 4), (16, 0)]),
            st.binary(min_size=14, max_size=18),
        ),
        min_size=2,
        max_size=8,
    )
)
def test_binary_data_are_read_as_if_they_were_the_first(
    asked: list[tuple[str, tuple[int, int], bytes]],
) -> None:
    taught = Signature(TWO)
    for order, sizes, data in asked * 2:
        body, size = binary(order, sizes, data)
        assert outcome(body, size, taught) == outcome(body, size, Signature(TWO))


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_each_input_gets_its_own_data_again(order: str) -> None:
    taught = Signature(TWO)
    for first in (1.0, 2.0):
        body, size = binary(order, (8, 8), struct.pack("<4f", first, first, 9.0, 9.0))
        found = read_request(body, size, taught, LIMITS)
        values = {each.name: struct.unpack("<2f", each.data)[0] for each in found.query.inputs}
        assert [each.name for each in found.query.inputs] == ["a", "b"]
        assert (values[order[0]], values[order[1]]) == (first, 9.0)
