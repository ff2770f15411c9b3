"""How commands reach the daemon of the jobs, and what they share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from partita.cli.options import echo
from partita.cli.terminal import inline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.jobs.queue.client import QueueClient

Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Jobs: 12, an array 12, a task 12_3.")]
Mine = Annotated[bool, typer.Option("--me", help="Only your own jobs.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing of each job.")]


_SOON_S = 0.5


def connect() -> QueueClient:
    """Return a connection to the daemon of the state folder."""
    from partita.drive.state import state_path  # noqa: PLC0415 -- only where a daemon is asked
    from partita.jobs.queue.client import QueueClient  # noqa: PLC0415
    from partita.jobs.queue.folders import jobs_folder  # noqa: PLC0415

    return QueueClient(jobs_folder(state_path()))


def jobs_on_instances() -> dict[tuple[str, str], str]:
    """Return the jobs on instances, by GPU and placement; none if no daemon answers soon, or not to us."""
    from partita.drive.state import state_path  # noqa: PLC0415 -- only where a daemon is asked
    from partita.errors import PartitaError  # noqa: PLC0415
    from partita.jobs.queue.client import QueueClient  # noqa: PLC0415
    from partita.jobs.queue.folders import jobs_folder  # noqa: PLC0415

    try:
        with QueueClient(jobs_folder(state_path()), _SOON_S) as daemon:
            jobs = daemon.ask("instances")["jobs"]
    except PartitaError:
        return {}
    return {(job["gpu"], job["instance"]): job["id"] for job in jobs}


def shown_job(name: str | None, command: str | None) -> str:
    """Return what a job is called in a table: its name, or its command on one line, less the program's folder."""
    program, space, words = " ".join((command or "").split()).partition(" ")
    return name or program.rpartition("/")[2] + space + words


def tell_each(jobs: Sequence[dict[str, Any]], words: dict[str, str], *, quiet: bool) -> None:
    """Say on stderr what became of each job.

    Args:
        jobs: each with its id, its state and the one it had.
        words: by the state it had; `{}` is what is said of any other.
        quiet: say nothing.
    """
    if quiet:
        return
    for job in jobs:
        text = words.get(job["was"], words[""]).format(**job)
        echo(f"job {job['id']}: {inline(text)}", err=True)
