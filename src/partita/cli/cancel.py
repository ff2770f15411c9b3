"""`partita cancel`: end jobs."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from partita.cli.job_daemon import Quiet, connect, tell_each
from partita.cli.options import echo

if TYPE_CHECKING:
    from partita.jobs.queue.client import QueueClient

SomeIds = Annotated[
    list[str] | None, typer.Argument(metavar="[ID...]", help="Jobs: 12, an array 12, a task 12_3.")
]

_WORDS = {
    "": "is stopping; it may checkpoint first",
    "waiting": "cancelled",
    "stopping": "is stopping already",
    "done": "was done already",
    "failed": "had failed already",
    "cancelled": "was cancelled already",
}


def cancel(
    ids: SomeIds = None,
    *,
    every: Annotated[
        bool, typer.Option("--all", help="All of your jobs; with --user, of that user's.")
    ] = False,
    me: Annotated[bool, typer.Option("--me", help="All of your own jobs, also as root.")] = False,
    user: Annotated[str | None, typer.Option(help="Whose jobs --all means; for root and admins.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before --all.")] = False,
    quiet: Quiet = False,
) -> None:
    """Cancel jobs, whole arrays, or tasks of one; or all of yours.

    One that runs gets SIGTERM and after its grace SIGKILL. Cancelling twice is no error. It works on a full
    disk, too.
    """
    from partita.errors import InputError  # noqa: PLC0415 -- only to tell a fault

    every = every or me
    if bool(ids) == every:
        raise InputError(
            "ids beside --all" if ids else "no job is named",
            hint="partita cancel 12, or partita cancel --all",
        )
    if user is not None and (me or not every):
        raise InputError("--user says whose jobs --all means", where="--user")
    if every and not me and user is None and os.geteuid() == 0:
        raise InputError(
            "whose jobs? root may cancel everybody's",
            where="--all",
            hint="add --user NAME, or --me for root's own",
        )
    with connect() as daemon:
        asked = _all_of(daemon, user, yes=yes) if every else {"ids": ids}
        found = daemon.ask("cancel", **asked) if asked else {"jobs": [], "notes": []}
    tell_each(found["jobs"], _WORDS, quiet=quiet)
    for note in found["notes"]:
        echo(f"note: {note}", err=True)


def _all_of(daemon: QueueClient, user: str | None, *, yes: bool) -> dict[str, Any] | None:
    """Return what names all jobs that a user has now, once it is agreed; None if there are none.

    Raises:
        InputError: there is nobody to ask.
        Exit: it is not agreed.
    """
    from partita.errors import InputError  # noqa: PLC0415 -- only to tell a fault

    found = daemon.ask("mine", owner=user)
    jobs = "1 job" if found["jobs"] == 1 else f"{found['jobs']:,} jobs"
    if not found["jobs"]:
        echo(f"{found['user']} has no jobs that wait or run", err=True)
        return None
    if not yes:
        if not sys.stdin.isatty():
            raise InputError(
                "there is no terminal to ask on", where="--all", hint=f"add --yes to cancel {jobs}"
            )
        try:
            agreed = typer.confirm(f"Cancel {jobs} of {found['user']}?", err=True)
        except typer.Abort:
            raise KeyboardInterrupt from None  # Ctrl-C at the prompt is an interruption like any other
        if not agreed:
            raise typer.Exit(1)
    # What is submitted meanwhile was not agreed to.
    return {"owner": user, "newest": found["newest"]}
