"""The simulated cluster's SQLite file: one transaction at a time, whatever process or thread it is in."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from partita.drive.port import DriveError
from partita.files import transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VERSION = 2
PATIENCE_S = 30.0

_TABLES = """
CREATE TABLE meta (seed INTEGER NOT NULL, now REAL NOT NULL, draws INTEGER NOT NULL);
CREATE TABLE gpus (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, uuid TEXT NOT NULL, model TEXT NOT NULL,
    mig INTEGER NOT NULL DEFAULT 1, lost INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE instances (
    gpu TEXT NOT NULL REFERENCES gpus (id), start INTEGER NOT NULL, profile TEXT NOT NULL,
    gi_id INTEGER NOT NULL, ci_id INTEGER, mig_uuid TEXT,
    ours INTEGER NOT NULL, busy INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (gpu, start)
) WITHOUT ROWID;
CREATE TABLE replicas (
    gpu TEXT NOT NULL, start INTEGER NOT NULL,
    service TEXT NOT NULL, model TEXT NOT NULL, batch INTEGER NOT NULL, processes INTEGER NOT NULL,
    throughput REAL NOT NULL, latency_ms REAL NOT NULL,
    ready_at REAL, gone_at REAL,
    PRIMARY KEY (gpu, start),
    FOREIGN KEY (gpu, start) REFERENCES instances (gpu, start) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE TABLE faults (
    seq INTEGER PRIMARY KEY, mishap TEXT NOT NULL, kind TEXT, gpu TEXT, placement TEXT,
    times INTEGER NOT NULL, skip INTEGER NOT NULL
);
"""
"""The tables of format 1."""

_SINCE_2 = """
ALTER TABLE meta ADD COLUMN wall INTEGER NOT NULL DEFAULT 0;
ALTER TABLE meta ADD COLUMN ahead REAL NOT NULL DEFAULT 0;
CREATE TABLE changes (gpu TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX changes_version ON changes (version);
CREATE INDEX replicas_ready ON replicas (ready_at);
CREATE INDEX replicas_gone ON replicas (gone_at);
"""
"""What format 2 added: which clock the cluster lives by, and which GPUs changed, in the order of their changes."""

_TRIGGER = (
    "CREATE TRIGGER {table}_{event} AFTER {event} ON {table} BEGIN"
    " INSERT INTO changes VALUES ({row}, (SELECT coalesce(max(version), 0) + 1 FROM changes))"
    " ON CONFLICT (gpu) DO UPDATE SET version = excluded.version; END"
)


def _statements() -> list[str]:
    """Return what makes the tables, and has every change of a row written down, whoever makes it."""
    triggers = [
        _TRIGGER.format(table=table, event=event, row=f"{'old' if event == 'DELETE' else 'new'}.{column}")
        for table, column in (("gpus", "id"), ("instances", "gpu"), ("replicas", "gpu"))
        for event in ("INSERT", "UPDATE", "DELETE")
    ]
    return [*_TABLES.split(";"), *_SINCE_2.split(";"), *triggers]


class Store:
    """An open file. Safe in threads and beside other processes.

    Args:
        path: the file.
        fill: makes the cluster's first rows, where a new one is wanted; without it, it must be there.

    Raises:
        DriveError: it is there already (`fill`), or not there, or not a cluster of this version.
    """

    def __init__(self, path: Path | str, fill: Callable[[sqlite3.Connection], None] | None = None) -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        if fill is None and not self.path.is_file():
            raise DriveError("there is no simulated cluster", where=str(path), hint="create one first")
        with self._told():
            self._db = sqlite3.connect(
                path, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False
            )
        try:
            self._open(fill)
        except BaseException:
            self._db.close()
            raise

    def _open(self, fill: Callable[[sqlite3.Connection], None] | None) -> None:
        with self._told():
            # WAL lets readers look while another process writes; what a killed process committed stays.
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA foreign_keys = ON")
        if fill is not None:
            self._create(fill)
        with self.reading() as db:
            found = _version(db)
        if found == 1:
            self._upgrade()
        elif found != VERSION:
            raise DriveError(
                f"the simulated cluster has format {found}, this partita reads {VERSION}",
                where=str(self.path),
                hint="use the partita that made it, or remove the file",
            )

    def _create(self, fill: Callable[[sqlite3.Connection], None]) -> None:
        with self.transaction() as db:
            if _version(db) != 0:
                raise DriveError(
                    "there is a simulated cluster already",
                    where=str(self.path),
                    hint="remove the file to start anew",
                )
            for statement in _statements():
                db.execute(statement)
            fill(db)
            db.execute(f"PRAGMA user_version = {VERSION}")

    def _upgrade(self) -> None:
        """Bring a file of format 1 to this one, unless another process does at the same time."""
        with self.transaction() as db:
            if _version(db) != 1:
                return
            for statement in _statements()[len(_TABLES.split(";")) :]:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {VERSION}")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Open a transaction that writes: all of the block happens, or none."""
        with self._lock, self._told(), transaction(self._db):
            yield self._db

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Open a transaction that reads the cluster as it is at one moment."""
        with self._lock, self._told():
            self._db.execute("BEGIN")
            try:
                yield self._db
            finally:
                self._db.execute("ROLLBACK")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise DriveError(
                f"the simulated cluster cannot be used: {error}",
                where=str(self.path),
                hint="is the disk full, or the file no cluster? `partita doctor` looks",
            ) from error


def _version(db: sqlite3.Connection) -> int:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version)
