"""GPU instances and compute instances of one device through NVML, and NVML's errors as `DriveError`s.

The binding has traps: profile *information* is asked for by an enumeration, everything else by the profile id found
in it; lists and counts are passed by reference; a placement's size is in memory slices. Neither
`nvmlDeviceGetGpuInstanceRemainingCapacity` nor `nvidia-smi mig -lgip`'s column of free instances says what can be
created: both count compute slices and overestimate what fits (github.com/NVIDIA/dgx-spark-playbooks, MIG on DGX
Station). So every instance is created at a placement that we choose.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from ctypes import byref, c_uint
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pynvml as nvml

from partita.drive.driver import (
    DriveError,
    FailedError,
    GpuLostError,
    Identity,
    InUseError,
    NoRoomError,
    RefusedError,
    TimedOutError,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from partita.mig.gpu import Profile


_OLD_DRIVER = "the driver and nvidia-ml-py do not match: update the older one; see `partita doctor`"
_KINDS: dict[int, tuple[type[DriveError], str | None]] = {
    nvml.NVML_ERROR_IN_USE: (InUseError, None),
    # An instance that does not fit is "insufficient resources". An invalid argument is something else: a stale
    # handle, or a call that this driver does not take (nvml.h, nvmlDeviceCreateGpuInstanceWithPlacement).
    nvml.NVML_ERROR_INSUFFICIENT_RESOURCES: (NoRoomError, None),
    nvml.NVML_ERROR_INVALID_ARGUMENT: (FailedError, "if it lasts, report it with `partita doctor -o json`"),
    nvml.NVML_ERROR_GPU_IS_LOST: (
        GpuLostError,
        "look for Xid errors with `dmesg | grep -i xid` (79: it fell off the bus); reset or reboot",
    ),
    # Of an instance, a compute instance or a MIG device: it was destroyed between two calls. Calls that ask for a
    # whole GPU by its UUID pass `of_gpu`.
    nvml.NVML_ERROR_NOT_FOUND: (FailedError, None),
    nvml.NVML_ERROR_RESET_REQUIRED: (
        GpuLostError,
        "reset it while nothing runs on it: `nvidia-smi --gpu-reset`; if a VM cannot, reboot",
    ),
    nvml.NVML_ERROR_NO_PERMISSION: (
        RefusedError,
        "cutting GPUs needs root, or read access to the MIG capability; see `partita doctor`",
    ),
    nvml.NVML_ERROR_NOT_SUPPORTED: (RefusedError, "see `partita doctor`"),
    nvml.NVML_ERROR_LIBRARY_NOT_FOUND: (RefusedError, "install NVIDIA's driver; see `partita doctor`"),
    nvml.NVML_ERROR_DRIVER_NOT_LOADED: (RefusedError, "load NVIDIA's driver: `modprobe nvidia`"),
    nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (RefusedError, "the driver was updated: reboot, or reload it"),
    nvml.NVML_ERROR_FUNCTION_NOT_FOUND: (RefusedError, _OLD_DRIVER),
    nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH: (RefusedError, _OLD_DRIVER),
    nvml.NVML_ERROR_DEPRECATED: (RefusedError, _OLD_DRIVER),
    nvml.NVML_ERROR_OPERATING_SYSTEM: (
        RefusedError,
        "the operating system refuses it: see `dmesg`, and check that a container has the GPU's device files",
    ),
    nvml.NVML_ERROR_TIMEOUT: (TimedOutError, None),
}


@contextmanager
def raising_driver_errors(where: str | None = None, *, of_gpu: bool = False) -> Iterator[None]:
    """Raise a `DriveError` for NVML's error, with the place it concerns.

    Args:
        where: the GPU or the placement.
        of_gpu: the calls ask for a whole GPU, so that "not found" means that it is lost.
    """
    try:
        yield
    except nvml.NVMLError as error:
        kind, hint = _KINDS.get(error.value, (FailedError, None))
        if of_gpu and error.value == nvml.NVML_ERROR_NOT_FOUND:
            kind, hint = GpuLostError, "list GPUs with `nvidia-smi -L`"
        raise kind(f"NVML: {error}", where=where, hint=hint) from error


# Ids of GPU instances on seven-slice GPUs are 0 to 14; their largest is documented nowhere.
_INSTANCE_IDS = range(32)


@dataclass(frozen=True, slots=True)
class OfferedProfile:
    """A profile that a device offers, under its name in the device's model."""

    profile: Profile
    id: int
    count: int
    memory_mib: int
    starts: tuple[int, ...] | None
    size: int | None


@dataclass(frozen=True, slots=True)
class GpuInstance:
    """An instance on a device.

    Attributes:
        profile_id: id of its profile, which the device may not list.
        start: first memory slice.
        size: memory slices.
        identity: its `ci_id` is the lowest of several compute instances.
        compute_instances: how many compute instances it has.
    """

    profile_id: int
    start: int
    size: int
    identity: Identity
    compute_instances: int


def list_instances(
    device: object, known: Collection[OfferedProfile], gone: Collection[str] = ()
) -> tuple[GpuInstance, ...]:
    """Return all instances of a device in MIG mode, of any owner and profile, by start.

    Args:
        device: NVML's handle.
        known: the profiles that it offers.
        gone: MIG UUIDs of destroyed instances, which NVML may still show.
    """
    gpu_uuid = nvml.nvmlDeviceGetUUID(device)
    computes = {}
    infos = {}
    for handle in _gpu_instances(device, known):
        info = nvml.nvmlGpuInstanceGetInfo(handle)
        infos[info.id] = info
        computes[info.id] = sorted(
            nvml.nvmlComputeInstanceGetInfo(each).id for each in _compute_instances(handle)
        )
    uuids = _mig_uuids(device, {(gi, ci) for gi, ids in computes.items() for ci in ids}, gone)
    found = []
    for gi_id, info in infos.items():
        ci_id = computes[gi_id][0] if computes[gi_id] else None
        mig_uuid = None if ci_id is None else uuids.get((gi_id, ci_id))
        found.append(
            GpuInstance(
                int(info.profileId),
                int(info.placement.start),
                int(info.placement.size),
                Identity(gpu_uuid, int(gi_id), ci_id, mig_uuid),
                len(computes[gi_id]),
            )
        )
    return tuple(sorted(found, key=lambda each: (each.start, each.identity.gi_id)))


def create_gpu_instance(device: object, offer: OfferedProfile, start: int) -> int:
    """Create a GPU instance at exactly this start; return its id."""
    placement = nvml.c_nvmlGpuInstancePlacement_t(start=start, size=offer.size or offer.profile.memory)
    handle = nvml.nvmlDeviceCreateGpuInstanceWithPlacement(device, offer.id, byref(placement))
    return int(nvml.nvmlGpuInstanceGetInfo(handle).id)


def create_compute_instance(
    device: object, gi_id: int, slices: int, gone: Collection[str] = ()
) -> tuple[int, str | None]:
    """Create the compute instance that takes a whole GPU instance; return its id and MIG UUID."""
    gpu_instance = nvml.nvmlDeviceGetGpuInstanceById(device, gi_id)
    handle = nvml.nvmlGpuInstanceCreateComputeInstance(gpu_instance, _whole(gpu_instance, slices))
    ci_id = int(nvml.nvmlComputeInstanceGetInfo(handle).id)
    return ci_id, _mig_uuids(device, {(gi_id, ci_id)}, gone).get((gi_id, ci_id))


def destroy_compute_instances(device: object, gi_id: int) -> None:
    """Destroy the compute instances of a GPU instance, which must go before it; nothing if it is gone already."""
    with suppress(nvml.NVMLError_NotFound):
        found = list(_compute_instances(nvml.nvmlDeviceGetGpuInstanceById(device, gi_id)))
        # In reverse order of creation.
        for handle in reversed(found):
            with suppress(nvml.NVMLError_NotFound):
                nvml.nvmlComputeInstanceDestroy(handle)


def destroy_gpu_instance(device: object, gi_id: int) -> None:
    """Destroy a GPU instance without compute instances; nothing if it is gone already."""
    with suppress(nvml.NVMLError_NotFound):
        nvml.nvmlGpuInstanceDestroy(nvml.nvmlDeviceGetGpuInstanceById(device, gi_id))


def exists(device: object, gi_id: int) -> bool:
    """Return whether a GPU instance exists."""
    try:
        nvml.nvmlDeviceGetGpuInstanceById(device, gi_id)
    except nvml.NVMLError_NotFound:
        return False
    return True


def running_processes(device: object) -> dict[int, set[int]]:
    """Return the host's processes by the GPU instance they run on; none where we have no right to see them.

    Drivers before 510 lack the third version of the call (CUDA 11.6's nvml.h).
    """
    found: dict[int, set[int]] = {}
    with suppress(nvml.NVMLError_NoPermission, nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
        for each in _running(device):
            found.setdefault(each.gpuInstanceId, set()).add(each.pid)
    return found


def _running(device: object) -> Any:  # noqa: ANN401 -- ctypes
    try:
        return nvml.nvmlDeviceGetComputeRunningProcesses(device)
    except nvml.NVMLError_FunctionNotFound:
        return nvml.nvmlDeviceGetComputeRunningProcesses_v2(device)


def _gpu_instances(device: object, known: Collection[OfferedProfile]) -> Iterator[Any]:
    """Yield the GPU instances: those of each listed profile, then those of other profiles.

    NVML lists instances only by profile, so one of a profile that it does not list (created by a newer driver's tool,
    or on a vGPU host) is found only by trying the ids.
    """
    seen = set()
    for offer in known:
        array, count = (nvml.c_nvmlGpuInstance_t * offer.count)(), c_uint(offer.count)
        nvml.nvmlDeviceGetGpuInstances(device, offer.id, array, byref(count))
        for handle in array[: count.value]:
            seen.add(nvml.nvmlGpuInstanceGetInfo(handle).id)
            yield handle
    for gi_id in _INSTANCE_IDS:
        if gi_id not in seen:
            # Some drivers call an impossible id an invalid argument.
            with suppress(nvml.NVMLError_NotFound, nvml.NVMLError_InvalidArgument):
                yield nvml.nvmlDeviceGetGpuInstanceById(device, gi_id)


def _compute_instances(gpu_instance: object) -> Iterator[Any]:
    for info in _compute_profiles(gpu_instance):
        array, count = (nvml.c_nvmlComputeInstance_t * info.instanceCount)(), c_uint(info.instanceCount)
        nvml.nvmlGpuInstanceGetComputeInstances(gpu_instance, info.id, array, byref(count))
        yield from array[: count.value]


def _compute_profiles(gpu_instance: object) -> Iterator[Any]:
    shared = nvml.NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED
    for profile in range(nvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT):
        with suppress(nvml.NVMLError_NotSupported, nvml.NVMLError_InvalidArgument):
            yield _compute_profile(gpu_instance, profile, shared)


def _compute_profile(gpu_instance: object, profile: int, engines: int) -> Any:  # noqa: ANN401 -- ctypes
    try:
        return nvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(gpu_instance, profile, engines, version=1)
    except nvml.NVMLError_FunctionNotFound:  # as with GPU instances, a driver may have only the newer call
        return nvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(gpu_instance, profile, engines, version=2)


def _whole(gpu_instance: object, slices: int) -> int:
    for info in _compute_profiles(gpu_instance):
        if info.sliceCount == slices:
            return int(info.id)
    raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)


def _mig_uuids(
    device: object, there: Collection[tuple[int, int]], gone: Collection[str]
) -> dict[tuple[int, int], str]:
    """Return the MIG UUIDs of existing instances, by ids of GPU instance and compute instance.

    A handle of a MIG device becomes stale with its compute instance, handles are reused, and their properties may
    change (nvml.h, nvmlDeviceGetMigDeviceHandleByIndex). A process that began before a compute instance was destroyed
    is still shown it, with success (github.com/NVIDIA/libcudacxx issue 224). So a MIG device counts only if its ids
    are those of existing instances. If two have the same ids, or one was destroyed by us, only UUIDs that NVML finds
    count; of several of those, the one that we did not destroy.
    """
    shown: dict[tuple[int, int], set[str]] = {}
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(device)):
        # A destroyed MIG device leaves a gap; one destroyed between two calls is an invalid argument.
        with suppress(nvml.NVMLError_NotFound, nvml.NVMLError_InvalidArgument):
            handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, index)
            key = nvml.nvmlDeviceGetGpuInstanceId(handle), nvml.nvmlDeviceGetComputeInstanceId(handle)
            uuid = nvml.nvmlDeviceGetUUID(handle)
            if key in there:
                shown.setdefault(key, set()).add(uuid)
    found = {}
    for key, uuids in shown.items():
        sure = len(uuids) == 1 and not uuids & set(gone)
        live = uuids if sure else {uuid for uuid in uuids if _is(uuid, key)}
        if len(live) > 1:
            live -= set(gone)
        if len(live) == 1:
            found[key] = live.pop()
    return found


def _is(mig_uuid: str, key: tuple[int, int]) -> bool:
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID(mig_uuid)
        return key == (nvml.nvmlDeviceGetGpuInstanceId(handle), nvml.nvmlDeviceGetComputeInstanceId(handle))
    except nvml.NVMLError:
        return False


def used_bytes(mig_uuid: str) -> int | None:
    """Return the bytes in use on an instance; None if it is gone or does not say."""
    try:
        return int(nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByUUID(mig_uuid)).used)
    except nvml.NVMLError:
        return None
