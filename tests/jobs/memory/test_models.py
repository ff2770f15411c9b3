from __future__ import annotations

import json
import struct
import sys
from typing import TYPE_CHECKING, Any

import pytest

from partita.errors import InputError
from partita.jobs.memory.allowance import CONTEXT, WORKSPACES
from partita.jobs.memory.graph import Graph
from partita.jobs.memory.hugging_face import TransformerMemory, read_transformer
from partita.jobs.memory.onnx_graph import GraphMemory, read_graph
from partita.jobs.memory.reuse import live_peak

if TYPE_CHECKING:
    from pathlib import Path

LLAMA_7B = {"num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32}
LLAMA_3B = {
    "num_hidden_layers": 28,
    "hidden_size": 3072,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
}


def written(folder: Path, config: object, tensors: dict[str, Any]) -> tuple[Path, list[Path]]:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    header = json.dumps(tensors).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return folder / "config.json", [folder / "model.safetensors"]


def tensor(dtype: str, *shape: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [0, 0]}


def test_a_transformer_is_read_from_config_and_header_alone(tmp_path):
    tensors = {
        "__metadata__": {"format": "pt"},
        "a": tensor("F16", 3, 4),
        "b": tensor("F32", 5),
        "c": tensor("F16"),
    }
    model = read_transformer(*written(tmp_path, LLAMA_7B, tensors))
    assert (model.parameters, model.weight_bytes) == (18, 46)
    assert (model.kv_heads, model.head_dim) == (32, 128)


def test_kv_cache_bytes_follow_the_formula(tmp_path):
    assert read_transformer(*written(tmp_path, LLAMA_7B, {})).kv_bytes_per_token() == 512 * 1024
    assert read_transformer(*written(tmp_path, LLAMA_3B, {})).kv_bytes_per_token() == 112 * 1024
    wrapped = {"text_config": LLAMA_3B}
    assert read_transformer(*written(tmp_path, wrapped, {})).kv_bytes_per_token() == 112 * 1024


def test_inference_needs_weights_and_cache_and_training_its_optimiser(tmp_path):
    model = read_transformer(*written(tmp_path, LLAMA_3B, {"w": tensor("BF16", 1000, 1000)}))
    serving = TransformerMemory(model, batch=2, tokens=100).bounds()
    assert serving.lower == pytest.approx(2e6 + 200 * 112 * 1024 + CONTEXT)
    assert serving.upper > serving.lower + WORKSPACES - CONTEXT
    training = TransformerMemory(model, batch=2, tokens=100, optimiser="adam").bounds()
    assert training.lower > 16e6 + CONTEXT
    assert training.upper > training.lower


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ("{", "not JSON"),
        ("[]", "no JSON object"),
        ({}, "no positive whole number hidden_size or n_embd or d_model"),
        ({**LLAMA_7B, "num_hidden_layers": -1}, "num_hidden_layers"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused_with_its_place(tmp_path, config, what):
    with pytest.raises(InputError, match=what) as caught:
        read_transformer(*written(tmp_path, config, {}))
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        struct.pack("<Q", 2**60),
        struct.pack("<Q", 4) + b"nope",
        struct.pack("<Q", 8) + b'{"a": 1}',
    ],
)
def test_a_file_that_is_no_safetensors_is_refused(tmp_path, content):
    config, (weights,) = written(tmp_path, LLAMA_7B, {})
    weights.write_bytes(content)
    with pytest.raises(InputError, match="no safetensors file"):
        read_transformer(config, [weights])
    weights.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        read_transformer(config, [weights])


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
    path.write_bytes(b"no protobuf")
    with pytest.raises(InputError, match="no ONNX model"):
        read_graph(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_graph(tmp_path / "none.onnx")
