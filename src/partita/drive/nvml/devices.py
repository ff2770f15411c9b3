"""The GPUs of this host that can be cut, and the model of each: the catalogue's, or read from NVML.

Where NVML and the catalogue differ, NVML's starts and counts are used, and the smaller of two figures of memory.
Names of profiles differ between drivers (an A100's 3g.40gb was 3g.39gb under 535 and 545,
github.com/NVIDIA/mig-parted issue 31; a GB300's 1g is 1g.35gb under 59x and 1g.31gb under 61x,
github.com/NVIDIA/dgx-spark-playbooks), but their numbers do not: profiles are identified by number.
"""

from __future__ import annotations

import re
from collections import defaultdict
from contextlib import suppress
from ctypes import byref, c_uint
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any

import pynvml as nvml

from partita.drive.driver import DriveError
from partita.drive.nvml.instances import GpuInstance, OfferedProfile, raising_driver_errors
from partita.mig import catalogue
from partita.mig.catalogue import gpu_model, gpu_names, gpus_called, gpus_on_pci
from partita.mig.gpu import GpuModel, Profile
from partita.mig.layout import Placement

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence


MIB = 1024 * 1024
# A driver newer than the binding lists profiles beyond the binding's last (0x11 in nvidia-ml-py 13.615). Numbers that
# the driver does not know are invalid arguments; there are gaps between the numbers.
_PROFILES = range(32)
# The suffixes of profiles' names by number: NVML_GPU_INSTANCE_PROFILE_* in pynvml.py of nvidia-ml-py 13.615.
_SUFFIXES = {
    7: "+me",
    8: "+me",
    10: "+gfx",
    11: "+gfx",
    12: "+gfx",
    13: "-me",
    14: "-me",
    15: "+me.all",
    16: "+me.all",
    17: "+gfx",
}
_MEDIA = {7, 8, 15, 16}
# Memory of a profile under one driver and another differs by up to 7 % (a B200's 1g: 20.50 and 22.00 GiB,
# github.com/NVIDIA/mig-parted pull requests 166 and 187); on a virtualisation host it is 2 % less. Products that NVML
# calls by one name differ by more: 80GB and 94GB by 15 %.
_LEAST, _MOST = 0.95, 1.10
# Where only the name gives the memory: usable memory is at most that, up to rounding, and was up to 14 % less.
_LEAST_NOMINAL, _MOST_NOMINAL = 0.70, 1.02


@dataclass(frozen=True, slots=True)
class NvmlDevice:
    """A GPU that can be cut, as it was when it was discovered.

    Attributes:
        name: NVML's name.
        model: its model with NVML's figures.
        known: the model of the catalogue or a user's file; None if the model was read from NVML alone.
        notes: where the two differ.
    """

    id: str
    uuid: str
    model: GpuModel
    offers: tuple[OfferedProfile, ...]
    name: str = ""
    known: GpuModel | None = None
    notes: tuple[str, ...] = ()

    @property
    def index(self) -> int:
        """NVML's index."""
        return int(self.id.rpartition("-")[2])

    def handle(self) -> object:
        """Return NVML's current handle.

        Raises:
            GpuLostError: it does not answer.
        """
        with raising_driver_errors(self.id, of_gpu=True):
            return nvml.nvmlDeviceGetHandleByUUID(self.uuid)

    def placed(self, found: GpuInstance) -> tuple[NvmlDevice, Placement]:
        """Return an instance's placement, and the device with a model that has its profile.

        A profile that the device does not list is added to the model, so that the instance's slices count as taken.
        """
        offer = next((each for each in self.offers if each.id == found.profile_id), None)
        if offer is not None:
            return self, Placement(found.start, offer.profile.name)
        known = next((p for p in self.model.profiles if p.gi_profile_id == found.profile_id), None)
        if known is not None and found.start in known.starts and known.memory == found.size:
            return self, Placement(found.start, known.name)
        model, profile = with_unknown(self.model, found.profile_id, found.start, found.size)
        return replace(self, model=model), Placement(found.start, profile.name)

    def read_again(self, handle: object) -> NvmlDevice:
        """Return the device read again: with MIG mode on, NVML says more."""
        profiles = list_profiles(handle)
        found = recognize(handle, self.name, profiles)
        if found is None or found.model.name != self.model.name:
            return self
        return replace(
            self,
            model=found.model,
            offers=offers(found.model, profiles),
            known=found.known,
            notes=found.notes,
        )


@dataclass(frozen=True, slots=True)
class UnusableGpu:
    """A GPU that cannot be driven, and why; `mend` is what helps, if anything does."""

    index: int
    name: str
    why: str
    mend: str | None = None

    @property
    def note(self) -> str:
        """Which GPU is left out, why, and what helps."""
        more = f"; {self.mend}" if self.mend else ""
        return f"GPU {self.index} ({self.name}) is left out: {self.why}{more}"


def discover(node: str) -> tuple[tuple[NvmlDevice, ...], tuple[UnusableGpu, ...]]:
    """Return the GPUs that can be cut, in NVML's order (of PCI addresses), and those that cannot.

    It adds their models, with NVML's figures, to those that this process knows by name.

    Args:
        node: the first part of their ids, `node-0` of `node-0/gpu-3`.

    Raises:
        DriveError: NVML does not answer at all.
    """
    with raising_driver_errors():
        count = nvml.nvmlDeviceGetCount()
    found = [_look(index, f"{node}/gpu-{index}") for index in range(count)]
    devices = _with_one_model_per_name([each for each in found if isinstance(each, NvmlDevice)])
    catalogue.add(device.model for device in devices)
    return devices, tuple(each for each in found if isinstance(each, UnusableGpu))


def models_here() -> tuple[tuple[GpuModel, ...], tuple[UnusableGpu, ...]]:
    """Return the models of this host's GPUs, each once, and the GPUs that have none.

    Raises:
        DriveError: there is no NVIDIA driver, or it does not answer.
    """
    with raising_driver_errors():
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


def _with_one_model_per_name(devices: list[NvmlDevice]) -> tuple[NvmlDevice, ...]:
    """Return the devices with one model for each name: a name in a document means one thing."""
    by_name: defaultdict[str, list[GpuModel]] = defaultdict(list)
    for device in devices:
        by_name[device.model.name].append(device.model)
    models = {name: merge_models(models) for name, models in by_name.items()}
    return tuple(replace(device, model=models[device.model.name]) for device in devices)


def _look(index: int, gpu_id: str) -> NvmlDevice | UnusableGpu:
    name = "?"
    try:
        with raising_driver_errors(gpu_id, of_gpu=True):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            name = printable(nvml.nvmlDeviceGetName(handle))
            if not _has_mig(handle):
                return UnusableGpu(index, name, "it has no MIG")
            profiles = list_profiles(handle)
            found = recognize(handle, name, profiles)
            if found is None:
                return _unreadable_model(index, name, on=mig_mode(handle)[0])
            uuid = nvml.nvmlDeviceGetUUID(handle)
            offered = offers(found.model, profiles)
            return NvmlDevice(gpu_id, uuid, found.model, offered, name, found.known, found.notes)
    except DriveError as error:
        return UnusableGpu(index, name, error.what, error.hint or "see `nvidia-smi -q`")


def _unreadable_model(index: int, name: str, *, on: bool) -> UnusableGpu:
    why = "it is not in the catalogue, and NVML does not list its profiles"
    file = "or name a file that describes it: --gpus-file"
    if on:
        return UnusableGpu(index, name, why, f"run it with `sudo -E`, update the driver, {file}")
    return UnusableGpu(
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


@dataclass(frozen=True, slots=True)
class ListedProfile:
    """A profile as a device lists it.

    Attributes:
        number: value of `NVML_GPU_INSTANCE_PROFILE_*`.
        id: the number that all other calls take, the ID of `nvidia-smi mig -lgip`.
        slices: compute slices.
        count: most instances.
        memory_mib: memory of one instance in MiB.
        name: NVML's name without `MIG `; None where it gives none.
        starts: memory slices at which it may start; None where the device does not say while MIG is off.
        size: memory slices of one instance; None where `starts` is.
    """

    number: int
    id: int
    slices: int
    count: int
    memory_mib: int
    sms: int
    copy_engines: int
    name: str | None
    starts: tuple[int, ...] | None
    size: int | None


@dataclass(frozen=True, slots=True)
class RecognizedModel:
    """The model that a device was recognized as.

    Attributes:
        model: the model with NVML's figures.
        known: the model of the catalogue or a user's file; None if the model was read from NVML alone.
        notes: where the two differ, for the user.
    """

    model: GpuModel
    known: GpuModel | None
    notes: tuple[str, ...] = ()


def list_profiles(device: object) -> tuple[ListedProfile, ...]:
    """Return all profiles that a device offers, also those that neither binding nor catalogue know."""
    return tuple(found for number in _PROFILES if (found := _listed(device, number)) is not None)


def printable(text: str) -> str:
    """Return a name from NVML without characters that a terminal should not get."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _listed(device: object, number: int) -> ListedProfile | None:
    try:
        info, name = _profile_info(device, number)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_InvalidArgument):
        return None
    starts, size = _placements(device, info.id)
    return ListedProfile(
        number,
        int(info.id),
        int(info.sliceCount),
        int(info.instanceCount),
        int(info.memorySizeMB),
        int(info.multiprocessorCount),
        int(info.copyEngineCount),
        name,
        starts,
        size,
    )


def _profile_info(device: object, number: int) -> tuple[Any, str | None]:
    """Return a profile's information, and its name where the driver gives it.

    `nvmlDeviceGetGpuInstanceProfileInfo` is deprecated and has no name; `...InfoV` has one, came later, and is
    refused while MIG mode is off. A driver has the first, the second, or both: the binding raises "function not
    found" for one it lacks.
    """
    info = name = None
    with suppress(nvml.NVMLError_FunctionNotFound, nvml.NVMLError_Deprecated):
        info = nvml.nvmlDeviceGetGpuInstanceProfileInfo(device, number, version=1)
    try:
        named = nvml.nvmlDeviceGetGpuInstanceProfileInfo(device, number, version=2)
        text = named.name if isinstance(named.name, str) else named.name.decode(errors="replace")
        name = printable(text).removeprefix("MIG ").strip() or None
    except nvml.NVMLError:
        if info is None:
            raise
        return info, None
    return info or named, name


def _placements(device: object, profile_id: int) -> tuple[tuple[int, ...] | None, int | None]:
    count = c_uint(0)
    try:
        nvml.nvmlDeviceGetGpuInstancePossiblePlacements(device, profile_id, None, byref(count))
        array = (nvml.c_nvmlGpuInstancePlacement_t * count.value)()
        nvml.nvmlDeviceGetGpuInstancePossiblePlacements(device, profile_id, array, byref(count))
    except (
        nvml.NVMLError_NotSupported,
        nvml.NVMLError_InvalidArgument,
        nvml.NVMLError_FunctionNotFound,
        nvml.NVMLError_NoPermission,
    ):
        return None, None
    found = array[: count.value]
    return (tuple(sorted(each.start for each in found)), int(found[0].size)) if found else (None, None)


def recognize(device: object, name: str, profiles: Sequence[ListedProfile]) -> RecognizedModel | None:
    """Return a device's model; None if it is unknown and its profiles cannot be read while MIG is off.

    Args:
        device: NVML's handle.
        name: NVML's name.
        profiles: as it lists them.
    """
    pci = _pci(device)
    named = [*gpus_called(name), *(gpus_on_pci(pci) if pci else ())]
    if not profiles:
        return RecognizedModel(named[0], named[0]) if named else None
    own_name = _own_name(name, profiles)
    alike = [gpu_model(own_name)] if own_name in gpu_names() else []
    for known in [*named, *alike]:
        if (model := with_nvml_figures(known, profiles)) is not None:
            return RecognizedModel(model, known, (*_another(named, known), *_differences(known, profiles)))
    if any(each.starts is None for each in profiles):
        return None
    taken = own_name in gpu_names()
    model = _model(f"{own_name}-nvml" if taken else own_name, name, pci, profiles, _total_mib(device))
    note = (
        f"its memory differs from that of {named[0].name}: its profiles are read from NVML" if named else None
    )
    return RecognizedModel(model, None, (note,) if note else ())


def with_nvml_figures(known: GpuModel, profiles: Iterable[ListedProfile]) -> GpuModel | None:
    """Return a model with NVML's figures; None if a device with these profiles is of another model.

    The result has the smaller memory, NVML's starts, sizes and counts, and NVML's profiles: a profile that it does
    not list cannot be created, and one that the catalogue lacks can.
    """
    found = []
    for each in profiles:
        profile = _same(known, each)
        if profile is None:
            if each.starts is not None:
                found.append(_profile(each, _name(each, None)))
            continue
        if not _agree(profile, each):
            return None
        memory = each.memory_mib if profile.memory_mib is None else min(profile.memory_mib, each.memory_mib)
        found.append(
            replace(
                profile,
                starts=each.starts or profile.starts,
                memory=each.size or profile.memory,
                max_instances=each.count,
                memory_mib=memory,
                sms=profile.sms or each.sms or None,
                copy_engines=each.copy_engines,
                gi_profile_id=each.id,
                nvml_profile=each.number,
            )
        )
    order = {each.name: n for n, each in enumerate(known.profiles)}
    found.sort(key=lambda each: (order.get(each.name, len(order)), each.compute, each.memory))
    return replace(known, profiles=tuple(found))


def merge_models(models: Sequence[GpuModel]) -> GpuModel:
    """Return one model for GPUs of one name: the profiles that all of them have, with the smallest memory."""
    first, *rest = models
    for other in rest:
        both = [(one, other.profile(one.name)) for one in first.profiles if other.has(one.name)]
        first = replace(first, profiles=tuple(_smaller(one, another) for one, another in both))
    return first


def with_unknown(model: GpuModel, profile_id: int, start: int, size: int) -> tuple[GpuModel, Profile]:
    """Return a model with a profile for an instance that no listed profile matches, and that profile.

    Plans never use it: it is not a plain profile, and no device offers it. Its compute slices are its share of the
    memory slices, or the most of any profile of at most that size, so that the rest of the GPU is not overestimated.
    """
    name = f"{_compute_of(model, size)}g.{size}slices+profile{profile_id}"
    if model.has(name):
        was = model.profile(name)
        starts = tuple(sorted({*was.starts, start}))
        profile = replace(was, starts=starts, max_instances=len(starts))
    else:
        profile = Profile(name, _compute_of(model, size), size, (start,), 1, gi_profile_id=profile_id)
    rest = (each for each in model.profiles if each.name != name)
    return replace(model, profiles=(*rest, profile)), profile


def _compute_of(model: GpuModel, size: int) -> int:
    share = ceil(size * model.compute_slices / model.memory_slices)
    return max([share, *(each.compute for each in model.profiles if each.memory <= size)])


def _same(known: GpuModel, each: ListedProfile) -> Profile | None:
    """Return the profile that a device lists, by its number; by its name where a user's file has no numbers."""
    numbered = next((p for p in known.profiles if p.nvml_profile == each.number), None)
    if numbered is not None:
        return numbered
    named = known.profile_called(_name(each, known.memory_mib))
    return named if named is not None and named.nvml_profile is None else None


def _another(named: Sequence[GpuModel], taken: GpuModel) -> Iterator[str]:
    if named and taken not in named:
        others = " and ".join(each.name for each in named)
        yield f"NVML gives it the name of {others}, but its memory is that of {taken.name}, which is used"


def _agree(profile: Profile, each: ListedProfile) -> bool:
    if profile.compute != each.slices:
        return False
    if profile.memory_mib is not None:
        return _LEAST * profile.memory_mib <= each.memory_mib <= _MOST * profile.memory_mib
    said = re.search(r"\.(\d+)gb", profile.name)
    return said is None or _LEAST_NOMINAL <= each.memory_mib / (int(said[1]) * 1024) <= _MOST_NOMINAL


def _differences(known: GpuModel, profiles: Iterable[ListedProfile]) -> Iterator[str]:
    for each in profiles:
        profile = _same(known, each)
        if profile is None:
            yield f"the driver has a profile that the catalogue lacks, {_name(each, None)}"
        elif each.starts is not None and (each.starts, each.size) != (profile.starts, profile.memory):
            yield (
                f"the driver places {profile.name} at {each.starts}, the catalogue at {profile.starts}: "
                "the driver's are used"
            )
        if profile is not None and profile.memory_mib is not None and each.memory_mib < profile.memory_mib:
            yield (
                f"the driver gives {profile.name} {each.memory_mib} MiB, the catalogue {profile.memory_mib}: "
                "the smaller is used"
            )


def _model(
    name: str, title: str, pci: str | None, profiles: Sequence[ListedProfile], total: int | None
) -> GpuModel:
    made: dict[str, Profile] = {}
    for each in sorted(profiles, key=lambda each: (each.slices, each.size or 0, each.number)):
        called = _name(each, total)
        if called in made:  # two profiles of one size with the same name
            called = f"{called}+profile{each.id}"
        made[called] = _profile(each, called)
    found = tuple(made.values())
    return GpuModel(
        name=name,
        title=title,
        architecture="unknown",
        compute_slices=max(each.compute for each in found),
        memory_slices=max(each.starts[-1] + each.memory for each in found),
        profiles=found,
        aliases=(title,),
        memory_mib=total,
        sources=("NVML",),
        pci=(pci,) if pci else (),
        origin="NVML",
    )


def _profile(each: ListedProfile, name: str) -> Profile:
    return Profile(
        name=name,
        compute=each.slices,
        memory=each.size or 1,
        starts=each.starts or (0,),
        max_instances=each.count,
        media=each.number in _MEDIA,
        memory_mib=each.memory_mib,
        sms=each.sms or None,
        gi_profile_id=each.id,
        nvml_profile=each.number,
        copy_engines=each.copy_engines,
    )


def _name(each: ListedProfile, total: int | None) -> str:
    return (
        each.name or f"{each.slices}g.{_gigabytes(each.memory_mib, total)}gb{_SUFFIXES.get(each.number, '')}"
    )


def _gigabytes(memory_mib: int, total_mib: int | None) -> int:
    """Return the gigabytes in a profile's name: the eighths of the GPU's memory that it needs, rounded.

    As NVIDIA's own tools name profiles (github.com/NVIDIA/go-nvlib, pkg/nvlib/device/mig_profile.go).
    """
    if not total_mib:
        return ceil(memory_mib / 1024)
    return round(ceil(8 * memory_mib / total_mib) / 8 * ceil(total_mib / 1024))


def _own_name(title: str, profiles: Sequence[ListedProfile]) -> str:
    """Return a name like the catalogue's: `h20-96gb` for `NVIDIA H20` whose largest profile is a 7g.96gb."""
    words = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-").removeprefix("nvidia-") or "gpu"
    if re.search(r"\d+gb?(-|$)", words):
        return words
    largest = max(profiles, key=lambda each: each.memory_mib)
    said = re.search(r"\.(\d+)gb", largest.name or "")
    return f"{words}-{int(said[1]) if said else ceil(largest.memory_mib / 1024)}gb"


def _pci(device: object) -> str | None:
    try:
        return f"{nvml.nvmlDeviceGetPciInfo(device).pciDeviceId >> 16:04X}"
    except nvml.NVMLError:
        return None


def _total_mib(device: object) -> int | None:
    try:
        return int(nvml.nvmlDeviceGetMemoryInfo(device).total // MIB)
    except nvml.NVMLError:  # an unprivileged user in MIG mode may not ask
        return None


def _smaller(one: Profile, other: Profile) -> Profile:
    known = [each for each in (one.memory_mib, other.memory_mib) if each is not None]
    starts = tuple(each for each in one.starts if each in other.starts) or one.starts
    return replace(one, starts=starts, memory_mib=min(known, default=None))


def offers(model: GpuModel, profiles: Collection[ListedProfile]) -> tuple[OfferedProfile, ...]:
    """Return the profiles that a device lists, under the names of its model."""
    by_number = {each.nvml_profile: each for each in model.profiles if each.nvml_profile is not None}
    return tuple(
        OfferedProfile(by_number[each.number], each.id, each.count, each.memory_mib, each.starts, each.size)
        for each in profiles
        if each.number in by_number
    )
