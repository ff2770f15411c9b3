"""`kubectl partita`: what a cluster's Workloads have, would have and wait for, and the word that lets a plan go."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from partita.cli.commands import finish
from partita.cli.diff import from_live, show_changes
from partita.cli.explain import show_explanations
from partita.cli.on_cluster import live_notes, opened
from partita.cli.options import (
    GpusFile,
    Kubeconfig,
    KubeContext,
    KubeNamespace,
    Seed,
    TimeLimit,
    use_gpu_files,
)
from partita.cli.output import DryRun, Format, Out, Output, emit, note, stdout
from partita.cli.plan import BestEffort, Html, Settings, as_set
from partita.cli.plan_view import show_plan
from partita.cli.searching import planned, read_to_plan
from partita.documents.codec import to_data
from partita.errors import InputError, counted
from partita.kubernetes.advice import (
    at_free,
    look,
    newest_plan,
    plans_of,
    read_workload_object,
    workload_object,
)
from partita.kubernetes.objects import ConflictError, NotFoundError
from partita.kubernetes.pausing import pause as pause_workload
from partita.kubernetes.pausing import resume as resume_workload
from partita.kubernetes.resources import APPROVED, PLANS, TRANSITIONS, WORKLOADS
from partita.planning.document import read_plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from partita.kubernetes.advice import LiveCluster
    from partita.kubernetes.api import KubernetesApi
    from partita.kubernetes.objects import ObjectMeta
    from partita.planner import PreparedWorkload

app = typer.Typer(
    name="kubectl partita",
    help="See what Partita plans and does for the Workloads of a cluster, approve plans, and pause.",
    epilog="Only `approve`, `pause` and `resume` change the cluster. Exit codes as of `partita`: 3 changes found, "
    "4 infeasible.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Name = Annotated[
    str, typer.Argument(metavar="WORKLOAD", help="Workload in the namespace.", show_default=False)
]
OptionalName = Annotated[
    str | None, typer.Argument(metavar="[WORKLOAD]", help="Workload in the namespace.", show_default=False)
]
File = Annotated[
    Path | None,
    typer.Option(
        "-f", "--file", metavar="FILE", help="Plan this workload (YAML or JSON) instead; - is stdin."
    ),
]


@app.callback()
def _root(*, gpus_file: GpusFile = None) -> None:
    use_gpu_files(gpus_file or ())


@app.command()
def plan(
    name: OptionalName = None,
    *,
    file: File = None,
    set_: Settings = None,
    best_effort: BestEffort = False,
    time_limit: TimeLimit = 30.0,
    seed: Seed = 0,
    kubeconfig: Kubeconfig = None,
    context: KubeContext = None,
    namespace: KubeNamespace = None,
    html: Html = None,
    out: Out = None,
    output: Output = Format.TABLE,
    dry_run: DryRun = False,
) -> None:
    """Show the plan that would be made now, for a Workload or for a file, on the GPUs that the cluster has free."""
    if (name is None) == (file is None):
        raise InputError("nothing says what to plan" if name is None else "what to plan is said twice",
                         hint="write `kubectl partita plan WORKLOAD`, or `kubectl partita plan -f FILE`")  # fmt: skip
    with opened(kubeconfig, context, namespace) as api:
        loaded, live, current = _asked(api, name, file, time_limit)
    note(*live_notes(live))
    there = at_free(loaded, live)
    made = planned(
        as_set(there, set_, time_limit) if set_ else there,
        time_limit=time_limit,
        seed=seed,
        best_effort=best_effort,
        current=live.current if current else None,
        keep=True,
    )
    files = (None if dry_run else out, None if dry_run else html)
    show_plan(made.plan, output, *files, workload=name or str(file))
    note(*made.notes)


def _asked(
    api: KubernetesApi, name: str | None, file: Path | None, time_limit: float
) -> tuple[PreparedWorkload, LiveCluster, bool]:
    """Return a workload, the cluster as it is for it, and whether it may run there already."""
    if name is not None:
        found = read_workload_object(api, name)
        return found.prepared, found.look(api), True
    loaded = read_to_plan(file or Path(), time_limit)
    return loaded, look(api, models={pool.model for pool in loaded.workload.gpus}), False


@app.command()
def diff(
    name: Name,
    *,
    plan_file: Annotated[
        Path | None,
        typer.Option("--plan", metavar="PLAN", help="To this plan. (default: the Workload's newest one)"),
    ] = None,
    kubeconfig: Kubeconfig = None,
    context: KubeContext = None,
    namespace: KubeNamespace = None,
    html: Html = None,
    out: Out = None,
    output: Output = Format.TABLE,
) -> None:
    """Show the transition from what a Workload runs now to a plan.

    Exits with 3 if there are changes, and with 0 if there are none.
    """
    with opened(kubeconfig, context, namespace) as api:
        found = read_workload_object(api, name)
        newest = None if plan_file else newest_plan(api, name)
        if plan_file is None and newest is None:
            hint = f"`kubectl partita plan {name} --out plan.json` makes one; then --plan plan.json"
            raise InputError("it has no Plan yet", where=f"Workload {api.namespace}/{name}", hint=hint)
        live = found.look(api)
    wanted = read_plan(plan_file) if plan_file else newest[1] if newest else None
    if wanted is None:
        raise AssertionError("there is a plan by now")
    note(*live.notes)
    spec = found.spec
    asked = from_live(live, wanted, spec.algorithm, spec.extra_gpus, spec.limits.forbid)
    show_changes(asked, spec.algorithm, output, out, html, workload=name)


@app.command()
def explain(
    name: Name,
    *,
    service: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Service to explain. Repeatable.")
    ] = None,
    kubeconfig: Kubeconfig = None,
    context: KubeContext = None,
    namespace: KubeNamespace = None,
    output: Output = Format.TABLE,
) -> None:
    """Say for each service of a Workload what binds it, by its newest Plan; without one, by a new plan."""
    with opened(kubeconfig, context, namespace) as api:
        found = read_workload_object(api, name)
        newest = newest_plan(api, name)
        live = found.look(api)
    show_explanations(at_free(found.prepared, live), newest[1] if newest else None, service, output)


@app.command()
def status(
    name: OptionalName = None,
    *,
    kubeconfig: Kubeconfig = None,
    context: KubeContext = None,
    namespace: KubeNamespace = None,
    output: Output = Format.TABLE,
) -> None:
    """Show the Workloads of a namespace with their newest Plan and Transition, and what is wrong."""
    with opened(kubeconfig, context, namespace) as api:
        workloads = [
            each
            for each in api.list_objects(WORKLOADS, api.namespace).items
            if name in (None, each.metadata.name)
        ]
        if name is not None and not workloads:
            hint = f"`kubectl get workloads -n {api.namespace}` lists them"
            raise InputError("there is no such Workload", where=f"Workload {api.namespace}/{name}", hint=hint)
        plans = {each.metadata.name: each for each in api.list_objects(PLANS, api.namespace).items}
        transitions = {
            each.metadata.name: each for each in api.list_objects(TRANSITIONS, api.namespace).items
        }
    rows: list[dict[str, Any]] = []
    for each in sorted(workloads, key=lambda found: found.metadata.name):
        plan, transition = plans.get(each.status.plan), transitions.get(each.status.transition)
        row: dict[str, Any] = {"name": each.metadata.name, "status": to_data(each.status)}
        if plan is not None:
            spec = plan.spec
            row["plan"] = {
                "name": plan.metadata.name, "state": plan.status.state, "gpus": spec.used, "bound": spec.bound,
                "gap": spec.gap, "proven": spec.proven, "why": spec.why,
            }  # fmt: skip
        if transition is not None:
            row["transition"] = {"name": transition.metadata.name, "status": to_data(transition.status)}
        rows.append(row)
    if output is not Format.TABLE:
        emit(rows, output)
        return
    _print_status(rows, api.namespace)


def _print_status(rows: Sequence[dict[str, Any]], namespace: str) -> None:
    if not rows:
        stdout().print(f"there is no Workload in namespace {namespace}", markup=False)
        return
    _table(
        ("workload", "state", "services", "GPUs", "nearest", "plan", "transition"),
        (
            (
                row["name"],
                row["status"]["state"] or "-",
                row["status"]["services"],
                row["status"]["gpus"],
                row["status"]["nearest"] or "-",
                _plan_words(row.get("plan")),
                _transition_words(row.get("transition")),
            )
            for row in rows
        ),
    )
    for row in rows:
        for condition in row["status"]["conditions"]:
            # All should be true but that it is degraded, and that it is paused.
            if (condition["status"] == "False") is not (condition["type"] in {"Degraded", "Paused"}):
                text = f"{row['name']}: {condition['type']} {condition['reason']}: {condition['message']}"
                stdout().print(text, markup=False, soft_wrap=True)


def _plan_words(plan: dict[str, Any] | None) -> str:
    if plan is None:
        return "-"
    proof = "proven" if plan["proven"] else f"gap {plan['gap']}"
    return f"{plan['name']} {plan['state'] or 'new'}, {counted(plan['gpus'], 'GPU')}, {proof}"


def _transition_words(transition: dict[str, Any] | None) -> str:
    if transition is None:
        return "-"
    found = transition["status"]
    left = f", {found['left']} left" if found["state"] == "Running" and found["left"] else ""
    return f"{transition['name']} {found['state'] or 'new'} {found['progress']}{left}"


def _table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for each in names:
        table.add_column(each, overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    stdout().print(table)


@app.command()
def approve(
    name: Annotated[
        str, typer.Argument(metavar="PLAN", help="The Plan, as `status` names it.", show_default=False)
    ],
    *,
    kubeconfig: Kubeconfig = None,
    context: KubeContext = None,
    namespace: KubeNamespace = None,
) -> None:
    """Approve a Plan that waits for it (`approve: Manual` in its Workload)."""
    with opened(kubeconfig, context, namespace) as api:
        said = _approve(api, name)
    stdout().print(said, markup=False, soft_wrap=True)


def _approve(api: KubernetesApi, name: str) -> str:
    """Write the approval that the controller reads; return what is to be said.

    Raises:
        InputError: there is no such Plan, or a newer one has taken its place.
    """
    where = f"Plan {api.namespace}/{name}"
    try:
        found = api.get(PLANS, name)
    except NotFoundError:
        waiting = [
            each.metadata.name for each in api.list_objects(PLANS, api.namespace).items if _waits(each)
        ]
        hint = f"these wait: {', '.join(sorted(waiting))}" if waiting else "none waits for approval"
        raise InputError("there is no such Plan", where=where, hint=hint) from None
    newest = plans_of(api, found.spec.workload.name)[-1].metadata
    if newest.uid != found.metadata.uid:
        hint = f"look at it, then `kubectl partita approve {newest.name}`"
        raise InputError(f"{newest.name} has taken its place", where=where, hint=hint)
    if found.metadata.annotations.get(APPROVED) == found.metadata.uid:
        return f"{name} is approved already"
    _write_approval(api, found.metadata, where)
    gpus = "1 GPU" if found.spec.used == 1 else f"{found.spec.used} GPUs"
    return f"{name} is approved: {gpus} for {found.spec.workload.name}"


def _write_approval(api: KubernetesApi, meta: ObjectMeta, where: str) -> None:
    try:
        api.patch(PLANS, meta.name, {"metadata": {"uid": meta.uid, "annotations": {APPROVED: meta.uid}}})
    except ConflictError:
        hint = "`kubectl partita status` shows what there is now"
        raise InputError("another Plan has its name by now", where=where, hint=hint) from None


@app.command()
def pause(
    name: Name,
    *,
    kubeconfig: Kubeconfig = None,
    context: KubeContext = None,
    namespace: KubeNamespace = None,
) -> None:
    """Pause a Workload: its actions in progress end, and none begins until `resume`. Every service keeps its floor.

    It holds whichever controller leads, and for later plans, too. A Workload that is deleted drains when it goes on.
    """
    with opened(kubeconfig, context, namespace) as api:
        said = pause_workload(api, workload_object(api, name), getpass.getuser())
    stdout().print(said, markup=False, soft_wrap=True)


@app.command()
def resume(
    name: Name,
    *,
    kubeconfig: Kubeconfig = None,
    context: KubeContext = None,
    namespace: KubeNamespace = None,
) -> None:
    """End the pause of a Workload."""
    with opened(kubeconfig, context, namespace) as api:
        said = resume_workload(api, workload_object(api, name))
    stdout().print(said, markup=False, soft_wrap=True)


def _waits(plan: Any) -> bool:  # noqa: ANN401
    return bool(plan.status.state == "Waiting")


def command_line() -> Any:  # noqa: ANN401 -- typer has no public type
    """Return the whole command line."""
    root: Any = typer.main.get_command(app)
    for each in (root, *root.commands.values()):
        finish(each)
    return root
