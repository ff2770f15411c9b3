"""`partita status`: what runs, who acts on it, and how far that is."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from partita.cli.cluster import SIMULATED, Cluster, DriverOption, open_driver, read_journal
from partita.cli.drawing import ASCII, UNICODE, mosaic_rows, mosaic_texts
from partita.cli.output import Format, Output, emit, stdout
from partita.cli.queue import jobs_on_instances
from partita.control.cluster_view import deployed, snapshot
from partita.control.held import NOTHING_HELD, HeldByJobs, held_by_jobs
from partita.control.journal import holder
from partita.control.metrics import instance_state
from partita.drive.state import state_path
from partita.errors import InputError, PartitaError, counted
from partita.mig.catalogue import gpu_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from rich.console import Console, ConsoleOptions, RenderResult

    from partita.cli.drawing import Marks
    from partita.control.journal import ActingProcess, Entry, Progress
    from partita.drive.driver import Observation, ObservedGpu, ObservedInstance


Watch = Annotated[bool, typer.Option("--watch", "-w", help="Show it again and again, until q or Ctrl-C.")]
Every = Annotated[float, typer.Option("--every", min=0.1, help="Seconds between two updates with --watch.")]
Tail = Annotated[int, typer.Option("--tail", min=0, help="Newest entries of the journal that are shown.")]


def status(
    *,
    watch: Watch = False,
    every: Every = 1.0,
    tail: Tail = 8,
    driver: DriverOption = SIMULATED,
    output: Output = Format.TABLE,
) -> None:
    """Show the cluster: GPUs, services and jobs on them, who acts on it and with what progress, and the journal.

    Changes nothing, and may run while a controller acts.
    """
    with _looking(driver) as look:
        if not watch:
            _show(look(tail), output, status_data, status_table)
        elif output is Format.TABLE and stdout().is_terminal:
            _live(lambda: status_table(look(tail)), every)
        else:
            while True:
                _show(look(tail), output, status_data, status_table)
                time.sleep(every)


def _show(
    found: Status, output: Format, data: Callable[[Status], dict[str, Any]], table: Callable[[Status], Any]
) -> None:
    if output is Format.TABLE:
        stdout().print(table(found))
    else:
        emit(data(found), output)


def _live(view: Callable[[], Any], every: float) -> None:
    console = stdout()
    with _keys() as key, Live(console=console, screen=True, auto_refresh=False) as live:
        top = 0
        while True:
            page = Page(view(), top)
            live.update(page, refresh=True)
            top = page.top  # as far as there is something to see
            end = time.monotonic() + every
            while (pressed := key(max(0.0, end - time.monotonic()))) is not None:
                step = max(1, console.height - 2)
                moves = {" ": step, "f": step, "b": -step, "j": 1, "k": -1, "g": -top, "G": page.lines}
                if pressed == "q":
                    return
                if pressed in moves:
                    top = max(0, top + moves[pressed])
                    page = Page(page.content, top)
                    live.update(page, refresh=True)
                    top = page.top


class Page:
    """As much of something as fits on the screen, from a line on, and a line that says how much more there is.

    Args:
        content: what rich renders.
        top: the first line that is shown.

    Attributes:
        top: likewise, at most so that the last line is at the bottom; known once it was rendered.
        lines: of the whole, then.
    """

    def __init__(self, content: Any, top: int) -> None:  # noqa: ANN401 -- whatever rich renders
        self.content = content
        self.top = top
        self.lines = 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        whole = console.render_lines(self.content, options.update(height=None), pad=False)
        height = options.height or console.height
        self.lines = len(whole)
        fits = self.lines <= height
        room = height if fits else height - 1
        self.top = max(0, min(self.top, self.lines - room))
        shown = whole[self.top : self.top + room]
        for i, line in enumerate(shown):
            if i:
                yield Segment.line()
            yield from line
        if not fits:
            below = self.lines - room - self.top
            yield Segment.line()
            yield Text(
                f"{counted(self.top, 'line')} above, {below} below: space, b, j, k, g, G move; q ends; "
                "or `partita top`"[: options.max_width],
                "reverse",
                no_wrap=True,
                end="",
            )


@contextmanager
def _keys() -> Iterator[Callable[[float], str | None]]:
    """Yield what waits so many seconds for a key and returns it; None if none was pressed, or nobody can."""
    if not sys.stdin.isatty():

        def nothing(seconds: float) -> None:
            time.sleep(seconds)

        yield nothing
        return
    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)

    def key(seconds: float) -> str | None:
        if not select.select([handle], [], [], seconds)[0]:
            return None
        pressed = os.read(handle, 1).decode("latin-1")
        if not pressed:
            time.sleep(seconds)  # the terminal's input has ended
            return None
        return pressed

    try:
        tty.setcbreak(handle)  # Ctrl-C still interrupts
        yield key
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)


@contextmanager
def _looking(driver: str) -> Iterator[Callable[[int], Status]]:
    """Yield a function that looks at the cluster, its journal and its controller."""
    folder = state_path()
    # By the cluster's own clock: on a simulated one nothing is shown that has not happened yet, and on the wall clock
    # time passes here as it does for whoever acts.
    cluster = Cluster(driver)
    if not cluster.exists(folder):
        raise InputError(
            "there is no simulated cluster yet",
            where=str(folder),
            hint="make one: `partita apply plan.json`; for the GPUs of this host add --driver nvml",
        )
    with ExitStack() as stack:
        opened = stack.enter_context(open_driver(cluster, folder, list, read_only=True))
        journal = read_journal(folder)
        if journal is not None:
            stack.callback(journal.close)
        yield lambda tail: Status(
            observation=opened.observe(),
            progress=journal.progress() if journal else None,
            controller=holder(folder),
            tail=tuple(journal.tail(tail)) if journal else (),
            jobs=jobs_on_instances(),
            held=_held(folder),
        )


def _held(folder: Path) -> HeldByJobs:
    """Return what jobs hold; a status is shown whatever is wrong with the queue."""
    try:
        return held_by_jobs(folder)
    except PartitaError:
        return NOTHING_HELD


@dataclass(frozen=True, slots=True)
class Status:
    """A cluster, the goal that its controller is at, who that is, and the newest entries of the journal.

    Attributes:
        jobs: ids of those that run, or are about to, by GPU and placement.
        held: what jobs hold, which is no part of the state that `apply --expect` names.
    """

    observation: Observation
    progress: Progress | None
    controller: ActingProcess | None
    tail: tuple[Entry, ...]
    jobs: Mapping[tuple[str, str], str] = field(default_factory=dict)
    held: HeldByJobs = NOTHING_HELD

    def job(self, gpu: ObservedGpu, instance: ObservedInstance) -> str | None:
        """Return the id of the job on an instance; None if there is none, or nobody knows."""
        return self.jobs.get((gpu.id, str(instance.placement)))


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """Capacity that is ready, the floor that is kept now and the rate that is wanted, in items/s."""

    name: str
    capacity: float
    floor: float
    required: float


def services(status: Status) -> list[ServiceStatus]:
    """Return all services that run or are wanted."""
    capacity = deployed(status.observation).capacity()
    goal = status.progress.goal if status.progress else None
    wanted = dict(goal.new_rates) if goal else {}
    reached = status.progress is not None and status.progress.state == "reached"
    floor = wanted if reached else goal.guaranteed if goal else {}
    return [
        ServiceStatus(name, capacity.get(name, 0.0), floor.get(name, 0.0), wanted.get(name, 0.0))
        for name in sorted(capacity.keys() | wanted.keys())
    ]


def status_data(status: Status) -> dict[str, Any]:
    """Return a status as plain data."""
    progress = status.progress
    return {
        "state": snapshot(status.held.seen_by_services(status.observation)).fingerprint,
        "controller": asdict(status.controller) if status.controller else None,
        "goal": None
        if progress is None
        else {
            "state": progress.state.value,
            "paused": progress.paused,
            "command": progress.command,
            "actions_done": progress.done,
            "actions": progress.actions,
            "replans": progress.replans,
        },
        "services": [asdict(each) for each in services(status)],
        "gpus": [_gpu_data(status, gpu) for gpu in status.observation.gpus],
        "journal": [asdict(entry) for entry in status.tail],
    }


def _gpu_data(status: Status, gpu: ObservedGpu) -> dict[str, Any]:
    return {
        "id": gpu.id,
        "uuid": gpu.uuid,
        "model": gpu.model,
        "mig": gpu.mig,
        "lost": gpu.lost,
        "instances": [
            {
                "profile": each.placement.profile,
                "start": each.placement.start,
                "mig_uuid": each.identity.mig_uuid,
                "ours": each.ours,
                "busy": each.busy,
                "service": each.replica.replica.service if each.replica else None,
                **_shared(each),
                "job": (job := status.job(gpu, each)),
                "state": state_of(each, job),
            }
            for each in gpu.instances
        ],
    }


def _shared(instance: ObservedInstance) -> dict[str, Any]:
    """Return the services that share an instance; nothing where none do."""
    tenants = instance.replica.replica.tenants if instance.replica else ()
    return {"shared_by": [each.service for each in tenants]} if tenants else {}


def state_of(instance: ObservedInstance, job: str | None = None) -> str:
    """Return the state of an instance and of what runs on it, in a word."""
    return instance_state(instance, job=bool(job))


_COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
_MOST_GPUS = 64


def status_table(status: Status) -> StatusView:
    """Return what is printed of a status; it fits itself to the console."""
    return StatusView(status)


class StatusView:
    """A status as rich renders it."""

    def __init__(self, status: Status) -> None:
        self._status = status
        self._services = services(status)
        names = [each.name for each in self._services]
        self._colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        marks = ASCII if options.ascii_only else UNICODE
        yield from self._head()
        if self._services:
            yield ""
            yield self._service_table(marks)
        used = [gpu for gpu in self._status.observation.gpus if gpu.instances or gpu.lost or not gpu.mig]
        for gpu in used[:_MOST_GPUS]:
            yield ""
            yield from self._gpu(gpu, options.max_width, marks)
        idle = len(self._status.observation.gpus) - len(used)
        yield ""
        yield f"{len(used)} GPU{'s' * (len(used) != 1)} in use, {idle} empty" + (
            f"; {len(used) - _MOST_GPUS} of them in -o json only" if len(used) > _MOST_GPUS else ""
        )
        yield from self._journal(marks)

    def _head(self) -> RenderResult:
        status, progress = self._status, self._status.progress
        yield Text(f"state {snapshot(status.observation).fingerprint}", style="bold")
        yield Text(f"controller: {status.controller or 'none at work'}")
        if progress is not None:
            replans = f", ordered again {progress.replans} times" if progress.replans else ""
            done = f"{progress.done}/{counted(progress.actions, 'action')}{replans}"
            where = progress.state.value if progress.paused is None else f"paused by {progress.paused}"
            text = Text(f"goal: {where}, {done}", "green" if progress.state == "reached" else "yellow")
            text.append(f"  {progress.command}", "dim")
            yield text

    def _service_table(self, marks: Marks) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("service", overflow="fold", min_width=8)
        for name in ("capacity/s", "floor/s", "required/s"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("")
        for each in self._services:
            short = each.capacity < each.floor * (1 - 1e-9)
            table.add_row(
                Text(marks.plain(each.name), self._colours[each.name]),
                *(f"{value:,.6g}" for value in (each.capacity, each.floor, each.required)),
                Text("under its floor", "red") if short else "",
            )
        return table

    def _gpu(self, gpu: ObservedGpu, width: int, marks: Marks) -> RenderResult:

        head = Text(f"{marks.plain(gpu.id)}  {gpu.model}", no_wrap=True, overflow="crop")
        if gpu.lost or not gpu.mig:
            head.append("  lost" if gpu.lost else "  MIG mode off", "red")
        yield head
        if gpu.lost or not gpu.mig:
            return
        items = [(each.placement, _label(each, self._status.job(gpu, each))) for each in gpu.instances]
        names = {_label(each, None): each.replica.replica.service for each in gpu.instances if each.replica}
        rows = mosaic_rows(gpu_model(gpu.model), items, width, marks)
        yield from mosaic_texts(
            rows, marks, lambda cell: self._colours.get(names.get(cell.label or "", ""), "dim")
        )

    def _journal(self, marks: Marks) -> RenderResult:
        if self._status.tail:
            yield ""
        for entry in self._status.tail:
            end = "under way" if entry.ended is None else f"{entry.ended - entry.at:.1f} s"
            text = Text(f"{_time(entry.at)}  {marks.plain(entry.text.replace('_', ' '))}", overflow="fold")
            text.append(f"  {end}", "dim")
            if entry.error:
                text.append(f"  {marks.plain(entry.error)}", "red")
            yield text


def _label(instance: ObservedInstance, job: str | None) -> str:
    state = state_of(instance)
    if instance.replica is None and job is not None:
        return f"job {job}"
    if instance.replica is None:
        return "someone else's" if not instance.ours else state
    service = instance.replica.replica.service
    return service if state == "ready" else f"{service} {state}"


def _time(at: float) -> str:
    """Return a moment: the time of day on the wall clock, seconds on a simulated one."""
    if at < 1e9:
        return f"{at:10.1f} s"

    return datetime.fromtimestamp(at).astimezone().strftime("%m-%d %H:%M:%S")
