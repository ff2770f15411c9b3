"""Which instances are ours: by identity, on disk before and after each is made."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from partita.drive.port import DriveError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from partita.drive.nvml.cuts import Found
    from partita.drive.port import Identity
    from partita.mig.layout import Placement

_SCHEMA = """
CREATE TABLE IF NOT EXISTS owned (
    gpu_uuid TEXT NOT NULL, start INTEGER NOT NULL, profile TEXT NOT NULL, gi_id INTEGER, mig_uuid TEXT,
    PRIMARY KEY (gpu_uuid, start)
) WITHOUT ROWID
"""


class Owned:
    """The record of our instances.

    A row without `gi_id` is an intent: a GPU instance found there that has no compute instance is ours, made
    just before its maker was killed. A row without `mig_uuid` is a GPU instance without compute instance.

    Args:
        path: SQLite file, made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._db() as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(_SCHEMA)

    def intend(self, gpu_uuid: str, placement: Placement) -> None:
        """Record that an instance is about to be made."""
        row = (gpu_uuid, placement.start, placement.profile)
        with self._db() as db:
            db.execute("INSERT OR REPLACE INTO owned VALUES (?, ?, ?, NULL, NULL)", row)

    def record(self, identity: Identity, placement: Placement) -> None:
        """Record an instance that is ours, as far as it is made."""
        row = (identity.gpu_uuid, placement.start, placement.profile, identity.gi_id, identity.mig_uuid)
        with self._db() as db:
            db.execute("INSERT OR REPLACE INTO owned VALUES (?, ?, ?, ?, ?)", row)

    def forget(self, gpu_uuid: str, placement: Placement) -> None:
        """Record that an instance is no more."""
        with self._db() as db:
            db.execute("DELETE FROM owned WHERE gpu_uuid = ? AND start = ?", (gpu_uuid, placement.start))

    def ours(self, found: Iterable[Found]) -> set[Identity]:
        """Return the identities of those instances that are ours."""
        with self._db() as db:
            rows = db.execute("SELECT gpu_uuid, start, profile, gi_id, mig_uuid FROM owned").fetchall()
        known = {(row[0], row[1], row[2]): (row[3], row[4]) for row in rows}
        mine = set()
        for each in found:
            key = (each.identity.gpu_uuid, each.placement.start, each.placement.profile)
            if key in known and _matches(each.identity, *known[key]):
                mine.add(each.identity)
        return mine

    @contextmanager
    def _db(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._path, timeout=30)) as db, db:
                yield db
        except sqlite3.Error as error:
            raise DriveError(
                f"the record of our instances cannot be used: {error}", where=str(self._path)
            ) from error


def _matches(found: Identity, gi_id: int | None, mig_uuid: str | None) -> bool:
    if gi_id is None:
        return found.ci_id is None
    return found.gi_id == gi_id and (mig_uuid is None or found.mig_uuid in (None, mig_uuid))
