"""`partita forget`: what is believed of jobs from those before them, and forgetting it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from partita.cli.job_daemon import connect, shown_job
from partita.cli.options import Format, Output, echo, emit, stdout

if TYPE_CHECKING:
    from rich.table import Table

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME...]", help="Names of jobs, or ids of jobs without a name."),
]
Every = Annotated[bool, typer.Option("--all", help="Forget all of your own jobs.")]


def forget(names: Names = None, *, every: Every = False, output: Output = Format.TABLE) -> None:
    """Show what is believed of jobs from those before them, or, with names, forget it.

    A job begins on the slice that earlier jobs of its name needed, or, without a name, those of the same command.
    Without names nothing is changed. Jobs that wait are seen anew at once; the history keeps all attempts.
    """
    with connect() as daemon:
        if names or every:
            found = daemon.ask("forget", ids=names or [], every=every)["families"]
        else:
            found = daemon.ask("families")["families"]
    if output is not Format.TABLE:
        emit({"families": found, "forgotten": bool(names or every)}, output)
    elif names or every:
        for each in found:
            echo(f"forgot {_shown(each)}: {_told(each)}", err=True)
        if not found:
            echo("nothing was remembered", err=True)
    elif found:
        stdout().print(_table(found))
    else:
        echo("nothing is remembered yet")


def _table(found: list[dict[str, Any]]) -> Table:
    from rich.table import Table  # noqa: PLC0415 -- rich is slow to import
    from rich.text import Text  # noqa: PLC0415

    from partita.cli.quantities import shown_bytes  # noqa: PLC0415 -- only for the table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("user", no_wrap=True)
    table.add_column("job", overflow="ellipsis", no_wrap=True, max_width=40, min_width=6)
    table.add_column("begins on", no_wrap=True)
    for name in ("done", "out of memory", "needs more than", "at most"):
        table.add_column(name, justify="right")
    for each in found:
        memory = each["memory"]
        table.add_row(
            Text(each["user"]),
            Text(_shown(each)),
            each["begins_on"] or "-",
            str(each["done"]),
            str(each["out_of_memory"]),
            shown_bytes(memory["lower"] or None),
            shown_bytes(memory["upper"]),
        )
    return table


def _shown(family: dict[str, Any]) -> str:
    return shown_job(family["name"], family["command"])


def _told(family: dict[str, Any]) -> str:
    return f"{family['done']} done, {family['out_of_memory']} out of memory"
