"""Requests of the Open Inference Protocol are read as they are meant, or refused with what is wrong."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serve.gateway.fake_gateway import ALL_TYPES, ECHO, ROWS

from partita.serve.gateway.oip import Model, RequestError, RequestLimits, Signature
from partita.serve.gateway.oip_json import InferRequest, read_request, write_answer
from partita.serve.tensors import APART, ITEM_BYTES, Answer, Parameters, Query, Tensor, TensorSpec, pack_texts

LIMITS = RequestLimits(strings=50, tensors=20)
NUMPY = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP32": np.float32,
    "FP64": np.float64,
}


def model(*datatypes: str, shape: tuple[int, ...] = (-1, 2)) -> Model:
    inputs = tuple(TensorSpec(f"I{i}", each, shape) for i, each in enumerate(datatypes))
    outputs = tuple(TensorSpec(f"O{i}", each, shape) for i, each in enumerate(datatypes))
    return Model("m", "m", inputs, outputs, 8, 0.1, 0.95, ROWS)


def read(
    document: Any, of: Model = ECHO, tail: bytes | None = None, limits: RequestLimits = LIMITS
) -> InferRequest:
    header = document if isinstance(document, bytes) else json.dumps(document).encode()
    return read_request(header + (tail or b""), None if tail is None else len(header), Signature(of), limits)


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "INPUT0", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4], **changes}


def binary(**changes: Any) -> dict[str, Any]:
    return {
        "name": "INPUT0",
        "datatype": "FP32",
        "shape": [1, 4],
        "parameters": {"binary_data_size": 16},
        **changes,
    }


@pytest.mark.parametrize("datatype", NUMPY)
@given(data=st.data())
def test_numbers_of_every_datatype_arrive_as_numpy_has_them(datatype, data):
    dtype = NUMPY[datatype]
    if datatype == "BOOL":
        elements: Any = st.booleans()
    elif datatype.startswith("FP"):
        elements = st.floats(width=32 if datatype == "FP32" else 64, allow_nan=False, allow_infinity=False)
    else:
        elements = st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    rows = data.draw(st.lists(st.lists(elements, min_size=2, max_size=2), min_size=1, max_size=8))
    given_data = rows if data.draw(st.booleans()) else [each for row in rows for each in row]
    asked = {"name": "I0", "datatype": datatype, "shape": [len(rows), 2], "data": given_data}
    wanted = [{"name": "O0", "parameters": {"binary_data": True}}]
    found = read({"inputs": [asked], "outputs": wanted}, model(datatype)).query
    assert bytes(found.inputs[0].data) == np.array(rows, dtype).tobytes()
    assert found.batch == len(rows)
    assert found.outputs == ("O0",)


@given(rows=st.lists(st.text(max_size=20), min_size=2, max_size=8).filter(lambda x: len(x) % 2 == 0))
def test_texts_follow_their_lengths(rows):
    try:
        packed = b"".join(len(x.encode()).to_bytes(4, "little") + x.encode() for x in rows)
    except UnicodeEncodeError:
        return
    shape = [len(rows) // 2, 2]
    as_json = read(
        {"inputs": [{"name": "I0", "datatype": "BYTES", "shape": shape, "data": rows}]}, model("BYTES")
    )
    parameters = {"binary_data_size": len(packed)}
    as_binary = {"name": "I0", "datatype": "BYTES", "shape": shape, "parameters": parameters}
    assert as_json.query.inputs[0].data == packed
    assert bytes(read({"inputs": [as_binary]}, model("BYTES"), packed).query.inputs[0].data) == packed


@pytest.mark.parametrize("datatype", ALL_TYPES)
def test_binary_data_of_every_datatype_are_handed_on_untouched(datatype):
    element = b"\x03\0\0\0abc" if datatype == "BYTES" else bytes(range(ITEM_BYTES[datatype]))
    data = element * 6
    asked = {
        "name": "I0",
        "datatype": datatype,
        "shape": [3, 2],
        "parameters": {"binary_data_size": len(data)},
    }
    document = {"inputs": [asked], "parameters": {"binary_data_output": True}}
    found = read(document, model(datatype), data)
    assert bytes(found.query.inputs[0].data) == data
    assert found.binary_default
    with pytest.raises(RequestError, match="bytes are left"):
        read(document, model(datatype), data[:-1])


def test_several_inputs_take_the_model_s_order():
    several = model("FP32", "INT32")
    one = {"name": "I0", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    two = {"name": "I1", "datatype": "INT32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    found = read({"inputs": [two, one]}, several, b"B" * 8 + b"A" * 8).query
    assert [(each.name, bytes(each.data)) for each in found.inputs] == [("I0", b"A" * 8), ("I1", b"B" * 8)]


def test_outputs_say_each_how_they_are_sent():
    asked = [{"name": "OUTPUT0", "parameters": {"binary_data": True}}]
    found = read({"id": "7", "inputs": [tensor()], "outputs": asked})
    assert found.query.outputs == ("OUTPUT0",)
    assert found.binary == {"OUTPUT0": True}
    assert found.id == "7"
    assert found.deadline_s is None


@pytest.mark.parametrize(
    ("parameters", "seconds"),
    [
        ({"deadline_ms": 50}, 0.05),
        ({"deadline_ms": 0.5}, 0.0005),
        ({"timeout": 2000}, 0.002),
        ({"timeout": 0}, None),
    ],
)
def test_a_deadline_comes_as_a_parameter(parameters, seconds):
    found = read({"inputs": [tensor()], "parameters": parameters}).deadline_s
    assert found == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (b"", "malformed JSON"),
        (b"{", "malformed JSON"),
        (b"[1]", "not a JSON object"),
        (b"\xff\xfe", "malformed JSON"),
        (b"[" * 5000 + b"]" * 5000, "malformed JSON"),
        ({}, "inputs is not a list"),
        ({"inputs": {}}, "inputs is not a list"),
        ({"inputs": [3]}, "not a tensor"),
        ({"inputs": []}, "INPUT0 is missing"),
        ({"inputs": [tensor(), tensor()]}, "given twice"),
        ({"inputs": [tensor()] * 21}, "at most"),
        ({"inputs": [tensor(name="X")]}, "no input 'X'"),
        ({"inputs": [tensor(name=["a"])]}, "no input"),
        ({"inputs": [tensor(name="\0\x1b[31m" * 50)]}, "no input"),
        ({"inputs": [tensor(datatype="INT32")]}, "is FP32"),
        ({"inputs": [tensor(datatype=None)]}, "is FP32"),
        ({"inputs": [tensor(shape=[4])]}, r"has shape \[-1, 4\] .*, not \[4\]: 2 dimensions, not 1"),
        ({"inputs": [tensor(shape=[1, 5])]}, r"has shape .*, not \[1, 5\]: dimension 1 is 4, not 5"),
        ({"inputs": [tensor(shape=[-1, 4])]}, "has shape"),
        ({"inputs": [tensor(shape=[True, 4])]}, "has shape"),
        ({"inputs": [tensor(shape=[1.0, 4])]}, "has shape"),
        ({"inputs": [tensor(shape="14")]}, "has shape"),
        ({"inputs": [tensor(shape=[2**63 - 1, 4])]}, "elements"),
        ({"inputs": [tensor(shape=[9, 4], data=[1] * 36)]}, "batch size 9, and echo takes 8 at most"),
        ({"inputs": [tensor(data=[1, 2, 3])]}, "3 elements"),
        ({"inputs": [tensor(data=None)]}, "not a list"),
        ({"inputs": [tensor(data={})]}, "not a list"),
        ({"inputs": [tensor(data=[[1, 2], [3, 4]])]}, "not nested"),
        ({"inputs": [tensor(data=[[1, 2, 3], 4])]}, "not nested"),
        ({"inputs": [tensor(data=[[[[1, 2, 3, 4]]]])]}, "not nested"),
        ({"inputs": [tensor(data=[1, 2, 3, [4]])]}, "lists among"),
        ({"inputs": [tensor(data=[1, 2, 3, "4"])]}, "texts among"),
        ({"inputs": [tensor(data=[1, 2, 3, None])]}, "null among"),
        ({"inputs": [tensor(data=[1, 2, 3, True])]}, "true or false among"),
        ({"inputs": [tensor(data=[1, 2, 3, 1e39])]}, "out of range"),
        ({"inputs": [tensor(parameters=3)]}, "parameters is 3"),
        ({"inputs": [tensor(parameters={"binary_data_size": 16})]}, "bytes are left"),
        ({"inputs": [tensor(parameters={"shared_memory_region": "x"})]}, "shared memory"),
        ({"inputs": [tensor()], "outputs": [{"name": "X"}]}, "no output 'X'"),
        ({"inputs": [tensor()], "outputs": [{"name": "OUTPUT0"}] * 2}, "asked for twice"),
        ({"inputs": [tensor()], "outputs": [{}]}, "no output None"),
        (
            {"inputs": [tensor()], "outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": 1}}]},
            "not true",
        ),
        (
            {"inputs": [tensor()], "outputs": [{"name": "OUTPUT0", "parameters": {"classification": 3}}]},
            "classifi",
        ),
        ({"inputs": [tensor()], "parameters": {"binary_data_output": "yes"}}, "not true"),
        ({"inputs": [tensor()], "parameters": {"sequence_id": 4}}, "sequences"),
        ({"inputs": [tensor()], "parameters": {"deadline_ms": -1}}, "deadline_ms"),
        ({"inputs": [tensor()], "parameters": {"deadline_ms": "soon"}}, "deadline_ms"),
        ({"inputs": [tensor()], "parameters": {"deadline_ms": True}}, "deadline_ms"),
        ({"inputs": [tensor()], "parameters": {"deadline_ms": 1e300}}, "more than"),
        ({"id": 5, "inputs": [tensor()]}, "id is 5"),
        ({"id": "x" * 257, "inputs": [tensor()]}, "id is"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(document, says):
    with pytest.raises(RequestError, match=says) as caught:
        read(document)
    assert caught.value.status in (400, 413)
    assert len(caught.value.what) < 300
    assert caught.value.what.isprintable()


@pytest.mark.parametrize(
    ("document", "tail", "says"),
    [
        ({"inputs": [binary()]}, b"x" * 15, "15 bytes are left"),
        ({"inputs": [binary()]}, b"x" * 17, "belong to no input"),
        ({"inputs": [binary(parameters={"binary_data_size": 12})]}, b"x" * 12, "12 bytes of data"),
        ({"inputs": [binary(parameters={"binary_data_size": -1})]}, b"x" * 16, "binary_data_size is -1"),
        ({"inputs": [binary(parameters={"binary_data_size": True})]}, b"x" * 16, "binary_data_size is True"),
        ({"inputs": [binary(data=[1])]}, b"x" * 16, "both"),
    ],
)
def test_binary_data_fit_what_is_said_of_them(document, tail, says):
    with pytest.raises(RequestError, match=says):
        read(document, tail=tail)


@pytest.mark.parametrize(
    "data", [b"\x05\0\0\0abc", b"\x01\0\0\0", b"\0\0", b"\xff\xff\xff\xffab", b"\0" * 12]
)
def test_binary_texts_that_do_not_add_up_are_refused(data):
    asked = {
        "name": "I0",
        "datatype": "BYTES",
        "shape": [1, 2],
        "parameters": {"binary_data_size": len(data)},
    }
    with pytest.raises(RequestError, match="not 2 elements"):
        read({"inputs": [asked]}, model("BYTES"), data)


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("UINT8", [256, 0]),
        ("INT8", [-129, 0]),
        ("UINT64", [-1, 0]),
        ("INT64", [2**63, 0]),
        ("INT32", [1.5, 0]),
    ],
)
def test_numbers_out_of_range_are_refused(datatype, values):
    asked = {"name": "I0", "datatype": datatype, "shape": [1, 2], "data": values}
    with pytest.raises(RequestError, match=f"of {datatype}"):
        read({"inputs": [asked]}, model(datatype))


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_has_no_form_in_json(datatype):
    asked = {"name": "I0", "datatype": datatype, "shape": [1, 2], "data": [1.0, 2.0]}
    with pytest.raises(RequestError, match="binary"):
        read({"inputs": [asked]}, model(datatype))
    sent = {"name": "I0", "datatype": datatype, "shape": [1, 2], "parameters": {"binary_data_size": 4}}
    with pytest.raises(RequestError, match="output O0"):
        read({"inputs": [sent]}, model(datatype), b"abcd")


def test_many_texts_and_much_json_are_refused():
    many = {"name": "I0", "datatype": "BYTES", "shape": [1, 51], "data": [""] * 51}
    with pytest.raises(RequestError, match="50 at most") as caught:
        read({"inputs": [many]}, model("BYTES", shape=(-1, -1)))
    assert caught.value.status == 413
    with pytest.raises(RequestError, match="bytes of JSON") as caught:
        read({"inputs": [tensor()]}, limits=RequestLimits(header=20))
    assert caught.value.status == 413


def test_a_model_with_more_tensors_than_is_usual_may_be_given_all_of_them_and_no_more():
    """A decoder with a cache takes and gives two for each of its layers."""
    many = model(*["INT8"] * 30, shape=(-1, 1))
    inputs = [{"name": f"I{i}", "datatype": "INT8", "shape": [1, 1], "data": [i]} for i in range(30)]
    outputs = [{"name": f"O{i}"} for i in range(30)]
    query = read({"inputs": inputs, "outputs": outputs}, many).query
    assert (len(query.inputs), len(query.outputs)) == (30, 30)
    for wrong in ({"inputs": [*inputs, inputs[0]]}, {"inputs": inputs, "outputs": [*outputs, outputs[0]]}):
        with pytest.raises(RequestError, match=r"31 (inputs|outputs), 30 at most"):
            read(wrong, many)


def test_an_input_of_any_rank_may_have_any_and_no_other():
    free = Model("m", "m", (TensorSpec("X", "INT8", (), any_rank=True),), (), 0, 0.1, 0.95, APART)
    for shape, data in (([], [1]), ([2], [1, 2]), ([1, 2], [[1, 2]]), ([0, 3], [])):
        asked = {"name": "X", "datatype": "INT8", "shape": shape, "data": data}
        assert read({"inputs": [asked]}, free).query.inputs[0].shape == tuple(shape)
    for bad in ([-1], [1.0], 1, None):
        with pytest.raises(RequestError, match="shape"):
            read({"inputs": [{"name": "X", "datatype": "INT8", "shape": bad, "data": [1]}]}, free)


def test_a_header_longer_than_the_body_is_refused():
    with pytest.raises(RequestError, match="Inference-Header"):
        read_request(b"{}", 3, Signature(ECHO), LIMITS)


TEXTS = Model(
    "texts",
    "texts",
    (
        TensorSpec("ids", "INT64", (-1, -1), ("batch", "seq")),
        TensorSpec("mask", "INT64", (-1, -1), ("batch", "seq")),
        TensorSpec("kinds", "INT64", (-1, -1), ("batch", "seq"), optional=True),
        TensorSpec("size", "FP32", (), ()),
    ),
    (TensorSpec("y", "FP32", (-1,), ("batch",)),),
    0,
    0.1,
    0.95,
)


def asked(**shapes: list[int]) -> dict[str, Any]:
    return {
        "inputs": [
            {
                "name": name,
                "datatype": "FP32" if name == "size" else "INT64",
                "shape": shape,
                "data": [1] * int(np.prod(shape)),
            }
            for name, shape in shapes.items()
        ]
    }


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({"ids": [2, 3], "mask": [2, 4], "size": []}, "seq is 3 in ids and 4 in mask"),
        ({"ids": [2, 3], "mask": [1, 3], "size": []}, "batch is 2 in ids and 1 in mask"),
        ({"mask": [2, 4], "size": [], "ids": [2, 3]}, "seq is 3 in ids and 4 in mask"),
        ({"ids": [2, 3], "mask": [2, 3], "kinds": [2, 5], "size": []}, "seq is 3 in ids and 5 in kinds"),
        (
            {"ids": [2, 3, 1], "mask": [2, 3], "size": []},
            r"ids has shape \[batch, seq\], not \[2, 3, 1\]: 2 dim",
        ),
        (
            {"ids": [2, 3], "mask": [2, 3], "size": [1]},
            r"size has shape \[\], not \[1\]: 0 dimensions, not 1",
        ),
        ({"ids": [2, 3], "size": []}, "input mask is missing"),
    ],
)
def test_sizes_that_the_model_calls_alike_have_to_be(shapes, says):
    with pytest.raises(RequestError, match=says) as caught:
        read(asked(**shapes), TEXTS)
    assert caught.value.status == 400


@pytest.mark.parametrize("more", [{}, {"kinds": [2, 3]}])
def test_scalars_optional_inputs_and_no_rows_are_taken(more):
    query = read(asked(size=[], **more, mask=[2, 3], ids=[2, 3]), TEXTS).query
    assert [each.name for each in query.inputs] == ["ids", "mask", *more, "size"]
    assert query.inputs[-1].shape == ()
    assert read(asked(ids=[0, 3], mask=[0, 3], size=[]), TEXTS).query.inputs[0].data == b""
    assert read({"inputs": [tensor(shape=[0, 4], data=[])]}).query.batch == 0


NAMELESS = Model("any", "any", (), (), 0, 0.1, 0.95)


def test_a_model_that_lists_no_inputs_is_asked_whatever_comes():
    document = asked(a=[2, 3], b=[5], size=[])
    found = read({**document, "outputs": [{"name": "whatever"}]}, NAMELESS).query
    assert [(each.name, each.datatype, each.shape) for each in found.inputs] == [
        ("a", "INT64", (2, 3)),
        ("b", "INT64", (5,)),
        ("size", "FP32", ()),
    ]
    assert found.outputs == ("whatever",)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"inputs": []}, "there is no input"),
        ({"inputs": [tensor(name=5)]}, "name is 5"),
        ({"inputs": [tensor(datatype="FP99")]}, "unknown datatype 'FP99'"),
        ({"inputs": [tensor(datatype=None)]}, "unknown datatype None"),
        ({"inputs": [tensor(shape=[-1, 4])]}, "has shape"),
        ({"inputs": [tensor(shape=None)]}, "has shape"),
        ({"inputs": [tensor(shape=[2, 4])]}, "4 elements"),
        ({"inputs": [tensor(data=[1, 2, 3, "x"])]}, "texts among"),
        ({"inputs": [tensor(), tensor()]}, "given twice"),
    ],
)
def test_what_no_model_could_take_is_refused_all_the_same(document, says):
    with pytest.raises(RequestError, match=says):
        read(document, NAMELESS)


def test_parameters_that_are_not_ours_are_handed_on():
    ours = {"binary_data_output": True, "deadline_ms": 5}
    document = {"inputs": [tensor(parameters={"content_type": "np"})], "parameters": {**ours, "seed": 7}}
    signature = Signature(ECHO)
    for _ in range(2):
        found = read_request(json.dumps(document).encode(), None, signature, LIMITS).query
        assert found.parameters == {"": {"seed": 7}, "INPUT0": {"content_type": "np"}}
    assert read({"inputs": [tensor()], "parameters": ours}).query.parameters is None
    body = json.dumps({"inputs": [tensor()], "parameters": {"seed": float("nan")}}).encode()
    with pytest.raises(RequestError, match="parameter 'seed' is nan"):
        read(body)


TOKENS = b'{"inputs": [{"name": "INPUT0", "datatype": "%b", "shape": [1, 4], "data": %b}]}'


@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
@pytest.mark.parametrize("data", [b"[NaN, Infinity, -Infinity, -0.5]", b"[[NaN, Infinity, -Infinity, -0.5]]"])
def test_nan_and_infinities_are_read_as_triton_and_python_write_them(datatype, data):
    one = Model("m", "m", (TensorSpec("INPUT0", datatype, (-1, 4)),), ECHO.outputs, 8, 0.1, 0.95, ROWS)
    signature = Signature(one)
    sent = TOKENS % (datatype.encode(), data)
    for _ in range(2):  # the second time, what surrounds the data is known
        (found,) = read_request(sent, None, signature, LIMITS).query.inputs
        numbers = np.frombuffer(bytes(found.data), "<f4" if datatype == "FP32" else "<f8")
        np.testing.assert_array_equal(numbers, [np.nan, np.inf, -np.inf, -0.5])


@pytest.mark.parametrize(
    ("datatype", "data", "says"),
    [
        (b"INT32", b"[NaN, 1, 2, 3]", "fractions among elements of INT32"),
        (b"FP32", b"[nan, 1, 2, 3]", "malformed JSON"),
        (b"FP32", b"[NaN, 1e999, 2, 3]", "out of range"),
        (b"FP32", b"[1e999, 1, 2, 3]", "malformed JSON"),
        (b"FP32", b"[NaN, 1e39, 2, 3]", "out of range of FP32"),
        (b"FP32", b"[1, NaN, -1e39, 3]", "out of range of FP32"),
        (b"FP32", b"[NaN, 1, 2, 3", "malformed JSON"),
        (b"FP32", b"[NaN, 1, 2, " + b"[" * 5000, "malformed JSON"),
        (b"FP32", b"[NaN, 1, null, 3]", "null among"),
        (b"FP32", b'[NaN, 1, 2, "\xff"]', "malformed JSON"),
    ],
)
def test_what_is_no_number_is_refused_beside_nan_too(datatype, data, says):
    one = Model(
        "m", "m", (TensorSpec("INPUT0", datatype.decode(), (-1, 4)),), ECHO.outputs, 8, 0.1, 0.95, ROWS
    )
    with pytest.raises(RequestError, match=says):
        read(TOKENS % (datatype, data), one)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(max_size=8), each, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    ["name", "datatype", "shape", "data", "parameters", "binary_data_size", "INPUT0", "FP32"]
)


@given(
    inputs=JSON | st.lists(st.fixed_dictionaries({}, optional={
        "name": st.just("INPUT0") | JSON,
        "datatype": st.just("FP32") | JSON,
        "shape": st.lists(st.integers(-2, 5), max_size=3) | JSON,
        "data": st.lists(st.floats(), max_size=8) | JSON,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-3, 40) | JSON}) | JSON,
    }), max_size=3),
    others=st.dictionaries(st.sampled_from(["id", "outputs", "parameters"]) | KEYS, JSON, max_size=3),
    tail=st.none() | st.binary(max_size=40),
)  # fmt: skip
def test_whatever_comes_is_read_or_refused(inputs, others, tail):
    try:
        header = orjson.dumps({**others, "inputs": inputs})
    except (TypeError, ValueError):  # integers that orjson does not write
        header = json.dumps({**others, "inputs": inputs}).encode()
    try:
        found = read(header, tail=tail)
    except RequestError:
        return
    assert [len(each.data) for each in found.query.inputs] == [16 * found.query.batch]


@given(body=st.binary(max_size=200), length=st.none() | st.integers(0, 250))
def test_bytes_without_meaning_are_refused(body, length):
    with pytest.raises(RequestError):
        read_request(body, length, Signature(ECHO), LIMITS)


SMALL_LIMITS = RequestLimits(strings=50, tensors=20)
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
        return read_request(body, header_length, signature, SMALL_LIMITS)
    except RequestError as error:
        return f"{error.status} {error.what}"


@given(st.lists(st.tuples(FORMS, LISTS), min_size=2, max_size=12))
def test_lists_are_read_as_if_they_were_the_first(asked: list[tuple[str, str]]) -> None:
    taught = Signature(ONE)
    for form, values in asked * 2:
        body = (form % values).encode()
        assert outcome(body, None, taught) == outcome(body, None, Signature(ONE))


def with_binary(order: str, sizes: tuple[int, int], data: bytes) -> tuple[bytes, int]:
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
        body, size = with_binary(order, sizes, data)
        assert outcome(body, size, taught) == outcome(body, size, Signature(TWO))


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_each_input_gets_its_own_data_again(order: str) -> None:
    taught = Signature(TWO)
    for first in (1.0, 2.0):
        body, size = with_binary(order, (8, 8), struct.pack("<4f", first, first, 9.0, 9.0))
        found = read_request(body, size, taught, SMALL_LIMITS)
        values = {each.name: struct.unpack("<2f", each.data)[0] for each in found.query.inputs}
        assert [each.name for each in found.query.inputs] == ["a", "b"]
        assert (values[order[0]], values[order[1]]) == (first, 9.0)


X = Tensor("x", "FP32", (1, 3), memoryview(np.array([0.1, -2, 3e38], "<f4").tobytes()))
Y = Tensor("y", "INT64", (1, 1), np.array([-(2**63)], "<i8").tobytes())
TEXT = Tensor("t", "BYTES", (1, 2), pack_texts(["ä".encode(), b""]))


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
        Tensor("t", "BYTES", (1,), pack_texts([b"null, null"])),
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
