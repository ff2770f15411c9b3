"""`partita plan`: the fewest GPUs for a workload."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from partita.cli.options import DryRun, Format, Out, Output, WorkloadFile, emit, emit_document, stderr, stdout
from partita.cli.planners import PlannerName

if TYPE_CHECKING:
    from partita.planner import PlanResult, PreparedWorkload
    from partita.planning.plan import Plan
    from partita.transition.deployment import Deployment

TimeLimit = Annotated[
    float, typer.Option(min=0.1, help="Seconds of search; the best so far is returned then.")
]
PlanToCheck = Annotated[
    Path | None, typer.Option("--check", metavar="PLAN", help="Plan nothing: say what is wrong in this plan.")
]
Html = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a report with the GPUs drawn.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of random choices: same input and seed, same plan.")]


def plan(
    workload: WorkloadFile,
    *,
    planner: Annotated[
        PlannerName, typer.Option(help="Algorithm: exact proves its plan; the others are the paper's.")
    ] = PlannerName.EXACT,
    time_limit: TimeLimit = 30.0,
    seed: Seed = 0,
    best_effort: Annotated[
        bool, typer.Option("--best-effort", help="With too few GPUs, meet the most services by priority.")
    ] = False,
    check: PlanToCheck = None,
    html: Html = None,
    out: Out = None,
    output: Output = Format.TABLE,
    dry_run: DryRun = False,
) -> None:
    """Plan the fewest GPUs that meet the services of a workload, and prove how good the plan is.

    Reads services, rates and SLOs from the workload, and measurements from the performance tables it names;
    says how each GPU is cut and what runs where. Exits with 4 if the GPUs do not suffice.

    See it at work: `partita demo`. Ctrl-C returns the best plan so far.
    """
    from partita.planner import read_prepared  # noqa: PLC0415 -- slow to import

    loaded = read_prepared(workload)
    if check is not None:
        _check(loaded, check, output)
        return
    made = planned(loaded, planner, time_limit=time_limit, seed=seed, best_effort=best_effort)
    if not dry_run:
        _write(made.plan, out, html)
    show_plan(made.plan, output)
    for note in made.notes:
        stderr().print(f"note: {note}", markup=False)


def planned(
    asked: PreparedWorkload,
    planner: PlannerName = PlannerName.EXACT,
    *,
    time_limit: float = 30.0,
    seed: int = 0,
    best_effort: bool = False,
    current: Deployment | None = None,
) -> PlanResult:
    """Plan with progress on stderr, and let Ctrl-C return the best so far; arguments as for `planner.plan`.

    Raises:
        InfeasibleError: the GPUs do not suffice; says which services are left out then.
    """
    from partita.cli.interrupt import stoppable  # noqa: PLC0415 -- only searches need it
    from partita.cli.progress import search_progress  # noqa: PLC0415
    from partita.deadline import Deadline  # noqa: PLC0415
    from partita.planner import plan as plan_workload  # noqa: PLC0415 -- slow to import

    with stoppable() as stop, search_progress("planning", time_limit) as report:
        deadline = Deadline(time_limit, stop, report)
        return plan_workload(
            asked,
            planner=planner.value,
            deadline=deadline,
            seed=seed,
            best_effort=best_effort,
            current=current,
        )


def _check(loaded: PreparedWorkload, path: Path, output: Format) -> None:
    from partita.errors import PartitaError  # noqa: PLC0415
    from partita.planner import check  # noqa: PLC0415
    from partita.planning.document import read_plan  # noqa: PLC0415

    faults = check(read_plan(path), loaded)
    if output is not Format.TABLE:
        told = [{"where": fault.where, "what": fault.what} for fault in faults]
        emit({"plan": str(path), "workload": str(loaded.path), "meets": not faults, "faults": told}, output)
    elif not faults:
        stdout().print(f"{path} meets {loaded.path}", markup=False)
    else:
        for fault in faults:
            stdout().print(f"{fault.where}: {fault.what}", markup=False, soft_wrap=True)
    if not faults:
        return
    raise PartitaError(
        f"{len(faults)} fault{'' if len(faults) == 1 else 's'}: this plan does not meet {loaded.path}",
        where=str(path),
        hint=f"make a new one with `partita plan -f {loaded.path} --out {path}`",
    )


def _write(made: Plan, out: Path | None, html: Path | None) -> None:
    from partita.files import replacing  # noqa: PLC0415 -- only where something is written

    if out is not None:
        from partita.planning.document import write_plan  # noqa: PLC0415

        with replacing(out) as stream:
            write_plan(made, stream)
    if html is not None:
        from partita.web.plan_report import plan_report  # noqa: PLC0415

        with replacing(html) as stream:
            stream.write(plan_report(made))


def show_plan(made: Plan, output: Format) -> None:
    """Print a plan in a format."""
    from partita.planning.document import write_plan  # noqa: PLC0415 -- slow to import

    if output is Format.TABLE:
        from partita.cli.plan_view import plan_table  # noqa: PLC0415

        stdout().print(plan_table(made))
    else:
        emit_document(lambda stream: write_plan(made, stream), output)
