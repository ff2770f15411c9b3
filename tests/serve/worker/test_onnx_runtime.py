"""Real models, built here, run by ONNX Runtime in a worker's back-end and in a worker."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tests.serve.worker.client import gateway, running, spec_of

from partita.errors import InputError
from partita.serve.tensors import Answer, Query, Tensor, TensorSpec, pack_texts
from partita.serve.worker.batching import decode_texts
from partita.serve.worker.onnx_runtime import OnnxBackend
from partita.serve.worker.spec import DeclaredBatch, OnnxSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Side: TypeAlias = "Sequence[onnx.ValueInfoProto]"


def save(folder: Path, nodes: Sequence[onnx.NodeProto], sides: tuple[Side, Side], **more) -> str:
    graph = helper.make_graph(list(nodes), "test", list(sides[0]), list(sides[1]), **more)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    path = folder / "model.onnx"
    onnx.save(model, path)
    return str(path)


def info(name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def doubling(folder: Path, batch: int | str = "batch", width: int | str = 3) -> str:
    """DOUBLE = 2 X and SUM, each row for itself; seconds grow with nothing."""
    two = helper.make_tensor("two", TensorProto.FLOAT, [], [2.0])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("Mul", ["X", "two"], ["DOUBLE"]),
        helper.make_node("ReduceSum", ["X", "axes"], ["SUM"], keepdims=1),
    ]
    sides = [info("X", [batch, width])], [info("DOUBLE", [batch, width]), info("SUM", [batch, 1])]
    return save(folder, nodes, sides, initializer=[two, axes])


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> OnnxBackend:
    return OnnxBackend(OnnxSpec(doubling(tmp_path_factory.mktemp("model"), width="width"), threads=1), 8, 1)


def floats(name: str, rows: Sequence[Sequence[float]]) -> Tensor:
    array = np.asarray(rows, np.float32).reshape(len(rows), -1)
    return Tensor(name, "FP32", array.shape, array.tobytes())


def read(answer: Answer) -> dict[str, np.ndarray]:
    assert answer.error is None
    return {each.name: np.frombuffer(each.data, "<f4").reshape(each.shape) for each in answer.outputs}


def right(query: Query, answer: Answer) -> None:
    rows = np.frombuffer(query.inputs[0].data, "<f4").reshape(query.inputs[0].shape)
    for name, found in read(answer).items():
        np.testing.assert_array_equal(
            found, 2 * rows if name == "DOUBLE" else rows.sum(axis=1, keepdims=True)
        )


def test_what_the_model_takes_and_gives_is_read_from_it(backend: OnnxBackend) -> None:
    assert backend.inputs == (TensorSpec("X", "FP32", (-1, -1), ("batch", "width")),)
    assert backend.outputs == (
        TensorSpec("DOUBLE", "FP32", (-1, -1), ("batch", "width")),
        TensorSpec("SUM", "FP32", (-1, 1), ("batch", "")),
    )


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 3), st.sampled_from([(), ("SUM",), ("SUM", "DOUBLE")]))
    )
)
def test_joined_queries_of_unlike_shapes_get_their_own_rows(backend: OnnxBackend, kinds) -> None:
    random = np.random.default_rng(len(kinds))
    queries = [
        Query((floats("X", random.integers(0, 9, (rows, width)).tolist()),), wanted)
        for rows, width, wanted in kinds
    ]
    for query, answer in zip(queries, backend.run(0, queries) if queries else [], strict=True):
        right(query, answer)
        names = [each.name for each in answer.outputs]
        assert names == list(query.outputs or ("DOUBLE", "SUM"))


def test_a_fixed_batch_is_padded_and_long_ones_run_in_parts(tmp_path: Path) -> None:
    backend = OnnxBackend(OnnxSpec(doubling(tmp_path, batch=4)), 8, 1, DeclaredBatch(rows=True))
    assert backend.inputs == (TensorSpec("X", "FP32", (-1, 3), ("batch", "")),)
    queries = [Query((floats("X", [[i, j, 1] for j in range(rows)]),)) for i, rows in enumerate((1, 3, 5))]
    for some in (queries, queries[:1], queries[2:]):
        for query, answer in zip(some, backend.run(0, some), strict=True):
            right(query, answer)


def test_a_model_without_a_batch_dimension_runs_every_query_by_itself(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceSum", ["X"], ["TOTAL"], keepdims=0)]
    backend = OnnxBackend(OnnxSpec(save(tmp_path, nodes, ([info("X", ["n", 2])], [info("TOTAL", [])]))), 8, 1)
    queries = [Query((floats("X", [[i, 1]] * rows),)) for i, rows in enumerate((1, 2, 3))]
    totals = [float(read(each)["TOTAL"]) for each in backend.run(0, queries)]
    assert totals == [1.0, 4.0, 9.0]


def test_texts_and_other_types_go_through(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Identity", ["T"], ["TEXT"]),
        helper.make_node("Cast", ["N"], ["BIG"], to=TensorProto.INT64),
    ]
    sides = (
        [info("T", ["b", 1], TensorProto.STRING), info("N", ["b"], TensorProto.INT8)],
        [info("TEXT", ["b", 1], TensorProto.STRING), info("BIG", ["b"], TensorProto.INT64)],
    )
    backend = OnnxBackend(OnnxSpec(save(tmp_path, nodes, sides)), 8, 2)
    texts = [["grüß", ""], ["x"]]
    queries = [
        Query(
            (
                Tensor("T", "BYTES", (len(some), 1), pack_texts(each.encode() for each in some)),
                Tensor("N", "INT8", (len(some),), bytes(range(len(some)))),
            )
        )
        for some in texts
    ]
    for some, answer in zip(texts, backend.run(1, queries), strict=True):
        text, big = answer.outputs
        assert [each.decode() for each in decode_texts(text.data)] == some
        assert (big.datatype, np.frombuffer(big.data, "<i8").tolist()) == ("INT64", list(range(len(some))))


GOOD = Query((floats("X", [[1, 2, 3]]),))


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (Query((floats("Y", [[1]]),)), "no input Y"),
        (Query(()), "needs input X"),
        (Query((Tensor("X", "FP64", (1, 1), bytes(8)),)), "is FP32, not FP64"),
        (Query(GOOD.inputs, ("NONE",)), "there is no output NONE"),
        (Query((Tensor("X", "FP32", (1, 1, 3), bytes(12)),)), "rank"),
    ],
)
def test_a_query_to_blame_is_told_so_and_the_others_are_answered(
    backend: OnnxBackend, bad: Query, told: str
) -> None:
    before, blamed, after = backend.run(0, [GOOD, bad, GOOD])
    assert blamed.invalid
    assert told in str(blamed.error)
    for each in (before, after):
        right(GOOD, each)


def test_an_operator_that_fails_on_the_data_fails_the_batch_and_not_the_worker(tmp_path: Path) -> None:
    axis = helper.make_tensor("table", TensorProto.FLOAT, [2, 1], [10.0, 20.0])
    nodes = [helper.make_node("Gather", ["table", "I"], ["ROW"])]
    path = save(
        tmp_path, nodes, ([info("I", ["b"], TensorProto.INT64)], [info("ROW", ["b", 1])]), initializer=[axis]
    )
    spec = spec_of(tmp_path, OnnxSpec(path, threads=1))

    def asking(index: int) -> Query:
        return Query((Tensor("I", "INT64", (1,), index.to_bytes(8, "little")),))

    with running(spec), gateway(spec) as one:
        assert one.hello.inputs == (TensorSpec("I", "INT64", (-1,), ("b",)),)
        (bad,) = one.ask(asking(7))
        assert bad.error is not None
        good, other = one.ask(asking(1), asking(0))
    assert [read(each)["ROW"].tolist() for each in (good, other)] == [[[20.0]], [[10.0]]]


def test_what_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such model"):
        OnnxBackend(OnnxSpec(str(tmp_path / "none.onnx")), 8, 1)
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(InputError, match="cannot load it"):
        OnnxBackend(OnnxSpec(str(tmp_path / "broken.onnx")), 8, 1)
    nodes = [helper.make_node("Cast", ["X"], ["Y"], to=TensorProto.FLOAT)]
    half = save(tmp_path, nodes, ([info("X", ["b"], TensorProto.BFLOAT16)], [info("Y", ["b"])]))
    with pytest.raises(InputError, match=r"bfloat16|cannot load"):
        OnnxBackend(OnnxSpec(half), 8, 1)


def test_a_tensor_of_unknown_rank_may_have_any_and_is_answered_as_the_model_does(tmp_path: Path) -> None:
    unknown = [onnx.ValueInfoProto(name=name) for name in ("x", "y")]
    for each in unknown:
        each.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Neg", ["x"], ["y"])], "neg", unknown[:1], unknown[1:]
    )
    path = tmp_path / "neg.onnx"
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path
    )
    made = OnnxBackend(OnnxSpec(str(path), threads=1), 8, 1)
    (spec,) = made.inputs
    assert (spec.shape, spec.any_rank, made.batching.rows) == ((), True, False)
    for shape in ((), (2,), (2, 1, 3)):
        array = np.arange(math.prod(shape), dtype="<f4").reshape(shape)
        (answer,) = made.run(0, [Query((Tensor("x", "FP32", shape, array.tobytes()),))])
        assert answer.outputs == (Tensor("y", "FP32", shape, (-array).tobytes()),)
