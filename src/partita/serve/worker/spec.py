"""What a worker is started with: a JSON document, written by whoever starts it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from partita.errors import InputError
from partita.files import json_value
from partita.planning.fields import Fields
from partita.serve.tensors import ITEM_BYTES, TensorSpec
from partita.serve.worker.wire import HANG_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_INPUTS = (TensorSpec("INPUT0", "FP32", (-1, 16)),)
DEFAULT_OUTPUTS = (TensorSpec("OUTPUT0", "FP32", (-1, 16)),)
GRACE_S = 30.0
LOAD_TIMEOUT_S = 600.0
MOST_ROWS = 65_536
"""Rows that a query may have where whoever owns the model sets no limit, and the highest limit."""
_REQUIRED = "service model gpu placement batch backend folder token"
_OPTIONAL = "processes seconds grace_s supervised declared hang_timeout_s retry"
LEAST_HANG_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class EmulatedSpec:
    """A worker that takes as long as the performance table says, and answers with what it was asked.

    Attributes:
        inputs: what it takes.
        outputs: what it gives: one alike to the input of its place is that input again, any other is zeros.
        jitter: spread of the log-normal durations; 0 for none.
        slow_down: factor on every duration, to see what a slow worker does to its gateway.
    """

    inputs: tuple[TensorSpec, ...] = DEFAULT_INPUTS
    outputs: tuple[TensorSpec, ...] = DEFAULT_OUTPUTS
    jitter: float = 0.0
    slow_down: float = 1.0


@dataclass(frozen=True, slots=True)
class OnnxSpec:
    """A model that ONNX Runtime runs: on its GPU where it can, else on the CPU.

    Attributes:
        path: of the model.
        threads: of each session on the CPU; 0 takes one for each core.
    """

    path: str
    threads: int = 0


@dataclass(frozen=True, slots=True)
class UpstreamSpec:
    """A server of the Open Inference Protocol v2 on that instance: one that runs already, or that is started.

    Attributes:
        url: `http://127.0.0.1:8000`; may name `{port}` where there is a command.
        model: the model's name there; the worker's own if None.
        timeout_s: seconds that an answer may take.
        load_timeout_s: seconds that the server may take to have the model ready.
        command: starts the server, which lives as long as the worker; may name `{port}`. Empty if it runs already.
    """

    url: str
    model: str | None = None
    timeout_s: float = 60.0
    load_timeout_s: float = LOAD_TIMEOUT_S
    command: tuple[str, ...] = ()


BackendSpec: TypeAlias = EmulatedSpec | OnnxSpec | UpstreamSpec
KINDS: dict[str, type[EmulatedSpec | OnnxSpec | UpstreamSpec]] = {
    "emulated": EmulatedSpec,
    "onnx": OnnxSpec,
    "upstream": UpstreamSpec,
}


@dataclass(frozen=True, slots=True)
class DeclaredBatch:
    """What whoever owns a model says of the first dimension of its tensors.

    Attributes:
        rows: whether it is a batch, of rows that do not influence each other; None if nothing is said.
        most: rows that a query may have; None if nothing is said.
    """

    rows: bool | None = None
    most: int | None = None


UNDECLARED = DeclaredBatch()


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker is.

    Attributes:
        service: whose queries it answers.
        model: name of the model.
        gpu: id of its GPU, as `node-0/gpu-3`.
        placement: its instance there, as `3g.40gb@4`.
        batch: the largest batch it takes.
        processes: batches it runs side by side.
        backend: what runs the model.
        folder: where its socket goes.
        token: tells its socket from those of other workers of that instance, before and after it.
        seconds: expected seconds of some batch sizes, from the performance table.
        grace_s: seconds from SIGTERM for finishing what it has.
        supervised: whether it is to end when its standard input does, which whoever started it holds open.
        declared: what is said of the model's batch.
        hang_timeout_s: seconds without a sign of life after which it is held to hang.
        retry: whether its queries may run a second time, elsewhere.
    """

    service: str
    model: str
    gpu: str
    placement: str
    batch: int
    backend: BackendSpec
    folder: str
    token: str
    processes: int = 1
    seconds: Mapping[int, float] = field(default_factory=dict)
    grace_s: float = GRACE_S
    supervised: bool = False
    declared: DeclaredBatch = UNDECLARED
    hang_timeout_s: float = HANG_TIMEOUT_S
    retry: bool = True

    @property
    def profile(self) -> str:
        """Profile of its instance."""
        return self.placement.partition("@")[0]

    @property
    def socket_name(self) -> str:
        """Name of its socket in the folder."""
        return f"{self.gpu.replace('/', '_')}@{self.placement.partition('@')[2]}-{self.token}.sock"

    def text(self) -> str:
        """Return it as JSON, which `read_spec` reads."""
        kind = next(name for name, each in KINDS.items() if isinstance(self.backend, each))
        data = asdict(self)
        return json.dumps({**data, "backend": {"kind": kind, **data["backend"]}}, indent=2)


def read_spec(path: Path | str) -> WorkerSpec:
    """Read what a worker is started with.

    Raises:
        InputError: the file cannot be read, or a field is missing, unknown or wrong.
    """
    name = str(path)
    try:
        data = json_value(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=name) from None
    except json.JSONDecodeError as error:
        hint = "whoever starts a worker writes it"
        raise InputError(f"no JSON: {error.msg}", where=f"{name}:{error.lineno}", hint=hint) from None
    return parse_spec(data, name)


def parse_spec(data: object, name: str) -> WorkerSpec:
    """Return the specification that a JSON value describes; `name` is told in errors.

    Raises:
        InputError: a field is missing, unknown or wrong.
    """
    fields = Fields.of(data, name, "", _REQUIRED, _OPTIONAL)
    return WorkerSpec(
        service=fields.text("service"),
        model=fields.text("model"),
        gpu=fields.text("gpu"),
        placement=_placement(fields),
        batch=fields.whole("batch", 1),
        backend=parse_backend(fields.data["backend"], name),
        folder=fields.text("folder"),
        token=_token(fields),
        processes=fields.whole("processes", 1) if "processes" in fields.data else 1,
        seconds=_seconds(fields),
        grace_s=fields.number("grace_s") if "grace_s" in fields.data else GRACE_S,
        supervised=fields.flag("supervised"),
        declared=_declared(fields),
        hang_timeout_s=hang_timeout(fields),
        retry=fields.flag("retry") if "retry" in fields.data else True,
    )


def hang_timeout(fields: Fields) -> float:
    """Return `hang_timeout_s` of a worker or service.

    Raises:
        InputError: it is no number, or so small that a busy host would look like a hang.
    """
    if "hang_timeout_s" not in fields.data:
        return HANG_TIMEOUT_S
    value = fields.number("hang_timeout_s")
    if value < LEAST_HANG_TIMEOUT_S:
        raise fields.error(f"{value:g} s are too few", "hang_timeout_s", f"write {HANG_TIMEOUT_S:g}")
    return value


def parse_backend(data: object, name: str, at: str = "backend") -> BackendSpec:
    """Return the back-end that a JSON object describes by its `kind` and that kind's fields.

    Raises:
        InputError: a field is missing, unknown or wrong.
    """
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(data, dict) or kind not in KINDS:
        raise InputError(
            f"expected a back-end of kind {', '.join(KINDS)}",
            where=f"{name}: {at}",
            hint='write {"kind": "emulated"}',
        )
    if kind == "onnx":
        fields = Fields.of(data, name, at, "kind path", "threads")
        return OnnxSpec(fields.text("path"), fields.whole("threads") if "threads" in data else 0)
    if kind == "upstream":
        return _upstream(Fields.of(data, name, at, "kind url", "model timeout_s load_timeout_s command"))
    return _emulated(Fields.of(data, name, at, "kind", "inputs outputs jitter slow_down"))


def _upstream(fields: Fields) -> UpstreamSpec:
    url = fields.text("url")
    if not url.startswith(("http://", "https://")):
        raise fields.error(f"{url!r} is no HTTP address", "url", "write http://127.0.0.1:8000")
    return UpstreamSpec(
        url,
        fields.text("model") if fields.data.get("model") is not None else None,
        fields.number("timeout_s") if "timeout_s" in fields.data else 60.0,
        fields.number("load_timeout_s") if "load_timeout_s" in fields.data else LOAD_TIMEOUT_S,
        _command(fields),
    )


def _command(fields: Fields) -> tuple[str, ...]:
    value = fields.data.get("command", [])
    if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
        raise fields.error(
            "expected a list of words", "command", 'write [tritonserver, --http-port, "{port}"]'
        )
    return tuple(value)


def _emulated(fields: Fields) -> EmulatedSpec:
    return EmulatedSpec(
        _tensors(fields, "inputs") if "inputs" in fields.data else DEFAULT_INPUTS,
        _tensors(fields, "outputs") if "outputs" in fields.data else DEFAULT_OUTPUTS,
        fields.number("jitter") if "jitter" in fields.data else 0.0,
        fields.number("slow_down") if "slow_down" in fields.data else 1.0,
    )


def _tensors(fields: Fields, key: str) -> tuple[TensorSpec, ...]:
    found = []
    for at, each in fields.items(key):
        tensor = Fields.of(each, fields.file, at, "name datatype shape", "symbols optional any_rank")
        datatype = tensor.text("datatype")
        if datatype not in ITEM_BYTES and datatype != "BYTES":
            raise tensor.error(
                f"unknown datatype {datatype!r}", "datatype", f"known are {', '.join(ITEM_BYTES)}"
            )
        shape = _shape(tensor)
        found.append(
            TensorSpec(
                tensor.text("name"),
                datatype,
                shape,
                _symbols(tensor, len(shape)),
                tensor.flag("optional"),
                tensor.flag("any_rank") and not shape,
            )
        )
    if not found:
        raise fields.error("expected at least one tensor", key)
    return tuple(found)


def _shape(tensor: Fields) -> tuple[int, ...]:
    shape = [size for _, size in tensor.items("shape")]
    if not all(type(size) is int and size >= -1 for size in shape):
        raise tensor.error("expected whole numbers, -1 for any size", "shape")
    return tuple(size for size in shape if isinstance(size, int))


def _symbols(tensor: Fields, dimensions: int) -> tuple[str, ...]:
    names = [name for _, name in tensor.items("symbols")] if tensor.data.get("symbols") else []
    if names and (len(names) != dimensions or not all(isinstance(name, str) for name in names)):
        raise tensor.error(
            "expected a name for each dimension", "symbols", "write a text for each, empty for none"
        )
    return tuple(name for name in names if isinstance(name, str))


def _declared(fields: Fields) -> DeclaredBatch:
    data = fields.data.get("declared")
    if data is None:
        return UNDECLARED
    told = Fields.of(data, fields.file, "declared", "", "rows most")
    rows = told.data.get("rows")
    most = told.whole("most", 1) if told.data.get("most") is not None else None
    return DeclaredBatch(None if rows is None else told.flag("rows"), most)


def _placement(fields: Fields) -> str:
    text = fields.text("placement")
    profile, _, start = text.partition("@")
    if not profile or not start.isdecimal():
        raise fields.error(f"{text!r} is no placement", "placement", "write 3g.40gb@4")
    return text


def _token(fields: Fields) -> str:
    token = fields.text("token")
    if not token.isalnum():
        raise fields.error("expected letters and digits", "token")
    return token


def _seconds(fields: Fields) -> dict[int, float]:
    data: Any = fields.data.get("seconds", {})
    table = Fields.of(data, fields.file, "seconds", "", " ".join(data)) if isinstance(data, dict) else None
    if table is None or not all(batch.isdecimal() and int(batch) > 0 for batch in table.data):
        raise fields.error("expected an object of batch size and seconds", "seconds", 'write {"1": 0.004}')
    return {int(batch): table.number(batch) for batch in table.data}
