"""The services document, which users write as YAML or JSON: how each service's replicas are run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from msgspec import field

from partita.documents.codec import Amount, Count, FieldFault, Meta, Name, Text, Value, check
from partita.documents.text import read
from partita.drive.replicas import CommandReady, PortReady, ReplicaProcess, UpstreamReplica
from partita.errors import InputError, nearest
from partita.serve.worker.spec import (
    GRACE_S,
    LOAD_TIMEOUT_S,
    MOST_ROWS,
    Address,
    BackendSpec,
    DeclaredBatch,
    EmulatedSpec,
    HangTimeout,
    OnnxSpec,
    UpstreamSpec,
)
from partita.serve.worker.wire import HANG_TIMEOUT_S
from partita.serve.worker_specs import worker_process

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from partita.serve.worker_specs import SliceSeconds

Words = Annotated[tuple[str, ...], Meta(min_length=1, examples=[["serve", "--port", '"{port}"']])]


class ServerSlice(NamedTuple):
    """The slice of a server, and how the server runs there.

    Attributes:
        gpu: id of its GPU.
        placement: of the instance, such as `3g.40gb@4`.
        batch: the largest batch that it takes.
        processes: batches that it runs concurrently.
        seconds: expected seconds of some batch sizes.
    """

    gpu: str
    placement: str
    batch: int
    processes: int
    seconds: Mapping[int, float]


class WorkerAddress(NamedTuple):
    """The address of a worker on another host.

    Attributes:
        service: that it should serve.
        host: name or address.
        port: TCP port.
        slice: its slice, if known from elsewhere; None if only the worker knows it.
    """

    service: str
    host: str
    port: int
    slice: ServerSlice | None = None

    def __str__(self) -> str:
        """Return it as in URLs."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def host_and_port(text: str) -> tuple[str, int]:
    """Return the host and port of an address such as `gpu-host-1:9000` or `[fd00::1]:9000`.

    Raises:
        InputError: the text is no address with a port.
    """
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
    if not bare or not 0 < number < 65_536 or (":" in bare) != (bare != host) or "/" in bare:
        raise InputError(f"{text!r} is no address of a worker", hint="write 10.0.0.2:9000")
    return bare, number


HostPort = Annotated[Text, check(host_and_port)]


class ServerEntry(Value):
    """A tensor server on another host, for which `partita picker` picks queries that a proxy forwards.

    Attributes:
        server: its address.
        placement: of its instance.
        gpu: id of its GPU.
        batch: the largest batch that it runs.
        processes: batches that it runs concurrently.
        latency_ms: expected milliseconds of its largest batch, until they are observed.
    """

    server: HostPort
    placement: Annotated[Text, Meta(examples=["3g.40gb@4"])]
    gpu: Text | None = None
    batch: Count = 1
    processes: Count = 1
    latency_ms: Amount | None = None

    @property
    def slice(self) -> ServerSlice:
        """Its slice, and how the server runs there."""
        seconds = {} if self.latency_ms is None else {self.batch: self.latency_ms / 1000}
        return ServerSlice(self.gpu or self.server, self.placement, self.batch, self.processes, seconds)


class WorkerEntry(Value):
    """The back-end of a worker: a path, an address or `true`, or a mapping with more fields."""

    onnx: Annotated[Text | OnnxSpec | None, Meta(examples=["model.onnx"])] = None
    upstream: Annotated[Address | UpstreamSpec | None, Meta(examples=["http://127.0.0.1:8000"])] = None
    emulated: Annotated[bool | EmulatedSpec | None, Meta(examples=["true"])] = None

    def faults(self) -> Iterator[FieldFault]:
        """Yield a fault unless exactly one back-end is given."""
        there = [each for each in (self.onnx, self.upstream, self.emulated) if each is not None]
        if len(there) != 1:
            yield FieldFault((), "one of emulated, onnx and upstream is needed", "write {onnx: model.onnx}")
        if self.emulated is False:
            yield FieldFault(("emulated",), "must be true or a mapping, not false", "write {emulated: true}")

    def backend(self, folder: Path) -> BackendSpec:
        """Return the back-end; relative paths start at `folder`."""
        if self.onnx is not None:
            spec = OnnxSpec(self.onnx) if isinstance(self.onnx, str) else self.onnx
            return spec.replace(path=str((folder / spec.path).resolve()))
        if self.upstream is not None:
            return UpstreamSpec(self.upstream) if isinstance(self.upstream, str) else self.upstream
        return self.emulated if isinstance(self.emulated, EmulatedSpec) else EmulatedSpec()


class ServiceEntry(Value):
    """How one service's replicas are run.

    Either by a `worker`, by a `command`, by a running server through `start` and `stop`, or already on other hosts,
    at the addresses in `workers`.

    Attributes:
        name: of the service.
        worker: Partita's worker, with the back-end of its model.
        workers: addresses of Partita's workers, or of tensor servers, that others start on other hosts.
        command: starts a process for each replica.
        start: command that makes a running server load a replica.
        stop: command that makes it unload one.
        environment: variables in addition to Partita's own.
        ready: `port` if a replica is ready when its port answers, or a command that succeeds when it is ready.
        grace_s: seconds from SIGTERM to SIGKILL.
        start_timeout_s: seconds a replica may take to become ready.
        timeout_s: seconds that `start` and `stop` may take.
        batch: whether the first size of a model's tensors is a batch.
        max_batch_size: maximum rows of a query.
        hang_timeout_s: seconds without a sign of life after which a worker counts as hung.
        retry: whether its queries may run a second time.
    """

    name: Name
    worker: Annotated[WorkerEntry | None, Meta(examples=[{"onnx": "model.onnx"}])] = None
    workers: Annotated[tuple[HostPort | ServerEntry, ...] | None, Meta(examples=[["10.0.0.2:9000"]])] = None
    command: Words | None = None
    start: Words | None = None
    stop: Words | None = None
    environment: Annotated[dict[str, str], Meta(examples=[{"NAME": "value"}])] = field(default_factory=dict)
    ready: Annotated[Literal["port"] | Words | None, Meta(examples=["port"])] = None
    grace_s: Amount | None = None
    start_timeout_s: Amount = LOAD_TIMEOUT_S
    timeout_s: Amount = LOAD_TIMEOUT_S
    batch: Annotated[Literal["rows", "none"] | None, Meta(examples=["rows"])] = None
    max_batch_size: Annotated[Annotated[int, Meta(ge=1, le=MOST_ROWS)] | None, Meta(examples=[MOST_ROWS])] = (
        None
    )
    hang_timeout_s: HangTimeout | None = None
    retry: bool = True

    def faults(self) -> Iterator[FieldFault]:
        """Yield what is wrong between the fields."""
        given = (name for name in ("worker", "workers", "start") if getattr(self, name) is not None)
        kind = next(given, "command")
        for name in _KINDS[kind]:
            if getattr(self, name) is None:
                hint = 'write command: [serve, --port, "{port}"], or worker: {onnx: model.onnx}'
                yield FieldFault((), f"{name} is missing", hint)
        for name in self.__struct_fields__[1:]:
            given = getattr(self, name) != getattr(_NOTHING, name)
            if given and name not in (*_KINDS[kind], *_OPTIONAL[kind]):
                yield FieldFault((name,), f"is not for a service with {kind}", "leave it out")
        if self.max_batch_size is not None and self.batch == "none":
            yield FieldFault(
                ("max_batch_size",), "there is no batch to limit with `batch: none`", "leave it out"
            )

    @property
    def declared(self) -> DeclaredBatch | None:
        """What the entry says about the model's batch; None if nothing."""
        if self.batch is None and self.max_batch_size is None:
            return None
        return DeclaredBatch(None if self.batch is None else self.batch == "rows", self.max_batch_size)


_NOTHING = ServiceEntry("")
_KINDS = {"worker": ("worker",), "workers": ("workers",), "command": ("command",), "start": ("start", "stop")}
_OPTIONAL = {
    "worker": (
        "environment", "grace_s", "start_timeout_s", "batch", "max_batch_size", "hang_timeout_s", "retry",
    ),
    "workers": (),
    "command": ("environment", "ready", "grace_s", "start_timeout_s"),
    "start": ("timeout_s",),
}  # fmt: skip


class ServicesDocument(Value):
    """The services of a file, which may also have `apiVersion` and `kind`."""

    services: Annotated[
        tuple[ServiceEntry, ...], Meta(examples=[[{"name": "resnet50", "command": ["serve"]}]])
    ]
    apiVersion: str | None = None  # noqa: N815 -- the document's own spelling
    kind: str | None = None


class WorkerSettings(Value):
    """How a service's workers are run.

    Attributes:
        backend: of the model.
        environment: additional variables.
        grace_s: seconds for finishing running work; None for the default.
        start_timeout_s: seconds they may take to become ready.
        declared: what the file says about the model's batch; None if nothing.
        hang_timeout_s: seconds without a sign of life after which they count as hung; None for the default.
        retry: whether their queries may run a second time.
    """

    backend: BackendSpec
    environment: dict[str, str] = field(default_factory=dict)
    grace_s: float | None = None
    start_timeout_s: float = LOAD_TIMEOUT_S
    declared: DeclaredBatch | None = None
    hang_timeout_s: float | None = None
    retry: bool = True


def read_services(
    path: Path, sockets: Path, seconds: Mapping[str, SliceSeconds] | None = None
) -> dict[str, ReplicaProcess | UpstreamReplica]:
    """Read how each service's replicas are run.

    Args:
        path: the file.
        sockets: the folder of workers' sockets.
        seconds: measured seconds of batches, by service.

    Raises:
        InputError: the file cannot be read, or has faults, or a service runs on other hosts.
    """
    found = {}
    for entry in read(path, ServicesDocument).services:
        found[entry.name] = _run(entry, path, sockets, (seconds or {}).get(entry.name, {}))
    return found


def _run(
    entry: ServiceEntry, path: Path, sockets: Path, seconds: SliceSeconds
) -> ReplicaProcess | UpstreamReplica:
    grace_s = GRACE_S if entry.grace_s is None else entry.grace_s
    if entry.worker is not None:
        return worker_process(
            entry.worker.backend(path.parent),
            sockets,
            seconds=seconds,
            declared=entry.declared,
            environment=entry.environment,
            grace_s=grace_s,
            start_timeout_s=entry.start_timeout_s,
            hang_timeout_s=HANG_TIMEOUT_S if entry.hang_timeout_s is None else entry.hang_timeout_s,
            retry=entry.retry,
        )
    if entry.workers is not None:
        raise InputError(
            f"{entry.name} runs on other hosts, at the addresses in `workers`",
            where=str(path),
            hint="`workers` is for partita gateway; to start replicas here, give worker or command",
        )
    if entry.start is not None:
        return UpstreamReplica(entry.start, entry.stop or (), entry.timeout_s)
    ready = entry.ready
    return ReplicaProcess(
        entry.command or (),
        environment=entry.environment,
        readiness=None if ready is None else PortReady() if ready == "port" else CommandReady(tuple(ready)),
        grace_s=grace_s,
        start_timeout_s=entry.start_timeout_s,
    )


def read_workers(path: Path) -> dict[str, WorkerSettings]:
    """Read how workers are run, for each service that has a `worker`.

    Raises:
        InputError: the file cannot be read, or has faults.
    """
    return {
        entry.name: WorkerSettings(
            entry.worker.backend(path.parent),
            entry.environment,
            entry.grace_s,
            entry.start_timeout_s,
            entry.declared,
            entry.hang_timeout_s,
            entry.retry,
        )
        for entry in read(path, ServicesDocument).services
        if entry.worker is not None
    }


def read_addresses(path: Path, known: Collection[str]) -> tuple[WorkerAddress, ...]:
    """Read the addresses of all services that have `workers`.

    Args:
        path: the file.
        known: names of the services in the workload.

    Raises:
        InputError: the file cannot be read or has faults, a service is not in the workload, or two share a worker.
    """
    found: dict[str, WorkerAddress] = {}
    for entry in read(path, ServicesDocument).services:
        if entry.workers is None:
            continue
        if entry.name not in known:
            raise InputError(
                f"{entry.name} is not in the workload", where=str(path), hint=nearest(entry.name, [*known])
            )
        for each in entry.workers:
            if isinstance(each, ServerEntry):
                address = WorkerAddress(entry.name, *host_and_port(each.server), each.slice)
            else:
                address = WorkerAddress(entry.name, *host_and_port(each))
            other = found.setdefault(str(address), address)
            if other != address:
                raise InputError(
                    f"{address} is a worker of {other.service} and of {entry.name}",
                    where=str(path),
                    hint="a worker serves one service",
                )
    return tuple(found.values())
