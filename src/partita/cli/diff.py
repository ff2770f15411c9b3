"""`partita diff`: what lies between two deployments, before anything is done."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from partita.cli.changes import gpu_changes_table, print_way, way_data
from partita.cli.drivers import Cluster, DriverName, DriverOption
from partita.cli.options import DryRun, Format, Out, Output, emit_document, stdout
from partita.cli.transitioners import Algorithm, AlgorithmName, ExtraGpus, Forbid, make_transitioner
from partita.cli.workplace import rehearsal
from partita.control.controller import ordered, request, standing_rates
from partita.control.goal import goal_for, refuse_missing
from partita.control.observed import deployed
from partita.drive.state import state_path
from partita.errors import InputError
from partita.files import replacing
from partita.transition.between import request_between
from partita.transition.document import read_target, write_transition
from partita.transition.transition import MEASURED, PAPER, Request
from partita.web.transition_report import transition_report

if TYPE_CHECKING:
    from partita.planning.plan import Plan
    from partita.transition.deployment import Layouts
    from partita.transition.transition import Durations, Transition

CHANGES_FOUND = 3


class DurationsName(StrEnum):
    """The sets of durations there are."""

    MEASURED = "measured"
    PAPER = "paper"


Plans = Annotated[
    list[Path],
    typer.Argument(
        metavar="[CURRENT] TARGET",
        help="Plans or layouts (JSON), - is stdin. Without CURRENT: what runs on the cluster.",
        show_default=False,
    ),
]
DurationsOption = Annotated[
    DurationsName,
    typer.Option(
        "--durations", help="Seconds per action: measured on today's stack, or the paper's of 2021."
    ),
]
Html = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a report with a timeline.")]


def diff(
    plans: Plans,
    *,
    algorithm: Algorithm = AlgorithmName.SHORTEST,
    extra_gpus: ExtraGpus = None,
    durations: DurationsOption = DurationsName.MEASURED,
    driver: DriverOption = DriverName.SIMULATED,
    forbid: Forbid = None,
    html: Html = None,
    out: Out = None,
    output: Output = Format.TABLE,
    dry_run: DryRun = False,
) -> None:
    """Show what lies between two deployments: what moves, how long it takes, and what each service keeps.

    Changes nothing. Exits with 3 if there are changes, with 0 if there are none, and with 4 if the extra GPUs do
    not suffice. `least` is the worst capacity of every order in which the actions may happen, not of one schedule.
    """
    *current, target = _paths(plans)
    seconds = _seconds(durations)
    wanted = read_target(target)
    if current:
        asked = request_between(read_target(current[0]), wanted, seconds, extra_gpus, tuple(forbid or ()))
    else:
        asked = _from_cluster(
            wanted,
            seconds,
            extra_gpus=extra_gpus,
            forbid=tuple(forbid or ()),
            algorithm=algorithm,
            driver=driver,
        )
    found = ordered(make_transitioner(algorithm), asked)
    if not dry_run:
        _write(asked, found, out, html)
    _show(asked, found, output)
    if found.actions:
        raise typer.Exit(CHANGES_FOUND)


def _paths(plans: list[Path]) -> list[Path]:
    if len(plans) > 2:
        raise InputError(f"{len(plans)} plans are named", hint="write `partita diff CURRENT TARGET`")
    if [str(path) for path in plans] == ["-", "-"]:
        raise InputError("both plans are to come from stdin", hint="write one of them to a file")
    return plans


def _seconds(name: DurationsName) -> Durations:
    return MEASURED if name is DurationsName.MEASURED else PAPER


def _from_cluster(
    wanted: Plan | Layouts,
    seconds: Durations,
    *,
    extra_gpus: int | None,
    forbid: tuple[str, ...],
    algorithm: AlgorithmName,
    driver: DriverName,
) -> Request:
    cluster = Cluster(driver)
    if not cluster.exists(state_path()):
        raise InputError(
            "there is no simulated cluster yet",
            where=str(state_path()),
            hint="name the plan that runs now: `partita diff CURRENT TARGET`; or make one: `partita apply PLAN`",
        )
    with rehearsal(cluster, list) as place:
        shown = place.driver.observe()
        refuse_missing(wanted, shown)
        now = deployed(shown)
        rates = standing_rates(place.journal.promised(), now)
        unfinished = place.journal.unfinished()
    goal = goal_for(wanted, rates, unfinished, algorithm=algorithm, extra_gpus=extra_gpus, forbid=forbid)
    return request(goal, now, seconds)


def _write(asked: Request, found: Transition, out: Path | None, html: Path | None) -> None:
    if out is not None:
        with replacing(out) as stream:
            write_transition(found, stream)
    if html is not None:
        with replacing(html) as stream:
            stream.write(transition_report(asked, found))


def _show(asked: Request, found: Transition, output: Format) -> None:
    if output is Format.TABLE:
        console = stdout()
        print_way(console, way_data(asked, found))
        if found.actions:
            console.print(gpu_changes_table(asked.current, found.target))
    else:
        emit_document(lambda stream: write_transition(found, stream), output)
