"""`partita logs`: what a job writes."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated, Any

import typer

from partita.cli.job_daemon import connect
from partita.cli.options import echo
from partita.cli.streams import own
from partita.cli.terminal import ProgramOutput, inline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from partita.jobs.queue.client import QueueClient

_PAUSE_S = 0.3

Id = Annotated[str, typer.Argument(metavar="ID", help="The job: 12, or a task 12_3.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is over.")]
Number = Annotated[int | None, typer.Option("--attempt", min=1, help="Which attempt. (default: the newest)")]


def logs(job: Id, *, follow: Follow = False, attempt: Number = None) -> None:
    """Show what a job has written, stdout and stderr as they came.

    With --follow from one attempt to the next, until the job is over. Ctrl-C ends the command and not the job. On a
    terminal only text and its colours are passed on; into a pipe or a file every byte is.
    """
    with connect() as daemon:
        chunks = _followed(daemon, job, attempt) if follow else _written(daemon, job, attempt)
        if own().isatty():
            _show(chunks)
            return
        for chunk in chunks:
            own().buffer.write(chunk)
            own().buffer.flush()


def _show(chunks: Iterator[bytes]) -> None:
    output = ProgramOutput()
    try:
        for chunk in chunks:
            own().write(output.feed(chunk))
            own().flush()
    finally:
        own().write(output.end())
        own().flush()


def _written(daemon: QueueClient, job: str, attempt: int | None) -> Iterator[bytes]:
    """Yield what there is of one attempt."""
    asked: dict[str, Any] = {} if attempt is None else {"attempt": attempt}
    offset = 0
    while True:
        found = daemon.ask("log", ids=[job], offset=offset, **asked)
        if found["attempt"] == 0:
            echo(f"job {found['id']} is {found['state']} and has written nothing yet", err=True)
        if not found["data"]:
            return
        asked = {"attempt": found["attempt"]}
        offset = found["next"]
        yield base64.b64decode(found["data"])


def _followed(daemon: QueueClient, job: str, attempt: int | None) -> Iterator[bytes]:
    """Yield what an attempt writes and those after it, until the job is over."""
    import time  # noqa: PLC0415 -- only where it waits

    number, offset = attempt, 0
    while True:
        asked: dict[str, Any] = {} if number is None else {"attempt": number}
        found = _patiently(daemon, job, offset, asked, patient=number is not None)
        if found is not None and found["data"]:
            number, offset = found["attempt"], found["next"]
            yield base64.b64decode(found["data"])
            continue
        if found is not None and found["ended"] and found["attempt"] < found["attempts"]:
            number, offset = found["attempt"] + 1, 0
            echo(f"attempt {number} of job {found['id']}", err=True)
            continue
        if found is not None and found["state"] in {"done", "failed", "cancelled"}:
            _end(found)
            return
        time.sleep(_PAUSE_S)


def _end(found: dict[str, Any]) -> None:
    why = f": {inline(found['why'])}" if found["why"] else ""
    echo(f"job {found['id']} {found['state']}{why}", err=True)


def _patiently(
    daemon: QueueClient, job: str, offset: int, asked: dict[str, Any], *, patient: bool
) -> dict[str, Any] | None:
    """Return a piece of the log; None while a daemon that was there is away."""
    from partita.jobs.queue.client import NoDaemonError  # noqa: PLC0415 -- only where a daemon is asked

    try:
        return daemon.ask("log", ids=[job], offset=offset, **asked)
    except NoDaemonError:
        if not patient:
            raise
        return None
