"""`partita status`: what runs, who acts on it, and how far that is."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from partita.cli.drivers import Cluster, DriverName, DriverOption, open_driver
from partita.cli.options import Format, Output, emit, stdout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from partita.cli.status_data import Status

Watch = Annotated[bool, typer.Option("--watch", "-w", help="Show it again and again, until Ctrl-C.")]
Every = Annotated[float, typer.Option("--every", min=0.1, help="Seconds between two looks of --watch.")]
Tail = Annotated[int, typer.Option("--tail", min=0, help="Newest entries of the journal that are shown.")]


def status(
    *,
    watch: Watch = False,
    every: Every = 1.0,
    tail: Tail = 8,
    driver: DriverOption = DriverName.SIMULATED,
    output: Output = Format.TABLE,
) -> None:
    """Show the cluster: GPUs, services and jobs on them, who acts on it, how far that is, and the journal.

    Changes nothing, and may be asked while a controller acts.
    """
    from partita.cli.status_data import status_data  # noqa: PLC0415 -- slow to import
    from partita.cli.status_view import status_table  # noqa: PLC0415

    with _looking(driver) as look:
        if not watch:
            _show(look(tail), output, status_data, status_table)
        elif output is Format.TABLE and stdout().is_terminal:
            _live(lambda: status_table(look(tail)), every)
        else:
            import time  # noqa: PLC0415

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
    import time  # noqa: PLC0415 -- only for --watch

    from rich.live import Live  # noqa: PLC0415

    with Live(view(), console=stdout(), screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(every)
            live.update(view(), refresh=True)


@contextmanager
def _looking(driver: DriverName) -> Iterator[Callable[[int], Status]]:
    """Yield a function that looks at the cluster, its journal and its controller."""
    from partita.cli.job_daemon import jobs_on_instances  # noqa: PLC0415
    from partita.cli.status_data import Status  # noqa: PLC0415 -- slow to import
    from partita.control.journal import FILE, Journal  # noqa: PLC0415
    from partita.control.lock import holder  # noqa: PLC0415
    from partita.drive.state import state_path  # noqa: PLC0415
    from partita.errors import InputError  # noqa: PLC0415

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
        opened = stack.enter_context(open_driver(cluster, folder, list))
        journal = Journal(folder / FILE) if (folder / FILE).exists() else None
        if journal is not None:
            stack.callback(journal.close)
        yield lambda tail: Status(
            observation=opened.observe(),
            progress=journal.progress() if journal else None,
            controller=holder(folder),
            tail=tuple(journal.tail(tail)) if journal else (),
            jobs=jobs_on_instances(),
        )
