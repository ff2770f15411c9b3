"""What `partita perf check` says of tables."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from partita.cli.options import Format, emit, stdout
from partita.cli.perf_table import plural
from partita.mig.catalogue import gpu_model
from partita.perf.estimate import plain_profiles

if TYPE_CHECKING:
    from partita.perf.table import Measurement, PerfTable

ESTIMATED = "≈ estimated by a formula, not measured"


@dataclass(frozen=True, slots=True)
class Holding:
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


def summary(table: PerfTable) -> list[Holding]:
    """Return what a table holds, model by model."""
    return [_holding(table.of(model, gpu)) for model in table.models for gpu in table.gpus(model)]


def _holding(rows: tuple[Measurement, ...]) -> Holding:
    gpu = gpu_model(rows[0].gpu)
    counts = {p.name: sum(row.profile == p.name for row in rows) for p in gpu.profiles}
    return Holding(
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


def render(holdings: list[Holding], form: Format) -> None:
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
        f"{plural(sum(each.rows for each in holdings), 'row')}, {plural(len(models), 'model')}, "
        f"{plural(len(gpus), 'GPU')}. No row on a profile: it is not planned there."
    )
    if any(each.estimated for each in holdings):
        console.print(ESTIMATED)


def _short(name: str, holding: Holding) -> str:
    """Return the size alone, as in `2g`, where no other profile there is has it."""
    size, _, _ = name.partition(".")
    alike = [other for other in (*holding.profiles, *holding.missing) if other.startswith(f"{size}.")]
    return name if len(alike) > 1 else size


def _span(values: list[int]) -> str:
    return f"{values[0]}-{values[-1]}" if len(values) > 1 else str(values[0])
