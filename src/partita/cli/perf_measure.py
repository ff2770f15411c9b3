"""`partita perf measure`: a performance table of a model on the device at hand."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from partita.cli.perf_table import batch_sizes
from partita.errors import InputError

if TYPE_CHECKING:
    from partita.perf.measure.cell import Effort, Meter, Setup
    from partita.perf.measure.measurement import Grid, MeasurementJournal

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
        help="Write CSV, or Parquet, here and not to stdout, and go on from where an earlier run stopped.",
    ),
]


def measure(
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
        int, typer.Option(min=1, max=64, help="Measure 1 to so many processes side by side.")
    ] = 1,
    quantiles: Annotated[str, typer.Option(help="Quantiles of the latency, a row each.")] = "p50,p90,p99",
    shapes: Shapes = None,
    batch_dim: Annotated[
        str, typer.Option(help="Where the batch is: position in the inputs, or a symbolic dimension's name.")
    ] = "0",
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of each process on a CPU; by default the cores, shared out."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.05, help="Measure each cell at least so long.")] = 3.0,
    max_seconds: Annotated[
        float,
        typer.Option(
            min=0.05,
            help="And at most so long; quantiles that would take more repetitions are left out, and that is said.",
        ),
    ] = 60.0,
    warmup_seconds: Annotated[
        float, typer.Option(min=0.0, help="Wait at most so long for steady latencies.")
    ] = 10.0,
    max_latency_ms: Annotated[
        float | None, typer.Option(min=0.001, help="Try no larger batch once one takes longer than this.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be measured, and measure nothing.")
    ] = False,
) -> None:
    """Measure a model on this CPU, GPU or MIG instance: throughput, latency, memory and power by batch and processes.

    Random inputs: normal floats, integers 0 or 1. Ctrl-C leaves a table of what is done; the same command goes on.
    """
    from partita.cli import perf_measured  # noqa: PLC0415 -- not needed for --help
    from partita.perf.measure.cell import Effort  # noqa: PLC0415
    from partita.perf.measure.inputs import parse_shapes  # noqa: PLC0415

    if max_seconds < seconds:
        raise InputError(
            f"at most {max_seconds:g} s and at least {seconds:g} s", where="--max-seconds", hint="raise it"
        )
    effort = Effort(_quantiles(quantiles), seconds, max_seconds, warmup_seconds, threads)
    given = parse_shapes(shapes or ())
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
        course = _course(found, batches, max_processes, max_latency_ms)
        journal = _journal(found, version, out)
        if dry_run:
            perf_measured.tell_plan(found, course, journal)
            return
        target = perf_measured.Target(out, name or model.stem, version)
        perf_measured.carry_out(found, course, journal, meter, target)


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
    import os  # noqa: PLC0415 -- not needed for --help

    from partita.perf.measure.cell import NoMeter, Setup  # noqa: PLC0415
    from partita.perf.measure.device import (  # noqa: PLC0415
        CUDA,
        NvmlMeter,
        choose_device,
        cores,
        declared_inputs,
        device_to_measure,
        nvml_library,
        providers,
        runtime,
    )
    from partita.perf.measure.inputs import feed  # noqa: PLC0415
    from partita.perf.measure.measurement import digest  # noqa: PLC0415

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


def _course(found: Setup, batches: str | None, max_processes: int, max_latency_ms: float | None) -> Grid:
    """Return the cells to measure; a model that knows one batch size alone has that one by default."""
    from partita.perf.measure.measurement import Grid  # noqa: PLC0415

    fixed = found.feed.fixed
    default = [fixed] if fixed else [2**power for power in range(8)]
    sizes = default if batches is None else batch_sizes(batches)
    if fixed and sizes != [fixed]:
        raise InputError(
            f"the model takes batches of {fixed} alone",
            where="--batches",
            hint=f"give --batches {fixed}, or export the model with a symbolic batch dimension",
        )
    return Grid(tuple(sizes), max_processes, max_latency_ms)


def _journal(found: Setup, version: str, out: Path | None) -> MeasurementJournal:
    from partita.perf.measure.measurement import (  # noqa: PLC0415 -- not needed for --help
        MeasurementJournal,
        journal_head,
    )

    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        what = "this is a directory, not a file" if out.is_dir() else f"there is no directory {out.parent}"
        raise InputError(what, where=str(out), hint="the table is written there at the end")
    return MeasurementJournal(out and out.with_name(f"{out.name}.measuring"), journal_head(found, version))


def _quantiles(text: str) -> tuple[str, ...]:
    from partita.perf.columns import quantile_text  # noqa: PLC0415 -- not needed for --help

    try:
        found = {quantile_text(part) for part in text.split(",")}
    except InputError as error:
        raise InputError(f"{text!r}: {error.what}", where="--quantiles", hint="write p50,p90,p99") from None
    if "mean" in found:
        raise InputError("a mean is no quantile", where="--quantiles", hint="write p50 for the median")
    return tuple(sorted(found, key=float))
