"""`partita energy`: who took how much, as far as the GPUs' counters tell."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from partita.cli.options import Format, Output, echo, emit, stdout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from partita.jobs.energy import Counter, LedgerEntry


class By(StrEnum):
    """What the rows are."""

    JOB = "job"
    SERVICE = "service"
    GPU = "gpu"


ByOption = Annotated[By, typer.Option("--by", help="What the rows are.")]
Since = Annotated[
    str,
    typer.Option(
        "--since", metavar="TIME", help="How far back: 90s, 15m, 24h, 7d. Older than a day by hours."
    ),
]

_MISSING = "missing"
_JOULES = {"J": 1.0, "Wh": 3600.0, "kWh": 3.6e6}


def energy(*, by: ByOption = By.GPU, since: Since = "24h", output: Output = Format.TABLE) -> None:
    """Show the energy of jobs and services, and of what nobody holds.

    NVML counts whole GPUs. Idle power is shared by size and the rest by activity, or by compute slices where no
    activity is known, so that the shares add up to the counters. Seconds without a counter are missing, never 0.
    """
    import time  # noqa: PLC0415 -- only here

    from partita.cli.quantities import read_seconds  # noqa: PLC0415 -- not for --help
    from partita.drive.state import state_path  # noqa: PLC0415
    from partita.errors import InputError  # noqa: PLC0415
    from partita.jobs.energy import FILE, EnergyLedger  # noqa: PLC0415

    seconds = read_seconds(since, "--since")
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
    rows = _rows(by, entries)
    if output is Format.TABLE:
        stdout().print(_table(by, rows))
        for each in counters.values():
            if each.joules is None:
                echo(f"note: {each.gpu} has no energy counter: {each.why}", err=True)
    else:
        emit({"by": by.value, "since_s": seconds, "rows": rows, "counters": _counters(counters)}, output)


def _rows(by: By, entries: Sequence[LedgerEntry]) -> list[dict[str, Any]]:
    """Return a row for each of what is asked for, with the others together, and their sum."""
    from partita.jobs.energy import OwnerKind  # noqa: PLC0415 -- not for --help

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
    import re  # noqa: PLC0415 -- only here

    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text) if part]


def _row(name: str, entries: Sequence[LedgerEntry]) -> dict[str, Any]:
    from partita.jobs.energy import OwnerKind  # noqa: PLC0415 -- not for --help

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


def _table(by: By, rows: Sequence[dict[str, Any]]) -> Table:
    from rich.table import Table  # noqa: PLC0415 -- rich is slow to import
    from rich.text import Text  # noqa: PLC0415

    from partita.cli.quantities import shown_seconds  # noqa: PLC0415 -- only for the table

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
            _MISSING if row["mean_w"] is None else f"{row['mean_w']:,.0f}",
            *(_shown(row[share] if known else None, unit) for share in shares),
            shown_seconds(row["missing_s"]) if row["missing_s"] else "",
            style="bold" if row is rows[-1] else None,
        )
    return table


def _shown(joules: float | None, unit: str) -> str:
    return _MISSING if joules is None else f"{joules / _JOULES[unit]:,.{0 if unit == 'J' else 2}f} {unit}"


def _unit(rows: Sequence[dict[str, Any]]) -> str:
    """Return the unit that all energies of a table are shown in: that of the largest."""
    most = max((row["joules"] or 0.0 for row in rows), default=0.0)
    return next(unit for unit in ("kWh", "Wh", "J") if most >= _JOULES[unit] or unit == "J")
