from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.perf.measure.models import mlp

from partita.errors import InputError
from partita.perf.measure.cell import (
    Effort,
    GridPoint,
    Setup,
    common_window,
    measure_cell,
    order_statistic,
    repetitions,
)
from partita.perf.measure.device import Device, MeterReading
from partita.perf.measure.inputs import FedInput, Feed
from partita.perf.measure.model_process import Warmup

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


pytest.importorskip("onnx", reason="the optional package onnx is not installed")
pytest.importorskip("onnxruntime", reason="the optional package onnxruntime is not installed")


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

    def end(self) -> MeterReading:
        self.calls.append("end")
        return MeterReading(2000.0, "by the meter", 0.5, 120.0)


def setup(path: Path, *providers: str) -> Setup:
    feed = Feed((FedInput("x", "float32", (None, 32)),))
    return Setup(path, feed, GPU, providers, Effort(("0.5",), 0.3, 10.0, 1.0, 1), 2)


def test_on_a_gpu_memory_power_and_utilization_are_the_meters(tmp_path):
    meter = Notes()
    result = measure_cell(setup(mlp(tmp_path / "m.onnx"), "CPUExecutionProvider"), GridPoint(2, 4), meter)
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
        measure_cell(asked, GridPoint(1, 1), Notes())
    assert "onnxruntime-gpu" in str(caught.value.hint)


def test_a_rare_quantile_takes_more_repetitions():
    assert [repetitions(q) for q in (0.5, 0.9, 0.99)] == [5, 29, 299]


@given(st.lists(st.floats(0, 1e3), min_size=1), st.floats(0.01, 0.99))
def test_a_quantile_is_a_value_that_was_measured_and_at_least_its_share_lies_below(values, q):
    found = order_statistic(sorted(values), q)
    assert found in values
    assert sum(v <= found for v in values) >= q * len(values)
    assert sum(v < found for v in values) < q * len(values)


def test_latencies_are_steady_once_two_windows_agree():
    warmup = Warmup(window=3)
    assert [warmup.add(v) for v in (9, 5, 3, 2, 1.5, 1.2)] == [False] * 6
    assert [warmup.add(v) for v in (1.0, 1.0, 1.0)] == [False] * 3
    assert [warmup.add(v) for v in (1.0, 50.0, 1.01)][-1]  # a single outlier does not matter


def test_the_throughput_is_that_of_the_time_in_which_all_ran():
    fast = [(t / 10, (t + 1) / 10) for t in range(40)]  # 0 to 4 s
    late = [(1.05 + t, 2.05 + t) for t in range(2)]  # 1.05 to 3.05 s
    found = common_window([fast, late])
    assert found is not None
    assert found.seconds == pytest.approx(2.0)
    assert found.per_second == pytest.approx(10 + 1)
    # Those of the fast one that reach over an end count by half in the rate, and not in the latencies.
    assert len(found.latencies) == 19 + 2
    assert found.latencies[-1] == pytest.approx(1.0)


def test_processes_that_never_ran_together_have_no_window():
    assert common_window([[(0.0, 1.0)], [(2.0, 3.0)]]) is None
    assert common_window([[], []]) is None
