"""NVML's error codes as the port's errors."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pynvml as nvml

from partita.drive.port import (
    DriveError,
    FailedError,
    GpuLostError,
    InUseError,
    NoRoomError,
    RefusedError,
    TimedOutError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_OLD_DRIVER = "the driver and nvidia-ml-py do not go together: update the older; see `partita doctor`"
_KINDS: dict[int, tuple[type[DriveError], str | None]] = {
    nvml.NVML_ERROR_IN_USE: (InUseError, None),
    # What has no place is "insufficient resources". An invalid argument is not: a handle that went stale under us, or
    # a call that this driver does not take (nvml.h, nvmlDeviceCreateGpuInstanceWithPlacement).
    nvml.NVML_ERROR_INSUFFICIENT_RESOURCES: (NoRoomError, None),
    nvml.NVML_ERROR_INVALID_ARGUMENT: (FailedError, "if it lasts, report it with `partita doctor -o json`"),
    nvml.NVML_ERROR_GPU_IS_LOST: (
        GpuLostError,
        "look for Xid errors with `dmesg | grep -i xid` (79: it fell off the bus); reset or reboot",
    ),
    # Of an instance, a compute instance or a MIG device: it went between two calls. Who asks for a whole GPU by its
    # UUID says so: `of_gpu`.
    nvml.NVML_ERROR_NOT_FOUND: (FailedError, None),
    nvml.NVML_ERROR_RESET_REQUIRED: (
        GpuLostError,
        "reset it while nothing runs on it: `nvidia-smi --gpu-reset`; where a VM may not, reboot",
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
        "the operating system stands in the way: see `dmesg`, and whether a container has the GPU's device files",
    ),
    nvml.NVML_ERROR_TIMEOUT: (TimedOutError, None),
}


@contextmanager
def told(where: str | None = None, *, of_gpu: bool = False) -> Iterator[None]:
    """Raise the port's error for NVML's, with the place it concerns.

    Args:
        where: the GPU or the placement.
        of_gpu: what is asked for is a whole GPU, so that "not found" means that it is lost.
    """
    try:
        yield
    except nvml.NVMLError as error:
        kind, hint = _KINDS.get(error.value, (FailedError, None))
        if of_gpu and error.value == nvml.NVML_ERROR_NOT_FOUND:
            kind, hint = GpuLostError, "list GPUs with `nvidia-smi -L`"
        raise kind(f"NVML: {error}", where=where, hint=hint) from error
