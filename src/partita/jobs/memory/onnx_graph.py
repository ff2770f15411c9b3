"""Memory of a model from its ONNX graph: weights, and activations by liveness."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from partita.errors import InputError
from partita.jobs.memory.allowance import with_allowance
from partita.jobs.memory.bounds import Bounds
from partita.jobs.memory.graph import Graph
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
        take, with room in its arena for the scratch of kernels.
        """
        graph = self.graph
        kept = training_bytes(graph.parameters, graph.weight_bytes, self.optimiser)
        if self.optimiser == "none":
            return Bounds(kept + reused_peak(graph), self.expected() + scratch_bytes(graph))
        every = sum(graph.sizes.values())
        return Bounds(kept + live_peak(graph), kept + every + live_peak(graph))

    def expected(self) -> float:
        """Return the likeliest for inference with ONNX Runtime, likewise: the weights once, and the arena."""
        return self.graph.weight_bytes + arena_bytes(self.graph)

    def bounds(self) -> Bounds:
        """Return the bounds of the peak in bytes."""
        tensors = self.tensors()
        return with_allowance(tensors.lower, tensors.upper)


def read_graph(path: Path | str, sizes: Mapping[str, int] | None = None) -> Graph:
    """Read an ONNX file. Weights beside it are not loaded.

    Args:
        path: the file.
        sizes: what symbolic dimensions are, such as `{"batch": 8}`.

    Raises:
        InputError: the `onnx` package is missing, the file cannot be read, or a dimension is not known.
    """
    try:
        import onnx  # noqa: PLC0415 -- optional, and slow to import
    except ImportError:
        raise InputError(
            "reading ONNX needs the onnx package", where=str(path), hint="pip install 'partita[onnx]'"
        ) from None
    try:
        model = onnx.shape_inference.infer_shapes(onnx.load(str(path), load_external_data=False))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except Exception as error:  # noqa: BLE001 -- protobuf's and onnx's errors share no base
        raise InputError(f"no ONNX model: {str(error).splitlines()[0]}", where=str(path)) from None
    return _graph(model.graph, onnx.helper.tensor_dtype_to_np_dtype, dict(sizes or {}), str(path))


def _graph(graph: Any, numpy_type: Any, named: dict[str, int], where: str) -> Graph:  # noqa: ANN401 -- protobuf's classes
    weights = {tensor.name: tensor for tensor in graph.initializer}
    values = {v.name: v for v in (*graph.value_info, *graph.input, *graph.output) if v.name not in weights}
    made = [name for node in graph.node for name in node.output if name]
    inputs = tuple(v.name for v in graph.input if v.name not in weights)
    shapes = {name: _shape(values.get(name), name, named, where) for name in (*inputs, *made)}
    width = {name: int(numpy_type(values[name].type.tensor_type.elem_type).itemsize) for name in shapes}
    counts = [math.prod(tensor.dims) for tensor in weights.values()]
    widths = [numpy_type(tensor.data_type).itemsize for tensor in weights.values()]
    return Graph(
        steps=tuple((tuple(node.input), tuple(name for name in node.output if name)) for node in graph.node),
        sizes={name: math.prod(shape) * width[name] for name, shape in shapes.items()},
        inputs=inputs,
        outputs=tuple(v.name for v in graph.output),
        parameters=sum(counts),
        weight_bytes=sum(count * width for count, width in zip(counts, widths, strict=True)),
        operators=tuple(node.op_type for node in graph.node),
        shapes=shapes,
    )


def _shape(value: Any, name: str, named: Mapping[str, int], where: str) -> tuple[int, ...]:  # noqa: ANN401
    if value is None or not value.type.tensor_type.HasField("shape"):
        raise InputError(f"the shape of {name} cannot be inferred", where=where)
    return tuple(_size(dim, name, named, where) for dim in value.type.tensor_type.shape.dim)


def _size(dim: Any, name: str, named: Mapping[str, int], where: str) -> int:  # noqa: ANN401
    size = int(dim.dim_value or named.get(dim.dim_param, 0))
    if size < 1:
        known = dim.dim_param or "?"
        raise InputError(
            f"dimension {known} of {name} is not known", where=where, hint=f"give a size for {known}"
        )
    return size
