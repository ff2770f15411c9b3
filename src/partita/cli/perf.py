"""`partita perf`: performance tables, read, shown, imported, estimated and measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from partita.cli import perf_measure
from partita.cli.options import Format, Output, echo
from partita.cli.perf_table import batch_sizes, write
from partita.errors import InputError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.mig.gpu import GpuModel, Profile
    from partita.perf.estimate import ModelWork
    from partita.perf.table import PerfTable

perf = typer.Typer(
    help="Performance tables: what a model does on a slice. Check, show, import, estimate and measure them.",
    no_args_is_help=True,
)
imports = typer.Typer(help="Turn other tools' measurements into a performance table.", no_args_is_help=True)
perf.add_typer(imports, name="import")
perf.command("measure")(perf_measure.measure)

Tables = Annotated[list[Path], typer.Argument(metavar="FILE", help="Tables, CSV or Parquet; - is stdin.")]
Raw = Annotated[Path, typer.Argument(metavar="PATH", help="What the tool wrote.")]
Gpu = Annotated[str, typer.Option("--gpu", help="GPU that was measured, as `partita gpus` names it.")]
ProfileName = Annotated[str, typer.Option("--profile", help="MIG profile that was measured, as in 2g.20gb.")]
AnyModel = Annotated[str | None, typer.Option("--model", help="Name of the model.")]
Concurrency = Annotated[
    int | None, typer.Option(min=1, help="Keep rows with so many requests in flight; by default the fewest.")
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Write CSV, or Parquet, here and not to stdout.")
]


@perf.command()
def check(files: Tables, output: Output = Format.TABLE) -> None:
    """Read tables, say what they hold and what is missing; exit 2 with all faults if they cannot be used."""
    from partita.cli import perf_check  # noqa: PLC0415 -- rich is slow to import
    from partita.perf.reading import read_tables  # noqa: PLC0415

    table = read_tables(files)
    perf_check.render(perf_check.summary(table), output)
    for note in table.notes:
        echo(f"note: {note}", err=True)


@perf.command()
def show(
    files: Tables,
    *,
    model: Annotated[str | None, typer.Option(help="Show this model alone.")] = None,
    gpu: Annotated[str | None, typer.Option(help="Show this GPU alone.")] = None,
    slo: Annotated[float | None, typer.Option(help="Latency of a batch to keep, in milliseconds.")] = None,
    quantile: Annotated[
        str | None, typer.Option(help="Latency at this quantile, 0.9, p99 or mean; by default the strictest.")
    ] = None,
    max_processes: Annotated[
        int | None, typer.Option(min=1, help="Most processes on an instance; by default all in the table.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Show the best throughput of each profile, the operating point under an SLO, and the shape by batch."""
    from partita.cli import perf_show  # noqa: PLC0415 -- rich is slow to import
    from partita.perf.columns import quantile_text  # noqa: PLC0415
    from partita.perf.reading import read_tables  # noqa: PLC0415

    if slo is not None and not slo > 0:
        raise InputError(
            f"an SLO of {slo:g} ms cannot be kept", where="--slo", hint="give milliseconds above zero"
        )
    table = _selected(read_tables(files), model, gpu)
    asked = perf_show.Asked(None if quantile is None else quantile_text(quantile), slo, max_processes)
    perf_show.render(perf_show.views(table, asked), asked, output)


@imports.command()
def parvagpu(path: Raw, gpu: Gpu = "a100-80gb", model: AnyModel = None, out: Out = None) -> None:
    """Import ParvaGPU's raw tables: a file, or the folder prof_data with one file per model."""
    from partita.mig.catalogue import gpu_meant  # noqa: PLC0415 -- not needed for --help
    from partita.perf.importers import import_parvagpu  # noqa: PLC0415

    write(import_parvagpu(path, gpu_meant(gpu), model=model), out)


@imports.command()
def perf_analyzer(
    path: Raw,
    *,
    gpu: Gpu,
    profile: ProfileName,
    model: Annotated[str, typer.Option(help="Name of the model, which the file does not say.")],
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Items per request (-b).  [default: the column Batch Size, or else 1]"),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Servers or model instances on the slice.")] = 1,
    concurrency: Concurrency = None,
    out: Out = None,
) -> None:
    """Import the CSV that Triton's perf_analyzer writes with -f."""
    from partita.mig.catalogue import gpu_meant  # noqa: PLC0415 -- not needed for --help
    from partita.perf.importers import import_perf_analyzer  # noqa: PLC0415 -- not for --help

    measured = gpu_meant(gpu)
    told = _profile(measured, profile)
    table = import_perf_analyzer(
        path, measured.name, told, model=model, batch=batch, processes=processes, concurrency=concurrency
    )
    write(table, out)


@imports.command()
def model_analyzer(
    path: Raw,
    *,
    gpu: Gpu,
    profile: ProfileName,
    model: Annotated[str | None, typer.Option(help="Import this model alone.")] = None,
    concurrency: Concurrency = None,
    out: Out = None,
) -> None:
    """Import the metrics-model-inference.csv that Triton's Model Analyzer writes."""
    from partita.mig.catalogue import gpu_meant  # noqa: PLC0415 -- not needed for --help
    from partita.perf.importers import import_model_analyzer  # noqa: PLC0415 -- not for --help

    measured = gpu_meant(gpu)
    told = _profile(measured, profile)
    write(import_model_analyzer(path, measured.name, told, model=model, concurrency=concurrency), out)


@imports.command()
def migprofiler(
    path: Raw,
    *,
    gpu: Gpu,
    profile: Annotated[
        str | None, typer.Option(help="MIG profile that was measured, where the file does not say it.")
    ] = None,
    model: AnyModel = None,
    seq_length: Annotated[int | None, typer.Option(min=1, help="Keep this sequence length.")] = None,
    out: Out = None,
) -> None:
    """Import a CSV of MIGProfiler (MIGPerf): model_name, batch_size, latency, throughput, mig_profile."""
    from partita.mig.catalogue import gpu_meant  # noqa: PLC0415 -- not needed for --help
    from partita.perf.importers import import_migprofiler  # noqa: PLC0415

    measured = gpu_meant(gpu)
    told = None if profile is None else _profile(measured, profile)
    write(import_migprofiler(path, measured, profile=told, model=model, seq_length=seq_length), out)


@imports.command("csv")
def any_csv(
    path: Raw,
    *,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=COLUMN,...",
            help="Columns of the file by Partita's names, as in throughput='Items/s',latency_ms='p99 us * 0.001'.",
        ),
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE,...", help="One value for all rows, as in gpu=a100-80gb."),
    ] = None,
    out: Out = None,
) -> None:
    """Import any CSV, or JSON lines, by the names of its columns."""
    from partita.cli.pairs import pairs  # noqa: PLC0415 -- not needed for --help
    from partita.perf.importers import import_columns  # noqa: PLC0415

    table = import_columns(path, pairs(columns, "--columns"), pairs(values, "--set"))
    write(table, out)


@perf.command()
def estimate(
    works: Annotated[
        Path | None,
        typer.Argument(metavar="WORKS", help="CSV of works: model,gflop,mbytes,weights_mb,precision,..."),
    ] = None,
    *,
    gpu: Annotated[list[str], typer.Option(help="GPU to estimate for; can be given several times.")],
    model: Annotated[str | None, typer.Option(help="Name of one model, without a file of works.")] = None,
    gflop: Annotated[float | None, typer.Option(help="Its 1e9 operations per item.")] = None,
    mbytes: Annotated[float | None, typer.Option(help="Its activations moved per item, in MB.")] = None,
    weights_mb: Annotated[float | None, typer.Option(help="Its weights in MB.")] = None,
    precision: Annotated[str, typer.Option(help="Its precision: fp32, tf32, fp16, int8.")] = "tf32",
    kernels: Annotated[int, typer.Option(min=1, help="Kernels per batch, about one per operator.")] = 174,
    batches: Annotated[str, typer.Option(help="Batch sizes.")] = "1,2,4,8,16,32,64,128",
    max_processes: Annotated[int, typer.Option(min=1, help="Most processes on an instance.")] = 1,
    out: Out = None,
) -> None:
    """Estimate models that nobody measured, from their work and the GPU's peak rates."""
    from partita.mig.catalogue import gpu_meant  # noqa: PLC0415 -- not needed for --help
    from partita.perf.estimate import ModelWork, estimate_table, read_works  # noqa: PLC0415
    from partita.perf.table import PerfTable  # noqa: PLC0415

    given: Sequence[ModelWork]
    if works is not None and model is None:
        given = read_works(works)
    elif works is None and model and gflop and mbytes and weights_mb:
        given = [ModelWork(model, gflop, mbytes, weights_mb, precision, kernels)]
    else:
        raise InputError(
            "nothing to estimate, or two things at once",
            hint="give a file of works, or --model, --gflop, --mbytes and --weights-mb",
        )
    rows = []
    for name in dict.fromkeys(gpu):
        for work in given:
            found = estimate_table(
                work, gpu_meant(name), batches=batch_sizes(batches), max_processes=max_processes
            )
            if not len(found):
                echo(f"note: {work.model} fits no profile of {name}", err=True)
            rows += list(found)
    if not rows:
        raise InputError("no model fits any profile", hint="lower the precision, or choose a larger GPU")
    write(PerfTable(rows), out)


def _profile(gpu: GpuModel, profile: str) -> Profile:
    from partita.perf.columns import profile_name  # noqa: PLC0415 -- not needed for --help

    return gpu.profile(profile_name(profile))


def _selected(table: PerfTable, model: str | None, gpu: str | None) -> PerfTable:
    from partita.perf.table import PerfTable  # noqa: PLC0415 -- not needed for --help

    gpus = sorted({row.gpu for row in table})
    for option, value, known in (("--model", model, list(table.models)), ("--gpu", gpu, gpus)):
        if value is not None and value not in known:
            close = nearest(value, known)
            there = f"there are {', '.join(known[:8])}{', ...' if len(known) > 8 else ''}"
            raise InputError(
                f"no rows of {value!r}", where=option, hint=f"did you mean {close}?" if close else there
            )
    chosen = PerfTable(row for row in table if model in (None, row.model) and gpu in (None, row.gpu))
    if not len(chosen):
        raise InputError(f"no rows of {model!r} on {gpu!r}", where="--gpu")
    return chosen
