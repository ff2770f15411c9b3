"""NVML's energy counters and memory, through the binding and a simulated library."""

from __future__ import annotations

import ctypes
from contextlib import closing
from typing import Any

import pynvml as nvml
import pytest
from tests.drive.fake_nvml import CodeError, FakeNvml

from partita.drive.driver import DriveError
from partita.drive.nvml.driver import NvmlEnergyMeter
from partita.drive.nvml.instances import used_bytes


class Counting(FakeNvml):
    """A library whose cards count energy, in millijoules."""

    millijoules: int | None = 1_234_567
    used = 5 << 30

    def _nvmlDeviceGetTotalEnergyConsumption(self, device: Any, result: Any) -> None:  # noqa: N802 -- NVML's name
        del device
        if self.millijoules is None:
            raise CodeError(nvml.NVML_ERROR_NOT_SUPPORTED)
        result._obj.value = self.millijoules

    def _nvmlDeviceGetMemoryInfo(self, device: Any, result: Any) -> None:  # noqa: N802 -- NVML's name
        assert ctypes.cast(device, ctypes.c_void_p).value == self.cards[0].address
        result._obj.used = self.used


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Counting:
    found = Counting("a100-80gb", "a100-80gb")
    monkeypatch.setattr(nvml, "nvmlLib", found)
    monkeypatch.setattr(nvml, "_nvmlGetFunctionPointer_cache", {})
    monkeypatch.setattr(nvml, "_LoadNvmlLibrary", lambda: None)
    return found


def test_counters_are_read_in_joules(library: Counting) -> None:
    with closing(NvmlEnergyMeter()) as meter:
        found = meter.energy()
    assert [(each.gpu, each.joules) for each in found] == [
        ("node-0/gpu-0", 1234.567),
        ("node-0/gpu-1", 1234.567),
    ]
    assert [each.uuid for each in found] == [card.uuid for card in library.cards]


def test_a_gpu_without_a_counter_or_off_the_bus_says_so(library: Counting) -> None:
    with closing(NvmlEnergyMeter()) as meter:
        library.cards[1].lost = True
        assert (meter.energy()[1].joules, bool(meter.energy()[1].why)) == (None, True)
        library.cards[1].lost = False
        library.millijoules = None
        assert (meter.energy()[0].joules, bool(meter.energy()[0].why)) == (None, True)


def test_no_driver_is_an_error(library: Counting) -> None:
    library.failing["nvmlInitWithFlags"] = [nvml.NVML_ERROR_DRIVER_NOT_LOADED]
    with pytest.raises(DriveError):
        NvmlEnergyMeter()


def test_memory_in_use_is_none_where_the_instance_is_gone(library: Counting) -> None:
    nvml.nvmlInit()
    assert used_bytes(library.cards[0].uuid) == 5 << 30
    assert used_bytes("MIG-gone") is None
    nvml.nvmlShutdown()
