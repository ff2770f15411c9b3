"""`partita perf`: performance tables, read, shown, imported, estimated and measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from partita.cli import perf_import, perf_measure
from partita.cli.output import Format, Output, echo, emit, stdout
from partita.cli.perf_table import Out, batch_sizes, write
from partita.errors import InputError, counted, nearest
from partita.mig.catalogue import gpu_meant, gpu_model
from partita.perf.estimate import ModelWork, estimate_table, plain_profiles, read_works
from partita.perf.operating_point import (
    Limits,
    ModelClass,
    OperatingPoint,
    model_classes,
    operating_points,
    strictest,
)
from partita.perf.reading import quantile_text, read_tables
from partita.perf.table import PerfTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from partita.perf.table import Measurement


app = typer.Typer(no_args_is_help=True)
app.add_typer(perf_import.app, name="import")
app.command("measure")(perf_measure.measure_command)

Tables = Annotated[list[Path], typer.Argument(metavar="FILE", help="Tables, CSV or Parquet; - is stdin.")]


@app.callback()
def perf() -> None:
    """Performance tables: what a model does on a slice. Check, show, import, estimate and measure them."""


@app.command()
def check(files: Tables, output: Output = Format.TABLE) -> None:
    """Check tables: say what they contain and what is missing; exit with 2 and all errors if they cannot be used."""
    table = read_tables(files)
    render_check(summary(table), output)
    for note in table.notes:
        echo(f"note: {note}", err=True)


@app.command()
def show(
    files: Tables,
    *,
    model: Annotated[str | None, typer.Option(help="Show only this model.")] = None,
    gpu: Annotated[str | None, typer.Option(help="Show only this GPU.")] = None,
    slo: Annotated[float | None, typer.Option(help="Latency of a batch to keep, in milliseconds.")] = None,
    quantile: Annotated[
        str | None, typer.Option(help="Latency at this quantile, 0.9, p99 or mean; by default the strictest.")
    ] = None,
    max_processes: Annotated[
        int | None, typer.Option(min=1, help="Most processes on an instance; by default all in the table.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Show the best throughput of each profile, the operating point under an SLO, and the throughput by batch."""
    if slo is not None and not slo > 0:
        raise InputError(
            f"an SLO of {slo:g} ms cannot be kept", where="--slo", hint="give milliseconds above zero"
        )
    table = _selected(read_tables(files), model, gpu)
    asked = Asked(None if quantile is None else quantile_text(quantile), slo, max_processes)
    render_show(views(table, asked), asked, output)


@app.command()
def estimate(
    works: Annotated[
        Path | None,
        typer.Argument(metavar="WORKS", help="CSV of works: model,gflop,mbytes,weights_mb,precision,..."),
    ] = None,
    *,
    gpu: Annotated[list[str], typer.Option(help="GPU to estimate for. Repeatable.")],
    model: Annotated[str | None, typer.Option(help="Name of one model, without a file of works.")] = None,
    gflop: Annotated[float | None, typer.Option(help="Its operations per item, in 1e9.")] = None,
    mbytes: Annotated[float | None, typer.Option(help="Its activations moved per item, in MB.")] = None,
    weights_mb: Annotated[float | None, typer.Option(help="Its weights in MB.")] = None,
    precision: Annotated[str, typer.Option(help="Its precision: fp32, tf32, fp16, int8.")] = "tf32",
    kernels: Annotated[int, typer.Option(min=1, help="Kernels per batch, about one per operator.")] = 174,
    batches: Annotated[str, typer.Option(help="Batch sizes.")] = "1,2,4,8,16,32,64,128",
    max_processes: Annotated[int, typer.Option(min=1, help="Most processes on an instance.")] = 1,
    out: Out = None,
) -> None:
    """Estimate models that nobody measured, from their work and the GPU's peak rates."""
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
        raise InputError("no model fits any profile", hint="choose a lower precision or a larger GPU")
    write(PerfTable(rows), out)


def _selected(table: PerfTable, model: str | None, gpu: str | None) -> PerfTable:
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


ESTIMATED = "≈ estimated by a formula, not measured"


@dataclass(frozen=True, slots=True)
class TableContents:
    """What tables hold of one model on one GPU, and which profiles have no row."""

    model: str
    gpu: str
    rows: int
    estimated: int
    profiles: dict[str, int]
    missing: list[str]
    batches: list[int]
    processes: list[int]
    quantiles: list[str]


def summary(table: PerfTable) -> list[TableContents]:
    """Return what a table holds, model by model."""
    return [_holding(table.of(model, gpu)) for model in table.models for gpu in table.gpus(model)]


def _holding(rows: tuple[Measurement, ...]) -> TableContents:
    gpu = gpu_model(rows[0].gpu)
    counts = {p.name: sum(row.profile == p.name for row in rows) for p in gpu.profiles}
    return TableContents(
        model=rows[0].model,
        gpu=gpu.name,
        rows=len(rows),
        estimated=sum(row.estimated for row in rows),
        profiles={name: count for name, count in counts.items() if count},
        missing=[p.name for p in plain_profiles(gpu) if not counts[p.name]],
        batches=sorted({row.batch for row in rows}),
        processes=sorted({row.processes for row in rows}),
        quantiles=sorted({row.quantile for row in rows}),
    )


def render_check(holdings: list[TableContents], form: Format) -> None:
    """Write the summary to stdout."""
    if form is not Format.TABLE:
        emit([asdict(holding) for holding in holdings], form)
        return
    console = stdout()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("model", "gpu"):
        table.add_column(name, overflow="fold")
    table.add_column("rows", justify="right")
    for name in ("profiles", "batch", "processes", "latency", "no row on"):
        table.add_column(name, overflow="fold")
    for each in holdings:
        table.add_row(
            escape(f"≈\N{NO-BREAK SPACE}{each.model}" if each.estimated else each.model),
            each.gpu,
            f"{each.rows:,}",
            " ".join(_short(name, each) for name in each.profiles),
            _span(each.batches),
            _span(each.processes),
            " ".join(each.quantiles),
            " ".join(each.missing) or "-",
        )
    console.print(table)
    console.print()
    models, gpus = {each.model for each in holdings}, {each.gpu for each in holdings}
    console.print(
        f"{counted(sum(each.rows for each in holdings), 'row')}, {counted(len(models), 'model')}, "
        f"{counted(len(gpus), 'GPU')}. No row on a profile: it is not planned there."
    )
    if any(each.estimated for each in holdings):
        console.print(ESTIMATED)


def _short(name: str, holding: TableContents) -> str:
    """Return the size alone, as in `2g`, where no other profile there is has it."""
    size, _, _ = name.partition(".")
    alike = [other for other in (*holding.profiles, *holding.missing) if other.startswith(f"{size}.")]
    return name if len(alike) > 1 else size


def _span(values: list[int]) -> str:
    return f"{values[0]}-{values[-1]}" if len(values) > 1 else str(values[0])


BLOCKS = " ▁▂▃▄▅▆▇█"
EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user asked for: quantile, SLO in milliseconds, most processes; None for no matter."""

    quantile: str | None
    slo_ms: float | None
    max_processes: int | None


@dataclass(frozen=True, slots=True)
class View:
    """One model on one GPU.

    Attributes:
        best: operating point per profile without an SLO.
        under: the same under the SLO, if one is asked for.
        by_batch: operating point per profile and batch without an SLO.
        by_batch_under: the same under the SLO.
    """

    model: str
    gpu: str
    quantile: str
    best: dict[str, OperatingPoint]
    under: dict[str, OperatingPoint]
    by_batch: dict[str, dict[int, OperatingPoint]]
    by_batch_under: dict[str, dict[int, OperatingPoint]]
    classes: dict[int, ModelClass]

    @property
    def estimated(self) -> bool:
        """Whether any row is an estimate."""
        return any(point.estimated for point in self.best.values())


def views(table: PerfTable, asked: Asked) -> list[View]:
    """Return what to show, model by model; a note on stderr names those without the asked quantile.

    Raises:
        InputError: none has it.
    """
    found = []
    for model in table.models:
        for gpu in table.gpus(model):
            rows = table.of(model, gpu)
            there = sorted({row.quantile for row in rows})
            if asked.quantile is not None and asked.quantile not in there:
                only = " ".join(there)
                echo(f"note: {model} on {gpu} has no latency at {asked.quantile}, only {only}", err=True)
            else:
                found.append(_view(rows, asked))
    if not found:
        raise InputError(f"no latency at quantile {asked.quantile}", where="--quantile", hint="leave it out")
    return found


def _view(rows: tuple[Measurement, ...], asked: Asked) -> View:
    gpu = gpu_model(rows[0].gpu)
    quantile = asked.quantile or strictest(row.quantile for row in rows) or "mean"
    most = asked.max_processes or max(row.processes for row in rows)
    free = Limits(inf, quantile, max_processes=most)
    slo = Limits(inf if asked.slo_ms is None else asked.slo_ms, quantile, max_processes=most)
    best = operating_points(rows, free)
    return View(
        model=rows[0].model,
        gpu=gpu.name,
        quantile=quantile,
        best={profile.name: best[profile.name] for profile in gpu.profiles if profile.name in best},
        under=operating_points(rows, slo),
        by_batch=_by_batch(rows, free),
        by_batch_under=_by_batch(rows, slo),
        classes=model_classes(rows, gpu),
    )


def _by_batch(rows: tuple[Measurement, ...], limits: Limits) -> dict[str, dict[int, OperatingPoint]]:
    found: dict[str, dict[int, OperatingPoint]] = {}
    for batch in sorted({row.batch for row in rows}):
        for profile, point in operating_points((row for row in rows if row.batch == batch), limits).items():
            found.setdefault(profile, {})[batch] = point
    return found


def render_show(found: list[View], asked: Asked, form: Format) -> None:
    """Write the views to stdout; with a single one, its throughput by batch as bars."""
    if form is not Format.TABLE:
        emit([_plain(view, asked) for view in found], form)
        return
    console = stdout()
    for view in found:
        _draw(console, view, asked)
        console.print()
    if len(found) == 1:
        _bars(console, found[0], asked)
        console.print()
    else:
        console.print("--model NAME draws the throughput of each batch.")
    if any(view.estimated for view in found):
        console.print(ESTIMATED)


def _plain(view: View, asked: Asked) -> dict[str, Any]:
    return {
        "model": view.model,
        "gpu": view.gpu,
        "quantile": view.quantile,
        "estimated": view.estimated,
        "slo_ms": asked.slo_ms,
        "best": [asdict(point) for point in view.best.values()],
        "operating_points": [asdict(view.under[name]) for name in view.best if name in view.under],
        "classes": [
            {"batch": batch, "class": str(each.growth), "ratio": round(each.ratio, 3)}
            for batch, each in view.classes.items()
        ],
    }


def _draw(console: Console, view: View, asked: Asked) -> None:
    latency = "mean latency" if view.quantile == "mean" else f"latency at quantile {view.quantile}"
    mark = "≈ " if view.estimated else ""
    console.print(Text.assemble((f"{mark}{view.model}", "bold"), f" on {view.gpu}, {latency}"))
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("profile")
    table.add_column("items/s", justify="right")
    table.add_column("/slice", justify="right")
    table.add_column("batch", justify="right")
    table.add_column("ms", justify="right")
    if asked.slo_ms is not None:
        table.add_column(f"in {asked.slo_ms:g} ms", justify="right")
        table.add_column("batch", justify="right")
        table.add_column("ms", justify="right")
    batches = sorted({batch for points in view.by_batch.values() for batch in points})
    table.add_column(f"batch {batches[0]} to {batches[-1]}" if len(batches) > 1 else "", no_wrap=True)
    gpu = gpu_model(view.gpu)
    for name, point in view.best.items():
        under = [] if asked.slo_ms is None else _cells(view.under.get(name))
        per_slice = f"{point.throughput / gpu.profile(name).compute:,.0f}"
        best = _cells(point)
        table.add_row(name, best[0], per_slice, *best[1:], *under, _spark(view.by_batch[name], batches))
    console.print(table)
    console.print(_class_line(view.classes))


def _cells(point: OperatingPoint | None) -> list[str]:
    """Throughput, batch (with processes) and latency as text; dashes where the SLO cannot be kept."""
    if point is None:
        return ["none", "-", "-"]
    batch = f"{point.batch}" if point.processes == 1 else f"{point.processes}x{point.batch}"
    mark = "≈" if point.estimated else ""
    return [f"{mark}{_number(point.throughput)}", batch, _number(point.latency_ms)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _spark(points: dict[int, OperatingPoint], batches: list[int]) -> str:
    """Return a block per batch, its height the throughput relative to the best of this profile."""
    peak = max(point.throughput for point in points.values())
    heights = [points[b].throughput / peak if b in points else 0.0 for b in batches]
    return "".join(BLOCKS[max(1, round(8 * height))] if height else " " for height in heights)


def _class_line(classes: dict[int, ModelClass]) -> str:
    if not classes:
        return "class: not known, no batch ran on the whole GPU and on a smaller profile"
    runs: list[tuple[str, list[int]]] = []
    for batch, each in classes.items():
        if not runs or runs[-1][0] != each.growth:
            runs.append((str(each.growth), []))
        runs[-1][1].append(batch)
    parts = [
        f"{name} at batch {found[0]}" + (f" to {found[-1]}" if len(found) > 1 else "") for name, found in runs
    ]
    return "class: " + ", ".join(parts)


def _bars(console: Console, view: View, asked: Asked) -> None:
    slo = "" if asked.slo_ms is None else f": █ within {asked.slo_ms:g} ms, ░ what more time would give"
    console.print(f"items/s by profile and batch, at the best number of processes{slo}")
    peak = max(point.throughput for point in view.best.values())
    label = max(len(name) for name in view.best)
    room = max(console.width - label - 24, 10)
    for name in view.best:
        head = name
        for batch, point in view.by_batch[name].items():
            under = view.by_batch_under.get(name, {}).get(batch)
            within = under.throughput if under else 0.0
            solid = _bar(within / peak * room)
            light = "░" * (round(point.throughput / peak * room) - len(solid))
            more = "" if within == point.throughput else f" of {_number(point.throughput)}"
            number = f" {_number(within)}{more}"
            line = Text.assemble(f"{head:<{label}} {batch:>4} ", (solid, "cyan"), (light, "dim"), number)
            console.print(line, no_wrap=True, overflow="crop")
            head = ""


def _bar(length: float) -> str:
    whole = int(length)
    return "█" * whole + EIGHTHS[int((length - whole) * 8)].strip()
