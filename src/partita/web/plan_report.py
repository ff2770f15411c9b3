"""The report of a plan: its figures, what each service got, its promises in simulation, and its GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita import __version__
from partita.planning.overview import VALUE_NAMES, amount, number, percent, survival, trade_rows, verdict
from partita.web.fleet import planned_gpus
from partita.web.report import Column, ColumnKind, Report, Section, Table, figures_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from partita.planning.overview import PlanOverview, ServiceOverview
    from partita.planning.plan import Plan
    from partita.verification.outcome import PlanOutcome, ServiceOutcome

MOST_ROWS = 20_000
"""Rows of a table, so that a browser can hold it."""
_ESTIMATES = "\N{ALMOST EQUAL TO} marks estimates: nobody has measured these figures."
_MEANING = (
    "Each box is an instance, as wide as the memory slices it takes, with its service; each mark at its bottom is a "
    "compute slice. Dashed boxes are free memory slices. GPUs that are cut alike are drawn once."
)


def plan_report(overview: PlanOverview, verified: PlanOutcome | None = None) -> Report:
    """Return the report; for a very large plan it says what it leaves out.

    Args:
        overview: of the plan.
        verified: what became of its queries in simulation; None if it was not simulated.
    """
    plan = overview.plan
    takes, survived = amount(plan), survival(plan)
    return Report(
        title=f"Plan: {takes}",
        headline=takes,
        verdict=verdict(plan),
        good=plan.objective.proven,
        figures=figures_of(dict(_figures(overview))),
        sections=(
            Section(
                title="Services",
                notes=(_ESTIMATES,) if any(each.estimated for each in overview.services) else (),
                table=_services(overview.services),
            ),
            *_trade(plan),
            *(() if verified is None else _promises(verified)),
            Section(title="GPUs", notes=(_MEANING,), gpus=planned_gpus(overview)),
        ),
        footer="The JSON file of the plan says the same in full.",
        version=__version__,
        notes=() if survived is None else (f"{survived[0].upper()}{survived[1:]}.",),
    )


def _figures(overview: PlanOverview) -> Iterator[tuple[str, str]]:
    plan, used = overview.plan, overview.compute_used
    objective, solver = plan.objective, plan.solver
    yield "GPUs", f"{len(plan.gpus):,}"
    if objective.name != "gpus":
        yield VALUE_NAMES.get(objective.name, "value"), number(objective.value)
    yield "lower bound", number(objective.lower_bound)
    yield "gap", percent(objective.gap)
    yield "services", f"{len(plan.services):,}"
    yield "instances", f"{overview.instances:,}"
    yield "compute used", "none" if used is None else f"{used * 100:.0f} %"
    if plan.moves is not None:
        yield "moves from what runs", f"{plan.moves.count:,}"
    yield f"planner, seed {solver.seed}", solver.name
    yield "planned in", f"{solver.seconds:.2f} s"


def _services(services: Sequence[ServiceOverview]) -> Table:
    rows = services[:MOST_ROWS]
    estimated = tuple(n for n, each in enumerate(rows) if each.estimated)
    columns = [
        Column("service", ColumnKind.SERVICE, tuple(each.service.name for each in rows)),
        Column("rate/s", ColumnKind.NUMBER, tuple(each.service.rate for each in rows)),
        Column(
            "capacity/s",
            ColumnKind.NUMBER,
            tuple(each.service.capacity for each in rows),
            estimated=estimated,
        ),
        Column("spare", ColumnKind.CHANGE, tuple(each.spare for each in rows), digits=0),
        Column("SLO ms", ColumnKind.NUMBER, tuple(each.service.latency_slo_ms for each in rows)),
        Column(
            "latency ms",
            ColumnKind.NUMBER,
            tuple(None if each.latency_ms is None else round(each.latency_ms, 1) for each in rows),
            estimated=estimated,
        ),
        Column(
            "replicas",
            ColumnKind.TEXT,
            tuple(each.replicas_text("\N{MULTIPLICATION SIGN}") for each in rows),
        ),
    ]
    losses = [each.service.loss for each in rows]
    if any(losses):
        domains = tuple(None if each is None else each.domain for each in losses)
        left = tuple(None if each is None else each.left for each in losses)
        columns += [
            Column("worst loss", ColumnKind.TEXT, domains),
            Column("left then/s", ColumnKind.NUMBER, left, none=""),
        ]
    return Table(tuple(columns), left=len(services) - len(rows))


def _trade(plan: Plan) -> Iterator[Section]:
    """Yield the plans with more value and fewer moves, if there are any."""
    if plan.moves is None or not (words := trade_rows(plan)):
        return
    gpus = plan.objective.name == "gpus"
    values = (plan.objective.value, *(each.value for each in plan.moves.trade))
    moves = (plan.moves.count, *(each.moves for each in plan.moves.trade))
    yield Section(
        title="More GPUs for fewer moves" if gpus else "More for fewer moves",
        table=Table(
            (
                Column(VALUE_NAMES.get(plan.objective.name, "value"), ColumnKind.NUMBER, values),
                Column("moves", ColumnKind.NUMBER, moves),
                Column("difference", ColumnKind.TEXT, tuple(text for _, _, text in words)),
            )
        ),
    )


def _promises(verified: PlanOutcome) -> Iterator[Section]:
    """Yield what became of the queries in simulation."""
    trial = verified.trial
    load = f"; at {trial.load:g} times the rates" if trial.load != 1 else ""
    jitter = f"; batches vary by {trial.jitter:g} around the seconds of the table" if trial.jitter else ""
    services = verified.services[:MOST_ROWS]
    meaning = (
        "Queries answered within the SLO, by the gateway's own code in simulated time, with 95 % confidence"
    )
    yield Section(
        title="Promises, simulated",
        notes=(f"{meaning}{load}{jitter}.",),
        table=Table(tuple(_outcomes(services)), left=len(verified.services) - len(services)),
    )
    sizes = [(each.service, size) for each in services for size in each.sizes]
    if sizes:
        yield Section(
            title="By the items of a query",
            table=Table(
                (
                    Column("service", ColumnKind.SERVICE, tuple(name for name, _ in sizes)),
                    Column("items", ColumnKind.TEXT, tuple(size.items for _, size in sizes)),
                    Column("queries", ColumnKind.NUMBER, tuple(size.queries for _, size in sizes)),
                    Column(
                        "in time", ColumnKind.SHARE, tuple(size.in_time.value for _, size in sizes), digits=2
                    ),
                    Column("from", ColumnKind.SHARE, tuple(size.in_time.low for _, size in sizes), digits=2),
                    Column("to", ColumnKind.SHARE, tuple(size.in_time.high for _, size in sizes), digits=2),
                )
            ),
        )


def _outcomes(services: Sequence[ServiceOutcome]) -> Iterator[Column]:
    yield Column("service", ColumnKind.SERVICE, tuple(each.service for each in services))
    yield Column("queries/s", ColumnKind.NUMBER, tuple(each.queries_per_second for each in services))
    yield Column("promised", ColumnKind.SHARE, tuple(each.promised for each in services), digits=2)
    yield Column("in time", ColumnKind.SHARE, tuple(each.in_time.value for each in services), digits=2)
    yield Column("from", ColumnKind.SHARE, tuple(each.in_time.low for each in services), digits=2)
    yield Column("to", ColumnKind.SHARE, tuple(each.in_time.high for each in services), digits=2)
    yield Column(
        "kept",
        ColumnKind.TEXT,
        tuple(None if each.promised is None else each.verdict.value for each in services),
        none="",
    )
    for at, name in enumerate(("p50 ms", "p95 ms", "p99 ms")):
        yield Column(
            name,
            ColumnKind.NUMBER,
            tuple(
                None if each.latency_ms[at] is None else round(each.latency_ms[at] or 0.0, 1)
                for each in services
            ),
        )
    yield Column("refused", ColumnKind.SHARE, tuple(each.refused for each in services), digits=2)
    yield Column("busy", ColumnKind.BAR, tuple(each.busy for each in services), digits=0)
