"""How replicas are run, by service: a YAML document."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from partita.planning.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.drive.replicas import CommandReady, PortReady, ReplicaProcess, UpstreamReplica
    from partita.serve.worker.spec import BackendSpec, DeclaredBatch
    from partita.serve.worker_specs import SliceSeconds

_PROCESS = "environment ready grace_s start_timeout_s"
_WORKER = "environment grace_s start_timeout_s batch max_batch_size hang_timeout_s retry"
_HINT = 'write [{name: resnet50, command: [serve, --port, "{port}"], ready: port}]'


def read_services(
    path: Path, sockets: Path, seconds: Mapping[str, SliceSeconds] | None = None
) -> dict[str, ReplicaProcess | UpstreamReplica]:
    """Read how each service's replicas are run.

    A list under `services`, each with `name` and one of

    - `worker`: `{onnx: model.onnx}`, `{upstream: http://127.0.0.1:8000}` or `{emulated: true}`, each also an object
      with more fields (with `batch`, which is `rows` or `none`, `max_batch_size`, `environment`, `grace_s`,
      `start_timeout_s`, `hang_timeout_s` and `retry`),
    - `command`: a process of its own (with `environment`, `ready`, which is `port` or a command, `grace_s` and
      `start_timeout_s`),
    - `start` and `stop`: commands that tell a server that runs already (with `timeout_s`).

    Args:
        path: the file.
        sockets: the folder of workers' sockets.
        seconds: what is measured of each service, for emulated workers.

    Raises:
        InputError: the file cannot be read, or a field is missing, unknown or wrong.
    """
    found: dict[str, ReplicaProcess | UpstreamReplica] = {}
    for fields in _entries(path):
        name = fields.text("name")
        if "worker" in fields.data:
            found[name] = _worker(fields, sockets, (seconds or {}).get(name, {}))
        else:
            found[name] = _upstream(fields) if "start" in fields.data else _process(fields)
    return found


@dataclass(frozen=True, slots=True)
class WorkerWay:
    """How a service's workers are run.

    Attributes:
        backend: what runs the model.
        environment: variables of theirs.
        grace_s: seconds for finishing what they have; None if the file does not say.
        start_timeout_s: seconds they may take to become ready.
        declared: what is said of the model's batch.
        hang_timeout_s: seconds without a sign of life after which they hang; None if the file does not say.
        retry: whether their queries may run a second time.
    """

    backend: BackendSpec
    environment: Mapping[str, str] = field(default_factory=dict)
    grace_s: float | None = None
    start_timeout_s: float = 600.0
    declared: DeclaredBatch | None = None
    hang_timeout_s: float | None = None
    retry: bool = True


def read_workers(path: Path) -> dict[str, WorkerWay]:
    """Read how the workers of each service are run, of the services that have a `worker`.

    Raises:
        InputError: the file cannot be read, or a field is missing, unknown or wrong.
    """
    return {
        fields.text("name"): WorkerWay(
            _backend(fields),
            _environment(fields),
            fields.number("grace_s") if "grace_s" in fields.data else None,
            _seconds(fields, "start_timeout_s", 600.0),
            _declared(fields),
            _hang_timeout(fields) if "hang_timeout_s" in fields.data else None,
            _retry(fields),
        )
        for fields in _entries(path)
        if "worker" in fields.data
    }


def _entries(path: Path) -> list[Fields]:
    from partita.documents.text import parse  # noqa: PLC0415
    from partita.files import read_text  # noqa: PLC0415 -- not needed for --help

    data, _ = parse(read_text(path), str(path))
    root = Fields.of(data, str(path), "", "services", "apiVersion kind")
    return [Fields.of(each, str(path), place, *_keys(each)) for place, each in root.items("services")]


def _keys(entry: object) -> tuple[str, str]:
    """Return the keys that an entry must have and those that it may."""
    if isinstance(entry, dict) and "worker" in entry:
        return "name worker", _WORKER
    if isinstance(entry, dict) and "start" in entry:
        return "name start stop", "timeout_s"
    return "name command", _PROCESS


def _worker(fields: Fields, sockets: Path, seconds: SliceSeconds) -> ReplicaProcess:
    from partita.serve.worker_specs import worker_process  # noqa: PLC0415 -- slow to import

    return worker_process(
        _backend(fields),
        sockets,
        seconds=seconds,
        declared=_declared(fields),
        environment=_environment(fields),
        grace_s=_seconds(fields, "grace_s", 30.0),
        start_timeout_s=_seconds(fields, "start_timeout_s", 600.0),
        hang_timeout_s=_hang_timeout(fields),
        retry=_retry(fields),
    )


def _declared(fields: Fields) -> DeclaredBatch | None:
    from partita.serve.worker.spec import MOST_ROWS, DeclaredBatch  # noqa: PLC0415 -- slow to import

    told = fields.data.get("batch")
    if told not in (None, "rows", "none"):
        raise fields.error(
            f"{told!r} is no batch dimension", "batch", "write rows if the first size is a batch, or none"
        )
    most = fields.whole("max_batch_size", 1) if "max_batch_size" in fields.data else None
    if most is not None and told == "none":
        raise fields.error("there is no batch to limit with `batch: none`", "max_batch_size", "leave it out")
    if most is not None and most > MOST_ROWS:
        raise fields.error(f"it is more than {MOST_ROWS:,}", "max_batch_size", f"write {MOST_ROWS} at most")
    if told is None and most is None:
        return None
    return DeclaredBatch(None if told is None else told == "rows", most)


def _hang_timeout(fields: Fields) -> float:
    from partita.serve.worker.spec import hang_timeout  # noqa: PLC0415 -- slow to import

    return hang_timeout(fields)


def _retry(fields: Fields) -> bool:
    return fields.flag("retry") if "retry" in fields.data else True


def _backend(fields: Fields) -> BackendSpec:
    from partita.serve.worker.spec import KINDS, parse_backend  # noqa: PLC0415 -- slow to import

    worker = fields.data["worker"]
    if not isinstance(worker, dict) or len(worker) != 1 or not worker.keys() <= KINDS.keys():
        raise fields.error(f"expected one of {', '.join(KINDS)}", "worker", "write {onnx: model.onnx}")
    ((kind, value),) = worker.items()
    short = {"onnx": {"path": value}, "upstream": {"url": value}, "emulated": {}}
    if kind == "emulated" and not isinstance(value, dict) and value is not True:
        raise fields.error("expected true, or an object", "worker.emulated", "write {emulated: true}")
    told = {**(value if isinstance(value, dict) else short[kind]), "kind": kind}
    if isinstance(told.get("path"), str):
        told["path"] = str((Path(fields.file).parent / told["path"]).resolve())
    return parse_backend(told, fields.file, f"{fields.path}.worker.{kind}")


def _process(fields: Fields) -> ReplicaProcess:
    from partita.drive.replicas import ReplicaProcess  # noqa: PLC0415 -- slow to import

    return ReplicaProcess(
        _words(fields, "command"),
        environment=_environment(fields),
        readiness=_readiness(fields),
        grace_s=_seconds(fields, "grace_s", 30.0),
        start_timeout_s=_seconds(fields, "start_timeout_s", 600.0),
    )


def _upstream(fields: Fields) -> UpstreamReplica:
    from partita.drive.replicas import UpstreamReplica  # noqa: PLC0415 -- slow to import

    return UpstreamReplica(
        _words(fields, "start"), _words(fields, "stop"), _seconds(fields, "timeout_s", 600.0)
    )


def _readiness(fields: Fields) -> CommandReady | PortReady | None:
    from partita.drive.replicas import CommandReady, PortReady  # noqa: PLC0415 -- slow to import

    if "ready" not in fields.data:
        return None
    return PortReady() if fields.data["ready"] == "port" else CommandReady(_words(fields, "ready"))


def _seconds(fields: Fields, key: str, default: float) -> float:
    return fields.number(key) if key in fields.data else default


def _words(fields: Fields, key: str) -> tuple[str, ...]:
    value = fields.data[key]
    if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value):
        raise fields.error("expected a command as a list of words", key, _HINT)
    return tuple(value)


def _environment(fields: Fields) -> dict[str, str]:
    value = fields.data.get("environment", {})
    if not isinstance(value, dict) or not all(
        isinstance(text, str) for pair in value.items() for text in pair
    ):
        raise fields.error(
            "expected names and texts", "environment", "write {NAME: value}, numbers in quotes"
        )
    return dict(value)
