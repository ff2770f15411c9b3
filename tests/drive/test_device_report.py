"""`make device` without a GPU, and on the simulated library; on a real GPU it is run by hand."""

from __future__ import annotations

import json
from ctypes import c_char_p, c_size_t
from typing import TYPE_CHECKING, Any

import pynvml
import pytest
from benchmarks import device
from benchmarks.device_cuda import Cuda, CudaError, look
from tests.drive.fake_nvml import FakeNvml

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeNvml], FakeNvml]:
    def put(fake: FakeNvml) -> FakeNvml:
        monkeypatch.setattr(pynvml, "nvmlLib", fake)
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        monkeypatch.setattr(device, "_cuda", lambda *_: {"error": "no CUDA in tests"})
        return fake

    return put


def test_without_a_gpu_it_says_so_and_ends_with_0(
    install: Callable[[FakeNvml], FakeNvml], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = install(FakeNvml())
    fake.failing["nvmlInitWithFlags"] = [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND]
    assert device.main(["--out", str(tmp_path / "out")]) == 0
    assert "no NVIDIA GPU to look at" in capsys.readouterr().out
    assert device.main(["--out", str(tmp_path / "out")]) == 0
    assert "sees no GPU" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_it_writes_what_it_saw_and_changes_nothing(
    install: Callable[[FakeNvml], FakeNvml], tmp_path: Path
) -> None:
    fake = install(FakeNvml("a100-40gb", "h100-80gb", "a30-24gb"))
    fake.foreign(0, "3g.20gb@4")
    fake.cards[1].mig = False
    fake.cards[2].mig_capable = False
    assert device.main(["--out", str(tmp_path), "--calls", "3", "--power-seconds", "0"]) == 0
    found = json.loads((tmp_path / "device.json").read_text())
    a100, h100 = found["gpus"]
    assert a100["model"] == "a100-40gb"
    assert a100["instances"][0]["at"] == "3g.20gb@4"
    assert a100["cuda"] == "left alone: MIG mode is on"
    assert h100["entry_points"]["profile info, version 2"] == "error: Not Supported"
    assert h100["power"]["watts"] == 62.0
    assert found["left_out"] == ["GPU 2 (NVIDIA A30) is left out: it has no MIG"]
    (half,) = [p for p in a100["profiles"] if p["known_as"] == "3g.20gb"]
    assert (half["memory_mib"], half["catalogue_mib"], half["starts"]) == (19968, 19968, [0, 4])
    assert set(a100["calls_us"]["MIG mode"]) == {"median", "p99"}
    text = (tmp_path / "device.md").read_text()
    assert "## node-0/gpu-1: NVIDIA H100 80GB HBM3" in text
    changing = ("Set", "Create", "Destroy", "Reset", "Clear")
    assert not [name for name in fake.calls if any(word in name for word in changing)]


class FakeCuda:
    """CUDA's driver with 8 GiB, in the shape that ctypes gives it."""

    def __getattr__(self, name: str) -> Callable[..., int]:
        def entry(*arguments: Any) -> int:
            if name == "cuMemGetInfo_v2":
                for each, value in zip(arguments, (7 * 2**30, 8 * 2**30), strict=True):
                    each._obj.value = value
            if name.startswith("cuGetError"):
                arguments[1]._obj.value = c_char_p(
                    b"out of memory" if name == "cuGetErrorString" else b"CUDA_ERROR_OUT_OF_MEMORY"
                ).value
            too_much = name == "cuMemAlloc_v2" and arguments[1].value > 8 * 2**30
            return 2 if too_much else 0

        return entry


def test_the_words_of_an_allocation_that_cannot_be_met_are_kept() -> None:
    assert look(Cuda(FakeCuda())) == {
        "total_mib": 8192,
        "free_mib": 7168,
        "too_much": "cuMemAlloc_v2: 2 CUDA_ERROR_OUT_OF_MEMORY: out of memory",
    }
    with pytest.raises(CudaError):
        Cuda(FakeCuda()).call("cuMemAlloc_v2", None, c_size_t(9 * 2**30))
