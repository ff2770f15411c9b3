"""`partita queue`: jobs that wait and run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from partita.cli.job_daemon import Mine, connect, shown_job
from partita.cli.options import Format, Output, echo, emit, stdout
from partita.cli.terminal import inline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from partita.jobs.queue.client import QueueClient

_PAGE = 2000
_SHOWN = 40
_MANY = 500
_HEADS = ("id", "user", "state", "memory", "start", "job", "where, or why not yet")
_RIGHT = frozenset({"memory", "start"})
_JOB = 24

Limit = Annotated[
    int | None, typer.Option("--limit", "-n", min=1, help=f"Most jobs shown. (default: {_SHOWN})")
]
All = Annotated[bool, typer.Option("--all", "-a", help="Show all jobs.")]


def queue(
    *, limit: Limit = None, every: All = False, me: Mine = False, output: Output = Format.TABLE
) -> None:
    """Show the jobs that run and wait, each with its reason and when it is expected to start.

    Other users' jobs are shown without what they run. A start marked ~ is an estimate. Tables show the first jobs in
    order of their starts; json and yaml show all unless --limit is given.
    """
    with connect() as daemon:
        most = limit or (None if every or output is not Format.TABLE else _SHOWN)
        found = _fetch(daemon, most, mine=me)
    if output is not Format.TABLE:
        emit(found, output)
        return
    if len(found["jobs"]) > _MANY:
        echo("\n".join(_lines(found)))
    elif found["jobs"]:
        stdout().print(_table(found))
    for line in _foot(found):
        echo(line)


def _fetch(daemon: QueueClient, most: int | None, *, mine: bool) -> dict[str, Any]:
    """Return the queue at one moment, read page by page."""
    jobs: list[dict[str, Any]] = []
    page: dict[str, Any] = {}
    while True:
        ask = _PAGE if most is None else min(most - len(jobs), _PAGE)
        found = daemon.ask("queue", offset=len(jobs), limit=ask, mine=mine, **page)
        if found.get("expired"):  # the daemon has started anew meanwhile, say
            jobs, page = [], {}
            continue
        page = {"revision": found["revision"]}
        jobs += found["jobs"]
        if len(jobs) >= min(found["total"], most or found["total"]):
            return {**found, "jobs": jobs}


def _table(found: dict[str, Any]) -> Table:
    from rich.table import Table  # noqa: PLC0415 -- rich is slow to import
    from rich.text import Text  # noqa: PLC0415

    from partita.cli.quantities import shown_bytes  # noqa: PLC0415

    *names, job_name, where = _HEADS
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, justify="right" if name in _RIGHT else "left", no_wrap=True)
    table.add_column(job_name, overflow="ellipsis", no_wrap=True, max_width=_JOB, min_width=6)
    table.add_column(where, overflow="fold", ratio=1)
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


def _lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each job, none folded: to fit a table takes a second for a thousand rows."""
    from partita.cli.quantities import shown_bytes  # noqa: PLC0415 -- only for the table

    rows = [_HEADS]
    for job in found["jobs"]:
        name = inline(shown_job(job["name"], job["command"]))
        head = (job["id"], inline(job["user"]), job["state"], shown_bytes(job["memory_bytes"]))
        shown = name if len(name) <= _JOB else f"{name[: _JOB - 1]}…"
        rows.append((*head, _start(job, found["now"]), shown, inline(_where(job))))
    widths = [max(len(row[at]) for row in rows) for at in range(len(_HEADS) - 1)]
    for row in rows:
        cells = [
            cell.rjust(width) if name in _RIGHT else cell.ljust(width)
            for name, cell, width in zip(_HEADS, row, widths, strict=False)
        ]
        yield "  ".join([*cells, row[-1]])


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
