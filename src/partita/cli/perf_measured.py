"""What `partita perf measure` does once it knows what to measure: it carries it out and tells how it goes."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from partita import __version__
from partita.cli.options import echo, stderr
from partita.cli.perf_table import write
from partita.errors import PartitaError
from partita.perf.measure.measurement import measure, to_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from partita.perf.measure.cell import GridPoint, Meter, PointResult, Setup
    from partita.perf.measure.measurement import Grid, MeasurementJournal, MeasurementProgress
    from partita.perf.table import PerfTable


@dataclass(frozen=True, slots=True)
class Target:
    """Where the table goes, the model's name in it, and the version of ONNX Runtime."""

    out: Path | None
    model: str
    version: str


def tell_plan(setup: Setup, course: Grid, journal: MeasurementJournal) -> None:
    """Write what would be measured to stdout."""
    device, effort, left = setup.device, setup.effort, len(course.remaining(journal.results))
    echo(f"model      {setup.path}")
    for each in setup.feed.inputs:
        shape = ", ".join("batch" if size is None else str(size) for size in each.dims)
        echo(f"input      {each.name}: {each.dtype}[{shape}]")
    echo(f"device     {device.title}; in the table {device.gpu} {device.profile}")
    echo(f"batches    {', '.join(map(str, course.batches))}")
    echo(f"processes  {'1' if course.max_processes == 1 else f'1 to {course.max_processes}'}")
    echo(f"cells      {len(course.cells())}, {left} of them left")
    least, most = effort.seconds * left, (effort.max_seconds + effort.warmup_seconds) * left
    echo(f"time       {_duration(least)} to {_duration(most)}, and loading the model once a cell and process")


def carry_out(setup: Setup, course: Grid, journal: MeasurementJournal, meter: Meter, target: Target) -> None:
    """Measure, and write the table, also when interrupted.

    Raises:
        typer.Exit: with 130, it was interrupted.
        PartitaError: a process failed, or nothing could be measured.
    """
    if journal.results:
        echo(f"going on from {journal.path}: {len(journal.results)} cells are done", err=True)
    try:
        with _telling(setup) as tell:
            measure(setup, course, journal, meter, tell)
    except KeyboardInterrupt:
        table = _table(setup, journal, target)
        if len(table):
            _write(table, target)
        echo(_interrupted(course, journal), err=True)
        raise typer.Exit(130) from None
    for reason in _reasons(course, journal.results):
        echo(f"note: {reason}; nothing larger is tried", err=True)
    table = _table(setup, journal, target)
    if not len(table):
        raise PartitaError(
            "no cell could be measured",
            where=str(setup.path),
            hint="try smaller batches or longer --max-seconds",
        )
    _write(table, target)
    journal.done()


def _write(table: PerfTable, target: Target) -> None:
    write(table, target.out)


def _table(setup: Setup, journal: MeasurementJournal, target: Target) -> PerfTable:
    where = f", {setup.cores} cores shared out" if setup.effort.threads is None else ""
    where = f", {setup.effort.threads} threads a process" if setup.effort.threads else where
    on_cpu = where if setup.device.kind == "cpu" else ""
    made_by = (
        f"partita {__version__} perf measure, {datetime.now(tz=UTC):%Y-%m-%d}, "
        f"ONNX Runtime {target.version}{on_cpu}"
    )
    return to_table(journal.results, model=target.model, device=setup.device, made_by=made_by)


def _reasons(course: Grid, results: tuple[PointResult, ...]) -> tuple[str, ...]:
    """Return why cells were not tried, each reason once."""
    done = {result.cell for result in results}
    found = (course.ruled_out(cell, results) for cell in course.cells() if cell not in done)
    return tuple(dict.fromkeys(reason for reason in found if reason))


def _interrupted(course: Grid, journal: MeasurementJournal) -> str:
    left = len(course.remaining(journal.results))
    if journal.path is None:
        return f"interrupted with {left} cells left; only with --out FILE can it go on from there"
    return f"interrupted with {left} cells left; the same command goes on with them"


@contextmanager
def _telling(setup: Setup) -> Iterator[Callable[[MeasurementProgress], None]]:
    """Yield what tells progress on stderr: a line for each finished cell; on a terminal also what runs now."""
    console = stderr()
    echo(f"measuring {setup.path} on {setup.device.title}", err=True)
    if not console.is_terminal:
        yield lambda progress: _tell_result(progress, setup, lambda line: echo(line, err=True))
        return
    with console.status("...") as status:

        def tell(progress: MeasurementProgress) -> None:
            if progress.result is None:
                left = f"about {_duration(progress.seconds_left)} left"
                status.update(f"{_named(progress.cell)}, cell {progress.done + 1}, {left}")
            else:
                _tell_result(progress, setup, lambda line: console.print(line, markup=False))

        yield tell


def _tell_result(progress: MeasurementProgress, setup: Setup, say: Callable[[str], None]) -> None:
    result = progress.result
    if result is None:
        return
    left = f", about {_duration(progress.seconds_left)} left" if progress.left else ""
    say(f"{_named(result.cell)}: {_figures(result)}{left}")
    missing = [each for each in setup.effort.quantiles if each not in result.latency_ms]
    if missing and not result.out_of_memory:
        quantiles = ", ".join(f"p{100 * float(each):g}" for each in missing)
        say(f"note: {result.repetitions} repetitions are too few for {quantiles}; raise --max-seconds")
    if not result.steady:
        say("note: its latencies were not steady after the warm-up")


def _figures(result: PointResult) -> str:
    if result.throughput is None:
        return "memory ran out"
    shown = [f"{result.throughput:.4g} items/s"]
    shown += [f"p{100 * float(each):g} {value:.4g} ms" for each, value in result.latency_ms.items()]
    optional = (
        (result.memory_mb, "{:,.0f} MB"),
        (result.power_w, "{:.0f} W"),
        (result.utilization, "{:.0%} busy"),
    )
    return ", ".join(shown + [form.format(value) for value, form in optional if value is not None])


def _named(cell: GridPoint) -> str:
    return f"batch {cell.batch}, {cell.processes} process" + ("" if cell.processes == 1 else "es")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
