"""Replicas as processes of this host: started, watched and ended, for any driver."""

from __future__ import annotations

import json
import os
import secrets
import socket
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from partita.documents.codec import Value, to_data
from partita.documents.text import parse_json
from partita.drive.driver import (
    DriveError,
    FailedError,
    InUseError,
    RefusedError,
    TimedOutError,
    require_same,
)
from partita.errors import InputError
from partita.files import json_value, read_text, reading_rights, replacing
from partita.mig.layout import Placement
from partita.process import keeper
from partita.process.keeper import ProcessIdentity, how_it_ended
from partita.process.logs import last_line
from partita.process.table import boot_id, started_at
from partita.transition.deployment import Replica

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from partita.drive.driver import Identity
    from partita.perf.operating_point import Tenant


GRACE_S = 30.0
LOOK_S = 0.05
TOKEN_VARIABLE = "PARTITA_REPLICA"  # noqa: S105 -- the name of a variable, no secret


class Readiness(Protocol):
    """Says whether a replica answers."""

    def ready(self, words: Mapping[str, str], environment: Mapping[str, str]) -> bool:
        """Return whether it answers now.

        Args:
            words: values by the names of `ReplicaProcess.command`.
            environment: the replica's.
        """
        ...


@dataclass(frozen=True, slots=True)
class PortReady:
    """Ready when it accepts connections on the port that it was given as `{port}`."""

    host: str = "127.0.0.1"
    timeout_s: float = 1.0

    def ready(self, words: Mapping[str, str], environment: Mapping[str, str]) -> bool:
        """Return whether it accepts a connection."""
        del environment
        try:
            with socket.create_connection((self.host, int(words["port"])), self.timeout_s):
                return True
        except OSError:
            return False


@dataclass(frozen=True, slots=True)
class CommandReady:
    """Ready when a command ends with 0."""

    command: tuple[str, ...]
    timeout_s: float = 5.0

    def ready(self, words: Mapping[str, str], environment: Mapping[str, str]) -> bool:
        """Run the command and return whether it ended with 0 in time."""
        try:
            run_command(self.command, words, environment, self.timeout_s)
        except DriveError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class ReplicaProcess:
    """A replica is a process of its own, with `CUDA_VISIBLE_DEVICES` set to its MIG device.

    Attributes:
        command: words, in which `{service}`, `{model}`, `{batch}`, `{processes}`, `{port}`, `{device}`, `{gpu}`,
            `{gpu_model}`, `{gpu_uuid}`, `{gpu_instance}` (its id), `{placement}`, `{token}`, `{latency_ms}`,
            `{throughput}` and `{document}` are filled in.
        environment: variables in addition to the controller's.
        readiness: None if it is ready as soon as it runs.
        grace_s: seconds from SIGTERM, on which it drains, to SIGKILL.
        start_timeout_s: seconds it may take to become ready.
        document: makes the text of the file `{document}` from the other values, before the process is started.
        share: returns how services that share an instance are run, from how each is run alone and as what; None if it
            cannot be run together with others.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    readiness: Readiness | None = None
    grace_s: float = GRACE_S
    start_timeout_s: float = 600.0
    document: Callable[[Mapping[str, str]], str] | None = None
    share: Callable[[Sequence[ReplicaProcess], Sequence[Tenant]], ReplicaProcess] | None = None


@dataclass(frozen=True, slots=True)
class UpstreamReplica:
    """A server that runs already gets each replica by one command and loses it by another.

    Attributes:
        start: ends with 0 when the replica answers; names as in `ReplicaProcess.command`.
        stop: ends with 0 when the replica has drained and left the device.
        timeout_s: seconds either may take.
    """

    start: tuple[str, ...]
    stop: tuple[str, ...]
    timeout_s: float = 600.0


class ReplicaRecord(Value):
    """A replica on an instance of this host, as its file holds it.

    Attributes:
        token: identifies its processes, which have it in their environment.
        pid: of its first process; None for an upstream server's replica, and just before a process is started.
        began: when that process began, in ticks since boot.
        boot: the boot of the host in which it runs.
        port: given to it; None if its command has no `{port}`.
        model: of its GPU; empty in records of earlier versions.
        upstream: whether it belongs to a server that runs already.
        told: whether the upstream server has confirmed that it is ready.
        gpu_instance_id: of its instance; None if it is not known, and in records of earlier versions.
    """

    gpu_uuid: str
    placement: str
    mig_uuid: str
    replica: Replica
    token: str
    boot: str
    pid: int | None = None
    began: int | None = None
    port: int | None = None
    model: str = ""
    upstream: bool = False
    told: bool = False
    draining: bool = False
    gpu_instance_id: int | None = None

    @property
    def process(self) -> ProcessIdentity:
        """What identifies its processes."""
        return ProcessIdentity(self.boot, f"{TOKEN_VARIABLE}={self.token}", self.pid, self.began)

    def alive(self) -> bool:
        """Return whether it still runs."""
        return self.boot == boot_id() if self.upstream else self.process.leader() is not None


def new_record(identity: Identity, placement: Placement, replica: Replica, model: str) -> ReplicaRecord:
    """Return the record of a replica that is about to be started on a GPU of some model."""
    return ReplicaRecord(
        identity.gpu_uuid,
        str(placement),
        str(identity.mig_uuid),
        replica,
        secrets.token_hex(16),
        boot_id(),
        model=model,
        gpu_instance_id=identity.gi_id,
    )


class ReplicaRecords:
    """The folder of records and logs.

    Args:
        folder: created by the first record.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, gpu_uuid: str, placement: Placement) -> ReplicaRecord | None:
        """Return the record of the replica at a place, None if there is none.

        Raises:
            InputError: its file is damaged, or this user may not read it; it is kept as it is.
        """
        path = self._path(gpu_uuid, placement.start)
        with self._allowed():
            if not path.is_file():
                return None
        try:
            found = parse_json(read_text(path), ReplicaRecord, str(path))
        except InputError as error:
            raise InputError(
                f"a replica's record cannot be read: {error.what}",
                where=error.where,
                hint="see which process it names, end that, and remove the file",
            ) from None
        return found if found.placement == str(placement) else None

    def write(self, record: ReplicaRecord) -> None:
        """Write a record, whole or not at all."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with replacing(self._file(record)) as stream:
            json.dump(to_data(record), stream, indent=2)

    def remove(self, record: ReplicaRecord) -> None:
        """Remove a record, and the document of its process."""
        self.document(record).unlink(missing_ok=True)
        self._file(record).unlink(missing_ok=True)

    def log(self, record: ReplicaRecord) -> Path:
        """Return the file that its output goes to."""
        return self._file(record).with_suffix(".log")

    def document(self, record: ReplicaRecord) -> Path:
        """Return the file that its process reads."""
        return self._file(record).with_suffix(".document")

    def gpus(self) -> frozenset[str]:
        """Return the UUIDs of the GPUs that have records.

        Raises:
            InputError: this user may not read them.
        """
        with self._allowed(), suppress(FileNotFoundError):
            names = (path.stem for path in self._folder.iterdir() if path.suffix == ".json")
            return frozenset(gpu for gpu, at, _ in (name.rpartition("@") for name in names) if at)
        return frozenset()

    def ports(self) -> set[int]:
        """Return the ports that replicas were given."""
        found = (json_value(read_text(path)).get("port") for path in self._folder.glob("*.json"))
        return {port for port in found if port is not None}

    @contextmanager
    def _allowed(self) -> Iterator[None]:
        try:
            yield
        except PermissionError:
            raise InputError(
                "you may not read the replicas' records",
                where=str(self._folder),
                hint=reading_rights(self._folder),
            ) from None

    def _file(self, record: ReplicaRecord) -> Path:
        return self._path(record.gpu_uuid, Placement.parse(record.placement).start)

    def _path(self, gpu_uuid: str, start: int) -> Path:
        return self._folder / f"{gpu_uuid}@{start}.json"


class ReplicaRunner:
    """Runs replicas with the commands of their services.

    Args:
        records: the replicas that run.
        services: how each service's replicas are run.
    """

    def __init__(
        self, records: ReplicaRecords, services: Mapping[str, ReplicaProcess | UpstreamReplica]
    ) -> None:
        self._records = records
        self._services = services
        self._ports = threading.Lock()

    def start(self, gpu: tuple[str, str], identity: Identity, placement: Placement, replica: Replica) -> None:
        """Start a replica and return when it is ready; if it runs already, only wait.

        Args:
            gpu: id and model.
            identity: of the instance.
            placement: of the instance.
            replica: the replica to run.

        Raises:
            DriveError: it does not start, or is not ready in time, or another runs there.
        """
        (name, model), method = gpu, self._method(replica)
        record = self._records.find(identity.gpu_uuid, placement)
        if record is None or not record.alive():
            record = self._launch(method, name, new_record(identity, placement, replica, model))
        require_same(record.replica, replica, f"{name} {placement}")
        if record.draining:
            raise InUseError("the replica there drains", where=f"{name} {placement}")
        if isinstance(method, UpstreamReplica):
            run_command(
                method.start, command_words(record, name), replica_environment(record), method.timeout_s
            )
            self._records.write(record.replace(told=True))
        else:
            self._await(record, name, method)

    def stop(self, gpu: str, record: ReplicaRecord) -> None:
        """Drain a replica, end it, and return when it is gone.

        Raises:
            DriveError: it does not end.
        """
        if record.alive():
            record = record.replace(draining=True)
            self._records.write(record)
            method = self._known(record.replica)
            if record.upstream:
                if not isinstance(method, UpstreamReplica):
                    raise RefusedError(f"no command is known that stops {record.replica.service}", where=gpu)
                run_command(
                    method.stop, command_words(record, gpu), replica_environment(record), method.timeout_s
                )
            else:
                grace_s = method.grace_s if isinstance(method, ReplicaProcess) else GRACE_S
                if not record.process.end(grace_s):
                    where = f"{gpu} {record.placement}"
                    raise TimedOutError("the replica does not end", where=where, hint="is its GPU lost?")
        self._records.remove(record)

    def ready(self, record: ReplicaRecord, gpu: str) -> bool:
        """Return whether a running replica answers."""
        method = self._known(record.replica)
        if record.upstream:
            return record.told
        if not isinstance(method, ReplicaProcess) or method.readiness is None:
            return True
        return method.readiness.ready(command_words(record, gpu), replica_environment(record))

    def _known(self, replica: Replica) -> ReplicaProcess | UpstreamReplica | None:
        """Return how a replica is run, None if that is not known."""
        try:
            return self._method(replica)
        except RefusedError:
            return None

    def _method(self, replica: Replica) -> ReplicaProcess | UpstreamReplica:
        for service, _ in replica.serves:
            if service not in self._services:
                raise RefusedError(f"no command is known for {service}", hint="say how its replicas are run")
        if not replica.tenants:
            return self._services[replica.service]
        methods: list[ReplicaProcess] = []
        for service, _ in replica.serves:
            method = self._services[service]
            if not isinstance(method, ReplicaProcess) or method.share is None:
                raise RefusedError(
                    f"{service} is not run by a worker of Partita's, and so cannot share an instance",
                    hint="give it `worker` in the file of services, or write share: false",
                )
            methods.append(method)
        if len(methods) == 1:
            return methods[0]
        assert methods[0].share is not None  # noqa: S101 -- refused above
        return methods[0].share(methods, replica.tenants)

    def _launch(
        self, method: ReplicaProcess | UpstreamReplica, gpu: str, record: ReplicaRecord
    ) -> ReplicaRecord:
        if isinstance(method, UpstreamReplica):
            record = record.replace(upstream=True)
            self._records.write(record)
            return record
        with self._ports:
            # Written before the start: if we are killed in between, the token finds the process.
            if any("{port" in word for word in method.command):
                record = record.replace(port=_free_port(self._records.ports()))
            self._records.write(record)
        words = {**command_words(record, gpu), "document": str(self._records.document(record))}
        if method.document is not None:
            with replacing(words["document"]) as stream:
                stream.write(method.document(words))
        command = fill_command(method.command, words)
        environment = {**replica_environment(record), **method.environment}
        try:
            child = keeper.start(command, environment, output=self._records.log(record))
        except OSError as error:
            raise FailedError(f"cannot be started: {error.strerror}", where=command[0]) from None
        record = record.replace(pid=child.pid, began=started_at(child.pid))
        self._records.write(record)
        return record

    def _await(self, record: ReplicaRecord, gpu: str, method: ReplicaProcess) -> None:
        where = f"{gpu} {record.placement}"
        end = time.monotonic() + method.start_timeout_s
        pause = LOOK_S
        while record.alive():
            if self.ready(record, gpu):
                return
            if time.monotonic() > end:
                raise TimedOutError(
                    "the replica is not ready", where=where, hint=f"see {self._records.log(record)}"
                )
            time.sleep(pause)
            pause = min(2 * pause, 1.0)
        last = last_line(self._records.log(record))
        raise FailedError(
            f"the replica ended before it was ready{': ' + last if last else ''}",
            where=where,
            hint=f"see {self._records.log(record)}",
        )


def command_words(record: ReplicaRecord, gpu: str) -> dict[str, str]:
    """Return the values that a command may use, by name."""
    each = record.replica
    return {
        "service": each.service,
        "model": each.model,
        "batch": str(each.batch),
        "processes": str(each.processes),
        "port": str(record.port or ""),
        "device": record.mig_uuid,
        "gpu": gpu,
        "gpu_model": record.model,
        "gpu_uuid": record.gpu_uuid,
        "gpu_instance": "" if record.gpu_instance_id is None else str(record.gpu_instance_id),
        "placement": record.placement,
        "token": record.token,
        "latency_ms": repr(each.latency_ms),
        "throughput": repr(each.throughput),
    }


def replica_environment(record: ReplicaRecord) -> dict[str, str]:
    """Return the environment of a replica: ours, and the one device it may use."""
    return {**os.environ, "CUDA_VISIBLE_DEVICES": record.mig_uuid, TOKEN_VARIABLE: record.token}


def _free_port(taken: set[int]) -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port


def fill_command(command: Sequence[str], words: Mapping[str, str]) -> list[str]:
    """Return a command with its values filled in.

    Raises:
        RefusedError: it uses an unknown name.
    """
    try:
        return [word.format_map(words) for word in command]
    except (KeyError, ValueError, IndexError) as error:
        raise RefusedError(
            f"the command cannot be filled in: {error}",
            where=" ".join(command),
            hint=f"it may name {', '.join(f'{{{word}}}' for word in words)}; write {{{{ for a brace",
        ) from None


def run_command(
    command: Sequence[str], words: Mapping[str, str], environment: Mapping[str, str], timeout_s: float
) -> None:
    """Run a short command to its end.

    Raises:
        FailedError: it does not end with 0, or not in time, or cannot be run.
    """
    filled = fill_command(command, words)
    with tempfile.TemporaryFile() as errors:
        try:
            child = keeper.start(filled, environment, output=Path(os.devnull), errors=errors)
        except OSError as error:
            raise FailedError(f"the command failed: {error}", where=filled[0]) from None
        code = child.wait(timeout_s)
        if code is None:
            child.kill()
            raise FailedError(f"the command did not end in {timeout_s:g} s", where=filled[0])
        if code != 0:
            errors.seek(0)
            told = errors.read().decode(errors="replace").strip().splitlines()[-1:]
            last = f": {told[0]}" if told else ""
            raise FailedError(f"the command {how_it_ended(code)}{last}", where=filled[0])
