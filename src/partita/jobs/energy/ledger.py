"""What each owner took, in one SQLite file: sums by minute for a day, by hour for a quarter, and in all."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from partita.errors import PartitaError
from partita.jobs.energy.attribution import Kind, Owner
from partita.jobs.energy.records import Counter, Energy, Entry
from partita.store import Database, Format, UnreadableError, move_away

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

FILE = "energy.sqlite3"
MINUTE_S, HOUR_S = 60, 3600
MINUTES_S = 25 * HOUR_S
"""For how long sums by minute are kept; older ones become sums by hour."""

HOURS_S = 92 * 24 * HOUR_S
MOST_OWNERS = 100_000
"""Owners of whom the sum over all time is kept, the newest."""

_SCHEMA = """
CREATE TABLE counters (
    gpu TEXT PRIMARY KEY, uuid TEXT NOT NULL, at REAL NOT NULL, joules REAL, why TEXT, idle_w REAL
) WITHOUT ROWID;
CREATE TABLE sums (
    slot INTEGER NOT NULL, gpu TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, attempt INTEGER NOT NULL,
    idle_j REAL NOT NULL, active_j REAL NOT NULL, seconds REAL NOT NULL, missing_s REAL NOT NULL,
    PRIMARY KEY (slot, gpu, kind, name, attempt)
) WITHOUT ROWID;
CREATE TABLE totals (
    seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, attempt INTEGER NOT NULL,
    idle_j REAL NOT NULL, active_j REAL NOT NULL, seconds REAL NOT NULL, missing_s REAL NOT NULL,
    UNIQUE (kind, name, attempt)
);
"""
_ADD = """
idle_j = idle_j + excluded.idle_j, active_j = active_j + excluded.active_j,
seconds = seconds + excluded.seconds, missing_s = missing_s + excluded.missing_s
"""
_ADD_SUM = f"INSERT INTO sums VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET {_ADD}"  # noqa: S608 -- all from constants of this file, as below
_ADD_TOTAL = f"""
INSERT INTO totals (kind, name, attempt, idle_j, active_j, seconds, missing_s) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET {_ADD}
"""  # noqa: S608
_TO_HOURS = f"""
INSERT INTO sums
SELECT slot / {HOUR_S} * {HOUR_S}, gpu, kind, name, attempt,
       sum(idle_j), sum(active_j), sum(seconds), sum(missing_s)
FROM sums WHERE slot < ? AND slot % {HOUR_S} > 0 GROUP BY 1, 2, 3, 4, 5
ON CONFLICT DO UPDATE SET {_ADD}
"""  # noqa: S608
_OLD_JOBS = "kind = 'job' AND name <> '' AND seq <= ?"
_FOLD = f"""
INSERT INTO totals (kind, name, attempt, idle_j, active_j, seconds, missing_s)
SELECT kind, '', 0, sum(idle_j), sum(active_j), sum(seconds), sum(missing_s)
FROM totals WHERE {_OLD_JOBS} GROUP BY kind ON CONFLICT DO UPDATE SET {_ADD}
"""  # noqa: S608


_FORMAT = Format(
    name="the energy ledger",
    version=1,
    steps={0: _SCHEMA.split(";")},
    if_damaged="it is left as it is; the daemon sets it aside when it starts, and counts on",
    if_other="use the partita that made it, or start the daemon, which sets it aside",
    if_removed="start the daemon again",
    durable=False,
    private=True,  # other users' jobs are in it
)


class EnergyLedger:
    """The file of what was taken. One process writes, any number read.

    Args:
        path: its file, made if it is not there.
        mend: given by the one who writes, whom no fault of the file is to stop: a damaged file is set aside, now and
            later, and another one begun; where none can be used, energy is counted in memory. It is told what was
            wrong and what was done about it.

        read_only: given by the one who only reads.

    Raises:
        UnreadableError: without `mend`, it is damaged or of another format, and is left as it is.
        StoreError: without `mend`, the file cannot be used.
    """

    def __init__(
        self, path: Path, mend: Callable[[str], None] | None = None, *, read_only: bool = False
    ) -> None:
        self._path = path
        self._mend = mend
        self._lock = threading.RLock()
        self._compacted = 0.0
        self._file = Database(path, _FORMAT, read_only=read_only) if mend is None else self._usable(mend)

    def add(self, at: float, counters: Iterable[Counter], entries: Iterable[Entry]) -> None:
        """Store readings and what follows from them, all or nothing.

        Args:
            at: end of the time they are of, in seconds.
            counters: as they were read.
            entries: who took what.

        Raises:
            PartitaError: the disk is full, or failed otherwise.
        """
        slot = int(at // MINUTE_S) * MINUTE_S
        with self._writing() as db:
            for each in counters:
                row = (each.gpu, each.uuid, each.at, each.joules, each.why, each.idle_w)
                db.execute("INSERT OR REPLACE INTO counters VALUES (?, ?, ?, ?, ?, ?)", row)
            for entry in entries:
                who = (entry.owner.kind.value, entry.owner.name, entry.owner.attempt)
                took = entry.energy
                sums = (took.idle_j, took.active_j, took.seconds, took.missing_s)
                db.execute(_ADD_SUM, (slot, entry.gpu, *who, *sums))
                db.execute(_ADD_TOTAL, (*who, *sums))
            if abs(at - self._compacted) >= HOUR_S:
                self._compacted = at
                _compact(db, at)

    def counters(self) -> dict[str, Counter]:
        """Return the counters as they were last read, by GPU."""
        with self._reading() as db:
            return {row[0]: Counter(*row) for row in db.execute("SELECT * FROM counters ORDER BY gpu")}

    def of(self, owner: Owner) -> Energy | None:
        """Return what somebody took in all; None if nothing is known of them."""
        find = "SELECT idle_j, active_j, seconds, missing_s FROM totals WHERE kind = ? AND name = ? AND attempt = ?"
        with self._reading() as db:
            row = db.execute(find, (owner.kind.value, owner.name, owner.attempt)).fetchone()
        return None if row is None else Energy(*row)

    def joules(self, job: str, attempt: int) -> float | None:
        """Return the joules that an attempt of a job took so far; None if none were measured, or nobody can tell."""
        try:
            found = self.of(Owner(Kind.JOB, job, attempt))
        except PartitaError:
            return None
        return None if found is None else found.joules

    def since(self, began: float) -> tuple[Entry, ...]:
        """Return who took what on which GPU from the minute (a day ago and more: the hour) of a moment on."""
        find = """
        SELECT gpu, kind, name, attempt, sum(idle_j), sum(active_j), sum(seconds), sum(missing_s)
        FROM sums WHERE slot >= ? GROUP BY gpu, kind, name, attempt ORDER BY gpu, kind, name, attempt
        """
        with self._reading() as db:
            rows = db.execute(find, (int(began // MINUTE_S) * MINUTE_S,)).fetchall()
        return tuple(Entry(row[0], Owner(Kind(row[1]), row[2], row[3]), Energy(*row[4:])) for row in rows)

    def last_job(self) -> int:
        """Return the largest number of a job of which anything is known; 0 for none, or if nobody can tell."""
        try:
            with self._reading() as db:
                (found,) = db.execute(
                    "SELECT max(CAST(name AS INTEGER)) FROM totals WHERE kind = 'job'"
                ).fetchone()
        except PartitaError:
            return 0
        return int(found or 0)

    def totals(self) -> dict[tuple[Kind, str], Energy]:
        """Return what services, nobody, and all jobs together (under no name) took in all; it never sinks."""
        find = """
        SELECT kind, CASE kind WHEN 'job' THEN '' ELSE name END AS whose,
               sum(idle_j), sum(active_j), sum(seconds), sum(missing_s)
        FROM totals GROUP BY kind, whose ORDER BY kind, whose
        """
        with self._reading() as db:
            return {(Kind(row[0]), row[1]): Energy(*row[2:]) for row in db.execute(find)}

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _usable(self, tell: Callable[[str], None]) -> Database:
        """Return a ledger that can be written, whatever is there."""
        try:
            try:
                return Database(self._path, _FORMAT)
            except UnreadableError as error:
                tell(f"{error}; set aside as {', '.join(move_away(self._path))}, and another one was begun")
                return Database(self._path, _FORMAT)
        except PartitaError as error:
            tell(f"{error}; energy is counted in memory, until the daemon ends")
            return Database(None, _FORMAT)

    @contextmanager
    def _mending(self) -> Iterator[Database]:
        """Use the file; where it turns out to be damaged, have a good one for the next time."""
        with self._lock:
            try:
                yield self._file
            except UnreadableError:
                if self._mend is not None:
                    self._file.close()
                    self._file = self._usable(self._mend)
                raise

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._mending() as file, file.transaction() as db:
            yield db

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._mending() as file, file.reading() as db:
            yield db


def _compact(db: sqlite3.Connection, at: float) -> None:
    """Make old minutes hours, and forget what is older still."""
    minutes = int((at - MINUTES_S) // HOUR_S) * HOUR_S
    db.execute(_TO_HOURS, (minutes,))
    db.execute(f"DELETE FROM sums WHERE slot < ? AND slot % {HOUR_S} > 0", (minutes,))  # noqa: S608 -- a constant
    db.execute("DELETE FROM sums WHERE slot < ?", (int(at - HOURS_S),))
    # What is forgotten of single jobs stays in the sum of all.
    (newest,) = db.execute("SELECT coalesce(max(seq), 0) FROM totals").fetchone()
    old = (newest - MOST_OWNERS,)
    db.execute(_FOLD, old)
    db.execute(f"DELETE FROM totals WHERE {_OLD_JOBS}", old)  # noqa: S608 -- a constant
