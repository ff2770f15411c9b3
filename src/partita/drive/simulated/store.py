"""The simulated cluster's file: its tables, its seed and clock, and its rows as observations."""

from __future__ import annotations

import json
import random
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partita.drive.driver import (
    DriveError,
    Identity,
    Observation,
    ObservedGpu,
    ObservedInstance,
    ObservedReplica,
)
from partita.mig.layout import Placement
from partita.perf.operating_point import Tenant
from partita.sim.clock import SimulatedClock, WallClock
from partita.store import Database, DatabaseFormat
from partita.transition.deployment import Replica

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from partita.sim.clock import Clock


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
"""What format 2 added: which clock the cluster has, and which GPUs changed, in the order of their changes."""

_SINCE_3 = "ALTER TABLE replicas ADD COLUMN tenants TEXT NOT NULL DEFAULT '[]'"
"""What format 3 added: the services that share an instance, as JSON."""

_TRIGGER = (
    "CREATE TRIGGER {table}_{event} AFTER {event} ON {table} BEGIN"
    " INSERT INTO changes VALUES ({row}, (SELECT coalesce(max(version), 0) + 1 FROM changes))"
    " ON CONFLICT (gpu) DO UPDATE SET version = excluded.version; END"
)


_TRIGGERS = [
    _TRIGGER.format(table=table, event=event, row=f"{'old' if event == 'DELETE' else 'new'}.{column}")
    for table, column in (("gpus", "id"), ("instances", "gpu"), ("replicas", "gpu"))
    for event in ("INSERT", "UPDATE", "DELETE")
]
"""Record every change of a row, whichever process makes it."""

_FORMAT = DatabaseFormat(
    name="the simulated cluster",
    version=3,
    steps={
        0: [*_TABLES.split(";"), *_SINCE_2.split(";"), *_TRIGGERS, _SINCE_3],
        1: [*_SINCE_2.split(";"), *_TRIGGERS, _SINCE_3],
        2: [_SINCE_3],
    },
    if_damaged="remove it, and the files beside it, to start again; `partita doctor` looks",
    if_other="use the partita that made it, or remove the file",
    if_removed="run the command again",
    durable=False,
    whole=False,
    patience_s=30.0,
    raises=DriveError,
)


class ClusterFile(Database):
    """An open file. Safe in threads and beside other processes.

    Args:
        path: the file.
        fill: writes the first rows of a new cluster; without it, the file must exist.
        read_only: whether it is only read.

    Raises:
        DriveError: the file exists already (with `fill`) or does not exist, or is not a cluster of this version.
    """

    def __init__(
        self,
        path: Path | str,
        fill: Callable[[sqlite3.Connection], None] | None = None,
        *,
        read_only: bool = False,
    ) -> None:
        none = DriveError("there is no simulated cluster", where=str(path), hint="create one first")
        with suppress(PermissionError):  # which is told when it is opened
            if fill is None and not Path(path).is_file():
                raise none

        def refuse(_: sqlite3.Connection) -> None:
            raise none

        super().__init__(path, _FORMAT, fill=fill or refuse, read_only=read_only)
        if fill is not None and not self.made:
            self.close()
            raise DriveError(
                "there is a simulated cluster already", where=str(path), hint="remove the file to start again"
            )


def begin_meta(db: sqlite3.Connection, seed: int) -> None:
    """Store the seed of a new cluster, at time 0."""
    db.execute("INSERT INTO meta (seed, now, draws) VALUES (?, 0.0, 0)", (seed,))


def draw_random(db: sqlite3.Connection) -> random.Random:
    """Return a new random number generator for each call, the same in the same order of calls."""
    seed, draws = db.execute("UPDATE meta SET draws = draws + 1 RETURNING seed, draws").fetchone()
    return random.Random(f"{seed}/{draws}")


def current_time(db: sqlite3.Connection, clock: Clock) -> float:
    """Advance the clock to at least the file's time, so that time never goes back, and return the time.

    On the wall clock a cluster's time passes also while no process has it open.
    """
    seen, wall, ahead = db.execute("SELECT now, wall, ahead FROM meta").fetchone()
    clock.catch_up(max(seen, time.time() + ahead) if wall else seen)
    return clock.now()


def own_clock(db: sqlite3.Connection) -> Clock:
    """Return the kind of clock that the cluster had last; a new cluster has a simulated one."""
    (wall,) = db.execute("SELECT wall FROM meta").fetchone()
    return WallClock() if wall else SimulatedClock()


def store_time(db: sqlite3.Connection, clock: Clock) -> float:
    """Write the clock's time and kind for other processes; return that time.

    A wall clock may be ahead of the system's, if a simulated one was used before; the difference is written too.
    """
    moment = clock.now()
    wall = isinstance(clock, WallClock)
    ahead = max(0.0, moment - time.time()) if wall else 0.0
    db.execute("UPDATE meta SET now = max(now, ?), wall = ?, ahead = ?", (moment, wall, ahead))
    return moment


_GPUS = "SELECT id, uuid, model, mig, lost FROM gpus"
_INSTANCES = (
    "SELECT i.gpu, i.start, i.profile, i.gi_id, i.ci_id, i.mig_uuid, i.ours, i.busy, r.service, r.model, r.batch,"
    " r.processes, r.throughput, r.latency_ms, r.ready_at, r.gone_at, r.tenants"
    " FROM instances i LEFT JOIN replicas r ON r.gpu = i.gpu AND r.start = i.start"
)


def observation(db: sqlite3.Connection, now: float) -> Observation:
    """Return the whole cluster."""
    return Observation(_gpus(db, f"{_GPUS} ORDER BY seq", f"{_INSTANCES} ORDER BY i.gpu, i.start", (), now))


def observed_gpu(db: sqlite3.Connection, gpu: str, now: float) -> ObservedGpu | None:
    """Return one GPU, None if there is none of that id."""
    found = _gpus(db, f"{_GPUS} WHERE id = ?", f"{_INSTANCES} WHERE i.gpu = ? ORDER BY i.start", (gpu,), now)
    return found[0] if found else None


def last_change(db: sqlite3.Connection) -> int:
    """Return the number of the last change of a row."""
    (found,) = db.execute("SELECT coalesce(max(version), 0) FROM changes").fetchone()
    return int(found)


def changed(db: sqlite3.Connection, since: int, span: tuple[float, float]) -> set[str]:
    """Return the GPUs whose rows changed, or whose replicas became ready or ended as time passed.

    Args:
        db: the cluster.
        since: the number of the last change that is known.
        span: times after the first and up to the second count.
    """
    find = (
        "SELECT gpu FROM changes WHERE version > ?"
        " UNION SELECT gpu FROM replicas WHERE ready_at > ? AND ready_at <= ?"
        " UNION SELECT gpu FROM replicas WHERE gone_at > ? AND gone_at <= ?"
    )
    return {gpu for (gpu,) in db.execute(find, (since, *span, *span))}


def _gpus(
    db: sqlite3.Connection, gpus: str, instances: str, key: tuple[str, ...], now: float
) -> tuple[ObservedGpu, ...]:
    known = db.execute(gpus, key).fetchall()
    uuids = {row[0]: row[1] for row in known}
    found: dict[str, list[ObservedInstance]] = {name: [] for name in uuids}
    for row in db.execute(instances, key):
        found[row[0]].append(_instance(uuids[row[0]], row, now))
    return tuple(
        ObservedGpu(name, uuid, model, mig=bool(mig), lost=bool(lost), instances=tuple(found[name]))
        for name, uuid, model, mig, lost in known
    )


def _instance(uuid: str, row: Sequence[Any], now: float) -> ObservedInstance:
    _, start, profile, gi_id, ci_id, mig_uuid, ours, busy, *replica = row
    return ObservedInstance(
        Placement(start, profile),
        Identity(uuid, gi_id, ci_id, mig_uuid),
        ours=bool(ours),
        replica=_replica(replica, now),
        busy=bool(busy),
    )


def _replica(row: Sequence[Any], now: float) -> ObservedReplica | None:
    service, model, batch, processes, throughput, latency_ms, ready_at, gone_at, tenants = row
    # A replica is gone once its end has passed, even if its row is still there.
    if service is None or (gone_at is not None and gone_at <= now):
        return None
    return ObservedReplica(
        Replica(
            service,
            model,
            batch,
            processes,
            throughput,
            latency_ms,
            tuple(Tenant(**each) for each in json.loads(tenants)),
        ),
        ready=ready_at is not None and ready_at <= now,
        draining=gone_at is not None,
    )
