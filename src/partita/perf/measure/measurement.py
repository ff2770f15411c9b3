"""A measurement: the grid of batch sizes and processes, the cells that are done, and the rows of the table."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any

from partita.documents.codec import DocumentSource, Value, convert
from partita.documents.text import line
from partita.errors import InputError
from partita.files import json_value, reading
from partita.perf.measure.cell import GridPoint, PointResult, measure_cell
from partita.perf.table import Measurement, PerfTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from partita.perf.measure.cell import Setup
    from partita.perf.measure.device import Device, Meter


_HEAD_WORDS = {
    "model": "the model's file",
    "device": "the device",
    "inputs": "the shapes of its inputs",
    "settings": "the quantiles, seconds or threads asked for",
    "runtime": "ONNX Runtime",
}


@dataclass(frozen=True, slots=True)
class Grid:
    """The cells that were asked for.

    Attributes:
        max_processes: processes go from 1 to this.
        max_latency_ms: beyond this latency larger batches are not tried; None tries all.
    """

    batches: tuple[int, ...]
    max_processes: int = 1
    max_latency_ms: float | None = None

    def cells(self) -> tuple[GridPoint, ...]:
        """Return all cells: one process first, small batches first."""
        return tuple(GridPoint(p, b) for p in range(1, self.max_processes + 1) for b in sorted(self.batches))

    def remaining(self, results: Sequence[PointResult]) -> tuple[GridPoint, ...]:
        """Return the cells that are neither done nor ruled out."""
        done = {result.cell for result in results}
        return tuple(c for c in self.cells() if c not in done and self.ruled_out(c, results) is None)

    def ruled_out(self, cell: GridPoint, results: Iterable[PointResult]) -> str | None:
        """Return why a cell is not tried: it is larger than one that failed. None if it is tried."""
        for result in results:
            smaller = result.cell.batch <= cell.batch and result.cell.processes <= cell.processes
            if smaller and result.cell != cell:
                reason = self.stop(result)
                if reason:
                    return reason
        return None

    def stop(self, result: PointResult) -> str | None:
        """Return why nothing larger than this cell is tried, None if it may be."""
        at = f"batch {result.cell.batch}, {_processes(result.cell.processes)}"
        if result.out_of_memory:
            return f"memory ran out at {at}"
        if self.max_latency_ms is not None and result.worst_ms > self.max_latency_ms:
            return f"{at} took {result.worst_ms:.4g} ms, over --max-latency-ms {self.max_latency_ms:g}"
        return None

    def seconds_left(self, results: Sequence[PointResult], *, guess: float) -> float:
        """Return the seconds left, if cells take as long as those so far; by a guess before the first."""
        each = mean(result.seconds for result in results) if results else guess
        return each * len(self.remaining(results))


@dataclass(frozen=True, slots=True)
class MeasurementProgress:
    """How far a measurement is.

    Attributes:
        result: of the cell that has just ended; None when one begins.
        seconds_left: if cells take as long as those so far.
    """

    cell: GridPoint
    done: int
    left: int
    seconds_left: float
    result: PointResult | None = None


def measure(
    setup: Setup,
    grid: Grid,
    journal: MeasurementJournal,
    meter: Meter,
    tell: Callable[[MeasurementProgress], None],
) -> None:
    """Measure all cells that are neither done nor ruled out; each is in the journal before the next begins.

    Raises:
        InputError: the model cannot be run.
        PartitaError: a process failed.
    """
    guess = setup.effort.seconds + setup.effort.warmup_seconds / 4
    while remaining := grid.remaining(journal.results):
        cell = remaining[0]
        left = grid.seconds_left(journal.results, guess=guess)
        tell(MeasurementProgress(cell, len(journal.results), len(remaining), left))
        result = measure_cell(setup, cell, meter)
        journal.add(result)
        remaining = grid.remaining(journal.results)
        left = grid.seconds_left(journal.results, guess=guess)
        tell(MeasurementProgress(cell, len(journal.results), len(remaining), left, result))


def journal_head(setup: Setup, version: str) -> dict[str, Any]:
    """Return what must not change between the parts of one measurement.

    Raises:
        InputError: the model cannot be read.
    """
    effort, device = setup.effort, setup.device
    return {
        "model": digest(setup.path),
        "device": f"{device.gpu} {device.profile}, {device.title}"
        + (f", {device.uuid}" if device.uuid else ""),
        "inputs": [[each.name, each.dtype, list(each.dims)] for each in setup.feed.inputs],
        "settings": [list(effort.quantiles), effort.seconds, effort.max_seconds, effort.threads, setup.cores],
        "runtime": version,
    }


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def digest(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        InputError: it cannot be read.
    """
    with reading(path), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class JournalHead(Value):
    """The first line of a journal: what must be the same for results to belong together."""

    head: dict[str, Any]


class MeasurementJournal:
    """The finished cells of one measurement; each is on the disk before the next begins.

    Args:
        path: the journal's file; None keeps nothing.
        head: what must be the same for results to belong together: model, device, inputs, settings, runtime.
    """

    def __init__(self, path: Path | None, head: Mapping[str, Any]) -> None:
        self.path = path
        self._head = json.loads(json.dumps(head))
        self._whole = 0
        self.results = self._read()

    def add(self, result: PointResult) -> None:
        """Keep a result.

        Raises:
            InputError: the file cannot be written to.
        """
        self.results = (*self.results, result)
        if self.path is None:
            return
        lines = [result] if self._whole else [JournalHead(self._head), result]
        text = "".join(line(each) + "\n" for each in lines).encode()
        try:
            self._write(self.path, text)
        except KeyboardInterrupt:
            self._write(
                self.path, text
            )  # the cell is measured: what was interrupted half-way is written whole
            raise

    def _write(self, path: Path, text: bytes) -> None:
        """Put text behind the finished cells, in the place of any part of it."""
        try:
            with path.open("r+b" if self._whole else "wb") as stream:
                stream.seek(self._whole)
                stream.truncate()
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror}", where=str(path)) from None
        self._whole += len(text)

    def done(self) -> None:
        """Delete the journal: the table is complete."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _read(self) -> tuple[PointResult, ...]:
        if self.path is None or not self.path.exists():
            return ()
        try:
            content = self.path.read_bytes()
        except OSError:
            raise InputError("cannot be read", where=str(self.path), hint=self._away()) from None
        # The measurement was killed while it wrote what follows the last line's end.
        whole = content[: content.rfind(b"\n") + 1]
        if not whole:
            return ()
        source = DocumentSource(str(self.path))
        try:
            first, *rows = map(json_value, whole.splitlines())
            head = convert(first, JournalHead, source).head
            found = tuple(convert(row, PointResult, source) for row in rows)
        except (ValueError, InputError):
            raise InputError(
                "this is not the journal of a measurement", where=str(self.path), hint=self._away()
            ) from None
        self._compare(head)
        self._whole = len(whole)
        return found

    def _compare(self, there: Mapping[str, Any]) -> None:
        for name, value in self._head.items():
            if there.get(name) != value:
                raise InputError(
                    f"{_HEAD_WORDS[name]} changed since this measurement began: {there.get(name)} then, {value} now",
                    where=str(self.path),
                    hint=f"measure as then, or start again: {self._away()}",
                )

    def _away(self) -> str:
        return f"`rm {self.path}`"


def to_table(results: Iterable[PointResult], *, model: str, device: Device, made_by: str) -> PerfTable:
    """Return one row for each quantile of each cell that ran.

    A stand-in's rows count as estimated, so that plans mark what uses them.

    Args:
        results: what was measured.
        model: its name in the table.
        device: where it was measured.
        made_by: the program, date and runtime, in words.
    """
    rows = [
        Measurement(
            model=model,
            gpu=device.gpu,
            profile=device.profile,
            batch=result.cell.batch,
            processes=result.cell.processes,
            throughput=_rounded(result.throughput),
            latency_ms=_rounded(latency),
            quantile=quantile,
            memory_mb=_maybe(result.memory_mb),
            utilization=_maybe(result.utilization),
            power_w=_maybe(result.power_w),
            source=_row_source(result, device, made_by),
            estimated=device.stand_in,
        )
        for result in sorted(results, key=lambda each: each.cell)
        if result.throughput is not None
        for quantile, latency in sorted(result.latency_ms.items(), key=lambda each: float(each[0]))
    ]
    return PerfTable(rows)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")  # repetitions differ by more


def _maybe(value: float | None) -> float | None:
    return None if value is None else _rounded(value)


def _row_source(result: PointResult, device: Device, made_by: str) -> str:
    parts = [device.note, made_by, f"{result.repetitions} repetitions"]
    if result.memory_mb is not None:
        parts.append(f"memory: {result.memory_source}")
    if not result.steady:
        parts.append("latencies not steady before measuring")
    return "; ".join(parts)
