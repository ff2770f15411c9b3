"""`partita explain`: why a plan is as it is, service by service."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from partita.cli.options import Format, Output, WorkloadFile, emit, stderr, stdout
from partita.cli.plan import planned
from partita.deadline import Deadline
from partita.errors import InfeasibleError, InputError, PartitaError, nearest
from partita.planner import plan, prepare, read_prepared
from partita.planning.document import read_plan
from partita.planning.explain import bindings, number, sensitivities
from partita.serve.reserving.services import slices_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.planner import PreparedWorkload
    from partita.planning.explain import Binding, Sensitivity
    from partita.planning.plan import Plan
    from partita.serve.reserving.services import SliceOf
    from partita.workload import ServiceSpec

MOST_SERVICES = 20
PlanFile = Annotated[
    Path | None, typer.Option("--plan", metavar="PLAN", help="Explain this plan.  [default: plan anew]")
]
_SECONDS = 5.0


def explain(
    workload: WorkloadFile,
    *,
    plan: PlanFile = None,
    service: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help=f"Service to explain; repeat it.  [default: first {MOST_SERVICES}]"
        ),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Say for each service what binds it, what a change would do, and the next best way to run it.

    Per profile: its operating point (4x2 is batch 4 in 2 processes), how many instances the plan has there,
    and what keeps it from more throughput: latency (a faster batch would miss the SLO), memory (the next batch
    did not run), limits (the workload's own), or rate (nothing measured is faster). Then what 10 % more rate, and
    a 20 % looser SLO, of this service alone would do to the objective.

    Of a service with a cut of its own: the largest query that each slice answers in time, the share of the queries
    that are small enough for it, and the items/s that one gives when the cut serves all that it holds.
    """
    loaded = read_prepared(workload)
    chosen = _chosen(loaded, service)
    made = read_plan(plan) if plan else planned(loaded).plan
    found = [_explained(loaded, made, spec) for spec in chosen]
    if output is not Format.TABLE:
        emit([_plain(each) for each in found], output)
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
                where=str(loaded.path),
                hint=f"did you mean {close}?" if close else None,
            )
    if asked:
        return [known[name] for name in asked]
    chosen = list(known.values())[:MOST_SERVICES]
    if len(chosen) < len(known):
        stderr().print(
            f"note: the first {MOST_SERVICES} of {len(known)} services; name others with --service"
        )
    return chosen


def _explained(loaded: PreparedWorkload, made: Plan, spec: ServiceSpec) -> dict[str, Any]:
    if spec.cut is not None:
        return _explained_cut(loaded, made, spec)

    measured = loaded.formulation.measured
    by_gpu = {}
    open_to = {pool.model for pool in loaded.workload.gpus if spec.pools is None or pool.label in spec.pools}
    for gpu in (each for each in measured.gpus if each.name in open_to):
        limits = measured.point_limits(spec, gpu.name)
        if limits is not None:
            rows = [row for row in measured.of(spec.model, gpu.name) if row.quantile == limits.quantile]
            by_gpu[gpu.name] = bindings(made, spec.name, gpu.name, rows, limits)
    return {"service": spec, "gpus": by_gpu, "changes": sensitivities(spec.name, _Replan(loaded))}


def _explained_cut(loaded: PreparedWorkload, made: Plan, spec: ServiceSpec) -> dict[str, Any]:
    service = next(each for each in loaded.cuts if each.spec.name == spec.name)
    slices = slices_of(made, service, loaded.problem.pools)
    return {"service": spec, "cuts": slices, "changes": sensitivities(spec.name, _Replan(loaded))}


class _Replan:
    """Plans the workload again with one service changed."""

    def __init__(self, loaded: PreparedWorkload) -> None:
        self._loaded = loaded

    def __call__(self, service: str, *, rate: float, latency: float) -> float | None:
        """Return the objective with the service's rate and SLO multiplied; None if no plan was found."""
        workload = self._loaded.workload
        services = tuple(
            s.replace(rate=s.rate * rate, slo=s.slo.replace(latency_ms=s.slo.latency_ms * latency))
            if s.name == service
            else s
            for s in workload.services
        )
        try:
            asked = prepare(workload.replace(services=services), self._loaded.table, self._loaded.path)
            return plan(asked, deadline=Deadline(_SECONDS)).plan.objective.value
        except (InfeasibleError, PartitaError):
            return None


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    if "cuts" in found:
        return {
            "service": found["service"].name,
            "pools": found["service"].pools,
            "cut": found["service"].cut,
            "slices": [asdict(each) for each in found["cuts"]],
            "changes": [asdict(each) for each in found["changes"]],
        }
    return {
        "service": found["service"].name,
        "pools": found["service"].pools,
        "gpus": {gpu: [asdict(each) for each in bound] for gpu, bound in found["gpus"].items()},
        "changes": [asdict(each) for each in found["changes"]],
    }


def _print(found: dict[str, Any], made: Plan) -> None:
    spec: ServiceSpec = found["service"]
    console = stdout()
    console.print(
        f"{spec.name}  {spec.rate:g} items/s, SLO {spec.slo.latency_ms:g} ms", style="bold", markup=False
    )
    if spec.pools is not None:
        console.print(f"  may use GPUs of {', '.join(spec.pools)} alone", markup=False)
    if "cuts" in found:
        console.print(_slice_table(found["cuts"]))
    for gpu, bound in found.get("gpus", {}).items():
        table = Table(
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            title=gpu if len(found["gpus"]) > 1 else None,
        )
        table.add_column("profile", no_wrap=True)
        for name in ("used", "batch", "ms", "items/s"):
            table.add_column(name, justify="right", no_wrap=True)
        for name in ("binds", "next best"):
            table.add_column(name)
        for each in bound:
            table.add_row(*_cells(each))
        console.print(table)
    for change in found["changes"]:
        console.print(f"  {change.change}: {_difference(change, made)}", markup=False)
    console.print()


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
    more = change.objective - made.objective.value
    if abs(more) < 1e-9:
        return f"no change ({number(made.objective.value)} {unit})"
    return f"{'+' if more > 0 else ''}{number(more)} {unit} ({number(change.objective)})"
