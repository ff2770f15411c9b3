"""Memory of a model from its ONNX graph: weights, and activations by liveness."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from partita.errors import InputError
from partita.jobs.memory.allowance import with_allowance
from partita.jobs.memory.training import Optimiser, training_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from partita.jobs.memory.bounds import Bounds


@dataclass(frozen=True, slots=True)
class Graph:
    """A model as memory sees it.

    Attributes:
        steps: in the order of execution, the tensors that each reads and those that it writes.
        sizes: bytes of each tensor that is no weight.
        inputs: tensors that are there before the first step.
        outputs: tensors that stay after the last.
        parameters: values in the weights.
        weight_bytes: their bytes.
    """

    steps: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    sizes: Mapping[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: int
    weight_bytes: int

    def live_peak(self) -> int:
        """Return the most bytes of activations alive at once, each from its writer to its last reader."""
        last = dict.fromkeys(self.outputs, len(self.steps))
        for index, (reads, writes) in enumerate(self.steps):
            for name in (*reads, *writes):
                last[name] = max(last.get(name, 0), index)
        alive = peak = sum(self.sizes.get(name, 0) for name in self.inputs)
        present = set(self.inputs)
        for index, (reads, writes) in enumerate(self.steps):
            alive += sum(self.sizes.get(name, 0) for name in writes)
            present.update(writes)
            peak = max(peak, alive)
            gone = {name for name in (*reads, *writes) if name in present and last[name] == index}
            alive -= sum(self.sizes.get(name, 0) for name in gone)
            present -= gone
        return peak


@dataclass(frozen=True, slots=True)
class GraphMemory:
    """`model`, for ONNX graphs: weights, optimiser state, activations, and an allowance.

    Attributes:
        optimiser: `none` for inference, in which activations are freed after their last reader. In training all are
            kept for the backward pass, and each has a gradient at some time.
    """

    graph: Graph
    optimiser: Optimiser = "none"

    def bounds(self) -> Bounds:
        """Return the bounds of the peak in bytes."""
        graph = self.graph
        kept = training_bytes(graph.parameters, graph.weight_bytes, self.optimiser)
        if self.optimiser == "none":
            return with_allowance(kept + graph.live_peak(), kept + graph.live_peak())
        every = sum(graph.sizes.values())
        return with_allowance(kept + graph.live_peak(), kept + every + graph.live_peak())


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
    counts = [math.prod(tensor.dims) for tensor in weights.values()]
    widths = [numpy_type(tensor.data_type).itemsize for tensor in weights.values()]
    return Graph(
        steps=tuple((tuple(node.input), tuple(name for name in node.output if name)) for node in graph.node),
        sizes={name: _bytes(values.get(name), name, numpy_type, named, where) for name in (*inputs, *made)},
        inputs=inputs,
        outputs=tuple(v.name for v in graph.output),
        parameters=sum(counts),
        weight_bytes=sum(count * width for count, width in zip(counts, widths, strict=True)),
    )


def _bytes(value: Any, name: str, numpy_type: Any, named: Mapping[str, int], where: str) -> int:  # noqa: ANN401
    if value is None or not value.type.tensor_type.HasField("shape"):
        raise InputError(f"the shape of {name} cannot be inferred", where=where)
    tensor = value.type.tensor_type
    return _count(tensor.shape.dim, name, named, where) * int(numpy_type(tensor.elem_type).itemsize)


def _count(dims: Sequence[Any], name: str, named: Mapping[str, int], where: str) -> int:
    total = 1
    for dim in dims:
        size = dim.dim_value or named.get(dim.dim_param, 0)
        if size < 1:
            known = dim.dim_param or "?"
            raise InputError(
                f"dimension {known} of {name} is not known", where=where, hint=f"give a size for {known}"
            )
        total *= size
    return total
