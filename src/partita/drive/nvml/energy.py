"""NVML's energy counters, one per GPU: slices have none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pynvml as nvml

from partita.drive.energy import Reading
from partita.drive.nvml.devices import discover
from partita.drive.nvml.errors import told
from partita.drive.port import DriveError

if TYPE_CHECKING:
    from collections.abc import Collection

    from partita.drive.nvml.devices import Device


class NvmlMeter:
    """Reads `nvmlDeviceGetTotalEnergyConsumption`: millijoules since the driver was loaded, from Volta on.

    Args:
        node: the first part of the GPUs' ids.

    Raises:
        DriveError: there is no NVIDIA driver, or it does not answer.
    """

    def __init__(self, *, node: str = "node-0") -> None:
        with told():
            nvml.nvmlInit()
        self._devices, _ = discover(node)

    def energy(self, busy: Collection[tuple[str, int]] = ()) -> tuple[Reading, ...]:  # noqa: ARG002 -- the port's
        """Return the counters as they are now."""
        return tuple(_read(device) for device in self._devices)

    def close(self) -> None:
        """Let go of NVML."""
        nvml.nvmlShutdown()


def _read(device: Device) -> Reading:
    try:
        with told(device.id):
            joules = nvml.nvmlDeviceGetTotalEnergyConsumption(device.handle()) / 1000.0
    except DriveError as error:
        return Reading(device.id, device.uuid, device.model.name, None, why=error.what)
    return Reading(device.id, device.uuid, device.model.name, joules)
