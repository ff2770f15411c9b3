"""`partita plan`: the fewest GPUs for a workload."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from partita.cli.options import DryRun, Format, Out, Output, WorkloadFile, emit, emit_document, stderr, stdout
from partita.cli.planners import PlannerName, make_planner
from partita.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.cli.loading import Loaded
    from partita.deadline import Deadline
    from partita.planning.plan import Plan
    from partita.planning.problem import Problem

TimeLimit = Annotated[
    float, typer.Option(min=0.1, help="Seconds of search; the best so far is returned then.")
]
PlanToCheck = Annotated[
    Path | None, typer.Option("--check", metavar="PLAN", help="Plan nothing: say what is wrong in this plan.")
]
Html = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a report with the GPUs drawn.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of random choices: same input and seed, same plan.")]

_SHORT_SECONDS = 5.0
"""Time to find out which services the GPUs do not suffice for."""


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
    from partita.cli.loading import load  # noqa: PLC0415 -- slow to import

    if best_effort and planner is not PlannerName.EXACT:
        raise InputError(
            "--best-effort is not for this planner", hint="leave out --planner, or write --planner exact"
        )
    loaded = load(workload)
    if check is not None:
        _check(loaded, check, output)
        return
    made, notes = plan_and_notes(loaded, planner, time_limit=time_limit, seed=seed, best_effort=best_effort)
    if not dry_run:
        _write(made, out, html)
    show_plan(made, output)
    for note in notes:
        stderr().print(f"note: {note}", markup=False)


def make_plan(loaded: Loaded, planner: PlannerName, *, time_limit: float, seed: int) -> Plan:
    """Return the plan that `plan_and_notes` makes.

    Raises:
        InfeasibleError: as there.
    """
    return plan_and_notes(loaded, planner, time_limit=time_limit, seed=seed)[0]


def plan_and_notes(
    loaded: Loaded, planner: PlannerName, *, time_limit: float, seed: int, best_effort: bool = False
) -> tuple[Plan, tuple[str, ...]]:
    """Plan with progress on stderr, let Ctrl-C return the best so far, and say what was assumed and reserved.

    Raises:
        InfeasibleError: the GPUs do not suffice; says which services are left out then.
    """
    from partita.cli.interrupt import stoppable  # noqa: PLC0415 -- only searches need it
    from partita.cli.progress import search_progress  # noqa: PLC0415
    from partita.deadline import Deadline  # noqa: PLC0415
    from partita.planning.exact import plan_best_effort  # noqa: PLC0415 -- slow to import

    with stoppable() as stop, search_progress("planning", time_limit) as report:
        watch = Deadline(time_limit, stop, report)

        def share(problem: Problem) -> Plan:
            if best_effort:
                return plan_best_effort(problem, watch, seed)
            return _planned(problem, planner, watch, seed)

        if not loaded.cuts:
            return share(loaded.formulation.problem), loaded.notes
        return _with_cuts(loaded, share, watch, seed, best_effort=best_effort)


def _with_cuts(
    loaded: Loaded, share: Callable[[Problem], Plan], watch: Deadline, seed: int, *, best_effort: bool
) -> tuple[Plan, tuple[str, ...]]:
    from partita.serve.reserving.planning import plan_reserving, reserve_best_effort  # noqa: PLC0415
    from partita.serve.reserving.reservation import describe  # noqa: PLC0415
    from partita.workload import locating  # noqa: PLC0415

    problem = loaded.formulation.problem
    reserving = reserve_best_effort if best_effort else plan_reserving
    with locating(loaded.path):
        found = reserving(problem, loaded.cuts, share, watch, seed=seed)
    return found.plan, (*loaded.notes, *(describe(each, problem.pools) for each in found.made))


def _planned(problem: Problem, planner: PlannerName, watch: Deadline, seed: int) -> Plan:
    from partita.deadline import Deadline  # noqa: PLC0415
    from partita.planning.exact import (  # noqa: PLC0415
        TooFewGpusError,
        met_shares,
    )
    from partita.planning.formulate import names  # noqa: PLC0415

    try:
        return make_planner(planner, seed, watch).plan(problem)
    except TooFewGpusError as error:
        short = met_shares(problem, Deadline(_SHORT_SECONDS, watch.stop)).short(problem)
        error.what += f"; by priority these would fall short: {names(short)}"
        raise


def _check(loaded: Loaded, path: Path, output: Format) -> None:
    from partita.errors import PartitaError  # noqa: PLC0415
    from partita.planning.check import (  # noqa: PLC0415
        check_plan,
        requirements,
    )
    from partita.planning.document import read_plan  # noqa: PLC0415

    found = read_plan(path)
    faults = check_plan(found, requirements(loaded.workload), loaded.formulation.measured)
    if loaded.cuts:
        from partita.serve.reserving.check import check_reserved  # noqa: PLC0415 -- numba is slow to import

        faults += check_reserved(found, loaded.cuts, loaded.formulation.problem.pools)
    if output is not Format.TABLE:
        describe = [{"where": fault.where, "what": fault.what} for fault in faults]
        emit(
            {"plan": str(path), "workload": str(loaded.path), "meets": not faults, "faults": describe}, output
        )
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
        from partita.web.report import plan_report  # noqa: PLC0415

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
