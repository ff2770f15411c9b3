"""Small ONNX models, made here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path


def _save(nodes, inputs, outputs, weights, path: Path, *, external: str | None = None) -> Path:
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "net", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path), save_as_external_data=bool(external), location=external, size_threshold=0)
    return path


def mlp(path: Path, *, batch: str | int = "batch", width: int = 32, external: str | None = None) -> Path:
    """Three layers: x[batch, width] to y[batch, width]."""
    random = np.random.default_rng(0)
    nodes, last = [], "x"
    for layer in range(3):
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"a{layer}"]))
        last = "y" if layer == 2 else f"r{layer}"
        nodes.append(helper.make_node("Relu", [f"a{layer}"], [last]))
    weights = {f"w{i}": random.standard_normal((width, width)).astype("float32") for i in range(3)}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, width]) for name in "xy"]
    return _save(nodes, values[:1], values[1:], weights, path, external=external)


def cnn(path: Path) -> Path:
    """A convolution over images of any size, beside token ids and a mask: every kind of input."""
    weights = {
        "k": np.ones((4, 3, 3, 3), "float32"),
        "table": np.ones((2, 4), "float32"),
    }
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gather", ["table", "token"], ["e"]),
        helper.make_node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["e", "m"], ["g"]),
        helper.make_node("Add", ["f", "g"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "height", "width"]),
        helper.make_tensor_value_info("token", TensorProto.INT64, ["n"]),
        helper.make_tensor_value_info("mask", TensorProto.BOOL, ["n", 1]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])]
    return _save(nodes, inputs, outputs, weights, path)


def growing(path: Path, mib: int) -> Path:
    """x[batch, 1] spread over so many MiB for each item."""
    nodes = [
        helper.make_node("Expand", ["x", "size"], ["wide"]),
        helper.make_node("ReduceMax", ["wide"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])]
    return _save(nodes, inputs, outputs, {"size": np.array([1, mib << 18], "int64")}, path)
