from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from partita.errors import InputError
from partita.perf.measure.cell import Effort, Setup, measure_cell
from partita.perf.measure.course import Cell
from partita.perf.measure.device import Device
from partita.perf.measure.inputs import Fed, Feed
from partita.perf.measure.meter import Reading

pytest.importorskip("onnx", reason="the optional package onnx is not installed")
pytest.importorskip("onnxruntime", reason="the optional package onnxruntime is not installed")
from tests.perf.measure.models import mlp

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

GPU = Device("gpu", "a30-24gb", "4g.24gb", "the whole NVIDIA A30, MIG off", "GPU-1")


@dataclass
class Notes:
    """A meter that notes how it is used."""

    calls: list[str] = field(default_factory=list)
    pids: tuple[int, ...] = ()

    def prepare(self) -> None:
        self.calls.append("prepare")

    def begin(self, pids: Sequence[int]) -> None:
        self.calls.append("begin")
        self.pids = tuple(pids)

    def sample(self) -> None:
        self.calls.append("sample")

    def end(self) -> Reading:
        self.calls.append("end")
        return Reading(2000.0, "by the meter", 0.5, 120.0)


def setup(path: Path, *providers: str) -> Setup:
    feed = Feed((Fed("x", "float32", (None, 32)),))
    return Setup(path, feed, GPU, providers, Effort(("0.5",), 0.3, 10.0, 1.0, 1), 2)


def test_on_a_gpu_memory_power_and_utilization_are_the_meters(tmp_path):
    meter = Notes()
    result = measure_cell(setup(mlp(tmp_path / "m.onnx"), "CPUExecutionProvider"), Cell(2, 4), meter)
    assert (result.memory_mb, result.memory_source) == (2000.0, "by the meter")
    assert (result.utilization, result.power_w) == (0.5, 120.0)
    assert len(set(meter.pids)) == 2
    assert meter.calls[:2] == ["prepare", "begin"]
    assert meter.calls[-1] == "end"
    assert "sample" in meter.calls
    assert result.throughput is not None
    # Two processes cannot do more than two batches in the time that the fastest half of them takes.
    assert result.throughput <= 2 * 4 / (result.latency_ms["0.5"] / 1e3) * 2


def test_a_cpu_does_not_measure_under_a_gpus_name(tmp_path):
    asked = setup(mlp(tmp_path / "m.onnx"), "CUDAExecutionProvider", "CPUExecutionProvider")
    with pytest.raises(InputError, match="could not use CUDAExecutionProvider") as caught:
        measure_cell(asked, Cell(1, 1), Notes())
    assert "onnxruntime-gpu" in str(caught.value.hint)
