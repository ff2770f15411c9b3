"""A cluster on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.cli.mosaic import ASCII, UNICODE, mosaic_rows, mosaic_texts
from partita.cli.status_data import services, state_of
from partita.control.snapshot import snapshot

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

    from partita.cli.mosaic import Marks
    from partita.cli.status_data import Status
    from partita.drive.driver import ObservedGpu, ObservedInstance

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
        yield ""
        yield self._service_table(marks)
        used = [gpu for gpu in self._status.observation.gpus if gpu.instances or gpu.lost or not gpu.mig]
        for gpu in used[:_MOST_GPUS]:
            yield ""
            yield from self._gpu(gpu, options.max_width, marks)
        idle = len(self._status.observation.gpus) - len(used)
        yield ""
        yield f"{len(used)} GPUs in use, {idle} empty" + (
            f"; {len(used) - _MOST_GPUS} of them in -o json only" if len(used) > _MOST_GPUS else ""
        )
        yield from self._journal(marks)

    def _head(self) -> RenderResult:
        from rich.text import Text  # noqa: PLC0415 -- rich is slow to import

        status, progress = self._status, self._status.progress
        yield Text(f"state {snapshot(status.observation).fingerprint}", style="bold")
        yield Text(f"controller: {status.controller or 'none at work'}")
        if progress is not None:
            replans = f", ordered anew {progress.replans} times" if progress.replans else ""
            done = f"{progress.done}/{progress.actions} actions{replans}"
            text = Text(
                f"goal: {progress.state.value}, {done}", "green" if progress.state == "reached" else "yellow"
            )
            text.append(f"  {progress.command}", "dim")
            yield text

    def _service_table(self, marks: Marks) -> Table:
        from rich.table import Table  # noqa: PLC0415 -- rich is slow to import
        from rich.text import Text  # noqa: PLC0415

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
        from rich.text import Text  # noqa: PLC0415 -- rich is slow to import

        from partita.mig.catalogue import gpu_model  # noqa: PLC0415

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
        from rich.text import Text  # noqa: PLC0415 -- rich is slow to import

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
    from datetime import datetime  # noqa: PLC0415 -- only on the wall clock

    return datetime.fromtimestamp(at).astimezone().strftime("%m-%d %H:%M:%S")
