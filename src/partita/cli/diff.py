"""`partita diff`: what lies between two deployments, before anything is done."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from partita import registry
from partita.cli.cluster import SIMULATED, Cluster, DriverOption, open_read_only
from partita.cli.drawing import ASCII, UNICODE, mosaic_rows, mosaic_texts
from partita.cli.on_cluster import OnCluster, opened, refuse_unused
from partita.cli.options import Algorithm, ExtraGpus, Forbid, Kubeconfig, KubeContext, KubeNamespace
from partita.cli.output import DryRun, Format, Out, Output, emit_document, note, stdout, to_write
from partita.cli.what_runs import forbidden, on_gpus, planned_from, target_or_workload
from partita.control.cluster_view import deployed
from partita.control.controller import ordered, request, standing_rates
from partita.control.goal import goal_for, refuse_missing
from partita.drive.state import state_path
from partita.errors import InputError, counted
from partita.files import replacing
from partita.mig.catalogue import gpu_model
from partita.planning.overview import id_ranges, plan_line
from partita.planning.plan import Plan
from partita.transition.between import request_between
from partita.transition.deployment import Layouts, deployment_of
from partita.transition.document import read_target, write_transition
from partita.transition.overview import gpu_changes, service_changes
from partita.transition.transition import MEASURED, PAPER, Request
from partita.web.page import page
from partita.web.transition_report import transition_report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from partita.cli.drawing import Marks
    from partita.kubernetes.advice import LiveCluster
    from partita.planner import PreparedWorkload
    from partita.transition.deployment import DeployedInstance, Deployment
    from partita.transition.transition import Durations, Request, Transition


CHANGES_FOUND = 3


class DurationsName(StrEnum):
    """The sets of durations there are."""

    MEASURED = "measured"
    PAPER = "paper"


Plans = Annotated[
    list[Path],
    typer.Argument(
        metavar="[CURRENT] TARGET",
        help="Plans or layouts (JSON), - is stdin; TARGET may be a workload, which is planned from CURRENT. "
        "Without CURRENT: what runs on the cluster.",
        show_default=False,
    ),
]
DurationsOption = Annotated[
    DurationsName,
    typer.Option(
        "--durations", help="Seconds per action: measured on today's stack, or the paper's of 2021."
    ),
]
Html = Annotated[
    Path | None, typer.Option(metavar="FILE", callback=to_write, help="Write a report with a timeline.")
]


def diff(
    plans: Plans,
    *,
    algorithm: Algorithm = "shortest",
    extra_gpus: ExtraGpus = None,
    durations: DurationsOption = DurationsName.MEASURED,
    driver: DriverOption = SIMULATED,
    forbid: Forbid = None,
    cluster: OnCluster = False,
    workload: Annotated[
        str, typer.Option(metavar="NAME", help="With --cluster: the Workload whose replicas run there.")
    ] = "",
    kubeconfig: Kubeconfig = None,
    context: KubeContext = None,
    namespace: KubeNamespace = None,
    html: Html = None,
    out: Out = None,
    output: Output = Format.TABLE,
    dry_run: DryRun = False,
) -> None:
    """Show the transition between two deployments: what moves, how long it takes, and what each service keeps.

    A workload as TARGET is planned as `partita plan --from` does: with the fewest moves of all plans as good.

    Changes nothing. Exits with 3 if there are changes, with 0 if there are none, and with 4 if the extra GPUs do not
    suffice. `least` is the lowest capacity over all orders in which the actions may happen, not in one schedule.

    With --cluster, CURRENT is what a Workload of a Kubernetes cluster runs.
    """
    *current, target = _paths(plans)
    if not cluster:
        refuse_unused(kubeconfig, context, namespace)
    elif current:
        raise InputError("what runs now is both a plan and a cluster", hint="leave out CURRENT, or --cluster")
    seconds = _seconds(durations)
    wanted = target_or_workload(target)
    if current:
        now = read_target(current[0])
        then = wanted if isinstance(wanted, Plan | Layouts) else _planned(wanted, deployment_of(now))
        asked = request_between(now, then, seconds, extra_gpus, forbidden(wanted, forbid))
    elif cluster:
        from partita.kubernetes.advice import look  # noqa: PLC0415 -- of the extra

        with opened(kubeconfig, context, namespace) as api:
            live = look(api, workload)
        note(*live.notes)
        asked = from_live(live, wanted, algorithm, extra_gpus, forbidden(wanted, forbid))
    else:
        asked = _from_cluster(
            wanted,
            seconds,
            extra_gpus=extra_gpus,
            forbid=forbidden(wanted, forbid),
            algorithm=algorithm,
            driver=driver,
        )
    files = (None if dry_run else out, None if dry_run else html)
    named = " \N{RIGHTWARDS ARROW} ".join("stdin" if str(each) == "-" else each.name for each in plans)
    show_changes(asked, algorithm, output, *files, workload=named)


def show_changes(
    asked: Request, algorithm: str, output: Format, out: Path | None, html: Path | None, *, workload: str
) -> None:
    """Order what is asked for, write and show it, and leave with the exit code for changes if there are any.

    `workload` is the name of what is changed, for the page.

    Raises:
        InfeasibleError: the GPUs there are, or the extra ones allowed, are too few.
    """
    found = ordered(registry.make("transition_algorithms", algorithm), asked)
    if out is not None:
        with replacing(out) as stream:
            write_transition(found, stream)
    write_report(html, asked, found, workload)
    _show(asked, found, output)
    if found.actions:
        raise typer.Exit(CHANGES_FOUND)


def write_report(html: Path | None, asked: Request, found: Transition, workload: str) -> None:
    """Write the page of a transition, if it is asked for, under the name of what is changed."""
    if html is not None:
        with replacing(html) as stream:
            stream.write(page(transition_report(asked, found), workload))


def from_live(
    live: LiveCluster,
    wanted: Plan | Layouts | PreparedWorkload,
    algorithm: str,
    extra_gpus: int | None = None,
    forbid: tuple[str, ...] = (),
) -> Request:
    """Return what is asked for from what runs on a Kubernetes cluster to a plan; what runs is kept until then.

    Raises:
        InputError: the plan needs GPUs that are not there, or the workload asks for what cannot be kept there.
        InfeasibleError: the GPUs do not suffice for the workload.
    """
    from partita.kubernetes.advice import at_free  # noqa: PLC0415 -- of the extra
    from partita.kubernetes.dra import DURATIONS  # noqa: PLC0415 -- likewise

    if not isinstance(wanted, Plan | Layouts):
        wanted = _planned(at_free(wanted, live), live.current)
    refuse_missing(wanted, live.observation)
    rates = standing_rates(None, live.current)
    goal = goal_for(wanted, rates, None, algorithm=algorithm, extra_gpus=extra_gpus, forbid=forbid)
    return request(goal, live.current, DURATIONS)


def _planned(wanted: PreparedWorkload, current: Deployment) -> Plan:
    """Plan a workload from what runs, and say what came out."""
    made = planned_from(wanted, current)
    note(plan_line(made.plan), *made.notes)
    return made.plan


def _paths(plans: list[Path]) -> list[Path]:
    if len(plans) > 2:
        raise InputError(f"{len(plans)} plans are named", hint="write `partita diff CURRENT TARGET`")
    if [str(path) for path in plans] == ["-", "-"]:
        raise InputError("only one plan can come from stdin", hint="write one of them to a file")
    return plans


def _seconds(name: DurationsName) -> Durations:
    return MEASURED if name is DurationsName.MEASURED else PAPER


def _from_cluster(
    wanted: Plan | Layouts | PreparedWorkload,
    seconds: Durations,
    *,
    extra_gpus: int | None,
    forbid: tuple[str, ...],
    algorithm: str,
    driver: str,
) -> Request:
    cluster = Cluster(driver)
    if not cluster.exists(state_path()):
        raise InputError(
            "there is no simulated cluster yet",
            where=str(state_path()),
            hint="name the plan that runs now: `partita diff CURRENT TARGET`; or make one: `partita apply PLAN`",
        )
    with open_read_only(cluster, list) as opened:
        shown = opened.driver.observe()
        now = deployed(shown)
        if not isinstance(wanted, Plan | Layouts):
            wanted = _planned(on_gpus(wanted, now), now)
        refuse_missing(wanted, shown)
        rates = standing_rates(opened.journal.promised(), now)
        unfinished = opened.journal.unfinished()
    goal = goal_for(wanted, rates, unfinished, algorithm=algorithm, extra_gpus=extra_gpus, forbid=forbid)
    return request(goal, now, seconds)


def _show(asked: Request, found: Transition, output: Format) -> None:
    if output is Format.TABLE:
        console = stdout()
        print_way(console, way_data(asked, found))
        if found.actions:
            console.print(gpu_changes_table(asked.current, found.target))
    else:
        emit_document(lambda stream: write_transition(found, stream), output)


MOST_GROUPS = 12
_COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
_HEAD = 5


@dataclass(frozen=True, slots=True)
class _Side:
    """A GPU before or after; `sign` marks those instances that the other side does not have."""

    name: str
    sign: str
    instances: tuple[DeployedInstance, ...]
    others: tuple[DeployedInstance, ...]


def gpu_changes_table(current: Deployment, target: Deployment) -> RenderableType:
    """Return what is printed of the GPUs that change; `-` marks what goes and `+` what comes."""
    return _ChangeView(current, target)


class _ChangeView:
    def __init__(self, current: Deployment, target: Deployment) -> None:
        self._groups = gpu_changes(current, target)
        names = sorted(current.capacity().keys() | target.capacity().keys())
        self._colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:

        marks = ASCII if options.ascii_only else UNICODE
        for group in self._groups[:MOST_GROUPS]:
            yield ""
            head = Text(f"{marks.times} {len(group.ids):,}", "bold", no_wrap=True, overflow="crop")
            head.append(f"  {group.model}  ", "not bold")
            head.append(marks.plain(", ".join(id_ranges(group.ids[:200]))), "dim not bold")
            yield head
            for side in (
                _Side("now", "-", group.before, group.after),
                _Side("then", "+", group.after, group.before),
            ):
                yield from self._drawn(side, group.model, options.max_width, marks)
        left = self._groups[MOST_GROUPS:]
        if left:
            yield f"\nand {sum(len(group.ids) for group in left):,} more GPUs, all in the HTML report and -o json"

    def _drawn(self, side: _Side, model: str, width: int, marks: Marks) -> Iterator[Text]:

        labels = {
            each.placement: _label(each, "" if each in side.others else side.sign) for each in side.instances
        }
        services = {labels[each.placement]: each.replica.service for each in side.instances if each.replica}
        rows = mosaic_rows(gpu_model(model), list(labels.items()), width - _HEAD, marks)
        lines = mosaic_texts(
            rows, marks, lambda cell: self._colours.get(services.get(cell.label or "", ""), "dim")
        )
        for number, line in enumerate(lines):
            yield Text((side.name if number == 0 else "").ljust(_HEAD), no_wrap=True) + line


def _label(instance: DeployedInstance, sign: str) -> str:
    if instance.replica is None:
        return f"{sign}someone else's" if instance.fixed else f"{sign}idle"
    return f"{sign}{instance.replica.service}"


def way_data(asked: Request, way: Transition) -> dict[str, Any]:
    """Return a way as plain data: what happens, how long it takes, and what each service keeps."""
    changes = service_changes(asked, way)
    return {
        "algorithm": way.algorithm,
        "actions": dict(sorted(Counter(action.kind.value for action in way.actions).items())),
        "seconds": round(way.makespan, 3),
        "gpus": {
            "before": asked.current.used,
            "after": way.target.used,
            "peak": way.peak_gpus,
            "there": len(asked.current.gpus),
        },
        "replicas_moved": way.moved,
        "moves": sum(each.moves for each in changes),
        "services": [
            {
                "name": each.name,
                "capacity_before": round(each.before, 6),
                "capacity_after": round(each.after, 6),
                "floor": round(each.floor, 6),
                "least": round(each.least, 6),
                "replicas": each.replicas,
            }
            for each in changes
        ],
    }


def print_way(console: Console, data: dict[str, Any]) -> None:
    """Print what `way_data` returned."""
    actions, gpus = data["actions"], data["gpus"]
    if not actions:
        console.print("nothing to do: all runs as the plan wants it")
        return
    kinds = ", ".join(f"{n} {kind.partition('_')[0]}" for kind, n in actions.items())
    moves = counted(data["moves"], "move")
    console.print(
        f"{moves}, {sum(actions.values())} actions, about {data['seconds']:.0f} s: {kinds}", markup=False
    )
    extra = gpus["peak"] - max(gpus["before"], gpus["after"])
    word = "GPU" if gpus["before"] == 1 else "GPUs"
    beyond = f", {extra} of them extra" if extra > 0 else ""
    console.print(
        f"{gpus['before']} {word} in use, {gpus['after']} at the end, at most {gpus['peak']} of {gpus['there']} "
        f"meanwhile{beyond}",
        markup=False,
    )
    _print_services(console, data["services"])


def _print_services(console: Console, services: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("service", overflow="fold", min_width=8)
    for name in ("capacity/s", "then", "floor", "least"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("replicas", min_width=8)
    for each in services:
        figures = (each["capacity_before"], each["capacity_after"], each["floor"], each["least"])
        replicas = ", ".join(f"{n} {what}" for what, n in each["replicas"].items() if n) or "none"
        table.add_row(each["name"], *(f"{value:,.6g}" for value in figures), replicas)
    console.print(table)
