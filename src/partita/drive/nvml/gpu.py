"""One real GPU: what is on it, and its instances made and destroyed."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pynvml as nvml

from partita.drive.nvml import cuts
from partita.drive.nvml.devices import mig_mode
from partita.drive.nvml.errors import told
from partita.drive.port import (
    FailedError,
    GpuLostError,
    Identity,
    InUseError,
    NoRoomError,
    ObservedGpu,
    ObservedInstance,
    ObservedReplica,
    RefusedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.drive.nvml.devices import Device
    from partita.drive.nvml.owned import Owned
    from partita.drive.replicas.records import Record, Records
    from partita.drive.replicas.runner import Runner
    from partita.mig.layout import Placement

FIRST_PAUSE_S = 0.05
LOOKS = 5


class Gpu:
    """A GPU of this host.

    Args:
        device: as it was found.
        owned: which instances are ours.
        records: which replicas run.
        runner: says which of them answer.
        patience_s: seconds for which "in use" is taken for a process that is just going.
        allow_mig_mode: whether MIG mode may be turned on where it is off.
    """

    def __init__(
        self,
        device: Device,
        owned: Owned,
        records: Records,
        runner: Runner,
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
        # Creating and destroying on one GPU take turns, as they do in the driver below.
        self._turn = threading.Lock()

    def observe(self) -> ObservedGpu:
        """Return the GPU as it is now, each replica asked whether it is ready; lost if it does not answer.

        Raises:
            DriveError: it answers something else.
        """
        device, model = self.device, self.device.model.name
        try:
            on, seen = self._look(ask=True)
        except GpuLostError:
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
            DriveError: it cannot be.
        """
        where = f"{self.device.id} {placement}"
        with self._turn, told(where):
            handle = self.device.handle()
            self._require_mig(handle)
            found = self.at(placement)
            if found is not None and not found.ours:
                raise foreign(where)
            gi_id = self._create_gpu_instance(handle, placement) if found is None else found.identity.gi_id
            if found is None or not found.complete:
                self._complete(handle, placement, gi_id)

    def destroy(self, placement: Placement) -> None:
        """Destroy an instance of ours; nothing must run on it.

        Raises:
            DriveError: it is not ours, or in use for longer than a process takes to go.
        """
        where = f"{self.device.id} {placement}"
        with self._turn, told(where):
            found = self.at(placement)
            if found is None:
                self._owned.forget(self.device.uuid, placement)
                return
            if not found.ours:
                raise foreign(where)
            if found.replica is not None:
                raise InUseError("a replica runs on it", where=where)
            handle, gi_id = self.device.handle(), found.identity.gi_id
            self._patiently(lambda: cuts.destroy_compute_instances(handle, gi_id))
            self._patiently(lambda: cuts.destroy_gpu_instance(handle, gi_id))
            self._owned.forget(self.device.uuid, placement)

    def adopt(self, placement: Placement) -> None:
        """Make an instance ours that someone else created.

        Raises:
            DriveError: there is none.
        """
        found = self.at(placement)
        if found is None:
            raise NoRoomError("there is no such instance", where=f"{self.device.id} {placement}")
        self._owned.record(found.identity, placement)

    def record(self, instance: ObservedInstance) -> Record | None:
        """Return the record of the replica on an instance, None if there is none of this very instance."""
        found = self._records.find(self.device.uuid, instance.placement)
        return found if found is not None and found.mig_uuid == instance.identity.mig_uuid else None

    def _look(self, *, ask: bool) -> tuple[bool, tuple[ObservedInstance, ...]]:
        handle = self.device.handle()
        with told(self.device.id):
            for _ in range(LOOKS):
                # What someone destroys between two calls is not found, or no valid argument: look again.
                with suppress(nvml.NVMLError_NotFound, nvml.NVMLError_InvalidArgument):
                    on = mig_mode(handle)[0]
                    return on, self._instances(handle, ask=ask) if on else ()
        raise FailedError("its instances change while they are listed", where=self.device.id)

    def _instances(self, handle: object, *, ask: bool) -> tuple[ObservedInstance, ...]:
        found = cuts.instances(handle, self.device.offers)
        running = cuts.processes(handle)
        ours = self._owned.ours(found)
        return tuple(
            self._instance(each, running.get(each.identity.gi_id, set()), ours=each.identity in ours, ask=ask)
            for each in found
        )

    def _instance(self, found: cuts.Found, pids: set[int], *, ours: bool, ask: bool) -> ObservedInstance:
        bare = ObservedInstance(found.placement, found.identity, ours=ours)
        record = self.record(bare)
        if record is None or not record.alive():
            return replace(bare, busy=bool(pids))
        ready = ask and self._runner.ready(record, self.device.id)
        replica = ObservedReplica(record.replica, ready, record.draining, record.leader())
        strangers = not record.upstream and any(not record.owns(pid) for pid in pids)
        return replace(bare, replica=replica, busy=strangers)

    def _require_mig(self, handle: object) -> None:
        if mig_mode(handle)[0]:
            return
        index = self.device.id.rpartition("-")[2]
        if not self._allow_mig_mode:
            raise RefusedError(
                "MIG mode is off", where=self.device.id, hint=f"turn it on: sudo nvidia-smi -i {index} -mig 1"
            )
        nvml.nvmlDeviceSetMigMode(handle, nvml.NVML_DEVICE_MIG_ENABLE)
        if not mig_mode(handle)[0]:
            raise RefusedError(
                "MIG mode is turned on by the next reset",
                where=self.device.id,
                hint=f"with nothing running on it: sudo nvidia-smi -i {index} --gpu-reset",
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
            gi_id = cuts.create_gpu_instance(handle, offer, placement.start)
        except nvml.NVMLError:
            self._owned.forget(self.device.uuid, placement)
            raise
        self._owned.record(Identity(self.device.uuid, gi_id, None, None), placement)
        return gi_id

    def _complete(self, handle: object, placement: Placement, gi_id: int) -> None:
        slices = self.device.model.profile(placement.profile).compute
        try:
            ci_id, mig_uuid = cuts.create_compute_instance(handle, gi_id, slices)
        except nvml.NVMLError:
            cuts.destroy_gpu_instance(handle, gi_id)
            self._owned.forget(self.device.uuid, placement)
            raise
        self._owned.record(Identity(self.device.uuid, gi_id, ci_id, mig_uuid), placement)

    def _patiently(self, work: Callable[[], None]) -> None:
        """Do it again while it says "in use": a process that has ended holds on to its instance for a moment."""
        end = time.monotonic() + self._patience_s
        pause = FIRST_PAUSE_S
        while True:
            try:
                work()
            except nvml.NVMLError_InUse:
                if time.monotonic() + pause > end:
                    raise
                time.sleep(pause)
                pause = min(2 * pause, 1.0)
            else:
                return


def foreign(where: str) -> RefusedError:
    """Return the error of touching what is not ours."""
    return RefusedError("the instance is someone else's", where=where, hint="adopt it, or leave this GPU out")
