"""Starts, watches and ends the replicas of this host."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from partita.drive.port import FailedError, InUseError, RefusedError, TimedOutError
from partita.drive.replicas import procs
from partita.drive.replicas.commands import GRACE_S, Process, Upstream, fill, run
from partita.drive.replicas.records import Record, Records, new_record
from partita.files import replacing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.drive.port import Identity
    from partita.mig.layout import Placement
    from partita.transition.deployment import Replica

KILLED_S = 30.0
LOOK_S = 0.05


class Runner:
    """Runs replicas by the commands of their services.

    Args:
        records: what runs.
        services: how each service's replicas are run.
    """

    def __init__(self, records: Records, services: Mapping[str, Process | Upstream]) -> None:
        self._records = records
        self._services = services
        self._ports = threading.Lock()

    def start(self, gpu: tuple[str, str], identity: Identity, placement: Placement, replica: Replica) -> None:
        """Start a replica and return when it is ready; one that runs already is waited for.

        Args:
            gpu: id and model.
            identity: of the instance.
            placement: of the instance.
            replica: that is to run.

        Raises:
            DriveError: it does not start, or is not ready in time, or another runs there.
        """
        (name, model), way = gpu, self._way(replica.service)
        record = self._records.find(identity.gpu_uuid, placement)
        if record is None or not record.alive():
            record = self._launch(way, name, new_record(identity, placement, replica, model))
        require_same(record, replica)
        if record.draining:
            raise InUseError("the replica there drains", where=f"{name} {placement}")
        if isinstance(way, Upstream):
            run(way.start, words(record, name), environment(record), way.timeout_s)
            self._records.write(replace(record, told=True))
        else:
            self._await(record, name, way)

    def stop(self, gpu: str, record: Record) -> None:
        """Drain a replica, end it, and return when it is gone.

        Raises:
            DriveError: it does not go.
        """
        if record.alive():
            record = replace(record, draining=True)
            self._records.write(record)
            way = self._services.get(record.replica.service)
            if record.upstream:
                if not isinstance(way, Upstream):
                    raise RefusedError(f"nobody to tell for {record.replica.service}", where=gpu)
                run(way.stop, words(record, gpu), environment(record), way.timeout_s)
            else:
                _end(record, way.grace_s if isinstance(way, Process) else GRACE_S, gpu)
        self._records.remove(record)

    def ready(self, record: Record, gpu: str) -> bool:
        """Say whether a replica that is there answers."""
        way = self._services.get(record.replica.service)
        if record.upstream:
            return record.told
        if not isinstance(way, Process) or way.readiness is None:
            return True
        return way.readiness.ready(words(record, gpu), environment(record))

    def _way(self, service: str) -> Process | Upstream:
        if service not in self._services:
            raise RefusedError(f"no command is known for {service}", hint="say how its replicas are run")
        return self._services[service]

    def _launch(self, way: Process | Upstream, gpu: str, record: Record) -> Record:
        if isinstance(way, Upstream):
            record = replace(record, upstream=True)
            self._records.write(record)
            return record
        with self._ports:
            # Written before it is started: if we are killed in between, the token finds the process.
            if any("{port" in word for word in way.command):
                record = replace(record, port=_free_port(self._records.ports()))
            self._records.write(record)
        told = {**words(record, gpu), "document": str(self._records.document(record))}
        if way.document is not None:
            with replacing(told["document"]) as stream:
                stream.write(way.document(told))
        command = fill(way.command, told)
        pid = procs.spawn(command, {**environment(record), **way.environment}, self._records.log(record))
        record = replace(record, pid=pid, began=procs.began(pid))
        self._records.write(record)
        return record

    def _await(self, record: Record, gpu: str, way: Process) -> None:
        where = f"{gpu} {record.placement}"
        end = time.monotonic() + way.start_timeout_s
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
        told = self._records.last_words(record)
        raise FailedError(
            f"the replica ended before it was ready{': ' + told if told else ''}",
            where=where,
            hint=f"see {self._records.log(record)}",
        )


def require_same(record: Record, replica: Replica) -> None:
    """Refuse to take one replica for another.

    Raises:
        RefusedError: it is another.
    """
    ours, asked = record.replica, replica
    if (ours.service, ours.model, ours.batch, ours.processes) != (
        asked.service,
        asked.model,
        asked.batch,
        asked.processes,
    ):
        raise RefusedError(f"a replica of {ours.service} runs there already", where=str(record.placement))


def words(record: Record, gpu: str) -> dict[str, str]:
    """Return what a command may name."""
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
        "placement": str(record.placement),
        "token": record.token,
        "latency_ms": repr(each.latency_ms),
        "throughput": repr(each.throughput),
    }


def environment(record: Record) -> dict[str, str]:
    """Return the environment of a replica: ours, and the one device it may use."""
    return {**os.environ, "CUDA_VISIBLE_DEVICES": record.mig_uuid, procs.TOKEN: record.token}


def _end(record: Record, grace_s: float, gpu: str) -> None:
    for which, patience in ((signal.SIGTERM, grace_s), (signal.SIGKILL, KILLED_S)):
        record.signal(which)
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if not record.alive():
                record.signal(signal.SIGKILL)  # what it leaves behind would keep the device in use
                return
            time.sleep(LOOK_S)
    raise TimedOutError(
        "the replica does not end", where=f"{gpu} {record.placement}", hint="is its GPU lost?"
    )


def _free_port(taken: set[int]) -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port
