"""`partita apply` and `partita adopt`: a cluster brought to a plan, and instances of others taken over."""

from __future__ import annotations

import random
import shlex
import signal
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from partita import registry
from partita.cli.cluster import (
    SIMULATED,
    AllowMigMode,
    ClockOption,
    Cluster,
    DriverOption,
    ServicesFile,
    Simulate,
    note_other_gpus,
    open_cluster,
    open_read_only,
    refuse_unrunnable,
    simulated_gpus,
)
from partita.cli.diff import Html, print_way, way_data, write_report
from partita.cli.options import Algorithm, ExtraGpus, Forbid
from partita.cli.output import Format, Output, emit, note, stderr, stdout
from partita.cli.searching import planned
from partita.cli.what_runs import forbidden, gpus_for, on_gpus, planned_from, target_or_workload
from partita.control.cluster_view import deployed, moved, snapshot
from partita.control.controller import Controller, MovedError, request, standing_rates
from partita.control.executor import TransitionExecutor
from partita.control.goal import goal_for, refuse_missing
from partita.errors import InputError, counted
from partita.executor import Backoff
from partita.mig.layout import Placement
from partita.planning.overview import plan_line
from partita.planning.plan import Plan
from partita.process.keeper import SignalEvent, ending_signals
from partita.transition.between import whole_nodes
from partita.transition.deployment import Layouts
from partita.transition.transition import MEASURED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from rich.status import Status

    from partita.cli.cluster import OpenCluster
    from partita.control.cluster_view import ClusterView
    from partita.control.controller import Reached
    from partita.control.executor import Reporter
    from partita.control.goal import Goal
    from partita.control.sharing import SharedDriver
    from partita.drive.driver import ActionResult, Observation
    from partita.planner import PreparedWorkload
    from partita.transition.deployment import Deployment
    from partita.transition.transition import Action, Request, Transition


class Stop:
    """Whether someone has asked the command to stop; calling it tells."""

    def __init__(self) -> None:
        self._asked = SignalEvent()

    def __call__(self) -> bool:
        """Say whether it was asked."""
        return self._asked.is_set()

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Take a signal; a second one ends the command at once."""
        if self():
            signal.default_int_handler(number, frame)
        self._asked.set()
        with suppress(RuntimeError):  # the interrupted code writes to stderr itself at this moment
            sys.stderr.write("\nstopping: waiting for what is under way; once more to leave at once\n")

    def wait(self, seconds: float) -> None:
        """Wait so long, or until asked."""
        self._asked.wait(seconds)


@contextmanager
def asked_to_stop() -> Iterator[Stop]:
    """Have SIGINT, SIGTERM and SIGHUP ask for a stop while the block runs."""
    stop = Stop()
    before = {number: signal.signal(number, stop.ask) for number in ending_signals()}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def make_controller(
    opened: OpenCluster,
    algorithm: str,
    reporter: Reporter,
    stop: Callable[[], bool],
    shared: SharedDriver | None = None,
) -> Controller:
    """Return the controller of a command, which sees the cluster through `shared` if others use it, too."""
    executor = TransitionExecutor(opened.driver, opened.journal, reporter, Backoff(), random.Random(0), stop)
    if shared is not None:
        executor = replace(executor, driver=shared, ahead=shared.expect)
    return Controller(executor, registry.make("transition_algorithms", algorithm), MEASURED, this_command())


def this_command() -> str:
    """Return the command line that runs, as it would be typed."""
    return shlex.join(["partita", *sys.argv[1:]])


class Lines:
    """Progress on stderr: on a terminal one line that changes, else a line for each action."""

    def __init__(self, status: Status | None = None) -> None:
        self._console = stderr()
        self._status = status
        self._under_way = 0
        self._done, self._total = 0, 0
        self._since = time.monotonic()

    def began(self, action: Action) -> None:
        """Count an action."""
        del action
        self._under_way += 1
        self._show()

    def ended(self, ended: ActionResult, done: int, total: int) -> None:
        """Tell how an action ended."""
        self._under_way -= 1
        self._done, self._total = done, total
        text = f"{done}/{total}  {told(ended.action)}"
        if ended.error is not None:
            self._print(f"{text}: {ended.error.what}")
        elif self._status is None:
            self._print(text)
        self._show()

    def note(self, text: str) -> None:
        """Tell something."""
        self._print(f"note: {text}")

    def observed(self, view: ClusterView) -> None:
        """Show nothing of the cluster itself."""

    def _show(self) -> None:
        if self._status is not None:
            self._status.update(f"{self._done}/{self._total} done, {self._under_way} under way{self._left()}")

    def _left(self) -> str:
        """Say how long the rest takes if it goes on as it went."""
        if not 0 < self._done < self._total:
            return ""
        return (
            f", about {(time.monotonic() - self._since) / self._done * (self._total - self._done):.0f} s left"
        )

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)


@contextmanager
def lines() -> Iterator[Lines]:
    """Yield a reporter for a terminal or a log."""
    console = stderr()
    if not console.is_terminal:
        yield Lines()
        return
    with console.status("looking") as status:
        yield Lines(status)


def told(action: Action) -> str:
    """Return an action in words."""
    service = f"{action.replica.service} on " if action.replica else ""
    return f"{action.kind.value.replace('_', ' ')}  {service}{action.gpu} {action.placement}"


DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing: only show what would be done.")]
PlanFile = Annotated[
    Path,
    typer.Argument(
        metavar="PLAN",
        help="Plan or layouts (JSON), - is stdin; or a workload (YAML), which is planned from what runs.",
    ),
]


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
    algorithm: Algorithm = "shortest",
    driver: DriverOption = SIMULATED,
    clock: ClockOption = None,
    simulate: Simulate = None,
    services: ServicesFile = None,
    allow_mig_mode: AllowMigMode = False,
    forbid: Forbid = None,
    html: Html = None,
    output: Output = Format.TABLE,
    dry_run: DryRun = False,
) -> None:
    """Apply a plan to the cluster, with every service kept at its floor or above.

    A workload is planned first, as `partita plan --from` does: with the fewest moves of all plans as good.

    Shows the transition first, with --html as a page, too, and asks for confirmation on a terminal. Exits with 5 if
    the cluster has changed since then. Ctrl-C finishes actions under way and stops; the same command continues from
    there, also after a crash.
    """
    asked = target_or_workload(plan)
    cluster = Cluster(driver, clock, services, allow_mig_mode)
    listed = asked.services if isinstance(asked, Plan | Layouts) else asked.workload.services
    refuse_unrunnable(cluster, (service.name for service in listed))
    opening = open_read_only if dry_run else open_cluster
    with opening(cluster, lambda: simulated_gpus(simulate or ()) or _gpus(asked)) as opened:
        note_other_gpus(opened.driver, simulate)
        shown = opened.driver.observe()
        wanted = asked if isinstance(asked, Plan | Layouts) else _planned(asked, deployed(shown))
        with lines() as reporter:
            controller = make_controller(opened, algorithm, reporter, lambda: False)
            _refuse_other(expect, controller, shown)
            goal = _goal(
                wanted,
                controller,
                shown,
                algorithm=algorithm,
                extra_gpus=extra_gpus,
                forbid=forbidden(asked, forbid),
            )
            ordered = _way(controller, goal, shown)
        write_report(html, *ordered, "stdin" if str(plan) == "-" else plan.name)
        data = _way_data(ordered, shown)
        if dry_run:
            _show(data, output)
            return
        _agree(data, output, yes=yes)
        with lines() as reporter, asked_to_stop() as stop:
            controller = make_controller(opened, algorithm, reporter, stop)
            _refuse_moved(shown, opened.driver.observe())
            controller.wake(shown)
            reached = controller.reach(goal, ordered)
        _tell(reached, data, output)


def _gpus(asked: Plan | Layouts | PreparedWorkload) -> list[tuple[str, str]]:
    """Return the GPUs of a new simulated cluster."""
    if isinstance(asked, Plan | Layouts):
        return whole_nodes([(gpu.id, gpu.model) for gpu in asked.gpus])
    return gpus_for(asked, lambda many: planned(many).plan)


def _planned(asked: PreparedWorkload, current: Deployment) -> Plan:
    made = planned_from(on_gpus(asked, current), current)
    note(plan_line(made.plan), *made.notes)
    return made.plan


def _refuse_other(expect: str | None, controller: Controller, shown: Observation) -> None:

    now = snapshot(shown)
    if expect is None or now.fingerprint == expect:
        return
    known = controller.executor.journal.seen()
    changes = moved(known, now) if known is not None and known.fingerprint == expect else []
    raise MovedError(
        changes or [f"its state is {now.fingerprint}, not {expect}"],
        hint="look at the transition as it is now: the same command with --dry-run",
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

    refuse_missing(wanted, shown)
    journal = controller.executor.journal
    rates = standing_rates(journal.promised(), deployed(shown))
    return goal_for(
        wanted, rates, journal.unfinished(), algorithm=algorithm, extra_gpus=extra_gpus, forbid=forbid
    )


def _way(controller: Controller, goal: Goal, shown: Observation) -> tuple[Request, Transition]:

    way = controller.preview(goal, shown)
    return request(goal, deployed(shown), controller.durations), way


def _way_data(ordered: tuple[Request, Transition], shown: Observation) -> dict[str, Any]:

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
        raise InputError(
            "there is no terminal on which to ask for confirmation",
            where="apply",
            hint="look with --dry-run, then add --yes",
        )
    try:
        agreed = typer.confirm("Go on?", err=True)
    except typer.Abort:
        raise KeyboardInterrupt from None  # Ctrl-C at the prompt is an interruption like any other
    if not agreed:
        raise typer.Exit(1)


def _refuse_moved(shown: Observation, found: Observation) -> None:

    if changes := moved(snapshot(shown), snapshot(found)):
        raise MovedError(
            changes, hint="nothing was begun; look at the transition as it is now, and apply again"
        )


def _tell(reached: Reached, data: dict[str, Any], output: Format) -> None:
    if output is not Format.TABLE:
        took = {"seconds": round(reached.seconds, 3), "actions": reached.actions, "replans": reached.replans}
        emit({**data, "took": took}, output)
    elif reached.actions:
        replans = f", ordered again {reached.replans} times" if reached.replans else ""
        stdout().print(
            f"reached in {reached.seconds:.0f} s with {counted(reached.actions, 'action')}{replans}",
            markup=False,
        )


def _show(data: dict[str, Any], output: Format) -> None:
    if output is Format.TABLE:
        print_way(stdout(), data)
        if data["actions"]:
            state = data["state"]
            stdout().print(f"state {state}: `--expect {state}` refuses any other", markup=False)
    else:
        emit(data, output)


GpuId = Annotated[str, typer.Argument(metavar="GPU", help="Id of the GPU, as `partita status` shows it.")]
Placements = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[INSTANCE]...", help="Profile and start: 3g.40gb@4. (default: all that Partita did not make)"
    ),
]


def adopt(
    gpu: GpuId,
    instances: Placements = None,
    *,
    driver: DriverOption = SIMULATED,
    dry_run: DryRun = False,
) -> None:
    """Take over instances that someone else made, so that plans may use, move and destroy them.

    Partita never touches an instance that it did not make, and plans around it. Adopt one only if nobody else needs
    it.
    """
    opening = open_read_only if dry_run else open_cluster
    with opening(Cluster(driver), _refuse_making) as opened:
        for placement in _chosen(opened.driver.observe(), gpu, instances or []):
            if not dry_run:
                opened.driver.adopt(gpu, placement)
            stdout().print(f"{'would adopt' if dry_run else 'adopted'} {gpu} {placement}", markup=False)


def _refuse_making() -> list[tuple[str, str]]:

    raise InputError("there is no simulated cluster yet", hint="`partita apply PLAN` makes one")


def _chosen(seen: Observation, gpu: str, asked: list[str]) -> list[Placement]:

    found = seen.gpu(gpu)
    if found is None:
        raise InputError(f"no GPU {gpu!r}", hint="see `partita status`")
    foreign = [each.placement for each in found.instances if not each.ours]
    wanted = [Placement.parse(word) for word in asked] or foreign
    if not wanted:
        raise InputError("there is no instance of someone else's to adopt", where=gpu)
    for placement in wanted:
        if placement not in foreign:
            others = ", ".join(map(str, foreign)) or "none"
            raise InputError(
                f"{placement} is not someone else's instance",
                where=gpu,
                hint=f"those of someone else: {others}",
            )
    return wanted
