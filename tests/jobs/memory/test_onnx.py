from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from partita.errors import InputError
from partita.jobs.memory.arena import Graph, live_peak
from partita.jobs.memory.bounds import CONTEXT, WORKSPACES
from partita.jobs.memory.forecasters import forecast_model
from partita.jobs.memory.onnx import GraphMemory, forecast_graph, read_graph

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def graph(steps, sizes, inputs=("x",), outputs=("y",)) -> Graph:
    return Graph(tuple(steps), sizes, inputs, outputs, parameters=10, weight_bytes=40)


def test_activations_live_from_their_writer_to_their_last_reader():
    chain = [(("x",), ("a",)), (("a",), ("b",)), (("b",), ("y",))]
    sizes = {"x": 1, "a": 10, "b": 10, "y": 1}
    assert live_peak(graph(chain, sizes)) == 20
    # A skip connection keeps `a` alive to the end.
    skip = [(("x",), ("a",)), (("a",), ("b",)), (("b",), ("c",)), (("c", "a"), ("y",))]
    assert live_peak(graph(skip, {**sizes, "c": 10})) == 30


def test_the_live_peak_is_that_of_brute_force():
    steps = [(("x",), ("a", "u")), (("a",), ("b",)), (("x", "b"), ("c",)), (("c",), ("y",)), (("c",), ("z",))]
    sizes = {"x": 3, "a": 5, "u": 2, "b": 7, "c": 11, "y": 1, "z": 4}

    def alive(step: int) -> int:
        total = 0
        for name, size in sizes.items():
            born = next((i for i, (_, writes) in enumerate(steps) if name in writes), -1)
            uses = [i for i, (reads, writes) in enumerate(steps) if name in reads or name in writes]
            dies = len(steps) if name in ("y", "z") else max(uses)
            total += size if born <= step <= dies else 0
        return total

    found = live_peak(graph(steps, sizes, outputs=("y", "z")))
    assert found == max(alive(step) for step in range(len(steps)))


def test_training_keeps_all_activations_in_its_upper_bound():
    net = graph([(("x",), ("a",)), (("a",), ("y",))], {"x": 1, "a": 10, "y": 1})
    assert GraphMemory(net).bounds().lower == 40 + 11 + CONTEXT
    assert GraphMemory(net, "adam").bounds().upper == 160 + 12 + 11 + WORKSPACES


def test_without_the_onnx_package_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match="needs the onnx package") as caught:
        read_graph(tmp_path / "model.onnx")
    assert caught.value.hint == "pip install 'partita[onnx]'"


def test_an_onnx_graph_is_read_with_its_symbolic_dimensions(tmp_path):
    onnx = pytest.importorskip("onnx", reason="the optional package onnx is not installed")
    from onnx import TensorProto, helper  # noqa: PLC0415 -- optional

    weights = helper.make_tensor("w", TensorProto.FLOAT, [4, 8], [0.0] * 32)
    net = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8])],
        [weights],
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(net), str(path))
    read = read_graph(path, {"batch": 2})
    assert (read.parameters, read.weight_bytes) == (32, 128)
    assert read.sizes == {"x": 32, "a": 64, "y": 64}
    assert live_peak(read) == 128
    with pytest.raises(InputError, match="dimension batch of x is not known"):
        read_graph(path)
    with pytest.raises(InputError, match="the model has no dimension 'batsh'") as caught:
        read_graph(path, {"batsh": 2})
    assert caught.value.hint == "did you mean batch?"
    path.write_bytes(b"no protobuf")
    with pytest.raises(InputError, match="not an ONNX model"):
        read_graph(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_graph(tmp_path / "none.onnx")


def saved(
    path: Path, nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], **more: Any
) -> Path:
    from onnx import helper, save  # noqa: PLC0415 -- optional

    net = helper.make_graph(nodes, "net", inputs, outputs, **more)
    save(helper.make_model(net, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def test_sizes_inside_follow_from_those_of_the_inputs(tmp_path):
    pytest.importorskip("onnx", reason="the optional package onnx is not installed")
    from onnx import TensorProto, helper  # noqa: PLC0415 -- optional

    # As a detector is exported: inside are expressions of the inputs' names, or numbers of the exporter's own.
    value = helper.make_tensor_value_info
    half: list[str | int | None] = ["batch", 16, "floor(height/2 - 1/2) + 1", "unk__0"]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [16, 3, 3, 3], [0.0] * 432)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    path = saved(
        tmp_path / "det.onnx",
        nodes,
        [value("x", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [value("y", TensorProto.FLOAT, half)],
        initializer=[weight],
        value_info=[value("c", TensorProto.FLOAT, half)],
    )
    read = read_graph(path, {"batch": 2, "height": 640, "width": 320})
    assert read.shapes["c"] == read.shapes["y"] == (2, 16, 320, 160)
    assert (read.weight_bytes, read.bounded) == (432 * 4, ())
    with pytest.raises(InputError, match="dimension height of x is not known") as caught:
        read_graph(path, {"batch": 2})
    assert caught.value.hint == "give a size for height, width: --with height=1"


def test_what_is_computed_from_shapes_is_computed(tmp_path):
    pytest.importorskip("onnx", reason="the optional package onnx is not installed")
    from onnx import TensorProto, helper  # noqa: PLC0415 -- optional

    value = helper.make_tensor_value_info
    two = helper.make_tensor("two", TensorProto.INT64, [1], [2])
    zero = helper.make_tensor("zero", TensorProto.INT64, [], [0])
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [0])
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axis"], ["rows"]),
        helper.make_node("Div", ["rows", "two"], ["fewer"]),
        helper.make_node("Max", ["fewer", "two"], ["most"]),
        helper.make_node("Concat", ["most", "two"], ["wanted"], axis=0),
        helper.make_node("ConstantOfShape", ["wanted"], ["y"]),
    ]
    path = saved(
        tmp_path / "net.onnx",
        nodes,
        [value("x", TensorProto.FLOAT, [None, 4])],
        [value("y", TensorProto.FLOAT, None)],
        initializer=[two, zero, axis],
    )
    assert read_graph(path, {"x.0": 20}).shapes["y"] == (10, 2)
    assert read_graph(path, {"batch": 20}).shapes["y"] == (10, 2)  # the first dimension, which has no name
    with pytest.raises(InputError, match="dimension 0 of x is not known"):
        read_graph(path)


def test_what_depends_on_data_is_bounded(tmp_path):
    pytest.importorskip("onnx", reason="the optional package onnx is not installed")
    from onnx import TensorProto, helper  # noqa: PLC0415 -- optional

    value = helper.make_tensor_value_info
    most = helper.make_tensor("most", TensorProto.INT64, [1], [50])
    nodes = [
        helper.make_node("NonMaxSuppression", ["boxes", "scores", "most"], ["kept"]),
        helper.make_node("Cast", ["kept"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("NonZero", ["f"], ["places"]),
        helper.make_node("Relu", ["f"], ["y"]),
    ]
    path = saved(
        tmp_path / "nms.onnx",
        nodes,
        [value("boxes", TensorProto.FLOAT, [1, 200, 4]), value("scores", TensorProto.FLOAT, [1, 3, 200])],
        [value("y", TensorProto.FLOAT, None), value("places", TensorProto.INT64, None)],
        initializer=[most],
    )
    read = read_graph(path)
    assert read.shapes["kept"] == read.shapes["y"] == (150, 3)
    assert read.shapes["places"] == (2, 450)
    assert set(read.bounded) == {"kept", "f", "places", "y"}
    found = forecast_graph(path, {})
    assert "4 of 4 tensors depend on data" in found.notes[0]
    assert found.parts["activations"].lower < found.parts["activations"].upper


def test_what_nothing_bounds_is_told_and_can_be_given(tmp_path):
    pytest.importorskip("onnx", reason="the optional package onnx is not installed")
    from onnx import TensorProto, helper  # noqa: PLC0415 -- optional

    value = helper.make_tensor_value_info
    path = saved(
        tmp_path / "expand.onnx",
        [helper.make_node("Expand", ["x", "shape"], ["e"]), helper.make_node("Relu", ["e"], ["y"])],
        [value("x", TensorProto.FLOAT, [1]), value("shape", TensorProto.INT64, [1])],
        [value("y", TensorProto.FLOAT, None)],
    )
    with pytest.raises(InputError, match="nothing bounds dimension 0 of e, which Expand makes") as caught:
        read_graph(path)
    assert caught.value.hint == "give its largest size: --with e.0=100"
    assert read_graph(path, {"e.0": 100}).shapes["y"] == (100,)


def test_a_branch_counts_as_its_larger_side_and_one_that_does_not_fit_not_at_all(tmp_path):
    pytest.importorskip("onnx", reason="the optional package onnx is not installed")
    from onnx import TensorProto, helper  # noqa: PLC0415 -- optional

    value, node, kind = helper.make_tensor_value_info, helper.make_node, TensorProto.FLOAT
    wide = helper.make_graph(
        [node("Concat", ["x", "x"], ["w"], axis=0)], "wide", [], [value("w", kind, None)]
    )
    same = helper.make_graph([node("Relu", ["x"], ["r"])], "same", [], [value("r", kind, None)])
    misfit = helper.make_graph([node("MatMul", ["x", "x"], ["m"])], "misfit", [], [value("m", kind, None)])
    inputs = [value("x", kind, ["n", 4]), value("c", TensorProto.BOOL, [])]
    for other in (same, misfit):
        branch = node("If", ["c"], ["b"], then_branch=wide, else_branch=other)
        nodes = [branch, node("Relu", ["b"], ["y"])]
        path = saved(tmp_path / "if.onnx", nodes, inputs, [value("y", kind, None)])
        assert read_graph(path, {"n": 10}).shapes["y"] == (20, 4)


def test_sizes_that_a_model_does_not_take_are_told(tmp_path):
    pytest.importorskip("onnx", reason="the optional package onnx is not installed")
    from onnx import TensorProto, helper  # noqa: PLC0415 -- optional

    value, kind = helper.make_tensor_value_info, TensorProto.FLOAT
    weight = helper.make_tensor("w", kind, [4, 2], [0.0] * 8)
    path = saved(
        tmp_path / "net.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [value("x", kind, ["batch", "width"])],
        [value("y", kind, None)],
        initializer=[weight],
    )
    with pytest.raises(InputError, match="the model does not run with these sizes"):
        read_graph(path, {"batch": 2, "width": 5})
    assert read_graph(path, {"batch": 2, "width": 4}).shapes["y"] == (2, 2)
    with pytest.raises(InputError, match="an ONNX graph, which has its own types"):
        forecast_model(path, ("batch=2,width=4,dtype=float16",))
