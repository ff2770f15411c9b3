"""One real GPU: its instances, how they are created and destroyed, and the record of those that are ours."""

from __future__ import annotations

import threading
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pynvml as nvml

from partita.drive.driver import (
    DriveError,
    FailedError,
    GpuLostError,
    Identity,
    InUseError,
    NoRoomError,
    ObservedGpu,
    ObservedInstance,
    ObservedReplica,
    RefusedError,
    TimedOutError,
    foreign_error,
)
from partita.drive.nvml import instances
from partita.drive.nvml.devices import mig_mode
from partita.drive.nvml.holders import describe_holders, find_holders
from partita.drive.nvml.instances import raising_driver_errors
from partita.mig import catalogue
from partita.process.table import boot_id
from partita.store import Database, DatabaseFormat

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from partita.drive.nvml.devices import NvmlDevice
    from partita.drive.replicas import ReplicaRecord, ReplicaRecords, ReplicaRunner
    from partita.mig.layout import Placement


FIRST_PAUSE_S = 0.05
LOOKS = 5
_SILENT = {nvml.NVML_ERROR_UNKNOWN, nvml.NVML_ERROR_TIMEOUT}
# An instance that someone destroys between two calls is "not found" or an "invalid argument": look again.
_CHANGED = {nvml.NVML_ERROR_NOT_FOUND, nvml.NVML_ERROR_INVALID_ARGUMENT}


class NvmlGpu:
    """A GPU of this host.

    Args:
        device: as it was discovered.
        owned: which instances are ours.
        records: which replicas run.
        runner: says which of them answer.
        patience_s: seconds for which "in use" may be a process that is just ending.
        allow_mig_mode: whether MIG mode may be turned on where it is off.
    """

    def __init__(
        self,
        device: NvmlDevice,
        owned: OwnedInstances,
        records: ReplicaRecords,
        runner: ReplicaRunner,
        *,
        patience_s: float,
        allow_mig_mode: bool,
    ) -> None:
        self.device = device
        self._owned = owned
        self._records = records
        self._runner = runner
        self._patience_s = patience_s
        self._allow_mig_mode = allow_mig_mode
        # Creating and destroying on one GPU take turns, as they do in NVIDIA's driver.
        self._turn = threading.Lock()
        self._gone: set[str] = set()

    def observe(self) -> ObservedGpu:
        """Return the GPU as it is now, asking each replica whether it is ready; lost if the GPU does not answer.

        A GPU that answers only "unknown error" or "timeout" for a while counts as lost in this observation, so that
        one broken GPU does not hide the others.

        Raises:
            DriveError: it answers with another error.
        """
        device, model = self.device, self.device.model.name
        try:
            on, seen = self._look(ask=True)
        except (GpuLostError, _SilentError):
            return ObservedGpu(device.id, device.uuid, model, mig=False, lost=True, instances=())
        usable = on or self._allow_mig_mode
        return ObservedGpu(device.id, device.uuid, model, mig=usable, lost=False, instances=seen)

    def at(self, placement: Placement) -> ObservedInstance | None:
        """Return the instance at a placement, None if there is none; replicas are not asked.

        Raises:
            DriveError: the GPU does not answer.
        """
        _, seen = self._look(ask=False)
        return next((each for each in seen if each.placement == placement), None)

    def create(self, placement: Placement) -> None:
        """Create an instance, or complete one of ours that is half made.

        Raises:
            DriveError: it cannot be created.
        """
        where = f"{self.device.id} {placement}"
        with self._turn, raising_driver_errors(where):
            handle = self._in_mig_mode()
            found = self._at_work(placement)
            if found is not None and not found.ours:
                raise foreign_error(where)
            gi_id = (
                self._create_gpu_instance(handle, placement) if found is None else found.identity.instance_id
            )
            if found is None or not found.complete:
                self._complete(handle, placement, gi_id)

    def destroy(self, placement: Placement) -> None:
        """Destroy an instance of ours, and check that it is gone; nothing may run on it.

        NVML at times reports success while the GPU instance remains without its compute instance
        (github.com/NVIDIA/go-nvml issue 146). Such a remnant stays ours, and is destroyed again.

        Raises:
            DriveError: it is not ours, in use for longer than a process takes to end, or still there.
        """
        where = f"{self.device.id} {placement}"
        with self._turn, raising_driver_errors(where):
            found = self._at_work(placement)
            if found is None:
                self._owned.forget(self.device.uuid, placement)
                return
            if not found.ours:
                raise foreign_error(where)
            if found.replica is not None:
                raise InUseError("a replica runs on it", where=where)
            self._destroy_patiently(placement, found.identity.instance_id, where)
            if found.identity.mig_uuid is not None:
                self._gone.add(found.identity.mig_uuid)
            self._owned.forget(self.device.uuid, placement)

    def adopt(self, placement: Placement) -> None:
        """Make an instance that someone else created ours.

        Raises:
            DriveError: there is none.
        """
        found = self.at(placement)
        if found is None:
            raise NoRoomError("there is no such instance", where=f"{self.device.id} {placement}")
        self._owned.record(found.identity, placement)

    def record(self, instance: ObservedInstance) -> ReplicaRecord | None:
        """Return the record of the replica on this instance, None if there is none."""
        found = self._records.find(self.device.uuid, instance.placement)
        return found if found is not None and found.mig_uuid == instance.identity.mig_uuid else None

    def _look(self, *, ask: bool) -> tuple[bool, tuple[ObservedInstance, ...]]:
        pause = FIRST_PAUSE_S
        for n in range(LOOKS):
            try:
                handle = self.device.handle()
                with raising_driver_errors(self.device.id):
                    on = mig_mode(handle)[0]
                    return on, self._instances(handle, ask=ask) if on else ()
            except (FailedError, TimedOutError) as error:
                code = getattr(error.__cause__, "value", None)
                if code in _SILENT:  # often transient, unlike "GPU is lost"
                    if n == LOOKS - 1:
                        raise _SilentError(error.what, where=error.where, hint=error.hint) from error
                    time.sleep(pause)
                    pause *= 2
                elif code not in _CHANGED:
                    raise
        raise FailedError("its instances change while they are listed", where=self.device.id)

    def _at_work(self, placement: Placement) -> ObservedInstance | None:
        """Return the instance at a placement, and forget ours that are gone. The caller holds the GPU's lock."""
        _, seen = self._look(ask=False)
        self._owned.void(self.device.uuid, [each.identity for each in seen])
        return next((each for each in seen if each.placement == placement), None)

    def _instances(self, handle: object, *, ask: bool) -> tuple[ObservedInstance, ...]:
        # Before the list, since an instance of ours may be destroyed, and forgotten, while it is made.
        known = self._owned.known()
        found = instances.list_instances(handle, self.device.offers, self._gone)
        running = instances.running_processes(handle)
        placed = [(self._placement(each), each.identity) for each in found]
        ours = known.ours(placed)
        if len(ours) < len(placed):  # one may have been created meanwhile
            ours |= self._owned.known().ours(placed)
        return tuple(
            self._instance(
                handle, at, running.get(identity.instance_id, set()), ours=identity in ours, ask=ask
            )
            for at, identity in ((ObservedInstance(*each, ours=False), each[1]) for each in placed)
        )

    def _placement(self, found: instances.GpuInstance) -> Placement:
        name = self.device.model.name
        device, placement = self.device.placed(found)
        if not catalogue.gpu_model(name).has(placement.profile):
            # Unlisted profiles of other GPUs of this model are in the catalogue's model: one name, one model.
            self.device = replace(self.device, model=catalogue.gpu_model(name))
            device, placement = self.device.placed(found)
            catalogue.add([device.model])
        self.device = device
        return placement

    def _instance(
        self, handle: object, found: ObservedInstance, pids: set[int], *, ours: bool, ask: bool
    ) -> ObservedInstance:
        bare = replace(found, ours=ours)
        record = self.record(bare)
        if record is None or not record.alive():
            return replace(bare, busy=bool(pids) and self._still(handle, found, pids))
        ready = ask and self._runner.ready(record, self.device.id)
        replica = ObservedReplica(record.replica, ready, record.draining, record.process.leader())
        strangers = set() if record.upstream else {pid for pid in pids if not record.process.owns(pid)}
        return replace(bare, replica=replica, busy=bool(strangers) and self._still(handle, found, strangers))

    @staticmethod
    def _still(handle: object, found: ObservedInstance, pids: set[int]) -> bool:
        """Return whether any of the processes is there still: one of a replica's own may have ended meanwhile."""
        return not pids.isdisjoint(instances.running_processes(handle).get(found.identity.instance_id, set()))

    def _in_mig_mode(self) -> object:
        """Return the GPU's handle with MIG mode on, turned on if that is allowed.

        Turning it on may unbind and reset the GPU and change what was read before (nvml.h, nvmlDeviceSetMigMode), so
        its handle and profiles are read again. On Ampere it needs a reset, which a VM may not be able to do
        (github.com/kubernetes-sigs/dra-driver-nvidia-gpu issue 883). From Hopper on it needs none, and a reset turns
        it off (github.com/NVIDIA/gpu-admin-tools issue 2). Partita never turns it off.

        Raises:
            DriveError: it is off, and must not or cannot be turned on.
        """
        handle = self.device.handle()
        on, pending = mig_mode(handle)
        if on:
            return handle
        index = self.device.index
        if pending:
            raise self._needs_reset()
        if not self._allow_mig_mode:
            raise RefusedError(
                "MIG mode is off", where=self.device.id, hint=f"turn it on: sudo nvidia-smi -i {index} -mig 1"
            )
        activation = nvml.nvmlDeviceSetMigMode(handle, nvml.NVML_DEVICE_MIG_ENABLE)
        if activation == nvml.NVML_ERROR_IN_USE:
            who, mend = describe_holders(find_holders(handle, None))
            raise InUseError(f"MIG mode cannot be turned on: {who}", where=self.device.id, hint=mend)
        handle = self.device.handle()
        if not mig_mode(handle)[0]:
            raise self._needs_reset()
        self.device = self.device.read_again(handle)
        catalogue.add([self.device.model])
        return handle

    def _needs_reset(self) -> RefusedError:
        return RefusedError(
            "MIG mode is turned on by the next reset",
            where=self.device.id,
            hint=f"with nothing running on it: sudo nvidia-smi -i {self.device.index} --gpu-reset; "
            "a VM that cannot do so must be rebooted",
        )

    def _create_gpu_instance(self, handle: object, placement: Placement) -> int:
        offer = next((o for o in self.device.offers if o.profile.name == placement.profile), None)
        if offer is None:
            raise NoRoomError(f"the GPU offers no {placement.profile}", where=self.device.id)
        starts = offer.profile.starts if offer.starts is None else offer.starts
        if placement.start not in starts:
            raise NoRoomError(
                f"{placement.profile} cannot start at {placement.start}, only at {', '.join(map(str, starts))}",
                where=self.device.id,
            )
        self._owned.intend(self.device.uuid, placement)
        try:
            gi_id = instances.create_gpu_instance(handle, offer, placement.start)
        except nvml.NVMLError:
            self._owned.forget(self.device.uuid, placement)
            raise
        self._owned.record(Identity(self.device.uuid, gi_id, None, None), placement)
        return gi_id

    def _complete(self, handle: object, placement: Placement, gi_id: int) -> None:
        """Create the compute instance; if that fails, the GPU instance is destroyed, and stays ours until it is gone.

        A half-made instance that is left would block its slices for good (dra-driver-nvidia-gpu issue 1452).
        """
        slices = self.device.model.profile(placement.profile).compute
        try:
            ci_id, mig_uuid = instances.create_compute_instance(handle, gi_id, slices, self._gone)
        except nvml.NVMLError:
            with suppress(DriveError, nvml.NVMLError):  # the first error is the one to raise
                self._destroy_patiently(placement, gi_id, f"{self.device.id} {placement}")
                self._owned.forget(self.device.uuid, placement)
            raise
        self._owned.record(Identity(self.device.uuid, gi_id, ci_id, mig_uuid), placement)

    def _destroy_patiently(self, placement: Placement, gi_id: int, where: str) -> None:
        """Destroy an instance and check that it is gone; try again while it is "in use" or remains.

        A process that has ended, or a program that has looked at the instance, holds it for another moment
        (github.com/kubernetes-sigs/dra-driver-nvidia-gpu issue 907).

        Raises:
            InUseError: it is in use for longer; the error names who holds it, as far as that can be seen.
            FailedError: NVML reports success, but it is still there.
        """
        end = time.monotonic() + self._patience_s
        pause = FIRST_PAUSE_S
        while True:
            handle, busy = self.device.handle(), False
            try:
                instances.destroy_compute_instances(handle, gi_id)
                instances.destroy_gpu_instance(handle, gi_id)
            except nvml.NVMLError_InUse:
                busy = True
            if not busy and not instances.exists(handle, gi_id):
                return
            if time.monotonic() + pause > end:
                raise self._kept(handle, gi_id, where, busy=busy)
            time.sleep(pause)
            pause = min(2 * pause, 1.0)
            # Someone else may have created another instance of that id meanwhile, so it is checked again.
            found = self.at(placement)
            if found is None or not found.ours or found.identity.gi_id != gi_id:
                return

    def _kept(self, handle: object, gi_id: int, where: str, *, busy: bool) -> DriveError:
        who, mend = describe_holders(find_holders(handle, gi_id))
        if busy:
            return InUseError(f"NVML: In use by another client: {who}", where=where, hint=mend)
        return FailedError(
            f"NVML reports success, but GPU instance {gi_id} is still there: {who}", where=where, hint=mend
        )


class _SilentError(FailedError):
    """The GPU answered several times with nothing but "unknown error" or "timeout"."""


_TABLE = """
CREATE TABLE owned (
    gpu_uuid TEXT NOT NULL, start INTEGER NOT NULL, profile TEXT NOT NULL, gi_id INTEGER, mig_uuid TEXT,
    boot TEXT, PRIMARY KEY (gpu_uuid, start)
) WITHOUT ROWID
"""


def _since_unversioned(db: sqlite3.Connection) -> list[str]:
    """Return the migration of a file from before versions; the first such files lacked the column `boot`."""
    columns = {row[1] for row in db.execute("PRAGMA table_info(owned)")}
    return [] if "boot" in columns else ["ALTER TABLE owned ADD COLUMN boot TEXT"]


_FORMAT = DatabaseFormat(
    name="the record of our instances",
    version=1,
    steps={0: [_TABLE]},
    unversioned=_since_unversioned,
    patience_s=30.0,
    raises=DriveError,
)


@dataclass(frozen=True, slots=True)
class KnownInstances:
    """The instances that were ours at one time: ids of GPU instance and MIG device by GPU, start and profile."""

    ids: Mapping[tuple[str, int, str], tuple[int | None, str | None]]

    def ours(self, found: Iterable[tuple[Placement, Identity]]) -> set[Identity]:
        """Return the identities of those instances that are ours."""
        mine = set()
        for placement, identity in found:
            key = (identity.gpu_uuid, placement.start, placement.profile)
            if key in self.ids and _same_instance(identity, *self.ids[key]):
                mine.add(identity)
        return mine


class OwnedInstances:
    """The record of our instances.

    A row without `gi_id` is an intent: a GPU instance there without a compute instance is ours, created just before
    its controller was killed. A row without `mig_uuid` is a GPU instance without compute instance. Instances do not
    outlive a reboot (github.com/NVIDIA/k8s-device-plugin issue 225), so rows of an earlier boot do not
    count: what is there now was created by someone else since, at times with the same ids.

    Args:
        path: SQLite file, created if it does not exist.
        read_only: whether it is only read; nothing is ours then where there is no file.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        self._read_only = read_only
        if not read_only:
            with self._db():
                pass

    def intend(self, gpu_uuid: str, placement: Placement) -> None:
        """Record that an instance is about to be created."""
        self._write(gpu_uuid, placement, None, None)

    def record(self, identity: Identity, placement: Placement) -> None:
        """Record an instance of ours, as far as it is created."""
        self._write(identity.gpu_uuid, placement, identity.gi_id, identity.mig_uuid)

    def forget(self, gpu_uuid: str, placement: Placement) -> None:
        """Record that an instance is gone."""
        with self._db() as db:
            db.execute("DELETE FROM owned WHERE gpu_uuid = ? AND start = ?", (gpu_uuid, placement.start))

    def void(self, gpu_uuid: str, standing: Iterable[Identity]) -> None:
        """Forget the instances of a GPU that no longer exist.

        An instance that someone else destroys and creates again has its old UUID if it gets the old ids. So once an
        instance of ours is gone, what comes in its place is not ours.
        """
        there = {identity.gi_id for identity in standing}
        with self._db() as db:
            rows = db.execute(
                "SELECT start, gi_id FROM owned WHERE gpu_uuid = ? AND gi_id IS NOT NULL", (gpu_uuid,)
            )
            gone = [(gpu_uuid, start, gi_id) for start, gi_id in rows.fetchall() if gi_id not in there]
            db.executemany("DELETE FROM owned WHERE gpu_uuid = ? AND start = ? AND gi_id = ?", gone)

    def known(self) -> KnownInstances:
        """Return the instances that are ours now."""
        query = "SELECT gpu_uuid, start, profile, gi_id, mig_uuid FROM owned WHERE boot IS NULL OR boot = ?"
        with suppress(PermissionError):  # which is told when it is opened
            if self._read_only and not self._path.exists():
                return KnownInstances({})
        with closing(Database(self._path, _FORMAT, read_only=self._read_only)) as file, file.reading() as db:
            rows = db.execute(query, (boot_id(),)).fetchall()
        return KnownInstances({(row[0], row[1], row[2]): (row[3], row[4]) for row in rows})

    def _write(self, gpu_uuid: str, placement: Placement, gi_id: int | None, mig_uuid: str | None) -> None:
        row = (gpu_uuid, placement.start, placement.profile, gi_id, mig_uuid, boot_id())
        with self._db() as db:
            db.execute(
                "INSERT OR REPLACE INTO owned (gpu_uuid, start, profile, gi_id, mig_uuid, boot) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                row,
            )

    @contextmanager
    def _db(self) -> Iterator[sqlite3.Connection]:
        # Opened each time: threads of actions write, and may outlive the driver.
        with closing(Database(self._path, _FORMAT)) as file, file.transaction() as db:
            yield db


def _same_instance(found: Identity, gi_id: int | None, mig_uuid: str | None) -> bool:
    if gi_id is None:
        return found.ci_id is None
    return found.gi_id == gi_id and (mig_uuid is None or found.mig_uuid in (None, mig_uuid))
