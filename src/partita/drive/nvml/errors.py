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

_KINDS: dict[int, tuple[type[DriveError], str | None]] = {
    nvml.NVML_ERROR_IN_USE: (InUseError, None),
    nvml.NVML_ERROR_INSUFFICIENT_RESOURCES: (NoRoomError, None),
    nvml.NVML_ERROR_INVALID_ARGUMENT: (NoRoomError, None),
    nvml.NVML_ERROR_GPU_IS_LOST: (
        GpuLostError,
        "look for Xid errors with `dmesg | grep -i xid`; reset or reboot",
    ),
    nvml.NVML_ERROR_NOT_FOUND: (GpuLostError, "list GPUs with `nvidia-smi -L`"),
    nvml.NVML_ERROR_RESET_REQUIRED: (
        GpuLostError,
        "reset it while nothing runs on it: `nvidia-smi --gpu-reset`",
    ),
    nvml.NVML_ERROR_NO_PERMISSION: (
        RefusedError,
        "cutting GPUs needs root, or read access to the MIG capability",
    ),
    nvml.NVML_ERROR_NOT_SUPPORTED: (RefusedError, "see `partita doctor`"),
    nvml.NVML_ERROR_LIBRARY_NOT_FOUND: (RefusedError, "install NVIDIA's driver; see `partita doctor`"),
    nvml.NVML_ERROR_DRIVER_NOT_LOADED: (RefusedError, "load NVIDIA's driver: `modprobe nvidia`"),
    nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (RefusedError, "the driver was updated: reboot, or reload it"),
    nvml.NVML_ERROR_TIMEOUT: (TimedOutError, None),
}


@contextmanager
def told(where: str | None = None) -> Iterator[None]:
    """Raise the port's error for NVML's, with the place it concerns."""
    try:
        yield
    except nvml.NVMLError as error:
        kind, hint = _KINDS.get(error.value, (FailedError, None))
        raise kind(f"NVML: {error}", where=where, hint=hint) from error
