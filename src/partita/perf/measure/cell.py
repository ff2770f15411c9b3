"""Measures one cell of the grid: starts its processes together, lets them run long enough, reads their results."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec import field

from partita.documents.codec import Value
from partita.errors import PartitaError
from partita.perf.measure.device import MB
from partita.perf.measure.model_process import OutOfMemoryError, listen, model_processes
from partita.perf.operating_point import strictest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from partita.perf.measure.device import Device, Meter, MeterReading
    from partita.perf.measure.inputs import Feed
    from partita.perf.measure.model_process import ModelProcess


START_SECONDS = 600.0
"""The longest that a model may take to load; large ones come over the network."""
_RESIDENT = "peak resident set of the whole processes"
_TOGETHER = 0.05
_LOOK_EVERY = 0.1
CONFIDENCE = 0.95
Run: TypeAlias = tuple[float, float]
"""Begin and end of one repetition in seconds of the host's monotonic clock, which all processes share."""


@dataclass(frozen=True, slots=True, order=True)
class GridPoint:
    """One cell: a number of processes side by side, each with batches of one size."""

    processes: int
    batch: int


class PointResult(Value):
    """The figures of one cell. What was not measured is None.

    Attributes:
        seconds: how long measuring took, start of the processes included.
        throughput: items/s of all processes together; None if memory ran out.
        latency_ms: latency of one batch by quantile, only for quantiles with enough repetitions.
        memory_mb: of all processes together at their peak, in MB of 1e6 bytes.
        memory_source: how that was read, in words.
        repetitions: how many the figures are of.
        steady: whether the warm-up ended because the latencies were steady.
    """

    cell: GridPoint
    seconds: float
    throughput: float | None = None
    latency_ms: dict[str, float] = field(default_factory=dict)
    memory_mb: float | None = None
    memory_source: str = ""
    utilization: float | None = None
    power_w: float | None = None
    repetitions: int = 0
    steady: bool = True

    @property
    def out_of_memory(self) -> bool:
        """Whether memory ran out."""
        return self.throughput is None

    @property
    def worst_ms(self) -> float:
        """The latency at the strictest quantile there is; 0 without any."""
        strict = strictest(self.latency_ms)
        return 0.0 if strict is None else self.latency_ms[strict]


@dataclass(frozen=True, slots=True)
class Effort:
    """How long a cell is measured.

    Attributes:
        quantiles: of the latency, as tables keep them, `mean` excluded.
        seconds: a window lasts at least this.
        max_seconds: a window lasts at most this; a quantile with too few repetitions is then left out.
        warmup_seconds: the longest that a process waits for its latencies to become steady.
        threads: of each process on a CPU; None divides the cores among the processes.
    """

    quantiles: tuple[str, ...]
    seconds: float
    max_seconds: float
    warmup_seconds: float
    threads: int | None = None

    @property
    def repetitions(self) -> int:
        """The repetitions that the strictest quantile needs."""
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
        """Return the threads of each process."""
        return self.effort.threads or max(self.cores // processes, 1)

    @property
    def environ(self) -> dict[str, str]:
        """What pins a process to the device."""
        return {"CUDA_VISIBLE_DEVICES": self.device.uuid or ""}


def measure_cell(setup: Setup, cell: GridPoint, meter: Meter) -> PointResult:
    """Measure one cell in processes of its own, so that none inherits the memory of another.

    Raises:
        InputError: the model cannot be run with these inputs.
        PartitaError: a process failed otherwise.
    """
    began = time.monotonic()
    meter.prepare()
    try:
        with model_processes(cell.processes, _spec(setup, cell), setup.environ) as group:
            steady = _ready(group)
            ended, reading = _window(group, setup.effort, meter)
    except OutOfMemoryError:
        return PointResult(cell, time.monotonic() - began)
    runs = [[(begin, end) for begin, end in line["runs"]] for line in ended]
    window = common_window(runs)
    if window is None or not window.latencies:
        raise PartitaError(
            f"no repetition of batch {cell.batch} ended within {setup.effort.max_seconds:g} s",
            where=str(setup.path),
            hint="raise --max-seconds, or leave large batches out",
        )
    on_cpu = setup.device.kind == "cpu"
    return PointResult(
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


def _spec(setup: Setup, cell: GridPoint) -> dict[str, Any]:
    return {
        "do": "run",
        "path": str(setup.path),
        "providers": setup.providers,
        "threads": setup.threads(cell.processes),
        "inputs": [[each.name, each.dtype, each.shape(cell.batch)] for each in setup.feed.inputs],
        "warmup_s": setup.effort.warmup_seconds,
    }


def _ready(group: Sequence[ModelProcess]) -> bool:
    """Wait until all processes are warm, and return whether all became steady."""
    steady: dict[int, bool] = {}
    for worker, line in listen(group, time.monotonic() + START_SECONDS):
        steady[worker.pid] = line["steady"]
        if len(steady) == len(group):
            return all(steady.values())
    raise PartitaError(f"the processes were not ready in {START_SECONDS:g} s")


def _window(
    group: Sequence[ModelProcess], effort: Effort, meter: Meter
) -> tuple[list[Mapping[str, Any]], MeterReading]:
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
    # A tenth more: repetitions that cross an end of the common window do not count.
    return seconds >= effort.max_seconds or (seconds >= effort.seconds and done >= 1.1 * effort.repetitions)


def _latencies(ascending: Sequence[float], quantiles: Sequence[str]) -> dict[str, float]:
    return {
        quantile: 1e3 * order_statistic(ascending, float(quantile))
        for quantile in quantiles
        if len(ascending) >= repetitions(float(quantile))
    }


def _resident(ended: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the peak memory that the processes report, in MB; None if one cannot."""
    peaks = [line["peak_rss"] for line in ended]
    return None if None in peaks else sum(peaks) / MB


def repetitions(quantile: float) -> int:
    """Return how many repetitions a quantile needs: 29 for p90, 299 for p99.

    With so many the largest lies above the quantile with 95 % confidence, whatever the distribution (Hahn and Meeker,
    Statistical Intervals, section 5.2.3: 1 - q^n >= confidence).
    """
    return math.ceil(math.log(1.0 - CONFIDENCE) / math.log(quantile))


def order_statistic(ascending: Sequence[float], quantile: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed: one that was measured."""
    return ascending[max(math.ceil(quantile * len(ascending)) - 1, 0)]


@dataclass(frozen=True, slots=True)
class Window:
    """The repetitions while all processes ran.

    Attributes:
        seconds: how long that was.
        per_second: repetitions per second of all processes together.
        latencies: seconds of each repetition that lies within, ascending.
    """

    seconds: float
    per_second: float
    latencies: tuple[float, ...]


def common_window(processes: Iterable[Sequence[Run]]) -> Window | None:
    """Return the repetitions between the last process's first begin and the first process's last end; None if none.

    A repetition that crosses an end counts by its share within, so that long ones are not lost.
    """
    each = [runs for runs in processes if runs]
    if not each:
        return None
    begin, end = max(runs[0][0] for runs in each), min(runs[-1][1] for runs in each)
    if end <= begin:
        return None
    every = [run for runs in each for run in runs]
    share = sum(max(min(e, end) - max(b, begin), 0.0) / (e - b) for b, e in every if e > b)
    within = sorted(e - b for b, e in every if b >= begin and e <= end)
    return Window(end - begin, share / (end - begin), tuple(within))
