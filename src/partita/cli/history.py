"""`partita history`: jobs that are over, and every attempt of a job."""

from __future__ import annotations

import re
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from partita.cli.options import read_seconds, shown_bytes, shown_seconds
from partita.cli.output import Format, Output, echo, emit, stdout
from partita.cli.queue import Mine, connect, shown_job
from partita.cli.safe_text import inline
from partita.drive.state import require_readable, state_path
from partita.errors import InputError
from partita.jobs.energy import FILE, EnergyLedger, OwnerKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from partita.jobs.energy import Counter, LedgerEntry
    from partita.jobs.queue.client import QueueClient


Chosen = Annotated[
    list[str] | None, typer.Argument(metavar="[ID...]", help="Jobs. (default: the newest that have ended)")
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
        console.print(_attempts_table(jobs, wide=console.width >= _WIDE))
    else:
        echo("no job has ended yet")


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


def _attempts_table(jobs: list[dict[str, Any]], *, wide: bool) -> Table:
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
        for cells in _attempt_rows(job, wide=wide):
            table.add_row(*(Text(inline(cell)) for cell in cells))
    return table


def _attempt_rows(job: dict[str, Any], *, wide: bool) -> Iterator[tuple[str, ...]]:
    """Yield a line for each attempt; the first has the job's id and name, the last what became of it."""
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


class By(StrEnum):
    """What the rows are."""

    JOB = "job"
    SERVICE = "service"
    GPU = "gpu"


ByOption = Annotated[By, typer.Option("--by", help="What the rows are.")]
Since = Annotated[
    str,
    typer.Option(
        "--since", metavar="TIME", help="How far back: 90s, 15m, 24h, 7d. Beyond a day, in whole hours."
    ),
]

_NO_ENERGY = "missing"
_JOULES = {"J": 1.0, "Wh": 3600.0, "kWh": 3.6e6}


def energy(*, by: ByOption = By.GPU, since: Since = "24h", output: Output = Format.TABLE) -> None:
    """Show the energy of jobs and services, and of slices that nobody uses.

    NVML counts whole GPUs. Idle power is shared by size and the rest by activity, or by compute slices where no
    activity is known, so that the shares add up to the counters. Seconds without a counter are missing, never 0.
    """
    seconds = read_seconds(since, "--since")
    require_readable(state_path())
    path = state_path() / FILE
    if not path.is_file():
        raise InputError(
            "no energy has been measured yet",
            where=str(path),
            hint="`partita daemon` and `partita run` measure it",
        )
    ledger = EnergyLedger(path, read_only=True)
    try:
        counters = ledger.counters()
        # The ledger's time is that of the cluster's clock, which on a simulated one is not ours.
        now = max((each.at for each in counters.values()), default=time.time())
        entries = ledger.since(now - seconds)
    finally:
        ledger.close()
    rows = _energy_rows(by, entries)
    if output is Format.TABLE:
        stdout().print(_energy_table(by, rows))
        for each in counters.values():
            if each.joules is None:
                echo(f"note: {each.gpu} has no energy counter: {each.why}", err=True)
    else:
        emit({"by": by.value, "since_s": seconds, "rows": rows, "counters": _counters(counters)}, output)


def _energy_rows(by: By, entries: Sequence[LedgerEntry]) -> list[dict[str, Any]]:
    """Return a row for each of what is asked for, with the others together, and their sum."""

    def name(entry: LedgerEntry) -> str:
        owner = entry.owner
        if by is By.GPU:
            return entry.gpu
        if owner.kind is OwnerKind.UNALLOCATED:
            return "unallocated"
        if owner.kind.value == by.value:
            return owner.name
        return "services" if owner.kind is OwnerKind.SERVICE else "jobs"

    groups: dict[str, list[LedgerEntry]] = {}
    for entry in entries:
        groups.setdefault(name(entry), []).append(entry)
    last = ["jobs", "services", "unallocated"]
    order = sorted(groups, key=lambda each: (last.index(each) if each in last else -1, _natural(each)))
    return [*(_row(each, groups[each]) for each in order), _row("total", entries)]


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text) if part]


def _row(name: str, entries: Sequence[LedgerEntry]) -> dict[str, Any]:
    def joules(kind: OwnerKind | None = None) -> float | None:
        chosen = [each.energy for each in entries if kind is None or each.owner.kind is kind]
        measured = [each for each in chosen if each.joules is not None]
        missing = any(each.missing_s > 0.0 for each in chosen)
        return None if missing and not measured else sum(each.idle_j + each.active_j for each in measured)

    # The time of a GPU is that of its rest, which is always there; of others that of their instances.
    rest = [each for each in entries if each.owner.kind is OwnerKind.UNALLOCATED]
    seconds = sum(each.energy.seconds for each in rest or entries)
    total = joules()
    return {
        "name": name,
        "joules": total,
        "mean_w": total / seconds if total is not None and seconds > 0.0 else None,
        "idle_j": sum(each.energy.idle_j for each in entries),
        "active_j": sum(each.energy.active_j for each in entries),
        "jobs_j": joules(OwnerKind.JOB),
        "services_j": joules(OwnerKind.SERVICE),
        "unallocated_j": joules(OwnerKind.UNALLOCATED),
        "seconds": seconds,
        "missing_s": sum(each.energy.missing_s for each in rest or entries),
    }


def _counters(counters: dict[str, Counter]) -> list[dict[str, Any]]:
    return [
        {"gpu": each.gpu, "uuid": each.uuid, "joules": each.joules, "why": each.why, "idle_w": each.idle_w}
        for each in counters.values()
    ]


def _energy_table(by: By, rows: Sequence[dict[str, Any]]) -> Table:

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(by.value, no_wrap=True)
    for each in (
        "energy",
        "mean W",
        *(("jobs", "services", "unallocated") if by is By.GPU else ("idle", "work")),
    ):
        table.add_column(each, justify="right", no_wrap=True)
    table.add_column("not measured", justify="right", no_wrap=True)
    shares = ("jobs_j", "services_j", "unallocated_j") if by is By.GPU else ("idle_j", "active_j")
    unit = _unit(rows)
    for row in rows:
        known = row["joules"] is not None
        table.add_row(
            Text(row["name"]),
            _shown(row["joules"], unit),
            _NO_ENERGY if row["mean_w"] is None else f"{row['mean_w']:,.0f}",
            *(_shown(row[share] if known else None, unit) for share in shares),
            shown_seconds(row["missing_s"]) if row["missing_s"] else "",
            style="bold" if row is rows[-1] else None,
        )
    return table


def _shown(joules: float | None, unit: str) -> str:
    return _NO_ENERGY if joules is None else f"{joules / _JOULES[unit]:,.{0 if unit == 'J' else 2}f} {unit}"


def _unit(rows: Sequence[dict[str, Any]]) -> str:
    """Return the unit that all energies of a table are shown in: that of the largest."""
    most = max((row["joules"] or 0.0 for row in rows), default=0.0)
    return next(unit for unit in ("kWh", "Wh", "J") if most >= _JOULES[unit] or unit == "J")


Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME...]", help="Names of jobs, or ids of jobs without a name."),
]
Every = Annotated[bool, typer.Option("--all", help="Forget all of your own jobs.")]


def forget(names: Names = None, *, every: Every = False, output: Output = Format.TABLE) -> None:
    """Show the memory that jobs are expected to need, by earlier jobs of their name; with names, forget it.

    A job begins on the slice that earlier jobs of its name needed, or, without a name, those of the same command.
    Without names nothing is changed. Jobs that wait are forecast again at once; the history keeps all attempts.
    """
    with connect() as daemon:
        if names or every:
            found = daemon.ask("forget", ids=names or [], every=every)["families"]
        else:
            found = daemon.ask("families")["families"]
    if output is not Format.TABLE:
        emit({"families": found, "forgotten": bool(names or every)}, output)
    elif names or every:
        for each in found:
            echo(f"forgot {_forgotten(each)}: {_told(each)}", err=True)
        if not found:
            echo("nothing was remembered", err=True)
    elif found:
        stdout().print(_table(found))
    else:
        echo("nothing is remembered yet")


def _table(found: list[dict[str, Any]]) -> Table:

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("user", no_wrap=True)
    table.add_column("job", overflow="ellipsis", no_wrap=True, max_width=40, min_width=6)
    table.add_column("begins on", no_wrap=True)
    for name in ("done", "out of memory", "needs more than", "at most"):
        table.add_column(name, justify="right")
    for each in found:
        memory = each["memory"]
        table.add_row(
            Text(each["user"]),
            Text(_forgotten(each)),
            each["begins_on"] or "-",
            str(each["done"]),
            str(each["out_of_memory"]),
            shown_bytes(memory["lower"] or None),
            shown_bytes(memory["upper"]),
        )
    return table


def _forgotten(family: dict[str, Any]) -> str:
    return shown_job(family["name"], family["command"])


def _told(family: dict[str, Any]) -> str:
    return f"{family['done']} done, {family['out_of_memory']} out of memory"
