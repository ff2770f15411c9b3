"""Drives the GPUs of this host, with a thread for each action in progress, and reads their energy counters."""

from __future__ import annotations

import queue
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pynvml as nvml

from partita.drive.driver import (
    ActionResult,
    Changes,
    DriveError,
    EnergyReading,
    GpuLostError,
    InUseError,
    NoRoomError,
    Observation,
    as_drive_error,
    foreign_error,
    place,
    replica_of,
    require_same,
)
from partita.drive.nvml.devices import discover
from partita.drive.nvml.gpu import NvmlGpu, OwnedInstances
from partita.drive.nvml.instances import raising_driver_errors
from partita.drive.replicas import ReplicaRecords, ReplicaRunner
from partita.drive.state import REPLICAS
from partita.sim.clock import WallClock
from partita.transition.transition import ActionKind

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from partita.drive.nvml.devices import NvmlDevice
    from partita.drive.replicas import ReplicaProcess, UpstreamReplica
    from partita.mig.layout import Placement
    from partita.sim.clock import Clock
    from partita.transition.transition import Action


_POLL_S = 1.0
"""Seconds between observations of all GPUs; in between only GPUs on which an action has ended are observed."""


def open_nvml(
    folder: Path,
    tell: Callable[[str], None],
    *,
    services: Mapping[str, ReplicaProcess | UpstreamReplica] | None = None,
    allow_mig_mode: bool = False,
    read_only: bool = False,
) -> NvmlDriver:
    """Return the driver of this host's GPUs; call `tell` with a note on each that it cannot use.

    Raises:
        DriveError: there is no NVIDIA driver, or it does not answer.
    """
    made = NvmlDriver(folder, services or {}, allow_mig_mode=allow_mig_mode, read_only=read_only)
    for each in made.unusable:
        tell(each.note)
    return made


class NvmlDriver:
    """A `Driver` of this host's GPUs, on the wall clock.

    It destroys and uses only instances that it created or was told to adopt. Each creation is recorded in the state
    folder before and after, so that half-made instances of a killed controller are known as ours.

    Args:
        state: the state folder.
        services: how each service's replicas are run.
        node: the first part of the GPUs' ids.
        allow_mig_mode: whether MIG mode may be turned on where it is off; never turned off.
        patience_s: seconds for which a destroy that says "in use" is tried again.
        read_only: whether it is only observed: nothing is written to the state folder.

    Raises:
        DriveError: there is no NVIDIA driver, or it does not answer.
    """

    def __init__(
        self,
        state: Path,
        services: Mapping[str, ReplicaProcess | UpstreamReplica],
        *,
        node: str = "node-0",
        allow_mig_mode: bool = False,
        patience_s: float = 10.0,
        read_only: bool = False,
    ) -> None:
        self._clock = WallClock()
        self._ended: queue.SimpleQueue[ActionResult] = queue.SimpleQueue()
        self._under_way = 0
        records = ReplicaRecords(state / REPLICAS)
        owned = OwnedInstances(state / "owned.sqlite3", read_only=read_only)
        self._runner = ReplicaRunner(records, services)
        with raising_driver_errors():
            nvml.nvmlInit()
        devices, self.unusable = discover(node)
        self._gpus = {
            device.id: NvmlGpu(
                device, owned, records, self._runner, patience_s=patience_s, allow_mig_mode=allow_mig_mode
            )
            for device in devices
        }

    @property
    def clock(self) -> Clock:
        """The wall clock."""
        return self._clock

    def observe(self) -> Observation:
        """Return the GPUs that can be cut, as they are now.

        Raises:
            DriveError: NVML does not answer.
        """
        return Observation(tuple(gpu.observe() for gpu in self._gpus.values()))

    def observe_changes(self, mark: object | None, touched: Collection[str]) -> Changes:
        """Return the GPUs touched, as they are now; NVML reports no changes, so all others once a second.

        Raises:
            DriveError: NVML does not answer.
        """
        now = self._clock.now()
        if isinstance(mark, float) and mark <= now < mark + _POLL_S:
            gpus = tuple(gpu.observe() for name, gpu in self._gpus.items() if name in touched)
            return Changes(mark, gpus)
        return Changes(now, self.observe().gpus)

    def begin(self, action: Action) -> None:
        """Begin an action in a thread of its own; `wait` returns what goes wrong."""
        self._under_way += 1
        # A daemon: a controller that is told to stop does not wait for a model to load.
        threading.Thread(target=self._run, args=(action,), name=action.id, daemon=True).start()

    def wait(self, until: float | None = None) -> tuple[ActionResult, ...]:
        """Block until an action ends, or until that time; return those that have ended."""
        if not self._under_way:
            if until is not None:
                self._clock.sleep_until(until)
            return ()
        timeout = None if until is None else max(0.0, until - self._clock.now())
        found: list[ActionResult] = []
        with suppress(queue.Empty):
            found.append(self._ended.get(timeout=timeout))
            while True:
                found.append(self._ended.get_nowait())
        self._under_way -= len(found)
        return tuple(found)

    def adopt(self, gpu: str, placement: Placement) -> None:
        """Make an instance that someone else created ours.

        Raises:
            DriveError: there is no such instance.
        """
        self._gpu(gpu).adopt(placement)

    def close(self) -> None:
        """Close NVML; replicas run on."""
        nvml.nvmlShutdown()

    def _gpu(self, gpu_id: str) -> NvmlGpu:
        if gpu_id not in self._gpus:
            known = ", ".join(self._gpus) or "none"
            raise GpuLostError("there is no such GPU", where=gpu_id, hint=f"this host has {known}")
        return self._gpus[gpu_id]

    def _run(self, action: Action) -> None:
        error: DriveError | None = None
        try:
            self._perform(action)
        except Exception as raised:  # noqa: BLE001 -- else the controller would wait forever
            error = as_drive_error(raised, place(action))
        self._ended.put(ActionResult(action, error))

    def _perform(self, action: Action) -> None:
        gpu = self._gpu(action.gpu)
        match action.kind:
            case ActionKind.CREATE_INSTANCE:
                gpu.create(action.placement)
            case ActionKind.DESTROY_INSTANCE:
                gpu.destroy(action.placement)
            case ActionKind.START_REPLICA:
                self._start(gpu, action)
            case ActionKind.STOP_REPLICA:
                self._stop(gpu, action)

    def _start(self, gpu: NvmlGpu, action: Action) -> None:
        where = place(action)
        found = gpu.at(action.placement)
        if found is None or (found.ours and not found.complete):
            raise NoRoomError("there is no complete instance to run on", where=where)
        if not found.ours:
            raise foreign_error(where)
        if found.busy:
            raise InUseError("another process runs on the instance", where=where)
        self._runner.start(
            (action.gpu, gpu.device.model.name), found.identity, action.placement, replica_of(action)
        )

    def _stop(self, gpu: NvmlGpu, action: Action) -> None:
        found = gpu.at(action.placement)
        record = gpu.record(found) if found is not None else None
        if record is not None:
            require_same(record.replica, replica_of(action), place(action))
            self._runner.stop(action.gpu, record)


class NvmlEnergyMeter:
    """Reads `nvmlDeviceGetTotalEnergyConsumption`: millijoules since the driver was loaded, from Volta on.

    Args:
        node: the first part of the GPUs' ids.

    Raises:
        DriveError: there is no NVIDIA driver, or it does not answer.
    """

    def __init__(self, *, node: str = "node-0") -> None:
        with raising_driver_errors():
            nvml.nvmlInit()
        self._devices, _ = discover(node)

    def energy(self, busy: Collection[tuple[str, int]] = ()) -> tuple[EnergyReading, ...]:  # noqa: ARG002 -- of the interface
        """Return the counters as they are now."""
        return tuple(_read(device) for device in self._devices)

    def close(self) -> None:
        """Close NVML."""
        nvml.nvmlShutdown()


def _read(device: NvmlDevice) -> EnergyReading:
    try:
        with raising_driver_errors(device.id):
            joules = nvml.nvmlDeviceGetTotalEnergyConsumption(device.handle()) / 1000.0
    except DriveError as error:
        return EnergyReading(device.id, device.uuid, device.model.name, None, why=error.what)
    return EnergyReading(device.id, device.uuid, device.model.name, joules)
