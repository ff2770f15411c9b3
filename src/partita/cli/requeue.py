"""`partita requeue`: have jobs run again."""

from __future__ import annotations

from partita.cli.job_daemon import Ids, Quiet, connect, tell_each

_WORDS = {
    "": "is stopping and waits again then",
    "waiting": "waits already",
    "done": "waits again",
    "failed": "waits again",
    "cancelled": "waits again",
}


def requeue(ids: Ids, *, quiet: Quiet = False) -> None:
    """Have jobs run again under their ids, with all attempts kept: those that are over, and those that run.

    One that runs gets SIGTERM, so that it can checkpoint, and after its grace SIGKILL.
    """
    with connect() as daemon:
        jobs = daemon.ask("requeue", ids=ids)["jobs"]
    # One that waits for a job which failed is cancelled again.
    tell_each([job for job in jobs if not job["over"]], _WORDS, quiet=quiet)
    tell_each([job for job in jobs if job["over"]], {"": "{state}: {why}"}, quiet=quiet)
