"""`partita simulate`: how many queries of one service would be answered in time."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from partita.cli.options import CutName, RouterName, pairs
from partita.cli.output import Format, Out, Output, WorkloadFile, clean, echo, emit, stdout
from partita.files import replacing
from partita.planner import read_prepared
from partita.simulator import Arrivals, SimulationRequest, ask, play, simulation_data
from partita.web.serving_report import serving_report


class ArrivalsName(StrEnum):
    """The arrival processes there are."""

    POISSON = "poisson"
    GAMMA = "gamma"
    DAY = "day"


Trace = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Queries to replay: CSV or JSON lines with seconds,batch, or a trace of Azure, BurstGPT or Mooncake.",
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=COLUMN,...",
        help="Columns of another trace: seconds and batch or tokens, as in "
        "seconds='ms * 0.001',tokens='Total tokens'.",
    ),
]
Html = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a report with plots.")]


def simulate(
    workload: WorkloadFile,
    *,
    service: Annotated[str | None, typer.Option(help="Service; needed where there are several.")] = None,
    trace: Trace = None,
    columns: Columns = None,
    speed: Annotated[
        float, typer.Option(min=1e-3, max=1e6, help="Replay the trace this many times as fast.")
    ] = 1.0,
    tokens_per_item: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Tokens of an LLM trace that make one item of a query.")
    ] = 256,
    median: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=10_000,
            help="Without a trace: median of log-normal batch sizes. (default: the service's batches, or else 8, "
            "as far as sizes can be in time)",
        ),
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option(min=0.01, max=10, help="Their sigma. (default: the service's batches, or else 0.9)"),
    ] = None,
    arrivals: Annotated[
        ArrivalsName,
        typer.Option(help="Without a trace: gamma comes in bursts; day swings from trough to peak and back."),
    ] = ArrivalsName.POISSON,
    variation: Annotated[
        float, typer.Option(min=0.1, max=20, help="For gamma: coefficient of variation of the gaps.")
    ] = 3.0,
    swing: Annotated[
        float, typer.Option(min=0, max=1, help="For day: the trough is this much below the mean rate.")
    ] = 0.6,
    queries: Annotated[
        int, typer.Option(min=100, max=10_000_000, help="Without a trace: queries at the service's rate.")
    ] = 100_000,
    gpus: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=500,
            help="GPUs. (default: the count of the pool, or else the fewest that may hold the rate)",
        ),
    ] = None,
    quantile: Annotated[
        float | None,
        typer.Option(
            min=0.5,
            max=0.9999,
            help="Share of the queries that should be in time. (default: that of a service with a cut, or 0.95)",
        ),
    ] = None,
    cut: Annotated[
        CutName, typer.Option(help="How the GPUs are cut; homogeneous takes the best size.")
    ] = "search",
    router: Annotated[RouterName, typer.Option(help="Policy that gives queries to slices.")] = "late-binding",
    seed: Annotated[int, typer.Option(min=0, help="Seed of arrivals and batch sizes.")] = 0,
    html: Html = None,
    out: Out = None,
    output: Output = Format.TABLE,
) -> None:
    """Simulate one service's queries on slices of different sizes: attainment, latencies, utilisation.

    Each query has a batch size of its own, up to the largest that the performance table has, and the SLO's latency as
    its deadline; the table's rows with one process say how long it takes. Also says the largest rate of Poisson
    arrivals with these batch sizes that the cut holds, and a bound for every router.
    """
    asked = ask(
        read_prepared(workload),
        service,
        SimulationRequest(
            Arrivals(arrivals.value, variation, swing, queries),
            trace,
            pairs(columns, "--columns"),
            speed,
            tokens_per_item,
            median,
            sigma,
            gpus,
            quantile,
            seed,
        ),
    )
    found = play(asked, cut, router, seed)
    data = simulation_data(asked, found, cut, router)
    if out is not None:
        with replacing(out) as stream:
            stream.write(json.dumps(clean(data), indent=2) + "\n")
    if html is not None:
        with replacing(html) as stream:
            stream.write(serving_report(data, asked.problem, found))
    if output is Format.TABLE:
        _print(data)
    else:
        emit(data, output)
    for note in asked.notes:
        echo(f"note: {note}", err=True)


def _print(data: dict[str, Any]) -> None:
    console = stdout()
    holds, about = data["holds"], "estimated " if data["estimated"] else ""
    rate = f", {data['queries'] / data['seconds']:,.6g} queries/s" if data["seconds"] else ""
    quantiles = ", ".join(
        f"{name} {'refused' if ms is None else f'{ms:,.1f}'}" for name, ms in data["latency_ms"].items()
    )
    console.print(
        f"{data['attainment']:.3%} of {data['queries']:,} queries in time, {data['late']:,} late, "
        f"{data['refused']:,} refused\n"
        f"{data['service']} ({data['model']}) on {data['gpus']:,} {data['gpu']}, deadline "
        f"{data['deadline_ms']:,.6g} ms, in {data['seconds']:,.6g} s{rate}\n"
        f"{about}latency ms: {quantiles}\n"
        f"holds {_number(holds['queries_per_second'])} +-{_number(holds['half_width'])} Poisson queries/s (95 % "
        f"confidence) with {holds['quantile']:.4g} in time; no router holds more than "
        f"{_number(holds['bound'])} on this cut\n",
        markup=False,
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("slice")
    for name in ("instances", "queries", "busy", "least", "most"):
        table.add_column(name, justify="right")
    for profile, n in data["cut"]["instances"].items():
        own = [each for each in data["slices"] if each["profile"] == profile]
        busy = [each["busy"] for each in own]
        queries = sum(each["queries"] for each in own)
        table.add_row(
            profile, f"{n:,}", f"{queries:,}", *(f"{x:.0%}" for x in (sum(busy) / n, min(busy), max(busy)))
        )
    console.print(table)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
