"""Small models whose first dimension is a batch, and models where it only looks like one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

FLOAT, INT64, STRING, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL
node = helper.make_node
_RNG = np.random.default_rng(7)


def info(name: str, shape: Sequence[int | str | None], kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def const(name: str, value: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def weights(*shape: int) -> np.ndarray:
    return _RNG.normal(size=shape).astype(np.float32)


@dataclass(frozen=True)
class Example:
    """A model.

    Attributes:
        nodes: of its graph.
        inputs: what it takes.
        outputs: what it gives.
        constants: initializers.
        feed: makes inputs of so many rows (or whatever stands first).
        rows: whether its first dimension is a batch.
        why: part of what is said where it is not.
    """

    nodes: Sequence[onnx.NodeProto]
    inputs: Sequence[onnx.ValueInfoProto]
    outputs: Sequence[onnx.ValueInfoProto]
    constants: Sequence[onnx.TensorProto]
    feed: Callable[[np.random.Generator, int], dict[str, np.ndarray]]
    rows: bool = False
    why: str = ""

    def save(self, folder: Path) -> str:
        graph = helper.make_graph(
            list(self.nodes), "test", list(self.inputs), list(self.outputs), initializer=list(self.constants)
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        path = folder / "model.onnx"
        onnx.save(model, path)
        return str(path)


def floats(*further: int) -> Callable[[np.random.Generator, int], dict[str, np.ndarray]]:
    return lambda rng, n: {"x": rng.normal(size=(n, *further)).astype(np.float32)}


def simple(
    nodes: Sequence[onnx.NodeProto], *constants: onnx.TensorProto, width: int = 4, **more: Any
) -> Example:
    """x [batch, width] to y of the same shape."""
    sides = [info("x", ["batch", width])], [info("y", ["batch", width])]
    return Example(nodes, *sides, constants, floats(width), **more)


ROWS = {
    "mlp": simple(
        [node("MatMul", ["x", "a"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "b"], ["y"])],
        const("a", weights(4, 16)),
        const("b", weights(16, 4)),
        rows=True,
    ),
    "softmax-of-a-row": simple([node("Softmax", ["x"], ["y"], axis=1)], rows=True),
    "cumulative-in-a-row": simple(
        [node("CumSum", ["x", "one"], ["y"])], const("one", np.int64(1)), rows=True
    ),
    "best-of-a-row": Example(
        [node("TopK", ["x", "k"], ["v", "i"], axis=1)],
        [info("x", ["batch", 9])],
        [info("v", ["batch", 3]), info("i", ["batch", 3], INT64)],
        [const("k", np.array([3]))],
        floats(9),
        rows=True,
    ),
    "tokens": Example(
        [
            node("Gather", ["table", "ids"], ["e"]),
            node("Cast", ["mask"], ["m"], to=FLOAT),
            node("Unsqueeze", ["m", "last"], ["w"]),
            node("Mul", ["e", "w"], ["em"]),
            node("ReduceSum", ["em", "one"], ["s"], keepdims=0),
            node("Tanh", ["s"], ["y"]),
        ],
        [info("ids", ["batch", "seq"], INT64), info("mask", ["batch", "seq"], INT64)],
        [info("y", ["batch", 8])],
        [const("table", weights(50, 8)), const("last", np.array([2])), const("one", np.array([1]))],
        lambda rng, n: {"ids": rng.integers(0, 50, (n, 5)), "mask": rng.integers(0, 2, (n, 5))},
        rows=True,
    ),
    "image": Example(
        [
            node("Conv", ["x", "w"], ["c"], strides=[2, 2]),
            node("Relu", ["c"], ["r"]),
            node("GlobalAveragePool", ["r"], ["p"]),
            node("Flatten", ["p"], ["y"]),
        ],
        [info("x", ["N", 3, "H", "W"])],
        [info("y", ["N", 4])],
        [const("w", weights(4, 3, 9, 9))],
        floats(3, 20, 20),
        rows=True,
    ),
    "words": Example(
        [node("Identity", ["t"], ["u"]), node("Cast", ["n"], ["f"], to=FLOAT)],
        [info("t", ["b", 2], STRING), info("n", ["b"], INT64)],
        [info("u", ["b", 2], STRING), info("f", ["b"])],
        [],
        lambda rng, n: {
            "t": rng.choice(np.array(["grüß", "", "x"], object), (n, 2)),
            "n": rng.integers(0, 9, n),
        },
        rows=True,
    ),
    "numbers-in-texts": Example(
        [node("Cast", ["t"], ["y"], to=FLOAT)],
        [info("t", ["b"], STRING)],
        [info("y", ["b"])],
        [],
        lambda rng, n: {"t": rng.choice(np.array(["1.5", "-2", "7"], object), n)},
        rows=True,
    ),
    "lstm-batch-first": Example(
        [
            node("Transpose", ["x"], ["xt"], perm=[1, 0, 2]),
            node("LSTM", ["xt", "w", "r"], ["", "h"], hidden_size=3),
            node("Squeeze", ["h", "zero"], ["y"]),
        ],
        [info("x", ["batch", "time", 2])],
        [info("y", ["batch", 3])],
        [const("w", weights(1, 12, 2)), const("r", weights(1, 12, 3)), const("zero", np.array([0]))],
        floats(6, 2),
        rows=True,
    ),
}

APART = {
    "lstm-time-major": Example(
        [node("LSTM", ["x", "w", "r"], ["s"], hidden_size=2), node("Squeeze", ["s", "one"], ["y"])],
        [info("x", ["seq_len", "batch", 2])],
        [info("y", ["seq_len", "batch", 2])],
        [const("w", weights(1, 8, 2)), const("r", weights(1, 8, 2)), const("one", np.array([1]))],
        lambda rng, n: {"x": rng.normal(size=(n, 1, 2)).astype(np.float32)},
        why="output y differs",
    ),
    "lstm-fixed-time": Example(
        [node("LSTM", ["x", "w", "r"], ["s"], hidden_size=2), node("Squeeze", ["s", "one"], ["y"])],
        [info("x", [3, "batch", 2])],
        [info("y", [3, "batch", 2])],
        [const("w", weights(1, 8, 2)), const("r", weights(1, 8, 2)), const("one", np.array([1]))],
        lambda rng, n: {"x": rng.normal(size=(3, n, 2)).astype(np.float32)},
        why="the first dimension of x has no name",
    ),
    "softmax-of-a-list": simple([node("Softmax", ["x"], ["y"], axis=0)], why="output y differs"),
    "cumulative": simple(
        [node("CumSum", ["x", "o"], ["y"])], const("o", np.int64(0)), why="output y differs"
    ),
    "cumulative-from-the-end": simple(
        [node("CumSum", ["x", "o"], ["y"], reverse=1)], const("o", np.int64(0)), why="output y differs"
    ),
    "normed-by-the-batch": simple(
        [node("ReduceMean", ["x"], ["m"], axes=[0]), node("Sub", ["x", "m"], ["y"])], why="output y differs"
    ),
    "sorted-rows": simple(
        [
            node("Shape", ["x"], ["s"]),
            node("Slice", ["s", "zero", "one"], ["n"]),
            node("TopK", ["x", "n"], ["y", "at"], axis=0),
        ],
        const("zero", np.array([0])),
        const("one", np.array([1])),
        why="output y differs",
    ),
    "reversed-rows": simple(
        [node("Slice", ["x", "last", "end", "zero", "back"], ["y"])],
        const("last", np.array([-1])),
        const("end", np.array([-(2**31)])),
        const("zero", np.array([0])),
        const("back", np.array([-1])),
        why="output y differs",
    ),
    "among-the-best-twenty": Example(  # of fewer rows all are
        [
            node("Transpose", ["x"], ["t"], perm=[1, 0]),
            node("Less", ["x", "t"], ["l"]),
            node("Cast", ["l"], ["f"], to=FLOAT),
            node("ReduceSum", ["f", "one"], ["rank"], keepdims=1),
            node("Less", ["rank", "twenty"], ["keep"]),
        ],
        [info("x", ["docs", 1])],
        [info("keep", ["docs", 1], BOOL)],
        [const("one", np.array([1])), const("twenty", np.float32(20))],
        floats(1),
        why="output keep",
    ),
    "attention-mask": Example(
        [node("MatMul", ["x", "x"], ["y"])],
        [info("x", ["N", "N"])],
        [info("y", ["N", "N"])],
        [],
        lambda rng, n: {"x": rng.normal(size=(n, n)).astype(np.float32)},
        why="has N as another dimension too",
    ),
    "graph": Example(
        [node("Gather", ["nodes", "src"], ["m"])],
        [info("nodes", ["num_nodes", 4]), info("src", ["num_edges"], INT64)],
        [info("m", ["num_edges", 4])],
        [],
        lambda rng, n: {
            "nodes": rng.normal(size=(n, 4)).astype(np.float32),
            "src": rng.integers(0, n, rng.integers(0, 7)),
        },
        why="does not begin with num_nodes",
    ),
    "detections": Example(
        [node("NonZero", ["x"], ["i"]), node("Transpose", ["i"], ["det"], perm=[1, 0])],
        [info("x", ["batch", 4])],
        [info("det", ["num_det", 2], INT64)],
        [],
        lambda rng, n: {"x": (rng.random((n, 4)) > 0.5).astype(np.float32)},
        why="does not begin with batch",
    ),
    "detections-said-to-be-rows": Example(
        [node("NonZero", ["x"], ["i"]), node("Transpose", ["i"], ["det"], perm=[1, 0])],
        [info("x", ["batch", 4])],
        [info("det", ["batch", 2], INT64)],
        [],
        lambda rng, n: {"x": (rng.random((n, 4)) > 0.5).astype(np.float32)},
        why="output det is [",
    ),
    "scalar-input": Example(
        [node("Greater", ["x", "t"], ["b"])],
        [info("x", ["n", 4]), info("t", [])],
        [info("b", ["n", 4], BOOL)],
        [],
        lambda rng, n: {
            "x": rng.normal(size=(n, 4)).astype(np.float32),
            "t": np.array(rng.normal(), np.float32),
        },
        why="t of [] does not begin with n",
    ),
    "total": Example(
        [node("ReduceSum", ["x"], ["y"], keepdims=0)],
        [info("x", ["batch", 2])],
        [info("y", [])],
        [],
        floats(2),
        why="y of [] does not begin with batch",
    ),
    "table-beside-rows": Example(
        [node("Identity", ["x"], ["y"]), node("Identity", ["names"], ["labels"])],
        [info("x", ["batch", 2])],
        [info("y", ["batch", 2]), info("labels", [3], INT64)],
        [const("names", np.array([5, 6, 7]))],
        floats(2),
        why="labels of [3] does not begin with batch",
    ),
    "always-the-same": simple(
        [node("Mul", ["x", "nil"], ["y"])], const("nil", np.float32(0)), why="is the same for all rows"
    ),
    "frames-in-groups": simple(
        [
            node("Reshape", ["x", "eights"], ["g"]),
            node("ReduceMean", ["g"], ["m"], axes=[1]),
            node("Sub", ["g", "m"], ["d"]),
            node("Reshape", ["d", "flat"], ["y"]),
        ],
        const("eights", np.array([-1, 8, 4])),
        const("flat", np.array([-1, 4])),
        why="could not run it on made-up inputs",
    ),
    "quantised-by-the-range-of-all": simple(
        [
            node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        why="output y differs",
    ),
    "without-names": Example(
        [node("Relu", ["x"], ["y"])],
        [info("x", [None, 4])],
        [info("y", [None, 4])],
        [],
        floats(4),
        why="the first dimension of x has no name",
    ),
    "names-of-its-exporter": Example(
        [node("Relu", ["x"], ["y"])],
        [info("x", ["unk__6", 4])],
        [info("y", ["unk__7", 4])],
        [],
        floats(4),
        why="y of [unk__7, 4] does not begin with unk__6",
    ),
    "unknown-and-not-alike": Example(  # some exporters write one word for whatever they do not know
        [node("ReduceSum", ["x", "two"], ["y"], keepdims=0)],
        [info("x", ["?", "?", "None"])],
        [info("y", ["?", "None"])],
        [const("two", np.array([2]))],
        lambda rng, n: {"x": rng.normal(size=(n, 3, 2)).astype(np.float32)},
        why="the first dimension of x has no name",
    ),
    "one-size": Example(
        [node("Relu", ["x"], ["y"])],
        [info("x", [1, 4])],
        [info("y", [1, 4])],
        [],
        lambda rng, _: {"x": rng.normal(size=(1, 4)).astype(np.float32)},
        why="the first dimension of x has no name",
    ),
    "no-input": Example(
        [node("Identity", ["c"], ["y"])],
        [],
        [info("y", [2])],
        [const("c", weights(2))],
        lambda *_: {},
        why="no input",
    ),
}
