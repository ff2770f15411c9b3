"""The journal's SQLite file: opened, checked, and never overwritten when it cannot be read."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

from partita.errors import PartitaError
from partita.files import transaction

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VERSION = 1
_PATIENCE_S = 30.0

_SCHEMA = """
CREATE TABLE goals (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, command TEXT NOT NULL, document TEXT NOT NULL,
    state TEXT NOT NULL, ended REAL
);
CREATE TABLE rounds (
    id INTEGER PRIMARY KEY, goal INTEGER NOT NULL REFERENCES goals (id) ON DELETE CASCADE, at REAL NOT NULL,
    actions INTEGER NOT NULL, makespan REAL NOT NULL, moved INTEGER NOT NULL
);
CREATE TABLE actions (
    seq INTEGER PRIMARY KEY, round INTEGER NOT NULL REFERENCES rounds (id) ON DELETE CASCADE,
    id TEXT NOT NULL, kind TEXT NOT NULL, gpu TEXT NOT NULL, placement TEXT NOT NULL, service TEXT,
    begun REAL NOT NULL, ended REAL, error TEXT
);
CREATE INDEX actions_open ON actions (round, id) WHERE ended IS NULL;
CREATE TABLE notes (
    seq INTEGER PRIMARY KEY, goal INTEGER REFERENCES goals (id) ON DELETE CASCADE, at REAL NOT NULL,
    text TEXT NOT NULL
);
CREATE TABLE seen (gpu TEXT NOT NULL, placement TEXT NOT NULL, fact TEXT NOT NULL, PRIMARY KEY (gpu, placement))
    WITHOUT ROWID
"""


class JournalError(PartitaError):
    """The journal cannot be read or written."""


class JournalFile:
    """An open journal. Each transaction is on the disk when it ends.

    Args:
        path: the file, made if it is not there.

    Raises:
        JournalError: it is there and is no journal, is damaged, or is of a newer version. It is left as it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._told():
            # autocheckpoint and WAL as SQLite has them; FULL syncs the log at every commit, so that an intent
            # is on the disk before its action begins.
            self._db = sqlite3.connect(
                path, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def _prepare(self) -> None:
        version, tables = self._kind()
        if (version, tables) != (0, 0):
            self._check(version)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")
        if (version, tables) == (0, 0):
            self._make()

    def _kind(self) -> tuple[int, int]:
        """Return its format and how many tables it has, both at one moment: (0, 0) of a new file."""
        ask = "SELECT (SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_master)"
        version, tables = self._db.execute(ask).fetchone()
        return version, tables

    def _make(self) -> None:
        """Make the tables, unless another process does at the same time."""
        self._db.execute("BEGIN IMMEDIATE")
        if self._kind() == (0, 0):
            for statement in _SCHEMA.split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {VERSION}")
        self._db.execute("COMMIT")

    def _check(self, version: int) -> None:
        if version != VERSION:
            raise JournalError(
                f"the journal has format {version}, this partita reads {VERSION}",
                where=str(self.path),
                hint="use the partita that wrote it, " + self._away(),
            )
        (found,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(str(found))

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Open a transaction that writes: all of the block happens, or none.

        Raises:
            JournalError: it cannot be written: a full disk, lost rights, a damaged file.
        """
        with self._told(), transaction(self._db):
            yield self._db

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read outside a transaction.

        Raises:
            JournalError: it cannot be read.
        """
        with self._told():
            yield self._db

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise JournalError(
                f"the journal cannot be used: {error}",
                where=str(self.path),
                hint="is the disk full, or the folder not yours? Nothing was overwritten",
            ) from error
        except sqlite3.DatabaseError as error:
            raise JournalError(
                f"the journal cannot be read: {error}; it is kept as it is",
                where=str(self.path),
                hint=self._away().removeprefix("or "),
            ) from error

    def _away(self) -> str:
        return (
            f"or start a new one: `mv {self.path} {self.path}.kept`; what runs is observed anew, only the rates "
            "promised until now are forgotten (the capacity that runs takes their place)"
        )
