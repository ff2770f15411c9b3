"""`partita explain`: why a plan is as it is, service by service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from partita.cli.output import Format, Output, WorkloadFile, emit, stderr, stdout
from partita.cli.searching import planned, read_to_plan
from partita.errors import InputError, counted, nearest
from partita.explanation import ServiceExplanation, explain_service
from partita.planning.document import read_plan
from partita.planning.overview import number
from partita.workload import QUANTILE, ArrivalsSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.explanation import Binding, Sensitivity, SharedBy
    from partita.planner import PreparedWorkload
    from partita.planning.plan import Plan
    from partita.serve.reserving.services import SliceOf
    from partita.workload import ServiceSpec

MOST_SERVICES = 20
_MOST_NAMED = 5
PlanFile = Annotated[
    Path | None, typer.Option("--plan", metavar="PLAN", help="Explain this plan. (default: make a new plan)")
]


def explain(
    workload: WorkloadFile,
    *,
    plan: PlanFile = None,
    service: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help=f"Service to explain. Repeatable. (default: first {MOST_SERVICES})"
        ),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Say for each service what binds it, what a change would do, and the next best way to run it.

    Per profile: its operating point (4x2 is batch 4 in 2 processes), how many instances the plan has there,
    and what keeps it from more throughput: latency (a faster batch would miss the SLO), memory (the next batch
    did not run), limits (the workload's own), or rate (nothing measured is faster). Then what 10 % more rate, and
    a 20 % looser SLO, of this service alone would do to the objective. Where it survives losses: the worst one, and
    what the objective would be if it need not.

    For a service with a cut: the largest query that each slice answers in time, the share of the queries up to that
    size, and the items/s of one slice when the cut serves as much as it can.
    """
    loaded = read_to_plan(workload)
    show_explanations(loaded, read_plan(plan) if plan else None, service, output)


def show_explanations(
    loaded: PreparedWorkload, plan: Plan | None, service: Sequence[str] | None, output: Format
) -> None:
    """Print the explanations of a plan's services; without a plan, of a new one.

    Raises:
        InputError: there is no service of that name.
    """
    chosen = _chosen(loaded, service)
    made = plan or planned(loaded).plan
    found = [explain_service(loaded, made, spec) for spec in chosen]
    if output is not Format.TABLE:
        emit([each.to_dict() for each in found], output)
        return
    for each in found:
        _print(each, made)


def _chosen(loaded: PreparedWorkload, asked: Sequence[str] | None) -> list[ServiceSpec]:
    known = {spec.name: spec for spec in loaded.workload.services}
    for name in asked or ():
        if name not in known:
            close = nearest(name, list(known))
            raise InputError(
                f"no service {name!r}",
                where=str(loaded.path) if loaded.path else None,
                hint=f"did you mean {close}?" if close else None,
            )
    if asked:
        return [known[name] for name in asked]
    chosen = list(known.values())[:MOST_SERVICES]
    if len(chosen) < len(known):
        stderr().print(
            f"note: the first {MOST_SERVICES} of {counted(len(known), 'service')}; name others with --service"
        )
    return chosen


def _print(found: ServiceExplanation, made: Plan) -> None:
    spec = found.service
    console = stdout()
    console.print(
        f"{spec.name}  {spec.rate:g} items/s, SLO {spec.slo.latency_ms:g} ms", style="bold", markup=False
    )
    if spec.waits:
        console.print(f"  {_promise(spec)}", markup=False)
    if spec.pools is not None:
        console.print(f"  may use GPUs of {', '.join(spec.pools)} alone", markup=False)
    if found.shared is not None:
        console.print(f"  {_shared(found.shared)}", markup=False)
    if found.slices is not None:
        console.print(_slice_table(found.slices))
    for gpu, bound in found.gpus.items():
        table = Table(
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            title=gpu if len(found.gpus) > 1 else None,
        )
        table.add_column("profile", no_wrap=True)
        for name in ("used", "batch", "ms", "items/s"):
            table.add_column(name, justify="right", no_wrap=True)
        for name in ("binds", "next best"):
            table.add_column(name)
        for each in bound:
            table.add_row(*_cells(each))
        console.print(table)
    if found.loss is not None:
        loss = found.loss
        console.print(
            f"  without {loss.domain}, the worst {loss.level} to lose, {loss.left:,.6g} items/s are left, "
            f"of which {loss.least:,.6g} are needed",
            markup=False,
        )
    for change in found.changes:
        console.print(f"  {change.change}: {_difference(change, made)}", markup=False)
    console.print()


def _promise(spec: ServiceSpec) -> str:
    """Return in words what a service whose queries wait promises."""
    process = spec.process
    if not isinstance(process, ArrivalsSpec):
        come = f"{process.capitalize()} arrivals"
    elif process.gamma is not None:
        come = f"gaps between queries that vary by {process.gamma.cv:g} of their mean"
    else:
        come = f"arrivals as in {process.trace}"
    return f"{100 * (spec.slo.quantile or QUANTILE):.5g} % of the queries within the SLO, waiting included; {come}"


def _shared(found: SharedBy) -> str:
    others = counted(len(found.others), "other service")
    named = ", ".join(found.others[:_MOST_NAMED]) + (", ..." if len(found.others) > _MOST_NAMED else "")
    return (
        f"shares {found.placement} of {found.gpu} with {others} ({named}): {found.memory_mb:,.0f} MB of models, "
        f"busy {found.busy:.1%} of the time"
    )


def _slice_table(slices: Sequence[SliceOf]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("slice", no_wrap=True)
    for name in ("used", "largest query", "ms", "of queries", "items/s each"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in slices:
        given = "-" if each.throughput is None else f"{'≈' if each.estimated else ''}{each.throughput:,.4g}"
        largest = (str(each.largest), f"{each.latency_ms:.3g}") if each.largest else ("none in time", "-")
        table.add_row(
            f"{each.gpu} {each.profile}", str(each.instances or "-"), *largest, f"{each.part:.1%}", given
        )
    return table


def _cells(each: Binding) -> tuple[str, ...]:
    point = each.point
    runs = (
        ("-", "-", "cannot run")
        if point is None
        else (_batch(point), f"{point.latency_ms:.3g}", _rate(point))
    )
    why = each.binds.value
    if each.better is not None:
        why += (
            f": batch {_batch(each.better)} takes {each.better.latency_ms:.3g} ms for {_rate(each.better)}/s"
        )
    other = each.next_best
    second = "-" if other is None else f"batch {_batch(other)}: {_rate(other)}/s"
    return (each.profile, str(each.instances or "-"), *runs, why, second)


def _batch(row: Any) -> str:  # noqa: ANN401 -- a row of either kind
    return f"{row.batch}x{row.processes}" if row.processes > 1 else str(row.batch)


def _rate(row: Any) -> str:  # noqa: ANN401 -- a row of either kind
    return f"{'≈' if row.estimated else ''}{row.throughput:,.4g}"


def _difference(change: Sensitivity, made: Plan) -> str:
    unit = {"gpus": "GPUs", "cost": "per hour", "watts": "W"}[made.objective.name]
    if change.objective is None:
        return "no plan is found with the GPUs there are"
    if not change.proven:
        return f"at most {number(change.objective)} {unit}; fewer are not ruled out"
    more = change.objective - made.objective.value
    if abs(more) < 1e-9:
        return f"no change ({number(made.objective.value)} {unit})"
    unit = "GPU" if unit == "GPUs" and abs(more) == 1 else unit
    return f"{'+' if more > 0 else ''}{number(more)} {unit} ({number(change.objective)})"
