"""Which instances are ours: by identity, on disk before and after each is made."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from partita.drive.port import DriveError
from partita.drive.replicas.procs import boot_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from partita.drive.port import Identity
    from partita.mig.layout import Placement

_SCHEMA = """
CREATE TABLE IF NOT EXISTS owned (
    gpu_uuid TEXT NOT NULL, start INTEGER NOT NULL, profile TEXT NOT NULL, gi_id INTEGER, mig_uuid TEXT,
    boot TEXT, PRIMARY KEY (gpu_uuid, start)
) WITHOUT ROWID
"""


class Owned:
    """The record of our instances.

    A row without `gi_id` is an intent: a GPU instance found there that has no compute instance is ours, made
    just before its maker was killed. A row without `mig_uuid` is a GPU instance without compute instance.
    Instances do not outlive a reboot (github.com/NVIDIA/k8s-device-plugin issue 225), so a row of an earlier boot
    claims nothing: what stands there now, someone else made since, at times with the same ids.

    Args:
        path: SQLite file, made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._db() as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(_SCHEMA)
            if "boot" not in {row[1] for row in db.execute("PRAGMA table_info(owned)")}:
                db.execute("ALTER TABLE owned ADD COLUMN boot TEXT")

    def intend(self, gpu_uuid: str, placement: Placement) -> None:
        """Record that an instance is about to be made."""
        self._write(gpu_uuid, placement, None, None)

    def record(self, identity: Identity, placement: Placement) -> None:
        """Record an instance that is ours, as far as it is made."""
        self._write(identity.gpu_uuid, placement, identity.gi_id, identity.mig_uuid)

    def forget(self, gpu_uuid: str, placement: Placement) -> None:
        """Record that an instance is no more."""
        with self._db() as db:
            db.execute("DELETE FROM owned WHERE gpu_uuid = ? AND start = ?", (gpu_uuid, placement.start))

    def void(self, gpu_uuid: str, standing: Iterable[Identity]) -> None:
        """Record that of a GPU's instances none is ours but those that stand.

        What someone else destroys and makes again has its old UUID if it gets the old ids: once an instance of ours
        is seen to be gone, what comes in its place is not ours.
        """
        there = {identity.gi_id for identity in standing}
        with self._db() as db:
            rows = db.execute(
                "SELECT start, gi_id FROM owned WHERE gpu_uuid = ? AND gi_id IS NOT NULL", (gpu_uuid,)
            )
            gone = [(gpu_uuid, start, gi_id) for start, gi_id in rows.fetchall() if gi_id not in there]
            db.executemany("DELETE FROM owned WHERE gpu_uuid = ? AND start = ? AND gi_id = ?", gone)

    def ours(self, found: Iterable[tuple[Placement, Identity]]) -> set[Identity]:
        """Return the identities of those instances that are ours."""
        query = "SELECT gpu_uuid, start, profile, gi_id, mig_uuid FROM owned WHERE boot IS NULL OR boot = ?"
        with self._db() as db:
            rows = db.execute(query, (boot_id(),)).fetchall()
        known = {(row[0], row[1], row[2]): (row[3], row[4]) for row in rows}
        mine = set()
        for placement, identity in found:
            key = (identity.gpu_uuid, placement.start, placement.profile)
            if key in known and _matches(identity, *known[key]):
                mine.add(identity)
        return mine

    def _write(self, gpu_uuid: str, placement: Placement, gi_id: int | None, mig_uuid: str | None) -> None:
        row = (gpu_uuid, placement.start, placement.profile, gi_id, mig_uuid, boot_id())
        with self._db() as db:
            db.execute(
                "INSERT OR REPLACE INTO owned (gpu_uuid, start, profile, gi_id, mig_uuid, boot) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                row,
            )

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
