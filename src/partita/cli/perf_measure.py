"""`partita perf measure`: a performance table of a model on the device at hand."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from partita import __version__
from partita.cli.output import echo, stderr
from partita.cli.perf_table import batch_sizes, write
from partita.errors import InputError, PartitaError
from partita.perf.measure.cell import Effort, Setup
from partita.perf.measure.device import (
    CUDA,
    NoMeter,
    NvmlMeter,
    choose_device,
    cores,
    declared_inputs,
    device_to_measure,
    nvml_library,
    providers,
    runtime,
)
from partita.perf.measure.inputs import feed, parse_shapes
from partita.perf.measure.measurement import Grid, MeasurementJournal, digest, journal_head, measure, to_table
from partita.perf.reading import quantile_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from partita.perf.measure.cell import GridPoint, PointResult
    from partita.perf.measure.device import Meter
    from partita.perf.measure.measurement import MeasurementProgress
    from partita.perf.table import PerfTable


Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="NAME=SIZES",
        help="Sizes of an input, x=1x3x224x224, or of a symbolic dimension, tokens=128. Can be given several times.",
    ),
]
DeviceName = Annotated[
    str | None,
    typer.Option(
        metavar="cpu|INDEX|UUID",
        help="What to measure; by default the first of CUDA_VISIBLE_DEVICES, else GPU 0 where ONNX Runtime can use "
        "it, else the CPU.",
    ),
]
StandIn = Annotated[
    str | None,
    typer.Option(
        "--as",
        metavar="GPU/PROFILE",
        help="Have a CPU's figures, or an unknown GPU's, stand in for a GPU's, as in a100-80gb/3g.40gb; the rows say "
        "so and count as estimated.",
    ),
]
OutFile = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        help="Write CSV, or Parquet, to this file instead of stdout, and continue an earlier run.",
    ),
]


def measure_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model, an ONNX file.")],
    *,
    out: OutFile = None,
    name: Annotated[str | None, typer.Option(help="Name of the model; by default the file's.")] = None,
    device: DeviceName = None,
    stand_in: StandIn = None,
    batches: Annotated[
        str | None,
        typer.Option(help="Batch sizes; by default 1,2,4,8,16,32,64,128, or the only one it takes."),
    ] = None,
    max_processes: Annotated[
        int, typer.Option(min=1, max=64, help="Measure 1 to this many processes side by side.")
    ] = 1,
    quantiles: Annotated[str, typer.Option(help="Quantiles of the latency, a row each.")] = "p50,p90,p99",
    shapes: Shapes = None,
    batch_dim: Annotated[
        str, typer.Option(help="Where the batch is: position in the inputs, or a symbolic dimension's name.")
    ] = "0",
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="Threads of each process on a CPU; by default the cores, divided among them."
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.05, help="Measure each cell at least this long.")] = 3.0,
    max_seconds: Annotated[
        float,
        typer.Option(
            min=0.05,
            help="And at most this long; quantiles that need more repetitions are left out, with a note.",
        ),
    ] = 60.0,
    warmup_seconds: Annotated[
        float, typer.Option(min=0.0, help="Wait at most this long for steady latencies.")
    ] = 10.0,
    max_latency_ms: Annotated[
        float | None, typer.Option(min=0.001, help="Try no larger batch once one takes longer than this.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be measured, and measure nothing.")
    ] = False,
) -> None:
    """Measure a model on this CPU, GPU or MIG instance: throughput, latency, memory and power by batch and processes.

    Random inputs: normal floats, integers 0 or 1. After Ctrl-C the table has the finished rows; the same command
    continues.
    """
    if max_seconds < seconds:
        raise InputError(
            f"at most {max_seconds:g} s and at least {seconds:g} s", where="--max-seconds", hint="raise it"
        )
    effort = Effort(_quantiles(quantiles), seconds, max_seconds, warmup_seconds, threads)
    given, sizes = parse_shapes(shapes or ()), None if batches is None else batch_sizes(batches)
    _require_folder(out)
    with ExitStack() as stack:
        found, version, meter = _setup(
            model,
            asked=device,
            stand_in=stand_in,
            given=given,
            batch_dim=batch_dim,
            effort=effort,
            stack=stack,
        )
        course = _course(found, sizes, max_processes, max_latency_ms)
        journal = _journal(found, version, out)
        if dry_run:
            tell_plan(found, course, journal)
            return
        target = Target(out, name or model.stem, version)
        carry_out(found, course, journal, meter, target)


def _setup(
    path: Path,
    *,
    asked: str | None,
    stand_in: str | None,
    given: dict[str, tuple[int, ...]],
    batch_dim: str,
    effort: Effort,
    stack: ExitStack,
) -> tuple[Setup, str, Meter]:
    """Return what is measured, ONNX Runtime's version, and the device's meter; NVML stays open in the stack."""
    digest(path)  # a file that is not there is told before anything is started
    there = runtime()
    wanted = device_to_measure(asked, os.environ, has_cuda=CUDA in there.providers)
    meter: Meter = NoMeter()
    if wanted.lower() == "cpu":
        device = choose_device(wanted, there, stand_in)
    else:
        stack.enter_context(nvml_library())
        device = choose_device(wanted, there, stand_in)
        meter = NvmlMeter(device)
    fed = feed(declared_inputs(path, device), given, batch_dim)
    setup = Setup(path, fed, device, providers(device), effort, cores())
    return setup, there.version, meter


def _course(found: Setup, asked: list[int] | None, max_processes: int, max_latency_ms: float | None) -> Grid:
    """Return the cells to measure; a model that knows one batch size alone has that one by default."""
    fixed = found.feed.fixed
    default = [fixed] if fixed else [2**power for power in range(8)]
    sizes = default if asked is None else asked
    if fixed and sizes != [fixed]:
        raise InputError(
            f"the model takes only batches of {fixed}",
            where="--batches",
            hint=f"give --batches {fixed}, or export the model with a symbolic batch dimension",
        )
    return Grid(tuple(sizes), max_processes, max_latency_ms)


def _require_folder(out: Path | None) -> None:
    """Refuse a file that cannot be written in the end.

    Raises:
        InputError: it is a directory, or its directory is not there.
    """
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        what = "this is a directory, not a file" if out.is_dir() else f"there is no directory {out.parent}"
        raise InputError(what, where=str(out), hint="the table is written there at the end")


def _journal(found: Setup, version: str, out: Path | None) -> MeasurementJournal:
    return MeasurementJournal(out and out.with_name(f"{out.name}.measuring"), journal_head(found, version))


def _quantiles(text: str) -> tuple[str, ...]:
    try:
        found = {quantile_text(part) for part in text.split(",")}
    except InputError as error:
        raise InputError(f"{text!r}: {error.what}", where="--quantiles", hint="write p50,p90,p99") from None
    if "mean" in found:
        raise InputError("a mean is not a quantile", where="--quantiles", hint="write p50 for the median")
    return tuple(sorted(found, key=float))


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
