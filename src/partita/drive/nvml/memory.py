"""Memory in use on an instance, as NVML tells it: contexts and all."""

from __future__ import annotations

import pynvml as nvml


def used_bytes(mig_uuid: str) -> int | None:
    """Return the bytes in use on an instance; None if it is gone or does not say."""
    try:
        return int(nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByUUID(mig_uuid)).used)
    except nvml.NVMLError:
        return None
