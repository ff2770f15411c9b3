"""What the simulated cluster knows of itself: its seed, its time, and how often chance was asked."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

    from partita.sim.clock import Clock


def begin(db: sqlite3.Connection, seed: int) -> None:
    """Store the seed of a new cluster, at time 0."""
    db.execute("INSERT INTO meta (seed, now, draws) VALUES (?, 0.0, 0)", (seed,))


def draw(db: sqlite3.Connection) -> random.Random:
    """Return a source of chance of its own for each call, the same in the same order of calls."""
    seed, draws = db.execute("UPDATE meta SET draws = draws + 1 RETURNING seed, draws").fetchone()
    return random.Random(f"{seed}/{draws}")


def now(db: sqlite3.Connection, clock: Clock) -> float:
    """Return the time, the clock set to at least what the cluster has seen: time never goes back."""
    (seen,) = db.execute("SELECT now FROM meta").fetchone()
    clock.catch_up(seen)
    return clock.now()


def store(db: sqlite3.Connection, moment: float) -> None:
    """Have other processes see this time."""
    db.execute("UPDATE meta SET now = max(now, ?)", (moment,))
