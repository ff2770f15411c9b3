# ruff: noqa: N802 -- the entry points keep their own names
"""A simulated NVML in place of the library that nvidia-ml-py loads.

Same entry points, ctypes structures, error codes and rules as `libnvidia-ml.so`, so that the binding itself is
exercised: arguments arrive as ctypes values, results leave through references, errors as return codes. A
process of this host is on a MIG device if its `CUDA_VISIBLE_DEVICES` names it.

It is as unkind as the real one, by itself or where a test asks for it:
- MIG UUIDs come again with the ids they are made of (all that public listings show are of version 5, as MIG-a65afc88-
  50b5-5ccf-b0a8-f93b3247ae9e in github.com/NVIDIA/go-dcgm issue 30);
- what was destroyed is shown as a MIG device still, with its old ids (github.com/NVIDIA/libcudacxx issue 224);
- all handles of a GPU go stale when its MIG mode changes (nvml.h, nvmlDeviceSetMigMode);
- MIG mode cannot be turned on while anything runs on the GPU (nvml.h, the same);
- a destroy may be called a success and leave the GPU instance (`remnants`, github.com/NVIDIA/go-nvml issue 146);
- an instance may be in use by nobody that NVML lists (`held`, github.com/NVIDIA/DCGM issue 276);
- `...RemainingCapacity` counts compute slices alone (github.com/NVIDIA/dgx-spark-playbooks, MIG on DGX Station);
- a driver may lack entry points (`missing`) and have profiles that the binding does not name;
- the hardware is what it is, whatever this process takes a name to mean.
"""

from __future__ import annotations

import ctypes
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pynvml as nvml

from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement, fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.mig.gpu import GpuModel, Profile

LIBRARY_PROFILES = 20
"""Profiles that this driver knows: more than nvidia-ml-py 13.615 has names for."""

CI_SLICES = {0: 1, 1: 2, 2: 3, 3: 4, 4: 7}
"""Compute slices by NVML_COMPUTE_INSTANCE_PROFILE_*, whose value is also the profile id on these GPUs."""


class CodeError(Exception):
    """Ends an entry point with a return code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class Compute:
    """A compute instance; `dead` once it is destroyed, and shown all the same until another takes its place."""

    gpu: Card
    gi: Cut
    id: int
    slices: int
    uuid: str
    address: int
    dead: bool = False


@dataclass
class Cut:
    """A GPU instance."""

    gpu: Card
    id: int
    placement: Placement
    address: int
    compute: dict[int, Compute] = field(default_factory=dict)


@dataclass
class Card:
    """A GPU.

    Attributes:
        foreign_pids: of processes on a GPU instance that are not on this host's list.
        lingering: how many times more a destroy says "in use", though nothing runs.
        remnants: how many times more a GPU instance that is destroyed stays.
        held: whether something that NVML does not list has all instances open.
        silent: how many calls more that concern it end with "unknown error".
        needs_reset: whether turning MIG on needs a reset, as on Ampere.
        shown: MIG devices by index; gaps and the dead among them.
        hidden: profiles by name that its driver has and lists under no number that it tells.
    """

    hardware: GpuModel
    name: str
    uuid: str
    address: int
    mig: bool = True
    pending: bool = True
    lost: bool = False
    mig_capable: bool = True
    needs_reset: bool = True
    lingering: int = 0
    remnants: int = 0
    held: bool = False
    silent: int = 0
    shown: dict[int, Compute] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    cuts: dict[int, Cut] = field(default_factory=dict)
    foreign_pids: dict[int, set[int]] = field(default_factory=dict)

    @property
    def placements(self) -> list[Placement]:
        return [cut.placement for cut in self.cuts.values()]


class FakeNvml:
    """What stands in for the loaded library.

    Attributes:
        calls: entry points in the order they were called.
        failing: return codes by entry point, each used once.
        permission: whether this user may cut GPUs.
        missing: entry points that this driver lacks.
        elsewhere: starts of profiles, by name, where this driver differs from the catalogue.
    """

    def __init__(self, *models: str | GpuModel, mig: bool = True, permission: bool = True) -> None:
        self._next = count(0x1000)
        self._by_address: dict[int, Any] = {}
        self.calls: list[str] = []
        self.failing: dict[str, list[int]] = {}
        self.permission = permission
        self.missing: set[str] = set()
        self.elsewhere: dict[str, tuple[int, ...]] = {}
        self.cards = [self._card(model, mig=mig) for model in models]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        inner = getattr(type(self), "_" + name, None) if name.startswith("nvml") else None
        if inner is None or name in self.missing:
            raise AttributeError(name)

        def entry(*arguments: object) -> Any:
            self.calls.append(name)
            if self.failing.get(name):
                return self.failing[name].pop(0)
            try:
                result = inner(self, *arguments)
            except CodeError as error:
                return error.code
            return nvml.NVML_SUCCESS if result is None else result

        return entry

    # What tests do to the hardware.

    def foreign(self, card: int, at: str) -> Cut:
        """Have someone else make an instance."""
        cut = self._make_cut(self.cards[card], Placement.parse(at))
        self._make_compute(cut, _profile_of(cut).compute)
        return cut

    def reset(self, card: int) -> None:
        """Reset a GPU, as a reboot does: its MIG mode is what was pending, its instances are no more."""
        one = self.cards[card]
        one.mig = one.pending
        one.cuts.clear()
        one.shown.clear()
        self._move(one)

    def _card(self, model: str | GpuModel, *, mig: bool) -> Card:
        hardware = gpu_model(model) if isinstance(model, str) else model
        name = hardware.aliases[0] if hardware.aliases else hardware.title
        card = Card(hardware, name, f"GPU-{uuid.uuid4()}", next(self._next), mig=mig, pending=mig)
        self._by_address[card.address] = card
        return card

    def _move(self, card: Card) -> None:
        """Give a GPU another handle; whoever kept the old one has an invalid argument."""
        del self._by_address[card.address]
        card.address = next(self._next)
        self._by_address[card.address] = card

    def _make_cut(self, card: Card, placement: Placement) -> Cut:
        model = card.hardware
        if fault(model, [*card.placements, placement]):
            raise CodeError(nvml.NVML_ERROR_INSUFFICIENT_RESOURCES)
        parts = model.memory_slices // model.profile(placement.profile).memory
        free = next(i for i in range(parts - 1, 2 * parts) if i not in card.cuts)
        cut = card.cuts[free] = Cut(card, free, placement, next(self._next))
        self._by_address[cut.address] = cut
        return cut

    def _make_compute(self, cut: Cut, slices: int) -> Compute:
        if sum(each.slices for each in cut.compute.values()) + slices > _compute_slices(cut):
            raise CodeError(nvml.NVML_ERROR_INSUFFICIENT_RESOURCES)
        free = next(i for i in count() if i not in cut.compute)
        # Made of the ids: a version 5 UUID, as those that nvidia-smi prints are, so it comes again with them.
        mig_uuid = uuid.uuid5(uuid.UUID(cut.gpu.uuid.removeprefix("GPU-")), f"{cut.id}/{free}")
        made = Compute(cut.gpu, cut, free, slices, f"MIG-{mig_uuid}", next(self._next))
        cut.compute[free] = self._by_address[made.address] = made
        # Filled from the far end, so that nobody stops looking at the first gap. The dead go when room runs out.
        places = range(cut.gpu.hardware.compute_slices - 1, -1, -1)
        dead = [i for i in places if i in cut.gpu.shown and cut.gpu.shown[i].dead]
        cut.gpu.shown[next((i for i in places if i not in cut.gpu.shown), dead[0] if dead else 0)] = made
        return made

    # Handles: opaque addresses.

    def _get(self, handle: Any, kind: type[Any]) -> Any:
        address = ctypes.cast(handle, ctypes.c_void_p).value
        found = self._by_address.get(address or 0)
        if not isinstance(found, kind):
            raise CodeError(nvml.NVML_ERROR_INVALID_ARGUMENT)
        card = found if isinstance(found, Card) else found.gpu
        _require_answer(card)
        return found

    def _in_mig_mode(self, handle: Any) -> Card:
        card: Card = self._get(handle, Card)
        if not (card.mig and card.mig_capable):
            raise CodeError(nvml.NVML_ERROR_NOT_SUPPORTED)
        return card

    def _require_permission(self) -> None:
        if not self.permission:
            raise CodeError(nvml.NVML_ERROR_NO_PERMISSION)

    def _compute_of(self, handle: Any) -> Compute:
        found: Compute = self._get(handle, Compute)
        return found

    # Entry points: the library and its devices.

    def _nvmlInitWithFlags(self, flags: int) -> None:
        assert flags == 0

    def _nvmlShutdown(self) -> None:
        pass

    def _nvmlErrorString(self, code: int) -> bytes:
        return {nvml.NVML_ERROR_IN_USE: b"In use by another client"}.get(code, b"Unknown Error")

    def _nvmlSystemGetDriverVersion(self, buffer: Any, size: ctypes.c_uint) -> None:
        _write(buffer, size, "550.54.15")

    def _nvmlDeviceGetCount_v2(self, result: Any) -> None:
        result._obj.value = len(self.cards)

    def _nvmlDeviceGetHandleByIndex_v2(self, index: ctypes.c_uint, result: Any) -> None:
        if index.value >= len(self.cards):
            raise CodeError(nvml.NVML_ERROR_INVALID_ARGUMENT)
        _require_answer(self.cards[index.value])
        _point(result, self.cards[index.value].address)

    def _nvmlDeviceGetHandleByUUID(self, text: ctypes.c_char_p, result: Any) -> None:
        wanted = (text.value or b"").decode()
        live = [each for card in self.cards for cut in card.cuts.values() for each in cut.compute.values()]
        there: list[Card | Compute] = [*self.cards, *live]
        found = next((each for each in there if each.uuid == wanted), None)
        if found is None:
            raise CodeError(nvml.NVML_ERROR_NOT_FOUND)
        _require_answer(found if isinstance(found, Card) else found.gpu)
        _point(result, found.address)

    def _nvmlDeviceGetName(self, device: Any, buffer: Any, size: ctypes.c_uint) -> None:
        _write(buffer, size, self._get(device, Card).name)

    def _nvmlDeviceGetUUID(self, device: Any, buffer: Any, size: ctypes.c_uint) -> None:
        _write(buffer, size, self._get(device, (Card, Compute)).uuid)  # type: ignore[arg-type]

    def _nvmlDeviceGetMigMode(self, device: Any, current: Any, pending: Any) -> None:
        card = self._get(device, Card)
        if not card.mig_capable:
            raise CodeError(nvml.NVML_ERROR_NOT_SUPPORTED)
        current._obj.value, pending._obj.value = card.mig, card.pending

    def _nvmlDeviceSetMigMode(self, device: Any, mode: int, status: Any) -> None:
        card = self._get(device, Card)
        self._require_permission()
        if card.held or any(self._pids(cut) for cut in card.cuts.values()):
            status._obj.value = nvml.NVML_ERROR_IN_USE
            return
        card.pending = bool(mode)
        if not card.needs_reset and card.mig != card.pending:
            card.mig = card.pending
            self._move(card)
        status._obj.value = nvml.NVML_SUCCESS if card.mig == card.pending else nvml.NVML_ERROR_RESET_REQUIRED

    def _nvmlDeviceGetMemoryInfo(self, device: Any, result: Any) -> None:
        result._obj.total = (self._get(device, Card).hardware.memory_mib or 0) * 1024 * 1024

    def _nvmlDeviceGetPciInfo_v3(self, device: Any, result: Any) -> None:
        numbers = self._get(device, Card).hardware.pci
        result._obj.pciDeviceId = int(numbers[0] if numbers else "FFFF", 16) << 16 | 0x10DE

    def _nvmlDeviceGetMinorNumber(self, device: Any, result: Any) -> None:
        result._obj.value = self.cards.index(self._get(device, Card))

    def _nvmlDeviceGetPowerUsage(self, device: Any, result: Any) -> None:
        self._get(device, Card)
        result._obj.value = 62_000

    def _nvmlDeviceGetEnforcedPowerLimit(self, device: Any, result: Any) -> None:
        result._obj.value = int((self._get(device, Card).hardware.power_limit_w or 300) * 1000)

    # Entry points: GPU instances. Information goes by the enumeration, the rest by the profile id found there.

    def _nvmlDeviceGetGpuInstanceProfileInfo(self, device: Any, profile: int, result: Any) -> None:
        card = self._get(device, Card)
        if profile >= LIBRARY_PROFILES:
            raise CodeError(nvml.NVML_ERROR_INVALID_ARGUMENT)
        shown = (p for p in card.hardware.profiles if p.name not in card.hidden)
        found = next((p for p in shown if p.nvml_profile == profile), None)
        if found is None or not card.mig_capable:
            raise CodeError(nvml.NVML_ERROR_NOT_SUPPORTED)
        info = result._obj
        info.id, info.sliceCount, info.instanceCount = found.gi_profile_id, found.compute, found.max_instances
        info.memorySizeMB, info.multiprocessorCount = _memory_mib(found), found.sms or 0
        info.copyEngineCount = found.compute

    def _nvmlDeviceGetGpuInstanceProfileInfoV(self, device: Any, profile: int, result: Any) -> None:
        self._in_mig_mode(device)
        if result._obj.version != nvml.nvmlGpuInstanceProfileInfo_v2:
            raise CodeError(nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH)
        self._nvmlDeviceGetGpuInstanceProfileInfo(device, profile, result)
        found = next(p for p in self._get(device, Card).hardware.profiles if p.nvml_profile == profile)
        result._obj.name = f"MIG {found.name}".encode()

    def _nvmlDeviceGetGpuInstanceRemainingCapacity(self, device: Any, profile_id: int, result: Any) -> None:
        card = self._in_mig_mode(device)
        used = sum(_profile_of(cut).compute for cut in card.cuts.values())
        result._obj.value = (card.hardware.compute_slices - used) // _profile(card, profile_id).compute

    def _nvmlDeviceGetGpuInstancePossiblePlacements_v2(
        self, device: Any, profile_id: int, array: Any, result: Any
    ) -> None:
        profile = _profile(self._in_mig_mode(device), profile_id)
        self._require_permission()
        starts = self.elsewhere.get(profile.name, profile.starts)
        if array is not None:
            if len(array) < len(starts):
                raise CodeError(nvml.NVML_ERROR_INSUFFICIENT_SIZE)
            for index, start in enumerate(starts):
                array[index].start, array[index].size = start, profile.memory
        result._obj.value = len(starts)

    def _nvmlDeviceCreateGpuInstanceWithPlacement(
        self, device: Any, profile_id: int, placement: Any, result: Any
    ) -> None:
        card = self._in_mig_mode(device)
        self._require_permission()
        profile = _profile(card, profile_id)
        asked = placement._obj
        if asked.start not in profile.starts or asked.size != profile.memory:
            raise CodeError(nvml.NVML_ERROR_INVALID_ARGUMENT)
        _point(result, self._make_cut(card, Placement(asked.start, profile.name)).address)

    def _nvmlGpuInstanceDestroy(self, handle: Any) -> None:
        cut = self._get(handle, Cut)
        self._require_permission()
        if cut.compute or self._busy(cut):
            raise CodeError(nvml.NVML_ERROR_IN_USE)
        if cut.gpu.remnants:
            cut.gpu.remnants -= 1
            return
        del cut.gpu.cuts[cut.id], self._by_address[cut.address]

    def _nvmlDeviceGetGpuInstances(self, device: Any, profile_id: int, array: Any, result: Any) -> None:
        card = self._in_mig_mode(device)
        self._require_permission()  # looking at instances is for the privileged, too
        profile = _profile(card, profile_id)
        found = [cut for cut in card.cuts.values() if cut.placement.profile == profile.name]
        if len(array) < profile.max_instances:
            raise CodeError(nvml.NVML_ERROR_INSUFFICIENT_SIZE)
        for index, cut in enumerate(found):
            array[index] = ctypes.cast(cut.address, nvml.c_nvmlGpuInstance_t)
        result._obj.value = len(found)

    def _nvmlDeviceGetGpuInstanceById(self, device: Any, gi_id: int, result: Any) -> None:
        card = self._in_mig_mode(device)
        self._require_permission()
        if gi_id not in card.cuts:
            raise CodeError(nvml.NVML_ERROR_NOT_FOUND)
        _point(result, card.cuts[gi_id].address)

    def _nvmlGpuInstanceGetInfo(self, handle: Any, result: Any) -> None:
        cut = self._get(handle, Cut)
        profile = _profile_of(cut)
        info = result._obj
        info.id, info.profileId = cut.id, profile.gi_profile_id
        info.placement.start, info.placement.size = cut.placement.start, profile.memory

    # Entry points: compute instances.

    def _nvmlGpuInstanceGetComputeInstanceProfileInfo(
        self, handle: Any, profile: int, engine: int, result: Any
    ) -> None:
        cut = self._get(handle, Cut)
        assert engine == nvml.NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED
        slices = CI_SLICES.get(profile, 99)
        if slices > _compute_slices(cut):
            raise CodeError(nvml.NVML_ERROR_NOT_SUPPORTED)
        info = result._obj
        info.id, info.sliceCount, info.instanceCount = profile, slices, _compute_slices(cut) // slices

    def _nvmlGpuInstanceCreateComputeInstance(self, handle: Any, profile_id: int, result: Any) -> None:
        cut = self._get(handle, Cut)
        self._require_permission()
        _point(result, self._make_compute(cut, CI_SLICES[profile_id]).address)

    def _nvmlComputeInstanceDestroy(self, handle: Any) -> None:
        compute = self._compute_of(handle)
        self._require_permission()
        if self._busy(compute.gi):
            raise CodeError(nvml.NVML_ERROR_IN_USE)
        del compute.gi.compute[compute.id]
        compute.dead = True  # its handle answers on, as one who kept it finds

    def _nvmlGpuInstanceGetComputeInstances(
        self, handle: Any, profile_id: int, array: Any, result: Any
    ) -> None:
        cut = self._get(handle, Cut)
        self._require_permission()
        found = [each for each in cut.compute.values() if each.slices == CI_SLICES[profile_id]]
        for index, each in enumerate(found):
            array[index] = ctypes.cast(each.address, nvml.c_nvmlComputeInstance_t)
        result._obj.value = len(found)

    def _nvmlComputeInstanceGetInfo_v2(self, handle: Any, result: Any) -> None:
        compute = self._compute_of(handle)
        result._obj.id = compute.id
        result._obj.profileId = next(i for i, slices in CI_SLICES.items() if slices == compute.slices)

    # Entry points: MIG devices and processes.

    def _nvmlDeviceGetMaxMigDeviceCount(self, device: Any, result: Any) -> None:
        card = self._get(device, Card)
        result._obj.value = card.hardware.compute_slices

    def _nvmlDeviceGetMigDeviceHandleByIndex(self, device: Any, index: ctypes.c_uint, result: Any) -> None:
        card = self._in_mig_mode(device)
        if index.value not in card.shown:
            raise CodeError(nvml.NVML_ERROR_NOT_FOUND)
        _point(result, card.shown[index.value].address)

    def _nvmlDeviceGetGpuInstanceId(self, device: Any, result: Any) -> None:
        result._obj.value = self._compute_of(device).gi.id

    def _nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, device: Any, result: Any) -> None:
        _point(result, self._compute_of(device).gpu.address)

    def _nvmlDeviceGetComputeInstanceId(self, device: Any, result: Any) -> None:
        result._obj.value = self._compute_of(device).id

    def _nvmlDeviceGetComputeRunningProcesses_v3(self, device: Any, result: Any, array: Any) -> None:
        card = self._get(device, Card)
        self._require_permission()
        found = [(pid, cut.id) for cut in card.cuts.values() for pid in self._pids(cut)]
        if array is None or len(array) < len(found):
            result._obj.value = len(found)
            raise CodeError(nvml.NVML_ERROR_INSUFFICIENT_SIZE if found else nvml.NVML_SUCCESS)
        for index, (pid, gi_id) in enumerate(found):
            array[index].pid, array[index].gpuInstanceId = pid, gi_id
        result._obj.value = len(found)

    def _nvmlDeviceGetComputeRunningProcesses_v2(self, device: Any, result: Any, array: Any) -> None:
        self._nvmlDeviceGetComputeRunningProcesses_v3(device, result, array)

    def _busy(self, cut: Cut) -> bool:
        if cut.gpu.held or self._pids(cut):
            return True
        if cut.gpu.lingering:
            cut.gpu.lingering -= 1
            return True
        return False

    def _pids(self, cut: Cut) -> set[int]:
        wanted = {f"CUDA_VISIBLE_DEVICES={each.uuid}".encode() for each in cut.compute.values()}
        found = set(cut.gpu.foreign_pids.get(cut.id, set()))
        for folder in Path("/proc").iterdir() if wanted else ():
            if folder.name.isdecimal():
                with suppress(OSError):
                    if wanted & set((folder / "environ").read_bytes().split(b"\0")):
                        found.add(int(folder.name))
        return found


def _require_answer(card: Card) -> None:
    if card.lost:
        raise CodeError(nvml.NVML_ERROR_GPU_IS_LOST)
    if card.silent:
        card.silent -= 1
        raise CodeError(nvml.NVML_ERROR_UNKNOWN)


def _compute_slices(cut: Cut) -> int:
    return _profile_of(cut).compute


def _profile_of(cut: Cut) -> Profile:
    return cut.gpu.hardware.profile(cut.placement.profile)


def _memory_mib(profile: Profile) -> int:
    """Return what a driver says, or a likely figure where no source does: 95 % of what the name says."""
    said = profile.name.split(".")[1].split("gb")[0]
    return profile.memory_mib or int(0.95 * 1024 * int(said))


def _profile(card: Card, profile_id: int) -> Profile:
    found = next((p for p in card.hardware.profiles if p.gi_profile_id == profile_id), None)
    if found is None or found.name in card.hidden:
        raise CodeError(nvml.NVML_ERROR_NOT_SUPPORTED)
    return found


def _point(result: Any, address: int) -> None:
    ctypes.memmove(result, ctypes.byref(ctypes.c_void_p(address)), ctypes.sizeof(ctypes.c_void_p))


def _write(buffer: Any, size: ctypes.c_uint, text: str) -> None:
    if size.value < len(text) + 1:
        raise CodeError(nvml.NVML_ERROR_INSUFFICIENT_SIZE)
    buffer.value = text.encode()
