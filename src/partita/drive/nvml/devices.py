"""The GPUs of this host that can be cut."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pynvml as nvml

from partita.drive.nvml import cuts, reading
from partita.drive.nvml.errors import told
from partita.drive.port import DriveError
from partita.mig import catalogue
from partita.mig.layout import Placement

if TYPE_CHECKING:
    from partita.mig.gpu import GpuModel


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU that can be cut, as it was when it was found.

    Attributes:
        name: as NVML calls it.
        model: with NVML's own figures in it.
        known: the catalogue's or a user's, before them; None if the model was read from NVML alone.
        notes: where they differ.
    """

    id: str
    uuid: str
    model: GpuModel
    offers: tuple[cuts.Offer, ...]
    name: str = ""
    known: GpuModel | None = None
    notes: tuple[str, ...] = ()

    @property
    def index(self) -> int:
        """NVML's index of it."""
        return int(self.id.rpartition("-")[2])

    def handle(self) -> object:
        """Return NVML's handle of it as it is now.

        Raises:
            GpuLostError: it does not answer.
        """
        with told(self.id, of_gpu=True):
            return nvml.nvmlDeviceGetHandleByUUID(self.uuid)

    def placed(self, found: cuts.Found) -> tuple[Device, Placement]:
        """Return where an instance stands, and the device with a model that has its profile.

        One of a profile that the device does not list gets one of its own, so that its slices are seen as taken.
        """
        offer = next((each for each in self.offers if each.id == found.profile_id), None)
        if offer is not None:
            return self, Placement(found.start, offer.profile.name)
        known = next((p for p in self.model.profiles if p.gi_profile_id == found.profile_id), None)
        if known is not None and found.start in known.starts and known.memory == found.size:
            return self, Placement(found.start, known.name)
        model, profile = reading.with_unknown(self.model, found.profile_id, found.start, found.size)
        return replace(self, model=model), Placement(found.start, profile.name)

    def read_again(self, handle: object) -> Device:
        """Return it as it is now: with MIG mode on, NVML tells more."""
        profiles = reading.listed(handle)
        found = reading.read(handle, self.name, profiles)
        if found is None or found.model.name != self.model.name:
            return self
        return replace(
            self,
            model=found.model,
            offers=cuts.offers(found.model, profiles),
            known=found.known,
            notes=found.notes,
        )


@dataclass(frozen=True, slots=True)
class Unusable:
    """A GPU that cannot be driven, and why; `mend` says what helps, where something could."""

    index: int
    name: str
    why: str
    mend: str | None = None

    @property
    def told(self) -> str:
        """Which GPU is left out, why, and what helps."""
        more = f"; {self.mend}" if self.mend else ""
        return f"GPU {self.index} ({self.name}) is left out: {self.why}{more}"


def discover(node: str) -> tuple[tuple[Device, ...], tuple[Unusable, ...]]:
    """Return the GPUs that can be cut, in NVML's order (of PCI addresses), and those that cannot.

    Their models are known by name to this process from here on, with NVML's figures in them.

    Args:
        node: the first part of their ids, `node-0` of `node-0/gpu-3`.

    Raises:
        DriveError: NVML does not answer at all.
    """
    with told():
        count = nvml.nvmlDeviceGetCount()
    found = [_look(index, f"{node}/gpu-{index}") for index in range(count)]
    devices = _of_one_mind([each for each in found if isinstance(each, Device)])
    catalogue.add(device.model for device in devices)
    return devices, tuple(each for each in found if isinstance(each, Unusable))


def models_here() -> tuple[tuple[GpuModel, ...], tuple[Unusable, ...]]:
    """Return the models of this host's GPUs, each once, and the GPUs that have none.

    Raises:
        DriveError: there is no NVIDIA driver, or it does not answer.
    """
    with told():
        nvml.nvmlInit()
        try:
            devices, rest = discover("node-0")
        finally:
            nvml.nvmlShutdown()
    models = {device.model.name: replace(device.model, origin="NVML") for device in devices}
    return tuple(models.values()), rest


def mig_mode(handle: object) -> tuple[bool, bool]:
    """Return whether MIG mode is on, and whether it will be after a reset."""
    current, pending = nvml.nvmlDeviceGetMigMode(handle)
    return current == nvml.NVML_DEVICE_MIG_ENABLE, pending == nvml.NVML_DEVICE_MIG_ENABLE


def _of_one_mind(devices: list[Device]) -> tuple[Device, ...]:
    """Return the devices with one model for each name: a name in a document means one thing."""
    by_name: defaultdict[str, list[GpuModel]] = defaultdict(list)
    for device in devices:
        by_name[device.model.name].append(device.model)
    models = {name: reading.merged(models) for name, models in by_name.items()}
    return tuple(replace(device, model=models[device.model.name]) for device in devices)


def _look(index: int, gpu_id: str) -> Device | Unusable:
    name = "?"
    try:
        with told(gpu_id, of_gpu=True):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            name = reading.printable(nvml.nvmlDeviceGetName(handle))
            if not _has_mig(handle):
                return Unusable(index, name, "it has no MIG")
            profiles = reading.listed(handle)
            found = reading.read(handle, name, profiles)
            if found is None:
                return _unread(index, name, on=mig_mode(handle)[0])
            offers = cuts.offers(found.model, profiles)
            uuid = nvml.nvmlDeviceGetUUID(handle)
            return Device(gpu_id, uuid, found.model, offers, name, found.known, found.notes)
    except DriveError as error:
        return Unusable(index, name, error.what, error.hint or "see `nvidia-smi -q`")


def _unread(index: int, name: str, *, on: bool) -> Unusable:
    why = "it is not in the catalogue, and NVML does not tell its profiles"
    file = "or name a file that describes it: --gpus-file"
    if on:
        return Unusable(index, name, why, f"run it with `sudo -E`, update the driver, {file}")
    return Unusable(
        index,
        name,
        f"{why} while MIG mode is off",
        f"turn it on: `sudo nvidia-smi -i {index} -mig 1`, {file}",
    )


def _has_mig(handle: object) -> bool:
    try:
        mig_mode(handle)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
        return False
    return True
