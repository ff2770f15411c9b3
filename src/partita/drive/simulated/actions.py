"""What each kind of action does to a simulated GPU as it begins and ends, how long it takes, and injected faults.

In between the rows show what real hardware would show: a GPU instance without its compute instance, a replica that is
not ready yet, one that drains. A process killed in between leaves that state.
"""

from __future__ import annotations

import json
import math
import uuid
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from partita.drive.driver import (
    FailedError,
    GpuLostError,
    InUseError,
    NoRoomError,
    ObservedGpu,
    ObservedInstance,
    RefusedError,
    foreign_error,
    place,
    replica_of,
    require_same,
)
from partita.drive.simulated.store import observed_gpu
from partita.mig.catalogue import gpu_model
from partita.mig.layout import fault
from partita.transition.transition import ActionKind

if TYPE_CHECKING:
    import random
    import sqlite3

    from partita.mig.layout import Placement
    from partita.transition.transition import Action, Durations


class FaultKind(StrEnum):
    """What goes wrong with an action.

    FAILS: it takes its time and does not happen. IN_USE: refused at once as in use. NEVER_READY: the replica
    starts and never becomes ready. TIMES_OUT: reported as timed out, though it happened. GPU_LOST: the GPU
    falls off the bus while the action is in progress.
    """

    FAILS = "fails"
    IN_USE = "in_use"
    NEVER_READY = "never_ready"
    TIMES_OUT = "times_out"
    GPU_LOST = "gpu_lost"


@dataclass(frozen=True, slots=True)
class InjectedFault:
    """A fault that will hit later actions.

    Attributes:
        mishap: what goes wrong.
        kind: of the actions that it hits; None for any, as for `gpu` and `placement`.
        times: how many actions it hits.
        skip: how many matching actions it spares first.
    """

    mishap: FaultKind
    kind: ActionKind | None = None
    gpu: str | None = None
    placement: Placement | None = None
    times: int = 1
    skip: int = 0


def inject(db: sqlite3.Connection, fault: InjectedFault) -> None:
    """Add a fault after earlier ones."""
    placement = str(fault.placement) if fault.placement else None
    row = (fault.mishap, fault.kind, fault.gpu, placement, fault.times, fault.skip)
    db.execute(
        "INSERT INTO faults (mishap, kind, gpu, placement, times, skip) VALUES (?, ?, ?, ?, ?, ?)", row
    )


def next_fault(db: sqlite3.Connection, action: Action) -> FaultKind | None:
    """Return the oldest fault that matches an action, and count it; None if none does."""
    rows = db.execute(
        "SELECT seq, mishap, skip FROM faults WHERE times > 0 AND (kind IS NULL OR kind = ?)"
        " AND (gpu IS NULL OR gpu = ?) AND (placement IS NULL OR placement = ?) ORDER BY seq",
        (action.kind, action.gpu, str(action.placement)),
    ).fetchall()
    for seq, mishap, skip in rows:
        if skip:
            db.execute("UPDATE faults SET skip = skip - 1 WHERE seq = ?", (seq,))
            continue
        db.execute("UPDATE faults SET times = times - 1 WHERE seq = ?", (seq,))
        return FaultKind(mishap)
    return None


# Sigma of log-normal durations. In 300 runs of one 7g.40gb on an A100 (github spcl/gpuless-thesis at c2434d8)
# the p95 is 1.91 (create) and 1.53 (destroy) times the mean, which is sigma 0.46 and 0.28; for several instances at
# once it is less.
JITTER = 0.3


def draw_seconds(rng: random.Random, seconds: Durations, jitter: float, kind: ActionKind) -> float:
    """Return how long one action takes, log-normal around the mean of its kind."""
    return seconds.of(kind) * math.exp(rng.gauss(-jitter * jitter / 2, jitter))


class ActionTiming(NamedTuple):
    """When an action begins, how long it takes, and after how long a start is given up, in seconds."""

    now: float
    seconds: float
    timeout: float

    @property
    def end(self) -> float:
        """When the action ends."""
        return self.now + self.seconds


def begin(db: sqlite3.Connection, action: Action, span: ActionTiming, mishap: FaultKind | None) -> float:
    """Begin an action; return when it ends.

    Raises:
        DriveError: it is refused.
    """
    if mishap is FaultKind.IN_USE:
        raise InUseError("still in use", where=place(action))
    db.execute("DELETE FROM replicas WHERE gone_at <= ?", (span.now,))
    gpu = usable(db, action.gpu, span.now)
    found = next((i for i in gpu.instances if i.placement == action.placement), None)
    if found is not None and not found.ours:
        raise foreign_error(place(action))
    match action.kind:
        case ActionKind.CREATE_INSTANCE:
            return _begin_create(db, gpu, found, action, span)
        case ActionKind.DESTROY_INSTANCE:
            return _begin_destroy(db, found, action, span)
        case ActionKind.START_REPLICA:
            return _begin_start(db, found, action, span, mishap)
        case ActionKind.STOP_REPLICA:
            return _begin_stop(db, found, action, span, mishap)


def finish(db: sqlite3.Connection, action: Action, now: float, rng: random.Random) -> None:
    """End an action.

    Raises:
        DriveError: its instance disappeared meanwhile, or its replica did not become ready.
    """
    key = (action.gpu, action.placement.start)
    gpu = usable(db, action.gpu, now)
    found = next((i for i in gpu.instances if i.placement == action.placement), None)
    if action.kind is ActionKind.CREATE_INSTANCE:
        if found is None:
            raise FailedError("the instance disappeared while it was created", where=place(action))
        complete(db, action.gpu, action.placement, rng)
    elif action.kind is ActionKind.DESTROY_INSTANCE:
        if found is not None and found.complete:
            raise FailedError("the instance was created again while it was destroyed", where=place(action))
        db.execute("DELETE FROM instances WHERE gpu = ? AND start = ? AND ci_id IS NULL", key)
    elif action.kind is ActionKind.START_REPLICA and (found is None or not found.replica):
        raise FailedError("the replica ended before it was ready", where=place(action))


def ready(db: sqlite3.Connection, action: Action, now: float) -> bool:
    """Say whether the replica that an action started is ready."""
    find = "SELECT ready_at <= ? FROM replicas WHERE gpu = ? AND start = ?"
    row = db.execute(find, (now, action.gpu, action.placement.start)).fetchone()
    return row is not None and bool(row[0])


def undo_half(db: sqlite3.Connection, action: Action) -> None:
    """Set the state that a failed action leaves."""
    key = (action.gpu, action.placement.start)
    if action.kind is ActionKind.CREATE_INSTANCE:
        db.execute("DELETE FROM instances WHERE gpu = ? AND start = ? AND ci_id IS NULL", key)
    elif action.kind is ActionKind.START_REPLICA:
        db.execute("DELETE FROM replicas WHERE gpu = ? AND start = ?", key)


def usable(db: sqlite3.Connection, gpu_id: str, now: float) -> ObservedGpu:
    """Return a GPU that answers and can be cut.

    Raises:
        GpuLostError: there is none, or it is lost.
        RefusedError: MIG mode is off.
    """
    gpu = observed_gpu(db, gpu_id, now)
    if gpu is None:
        raise GpuLostError("there is no such GPU", where=gpu_id)
    if gpu.lost:
        raise GpuLostError("the GPU fell off the bus", where=gpu_id)
    if not gpu.mig:
        raise RefusedError("MIG mode is off", where=gpu_id, hint="turn it on: nvidia-smi -i GPU -mig 1")
    return gpu


def insert_instance(db: sqlite3.Connection, gpu: ObservedGpu, placement: Placement, *, ours: bool) -> None:
    """Create a GPU instance without a compute instance.

    Raises:
        NoRoomError: the GPU's rules do not allow it.
    """
    model = gpu_model(gpu.model)
    why = fault(model, (*(i.placement for i in gpu.instances), placement))
    if why:
        raise NoRoomError(why, where=f"{gpu.id} {placement}")
    # Like a real driver: ids of one size are consecutive (a whole A100 has 0, halves 1 and 2, the smallest 7 to
    # 14), and the lowest free one is used, so that ids are reused.
    parts = model.memory_slices // model.profile(placement.profile).memory
    taken = {i.identity.gi_id for i in gpu.instances}
    gi_id = next(i for i in range(parts - 1, 2 * parts) if i not in taken)
    row = (gpu.id, placement.start, placement.profile, gi_id, ours)
    db.execute("INSERT INTO instances (gpu, start, profile, gi_id, ours) VALUES (?, ?, ?, ?, ?)", row)


def complete(db: sqlite3.Connection, gpu: str, placement: Placement, rng: random.Random) -> None:
    """Create the compute instance of a GPU instance, if it has none, with a new MIG UUID."""
    mig_uuid = f"MIG-{uuid.UUID(int=rng.getrandbits(128), version=4)}"
    make = "UPDATE instances SET ci_id = 0, mig_uuid = ? WHERE gpu = ? AND start = ? AND ci_id IS NULL"
    db.execute(make, (mig_uuid, gpu, placement.start))


def _begin_create(
    db: sqlite3.Connection,
    gpu: ObservedGpu,
    found: ObservedInstance | None,
    action: Action,
    span: ActionTiming,
) -> float:
    if found is None:
        insert_instance(db, gpu, action.placement, ours=True)
    return span.now if found is not None and found.complete else span.end


def _begin_destroy(
    db: sqlite3.Connection, found: ObservedInstance | None, action: Action, span: ActionTiming
) -> float:
    if found is None:
        return span.now
    if found.replica or found.busy:
        raise InUseError("a process runs on the instance", where=place(action))
    # The compute instance goes first, at once.
    clear = "UPDATE instances SET ci_id = NULL, mig_uuid = NULL WHERE gpu = ? AND start = ?"
    db.execute(clear, (action.gpu, action.placement.start))
    return span.end


def _begin_start(
    db: sqlite3.Connection,
    found: ObservedInstance | None,
    action: Action,
    span: ActionTiming,
    mishap: FaultKind | None,
) -> float:
    key = (action.gpu, action.placement.start)
    if found is None or not found.complete:
        raise NoRoomError("there is no complete instance to run on", where=place(action))
    if found.replica is None and found.busy:
        raise InUseError("another process runs on the instance", where=place(action))
    if found.replica is not None:
        require_same(found.replica.replica, replica_of(action), place(action))
        if found.replica.draining:
            raise InUseError("the replica there drains", where=place(action))
        (ready_at,) = db.execute("SELECT ready_at FROM replicas WHERE gpu = ? AND start = ?", key).fetchone()
        return span.now + span.timeout if ready_at is None else max(span.now, ready_at)
    ready_at = None if mishap is FaultKind.NEVER_READY else span.end
    each = replica_of(action)
    row = (each.service, each.model, each.batch, each.processes, each.throughput, each.latency_ms)
    tenants = json.dumps([asdict(tenant) for tenant in each.tenants])
    make = "INSERT INTO replicas VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, ?)"
    db.execute(make, (*key, *row, ready_at, tenants))
    return span.now + span.timeout if ready_at is None else ready_at


def _begin_stop(
    db: sqlite3.Connection,
    found: ObservedInstance | None,
    action: Action,
    span: ActionTiming,
    mishap: FaultKind | None,
) -> float:
    if found is None or found.replica is None:
        return span.now
    require_same(found.replica.replica, replica_of(action), place(action))
    key = (action.gpu, action.placement.start)
    if mishap is not FaultKind.FAILS:
        drain = "UPDATE replicas SET gone_at = ? WHERE gpu = ? AND start = ? AND gone_at IS NULL"
        db.execute(drain, (span.end, *key))
    (gone_at,) = db.execute("SELECT gone_at FROM replicas WHERE gpu = ? AND start = ?", key).fetchone()
    return span.end if gone_at is None else float(gone_at)
