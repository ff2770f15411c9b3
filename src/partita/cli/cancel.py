"""`partita cancel`: end jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.cli.job_daemon import Ids, Quiet, connect, tell_each

if TYPE_CHECKING:
    import typer

_WORDS = {
    "": "is stopping; it may checkpoint first",
    "waiting": "cancelled",
    "stopping": "is stopping already",
    "done": "was done already",
    "failed": "had failed already",
    "cancelled": "was cancelled already",
}


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command("cancel")(cancel)


def cancel(ids: Ids, *, quiet: Quiet = False) -> None:
    """Cancel jobs, whole arrays, or tasks of one.

    One that runs gets SIGTERM and after its grace SIGKILL. Cancelling twice is no error.
    """
    with connect() as daemon:
        tell_each(daemon.ask("cancel", ids=ids)["jobs"], _WORDS, quiet=quiet)
