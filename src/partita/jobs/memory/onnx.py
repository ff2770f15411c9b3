"""Memory of a model from its ONNX graph: weights, and activations by liveness.

The second part infers the shapes of all tensors from the sizes of the inputs. ONNX's own inference leaves shapes open
where they depend on values; these are computed here, or bounded where they cannot be computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from partita.errors import InputError, nearest
from partita.jobs.memory.arena import Graph, arena_bytes, live_peak, reused_peak, scratch_bytes
from partita.jobs.memory.bounds import (
    CONTEXT,
    WORKSPACES,
    Bounds,
    ModelForecast,
    Optimiser,
    training_bytes,
    with_allowance,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class GraphMemory:
    """`model`, for ONNX graphs: weights, optimiser state, activations, and an allowance.

    Attributes:
        optimiser: `none` for inference, in which activations are freed after their last reader. Training keeps all of
            them for the backward pass, and each has a gradient at some time.
    """

    graph: Graph
    optimiser: Optimiser = "none"

    def tensors(self) -> Bounds:
        """Return the bounds of the tensors in bytes, without the CUDA context and workspaces.

        For inference the lower one is what any runtime needs, and the upper one what ONNX Runtime is expected to
        allocate, with room in its arena for the scratch of kernels. The lower one leaves out tensors whose size
        depends on data.
        """
        graph = self.graph
        least = replace(graph, sizes=dict(graph.sizes) | dict.fromkeys(graph.bounded, 0))
        kept = training_bytes(graph.parameters, graph.weight_bytes, self.optimiser)
        if self.optimiser == "none":
            return Bounds(kept + reused_peak(least), self.expected() + scratch_bytes(graph))
        every = sum(graph.sizes.values())
        return Bounds(kept + live_peak(least), kept + every + live_peak(graph))

    def expected(self) -> float:
        """Return the likeliest bytes for inference with ONNX Runtime, also of tensors only: weights and arena."""
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
        option: the option that gives sizes, for errors.

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
        sizes: of the inputs' dimensions, such as `{"batch": 8}`, or `{"x.0": 8}` where they have no name.
        option: the option that gives sizes, for errors.

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
        raise InputError(f"not an ONNX model: {str(error).splitlines()[0]}", where=str(path)) from None
    if not model.graph.node:
        raise InputError("not an ONNX model: it has no operators", where=str(path))
    return _graph(model, onnx.helper.tensor_dtype_to_np_dtype, dict(sizes or {}), str(path), option)


def _graph(model: Any, numpy_type: Any, sizes: dict[str, int], where: str, option: str) -> Graph:  # noqa: ANN401 -- protobuf's classes
    graph = model.graph
    weights = _weights(graph, numpy_type)
    names = {tensor.name for tensor in graph.initializer}
    # Runtimes keep constants like weights.
    work = [(index, node) for index, node in enumerate(graph.node) if node.op_type != "Constant"]
    nodes = [(n, tuple(node.input), tuple(name for name in node.output if name)) for n, node in work]
    inputs = tuple(v.name for v in graph.input if v.name not in names)
    operators = tuple(node.op_type for _, node in work)
    outputs = tuple(v.name for v in graph.output)
    shapes = infer(model, sizes, where, option)
    # Tensors inside a node exist while it runs.
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
    """Return the values and bytes of each weight and constant, also of those inside `If`, `Loop` and `Scan`."""
    graphs = [graph, *(inner for node in graph.node for inner in subgraphs(node))]
    tensors = [tensor for each in graphs for tensor in each.initializer]
    constants = [node for each in graphs for node in each.node if node.op_type == "Constant"]
    tensors += [a.t for node in constants for a in node.attribute if a.name == "value"]
    counts = [math.prod(tensor.dims) for tensor in tensors]
    return [(n, -(-n * _bits(t.data_type, numpy_type) // 8)) for n, t in zip(counts, tensors, strict=True)]


def _bits(kind: int, numpy_type: Any) -> int:  # noqa: ANN401
    """Return the bits of a value; values of four bits are packed in pairs."""
    name = str(numpy_type(kind))
    return 4 if name in ("int4", "uint4", "float4_e2m1fn") else int(numpy_type(kind).itemsize) * 8


_SMALL = 4096
"""Most elements of a tensor that is computed here."""

_NOT_COMPUTED = frozenset({
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial",
    "If", "Loop", "Scan", "SequenceMap", "Dropout", "Optional", "OptionalGetElement",
})  # fmt: skip

_PART_OF_INPUT = frozenset({"Slice", "TopK", "Split", "Compress", "Trilu", "SplitToSequence", "GatherND"})
"""Operators whose outputs are at most as long as their first input, by dimension or in elements."""

_SAME_ELEMENTS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Cast"})

_SAME_SHAPE = frozenset({
    "BiasGelu", "DequantizeLinear", "FastGelu", "Gelu", "LayerNormalization", "QLinearAdd", "QLinearLeakyRelu",
    "QLinearMul", "QLinearSigmoid", "QuantizeLinear", "QuickGelu", "RotaryEmbedding", "SimplifiedLayerNormalization",
    "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
})  # fmt: skip
"""Operators whose output has the shape of their first input, and whose shapes ONNX cannot infer."""

Shape = tuple[int, ...]


class _MisfitError(InputError):
    """An operator does not take tensors of these sizes."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """What is known of a graph's tensors.

    Attributes:
        of: the largest shape of each.
        width: bytes of a value of each.
        bounded: tensors whose size depends on data, and may be smaller, down to 0.
        inner: most bytes of tensors inside each node that has a graph of its own, by the node's index.
    """

    of: Mapping[str, Shape]
    width: Mapping[str, int]
    bounded: tuple[str, ...]
    inner: Mapping[int, int]


_NO_NAMES = frozenset({"", "?", "-1", "None"})
"""What exporters write for a dimension without a name."""


def open_inputs(graph: Any) -> dict[str, tuple[str, int]]:  # noqa: ANN401 -- protobuf's classes
    """Return the dimensions that need a size, by name or as `x.0`, with a tensor and axis that have each."""
    weights = {tensor.name for tensor in graph.initializer}
    found: dict[str, tuple[str, int]] = {}
    for value in graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if value.name not in weights and dim.dim_value < 1:
                found.setdefault(_name(value, axis), (value.name, axis))
    return found


def _name(value: Any, axis: int) -> str:  # noqa: ANN401
    given = value.type.tensor_type.shape.dim[axis].dim_param
    return f"{value.name}.{axis}" if given in _NO_NAMES else str(given)


def infer(model: Any, sizes: Mapping[str, int], where: str, option: str) -> Shapes:  # noqa: ANN401
    """Return the shapes of all tensors. The model is changed: it loses its large weights.

    Args:
        model: as `onnx.load` returns it.
        sizes: of dimensions by their names, or by a tensor's name and the axis, as `x.0`. If no dimension is called
            `batch`, that name means the first dimension of every input where it has no fixed size.
        where: the file, for errors.
        option: the option that gives sizes, for errors.

    Raises:
        InputError: an input's dimension is unknown, a size belongs to no dimension, or nothing bounds a tensor.
    """
    return _Solver(model, _sizes_of(model.graph, sizes, where, option), where, option).solve()


def _sizes_of(graph: Any, given: Mapping[str, int], where: str, option: str) -> dict[str, int]:  # noqa: ANN401
    """Return the sizes, with `batch` replaced by the dimensions that it means.

    Raises:
        InputError: a size belongs to no dimension, or is missing.
    """
    needed, sizes = open_inputs(graph), dict(given)
    tensors = (*graph.input, *graph.value_info, *graph.output)
    names = {_name(v, axis) for v in tensors for axis in range(len(v.type.tensor_type.shape.dim))}
    if "batch" in sizes and "batch" not in names and any(axis == 0 for _, axis in needed.values()):
        size = sizes.pop("batch")
        sizes = {name: size for name, (_, axis) in needed.items() if axis == 0} | sizes
    made = {*(v.name for v in tensors), *(name for node in graph.node for name in node.output)}
    for name in sizes:
        if name not in names and name.rpartition(".")[0] not in made:
            raise _no_dimension(name, list(needed), option)
    missing = [n for n, (tensor, axis) in needed.items() if not {n, f"{tensor}.{axis}"} & sizes.keys()]
    if missing:
        tensor, axis = needed[missing[0]]
        unnamed = missing[0] == f"{tensor}.{axis}"
        raise InputError(
            f"dimension {axis if unnamed else missing[0]} of {tensor} is not known",
            where=where,
            hint=f"give a size for {', '.join(missing)}: {option} {missing[0]}=1",
        )
    return sizes


def _no_dimension(name: str, needed: list[str], option: str) -> InputError:
    close = nearest(name, needed)
    told = f"its dimensions are {', '.join(needed)}" if needed else "all sizes are fixed"
    return InputError(
        f"the model has no dimension {name!r}", where=option, hint=f"did you mean {close}?" if close else told
    )


class _Solver:
    """Sets, infers, computes and bounds, until every tensor has a shape."""

    def __init__(self, model: Any, sizes: Mapping[str, int], where: str, option: str) -> None:  # noqa: ANN401
        self._model, self._sizes, self._where, self._option = model, sizes, where, option
        self._constants: dict[str, Any] = {}

    def solve(self) -> Shapes:
        """Return the shapes of all tensors."""
        graph = self._model.graph
        places = {id_: index for index, id_ in enumerate(map(_key, graph.node))}
        _strip(graph, self._constants)
        for value in (*graph.input, *graph.value_info, *graph.output):
            self._set(value)
        self._infer()
        while self._compute():
            self._infer()
        known = self._shapes()
        made = (name for node in self._model.graph.node for name in node.output)
        bounded = tuple(name for name in made if name and name not in known)
        while frontier := self._open():
            self._bound(frontier)
            self._infer()
            while self._compute():
                self._infer()
        graph = self._model.graph
        inner = {places[_key(node)]: size for node in graph.node if (size := self._inside(node))}
        return Shapes(self._shapes(), self._widths(), bounded, inner)

    def _set(self, value: Any) -> bool:  # noqa: ANN401
        """Set a tensor's dimensions to their sizes, and clear other names; return whether any was set."""
        given = False
        dims = value.type.tensor_type.shape.dim
        for axis, dim in enumerate(dims):
            size = self._sizes.get(f"{value.name}.{axis}") or self._sizes.get(_name(value, axis))
            if size and dim.dim_value != size:
                dim.dim_value, given = size, True
            elif dim.HasField("dim_param") or dim.dim_value < 0:
                dim.Clear()
        return given

    def _infer(self) -> None:
        import onnx  # noqa: PLC0415 -- optional, and slow to import

        try:
            self._model = onnx.shape_inference.infer_shapes(self._model, data_prop=True)
        except Exception:  # noqa: BLE001 -- some graphs fail where values are propagated; they are computed here
            self._infer_without_values()
        # Inference gives unknown dimensions new names.
        given = [self._set(value) for value in (*self._model.graph.value_info, *self._model.graph.output)]
        if any(given):
            self._infer()

    def _infer_without_values(self) -> None:
        import onnx  # noqa: PLC0415 -- optional

        try:
            self._model = onnx.shape_inference.infer_shapes(self._model)
        except Exception as error:  # noqa: BLE001 -- onnx's errors share no base
            told = str(error).strip().splitlines()[0]
            raise InputError(f"not an ONNX model: {told}", where=self._where) from None

    def _shapes(self) -> dict[str, Shape]:
        """Return the shapes that are fully known."""
        graph = self._model.graph
        found: dict[str, Shape] = {
            name: tuple(map(int, array.shape)) for name, array in self._constants.items()
        }
        for value in (*graph.value_info, *graph.input, *graph.output):
            shape = _dims(value)
            if shape is not None and all(size is not None for size in shape):
                found[value.name] = tuple(size for size in shape if size is not None)
        return found

    def _widths(self) -> dict[str, int]:
        """Return the bytes of a value of each tensor; 8 where the type is unknown."""
        graph = self._model.graph
        found = {name: int(array.dtype.itemsize) for name, array in self._constants.items()}
        for value in (*graph.value_info, *graph.input, *graph.output):
            found[value.name] = _width(value.type.tensor_type.elem_type)
        return found

    def _compute(self) -> bool:
        """Compute what follows from shapes and small constants; return whether there was something."""
        import numpy as np  # noqa: PLC0415 -- only for ONNX
        import onnx  # noqa: PLC0415

        shapes, graph, kept, progress = self._shapes(), self._model.graph, [], False
        for node in graph.node:
            values = _computed(node, self._constants, shapes, self._model.opset_import)
            if values is None:
                kept.append(node)
                continue
            for name, array in zip(node.output, values, strict=False):
                self._constants[name] = array
                if array.dtype != np.dtype(object):
                    graph.initializer.append(onnx.numpy_helper.from_array(array, name))
                progress = True
        if progress:
            copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
            del graph.node[:]
            graph.node.extend(copies)
            # Earlier inferred shapes would hide the computed values.
            for index in reversed(range(len(graph.value_info))):
                if graph.value_info[index].name in self._constants:
                    del graph.value_info[index]
        return progress

    def _open(self) -> list[Any]:
        """Return the nodes with an output of unknown shape whose inputs are all known."""
        shapes = self._shapes()
        unknown = [node for node in self._model.graph.node if any(o and o not in shapes for o in node.output)]
        missing = {name for node in unknown for name in node.output if name and name not in shapes}
        return [node for node in unknown if not missing & _reads(node)]

    def _bound(self, nodes: list[Any]) -> None:
        """Bound the outputs of these nodes.

        Raises:
            InputError: nothing bounds one.
        """
        import onnx  # noqa: PLC0415 -- optional

        graph = self._model.graph
        values = {v.name: v for v in (*graph.value_info, *graph.output)}
        shapes = self._shapes()
        for node in nodes:
            for name in node.output:
                if not name or name in shapes:
                    continue
                value = values.get(name)
                known = None if value is None else _dims(value)
                branched = (
                    self._largest_branch(node, list(node.output).index(name))
                    if node.op_type == "If"
                    else None
                )
                shape = (
                    self._given(name, known) or branched or _bound_of(node, known, shapes, self._constants)
                )
                if shape is None:
                    self._require_fit()
                    raise self._unbounded(node, name, known)
                kind = value.type.tensor_type.elem_type if value is not None else 0
                fixed = onnx.helper.make_tensor_value_info(name, kind or onnx.TensorProto.FLOAT, shape)
                if value is None:
                    graph.value_info.append(fixed)
                else:
                    value.CopyFrom(fixed)

    def _branches(self, node: Any) -> list[tuple[list[str], Shapes]]:  # noqa: ANN401
        """Return the outputs of each branch of an `If` that may be taken, and the shapes of all its tensors."""
        condition = self._constants.get(node.input[0])
        taken = None if condition is None else ("then_branch" if condition.all() else "else_branch")
        graphs = [each.g for each in node.attribute if taken in (None, each.name)]
        found, misfit = [], None
        for graph in graphs:
            try:
                found.append(([v.name for v in graph.output], self._branch(graph)))
            except _MisfitError as error:  # a branch for inputs of other sizes
                misfit = error
        if misfit is not None and not found:
            raise misfit
        return found

    def _branch(self, branch: Any) -> Shapes:  # noqa: ANN401
        """Return the shapes in a branch, which sees all tensors outside."""
        import onnx  # noqa: PLC0415 -- optional

        model = onnx.ModelProto(ir_version=self._model.ir_version, graph=branch)
        model.opset_import.extend(self._model.opset_import)
        shapes, types, graph = self._shapes(), self._types(), model.graph
        for name in {name for node in branch.node for name in _reads(node)} & shapes.keys():
            if (array := self._constants.get(name)) is not None:
                graph.initializer.append(onnx.numpy_helper.from_array(array, name))
            elif types.get(name):
                graph.input.append(onnx.helper.make_tensor_value_info(name, types[name], shapes[name]))
        return _Solver(model, {}, self._where, self._option).solve()

    def _inside(self, node: Any) -> int:  # noqa: ANN401
        """Return the bytes of all tensors inside a node's graphs whose shapes are known."""
        if node.op_type != "If":
            return _inner_bytes(node)
        found = []
        for _, shapes in self._branches(node):
            made = sum(math.prod(shape) * shapes.width.get(name, 8) for name, shape in shapes.of.items())
            outside = sum(
                math.prod(shape) * self._widths().get(n, 8)
                for n, shape in self._shapes().items()
                if n in shapes.of
            )
            found.append(made - outside + sum(shapes.inner.values()))
        return max(found, default=0)

    def _types(self) -> dict[str, int]:
        graph = self._model.graph
        return {
            v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)
        }

    def _largest_branch(self, node: Any, output: int) -> Shape | None:  # noqa: ANN401
        """Return the larger shape of an output over the branches."""
        found = [shapes.of[names[output]] for names, shapes in self._branches(node)]
        return max(found, key=math.prod, default=None)

    def _given(self, name: str, known: list[int | None] | None) -> Shape | None:
        """Return a shape that was given axis by axis."""
        axes = len(known) if known is not None else sum(f"{name}.{n}" in self._sizes for n in range(8))
        shape = [(known[n] if known else None) or self._sizes.get(f"{name}.{n}") for n in range(axes)]
        return tuple(size for size in shape if size) if shape and all(shape) else None

    def _require_fit(self) -> None:
        """Refuse sizes with which the model does not run.

        Raises:
            InputError: it does not run.
        """
        import onnx  # noqa: PLC0415 -- optional

        try:
            onnx.shape_inference.infer_shapes(self._model, strict_mode=True)
        except Exception as error:  # noqa: BLE001 -- onnx's errors share no base
            why = str(error).strip().splitlines()[-1]
            raise _MisfitError(
                f"the model does not run with these sizes: {why}",
                where=self._where,
                hint="give the sizes that it was made for",
            ) from None

    def _unbounded(self, node: Any, name: str, known: list[int | None] | None) -> InputError:  # noqa: ANN401
        axis = next((n for n, size in enumerate(known or ()) if size is None), 0)
        return InputError(
            f"nothing bounds dimension {axis} of {name}, which {node.op_type} makes",
            where=self._where,
            hint=f"give its largest size: {self._option} {name}.{axis}=100",
        )


def _width(kind: int) -> int:
    from onnx import helper  # noqa: PLC0415 -- optional

    return int(helper.tensor_dtype_to_np_dtype(kind).itemsize) if kind else 8


def _key(node: Any) -> str:  # noqa: ANN401
    return "\0".join(node.output)


def _strip(graph: Any, constants: dict[str, Any]) -> None:  # noqa: ANN401
    """Turn large weights into inputs, which have only a shape, and keep small ones as constants."""
    import onnx  # noqa: PLC0415 -- optional

    inputs, kept = {value.name for value in graph.input}, []
    for tensor in graph.initializer:
        external = tensor.data_location == onnx.TensorProto.EXTERNAL
        if math.prod(tensor.dims) <= _SMALL and not external:
            kept.append(onnx.TensorProto.FromString(tensor.SerializeToString()))
            constants[tensor.name] = onnx.numpy_helper.to_array(tensor)
        elif tensor.name not in inputs:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.sparse_initializer[:]


def _dims(value: Any) -> list[int | None] | None:  # noqa: ANN401
    """Return the sizes of a tensor's dimensions, None for an unknown one; None if their number is unknown."""
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        return None
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim]


def _computed(
    node: Any,  # noqa: ANN401
    constants: Mapping[str, Any],
    shapes: Mapping[str, Shape],
    opsets: Any,  # noqa: ANN401
) -> list[Any] | None:
    """Return the values of a node's outputs, None where they are unknown or too large."""
    import numpy as np  # noqa: PLC0415 -- only for ONNX

    if node.domain not in ("", "ai.onnx") or node.op_type in _NOT_COMPUTED:
        return None
    if node.op_type in ("Shape", "Size") and node.input[0] in shapes:
        shape = np.array(shapes[node.input[0]], np.int64)
        ends = {a.name: a.i for a in node.attribute}
        return [
            np.array(shape.prod()) if node.op_type == "Size" else shape[ends.get("start") : ends.get("end")]
        ]
    if not all(not name or name in constants for name in node.input):
        return None
    if node.op_type == "Constant" and not all(math.prod(a.t.dims) <= _SMALL for a in node.attribute):
        return None
    return _evaluated(node, {name: constants[name] for name in node.input if name}, opsets)


def _evaluated(node: Any, values: Mapping[str, Any], opsets: Any) -> list[Any] | None:  # noqa: ANN401
    import numpy as np  # noqa: PLC0415 -- only for ONNX
    from onnx import helper  # noqa: PLC0415
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415

    none = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "one",
        [none(name, 1, None) for name in values],
        [none(name, 1, None) for name in node.output if name],
    )
    try:
        found = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(None, dict(values))
    except Exception:  # noqa: BLE001 -- what the reference cannot compute is bounded instead
        return None
    arrays = [np.asarray(each) for each in found if not isinstance(each, list)]
    whole = len(arrays) == len(node.output) and all(array.size <= _SMALL for array in arrays)
    return arrays if whole else None


def _bound_of(
    node: Any,  # noqa: ANN401
    known: list[int | None] | None,
    shapes: Mapping[str, Shape],
    constants: Mapping[str, Any],
) -> Shape | None:
    """Return the largest shape that an output can have, None where nothing bounds it."""
    first = shapes.get(node.input[0]) if node.input else None
    if first is None:
        return None
    kind, elements = node.op_type, math.prod(first)
    if kind in ("NonZero", "NonMaxSuppression"):
        return (max(len(first), 1), elements) if kind == "NonZero" else (_boxes(node, shapes, constants), 3)
    if kind in _SAME_SHAPE:
        return first
    if kind in _PART_OF_INPUT and known is not None and len(known) == len(first):
        return tuple(size if size is not None else whole for size, whole in zip(known, first, strict=True))
    if kind in _PART_OF_INPUT | _SAME_ELEMENTS | {"Unique"}:
        return _flattened(known, elements) or (elements,)
    return None


def _flattened(known: list[int | None] | None, elements: int) -> Shape | None:
    """Return a shape of at most `elements` elements: the first open dimension takes what the known ones leave."""
    if known is None:
        return None
    left = -(-elements // max(math.prod(size for size in known if size), 1))
    first = known.index(None) if None in known else -1
    return tuple(
        size if size is not None else (left if axis == first else 1) for axis, size in enumerate(known)
    )


def _boxes(node: Any, shapes: Mapping[str, Shape], constants: Mapping[str, Any]) -> int:  # noqa: ANN401
    """Return the most boxes that are kept: of each class at most the number asked for."""
    batch, classes, there = shapes[node.input[1]]
    most = constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    # By ONNX's definition none is kept without a number. This bound takes all, as it does for an unknown number.
    each = there if most is None or not most.size else min(int(most.reshape(-1)[0]), there)
    return int(batch * classes * max(each, 0))


def _reads(node: Any) -> set[str]:  # noqa: ANN401
    """Return the names that a node and the graphs inside it read."""
    return {*node.input, *(name for graph in subgraphs(node) for inner in graph.node for name in inner.input)}


def subgraphs(node: Any) -> Iterator[Any]:  # noqa: ANN401
    """Yield the graphs inside a node, and inside their nodes."""
    for attribute in node.attribute:
        for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
            yield graph
            for inner in graph.node:
                yield from subgraphs(inner)


def _inner_bytes(node: Any) -> int:  # noqa: ANN401
    """Return the bytes of all tensors inside a node's graphs whose shapes are known."""
    total = 0
    for graph in subgraphs(node):
        for value in (*graph.value_info, *graph.output):
            shape = _dims(value)
            if shape is not None and None not in shape:
                total += math.prod(size for size in shape if size is not None) * 8
    return total
