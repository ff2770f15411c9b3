"""The GPU and the instance that this process has, by which its metrics join with those of DCGM's exporter.

`CUDA_VISIBLE_DEVICES` names it, as `MIG-<uuid>`, `MIG-GPU-<uuid>/<instance>/<compute instance>` (drivers before 470;
NVIDIA's MIG User Guide, *Device Names*) or `GPU-<uuid>`. CUDA uses the first MIG device of several. Without the
variable, as in a pod whose claim lets it see one device alone, it is the only MIG device that NVML shows.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import pynvml as nvml

if TYPE_CHECKING:
    from collections.abc import Iterator

_OLD_NAME = re.compile(r"MIG-(GPU-[0-9a-fA-F-]{36})/(\d+)/\d+")
_NEW_NAME = re.compile(r"(MIG|GPU)-[0-9a-fA-F-]{36}")


class OwnDevice(NamedTuple):
    """What is known of a process's device.

    Attributes:
        gpu_uuid: of the whole GPU, as DCGM's exporter has it; None if it is not known.
        gpu_instance_id: of the instance on it; None if it is not known, or if the device is a whole GPU.
        why_not: why something is not known that should be; empty if nothing is wrong.
    """

    gpu_uuid: str | None = None
    gpu_instance_id: int | None = None
    why_not: str = ""


def own_device(visible: str | None) -> OwnDevice:
    """Return the device of a process; never raises for what a driver does or is not.

    Args:
        visible: value of `CUDA_VISIBLE_DEVICES`; None if it is not set.
    """
    name = None if visible is None else visible.split(",")[0].strip()
    if name is not None:
        if found := _OLD_NAME.fullmatch(name):
            return OwnDevice(found[1], int(found[2]))
        if not _NEW_NAME.fullmatch(name):
            return OwnDevice()  # a number, which NVML and CUDA count differently, or no device
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return OwnDevice(why_not=f"NVML: {error}" if name else "")
    try:
        return _named(name) if name is not None else _only_one()
    except nvml.NVMLError as error:
        return OwnDevice(why_not=f"NVML: {error}")
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _named(name: str) -> OwnDevice:
    device = nvml.nvmlDeviceGetHandleByUUID(name)
    return OwnDevice(name) if name.startswith("GPU-") else _instance(device)


def _instance(device: Any) -> OwnDevice:  # noqa: ANN401 -- a handle of NVML's
    parent = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device)
    return OwnDevice(nvml.nvmlDeviceGetUUID(parent), nvml.nvmlDeviceGetGpuInstanceId(device))


def _only_one() -> OwnDevice:
    found = list(_mig_devices())
    return _instance(found[0]) if len(found) == 1 else OwnDevice()


def _mig_devices() -> Iterator[Any]:
    """Yield the MIG devices that NVML shows and finds; it may go on showing what was destroyed."""
    for index in range(nvml.nvmlDeviceGetCount()):
        with suppress(nvml.NVMLError):  # a GPU that is lost, or not ours to see
            gpu = nvml.nvmlDeviceGetHandleByIndex(index)
            for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
                with suppress(nvml.NVMLError):
                    shown = nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, place)
                    yield nvml.nvmlDeviceGetHandleByUUID(nvml.nvmlDeviceGetUUID(shown))
