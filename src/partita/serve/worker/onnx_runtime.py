"""Runs a model with ONNX Runtime: on the GPU that the process sees, else on the CPU."""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from partita.errors import InputError
from partita.serve.tensors import Answer, Batching, Query, Tensor, TensorSpec, pack_texts
from partita.serve.worker.backend import note
from partita.serve.worker.batching import InvalidQueryError, Joining, decode_texts, run_joined
from partita.serve.worker.probe import ProbeResult, RowDependence, probe
from partita.serve.worker.spec import UNDECLARED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.serve.worker.probe import Feeds
    from partita.serve.worker.spec import DeclaredBatch, OnnxSpec


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


_WORDS = re.compile(r"\w+")
_LEAST_PROBED = 4
"""Rows that a probe runs together at least, though the plan runs fewer: another may run more."""
_UNKNOWN = frozenset({"none", "null", "nan", "dynamic", "unk", "unknown", "any", "dim", "undefined"})
"""What exporters write for all dimensions that they do not know, which are therefore not alike."""
_MISFIT = ("reshape", "broadcast", "dimension", "mismatch", "incompatible")
"""What operators say of sizes that do not fit together."""
_OUT_OF_MEMORY = ("allocate memory", "out of memory", "bad_alloc", "bad allocation", "bfcarena")


class OnnxBackend:
    """A back-end (the protocol's `Backend`): one session for each lane, as processes of their own would have.

    Queries are joined where one name begins the shapes of all inputs and outputs and a probe finds that rows do not
    influence each other, or where whoever owns the model says that they do not.

    Args:
        spec: the model.
        batch: the largest that the worker takes.
        lanes: sessions.
        declared: what is said of the model's batch.

    Attributes:
        batching: whether its queries may be joined and split.
        most: rows that it runs at once at most; None for no limit.

    Raises:
        InputError: ONNX Runtime is not installed or cannot load the model, or the model is not as it is declared.
    """

    def __init__(self, spec: OnnxSpec, batch: int, lanes: int, declared: DeclaredBatch = UNDECLARED) -> None:
        runtime = _imported()
        self._invalid = runtime.capi.onnxruntime_pybind11_state.InvalidArgument
        self._sessions = [_session(runtime, spec) for _ in range(lanes)]
        first = self._sessions[0]
        self.inputs = tuple(_tensor(each, spec.path) for each in first.get_inputs())
        self.fault = None
        self.outputs = tuple(_tensor(each, spec.path) for each in first.get_outputs())
        self.provider = str(first.get_providers()[0])
        self._padded = _fixed_batch(self.inputs, self.outputs) if declared.rows else None
        self.most = self._padded
        if self._padded is not None:
            self.inputs, self.outputs = (_any_batch(side) for side in (self.inputs, self.outputs))
        self._answered: Feeds = {}
        self.batching = self._batching(spec.path, batch, declared)
        self._joining = Joining(self._padded or batch, apart=not self.batching.rows)
        self._warm_up(batch if self.batching.rows else 1)

    def run(self, lane: int, queries: Sequence[Query]) -> Sequence[Answer]:
        """Return the answers, from as few runs of the model as the queries' shapes allow."""
        return run_joined(queries, self._joining, partial(self._answer, lane))

    def close(self) -> None:
        """Free the sessions and their memory."""
        self._sessions.clear()

    def _batching(self, path: str, batch: int, declared: DeclaredBatch) -> Batching:
        """Return whether queries may be joined: as is declared, unless a probe shows that it is wrong."""
        most = declared.most or 0
        if declared.rows is False:
            return Batching(why="it is declared to have no batch dimension")
        if declared.rows:
            _check_declared(self.inputs, self.outputs, path)
        elif (doubt := _doubt(self.inputs, self.outputs)) is not None:
            return Batching(why=doubt)
        seen = self._probed(batch)
        if seen.finding is RowDependence.APART:
            return Batching(rows=True, most=most, why=seen.why)
        if declared.rows and seen.finding is RowDependence.TOGETHER:
            raise InputError(
                f"it is declared `batch: rows`, and its rows influence each other: {seen.why}",
                where=path,
                hint="write `batch: none` for this service, or leave `batch` out",
            )
        if declared.rows:
            return Batching(rows=True, most=most, why=f"it is declared `batch: rows`, though {seen.why}")
        return Batching(why=seen.why)

    def _probed(self, batch: int) -> ProbeResult:
        names = [each.name for each in self.outputs]
        seen = (
            probe(
                self.inputs,
                self.outputs,
                lambda feeds: self._arrays(0, names, feeds),
                most=self._padded or max(batch, _LEAST_PROBED),
                coarse=not self.provider.startswith("CPU"),
            )
            if self._padded != 1
            else ProbeResult(RowDependence.APART, "it runs one row at a time")
        )
        self._answered = dict(seen.sample)
        return seen

    def _answer(self, lane: int, query: Query) -> Answer:
        return Answer(self._outputs(lane, query))

    def _outputs(self, lane: int, query: Query) -> tuple[Tensor, ...]:
        known = {each.name: each for each in self.inputs}
        feeds = {each.name: _array(each, known) for each in query.inputs}
        if missing := known.keys() - feeds.keys():
            raise InvalidQueryError(f"the model needs input {', '.join(sorted(missing))}")
        names = list(query.outputs) or [each.name for each in self.outputs]
        if unknown := set(names) - {each.name for each in self.outputs}:
            raise InvalidQueryError(f"there is no output {', '.join(sorted(unknown))}")
        try:
            found = self._arrays(lane, names, feeds)
        except Exception as error:
            if self._is_to_blame(lane, error):
                raise InvalidQueryError(_first_line(error)) from None
            raise
        if not self._answered:
            self._answered = feeds
        datatypes = {each.name: each.datatype for each in self.outputs}
        return tuple(_as_tensor(name, datatypes[name], each) for name, each in zip(names, found, strict=True))

    def _arrays(self, lane: int, names: Sequence[str], feeds: Feeds) -> Sequence[Any]:
        """Run a batch, filled up with copies of its last row where the model takes one size alone."""
        if self._padded is None:
            return list(self._sessions[lane].run(names, feeds))
        rows = len(next(iter(feeds.values())))
        if not rows:
            raise InvalidQueryError("there is no row in it")
        found = self._sessions[lane].run(
            names, {name: _padded(each, self._padded) for name, each in feeds.items()}
        )
        return [each[:rows] for each in found]

    def _is_to_blame(self, lane: int, error: Exception) -> bool:
        """Say whether a query is to blame for an error: ONNX Runtime says so, or runs another one all the same.

        Operators that meet sizes that do not fit together end with the same kind of error as those that fail.
        """
        if isinstance(error, self._invalid | InvalidQueryError):
            return True
        told = str(error).lower()
        if any(word in told for word in _OUT_OF_MEMORY):
            return False
        if not self._answered:
            return any(word in told for word in _MISFIT)
        try:
            self._arrays(lane, [self.outputs[0].name], self._answered)
        except Exception:  # noqa: BLE001 -- whatever it is, nothing runs any more
            return False
        return True

    def _warm_up(self, batch: int) -> None:
        """Run the smallest and the largest batch once: kernels are chosen then, and no query waits for that."""
        if any(-1 in each.shape[1:] for each in self.inputs):
            return  # nobody knows the sizes that will come
        for rows in sorted({1, batch}):
            query = Query(tuple(_zeros(each, rows) for each in self.inputs))
            for lane in range(len(self._sessions)):
                try:
                    run_joined([query], self._joining, partial(self._answer, lane))
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
    options.log_severity_level = 4  # what fails is told by whoever asked: the log is not for clients' faults
    there = runtime.get_available_providers()
    wanted = [each for each in ("CUDAExecutionProvider", "CPUExecutionProvider") if each in there]
    try:
        return runtime.InferenceSession(spec.path, options, providers=wanted)
    except Exception as error:  # noqa: BLE001 -- its errors have no common class
        raise InputError(f"ONNX Runtime cannot load it: {error}", where=spec.path) from None


def _tensor(node: Any, path: str) -> TensorSpec:  # noqa: ANN401 -- a package without types
    if node.type not in DATATYPES:
        maps = "; export it without ZipMap" if "map(" in node.type else ""
        raise InputError(
            f"{node.name} is a {node.type}, which cannot be served",
            where=path,
            hint=f"inputs and outputs have to be tensors{maps}",
        )
    sizes = (size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
    names = tuple(size if isinstance(size, str) and _is_name(size) else "" for size in node.shape)
    shape = tuple(sizes)
    # ONNX Runtime lists no dimensions for a scalar and for a tensor of unknown rank, and takes any for both.
    return TensorSpec(node.name, DATATYPES[node.type], shape, names if any(names) else (), any_rank=not shape)


def _is_name(text: str) -> bool:
    """Say whether a dimension is called so, or an exporter has only marked it as unknown."""
    return text.lower() not in _UNKNOWN and any(letter.isalpha() for letter in text)


def _fixed_batch(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> int | None:
    """Return the one first size of all tensors; None if it is free, or there are several."""
    firsts = {each.shape[:1] for each in (*inputs, *outputs)}
    first = next(iter(firsts)) if len(firsts) == 1 else ()
    return first[0] if inputs and first and first[0] > 0 else None


def _doubt(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str | None:
    """Say why the model's own words do not make its first dimension a batch; None if they do."""
    batch = inputs[0].symbols[0] if inputs and inputs[0].symbols else ""
    if not inputs or not inputs[0].shape:
        return "its first input has no dimension" if inputs else "it has no input"
    if not batch:
        return f"the first dimension of {inputs[0].name} has no name"
    for spec in (*inputs, *outputs):
        if spec.symbols[:1] != (batch,):
            return f"{spec.name} of {_named(spec)} does not begin with {batch} as {inputs[0].name} does"
        if any(batch in _WORDS.findall(name) for name in spec.symbols[1:]):
            return f"{spec.name} of {_named(spec)} has {batch} as another dimension too"
    return None


def _check_declared(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], path: str) -> None:
    if not inputs:
        raise InputError(
            "it is declared `batch: rows`, and it has no input", where=path, hint="write `batch: none`"
        )
    firsts = {each.name: each.shape[:1] for each in (*inputs, *outputs)}
    for spec in (*inputs, *outputs):
        if firsts[spec.name] != (-1,):
            raise InputError(
                f"it is declared `batch: rows`, and {spec.name} is {_named(spec)}",
                where=path,
                hint="a batch is the first size of all inputs and outputs, free in all or the same in all",
            )


def _named(spec: TensorSpec) -> str:
    names = _names(spec)
    sizes = (name or (str(size) if size >= 0 else "?") for size, name in zip(spec.shape, names, strict=True))
    return f"[{', '.join(sizes)}]"


def _names(spec: TensorSpec) -> tuple[str, ...]:
    return spec.symbols or ("",) * len(spec.shape)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _any_batch(side: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    return tuple(
        each.replace(shape=(-1, *each.shape[1:]), symbols=("batch", *_names(each)[1:])) for each in side
    )


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
        data = pack_texts(str(each).encode() for each in array.reshape(-1))
    else:
        data = np.ascontiguousarray(array, NUMPY[datatype]).tobytes()
    return Tensor(name, datatype, tuple(array.shape), data)


def _zeros(spec: TensorSpec, rows: int) -> Tensor:
    shape = (rows if spec.shape[0] == -1 else spec.shape[0], *spec.shape[1:]) if spec.shape else ()
    if spec.datatype == "BYTES":
        return Tensor(spec.name, spec.datatype, shape, bytes(4 * math.prod(shape)))
    return Tensor(spec.name, spec.datatype, shape, np.zeros(shape, NUMPY[spec.datatype]).tobytes())
