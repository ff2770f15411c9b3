"""What the simulated cluster knows of itself: its seed, its clock and time, and how often chance was asked."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from partita.sim.clock import SimulatedClock, WallClock

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
    """Return the time, the clock set to at least what the cluster has seen: time never goes back.

    While a cluster lives by the wall clock, time passes whether or not anyone looks.
    """
    seen, wall, ahead = db.execute("SELECT now, wall, ahead FROM meta").fetchone()
    clock.catch_up(max(seen, time.time() + ahead) if wall else seen)
    return clock.now()


def own_clock(db: sqlite3.Connection) -> Clock:
    """Return a clock like the one that the cluster lived by last; a new cluster lives by a simulated one."""
    (wall,) = db.execute("SELECT wall FROM meta").fetchone()
    return WallClock() if wall else SimulatedClock()


def store(db: sqlite3.Connection, clock: Clock) -> float:
    """Have other processes see the clock's time and live by it; return that time.

    A wall clock may be ahead of the system's, where a simulated one was used before: that is kept, too.
    """
    moment = clock.now()
    wall = isinstance(clock, WallClock)
    ahead = max(0.0, moment - time.time()) if wall else 0.0
    db.execute("UPDATE meta SET now = max(now, ?), wall = ?, ahead = ?", (moment, wall, ahead))
    return moment
