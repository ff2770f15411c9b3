"""Runs a model with ONNX Runtime: on the GPU that the process sees, else on the CPU."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from partita.errors import InputError
from partita.serve.tensors import Query, Tensor, TensorSpec
from partita.serve.worker.joint import InvalidQueryError, Joining, decode_texts, encode_texts, run_joined
from partita.serve.worker.log import note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.serve.tensors import Answer
    from partita.serve.worker.spec import OnnxSpec

DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
"""ONNX Runtime's types and the protocol's; numpy has no BF16."""
NUMPY = {
    "BOOL": np.dtype("bool"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
}


class OnnxRuntime:
    """A back-end (the protocol's `Backend`): one session for each lane, as processes of their own would have.

    Args:
        spec: the model.
        batch: the largest that the worker takes, for warming up.
        lanes: sessions.

    Raises:
        InputError: ONNX Runtime is not installed, or cannot load the model.
    """

    def __init__(self, spec: OnnxSpec, batch: int, lanes: int) -> None:
        runtime = _imported()
        self._invalid = runtime.capi.onnxruntime_pybind11_state.InvalidArgument
        self._sessions = [_session(runtime, spec) for _ in range(lanes)]
        first = self._sessions[0]
        self.inputs = tuple(_tensor(each, spec.path) for each in first.get_inputs())
        self.outputs = tuple(_tensor(each, spec.path) for each in first.get_outputs())
        self.provider = str(first.get_providers()[0])
        fixed, self._joining = _batching(self.inputs, self.outputs)
        self._padded = fixed
        if fixed is not None:
            self.inputs, self.outputs = (_any_batch(side) for side in (self.inputs, self.outputs))
        self._warm_up(batch)

    def run(self, lane: int, queries: Sequence[Query]) -> Sequence[Answer]:
        """Return the answers, from as few runs of the model as the queries' shapes allow."""
        return run_joined(queries, self._joining, lambda query: self._outputs(lane, query))

    def close(self) -> None:
        """Free the sessions and their memory."""
        self._sessions.clear()

    def _outputs(self, lane: int, query: Query) -> tuple[Tensor, ...]:
        known = {each.name: each for each in self.inputs}
        feeds = {each.name: _array(each, known) for each in query.inputs}
        if missing := known.keys() - feeds.keys():
            raise InvalidQueryError(f"the model needs input {', '.join(sorted(missing))}")
        names = list(query.outputs) or [each.name for each in self.outputs]
        if unknown := set(names) - {each.name for each in self.outputs}:
            raise InvalidQueryError(f"there is no output {', '.join(sorted(unknown))}")
        rows = query.batch
        if self._padded is not None and rows < self._padded:
            feeds = {name: _padded(each, self._padded) for name, each in feeds.items()}
        try:
            found = self._sessions[lane].run(names, feeds)
        except self._invalid as error:
            raise InvalidQueryError(str(error)) from None
        if self._padded is not None:
            found = [each[:rows] for each in found]
        datatypes = {each.name: each.datatype for each in self.outputs}
        return tuple(_as_tensor(name, datatypes[name], each) for name, each in zip(names, found, strict=True))

    def _warm_up(self, batch: int) -> None:
        """Run the smallest and the largest batch once: kernels are chosen then, and no query waits for that."""
        if any(-1 in each.shape[1:] for each in self.inputs):
            return  # nobody knows the sizes that will come
        for rows in sorted({1, batch}):
            query = Query(tuple(_zeros(each, rows) for each in self.inputs))
            for lane in range(len(self._sessions)):
                try:
                    self._outputs(lane, query)
                except Exception as error:  # noqa: BLE001 -- a model may refuse zeros, and run all the same
                    note(f"warming up with a batch of {rows}: {error}")
                    return


def _imported() -> Any:  # noqa: ANN401 -- a package without types
    try:
        import onnxruntime  # noqa: PLC0415 -- optional
    except ImportError:
        raise InputError(
            "ONNX Runtime is not installed", hint='pip install "partita[onnx]"; for GPUs, onnxruntime-gpu'
        ) from None
    return onnxruntime


def _session(runtime: Any, spec: OnnxSpec) -> Any:  # noqa: ANN401 -- a package without types
    if not Path(spec.path).is_file():
        raise InputError("no such model", where=spec.path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = spec.threads
    options.log_severity_level = 3
    there = runtime.get_available_providers()
    wanted = [each for each in ("CUDAExecutionProvider", "CPUExecutionProvider") if each in there]
    try:
        return runtime.InferenceSession(spec.path, options, providers=wanted)
    except Exception as error:  # noqa: BLE001 -- its errors have no common class
        raise InputError(f"ONNX Runtime cannot load it: {error}", where=spec.path) from None


def _tensor(node: Any, path: str) -> TensorSpec:  # noqa: ANN401 -- a package without types
    if node.type not in DATATYPES:
        raise InputError(f"{node.name} is a {node.type}, which cannot be served", where=path)
    sizes = (size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
    return TensorSpec(node.name, DATATYPES[node.type], tuple(sizes))


def _batching(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> tuple[int | None, Joining]:
    """Return the batch that the model always runs, None for any, and how queries are put together for it."""
    firsts = {each.shape[0] if each.shape else None for each in (*inputs, *outputs)}
    if firsts == {-1}:
        return None, Joining()
    if len(firsts) == 1 and None not in firsts:
        (fixed,) = firsts
        return fixed, Joining(most=fixed)
    return None, Joining(apart=True)


def _any_batch(side: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    return tuple(replace(each, shape=(-1, *each.shape[1:])) for each in side)


def _array(tensor: Tensor, known: dict[str, TensorSpec]) -> Any:  # noqa: ANN401 -- any datatype
    spec = known.get(tensor.name)
    if spec is None:
        raise InvalidQueryError(f"the model has no input {tensor.name}")
    if spec.datatype != tensor.datatype:
        raise InvalidQueryError(f"input {tensor.name} is {spec.datatype}, not {tensor.datatype}")
    if tensor.datatype == "BYTES":
        texts = decode_texts(tensor.data)
        if len(texts) != math.prod(tensor.shape):
            raise InvalidQueryError(f"input {tensor.name} has {len(texts)} elements, not those of its shape")
        made = np.empty(len(texts), dtype=object)
        made[:] = [_text(each, tensor.name) for each in texts]
        return made.reshape(tensor.shape)
    return np.frombuffer(tensor.data, NUMPY[tensor.datatype]).reshape(tensor.shape)


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidQueryError(f"input {name} has an element that is not UTF-8") from None


def _padded(array: Any, rows: int) -> Any:  # noqa: ANN401 -- any datatype
    """Return an array with its last row repeated: a row that the model can surely take."""
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])


def _as_tensor(name: str, datatype: str, array: Any) -> Tensor:  # noqa: ANN401 -- any datatype
    if datatype == "BYTES":
        data = encode_texts(str(each).encode() for each in array.reshape(-1))
    else:
        data = np.ascontiguousarray(array, NUMPY[datatype]).tobytes()
    return Tensor(name, datatype, tuple(array.shape), data)


def _zeros(spec: TensorSpec, rows: int) -> Tensor:
    shape = (rows if spec.shape[0] == -1 else spec.shape[0], *spec.shape[1:]) if spec.shape else ()
    if spec.datatype == "BYTES":
        return Tensor(spec.name, spec.datatype, shape, bytes(4 * math.prod(shape)))
    return Tensor(spec.name, spec.datatype, shape, np.zeros(shape, NUMPY[spec.datatype]).tobytes())
