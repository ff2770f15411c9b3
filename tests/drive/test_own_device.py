"""Which device a process has, by NVIDIA's binding on a simulated library."""

from __future__ import annotations

import pynvml
import pytest
from tests.drive.fake_nvml import FakeNvml

from partita.drive.own_device import OwnDevice, own_device


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml("a100-80gb", "a100-80gb")
    monkeypatch.setattr(pynvml, "nvmlLib", fake)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return fake


def uuid_of(nvml: FakeNvml, at: str, card: int = 1) -> str:
    (compute,) = nvml.foreign(card, at).compute.values()
    return compute.uuid


def test_a_mig_device_is_its_gpus_instance(nvml: FakeNvml) -> None:
    names = {at: uuid_of(nvml, at) for at in ("1g.10gb@6", "3g.40gb@0", "2g.20gb@4")}
    ids = {str(cut.placement): cut.id for cut in nvml.cards[1].cuts.values()}
    for at, name in names.items():
        assert own_device(name) == OwnDevice(nvml.cards[1].uuid, ids[at])
        assert own_device(f"{name},{names['3g.40gb@0']}") == OwnDevice(nvml.cards[1].uuid, ids[at])
    assert nvml.calls.count("nvmlInitWithFlags") == nvml.calls.count("nvmlShutdown")


def test_a_whole_gpu_has_no_instance(nvml: FakeNvml) -> None:
    assert own_device(nvml.cards[0].uuid) == OwnDevice(nvml.cards[0].uuid)


def test_the_old_name_says_all(nvml: FakeNvml) -> None:
    gpu = nvml.cards[0].uuid
    assert own_device(f"MIG-{gpu}/7/0") == OwnDevice(gpu, 7)
    assert not nvml.calls


def test_in_a_pod_it_is_the_only_one_there_is(nvml: FakeNvml) -> None:
    assert own_device(None) == OwnDevice()
    cut = nvml.foreign(1, "3g.40gb@4")
    assert own_device(None) == OwnDevice(nvml.cards[1].uuid, cut.id)
    nvml.cards[0].lost = True
    assert own_device(None) == OwnDevice(nvml.cards[1].uuid, cut.id)
    nvml.foreign(1, "1g.10gb@0")
    assert own_device(None) == OwnDevice()  # which of two is ours is not guessed


def test_after_a_cut_it_has_the_id_of_the_new_instance(nvml: FakeNvml) -> None:
    old = nvml.foreign(1, "3g.40gb@4")
    (name,) = (each.uuid for each in old.compute.values())
    assert own_device(name).gpu_instance_id == old.id
    # Destroyed, and shown all the same (`FakeNvml`): the name finds nothing, and the one that is shown is not taken.
    for each in old.compute.values():
        each.dead = True
    del nvml.cards[1].cuts[old.id]
    assert own_device(name) == OwnDevice(why_not="NVML: Not Found")
    assert own_device(None) == OwnDevice()
    new = nvml.foreign(1, "1g.10gb@6")
    assert own_device(None) == OwnDevice(nvml.cards[1].uuid, new.id)


@pytest.mark.parametrize(
    "visible", ["", "0", "-1", "NoDevFiles", "MIG-1", "MIG-a65afc88,", "all", "GPU-", " , "]
)
def test_what_names_no_device_for_sure_is_not_guessed(nvml: FakeNvml, visible: str) -> None:
    uuid_of(nvml, "1g.10gb@6")
    assert own_device(visible) == OwnDevice()


@pytest.mark.parametrize(
    "code",
    [
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_GPU_IS_LOST,
        pynvml.NVML_ERROR_UNKNOWN,
    ],
)
@pytest.mark.parametrize(
    "call",
    [
        "nvmlInitWithFlags",
        "nvmlDeviceGetHandleByUUID",
        "nvmlDeviceGetDeviceHandleFromMigDeviceHandle",
        "nvmlDeviceGetUUID",
        "nvmlDeviceGetGpuInstanceId",
        "nvmlShutdown",
    ],
)
def test_a_driver_that_says_no_is_told_and_stops_nothing(nvml: FakeNvml, call: str, code: int) -> None:
    name = uuid_of(nvml, "1g.10gb@6")
    nvml.failing[call] = [code]
    found = own_device(name)
    if call == "nvmlShutdown":
        assert found.gpu_instance_id is not None
    else:
        assert found == OwnDevice(why_not=found.why_not)
        assert found.why_not.startswith("NVML: ")
    nvml.failing[call] = [code]
    assert not own_device(None).why_not or call != "nvmlInitWithFlags"


@pytest.mark.parametrize(
    "entry",
    ["nvmlDeviceGetDeviceHandleFromMigDeviceHandle", "nvmlDeviceGetGpuInstanceId", "nvmlDeviceGetCount_v2"],
)
def test_a_driver_from_before_mig_stops_nothing(nvml: FakeNvml, entry: str) -> None:
    name = uuid_of(nvml, "1g.10gb@6")
    nvml.missing.add(entry)
    assert own_device(None).gpu_instance_id is None
    if entry != "nvmlDeviceGetCount_v2":
        assert own_device(name).why_not == "NVML: Function Not Found"


def test_mig_that_is_off_has_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml("a100-80gb", mig=False)
    monkeypatch.setattr(pynvml, "nvmlLib", fake)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    assert own_device(None) == OwnDevice()
