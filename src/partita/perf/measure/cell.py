"""Measures one cell: starts its processes together, lets them run long enough, and reads what they did."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from partita.errors import PartitaError
from partita.perf.measure.course import Result
from partita.perf.measure.processes import OutOfMemoryError, listen, workers
from partita.perf.measure.statistics import common_window, order_statistic, repetitions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from partita.perf.measure.course import Cell
    from partita.perf.measure.device import Device
    from partita.perf.measure.inputs import Feed
    from partita.perf.measure.meter import Meter, Reading
    from partita.perf.measure.processes import Worker

MB = 1e6
START_SECONDS = 600.0
"""The longest that a model may take to load; large ones come over the network."""
_RESIDENT = "peak resident set of the whole processes"
_TOGETHER = 0.05
_LOOK_EVERY = 0.1


@dataclass(frozen=True, slots=True)
class Effort:
    """How long a cell is measured.

    Attributes:
        quantiles: of the latency, as tables keep them, `mean` excluded.
        seconds: a window lasts at least this,
        max_seconds: and at most this, though a quantile may then not be told for want of repetitions.
        warmup_seconds: the longest that a process waits for its latencies to become steady.
        threads: of each process on a CPU; None shares out the cores there are.
    """

    quantiles: tuple[str, ...]
    seconds: float
    max_seconds: float
    warmup_seconds: float
    threads: int | None = None

    @property
    def repetitions(self) -> int:
        """The repetitions that the strictest quantile takes."""
        return max(map(repetitions, map(float, self.quantiles)))


@dataclass(frozen=True, slots=True)
class Setup:
    """What all cells of a measurement share.

    Attributes:
        providers: ONNX Runtime's execution providers, the wanted one first.
        cores: that this process may use.
    """

    path: Path
    feed: Feed
    device: Device
    providers: tuple[str, ...]
    effort: Effort
    cores: int

    def threads(self, processes: int) -> int:
        """Return the threads of each of so many processes."""
        return self.effort.threads or max(self.cores // processes, 1)

    @property
    def environ(self) -> dict[str, str]:
        """What pins a process to the device."""
        return {"CUDA_VISIBLE_DEVICES": self.device.uuid or ""}


def measure_cell(setup: Setup, cell: Cell, meter: Meter) -> Result:
    """Measure one cell in processes of its own, so that none inherits the memory of another.

    Raises:
        InputError: the model cannot be run with these inputs.
        PartitaError: a process failed otherwise.
    """
    began = time.monotonic()
    meter.prepare()
    try:
        with workers(cell.processes, _spec(setup, cell), setup.environ) as group:
            steady = _ready(group)
            ended, reading = _window(group, setup.effort, meter)
    except OutOfMemoryError:
        return Result(cell, time.monotonic() - began)
    runs = [[(begin, end) for begin, end in line["runs"]] for line in ended]
    window = common_window(runs)
    if window is None or not window.latencies:
        raise PartitaError(
            f"no repetition of batch {cell.batch} ended within {setup.effort.max_seconds:g} s",
            where=str(setup.path),
            hint="raise --max-seconds, or leave large batches out",
        )
    on_cpu = setup.device.kind == "cpu"
    return Result(
        cell,
        seconds=time.monotonic() - began,
        throughput=window.per_second * cell.batch,
        latency_ms=_latencies(window.latencies, setup.effort.quantiles),
        memory_mb=_resident(ended) if on_cpu else reading.memory_mb,
        memory_source=_RESIDENT if on_cpu else reading.memory_source,
        utilization=reading.utilization,
        power_w=reading.power_w,
        repetitions=len(window.latencies),
        steady=steady,
    )


def _spec(setup: Setup, cell: Cell) -> dict[str, Any]:
    return {
        "do": "run",
        "path": str(setup.path),
        "providers": setup.providers,
        "threads": setup.threads(cell.processes),
        "inputs": [[each.name, each.dtype, each.shape(cell.batch)] for each in setup.feed.inputs],
        "warmup_s": setup.effort.warmup_seconds,
    }


def _ready(group: Sequence[Worker]) -> bool:
    """Wait until all processes are warm, and return whether all became steady."""
    steady: dict[int, bool] = {}
    for worker, line in listen(group, time.monotonic() + START_SECONDS):
        steady[worker.pid] = line["steady"]
        if len(steady) == len(group):
            return all(steady.values())
    raise PartitaError(f"the processes were not ready in {START_SECONDS:g} s")


def _window(group: Sequence[Worker], effort: Effort, meter: Meter) -> tuple[list[Mapping[str, Any]], Reading]:
    """Start all at one time, stop them once they have run long and often enough, and return what each says."""
    begin = time.monotonic() + _TOGETHER
    for worker in group:
        worker.say(begin=begin)
    meter.begin([worker.pid for worker in group])
    done: dict[int, int] = {}
    while not _enough(sum(done.values()), time.monotonic() - begin, effort):
        for worker, line in listen(group, time.monotonic() + _LOOK_EVERY):
            done[worker.pid] = line["done"]
        meter.sample()
    reading = meter.end()
    for worker in group:
        worker.say(stop=True)
    ended: dict[int, Mapping[str, Any]] = {}
    for worker, line in listen(group, time.monotonic() + START_SECONDS):
        if "runs" in line:
            ended[worker.pid] = line
        if len(ended) == len(group):
            return list(ended.values()), reading
    raise PartitaError(f"the processes did not stop in {START_SECONDS:g} s")


def _enough(done: int, seconds: float, effort: Effort) -> bool:
    # A tenth more, as those that reach over an end of the common window do not count.
    return seconds >= effort.max_seconds or (seconds >= effort.seconds and done >= 1.1 * effort.repetitions)


def _latencies(ascending: Sequence[float], quantiles: Sequence[str]) -> dict[str, float]:
    return {
        quantile: 1e3 * order_statistic(ascending, float(quantile))
        for quantile in quantiles
        if len(ascending) >= repetitions(float(quantile))
    }


def _resident(ended: Sequence[Mapping[str, Any]]) -> float | None:
    """Return what the processes tell themselves; None if one cannot."""
    peaks = [line["peak_rss"] for line in ended]
    return None if None in peaks else sum(peaks) / MB
