"""Real processes as the replicas of a simulated cluster: what they are doing is seen as it would be on real GPUs."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from partita.drive.port import (
    FailedError,
    GpuLostError,
    Identity,
    Observation,
    ObservedReplica,
    RefusedError,
)
from partita.drive.replicas import Records
from partita.drive.replicas.runner import KILLED_S
from partita.drive.simulated.acts import place, replica_of

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from partita.drive.port import ObservedGpu, ObservedInstance
    from partita.drive.replicas import Record, Runner
    from partita.drive.simulated.store import Store
    from partita.sim.clock import Clock
    from partita.transition.transition import Action

_FORGET = "DELETE FROM replicas WHERE gpu = ? AND start = ?"
_BE_READY = (
    "UPDATE replicas SET ready_at = ? WHERE gpu = ? AND start = ? AND (ready_at IS NULL OR ready_at > ?)"
)
_WHO = (
    "SELECT g.model, g.uuid, i.gi_id, i.ci_id, i.mig_uuid FROM gpus g"
    " LEFT JOIN instances i ON i.gpu = g.id AND i.start = ? AND i.profile = ? WHERE g.id = ?"
)


class Hosted:
    """The processes of a simulated cluster's replicas.

    Args:
        store: the cluster.
        folder: of their records; there need be none.
        runner: starts and ends them; None only to see them.
    """

    def __init__(self, store: Store, folder: Path, runner: Runner | None) -> None:
        self._store = store
        self._runner = runner
        self._records = Records(folder) if runner is not None or folder.is_dir() else None

    @property
    def runs(self) -> bool:
        """Whether replicas are started as processes."""
        return self._runner is not None

    def seen(self, observation: Observation) -> Observation:
        """Return an observation with what processes do in place of what the cluster's file says of their replicas."""
        if self._records is None:
            return observation
        hosts = self._records.gpus()
        return Observation(
            tuple(self._gpu(gpu) if self.runs or gpu.uuid in hosts else gpu for gpu in observation.gpus)
        )

    def gpus(self, db: sqlite3.Connection) -> set[str]:
        """Return the GPUs that have records: what processes do there is written down nowhere."""
        hosts = self._records.gpus() if self._records is not None else frozenset()
        find = "SELECT id FROM gpus WHERE uuid = ?"
        return {name for uuid in hosts for (name,) in db.execute(find, (uuid,))}

    def clear(self, db: sqlite3.Connection, action: Action) -> None:
        """Forget the replica at an action's place if its process is no more; end one whose instance is no more."""
        identity = _identity(db, action)
        record = self._record(identity, action)
        if record is None or self._records is None:
            return
        if record.mig_uuid != identity.mig_uuid:
            _kill(record)
        elif record.alive():
            return
        self._records.remove(record)
        db.execute(_FORGET, (action.gpu, action.placement.start))

    def start(self, action: Action, clock: Clock) -> None:
        """Start a replica's process, and return when it is ready.

        Raises:
            DriveError: it does not start, or is not ready in time.
        """
        with self._store.reading() as db:
            model, identity = _who(db, action)
        try:
            self._running.start((action.gpu, model), identity, action.placement, replica_of(action))
        except FailedError:
            with self._store.transaction() as db:
                db.execute(_FORGET, (action.gpu, action.placement.start))
            raise
        with self._store.transaction() as db:
            now = clock.now()
            db.execute(_BE_READY, (now, action.gpu, action.placement.start, now))
            if _identity(db, action) != identity:
                raise FailedError("the instance went away meanwhile", where=place(action))

    def stop(self, action: Action) -> None:
        """Drain a replica's process, and return when it is gone.

        Raises:
            DriveError: it does not go.
        """
        with self._store.reading() as db:
            record = self._record(_identity(db, action), action)
        if record is not None:
            self._running.stop(action.gpu, record)
        with self._store.transaction() as db:
            db.execute(_FORGET, (action.gpu, action.placement.start))

    @property
    def _running(self) -> Runner:
        if self._runner is None:
            raise RefusedError("nothing is known of how replicas are run")
        return self._runner

    def _record(self, identity: Identity, action: Action) -> Record | None:
        return self._records.find(identity.gpu_uuid, action.placement) if self._records is not None else None

    def _gpu(self, gpu: ObservedGpu) -> ObservedGpu:
        return replace(gpu, instances=tuple(self._instance(gpu, each) for each in gpu.instances))

    def _instance(self, gpu: ObservedGpu, instance: ObservedInstance) -> ObservedInstance:
        record = self._records.find(gpu.uuid, instance.placement) if self._records is not None else None
        told = instance.replica
        if record is None or record.mig_uuid != instance.identity.mig_uuid:
            # Of a replica that is to be a process, and has none, the file alone says that it is ready.
            unready = None if told is None else replace(told, ready=told.ready and not self.runs)
            return replace(instance, replica=unready)
        if not record.alive():
            return replace(instance, replica=None)
        # Who does not run it cannot ask it, and reads what its driver wrote once it was ready.
        told_ready = told is None or told.ready
        ready = told_ready if self._runner is None else self._runner.ready(record, gpu.id)
        draining = record.draining or (told is not None and told.draining)
        return replace(instance, replica=ObservedReplica(record.replica, ready, draining, record.leader()))


def _kill(record: Record) -> None:
    """End a process by force; asking whether it lives takes it from the kernel's table."""
    record.signal(signal.SIGKILL)
    end = time.monotonic() + KILLED_S
    while record.alive() and time.monotonic() < end:
        time.sleep(0.01)


def _identity(db: sqlite3.Connection, action: Action) -> Identity:
    return _who(db, action)[1]


def _who(db: sqlite3.Connection, action: Action) -> tuple[str, Identity]:
    """Return a GPU's model and who the instance at an action's place is; its MIG UUID is None where there is none.

    Raises:
        GpuLostError: there is no such GPU.
    """
    row = db.execute(_WHO, (action.placement.start, action.placement.profile, action.gpu)).fetchone()
    if row is None:
        raise GpuLostError("there is no such GPU", where=action.gpu)
    model, uuid, gi_id, ci_id, mig_uuid = row
    return model, Identity(uuid, -1 if gi_id is None else gi_id, ci_id, mig_uuid)
