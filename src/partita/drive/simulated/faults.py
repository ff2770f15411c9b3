"""Failures on request: what goes wrong, for which actions, how often."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

    from partita.mig.layout import Placement
    from partita.transition.transition import Action, Kind


class Mishap(StrEnum):
    """What goes wrong with an action.

    FAILS: it takes its time and does not happen. IN_USE: refused at once as in use. NEVER_READY: the replica
    starts and never becomes ready. TIMES_OUT: reported as timed out, though it happened. GPU_LOST: the GPU
    falls off the bus while it is under way.
    """

    FAILS = "fails"
    IN_USE = "in_use"
    NEVER_READY = "never_ready"
    TIMES_OUT = "times_out"
    GPU_LOST = "gpu_lost"


@dataclass(frozen=True, slots=True)
class Fault:
    """A mishap that is to come.

    Attributes:
        kind: of the actions that it hits; None for any. So with `gpu` and `placement`.
        times: how many actions it hits; then it is over.
        skip: how many matching actions are let through first.
    """

    mishap: Mishap
    kind: Kind | None = None
    gpu: str | None = None
    placement: Placement | None = None
    times: int = 1
    skip: int = 0


def inject(db: sqlite3.Connection, fault: Fault) -> None:
    """Store a fault, behind those that are there."""
    placement = str(fault.placement) if fault.placement else None
    row = (fault.mishap, fault.kind, fault.gpu, placement, fault.times, fault.skip)
    db.execute(
        "INSERT INTO faults (mishap, kind, gpu, placement, times, skip) VALUES (?, ?, ?, ?, ?, ?)", row
    )


def strike(db: sqlite3.Connection, action: Action) -> Mishap | None:
    """Return what goes wrong with this action, by the oldest fault that matches it, and count it."""
    rows = db.execute(
        "SELECT seq, mishap, skip FROM faults WHERE times > 0 AND (kind IS NULL OR kind = ?)"
        " AND (gpu IS NULL OR gpu = ?) AND (placement IS NULL OR placement = ?) ORDER BY seq",
        (action.kind, action.gpu, str(action.placement)),
    ).fetchall()
    for seq, mishap, skip in rows:
        if skip:
            db.execute("UPDATE faults SET skip = skip - 1 WHERE seq = ?", (seq,))
            continue
        db.execute("UPDATE faults SET times = times - 1 WHERE seq = ?", (seq,))
        return Mishap(mishap)
    return None
