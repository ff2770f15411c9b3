"""`partita queue`: jobs that wait and run."""

from __future__ import annotations

import base64
import os
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from partita.cli.options import Kubeconfig, KubeContext, read_seconds, shown_bytes, shown_moment
from partita.cli.output import Format, Output, ProgramOutput, echo, emit, own, stdout
from partita.cli.safe_text import inline
from partita.drive.state import state_path
from partita.errors import InputError, PartitaError
from partita.jobs.queue.client import NoDaemonError, QueueClient
from partita.jobs.queue.folders import jobs_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


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


Kubernetes = Annotated[
    bool,
    typer.Option(
        "--kubernetes",
        "-k",
        help="Show the Kubernetes Jobs of a cluster's queues; so do the next three options.",
    ),
]
Namespace = Annotated[
    str | None, typer.Option(metavar="NAME", help="Only Jobs of this namespace. (default: all)")
]


def queue(
    *,
    limit: Limit = None,
    every: All = False,
    me: Mine = False,
    kubernetes: Kubernetes = False,
    kubeconfig: Kubeconfig = None,
    context: KubeContext = None,
    namespace: Namespace = None,
    output: Output = Format.TABLE,
) -> None:
    """Show the jobs that run and wait, each with its reason and when it is expected to start.

    Other users' jobs are shown without what they run. A start marked ~ is an estimate. Tables show the first jobs in
    order of their starts; json and yaml show all unless --limit is given.

    With --kubernetes, shows the Jobs of a cluster, with the reasons that `partita controller` has written into them.
    """
    most = limit or (None if every or output is not Format.TABLE else _SHOWN)
    if kubernetes or kubeconfig or context or namespace:
        found = _of_cluster(kubeconfig, context, namespace, most, mine=me)
    else:
        with connect() as daemon:
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


def _of_cluster(
    kubeconfig: str | None, context: str | None, namespace: str | None, most: int | None, *, mine: bool
) -> dict[str, Any]:
    """Return the Jobs of a Kubernetes cluster.

    Raises:
        InputError: only a user's were asked for.
    """
    from partita.kubernetes.connecting import open_api  # noqa: PLC0415 -- only where a cluster is asked
    from partita.kubernetes.job_view import cluster_queue  # noqa: PLC0415

    if mine:
        raise InputError("Jobs of a cluster have no user", where="--me", hint="choose with --namespace")
    api = open_api(kubeconfig, context)
    try:
        return cluster_queue(api, namespace, most)
    finally:
        api.close()


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
    if job["state"] != "waiting":
        return shown_moment(job["began"], now)
    mark = "~" if job["start_estimated"] else ""
    return mark + shown_moment(job["start"], now)


def _where(job: dict[str, Any]) -> str:
    if job["state"] == "waiting" or "instance" not in job:
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


Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Jobs: 12, an array 12, a task 12_3.")]
Mine = Annotated[bool, typer.Option("--me", help="Only your own jobs.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing for each job.")]


_SOON_S = 0.5


def connect() -> QueueClient:
    """Return a connection to the daemon of the state folder."""
    return QueueClient(jobs_folder(state_path()))


def jobs_on_instances() -> dict[tuple[str, str], str]:
    """Return the jobs on instances, by GPU and placement; none if no daemon answers soon, or not to us."""
    try:
        with QueueClient(jobs_folder(state_path()), _SOON_S) as daemon:
            jobs = daemon.ask("instances")["jobs"]
            return {(job["gpu"], job["instance"]): job["id"] for job in jobs}
    except PartitaError:
        return {}


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
        text = words.get(job["was"], words[""]).format_map(job)
        echo(f"job {job['id']}: {inline(text)}", err=True)


_PAUSE_S = 0.3

Id = Annotated[str, typer.Argument(metavar="ID", help="The job: 12, or a task 12_3.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is over.")]
Number = Annotated[int | None, typer.Option("--attempt", min=1, help="Which attempt. (default: the newest)")]


def logs(job: Id, *, follow: Follow = False, attempt: Number = None) -> None:
    """Show the output of a job, stdout and stderr in their order.

    With --follow, continues from one attempt to the next until the job is over. Ctrl-C ends the command, not the job.
    On a terminal only text and its colours are passed on; a pipe or a file gets every byte.
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
    try:
        return daemon.ask("log", ids=[job], offset=offset, **asked)
    except NoDaemonError:
        if not patient:
            raise
        return None


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
        bool, typer.Option("--all", help="All of your jobs; with --user, all of that user's.")
    ] = False,
    me: Annotated[bool, typer.Option("--me", help="All of your own jobs, also as root.")] = False,
    user: Annotated[str | None, typer.Option(help="Whose jobs --all means; for root and admins.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before --all.")] = False,
    quiet: Quiet = False,
) -> None:
    """Cancel jobs, arrays or tasks of an array, or all your jobs.

    A running job gets SIGTERM, and SIGKILL after its grace. Cancelling twice is no error. The command works on a full
    disk, too.
    """
    every = every or me
    if bool(ids) == every:
        raise InputError(
            "ids together with --all" if ids else "no job is named",
            hint="partita cancel 12, or partita cancel --all",
        )
    if user is not None and (me or not every):
        raise InputError("--user needs --all", where="--user")
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
    found = daemon.ask("mine", owner=user)
    jobs = "1 job" if found["jobs"] == 1 else f"{found['jobs']:,} jobs"
    if not found["jobs"]:
        echo(f"{found['user']} has no jobs that wait or run", err=True)
        return None
    if not yes:
        if not sys.stdin.isatty():
            raise InputError(
                "there is no terminal on which to ask for confirmation",
                where="--all",
                hint=f"add --yes to cancel {jobs}",
            )
        try:
            agreed = typer.confirm(f"Cancel {jobs} of {found['user']}?", err=True)
        except typer.Abort:
            raise KeyboardInterrupt from None  # Ctrl-C at the prompt is an interruption like any other
        if not agreed:
            raise typer.Exit(1)
    # What is submitted meanwhile was not agreed to.
    return {"owner": user, "newest": found["newest"]}


_POLL_S, _LATER_S = 0.1, 1.0
_JOBS_PER_S = 1000.0


def wait(
    ids: Ids,
    *,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing for each job.")] = False,
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="Give up after this time, as in 10m.")
    ] = None,
) -> None:
    """Wait until jobs are over: done, failed or cancelled.

    Exits with 0 if all are done, with 1 if any failed or was cancelled, or time ran out. Ctrl-C ends the wait, not
    the jobs. The wait survives a restart of the daemon.
    """
    until = None if timeout is None else time.monotonic() + read_seconds(timeout, "--timeout")
    pause, told = _POLL_S, set[str]()
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
    try:
        return int(daemon.ask("pending", ids=list(ids))["pending"])
    except NoDaemonError:
        return None


def _states(daemon: QueueClient, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return the jobs' states; none while the daemon is away."""
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


_REQUEUED = {
    "": "is stopping and waits again then",
    "waiting": "waits already",
    "done": "waits again",
    "failed": "waits again",
    "cancelled": "waits again",
}


def requeue(ids: Ids, *, quiet: Quiet = False) -> None:
    """Run jobs again under their ids, with all attempts kept: those that have ended, and those that run.

    A running job gets SIGTERM, so that it can checkpoint, and SIGKILL after its grace.
    """
    with connect() as daemon:
        jobs = daemon.ask("requeue", ids=ids)["jobs"]
    # One that waits for a job which failed is cancelled again.
    tell_each([job for job in jobs if not job["over"]], _REQUEUED, quiet=quiet)
    tell_each([job for job in jobs if job["over"]], {"": "{state}: {why}"}, quiet=quiet)
