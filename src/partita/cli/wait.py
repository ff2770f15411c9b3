"""`partita wait`: wait for jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from partita.cli.job_daemon import Ids, connect

if TYPE_CHECKING:
    from collections.abc import Sequence

_SOON_S, _LATER_S = 0.1, 1.0


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command("wait")(wait)


def wait(
    ids: Ids,
    *,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing of each job.")] = False,
    timeout: Annotated[str | None, typer.Option(metavar="TIME", help="Give up after this, as 10m.")] = None,
) -> None:
    """Wait until jobs are over: done, failed or cancelled.

    Ends with 0 if all are done, with 1 if any failed or was cancelled, or time ran out. Ctrl-C ends the wait and
    not the jobs. A daemon that is started again meanwhile is found again.
    """
    import time  # noqa: PLC0415 -- only where it waits

    from partita.cli.quantities import read_seconds  # noqa: PLC0415
    from partita.errors import PartitaError  # noqa: PLC0415

    until = None if timeout is None else time.monotonic() + read_seconds(timeout, "--timeout")
    pause, told = _SOON_S, set[str]()
    with connect() as daemon:
        while True:
            jobs = _states(daemon.ask, ids, patient=bool(told) or pause > _SOON_S)
            over = [job for job in jobs if job["over"]]
            _tell([job for job in over if job["id"] not in told], quiet=quiet)
            told |= {job["id"] for job in over}
            if jobs and len(over) == len(jobs):
                break
            if until is not None and time.monotonic() >= until:
                raise PartitaError(f"{len(jobs) - len(over)} jobs are not over yet")
            time.sleep(pause)
            pause = min(pause * 1.2, _LATER_S)
    if any(job["state"] != "done" for job in jobs):
        raise typer.Exit(1)


def _states(ask: Any, ids: Sequence[str], *, patient: bool) -> list[dict[str, Any]]:  # noqa: ANN401 -- Client.ask
    """Return the jobs' states; none while a daemon that was there is away."""
    from partita.jobs.queue.client import NoDaemonError  # noqa: PLC0415 -- only where a daemon is asked

    try:
        found: list[dict[str, Any]] = ask("states", ids=list(ids))["jobs"]
    except NoDaemonError:
        if not patient:
            raise
        return []
    return found


def _tell(jobs: Sequence[dict[str, Any]], *, quiet: bool) -> None:
    for job in () if quiet else jobs:
        why = f": {job['why']}" if job["why"] else ""
        typer.echo(f"job {job['id']} {job['state']}{why}", err=True)
