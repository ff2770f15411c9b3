from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.jobs.memory.arena import MIB, Arena, Block, Graph, arena_bytes, live_peak, reused_peak
from partita.jobs.memory.onnx import GraphMemory, read_graph

if TYPE_CHECKING:
    from collections.abc import Mapping

SIZES = st.lists(st.tuples(st.integers(1, 40 * MIB), st.booleans()), min_size=1, max_size=40)


def replayed(memory: Arena | Block, steps: list[tuple[int, bool]]) -> int:
    """Allocate each size, freeing the oldest before where told; return the most bytes there were at once."""
    there: list[tuple[str, int]] = []
    most = 0
    for index, (size, free) in enumerate(steps):
        if free and there:
            memory.free(there.pop(0)[0])
        there.append((str(index), size))
        memory.allocate(str(index), size)
        most = max(most, sum(each for _, each in there))
    return most


@given(SIZES)
def test_an_arena_holds_what_is_asked_of_it(steps):
    arena = Arena()
    assert replayed(arena, steps) <= arena.total


@given(SIZES)
def test_a_block_is_between_the_most_at_once_and_all_together(steps):
    block = Block()
    most = replayed(block, steps)
    assert most <= block.total <= sum(size + 256 for size, _ in steps)


def test_an_arena_grows_by_powers_of_two():
    arena = Arena()
    arena.allocate("a", 12_000_000)
    assert arena.total == 16 * MIB
    arena.allocate("b", 12_000_000)
    assert arena.total == 32 * MIB
    arena.allocate("c", 1000)  # what is left beside `a` is less than half of it, and was not split off
    assert arena.total == 64 * MIB


def test_freed_neighbours_are_joined_and_used_again():
    arena = Arena()
    for name in "abcd":
        arena.allocate(name, 256 * 1024)
    assert arena.total == 1 * MIB
    for name in "bca":
        arena.free(name)
    arena.allocate("e", 768 * 1024)
    assert arena.total == 1 * MIB


def test_a_block_uses_the_smallest_gap():
    block = Block()
    for name, size in (("a", 1024), ("b", 256), ("c", 512), ("d", 256)):
        block.allocate(name, size)
    block.free("a")
    block.free("c")
    block.allocate("e", 512)
    assert block.total == 2048
    block.free("e")
    block.allocate("f", 1024)
    block.allocate("g", 500)
    assert block.total == 2048


def graph(*steps: tuple[str, tuple[str, ...], str], shapes: Mapping[str, tuple[int, ...]]) -> Graph:
    sizes = {name: 4 * shape[0] for name, shape in shapes.items()}
    made = tuple(((reads), (write,)) for _, reads, write in steps)
    return Graph(made, sizes, ("x",), ("y",), 0, 0, tuple(kind for kind, _, _ in steps), shapes)


def test_operators_write_over_what_nobody_reads_again():
    wide = dict.fromkeys(("x", "a", "b", "c", "y"), (1000,))
    chain = graph(
        ("Conv", ("x",), "a"),
        ("Relu", ("a",), "b"),
        ("Reshape", ("b",), "c"),
        ("Conv", ("c",), "y"),
        shapes=wide,
    )
    later = replace(chain, sizes={**chain.sizes, "x": 0})
    assert (live_peak(later), reused_peak(later)) == (2 * 4000, 2 * 4000)
    relus = graph(("Conv", ("x",), "a"), ("Relu", ("a",), "b"), ("Relu", ("b",), "y"), shapes=wide)
    assert reused_peak(replace(relus, sizes={**relus.sizes, "x": 0})) == 4000


def test_what_is_read_again_is_not_written_over():
    wide = dict.fromkeys(("x", "a", "b", "y"), (1000,))
    skip = graph(("Conv", ("x",), "a"), ("Relu", ("a",), "b"), ("Mul", ("a", "b"), "y"), shapes=wide)
    assert reused_peak(replace(skip, sizes={**skip.sizes, "x": 0})) == 2 * 4000
    # A view keeps the memory under it for as long as it is read.
    view = graph(("Conv", ("x",), "a"), ("Reshape", ("a",), "b"), ("Mul", ("a", "b"), "y"), shapes=wide)
    assert reused_peak(replace(view, sizes={**view.sizes, "x": 0})) == 4000


def test_a_graph_without_operators_shares_nothing():
    plain = Graph(((("x",), ("a",)), (("a",), ("y",))), {"x": 8, "a": 8, "y": 8}, ("x",), ("y",), 0, 0)
    assert reused_peak(plain) == live_peak(plain) == 16


def test_the_expected_memory_lies_within_the_bounds():
    wide = dict.fromkeys(("x", "a", "b", "y"), (1 << 20,))
    memory = GraphMemory(
        graph(("Conv", ("x",), "a"), ("Conv", ("a",), "b"), ("Conv", ("b",), "y"), shapes=wide)
    )
    assert memory.tensors().lower <= memory.expected() <= memory.tensors().upper


REAL = """
import sys, numpy as np, onnxruntime as ort
ort.set_default_logger_severity(1)
session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
print("loaded", file=sys.stderr, flush=True)
for _ in range(3):
    session.run(None, {"x": np.zeros((8, 16, 128, 128), "float32")})
"""


def test_onnx_runtime_takes_what_is_forecast(tmp_path):
    onnx = pytest.importorskip("onnx", reason="the optional package onnx is not installed")
    pytest.importorskip("onnxruntime", reason="the optional package onnxruntime is not installed")
    from onnx import TensorProto, helper  # noqa: PLC0415 -- optional

    # Convolutions with skips over them, as in a residual network.
    kernel = helper.make_tensor("k", TensorProto.FLOAT, [16, 16, 3, 3], [0.1] * (16 * 16 * 9))
    nodes = []
    for index in range(3):
        conv = helper.make_node("Conv", [f"a{index}" if index else "x", "k"], [f"c{index}"], pads=[1] * 4)
        again = helper.make_node("Conv", [f"r{index}", "k"], [f"d{index}"], pads=[1] * 4)
        nodes += [conv, helper.make_node("Relu", [f"c{index}"], [f"r{index}"]), again]
        nodes += [helper.make_node("Add", [f"d{index}", f"r{index}"], [f"a{index + 1}"])]
    nodes += [helper.make_node("GlobalAveragePool", ["a3"], ["y"])]
    net = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16, 128, 128])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16, 1, 1])],
        [kernel],
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(net, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    done = subprocess.run([sys.executable, "-c", REAL, str(path)], capture_output=True, text=True, check=True)
    grown = re.findall(r"Extended allocation by (\d+) bytes", done.stderr.split("loaded\n", 1)[1])
    if not grown:
        pytest.skip("this ONNX Runtime does not log how its arena grows")
    read = read_graph(path, {"n": 8})
    assert arena_bytes(read) == sum(map(int, grown)) + read.sizes["x"]
