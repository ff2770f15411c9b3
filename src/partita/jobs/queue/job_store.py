"""The database of the queue: all jobs, their environments, and what each user has used."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from partita.documents.text import compact, decode, line
from partita.errors import InputError
from partita.jobs.queue.record import OVER, JobState, dump_job, load_job
from partita.store import Database, DatabaseFormat

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from partita.jobs.queue.record import JobRecord


@dataclass(frozen=True, slots=True)
class UserShare:
    """A user's usage: decayed GPU seconds as of the time `at` (s since 1970)."""

    gpu_seconds: float
    at: float


FILE = "queue.sqlite3"

_REMEMBERED = 1000
"""How many stored environments are remembered, so that they are not written again."""

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

QUEUE = DatabaseFormat(
    name="the queue",
    version=3,
    steps={
        0: _SCHEMA.split(";"),
        1: (_FROM_1 + _FROM_2).split(";"),
        2: _FROM_2.split(";"),
    },
    if_damaged="it is left as it is; `partita daemon --recover` sets it aside and recovers all that can be read "
    "of it and of the attempts on the disk: running jobs go on, and nothing runs twice",
    if_removed="stop the daemon; put the file back, or start `partita daemon --recover`; running jobs go on",
    if_full="free some space; running jobs go on meanwhile",
    private=True,
)


class JobStore(Database):
    """The open store. Only the daemon writes it, one thread at a time.

    Args:
        path: the file; created if missing, readable by its owner alone.
        read_only: whether it is only read.

    Raises:
        StoreError: it is damaged, of another version, or cannot be opened. It is left as it is.
    """

    def __init__(self, path: Path | str, *, read_only: bool = False) -> None:
        super().__init__(path, QUEUE, read_only=read_only)
        self._kept: set[str] = set()  # keys of environments that are known to be stored

    def put(self, jobs: Iterable[JobRecord], shares: Mapping[str, UserShare] | None = None) -> None:
        """Insert or replace jobs and users' usage."""
        rows = [
            (
                job.number,
                job.array or job.number,
                job.index,
                job.submitter.uid,
                job.state in OVER,
                dump_job(job),
            )
            for job in jobs
        ]
        with self.transaction() as db:
            db.executemany("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?)", rows)
            had = [(user, share.gpu_seconds, share.at) for user, share in (shares or {}).items()]
            db.executemany("INSERT OR REPLACE INTO used VALUES (?, ?, ?)", had)

    def forget(self, jobs: Sequence[JobRecord]) -> None:
        """Delete jobs that are over, and the environments that no other job has.

        The newest job stays, so that no number is ever given twice.
        """
        keys = {job.environment for job in jobs}
        with self.transaction() as db:
            db.executemany(
                "DELETE FROM jobs WHERE number = ? AND over = 1 AND number < (SELECT max(number) FROM jobs)",
                [(job.number,) for job in jobs],
            )
            db.executemany(
                "DELETE FROM environments WHERE key = ?1 AND NOT EXISTS "
                "(SELECT 1 FROM jobs WHERE json_extract(body, '$.environment') = ?1)",
                [(key,) for key in keys],
            )
        self._kept -= keys

    def keep_environment(self, environment: Mapping[str, str]) -> str:
        """Store an environment, once for all jobs that have it; return its key."""
        body = compact(dict(sorted(environment.items())))
        key = sha256(body.encode("utf-8", "surrogatepass")).hexdigest()
        if key not in self._kept:
            with self.transaction() as db:
                db.execute("INSERT OR IGNORE INTO environments VALUES (?, ?)", (key, body))
            self._kept = {key, *list(self._kept)[:_REMEMBERED]}
        return key

    def environment(self, key: str) -> dict[str, str]:
        """Return the environment of a key.

        Raises:
            StoreError: it is missing.
        """
        with self.reading() as db:
            row = db.execute("SELECT body FROM environments WHERE key = ?", (key,)).fetchone()
            if row is None:
                raise self.damaged("an environment is missing")
        try:
            return decode(row[0], dict[str, str], "an environment")
        except InputError as error:
            raise self.damaged(str(error)) from error

    def shares(self) -> dict[str, UserShare]:
        """Return each user's usage."""
        with self.reading() as db:
            rows = db.execute("SELECT user, gpu_seconds, at FROM used")
            return {user: UserShare(gpu_seconds, at) for user, gpu_seconds, at in rows}

    def forget_families(self, families: Iterable[str], now: float) -> None:
        """Record that attempts of these families that ended before `now` no longer count."""
        with self.transaction() as db:
            db.executemany(
                "INSERT OR REPLACE INTO forgotten VALUES (?, ?)",
                [(line(family), now) for family in families],  # SQLite's text has no lone surrogates
            )

    def forgotten(self) -> dict[str, float]:
        """Return when families were forgotten."""
        with self.reading() as db:
            found = db.execute("SELECT family, at FROM forgotten").fetchall()
        try:
            return {decode(family, str, "a family"): float(at) for family, at in found}
        except InputError as error:
            raise self.damaged(str(error)) from error

    def known(self) -> dict[str, int]:
        """Return the number of attempts of each job, by job id."""
        with self.reading() as db:
            rows = db.execute(
                "SELECT CASE WHEN idx IS NULL THEN number ELSE first || '_' || idx END, "
                "json_array_length(body, '$.attempts') FROM jobs"
            )
            return {str(job): attempts for job, attempts in rows}

    def last_number(self) -> int:
        """Return the largest job number, 0 if there are no jobs."""
        with self.reading() as db:
            (found,) = db.execute("SELECT coalesce(max(number), 0) FROM jobs").fetchone()
            return int(found)

    def active(self) -> list[JobRecord]:
        """Return the jobs that are not over, in order of their numbers."""
        return self._read("SELECT body FROM jobs WHERE over = 0 ORDER BY number")

    def holding(self) -> list[JobRecord]:
        """Return the jobs that hold an instance, or are about to."""
        return self._read(
            "SELECT body FROM jobs WHERE over = 0 AND json_extract(body, '$.state') != ? ORDER BY number",
            JobState.WAITING.value,
        )

    def get(self, number: int) -> JobRecord | None:
        """Return the job of a number; None if there is none."""
        return next(iter(self._read("SELECT body FROM jobs WHERE number = ?", number)), None)

    def tasks(self, first: int, index: int | None = None) -> list[JobRecord]:
        """Return the tasks of an array, or the task of an index; a job outside an array is its own only task."""
        if index is None:
            return self._read("SELECT body FROM jobs WHERE first = ? ORDER BY idx", first)
        return self._read("SELECT body FROM jobs WHERE first = ? AND idx = ?", first, index)

    def over(self, most: int, before: int | None = None, uid: int | None = None) -> list[JobRecord]:
        """Return jobs that are over, the newest first.

        Args:
            most: how many at most.
            before: only jobs with smaller numbers.
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
        with self.reading() as db:
            rows = db.execute(query, values).fetchall()
        try:
            return [load_job(body) for (body,) in rows]
        except InputError as error:
            raise self.damaged(str(error)) from error
