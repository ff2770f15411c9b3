"""`partita wait`: wait for jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from partita.cli.job_daemon import Ids, connect
from partita.cli.options import echo
from partita.cli.terminal import inline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.jobs.queue.client import QueueClient

_SOON_S, _LATER_S = 0.1, 1.0
_JOBS_PER_S = 1000.0


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
        jobs = daemon.ask("states", ids=ids)["jobs"]
        pending = _tell(jobs, told, quiet=quiet)
        while pending:
            if until is not None and time.monotonic() >= until:
                raise PartitaError(f"not over yet: {pending} of {len(jobs)}")
            time.sleep(pause)
            pause = min(pause * 1.2, _LATER_S)
            if _pending(daemon, ids) != pending:
                jobs = _states(daemon, ids) or jobs
                pending = _tell(jobs, told, quiet=quiet)
                # Who waits for thousands is told of each, but does not keep the daemon busy with that.
                pause = max(pause, len(jobs) / _JOBS_PER_S)
    if any(job["state"] != "done" for job in jobs):
        raise typer.Exit(1)


def _pending(daemon: QueueClient, ids: Sequence[str]) -> int | None:
    """Return how many are not over; None while the daemon is away."""
    from partita.jobs.queue.client import NoDaemonError  # noqa: PLC0415 -- only where a daemon is asked

    try:
        return int(daemon.ask("pending", ids=list(ids))["pending"])
    except NoDaemonError:
        return None


def _states(daemon: QueueClient, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return the jobs' states; none while the daemon is away."""
    from partita.jobs.queue.client import NoDaemonError  # noqa: PLC0415 -- only where a daemon is asked

    try:
        found: list[dict[str, Any]] = daemon.ask("states", ids=list(ids))["jobs"]
    except NoDaemonError:
        return []
    return found


def _tell(jobs: Sequence[dict[str, Any]], told: set[str], *, quiet: bool) -> int:
    """Tell of the jobs that are over and were not told of; return how many are not over."""
    over = [job for job in jobs if job["over"]]
    for job in over:
        if job["id"] not in told and not quiet:
            why = f": {inline(job['why'])}" if job["why"] else ""
            echo(f"job {job['id']} {job['state']}{why}", err=True)
        told.add(job["id"])
    return len(jobs) - len(over)
