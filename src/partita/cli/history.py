"""`partita history`: jobs that are over, and every attempt of a job."""

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

Chosen = Annotated[
    list[str] | None, typer.Argument(metavar="[ID...]", help="Jobs. (default: the newest that are over)")
]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="Most jobs shown without ids.")]

_MISSING = "missing"
_WIDE = 100
"""Columns from which the GPUs are shown, too."""


def history(
    ids: Chosen = None, *, limit: Limit = 20, me: Mine = False, output: Output = Format.TABLE
) -> None:
    """Show the attempts of jobs: instance, seconds, exit code, verdict, peak memory and energy.

    What was not measured is missing, never 0. Users see their own jobs, root and admins all.
    """
    with connect() as daemon:
        jobs = daemon.ask("history", ids=ids)["jobs"] if ids else _newest(daemon, limit, mine=me)
    if output is not Format.TABLE:
        emit({"jobs": jobs}, output)
    elif jobs:
        console = stdout()
        console.print(_table(jobs, wide=console.width >= _WIDE))
    else:
        echo("no job is over yet")


def _newest(daemon: QueueClient, limit: int, *, mine: bool) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = []
    before = None
    while len(jobs) < limit:
        found = daemon.ask("history", limit=limit - len(jobs), before=before, mine=mine)
        jobs += found["jobs"]
        before = found["before"]
        if before is None:
            break
    return jobs


def _table(jobs: list[dict[str, Any]], *, wide: bool) -> Table:
    from rich.table import Table  # noqa: PLC0415 -- rich is slow to import
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("id", no_wrap=True)
    table.add_column("job", overflow="ellipsis", no_wrap=True, max_width=24 if wide else 10, min_width=6)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("instance", no_wrap=True)
    if wide:
        table.add_column("gpu", overflow="fold")
    for name in ("time", "exit", "peak", "energy"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold", ratio=1, min_width=12)
    for job in jobs:
        for cells in _rows(job, wide=wide):
            table.add_row(*(Text(inline(cell)) for cell in cells))
    return table


def _rows(job: dict[str, Any], *, wide: bool) -> Iterator[tuple[str, ...]]:
    """Yield a line for each attempt; the first has the job's id and name, the last what became of it."""
    from partita.cli.quantities import shown_bytes, shown_seconds  # noqa: PLC0415 -- only for the table

    head = (job["id"], shown_job(job["name"], " ".join(job["command"])))
    if not job["attempts"]:
        yield (*head, "", "never ran", *([""] if wide else []), "", "", "", "", job["verdict"])
    for each in job["attempts"]:
        last = each is job["attempts"][-1]
        unknown = _MISSING if each["verdict"] else "-"  # of one that runs, it is only not known yet
        peak, energy = each["peak_memory_bytes"], each["energy_j"]
        yield (
            *head,
            f"#{each['attempt']}",
            each["instance"],
            *([each["gpu"]] if wide else []),
            shown_seconds(each["seconds"]),
            "-" if each["exit_code"] is None else str(each["exit_code"]),
            unknown if peak is None else shown_bytes(peak),
            unknown if energy is None else f"{energy:,.4g} J",
            _verdict(job, each, last=last),
        )
        head = ("", "")


def _verdict(job: dict[str, Any], attempt: dict[str, Any], *, last: bool) -> str:
    if attempt["verdict"] is None:
        return str(job["state"])
    why = attempt["why"] if attempt["why"] != attempt["verdict"] else None
    told = f"{attempt['verdict']}: {why}" if why and not str(why).startswith(attempt["verdict"]) else why
    text = str(told or attempt["verdict"])
    if last and job["state"] == "waiting":
        return f"{text}; waits"
    if last and job["verdict"] not in (job["state"], why):
        return f"{text}; {job['verdict']}" if str(job["verdict"]) not in text else text
    return text
