"""Rows of the simulated cluster as values of the port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from partita.drive.port import Identity, Observation, ObservedGpu, ObservedInstance, ObservedReplica
from partita.mig.layout import Placement
from partita.transition.deployment import Replica

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

_GPUS = "SELECT id, uuid, model, mig, lost FROM gpus"
_INSTANCES = (
    "SELECT i.gpu, i.start, i.profile, i.gi_id, i.ci_id, i.mig_uuid, i.ours, i.busy, r.service, r.model, r.batch,"
    " r.processes, r.throughput, r.latency_ms, r.ready_at, r.gone_at"
    " FROM instances i LEFT JOIN replicas r ON r.gpu = i.gpu AND r.start = i.start"
)


def observation(db: sqlite3.Connection, now: float) -> Observation:
    """Return the whole cluster."""
    return Observation(_gpus(db, f"{_GPUS} ORDER BY seq", f"{_INSTANCES} ORDER BY i.gpu, i.start", (), now))


def observed_gpu(db: sqlite3.Connection, gpu: str, now: float) -> ObservedGpu | None:
    """Return one GPU, None if there is none of that id."""
    found = _gpus(db, f"{_GPUS} WHERE id = ?", f"{_INSTANCES} WHERE i.gpu = ? ORDER BY i.start", (gpu,), now)
    return found[0] if found else None


def version(db: sqlite3.Connection) -> int:
    """Return the number of the last change of a row."""
    (found,) = db.execute("SELECT coalesce(max(version), 0) FROM changes").fetchone()
    return int(found)


def changed(db: sqlite3.Connection, since: int, span: tuple[float, float]) -> set[str]:
    """Return the GPUs whose rows changed, or whose replicas became ready or were gone by the passing of time.

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
    service, model, batch, processes, throughput, latency_ms, ready_at, gone_at = row
    # A replica whose time to go has come is gone, whether or not anyone has cleared its row away.
    if service is None or (gone_at is not None and gone_at <= now):
        return None
    return ObservedReplica(
        Replica(service, model, batch, processes, throughput, latency_ms),
        ready=ready_at is not None and ready_at <= now,
        draining=gone_at is not None,
    )
