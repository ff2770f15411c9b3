"""The GPU side against a simulated NVML; none of it has run on hardware."""

from __future__ import annotations

import os

import pynvml
import pytest
from tests.perf.measure.metered import MeteredNvml

from partita.errors import InputError
from partita.mig.catalogue import gpu_model, gpu_names
from partita.perf.measure.device import (
    CUDA,
    NvmlMeter,
    OnnxRuntime,
    choose_device,
    device_to_measure,
    gpu_device,
    nvml_library,
    providers,
    whole_profile,
)

WITH_CUDA = OnnxRuntime("1.20", (CUDA, "CPUExecutionProvider"))


def install(monkeypatch: pytest.MonkeyPatch, fake: MeteredNvml) -> MeteredNvml:
    monkeypatch.setattr(pynvml, "nvmlLib", fake)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return fake


@pytest.fixture
def mig(monkeypatch):
    return install(monkeypatch, MeteredNvml("a100-80gb"))


@pytest.fixture
def whole(monkeypatch):
    return install(monkeypatch, MeteredNvml("h100-80gb", mig=False))


@pytest.mark.parametrize(
    "profile", ["1g.10gb@6", "1g.20gb@4", "2g.20gb@0", "3g.40gb@4", "4g.40gb@0", "7g.80gb@0"]
)
def test_an_instance_goes_under_its_profile(mig, profile):
    (compute,) = mig.foreign(0, profile).compute.values()
    device = gpu_device(compute.uuid)
    assert (device.kind, device.gpu, device.uuid) == ("mig", "a100-80gb", compute.uuid)
    assert device.profile == profile.split("@")[0]
    assert providers(device)[0] == CUDA
    assert not device.stand_in


def test_a_whole_gpu_goes_under_the_profile_of_its_size(whole):
    device = gpu_device("0")
    assert (device.kind, device.gpu, device.profile) == ("gpu", "h100-80gb", "7g.80gb")
    assert "MIG off" in device.note
    assert gpu_device(whole.cards[0].uuid) == device
    assert {name: whole_profile(gpu_model(name)).name for name in gpu_names()}["a30-24gb"] == "4g.24gb"


@pytest.mark.usefixtures("mig")
def test_a_gpu_in_mig_mode_asks_for_an_instance():
    with pytest.raises(InputError, match="MIG mode is on"):
        gpu_device("0")


def test_a_part_of_a_gpu_instance_is_no_row_of_a_table(mig):
    cut = mig.foreign(0, "3g.40gb@0")
    (compute,) = cut.compute.values()
    compute.slices = 1
    with pytest.raises(InputError, match="1 of its GPU instance's 3 slices"):
        gpu_device(compute.uuid)


def test_a_gpu_that_the_catalogue_lacks_can_only_stand_in(whole):
    whole.cards[0].name = "NVIDIA Unheard-of"
    with pytest.raises(InputError, match="not in the catalogue"):
        gpu_device("0")
    device = gpu_device("0", "a100-80gb/7g.80gb")
    assert device.stand_in
    assert "NOT on that GPU" in device.note
    assert "Unheard-of" in device.note


@pytest.mark.usefixtures("whole")
def test_a_known_gpu_does_not_pose_as_another():
    with pytest.raises(InputError, match="name of its own"):
        gpu_device("0", "a100-80gb/7g.80gb")


@pytest.mark.usefixtures("whole")
def test_a_gpu_that_is_not_there_or_not_usable_is_told():
    with pytest.raises(InputError, match="NVML"):
        gpu_device("3")
    with pytest.raises(InputError, match="NVML"):
        gpu_device("MIG-none")
    with pytest.raises(InputError, match="built without CUDA") as caught:
        choose_device("0", OnnxRuntime("1.20", ("CPUExecutionProvider",)), None)
    assert "onnxruntime-gpu" in str(caught.value.hint)
    assert choose_device("0", WITH_CUDA, None).gpu == "h100-80gb"


def test_a_host_without_a_driver_is_told(whole):
    whole.failing["nvmlInitWithFlags"] = [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND]
    with pytest.raises(InputError, match="NVML"), nvml_library():
        pass


@pytest.mark.parametrize(
    ("asked", "environ", "has_cuda", "expected"),
    [
        (None, {}, False, "cpu"),
        (None, {}, True, "0"),
        (None, {"CUDA_VISIBLE_DEVICES": "MIG-a,MIG-b"}, True, "MIG-a"),
        (None, {"CUDA_VISIBLE_DEVICES": "GPU-a"}, False, "GPU-a"),
        (None, {"CUDA_VISIBLE_DEVICES": ""}, True, "cpu"),
        (None, {"CUDA_VISIBLE_DEVICES": "-1"}, True, "cpu"),
        ("cpu", {"CUDA_VISIBLE_DEVICES": "1"}, True, "cpu"),
        ("2", {"CUDA_VISIBLE_DEVICES": "1"}, True, "2"),
    ],
)
def test_the_device_is_the_one_asked_for_or_the_one_cuda_would_see(asked, environ, has_cuda, expected):
    assert device_to_measure(asked, environ, has_cuda=has_cuda) == expected


def metered(fake: MeteredNvml, device: str) -> NvmlMeter:
    meter = NvmlMeter(gpu_device(device))
    meter.prepare()
    fake.use = {os.getpid(): 3_000_000_000, 1: 5_000_000_000}
    return meter


def test_a_whole_gpu_tells_memory_of_our_processes_energy_and_utilization(whole, monkeypatch):
    meter = metered(whole, "0")
    now = iter([100.0, 110.0])
    monkeypatch.setattr("partita.perf.measure.device.time.monotonic", lambda: next(now))
    meter.begin([os.getpid()])
    whole.millijoules += 2_500_000
    meter.sample()
    reading = meter.end()
    assert reading.memory_mb == 3000.0
    assert reading.memory_source == "by NVML per process"
    assert reading.power_w == 250.0
    assert reading.utilization == pytest.approx(0.75)


def test_without_an_energy_counter_power_is_the_mean_of_samples(whole):
    whole.missing = {"nvmlDeviceGetTotalEnergyConsumption"}
    meter = metered(whole, "0")
    meter.begin([os.getpid()])
    meter.sample()
    assert meter.end().power_w == 300.0


def test_an_instance_tells_its_memory_and_what_it_cannot_know_is_missing(mig):
    (compute,) = mig.foreign(0, "2g.20gb@0").compute.values()
    meter = metered(mig, compute.uuid)
    meter.begin([os.getpid()])
    mig.millijoules += 1000
    reading = meter.end()
    assert (reading.memory_mb, reading.power_w, reading.utilization) == (3000.0, None, None)


def test_where_processes_have_other_numbers_memory_is_the_difference(whole):
    meter = metered(whole, "0")
    meter.begin([999_999_999])
    reading = meter.end()
    assert reading.memory_mb == 8000.0
    assert "beyond that before" in reading.memory_source


def test_what_nvml_does_not_tell_is_missing_and_never_zero(whole):
    whole.missing = {
        "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetComputeRunningProcesses_v3",
    }  # fmt: skip
    meter = metered(whole, "0")
    meter.begin([os.getpid()])
    meter.sample()
    reading = meter.end()
    assert (reading.memory_mb, reading.power_w, reading.utilization) == (None, None, None)
