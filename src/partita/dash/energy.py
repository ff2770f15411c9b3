"""Energy and cost by who used it, from the ledger of the queue; what nobody used is a row like others."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.dash.model import Energy, EnergyRow
from partita.jobs.energy import OwnerKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from partita.jobs.energy import LedgerEntry

MOST_ROWS = 1000
"""Rows of services and jobs; the rest is one row, `other`."""

_KINDS = {OwnerKind.JOB: "job", OwnerKind.SERVICE: "service", OwnerKind.UNALLOCATED: "idle"}


@dataclass(slots=True)
class _Sum:
    joules: float = 0.0
    read_s: float = 0.0
    seconds: float = 0.0
    cost: float = 0.0
    priced: bool = True


def energy(
    entries: Sequence[LedgerEntry],
    recent: Iterable[LedgerEntry],
    models: Mapping[str, str],
    prices: Mapping[str, float],
    since: float,
) -> Energy:
    """Return energy and cost by service, job and idle GPUs, the most joules first.

    A GPU's time is divided among its owners as its idle energy was: by the size of their instances and how long they
    held them.

    Args:
        entries: of the ledger since then, by GPU and owner.
        recent: of the last minutes, for the watts now.
        models: of GPUs, by id.
        prices: of a GPU per hour, by model; empty where there are none.
        since: seconds since 1970.
    """
    sums: dict[tuple[str, str], _Sum] = defaultdict(_Sum)
    for gpu, mine in _by_gpu(entries).items():
        whole = sum(each.energy.seconds for each in mine if each.owner.kind is OwnerKind.UNALLOCATED)
        idle = sum(each.energy.idle_j for each in mine)
        price = prices.get(models.get(gpu, ""))
        for each in mine:
            found = sums[_KINDS[each.owner.kind], each.owner.name]
            seconds = whole * each.energy.idle_j / idle if idle else 0.0
            found.joules += each.energy.idle_j + each.energy.active_j
            found.read_s += each.energy.seconds
            found.seconds += seconds
            found.cost += (price or 0.0) * seconds / 3600
            found.priced = found.priced and price is not None
    return Energy(since, _rows(sums), _watts(recent))


def _by_gpu(entries: Iterable[LedgerEntry]) -> dict[str, list[LedgerEntry]]:
    found: dict[str, list[LedgerEntry]] = defaultdict(list)
    for each in entries:
        found[each.gpu].append(each)
    return found


def _rows(sums: Mapping[tuple[str, str], _Sum]) -> tuple[EnergyRow, ...]:
    rows = sorted(
        (_row(kind, name, each) for (kind, name), each in sums.items()),
        key=lambda row: (-(row.joules or 0.0), row.kind, row.name),
    )
    idle = [row for row in rows if row.kind == "idle"]
    others = [row for row in rows if row.kind != "idle"]
    rest = others[MOST_ROWS:]
    if rest:
        costs = [row.cost for row in rest]
        others = [
            *others[:MOST_ROWS],
            EnergyRow(
                "other",
                f"{len(rest):,} more",
                sum(row.joules or 0.0 for row in rest),
                sum(row.seconds for row in rest),
                None if None in costs else sum(cost or 0.0 for cost in costs),
            ),
        ]
    return (*others, *idle)


def _row(kind: str, name: str, each: _Sum) -> EnergyRow:
    return EnergyRow(
        kind,
        name,
        each.joules if each.read_s else None,
        each.seconds,
        each.cost if each.priced and each.read_s else None,
    )


def _watts(recent: Iterable[LedgerEntry]) -> float | None:
    """Return the mean of what all GPUs drew over the last minutes; None where no counter was read."""
    found = None
    for mine in _by_gpu(recent).values():
        seconds = sum(each.energy.seconds for each in mine if each.owner.kind is OwnerKind.UNALLOCATED)
        if seconds > 0.0:
            found = (found or 0.0) + sum(each.energy.idle_j + each.energy.active_j for each in mine) / seconds
    return found
