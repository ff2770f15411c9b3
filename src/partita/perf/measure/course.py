"""The course of a measurement: which cells there are, what is left, and what is not worth trying."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import mean
from typing import TYPE_CHECKING

from partita.perf.operating_point import strictest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """What is measured at a time: so many processes side by side, each with batches of one size."""

    processes: int
    batch: int


@dataclass(frozen=True, slots=True)
class Result:
    """What a cell gave. Whatever was not measured is None.

    Attributes:
        seconds: what measuring it took, start of the processes included.
        throughput: items/s of all processes together; None if memory ran out.
        latency_ms: latency of one batch by quantile, those quantiles only for which there were repetitions enough.
        memory_mb: of all processes together at their peak, in MB of 1e6 bytes.
        memory_source: how that was read, in words.
        repetitions: that the figures rest on.
        steady: whether the warm-up ended because the latencies were steady.
    """

    cell: Cell
    seconds: float
    throughput: float | None = None
    latency_ms: Mapping[str, float] = field(default_factory=dict)
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
class Course:
    """All that was asked for.

    Attributes:
        max_processes: processes go from 1 to this.
        max_latency_ms: beyond this latency larger batches are not tried; None tries all.
    """

    batches: tuple[int, ...]
    max_processes: int = 1
    max_latency_ms: float | None = None

    def cells(self) -> tuple[Cell, ...]:
        """Return all cells: one process first, small batches first."""
        return tuple(Cell(p, b) for p in range(1, self.max_processes + 1) for b in sorted(self.batches))

    def remaining(self, results: Sequence[Result]) -> tuple[Cell, ...]:
        """Return the cells that are neither done nor ruled out."""
        done = {result.cell for result in results}
        return tuple(c for c in self.cells() if c not in done and self.ruled_out(c, results) is None)

    def ruled_out(self, cell: Cell, results: Iterable[Result]) -> str | None:
        """Return why a cell is not worth trying: none larger than one that failed is. None if it is worth it."""
        for result in results:
            smaller = result.cell.batch <= cell.batch and result.cell.processes <= cell.processes
            if smaller and result.cell != cell:
                reason = self.stop(result)
                if reason:
                    return reason
        return None

    def stop(self, result: Result) -> str | None:
        """Return why nothing larger than this cell is tried, None if it may be."""
        at = f"batch {result.cell.batch}, {_processes(result.cell.processes)}"
        if result.out_of_memory:
            return f"memory ran out at {at}"
        if self.max_latency_ms is not None and result.worst_ms > self.max_latency_ms:
            return f"{at} took {result.worst_ms:.4g} ms, over --max-latency-ms {self.max_latency_ms:g}"
        return None

    def seconds_left(self, results: Sequence[Result], *, guess: float) -> float:
        """Return the seconds still to go, as the cells until now took; by a guess before there are any."""
        each = mean(result.seconds for result in results) if results else guess
        return each * len(self.remaining(results))


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"
