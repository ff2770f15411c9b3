"""GPU instances and compute instances of one device, in NVML's own terms made plain.

Traps that the binding leaves to its callers: profile *information* is asked for by an enumeration, everything
else by the profile id found in it; lists and counts are passed by reference; a placement's size is in memory
slices; version 2 of the profile information is refused while MIG is off, so version 1 is used throughout.
"""

from __future__ import annotations

from contextlib import suppress
from ctypes import byref, c_uint
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pynvml as nvml

from partita.drive.port import Identity
from partita.mig.layout import Placement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from partita.mig.gpu import GpuModel, Profile


@dataclass(frozen=True, slots=True)
class Offer:
    """A profile that a device offers.

    Attributes:
        profile: the catalogue's.
        id: the number by which this device knows it.
        count: most instances.
        memory_mib: memory of one instance in MiB.
        starts: memory slices at which it may start; None where the device does not say while MIG is off.
        size: memory slices of one instance; None likewise.
    """

    profile: Profile
    id: int
    count: int
    memory_mib: int
    starts: tuple[int, ...] | None
    size: int | None


@dataclass(frozen=True, slots=True)
class Found:
    """An instance on a device; `identity.ci_id` is the lowest if it has several compute instances."""

    placement: Placement
    identity: Identity
    compute_instances: int


def offers(device: object, model: GpuModel) -> tuple[Offer, ...]:
    """Return the profiles of the catalogue that this device offers too."""
    found = []
    for profile in model.profiles:
        if profile.nvml_profile is None:
            continue
        try:
            info = nvml.nvmlDeviceGetGpuInstanceProfileInfo(device, profile.nvml_profile, version=1)
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_InvalidArgument):
            continue
        starts, size = _placements(device, info.id)
        found.append(Offer(profile, info.id, info.instanceCount, info.memorySizeMB, starts, size))
    return tuple(found)


def instances(device: object, known: tuple[Offer, ...]) -> tuple[Found, ...]:
    """Return all instances of a device in MIG mode, whoever made them, by start."""
    gpu_uuid = nvml.nvmlDeviceGetUUID(device)
    uuids = _mig_uuids(device)
    found = []
    for offer in known:
        for handle in _gpu_instances(device, offer):
            info = nvml.nvmlGpuInstanceGetInfo(handle)
            ids = sorted(nvml.nvmlComputeInstanceGetInfo(each).id for each in _compute_instances(handle))
            ci_id = ids[0] if ids else None
            identity = Identity(
                gpu_uuid, info.id, ci_id, None if ci_id is None else uuids.get((info.id, ci_id))
            )
            found.append(Found(Placement(info.placement.start, offer.profile.name), identity, len(ids)))
    return tuple(sorted(found, key=lambda each: each.placement))


def create_gpu_instance(device: object, offer: Offer, start: int) -> int:
    """Create a GPU instance at exactly this start; return its id."""
    placement = nvml.c_nvmlGpuInstancePlacement_t(start=start, size=offer.size or offer.profile.memory)
    handle = nvml.nvmlDeviceCreateGpuInstanceWithPlacement(device, offer.id, byref(placement))
    return int(nvml.nvmlGpuInstanceGetInfo(handle).id)


def create_compute_instance(device: object, gi_id: int, slices: int) -> tuple[int, str | None]:
    """Create the compute instance that takes a whole GPU instance; return its id and MIG UUID."""
    gpu_instance = nvml.nvmlDeviceGetGpuInstanceById(device, gi_id)
    handle = nvml.nvmlGpuInstanceCreateComputeInstance(gpu_instance, _whole(gpu_instance, slices))
    ci_id = int(nvml.nvmlComputeInstanceGetInfo(handle).id)
    return ci_id, _mig_uuids(device).get((gi_id, ci_id))


def destroy_compute_instances(device: object, gi_id: int) -> None:
    """Destroy the compute instances of a GPU instance, which must go before it."""
    for handle in _compute_instances(nvml.nvmlDeviceGetGpuInstanceById(device, gi_id)):
        nvml.nvmlComputeInstanceDestroy(handle)


def destroy_gpu_instance(device: object, gi_id: int) -> None:
    """Destroy a GPU instance without compute instances."""
    nvml.nvmlGpuInstanceDestroy(nvml.nvmlDeviceGetGpuInstanceById(device, gi_id))


def processes(device: object) -> dict[int, set[int]]:
    """Return the processes of the host by the GPU instance they run on; none where rights do not let us see."""
    found: dict[int, set[int]] = {}
    with suppress(nvml.NVMLError_NoPermission, nvml.NVMLError_NotSupported):
        for each in nvml.nvmlDeviceGetComputeRunningProcesses(device):
            found.setdefault(each.gpuInstanceId, set()).add(each.pid)
    return found


def _placements(device: object, profile_id: int) -> tuple[tuple[int, ...] | None, int | None]:
    count = c_uint(0)
    try:
        nvml.nvmlDeviceGetGpuInstancePossiblePlacements(device, profile_id, None, byref(count))
        array = (nvml.c_nvmlGpuInstancePlacement_t * count.value)()
        nvml.nvmlDeviceGetGpuInstancePossiblePlacements(device, profile_id, array, byref(count))
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_InvalidArgument):
        return None, None
    listed = array[: count.value]
    return tuple(sorted(each.start for each in listed)), listed[0].size if listed else None


def _gpu_instances(device: object, offer: Offer) -> Iterator[Any]:
    array, count = (nvml.c_nvmlGpuInstance_t * offer.count)(), c_uint(offer.count)
    nvml.nvmlDeviceGetGpuInstances(device, offer.id, array, byref(count))
    yield from array[: count.value]


def _compute_instances(gpu_instance: object) -> Iterator[Any]:
    for info in _compute_profiles(gpu_instance):
        array, count = (nvml.c_nvmlComputeInstance_t * info.instanceCount)(), c_uint(info.instanceCount)
        nvml.nvmlGpuInstanceGetComputeInstances(gpu_instance, info.id, array, byref(count))
        yield from array[: count.value]


def _compute_profiles(gpu_instance: object) -> Iterator[Any]:
    shared = nvml.NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED
    for profile in range(nvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT):
        with suppress(nvml.NVMLError_NotSupported, nvml.NVMLError_InvalidArgument):
            yield nvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(gpu_instance, profile, shared, version=1)


def _whole(gpu_instance: object, slices: int) -> int:
    for info in _compute_profiles(gpu_instance):
        if info.sliceCount == slices:
            return int(info.id)
    raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)


def _mig_uuids(device: object) -> dict[tuple[int, int], str]:
    found = {}
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(device)):
        try:
            handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, index)
        except nvml.NVMLError_NotFound:
            continue  # MIG devices leave gaps when one between goes
        key = nvml.nvmlDeviceGetGpuInstanceId(handle), nvml.nvmlDeviceGetComputeInstanceId(handle)
        found[key] = nvml.nvmlDeviceGetUUID(handle)
    return found
