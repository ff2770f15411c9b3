# ruff: noqa: N802 -- the entry points keep their own names
"""The simulated NVML with the counters that measurements read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pynvml as nvml
from tests.drive.fake_nvml import Card, CodeError, Compute, FakeNvml
from tests.drive.fake_nvml import _point as point

if TYPE_CHECKING:
    from collections.abc import Callable


class MeteredNvml(FakeNvml):
    """What stands in for the loaded library.

    Attributes:
        use: bytes of each process on any device.
        millijoules: where the energy counter of all GPUs stands.
        missing: entry points that this device does not support.
    """

    def __init__(self, *models: str, mig: bool = True) -> None:
        self.use: dict[int, int] = {}
        self.millijoules = 10**9
        self.missing: set[str] = set()
        super().__init__(*models, mig=mig)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name in self.missing:
            return lambda *_: nvml.NVML_ERROR_NOT_SUPPORTED
        return super().__getattr__(name)

    def _nvmlDeviceGetHandleByUUID(self, text: Any, result: Any) -> None:
        wanted = (text.value or b"").decode()
        for address, each in self._by_address.items():
            if isinstance(each, Compute) and each.uuid == wanted:
                point(result, address)
                return
        super()._nvmlDeviceGetHandleByUUID(text, result)

    def _nvmlDeviceIsMigDeviceHandle(self, device: Any, result: Any) -> None:
        result._obj.value = isinstance(self._get(device, (Card, Compute)), Compute)  # type: ignore[arg-type]

    def _nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, device: Any, result: Any) -> None:
        point(result, self._compute_of(device).gpu.address)

    def _nvmlDeviceGetAttributes_v2(self, device: Any, result: Any) -> None:
        compute = self._compute_of(device)
        profile = compute.gpu.hardware.profile(compute.gi.placement.profile)
        told = result._obj
        told.gpuInstanceSliceCount, told.computeInstanceSliceCount = profile.compute, compute.slices
        told.memorySizeMB = (profile.memory_mib or 0) - 25

    def _nvmlDeviceGetTotalEnergyConsumption(self, device: Any, result: Any) -> None:
        self._get(device, Card)
        result._obj.value = self.millijoules

    def _nvmlDeviceGetPowerUsage(self, device: Any, result: Any) -> None:
        self._get(device, Card)
        result._obj.value = 300_000

    def _nvmlDeviceGetUtilizationRates(self, device: Any, result: Any) -> None:
        self._get(device, Card)
        result._obj.gpu = 75

    def _nvmlDeviceGetMemoryInfo(self, device: Any, result: Any) -> None:
        self._get(device, (Card, Compute))  # type: ignore[arg-type]
        result._obj.total, result._obj.used = 80 * 10**9, sum(self.use.values())

    def _nvmlDeviceGetComputeRunningProcesses_v3(self, device: Any, result: Any, array: Any) -> None:
        self._get(device, (Card, Compute))  # type: ignore[arg-type]
        if array is None:
            result._obj.value = len(self.use)
            raise CodeError(nvml.NVML_ERROR_INSUFFICIENT_SIZE if self.use else nvml.NVML_SUCCESS)
        for index, (pid, used) in enumerate(self.use.items()):
            array[index].pid, array[index].usedGpuMemory = pid, used
        result._obj.value = len(self.use)
