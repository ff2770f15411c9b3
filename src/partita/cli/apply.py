"""`partita apply`: carry out a plan."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from partita.cli.acting import asked_to_stop, lines, make_controller
from partita.cli.drivers import (
    AllowMigMode,
    ClockOption,
    Cluster,
    DriverName,
    DriverOption,
    ServicesFile,
    Simulate,
    refuse_unrunnable,
    simulated_gpus,
)
from partita.cli.options import DryRun, Format, Output, emit, stdout
from partita.cli.transitioners import Algorithm, AlgorithmName, ExtraGpus, Forbid, make_transitioner
from partita.transition.between import whole_nodes

if TYPE_CHECKING:
    from partita.control.controller import Controller, Reached
    from partita.control.goal import Goal
    from partita.drive.driver import Observation
    from partita.planning.plan import Plan
    from partita.transition.deployment import Layouts
    from partita.transition.transition import Request, Transition

PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="Plan or layouts (JSON); - is stdin.")]


def apply(
    plan: PlanFile,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    expect: Annotated[
        str | None,
        typer.Option(
            metavar="STATE", help="Refuse unless the cluster is in this state, as --dry-run shows it."
        ),
    ] = None,
    extra_gpus: ExtraGpus = None,
    algorithm: Algorithm = AlgorithmName.SHORTEST,
    driver: DriverOption = DriverName.SIMULATED,
    clock: ClockOption = None,
    simulate: Simulate = None,
    services: ServicesFile = None,
    allow_mig_mode: AllowMigMode = False,
    forbid: Forbid = None,
    output: Output = Format.TABLE,
    dry_run: DryRun = False,
) -> None:
    """Bring the cluster to a plan, with no service falling under its floor on the way.

    Shows the way first and asks on a terminal. Refuses (5) if the cluster has moved since it was shown. Ctrl-C
    finishes what is under way and stops; the same command goes on from there, also after a crash.
    """
    from partita.cli.workplace import rehearsal, workplace  # noqa: PLC0415 -- slow to import
    from partita.transition.document import read_target  # noqa: PLC0415

    wanted = read_target(plan)
    cluster = Cluster(driver, clock, services, allow_mig_mode)
    refuse_unrunnable(cluster, (service.name for service in wanted.services))
    there = simulated_gpus(simulate or ()) or whole_nodes([(gpu.id, gpu.model) for gpu in wanted.gpus])
    opened = rehearsal if dry_run else workplace
    with opened(cluster, lambda: there) as place:
        with lines() as reporter:
            controller = make_controller(place, make_transitioner(algorithm), reporter, lambda: False)
            shown = place.driver.observe()
            _refuse_other(expect, controller, shown)
            goal = _goal(
                wanted,
                controller,
                shown,
                algorithm=algorithm,
                extra_gpus=extra_gpus,
                forbid=tuple(forbid or ()),
            )
            ordered = _way(controller, goal, shown)
        data = _way_data(ordered, shown)
        if dry_run:
            _show(data, output)
            return
        _agree(data, output, yes=yes)
        with lines() as reporter, asked_to_stop() as stop:
            controller = make_controller(place, make_transitioner(algorithm), reporter, stop)
            _refuse_moved(shown, place.driver.observe())
            controller.wake(shown)
            reached = controller.reach(goal, ordered)
        _tell(reached, data, output)


def _refuse_other(expect: str | None, controller: Controller, shown: Observation) -> None:
    from partita.control.snapshot import moved, snapshot  # noqa: PLC0415
    from partita.control.stops import MovedError  # noqa: PLC0415

    now = snapshot(shown)
    if expect is None or now.fingerprint == expect:
        return
    known = controller.hands.journal.seen()
    changes = moved(known, now) if known is not None and known.fingerprint == expect else []
    raise MovedError(
        changes or [f"its state is {now.fingerprint}, not {expect}"],
        hint="look at the way that it is now: the same command with --dry-run",
    )


def _goal(
    wanted: Plan | Layouts,
    controller: Controller,
    shown: Observation,
    *,
    algorithm: str,
    extra_gpus: int | None,
    forbid: tuple[str, ...],
) -> Goal:
    from partita.control.controller import standing_rates  # noqa: PLC0415
    from partita.control.goal import goal_for, refuse_missing  # noqa: PLC0415
    from partita.control.observed import deployed  # noqa: PLC0415

    refuse_missing(wanted, shown)
    journal = controller.hands.journal
    rates = standing_rates(journal.promised(), deployed(shown))
    return goal_for(
        wanted, rates, journal.unfinished(), algorithm=algorithm, extra_gpus=extra_gpus, forbid=forbid
    )


def _way(controller: Controller, goal: Goal, shown: Observation) -> tuple[Request, Transition]:
    from partita.control.controller import request  # noqa: PLC0415
    from partita.control.observed import deployed  # noqa: PLC0415

    way = controller.preview(goal, shown)
    return request(goal, deployed(shown), controller.durations), way


def _way_data(ordered: tuple[Request, Transition], shown: Observation) -> dict[str, Any]:
    from partita.cli.changes import way_data  # noqa: PLC0415
    from partita.control.snapshot import snapshot  # noqa: PLC0415

    return {"state": snapshot(shown).fingerprint, **way_data(*ordered)}


def _agree(data: dict[str, Any], output: Format, *, yes: bool) -> None:
    """Show the way and ask whether to go it.

    Raises:
        InputError: there is nobody to ask.
    """
    if output is Format.TABLE:
        _show(data, output)
    if yes or not data["actions"]:
        return
    if not sys.stdin.isatty():
        from partita.errors import InputError  # noqa: PLC0415

        raise InputError(
            "there is no terminal to ask on", where="apply", hint="look with --dry-run, then add --yes"
        )
    try:
        agreed = typer.confirm("Go on?", err=True)
    except typer.Abort:
        raise KeyboardInterrupt from None  # Ctrl-C at the prompt is an interruption like any other
    if not agreed:
        raise typer.Exit(1)


def _refuse_moved(shown: Observation, found: Observation) -> None:
    from partita.control.snapshot import moved, snapshot  # noqa: PLC0415
    from partita.control.stops import MovedError  # noqa: PLC0415

    if changes := moved(snapshot(shown), snapshot(found)):
        raise MovedError(changes, hint="nothing was begun; look at the way that it is now, and apply again")


def _tell(reached: Reached, data: dict[str, Any], output: Format) -> None:
    if output is not Format.TABLE:
        took = {"seconds": round(reached.seconds, 3), "actions": reached.actions, "replans": reached.replans}
        emit({**data, "took": took}, output)
    elif reached.actions:
        replans = f", ordered anew {reached.replans} times" if reached.replans else ""
        stdout().print(
            f"reached in {reached.seconds:.0f} s with {reached.actions} actions{replans}", markup=False
        )


def _show(data: dict[str, Any], output: Format) -> None:
    if output is Format.TABLE:
        from partita.cli.changes import print_way  # noqa: PLC0415

        print_way(stdout(), data)
        if data["actions"]:
            state = data["state"]
            stdout().print(f"state {state}: `--expect {state}` refuses any other", markup=False)
    else:
        emit(data, output)
