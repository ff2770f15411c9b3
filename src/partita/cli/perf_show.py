"""What `partita perf show` draws: best throughput and operating point per profile, and the shape by batch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from partita.cli.options import Format, echo, emit, stdout
from partita.cli.perf_check import ESTIMATED
from partita.errors import InputError
from partita.mig.catalogue import gpu_model
from partita.perf.operating_point import (
    Limits,
    ModelClass,
    OperatingPoint,
    model_classes,
    operating_points,
    strictest,
)

if TYPE_CHECKING:
    from rich.console import Console

    from partita.perf.table import Measurement, PerfTable

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


def render(found: list[View], asked: Asked, form: Format) -> None:
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
