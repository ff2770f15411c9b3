"""`partita simulate`: how many queries would be answered in time, of one service or of all of a plan."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from partita.cli.options import CutName, RouterName, pairs
from partita.cli.output import Format, Out, Output, WorkloadFile, clean, echo, emit, stdout, to_write
from partita.cli.searching import stoppable
from partita.cli.verification_view import LossesTable, OutcomeTable, refuse_broken, simulation_progress
from partita.errors import InputError
from partita.files import replacing
from partita.planner import read_prepared
from partita.planning.document import read_plan
from partita.planning.overview import PlanOverview
from partita.simulator import Arrivals, SimulationRequest, ask, play, simulation_data
from partita.verification.losses import Domains, simulate_losses, without
from partita.verification.outcome import QUERIES, Trial
from partita.verification.plan_simulation import simulate_plan
from partita.web.page import page
from partita.web.plan_report import plan_report
from partita.web.serving_report import serving_report

if TYPE_CHECKING:
    from collections.abc import Iterable

    from partita.verification.losses import LossesOutcome


class LossName(StrEnum):
    """What a plan may lose at once."""

    GPU = "gpu"
    NODE = "node"
    RACK = "rack"
    ZONE = "zone"


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
Html = Annotated[
    Path | None, typer.Option(metavar="FILE", callback=to_write, help="Write a report with plots.")
]


PlanFile = Annotated[
    Path | None,
    typer.Option("--plan", metavar="PLAN", help="Simulate all services of this plan, by the gateway's code."),
]
Without = Annotated[
    list[str] | None,
    typer.Option(
        "--without",
        metavar="NAME",
        help="With --plan: simulate it without this GPU (node-0/gpu-3), node (node-0), rack (POOL/rack-0) or zone. "
        "Repeatable.",
    ),
]


def simulate(
    context: typer.Context,
    workload: WorkloadFile,
    *,
    plan: PlanFile = None,
    load: Annotated[
        float | None,
        typer.Option(min=0.001, max=1000, help="With --plan: factor of all rates. (default: 1)"),
    ] = None,
    jitter: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=3,
            help="With --plan: log-normal spread of the seconds of batches around the table's. (default: what "
            "capacity is counted with)",
        ),
    ] = None,
    without: Without = None,
    without_each: Annotated[
        LossName | None,
        typer.Option(
            help="With --plan: simulate it without each of its GPUs, nodes, racks or zones in turn. Services that "
            "`survive` it are held to what they promise then."
        ),
    ] = None,
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
        int | None,
        typer.Option(
            min=100,
            max=10_000_000,
            help="Without a trace: queries at the service's rate. (default: 100,000; with --plan 20,000 of each "
            "service, and up to 16 times as many while its promise is undecided)",
        ),
    ] = None,
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
    promise: Annotated[
        Literal["each_size", "mix"] | None,
        typer.Option(
            help="Whether each class of batch sizes should keep the quantile, or all queries together. (default: the "
            "service's promise)"
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
    """Simulate queries: of one service on slices of different sizes, or with --plan of all services of a plan.

    Of one service: each query has a batch size of its own, up to the largest that the performance table has, and the
    SLO's latency as its deadline; the table's rows with one process say how long it takes. Also says the largest rate
    that the cut holds with queries that come like these, and a bound for every router.

    Of a plan: queries come as each service's `arrivals` say, at its rate with its headroom, to the gateway's own
    router, joining, refusals and retries in simulated time; batches take the table's seconds. Says for each service
    whether the promised share is answered in time, at 95 % confidence; exits with 1 if a promise is not kept.
    """
    if plan is not None:
        _refuse(context, _OF_ONE_SERVICE, "it is for one service, not for --plan")
        trial = Trial(1.0 if load is None else load, queries or QUERIES, seed, jitter, router)
        _simulate_plan(workload, plan, trial, (without or [], without_each), (html, out, output))
        return
    _refuse(context, _OF_PLAN, "it has no meaning without --plan")
    asked = ask(
        read_prepared(workload, to_plan=False),
        service,
        SimulationRequest(
            Arrivals(arrivals.value, variation, swing, queries or 100_000),
            trace,
            pairs(columns, "--columns"),
            speed,
            tokens_per_item,
            median,
            sigma,
            gpus,
            quantile,
            promise,
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
            stream.write(page(serving_report(data, asked.problem, found), workload.name))
    if output is Format.TABLE:
        _print(data)
    else:
        emit(data, output)
    for note in asked.notes:
        echo(f"note: {note}", err=True)


_OF_ONE_SERVICE = (
    "service", "trace", "columns", "speed", "tokens_per_item", "median", "sigma", "arrivals", "variation", "swing",
    "gpus", "quantile", "promise", "cut",
)  # fmt: skip
_OF_PLAN = ("load", "jitter", "without", "without_each")


def _refuse(context: typer.Context, names: Iterable[str], why: str) -> None:
    """Refuse options that were given and are for another kind of simulation."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            raise InputError(why, where=f"--{name.replace('_', '-')}", hint="leave it out")


def _simulate_plan(
    workload: Path,
    path: Path,
    trial: Trial,
    lost: tuple[list[str], LossName | None],
    wanted: tuple[Path | None, Path | None, Format],
) -> None:
    (gone, each), (html, out, output) = lost, wanted
    prepared = read_prepared(workload, to_plan=False)
    whole = read_plan(path)
    domains = Domains(whole, prepared.workload)
    judged, plan = domains.judged(domains.named(gone)), without(whole, gone, domains)
    losses: LossesOutcome | None = None
    with stoppable() as stop:
        with simulation_progress("services") as report:
            outcome = simulate_plan(plan, prepared, trial, judged=judged, stop=stop, report=report)
        if each is not None and not outcome.stopped:
            with simulation_progress("losses") as report:
                losses = simulate_losses(plan, prepared, each.value, trial, stop=stop, report=report)
    data = {**outcome.to_dict(), "without": gone, **({} if losses is None else {"each": losses.to_dict()})}
    if out is not None:
        with replacing(out) as stream:
            stream.write(json.dumps(clean(data), indent=2) + "\n")
    if html is not None:
        with replacing(html) as stream:
            stream.write(page(plan_report(PlanOverview(plan), outcome), workload.name))
    if output is Format.TABLE:
        stdout().print(OutcomeTable(outcome))
        if losses is not None:
            stdout().print("", LossesTable(losses), sep="\n")
    else:
        emit(data, output)
    if outcome.stopped or (losses is not None and losses.stopped):
        raise KeyboardInterrupt
    refuse_broken(outcome, losses, str(path))


def _print(data: dict[str, Any]) -> None:
    console = stdout()
    holds, about = data["holds"], "estimated " if data["estimated"] else ""
    each = " of each size" if holds["promise"] == "each_size" else ""
    classes = ", ".join(
        f"{_items(part)} {'none came' if part['attainment'] is None else format(part['attainment'], '.3%')}"
        for part in data["classes"]
    )
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
        f"in time by items: {classes}\n"
        f"holds {_number(holds['queries_per_second'])} +-{_number(holds['half_width'])} queries/s (95 % "
        f"confidence) with {holds['quantile']:.4g} in time{each}; no router holds more than "
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


def _items(part: dict[str, Any]) -> str:
    least, most = part["least"], part["most"]
    return f"{least}" if least == most else f"{least}-{most}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
