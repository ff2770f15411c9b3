"""`partita queue`: jobs that wait and run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from partita.cli.job_daemon import connect, shown_job
from partita.cli.options import Format, Output, echo, emit, stdout
from partita.cli.terminal import inline

if TYPE_CHECKING:
    from rich.table import Table

    from partita.jobs.queue.client import Client

_PAGE = 500
_SHOWN = 40

Limit = Annotated[
    int | None, typer.Option("--limit", "-n", min=1, help=f"Most jobs shown. (default: {_SHOWN})")
]
All = Annotated[bool, typer.Option("--all", "-a", help="Show all jobs.")]


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command("queue")(queue)


def queue(*, limit: Limit = None, every: All = False, output: Output = Format.TABLE) -> None:
    """Show the jobs that run and wait, each with its reason and when it is expected to start.

    Other users' jobs are shown without what they run. A start marked ~ is an estimate. Tables show the first jobs in
    order of their starts; json and yaml show all unless --limit is given.
    """
    with connect() as daemon:
        most = limit or (None if every or output is not Format.TABLE else _SHOWN)
        found = _fetch(daemon, most)
    if output is not Format.TABLE:
        emit(found, output)
        return
    if found["jobs"]:
        stdout().print(_table(found))
    for line in _foot(found):
        echo(line)


def _fetch(daemon: Client, most: int | None) -> dict[str, Any]:
    jobs: list[dict[str, Any]] = []
    while True:
        ask = _PAGE if most is None else min(most - len(jobs), _PAGE)
        found = daemon.ask("queue", offset=len(jobs), limit=ask)
        jobs += found["jobs"]
        if not found["jobs"] or len(jobs) >= min(found["total"], most or found["total"]):
            return {**found, "jobs": jobs}


def _table(found: dict[str, Any]) -> Table:
    from rich.table import Table  # noqa: PLC0415 -- rich is slow to import
    from rich.text import Text  # noqa: PLC0415

    from partita.cli.quantities import shown_bytes  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("id", "user", "state"):
        table.add_column(name, no_wrap=True)
    table.add_column("memory", justify="right", no_wrap=True)
    table.add_column("start", justify="right", no_wrap=True)
    table.add_column("job", overflow="ellipsis", no_wrap=True, max_width=24, min_width=6)
    table.add_column("where, or why not yet", overflow="fold", ratio=1)
    for job in found["jobs"]:
        name = shown_job(job["name"], job["command"])
        table.add_row(
            job["id"],
            Text(job["user"]),
            Text(job["state"], _COLOURS.get(job["state"], "")),
            shown_bytes(job["memory_bytes"]),
            _start(job, found["now"]),
            Text(inline(name)),
            Text(inline(_where(job))),
        )
    return table


_COLOURS = {"running": "green", "stopping": "yellow", "starting": "cyan"}


def _start(job: dict[str, Any], now: float) -> str:
    from partita.cli.quantities import shown_moment  # noqa: PLC0415 -- only for the table

    if job["state"] != "waiting":
        return shown_moment(job["began"], now)
    mark = "~" if job["start_estimated"] else ""
    return mark + shown_moment(job["start"], now)


def _where(job: dict[str, Any]) -> str:
    if job["state"] == "waiting":
        return str(job["reason"])
    again = f", attempt {job['attempts']}" if job["attempts"] > 1 else ""
    why = f"; {job['reason']}" if job["reason"] else ""
    return f"{job['instance']} on {job['gpu']}{again}{why}"


def _foot(found: dict[str, Any]) -> list[str]:
    counts = ", ".join(f"{n:,} {state}" for state, n in found["counts"].items())
    more = found["total"] - len(found["jobs"])
    lines = [f"{counts or 'no jobs'}; discipline {found['discipline']}"]
    if more > 0:
        lines[0] += f"; {more:,} more not shown: --all"
    if found["trouble"]:
        lines.append(f"trouble: {inline(found['trouble'])}")
    return lines
