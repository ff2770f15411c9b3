"""The parts of the Open Inference Protocol v2 that HTTP and gRPC share: models, checks, metadata and statistics.

`oip_json` reads and writes the bodies of HTTP, `grpc_server` the messages of gRPC. Both check requests by a model's
`Signature`, and report faults of clients as `RequestError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from struct import Struct
from typing import TYPE_CHECKING, Any

from partita import __version__
from partita.serve.tensors import APART, ITEM_BYTES, Query, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from partita.serve.gateway.statistics import Count, ServiceStatistics
    from partita.serve.tensors import Batching, Buffer, Parameters, Tensor

VERSION = "1"
"""The only version of every model."""
NO_JSON = frozenset({"FP16", "BF16"})
"""Datatypes without a JSON representation: their data must be binary."""
MIB = 1 << 20
REASONS = {
    400: "invalid", 401: "unauthorized", 404: "not_found", 405: "method", 408: "timeout", 411: "length_required",
    413: "too_large", 414: "path", 415: "media_type", 417: "expectation", 431: "head_too_large", 500: "failed",
}  # fmt: skip
"""Default reasons of errors, for metrics."""


class RequestError(Exception):
    """A client's request has a fault.

    Args:
        what: one sentence, sent to the client.
        status: the HTTP status; gRPC's code follows from it.
        reason: one word for metrics, from a small set; empty for that of the status.
    """

    def __init__(self, what: str, status: int = 400, reason: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.status = status
        self.reason = reason or REASONS.get(status, "other")


def quoted(value: object) -> str:
    """Return a client's value for a message: quoted, printable and short."""
    try:
        text = repr(value)
    except RecursionError:
        return "lists or objects that are nested hundreds deep"
    return ascii(value)[:80] if not text.isprintable() else text if len(text) <= 80 else text[:77] + "..."


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Limits of a request; a larger one is refused before it takes memory or time.

    Attributes:
        body: bytes of a body, after decompression.
        header: bytes of its JSON; parsing blocks the event loop for some milliseconds per MiB.
        tensors: inputs, and requested outputs, unless the model has more.
        name: characters of a name or an id.
        strings: elements of a tensor of type BYTES, each of which has to be checked.
        deadline_s: seconds of a deadline.
    """

    body: int = 64 * MIB
    header: int = 8 * MIB
    tensors: int = 64
    name: int = 256
    strings: int = 100_000
    deadline_s: float = 86_400.0


@dataclass(frozen=True, slots=True)
class Model:
    """The model of a service.

    Attributes:
        service: name of the service, which requests use as the model's name.
        model: its name in the workload.
        inputs: of the model; if its server lists none, queries are not checked against them.
        outputs: of the model.
        max_batch: maximum rows of a query; 0 if the first size is no batch.
        deadline_s: seconds from a query's arrival to its latest answer.
        quantile: share of the queries that must be answered by then.
        batching: whether its queries may be joined and split.
        known: whether a worker has described it yet.
    """

    service: str
    model: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int
    deadline_s: float
    quantile: float
    batching: Batching = APART
    known: bool = True


# Checks of a request's tensors


class Signature:
    """A model's inputs and outputs by name. A model that lists no inputs takes any request.

    Attributes:
        binary_only: names of outputs without a JSON representation.
        layouts: layouts of valid requests to this model, for `oip_json`.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._inputs = {spec.name: spec for spec in model.inputs}
        self._outputs = {spec.name: spec for spec in model.outputs}
        self._order = tuple(self._inputs)
        places: dict[str, list[tuple[str, int]]] = {}
        for spec in model.inputs:
            for at, symbol in enumerate(spec.symbols):
                if symbol:
                    places.setdefault(symbol, []).append((spec.name, at))
        # The places of each dimension's name that occurs more than once.
        self._places = {symbol: found for symbol, found in places.items() if len(found) > 1}
        self.binary_only = tuple(spec.name for spec in model.outputs if spec.datatype in NO_JSON)
        self.layouts: dict[Hashable, Any] = {}

    def most_inputs(self, limits: RequestLimits) -> int:
        """Return the maximum number of inputs of a request."""
        return max(limits.tensors, len(self._inputs))

    def most_outputs(self, limits: RequestLimits) -> int:
        """Return the maximum number of requested outputs."""
        return max(limits.tensors, len(self._outputs))

    def specs(self, given: Sequence[tuple[object, object, object]]) -> Sequence[TensorSpec]:
        """Return the specification of each given input.

        Args:
            given: name, datatype and shape of each input in the request.

        Raises:
            RequestError: an input is unknown, given twice or missing.
        """
        names = [name for name, _, _ in given]
        if not self._inputs:
            return [_as_given(*each) for each in given]
        if tuple(names) == self._order:
            return self.model.inputs
        found = {}
        for name in names:
            spec = self._inputs.get(name) if isinstance(name, str) else None
            if spec is None:
                known = ", ".join(self._order)
                raise RequestError(
                    f"no input {quoted(name)}; {self.model.service} takes {known}", reason="names"
                )
            if spec.name in found:
                raise RequestError(f"input {spec.name} is given twice", reason="names")
            found[spec.name] = spec
        for name, spec in self._inputs.items():
            if name not in found and not spec.optional:
                raise RequestError(f"input {name} is missing", reason="names")
        return tuple(found.values())

    def query(self, tensors: Sequence[Tensor], outputs: Sequence[object]) -> Query:
        """Return the query of these inputs, which must be complete, in the model's order.

        Raises:
            RequestError: sizes that must be equal differ, there are too many rows, or a requested output is unknown
                or repeated.
        """
        if outputs:
            self._check_outputs(outputs)
        found = tuple(tensors)
        if self._order and tuple(tensor.name for tensor in found) != self._order:
            given = {tensor.name: tensor for tensor in found}
            found = tuple(given[name] for name in self._order if name in given)
        if not self._inputs:
            if not found:
                raise RequestError("there is no input", reason="names")
            names = [tensor.name for tensor in found]
            if len(set(names)) != len(names):
                twice = next(each for each in names if names.count(each) > 1)
                raise RequestError(f"input {quoted(twice)} is given twice", reason="names")
        if self._places:
            self._check_symbols({tensor.name: tensor.shape for tensor in found})
        if self.model.batching.rows:
            self._check_batch(found)
        return Query(found, tuple(outputs))  # type: ignore[arg-type]  # checked to be known names

    def _check_outputs(self, names: Sequence[object]) -> None:
        for name in names:
            if not isinstance(name, str) or (self._outputs and name not in self._outputs):
                known = ", ".join(self._outputs)
                raise RequestError(
                    f"no output {quoted(name)}; {self.model.service} gives {known}", reason="names"
                )
        if len(set(names)) != len(names):
            raise RequestError("an output is asked for twice", reason="names")

    def _check_symbols(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Check that dimensions of the same name have the same size."""
        for symbol, places in self._places.items():
            there = [(name, shapes[name][at]) for name, at in places if name in shapes]
            for name, size in there[1:]:
                if size != there[0][1]:
                    raise RequestError(
                        f"{symbol} is {there[0][1]} in {there[0][0]} and {size} in {name}", reason="shape"
                    )

    def _check_batch(self, tensors: tuple[Tensor, ...]) -> None:
        if not tensors or not all(tensor.shape for tensor in tensors):
            raise RequestError("an input has no dimension, and the first one is the batch", reason="shape")
        batch = tensors[0].shape[0]
        for tensor in tensors:
            if tensor.shape[0] != batch:
                raise RequestError(
                    f"inputs have different batch sizes: {tensors[0].name} {batch}, {tensor.name} {tensor.shape[0]}",
                    reason="shape",
                )
        if batch > self.model.max_batch:
            raise RequestError(
                f"batch size {batch}, and {self.model.service} takes {self.model.max_batch} at most "
                "(its max_batch_size)",
                reason="shape",
            )


def _as_given(name: object, datatype: object, shape: object) -> TensorSpec:
    """Return the specification of an input from the request itself, for a model that lists no inputs."""
    if not isinstance(name, str) or not name:
        raise RequestError(f"an input's name is {quoted(name)}, not a text", reason="names")
    if not isinstance(datatype, str) or (datatype not in ITEM_BYTES and datatype != "BYTES"):
        known = ", ".join((*ITEM_BYTES, "BYTES"))
        raise RequestError(
            f"input {quoted(name)} is of the unknown datatype {quoted(datatype)}; there are {known}",
            reason="datatype",
        )
    size = len(shape) if isinstance(shape, (list, tuple)) else 1
    return TensorSpec(name, datatype, (-1,) * size)


def elements(spec: TensorSpec, datatype: object, shape: object) -> int:
    """Return the number of elements of an input, having checked its datatype and shape.

    Raises:
        RequestError: its datatype or shape is wrong.
    """
    if datatype != spec.datatype:
        raise RequestError(f"input {spec.name} is {spec.datatype}, not {quoted(datatype)}", reason="datatype")
    count = 1
    sizes = spec.shape
    if spec.any_rank and isinstance(shape, (list, tuple)):
        sizes = (-1,) * len(shape)
    if not isinstance(shape, (list, tuple)) or len(shape) != len(sizes):
        raise _misfit(spec, shape)
    for at, (size, wanted) in enumerate(zip(shape, sizes, strict=True)):
        if type(size) is not int or size < 0 or (size != wanted and wanted >= 0):
            raise _misfit(spec, shape, at)
        count *= size
    return count


def _misfit(spec: TensorSpec, shape: object, at: int | None = None) -> RequestError:
    if spec.any_rank:
        return RequestError(
            f"input {spec.name} has a shape of any sizes from 0, not {quoted(shape)}", reason="shape"
        )
    names = spec.symbols or ("",) * len(spec.shape)
    sizes = [name or str(size) for size, name in zip(spec.shape, names, strict=True)]
    any_size = " (-1: any size)" if "-1" in sizes else ""
    told = f"input {spec.name} has shape [{', '.join(sizes)}]{any_size}, not {quoted(shape)}"
    if at is not None and isinstance(shape, (list, tuple)) and type(shape[at]) is int and spec.shape[at] >= 0:
        return RequestError(f"{told}: dimension {at} is {spec.shape[at]}, not {shape[at]}", reason="shape")
    if isinstance(shape, (list, tuple)) and len(shape) != len(spec.shape):
        return RequestError(f"{told}: {len(spec.shape)} dimensions, not {len(shape)}", reason="shape")
    return RequestError(told, reason="shape")


# Binary data; each element of BYTES follows its length in four bytes, little-endian

_LENGTH = Struct("<I")


def check_data(name: str, datatype: str, count: int, data: Buffer, limits: RequestLimits) -> None:
    """Check that an input's data have a number of elements.

    Raises:
        RequestError: they do not, or have too many.
    """
    if datatype != "BYTES":
        needed = count * ITEM_BYTES[datatype]
        if len(data) != needed:
            raise RequestError(
                f"input {name}: {len(data)} bytes of data, but {count} elements of {datatype} take {needed}",
                reason="data",
            )
        return
    if count > limits.strings:
        raise RequestError(f"input {name}: {count} elements of BYTES, {limits.strings} at most", 413)
    at, end = 0, len(data)
    for _ in range(count):
        if at + 4 > end:
            break
        at += 4 + _LENGTH.unpack_from(data, at)[0]
    else:
        if at == end:
            return
    raise RequestError(
        f"input {name}: its data are not {count} elements of BYTES, each after its length in 4 bytes",
        reason="data",
    )


# Parameters of a request and of its tensors

_NOT_SERVED = {
    "shared_memory_region": "shared memory is not served",
    "classification": "classification is not served",
    "sequence_id": "sequences are not served",
}
_READ_HERE = (
    frozenset({"binary_data_size", "binary_data_output", "binary_data", "deadline_ms", "timeout"})
    | _NOT_SERVED.keys()
)


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that cannot be ignored without a wrong answer.

    Raises:
        RequestError: a parameter asks for something that is not supported.
    """
    if _NOT_SERVED.keys().isdisjoint(parameters):
        return
    for name, why in _NOT_SERVED.items():
        if parameters.get(name):
            raise RequestError(f"parameter {name}: {why}", reason="unsupported")


def others(given: Mapping[str, Mapping[str, Any]]) -> Parameters | None:
    """Return the parameters for the model's server, without those for the gateway; None if there are none.

    Args:
        given: parameters by input, and under the empty name those of the request.

    Raises:
        RequestError: a number is not finite.
    """
    for name, value in ((name, value) for told in given.values() for name, value in told.items()):
        if isinstance(value, float) and not isfinite(value):
            raise RequestError(f"parameter {quoted(name)} is {value}, which JSON cannot represent")
    left = {
        name: {key: value for key, value in told.items() if key not in _READ_HERE}
        for name, told in given.items()
    }
    return {name: told for name, told in left.items() if told} or None


def deadline_of(parameters: Mapping[str, Any], limits: RequestLimits) -> float | None:
    """Return the deadline in a request's parameters in seconds, None if there is none.

    It is `deadline_ms`, or Triton's `timeout` in microseconds, of which 0 means none.

    Raises:
        RequestError: it is no positive number, or too large.
    """
    if not parameters:
        return None
    if "deadline_ms" in parameters:
        return _deadline(parameters["deadline_ms"], 1e3, "deadline_ms", limits)
    if parameters.get("timeout"):
        return _deadline(parameters["timeout"], 1e6, "timeout", limits)
    return None


def header_deadline(text: bytes | None, limits: RequestLimits) -> float | None:
    """Return the seconds of a `partita-deadline-ms` header, None without one; raises as `deadline_of` does."""
    if text is None:
        return None
    value: object
    try:
        value = float(text)
    except ValueError:
        value = text.decode("latin-1")
    return _deadline(value, 1e3, "partita-deadline-ms", limits)


def _deadline(value: object, per_second: float, name: str, limits: RequestLimits) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value) or value <= 0:
        raise RequestError(f"{name} is {quoted(value)}, not a number above 0", reason="deadline")
    seconds = value / per_second
    if seconds > limits.deadline_s:
        raise RequestError(
            f"{name} is {quoted(value)}, more than {limits.deadline_s:g} seconds", reason="deadline"
        )
    return seconds


# Metadata of the server and its models: plain data with the field names of the protocol's messages, for HTTP and gRPC

EXTENSIONS = ("binary_tensor_data", "model_configuration", "parameters", "statistics")
_PLATFORM = "partita"


def server_metadata() -> dict[str, Any]:
    """Return the server's name, version and extensions."""
    return {"name": "partita", "version": __version__, "extensions": list(EXTENSIONS)}


def model_metadata(model: Model) -> dict[str, Any]:
    """Return a model's name, versions, inputs and outputs; their shapes include the batch."""
    return {
        "name": model.service,
        "versions": [VERSION],
        "platform": _PLATFORM,
        "inputs": _tensors(model.inputs),
        "outputs": _tensors(model.outputs),
    }


def model_metadata_and_batch(model: Model) -> dict[str, Any]:
    """Return the metadata for HTTP, with parameters (gRPC has none) that say whether queries are joined, and why."""
    return {
        **model_metadata(model),
        "parameters": {
            "batch": _batch(model),
            "batch_reason": model.batching.why,
            "max_batch_size": model.max_batch,
        },
    }


def model_config(model: Model) -> dict[str, Any]:
    """Return a model's configuration in Triton's format: dimensions do not include the batch.

    The parameter `batch` says whether queries are joined (`rows`) or not (`none`), and `batch_reason` why.
    """
    rows = model.batching.rows

    def dims(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
        return [
            {
                "name": spec.name,
                "data_type": "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}",
                "dims": list(spec.shape[1:] if rows else spec.shape),
                **({"optional": True} if spec.optional else {}),
            }
            for spec in specs
        ]

    return {
        "name": model.service,
        "platform": _PLATFORM,
        "backend": _PLATFORM,
        "max_batch_size": model.max_batch if rows else 0,
        "input": dims(model.inputs),
        "output": dims(model.outputs),
        **({"dynamic_batching": {}} if rows else {}),
        "parameters": {
            "batch": {"string_value": _batch(model)},
            "batch_reason": {"string_value": model.batching.why},
        },
    }


def _tensors(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    return [{"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)} for spec in specs]


def _batch(model: Model) -> str:
    return "rows" if model.batching.rows else "none"


def repository_index(models: Iterable[tuple[str, bool]]) -> list[dict[str, Any]]:
    """Return the names of services, and whether each is ready, in Triton's format."""
    return [
        {"name": name, "version": VERSION, "state": "READY"}
        if ready
        else {
            "name": name,
            "version": VERSION,
            "state": "UNAVAILABLE",
            "reason": "no worker is ready",
        }
        for name, ready in models
    ]


def statistics(found: Iterable[tuple[str, ServiceStatistics]]) -> dict[str, Any]:
    """Return the statistics of services in the format of Triton's statistics extension, in nanoseconds."""
    return {"model_stats": [_statistics(name, each) for name, each in found]}


def _statistics(name: str, seen: ServiceStatistics) -> dict[str, Any]:
    nothing = {"count": 0, "ns": 0}
    # Workers include reading and writing tensors in the compute time, so there is no separate time for them.
    untold = {"count": seen.success.count, "ns": 0}
    return {
        "name": name,
        "version": VERSION,
        "last_inference": int(seen.last_at * 1000),
        "inference_count": seen.items,
        "execution_count": seen.executions,
        "inference_stats": {
            "success": _counted(seen.success),
            "fail": _counted(seen.fail),
            "queue": _counted(seen.queue),
            "compute_input": untold,
            "compute_infer": _counted(seen.compute),
            "compute_output": untold,
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [
            {
                "batch_size": batch,
                "compute_input": {"count": each.count, "ns": 0},
                "compute_infer": _counted(each),
                "compute_output": {"count": each.count, "ns": 0},
            }
            for batch, each in sorted(seen.batches.items())
        ],
    }


def _counted(value: Count) -> dict[str, int]:
    return {"count": value.count, "ns": int(value.seconds * 1e9)}
