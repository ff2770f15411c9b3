"""`partita plan`: the fewest GPUs for a workload."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from partita.cli.on_cluster import OnCluster, prepared_on_cluster, refuse_unused
from partita.cli.options import Kubeconfig, KubeContext, KubeNamespace, Planner, Seed, TimeLimit
from partita.cli.output import DryRun, Format, Out, Output, WorkloadFile, emit, note, stdout, to_write
from partita.cli.searching import planned, read_to_plan, search_progress, stoppable
from partita.cli.what_runs import (
    From,
    MostMoves,
    is_driver,
    on_gpus,
    refuse_without_from,
    what_runs,
)
from partita.deadline import Deadline
from partita.errors import InputError, PartitaError, counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.planner import PreparedWorkload
    from partita.planning.plan import Plan
    from partita.verification.outcome import PlanOutcome


PlanToCheck = Annotated[
    Path | None, typer.Option("--check", metavar="PLAN", help="Plan nothing: say what is wrong in this plan.")
]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Then simulate the plan's queries through the gateway's code; exit with 1 if a promise is not kept.",
    ),
]
Html = Annotated[
    Path | None, typer.Option(metavar="FILE", callback=to_write, help="Write a report with the GPUs drawn.")
]
BestEffort = Annotated[
    bool,
    typer.Option("--best-effort", help="With too few GPUs, meet as many services as possible, by priority."),
]
Series = Annotated[
    Path | None,
    typer.Option(
        "--series",
        metavar="RATES",
        help="Plan for rates over time: time,service,rate, or time and a column for each service. --out is a folder.",
    ),
]
Forecast = Annotated[
    Path | None,
    typer.Option(
        "--forecast",
        metavar="HISTORY",
        help="As --series, for the 24 hours after this history of rates: rates-history.csv in the state folder of "
        "`partita serve`, or one's own.",
    ),
]
ForecastShare = Annotated[
    float,
    typer.Option(
        "--forecast-share",
        min=0.01,
        max=0.999,
        help="Share of the rates that should stay within the forecast.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME.FIELD=VALUE",
        help="Plan as if this were so: a service's rate, latency_ms or quantile, a pool's count or price. "
        "With --cluster a count takes no more GPUs than are free there.",
    ),
]
_AT_MOST = (
    "--set POOL.count takes no more GPUs than the cluster has free; to plan with more, leave out --cluster"
)
MovePrice = Annotated[
    float | None,
    typer.Option(
        "--move-price",
        min=0.0,
        help="With --series or --forecast: what moving a replica costs, in GPU-hours. (default: the seconds for "
        "which it is there twice, 0.0106)",
        show_default=False,
    ),
]


def plan(
    workload: WorkloadFile,
    *,
    planner: Planner = "exact",
    time_limit: TimeLimit = 30.0,
    seed: Seed = 0,
    best_effort: BestEffort = False,
    set_: Settings = None,
    check: PlanToCheck = None,
    series: Series = None,
    forecast: Forecast = None,
    forecast_share: ForecastShare = 0.9,
    move_price: MovePrice = None,
    from_: From = None,
    most_moves: MostMoves = None,
    verify: Verify = False,
    cluster: OnCluster = False,
    kubeconfig: Kubeconfig = None,
    context: KubeContext = None,
    namespace: KubeNamespace = None,
    html: Html = None,
    out: Out = None,
    output: Output = Format.TABLE,
    dry_run: DryRun = False,
) -> None:
    """Plan the fewest GPUs that meet the services of a workload, and prove how good the plan is.

    Reads services, rates and SLOs from the workload, and measurements from the performance tables it names;
    says how each GPU is cut and what runs where. Exits with 4 if the GPUs do not suffice.

    With --cluster the GPUs are those that a Kubernetes cluster has free now, by its ResourceSlices or its
    nodes' labels.

    With --series it plans a day at once: when to change to which plan, and when not, so that GPU-hours and moves
    cost least. With --forecast the day is forecast from what was measured. Changes between plans are checked as those
    of `partita diff`. --out DIR writes series.json and the plans. --time-limit is that of each plan.

    With --from it plans from what runs: of all plans that are as good, the one with the fewest moves. A move is a
    replica that goes elsewhere, is new or ends, as `partita diff` counts them; the plan says how many it has, whether
    fewer are possible, and what more GPUs would save. --most-moves N takes no more than N.

    See it at work: `partita demo`. Ctrl-C returns the best plan so far.
    """
    from partita.cli.plan_view import show_plan  # noqa: PLC0415 -- numpy and HiGHS are slow to import, and `partita plan --help` needs neither

    over_time = series is not None or forecast is not None
    # Before what takes seconds: reading a workload computes what its instances hold.
    if over_time:
        _refuse_with_series(check, from_, best_effort=best_effort, verify=verify)
    else:
        _refuse_without_series(move_price)
    if check is not None:
        _refuse_with_check(workload, check, from_, verify=verify)
    if from_ is None:
        refuse_without_from(most_moves)
    if not cluster:
        refuse_unused(kubeconfig, context, namespace)
    current = None if from_ is None or cluster else what_runs(from_)
    loaded = read_to_plan(workload, time_limit, to_plan=check is None and not set_)
    if set_:
        loaded = as_set(loaded, set_, time_limit)
    seen: tuple[str, ...] = ()
    if cluster:
        loaded, current, seen = prepared_on_cluster(loaded, kubeconfig, context, namespace, from_)
        seen += _limited(set_ or ())
    elif current is not None and is_driver(from_):
        loaded = on_gpus(loaded, current)
    if check is not None:
        _check(loaded, check, output)
        return
    note(*seen)
    if over_time:
        from partita.cli.series import plan_rates, read_rates  # noqa: PLC0415 -- as below

        plan_rates(
            loaded,
            read_rates(loaded, series, forecast, forecast_share),
            planner,
            move_price,
            time_limit=time_limit,
            seed=seed,
            output=output,
            out=None if dry_run else out,
            html=None if dry_run else html,
        )
        return
    made = planned(
        loaded,
        planner,
        time_limit=time_limit,
        seed=seed,
        best_effort=best_effort,
        current=current,
        most_moves=most_moves,
        trade=most_moves is None,
        keep=True,
    )
    files = (None if dry_run else out, None if dry_run else html)
    named = None if loaded.path is None else loaded.path.name
    if not verify:
        show_plan(made.plan, output, *files, workload=named)
        note(*made.notes)
        return
    from partita.cli.verification_view import refuse_broken  # noqa: PLC0415 -- as above

    verified = _verified(made.plan, loaded)
    show_plan(made.plan, output, *files, verified, workload=named)
    note(*made.notes)
    if verified.stopped:
        raise KeyboardInterrupt
    refuse_broken(verified, None, str(out or loaded.path))


def _limited(settings: Sequence[str]) -> tuple[str, ...]:
    """Return the note that a count that is set is a limit, if one is."""
    return (_AT_MOST,) if any(each.partition("=")[0].endswith(".count") for each in settings) else ()


def as_set(loaded: PreparedWorkload, settings: list[str], time_limit: float) -> PreparedWorkload:
    """Return a workload as it would be if what --set says were so."""
    from partita.dash.what_if import changed, read_settings  # noqa: PLC0415 -- most plans are of the workload as it is

    with search_progress("planning", time_limit) as report:
        made = changed(loaded, read_settings(settings), Deadline(time_limit, report=report))
    return replace(made, path=loaded.path)


def _verified(plan: Plan, loaded: PreparedWorkload) -> PlanOutcome:
    """Simulate a plan with progress on stderr; Ctrl-C returns the services that are simulated so far."""
    from partita.cli.verification_view import simulation_progress  # noqa: PLC0415 -- as above
    from partita.verification.plan_simulation import simulate_plan  # noqa: PLC0415 -- as above

    with stoppable() as stop, simulation_progress("services") as report:
        return simulate_plan(plan, loaded, stop=stop, report=report)


def _refuse_with_series(check: Path | None, from_: str | None, *, best_effort: bool, verify: bool) -> None:
    known = {
        "--check": check is not None,
        "--from": from_ is not None,
        "--best-effort": best_effort,
        "--verify": verify,
    }
    for name, given in known.items():
        if given:
            raise InputError(
                "it has no meaning with --series", where=name, hint=f"leave out --series, or {name}"
            )


def _refuse_with_check(workload: Path, check: Path, from_: str | None, *, verify: bool) -> None:
    what = "it has no meaning with --check, which plans nothing"
    if from_ is not None:
        raise InputError(what, where="--from", hint="leave it out")
    if verify:
        hint = f"simulate it: partita simulate -f {workload} --plan {check}"
        raise InputError(what, where="--verify", hint=hint)


def _refuse_without_series(move_price: float | None) -> None:
    if move_price is not None:
        raise InputError(
            "it has no meaning without --series",
            where="--move-price",
            hint="add --series RATES, or leave it out",
        )


def _check(loaded: PreparedWorkload, path: Path, output: Format) -> None:
    from partita.planner import check  # noqa: PLC0415 -- as above
    from partita.planning.document import read_plan  # noqa: PLC0415 -- as above

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
        f"{counted(len(faults), 'fault')}: this plan does not meet {loaded.path}",
        where=str(path),
        hint=f"make a new one with `partita plan -f {loaded.path} --out {path}`",
    )
