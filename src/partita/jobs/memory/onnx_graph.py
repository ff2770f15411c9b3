"""Memory of a model from its ONNX graph: weights, and activations by liveness."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from partita.errors import InputError
from partita.jobs.memory.allowance import CONTEXT, WORKSPACES, with_allowance
from partita.jobs.memory.bounds import Bounds
from partita.jobs.memory.forecast import ModelForecast
from partita.jobs.memory.graph import Graph
from partita.jobs.memory.onnx_shapes import infer, subgraphs
from partita.jobs.memory.reuse import arena_bytes, live_peak, reused_peak, scratch_bytes
from partita.jobs.memory.training import Optimiser, training_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class GraphMemory:
    """`model`, for ONNX graphs: weights, optimiser state, activations, and an allowance.

    Attributes:
        optimiser: `none` for inference, in which activations are freed after their last reader. In training all are
            kept for the backward pass, and each has a gradient at some time.
    """

    graph: Graph
    optimiser: Optimiser = "none"

    def tensors(self) -> Bounds:
        """Return the bounds of what the tensors take in bytes, without the CUDA context and workspaces.

        For inference the lower one is what any runtime needs, and the upper one what ONNX Runtime is expected to
        take, with room in its arena for the scratch of kernels. In the lower one nothing is left of tensors whose
        size depends on data.
        """
        graph = self.graph
        least = replace(graph, sizes=dict(graph.sizes) | dict.fromkeys(graph.bounded, 0))
        kept = training_bytes(graph.parameters, graph.weight_bytes, self.optimiser)
        if self.optimiser == "none":
            return Bounds(kept + reused_peak(least), self.expected() + scratch_bytes(graph))
        every = sum(graph.sizes.values())
        return Bounds(kept + live_peak(least), kept + every + live_peak(graph))

    def expected(self) -> float:
        """Return the likeliest for inference with ONNX Runtime, likewise: the weights once, and the arena."""
        return self.graph.weight_bytes + arena_bytes(self.graph)

    def bounds(self) -> Bounds:
        """Return the bounds of the peak in bytes."""
        tensors = self.tensors()
        return with_allowance(tensors.lower, tensors.upper)


def forecast_graph(
    path: Path, sizes: Mapping[str, int], optimiser: Optimiser = "none", option: str = "--with"
) -> ModelForecast:
    """Return the forecast for an ONNX file.

    Args:
        path: the file.
        sizes: of the inputs' dimensions, such as `{"batch": 8}`.
        optimiser: `none` for inference.
        option: that sizes are given with, for errors.

    Raises:
        InputError: as for `read_graph`.
    """
    graph = read_graph(path, sizes, option)
    memory = GraphMemory(graph, optimiser)
    tensors = memory.tensors()
    kept = float(training_bytes(graph.parameters, graph.weight_bytes, optimiser))
    parts = {"weights": Bounds(graph.weight_bytes, graph.weight_bytes)}
    if optimiser != "none":
        parts["gradients_and_optimiser"] = Bounds(kept - graph.weight_bytes, kept - graph.weight_bytes)
    parts["activations"] = Bounds(tensors.lower - kept, tensors.upper - kept)
    parts["overhead"] = Bounds(CONTEXT, WORKSPACES)
    made = len(graph.sizes) - len(graph.inputs)
    notes = []
    if graph.bounded:
        names = ", ".join(graph.bounded[:4])
        notes.append(f"{len(graph.bounded)} of {made} tensors depend on data, and are bounded: {names}")
    facts = {
        "kind": "graph",
        "parameters": graph.parameters,
        "tensors": made,
        "bounded_tensors": list(graph.bounded),
    }
    return ModelForecast(parts, tuple(notes), facts)


def read_graph(path: Path | str, sizes: Mapping[str, int] | None = None, option: str = "--with") -> Graph:
    """Read an ONNX file. Weights beside it are not loaded.

    The inputs get their sizes first, and the shapes of all other tensors are inferred from these.

    Args:
        path: the file.
        sizes: what the inputs' dimensions are, such as `{"batch": 8}`, or `{"x.0": 8}` where they have no name.
        option: that sizes are given with, for errors.

    Raises:
        InputError: the `onnx` package is missing, the file cannot be read, or nothing bounds a tensor.
    """
    try:
        import onnx  # noqa: PLC0415 -- optional, and slow to import
    except ImportError:
        raise InputError(
            "reading ONNX needs the onnx package", where=str(path), hint="pip install 'partita[onnx]'"
        ) from None
    try:
        model = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except Exception as error:  # noqa: BLE001 -- protobuf's and onnx's errors share no base
        raise InputError(f"no ONNX model: {str(error).splitlines()[0]}", where=str(path)) from None
    if not model.graph.node:
        raise InputError("no ONNX model: it has no operators", where=str(path))
    return _graph(model, onnx.helper.tensor_dtype_to_np_dtype, dict(sizes or {}), str(path), option)


def _graph(model: Any, numpy_type: Any, sizes: dict[str, int], where: str, option: str) -> Graph:  # noqa: ANN401 -- protobuf's classes
    graph = model.graph
    weights = _weights(graph, numpy_type)
    names = {tensor.name for tensor in graph.initializer}
    # Runtimes keep constants as they keep weights.
    work = [(index, node) for index, node in enumerate(graph.node) if node.op_type != "Constant"]
    nodes = [(n, tuple(node.input), tuple(name for name in node.output if name)) for n, node in work]
    inputs = tuple(v.name for v in graph.input if v.name not in names)
    operators = tuple(node.op_type for _, node in work)
    outputs = tuple(v.name for v in graph.output)
    shapes = infer(model, sizes, where, option)
    # What is computed inside of a node is there while it runs.
    steps = [
        (reads, (*writes, f"inside {index}") if index in shapes.inner else writes)
        for index, reads, writes in nodes
    ]
    made = [name for _, _, writes in nodes for name in writes]
    held = {name: shapes.of[name] for name in (*inputs, *made)}
    inner = {f"inside {index}": size for index, size in shapes.inner.items()}
    return Graph(
        steps=tuple(steps),
        sizes={name: math.prod(shape) * shapes.width[name] for name, shape in held.items()} | inner,
        inputs=inputs,
        outputs=outputs,
        parameters=sum(count for count, _ in weights),
        weight_bytes=sum(size for _, size in weights),
        operators=operators,
        shapes=held | {name: (size,) for name, size in inner.items()},
        bounded=(*shapes.bounded, *inner),
    )


def _weights(graph: Any, numpy_type: Any) -> list[tuple[int, int]]:  # noqa: ANN401
    """Return the values and bytes of each weight and constant, also of those inside of `If`, `Loop` and `Scan`."""
    graphs = [graph, *(inner for node in graph.node for inner in subgraphs(node))]
    tensors = [tensor for each in graphs for tensor in each.initializer]
    constants = [node for each in graphs for node in each.node if node.op_type == "Constant"]
    tensors += [a.t for node in constants for a in node.attribute if a.name == "value"]
    counts = [math.prod(tensor.dims) for tensor in tensors]
    return [(n, -(-n * _bits(t.data_type, numpy_type) // 8)) for n, t in zip(counts, tensors, strict=True)]


def _bits(kind: int, numpy_type: Any) -> int:  # noqa: ANN401
    """Return the bits of a value; those of four are packed in pairs."""
    name = str(numpy_type(kind))
    return 4 if name in ("int4", "uint4", "float4_e2m1fn") else int(numpy_type(kind).itemsize) * 8
