"""The GPUs of this host that can be cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pynvml as nvml

from partita.drive.nvml import cuts
from partita.drive.nvml.errors import told
from partita.drive.port import DriveError
from partita.mig.catalogue import gpu_called

if TYPE_CHECKING:
    from partita.mig.gpu import GpuModel


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU in the catalogue, as it was when it was found."""

    id: str
    uuid: str
    model: GpuModel
    offers: tuple[cuts.Offer, ...]

    def handle(self) -> object:
        """Return NVML's handle of it as it is now.

        Raises:
            GpuLostError: it does not answer.
        """
        with told(self.id):
            return nvml.nvmlDeviceGetHandleByUUID(self.uuid)


@dataclass(frozen=True, slots=True)
class Unusable:
    """A GPU that cannot be driven, and why; `mend` says what helps, where it could be."""

    index: int
    name: str
    why: str
    mend: str | None = None


def discover(node: str) -> tuple[tuple[Device, ...], tuple[Unusable, ...]]:
    """Return the GPUs that can be cut, in NVML's order (of PCI addresses), and those that cannot.

    Args:
        node: the first part of their ids, `node-0` of `node-0/gpu-3`.

    Raises:
        DriveError: NVML does not answer at all.
    """
    with told():
        count = nvml.nvmlDeviceGetCount()
    found = [_look(index, f"{node}/gpu-{index}") for index in range(count)]
    devices = tuple(each for each in found if isinstance(each, Device))
    return devices, tuple(each for each in found if isinstance(each, Unusable))


def mig_mode(handle: object) -> tuple[bool, bool]:
    """Return whether MIG mode is on, and whether it will be after a reset."""
    current, pending = nvml.nvmlDeviceGetMigMode(handle)
    return current == nvml.NVML_DEVICE_MIG_ENABLE, pending == nvml.NVML_DEVICE_MIG_ENABLE


def _look(index: int, gpu_id: str) -> Device | Unusable:
    name = "?"
    try:
        with told(gpu_id):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            name = nvml.nvmlDeviceGetName(handle)
            if not _has_mig(handle):
                return Unusable(index, name, "it has no MIG")
            model = gpu_called(name)
            if model is None:
                return Unusable(index, name, "it is not in the catalogue")
            return Device(gpu_id, nvml.nvmlDeviceGetUUID(handle), model, cuts.offers(handle, model))
    except DriveError as error:
        return Unusable(index, name, error.what, error.hint or "see `nvidia-smi -q`")


def _has_mig(handle: object) -> bool:
    try:
        mig_mode(handle)
    except nvml.NVMLError_NotSupported:
        return False
    return True
