"""The SQLite file below the queue's store: opened, brought to this format, written as a whole or not at all."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from partita.errors import PartitaError
from partita.files import transaction

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = 3
PATIENCE_S = 10.0
"""Seconds for which another program may have the file to itself."""

_SCHEMA = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY, first INTEGER NOT NULL, idx INTEGER, uid INTEGER NOT NULL, over INTEGER NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX jobs_first ON jobs (first, idx);
CREATE INDEX jobs_over ON jobs (over, number);
CREATE INDEX jobs_environment ON jobs (json_extract(body, '$.environment'));
CREATE TABLE environments (key TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE used (user TEXT PRIMARY KEY, gpu_seconds REAL NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE forgotten (family TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
"""

_FROM_1 = """
ALTER TABLE used ADD COLUMN at REAL NOT NULL DEFAULT 0;
UPDATE used SET at = CAST(strftime('%s', 'now') AS REAL);
CREATE INDEX jobs_environment ON jobs (json_extract(body, '$.environment'));
"""

_FROM_2 = """
CREATE TABLE forgotten (family TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
"""

_STEPS = {0: _SCHEMA, 1: _FROM_1 + _FROM_2, 2: _FROM_2}
"""What makes this format of each older one; 0 is a new file."""

# What SQLite says where no more bytes can be written; a limit on the size of files shows as a failed write.
_NO_ROOM = frozenset({"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_FSYNC"})


# Damage that SQLite tells as a fault of the query.
_DAMAGE = ("malformed", "no such table", "no such column")

_HINTS = {
    "locked": "another program has it open; `fuser` with its path says which",
    "readonly": "may it be written, and is its file system mounted for writing?",
    "unable to open": "may it be read and written by the daemon's user?",
}


class StoreError(PartitaError):
    """The queue's file cannot be used."""


class DiskFullError(StoreError):
    """There is no room for what should be written; what was there is as it was."""


class DamagedStoreError(StoreError):
    """The file holds what cannot be, or parts of it are missing."""


class StoreFile:
    """The open file. One process writes it, in one thread at a time.

    Args:
        path: the file, made if it is not there, for its owner's eyes only.

    Raises:
        DamagedStoreError: it is damaged. It is left as it is.
        StoreError: it is of another version, or cannot be opened. It is left as it is.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        with self.told():
            self._require_whole()
            self.path.touch(mode=0o600)
            self._identity = _identity(self.path)
            # One thread at a time may be another one than that which opened it.
            self._db = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=PATIENCE_S
            )
        try:
            with self.told():
                self._open()
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        # FULL: a commit is on the disk when it returns, also if the power fails then.
        self._db.execute("PRAGMA synchronous = FULL")
        (found,) = self._db.execute("PRAGMA user_version").fetchone()
        known = found in _STEPS and bool(
            found or not self._db.execute("SELECT 1 FROM sqlite_master").fetchone()
        )
        if not known and found != VERSION:
            raise StoreError(
                f"the queue has format {found}, this partita reads {VERSION}",
                where=str(self.path),
                hint="use the partita that made it",
            )
        (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise self.damaged(verdict.splitlines()[-1])
        if known:
            with self.transaction():
                for statement in _STEPS[found].split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {VERSION}")

    def _require_whole(self) -> None:
        """Refuse what SQLite would take for a new file, and what it has no words for.

        Raises:
            StoreError: there is such.
        """
        if self.path.is_dir():
            raise StoreError("the queue's store is a folder, not a file", where=str(self.path))
        log = Path(f"{self.path}-wal")
        if log.exists() and log.stat().st_size and empty(self.path):
            # SQLite would drop the log, in which the newest jobs are.
            raise self.damaged("the file is missing or empty, and its write-ahead log is there")

    def _require_there(self) -> None:
        """Refuse to write into a file that nobody will find again.

        Raises:
            StoreError: another file is there, or none.
        """
        if _identity(self.path) != self._identity:
            raise StoreError(
                "the queue's store was removed or replaced while it was open; nothing is written any more",
                where=str(self.path),
                hint="stop the daemon; put the file back, or start `partita daemon --recover`; jobs that run go on",
            )

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Have all the writes of the block happen, or none.

        Raises:
            DiskFullError: there is no room; nothing has changed.
            StoreError: it cannot be written otherwise; nothing has changed.
        """
        self._require_there()
        with self.told(), transaction(self._db):
            yield

    @contextmanager
    def told(self) -> Iterator[None]:
        """Have what goes wrong in the block told in the queue's words.

        Raises:
            StoreError: something did.
        """
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "") in _NO_ROOM:
                raise DiskFullError(
                    "the queue cannot be written: the disk is full",
                    where=str(self.path),
                    hint="make room; jobs that run go on meanwhile",
                ) from error
            if isinstance(error, sqlite3.OperationalError) and not any(w in str(error) for w in _DAMAGE):
                hint = next((told for words, told in _HINTS.items() if words in str(error)), None)
                raise StoreError(
                    f"the queue cannot be used: {error}", where=str(self.path), hint=hint
                ) from error
            raise self.damaged(str(error)) from error
        except OSError as error:
            raise StoreError(f"the queue cannot be used: {error.strerror}", where=str(self.path)) from error

    def damaged(self, why: str) -> DamagedStoreError:
        """Return what is raised where the file holds what cannot be."""
        return DamagedStoreError(
            f"the queue is damaged: {why}",
            where=str(self.path),
            hint="it is left as it is; `partita daemon --recover` sets it aside and takes over all that can be read "
            "of it and of the attempts on the disk: what runs goes on, and nothing runs twice",
        )


def empty(path: Path) -> bool:
    """Say whether a file holds nothing, or is not there. SQLite takes one of a single byte for empty, too."""
    return not path.exists() or path.stat().st_size <= 1


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from all others; None if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
