"""The queue's SQLite file: what it says was done is on the disk before anybody is told."""

from __future__ import annotations

import json
import sqlite3
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from partita.errors import PartitaError
from partita.jobs.queue.codec import dumps, loads
from partita.jobs.queue.record import OVER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from partita.jobs.queue.record import JobRecord

FILE = "queue.sqlite3"
VERSION = 1

_SCHEMA = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY, first INTEGER NOT NULL, idx INTEGER, uid INTEGER NOT NULL, over INTEGER NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX jobs_first ON jobs (first, idx);
CREATE INDEX jobs_over ON jobs (over, number);
CREATE TABLE environments (key TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE used (user TEXT PRIMARY KEY, gpu_seconds REAL NOT NULL) WITHOUT ROWID;
"""


class StoreError(PartitaError):
    """The queue's file cannot be used."""


class DiskFullError(StoreError):
    """There is no room for what should be written; what was there is as it was."""


class Store:
    """The open file. One process writes it, the daemon, in one thread at a time.

    Args:
        path: the file, made if it is not there, for its owner's eyes only.

    Raises:
        StoreError: it is damaged, of another version, or cannot be opened. It is left as it is.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._kept: set[str] = set()  # environments that are known to be there
        with self._told():
            self.path.touch(mode=0o600)
            # One thread at a time may be another one than that which opened it.
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)
        try:
            with self._told():
                self._open()
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        # FULL: a commit is on the disk when it returns, also if the power fails then.
        self._db.execute("PRAGMA synchronous = FULL")
        (found,) = self._db.execute("PRAGMA user_version").fetchone()
        if found == 0 and not self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
            with self.transaction():
                for statement in _SCHEMA.split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {VERSION}")
        elif found != VERSION:
            raise StoreError(
                f"the queue has format {found}, this partita reads {VERSION}",
                where=str(self.path),
                hint="use the partita that made it",
            )
        (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise self._damaged(verdict)

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
        with self._told():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        if self._db.in_transaction:  # a full disk ends the transaction by itself
            self._db.execute("ROLLBACK")

    def put(self, jobs: Iterable[JobRecord], used: Mapping[str, float] | None = None) -> None:
        """Write jobs, new ones and those that are there, and the GPU seconds that users have had in all."""
        rows = [
            (job.number, job.array or job.number, job.index, job.submitter.uid, job.state in OVER, dumps(job))
            for job in jobs
        ]
        with self.transaction():
            self._db.executemany("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._db.executemany("INSERT OR REPLACE INTO used VALUES (?, ?)", list((used or {}).items()))

    def keep_environment(self, environment: Mapping[str, str]) -> str:
        """Write an environment, once however many jobs have it; return its key."""
        body = json.dumps(dict(sorted(environment.items())), separators=(",", ":"))
        key = sha256(body.encode("utf-8", "surrogatepass")).hexdigest()
        if key not in self._kept:
            with self.transaction():
                self._db.execute("INSERT OR IGNORE INTO environments VALUES (?, ?)", (key, body))
            self._kept = {key, *list(self._kept)[:_REMEMBERED]}
        return key

    def environment(self, key: str) -> dict[str, str]:
        """Return the environment of that key.

        Raises:
            StoreError: it is not there.
        """
        with self._told():
            row = self._db.execute("SELECT body FROM environments WHERE key = ?", (key,)).fetchone()
            if row is None:
                raise self._damaged("an environment is missing")
            found: dict[str, str] = json.loads(row[0])
            return found

    def used(self) -> dict[str, float]:
        """Return the GPU seconds of each user so far."""
        with self._told():
            return dict(self._db.execute("SELECT user, gpu_seconds FROM used"))

    def last_number(self) -> int:
        """Return the largest number that a job has had, 0 for none."""
        with self._told():
            (found,) = self._db.execute("SELECT coalesce(max(number), 0) FROM jobs").fetchone()
            return int(found)

    def active(self) -> list[JobRecord]:
        """Return the jobs that are not over, in order of their numbers."""
        return self._read("SELECT body FROM jobs WHERE over = 0 ORDER BY number")

    def get(self, number: int) -> JobRecord | None:
        """Return the job of that number."""
        return next(iter(self._read("SELECT body FROM jobs WHERE number = ?", number)), None)

    def tasks(self, first: int, index: int | None = None) -> list[JobRecord]:
        """Return the tasks of an array, or the one of that index; a job outside an array is its only task."""
        if index is None:
            return self._read("SELECT body FROM jobs WHERE first = ? ORDER BY idx", first)
        return self._read("SELECT body FROM jobs WHERE first = ? AND idx = ?", first, index)

    def over(self, most: int, before: int | None = None, uid: int | None = None) -> list[JobRecord]:
        """Return the newest jobs that are over, the newest first.

        Args:
            most: how many at most.
            before: only jobs of smaller numbers.
            uid: only this user's.
        """
        return self._read(
            "SELECT body FROM jobs WHERE over = 1 AND (?1 IS NULL OR number < ?1) AND (?2 IS NULL OR uid = ?2) "
            "ORDER BY number DESC LIMIT ?3",
            before,
            uid,
            most,
        )

    def _read(self, query: str, *values: object) -> list[JobRecord]:
        with self._told():
            rows = self._db.execute(query, values).fetchall()
        try:
            return [loads(body) for (body,) in rows]
        except ValueError as error:
            raise self._damaged(str(error)) from error

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "") in _NO_ROOM:
                raise DiskFullError(
                    "the queue cannot be written: the disk is full",
                    where=str(self.path),
                    hint="make room; jobs that run go on meanwhile",
                ) from error
            if isinstance(error, sqlite3.OperationalError):
                raise StoreError(f"the queue cannot be used: {error}", where=str(self.path)) from error
            raise self._damaged(str(error)) from error
        except OSError as error:
            raise StoreError(f"the queue cannot be used: {error.strerror}", where=str(self.path)) from error

    def _damaged(self, why: str) -> StoreError:
        return StoreError(
            f"the queue is damaged: {why}",
            where=str(self.path),
            hint=f"it is left as it is; to begin an empty one: mv {self.path} {self.path}.damaged",
        )


_REMEMBERED = 1000
"""Environments that are not written again when a job has one of them."""

# What SQLite says where no more bytes can be written; a limit on the size of files shows as a failed write.
_NO_ROOM = frozenset({"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_FSYNC"})
