"""Drives a simulated cluster, on a simulated clock or the wall clock; its replicas may be real processes."""

from __future__ import annotations

import heapq
import math
import threading
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from partita.drive.driver import (
    ActionResult,
    Changes,
    DriveError,
    FailedError,
    GpuLostError,
    Identity,
    NoRoomError,
    Observation,
    ObservedReplica,
    RefusedError,
    TimedOutError,
    as_drive_error,
    place,
    replica_of,
)
from partita.drive.replicas import ReplicaRecords, ReplicaRunner
from partita.drive.simulated import actions, store
from partita.drive.simulated.actions import JITTER, FaultKind, draw_seconds
from partita.drive.simulated.cluster import SimulatedCluster, lose
from partita.drive.simulated.store import ClusterFile, changed, last_change, observation, observed_gpu
from partita.drive.state import CLUSTER, REPLICAS
from partita.errors import InputError, counted
from partita.files import set_aside
from partita.sim.clock import WallClock
from partita.store import beside
from partita.transition.transition import MEASURED, ActionKind

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Mapping, Sequence

    from partita.drive.driver import ObservedGpu, ObservedInstance
    from partita.drive.replicas import ReplicaProcess, ReplicaRecord, UpstreamReplica
    from partita.mig.layout import Placement
    from partita.sim.clock import Clock
    from partita.transition.transition import Action, Durations


@dataclass(frozen=True, slots=True)
class _RunningAction:
    """An action in progress, or one refused at its beginning that `wait` has not returned yet.

    Attributes:
        end: when it ends; inf while it waits for a process that it starts or stops.
        hosted: whether that process determines how it ends.
    """

    action: Action
    end: float
    mishap: FaultKind | None = None
    error: DriveError | None = None
    hosted: bool = False


@dataclass(frozen=True, slots=True)
class _Mark:
    """How far changes were seen: the number of the last change of a row, and the time of that look."""

    version: int
    at: float


def open_simulated(
    folder: Path,
    gpus: Callable[[], Sequence[tuple[str, str]]],
    tell: Callable[[str], None],
    *,
    clock: Clock | None = None,
    services: Mapping[str, ReplicaProcess | UpstreamReplica] | None = None,
    read_only: bool = False,
) -> SimulatedDriver:
    """Return the driver of the cluster of a state folder, which is created if there is none.

    Args:
        folder: the state folder.
        gpus: returns the ids and models of a new cluster's GPUs.
        tell: called with a note on a new cluster.
        clock: the cluster's clock; None for the kind of clock that it had last.
        services: how each service's replicas are run; None simulates them.
        read_only: whether it is only observed, and not created.

    Raises:
        DriveError: the cluster's file cannot be used.
        InputError: processes on a simulated clock.
    """
    path = folder / CLUSTER
    if read_only:
        return SimulatedDriver(path, clock, read_only=True)
    if not path.exists():
        made = gpus()
        # Created under another name and renamed, so that no process ever sees half a cluster.
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        SimulatedCluster.create(part, made).close()
        for each in filter(Path.exists, beside(path)):
            set_aside(each)  # of a cluster whose file was removed: SQLite would take them for this one's
        part.replace(path)
        tell(f"made a simulated cluster of {counted(len(made), 'GPU')}: {path}")
    runner = None if services is None else ReplicaRunner(ReplicaRecords(folder / REPLICAS), services)
    return SimulatedDriver(path, clock, runner=runner)


class SimulatedDriver:
    """A `Driver` of a simulated cluster that a file holds.

    The same seed and the same actions in the same order on a simulated clock give identical observations.

    Args:
        path: the cluster's file.
        clock: the cluster's clock, advanced to the file's time where that is later. None for the kind of clock that
            the cluster had last, for callers that only observe.
        seconds: how long actions take, on average.
        jitter: sigma of the log-normal durations; 0 for none.
        start_timeout: seconds after which a replica that is not ready is given up.
        runner: starts replicas as processes, with records in `replicas` beside the file; they are ready when they
            answer. None simulates replicas too, apart from those that another driver started.
        read_only: whether it is only observed: nothing is written.

    Raises:
        DriveError: there is no cluster.
        InputError: processes on a simulated clock.
    """

    def __init__(
        self,
        path: Path | str,
        clock: Clock | None = None,
        *,
        seconds: Durations = MEASURED,
        jitter: float = JITTER,
        start_timeout: float = 600.0,
        runner: ReplicaRunner | None = None,
        read_only: bool = False,
    ) -> None:
        self._store = ClusterFile(path, read_only=read_only)
        with self._store.reading() as db:
            clock = store.own_clock(db) if clock is None else clock
            store.current_time(db, clock)
        if runner is not None and not isinstance(clock, WallClock):
            self._store.close()
            raise InputError("processes need the wall clock", where="--services", hint="add --clock wall")
        self._hosted = HostedReplicas(self._store, Path(path).parent / REPLICAS, runner)
        self._clock = clock
        self._seconds = seconds
        self._jitter = jitter
        self._start_timeout = start_timeout
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._order = count()
        # Actions in progress by their end, then in the order in which they began; `_hosting` counts those of
        # processes.
        self._ends: list[tuple[float, int, _RunningAction]] = []
        self._hosting = 0

    @property
    def clock(self) -> Clock:
        """The clock of this cluster."""
        return self._clock

    def observe(self) -> Observation:
        """Return the cluster as it is now.

        Raises:
            DriveError: its file cannot be read.
        """
        with self._store.reading() as db:
            found = observation(db, store.current_time(db, self._clock))
        return self._hosted.seen(found)

    def observe_changes(self, mark: object | None, touched: Collection[str]) -> Changes:
        """Return the GPUs that changed since the look that gave the mark, and those touched.

        Raises:
            DriveError: the cluster's file cannot be read.
        """
        with self._store.reading() as db:
            now = store.current_time(db, self._clock)
            known = mark if isinstance(mark, _Mark) and not self._hosted.runs else None
            if known is None:
                found = observation(db, now)
            else:
                ids = {*touched, *changed(db, known.version, (known.at, now)), *self._hosted.gpus(db)}
                found = Observation(
                    tuple(gpu for name in sorted(ids) if (gpu := observed_gpu(db, name, now)) is not None)
                )
            return Changes(_Mark(last_change(db), now), self._hosted.seen(found).gpus)

    def begin(self, action: Action) -> None:
        """Begin an action; `wait` returns what goes wrong."""
        try:
            with self._store.transaction() as db:
                running = self._begin(db, action)
        except DriveError as error:
            running = _RunningAction(action, self._clock.now(), error=error)
        if running.hosted:
            # A daemon: a controller that is told to stop does not wait for a model to load.
            with self._lock:
                self._hosting += 1
            threading.Thread(target=self._host, args=(running,), name=action.id, daemon=True).start()
            return
        with self._lock:
            heapq.heappush(self._ends, (running.end, next(self._order), running))

    def wait(self, until: float | None = None) -> tuple[ActionResult, ...]:
        """Let time pass until an action ends, or until that time; return those that have ended.

        Raises:
            DriveError: the cluster's file cannot be written to; the next call returns what has ended.
        """
        self._sleep_until(until)
        with self._store.transaction() as db:
            now = store.store_time(db, self._clock)
        over = []
        with self._lock:
            while self._ends and self._ends[0][0] <= now:
                over.append(heapq.heappop(self._ends)[2])
            self._hosting -= sum(each.hosted for each in over)
        return tuple(ActionResult(each.action, self._finish(each)) for each in over)

    def adopt(self, gpu: str, placement: Placement) -> None:
        """Make someone else's instance ours.

        Raises:
            DriveError: there is no such instance.
        """
        take = "UPDATE instances SET ours = 1 WHERE gpu = ? AND start = ? AND profile = ?"
        with self._store.transaction() as db:
            if db.execute(take, (gpu, placement.start, placement.profile)).rowcount == 0:
                raise NoRoomError("there is no such instance", where=f"{gpu} {placement}")

    def close(self) -> None:
        """Close the cluster's file."""
        self._store.close()

    def _sleep_until(self, until: float | None) -> None:
        """Return at that time, or when an action ends; without a time, at once if no action is in progress."""
        if not self._hosted.runs:
            with self._lock:
                ends = [end for end, *_ in self._ends[:1]]
            moments = ends if until is None else [*ends, until]
            if moments:
                self._clock.sleep_until(min(moments))
            return
        with self._changed:
            while True:
                idle = until is None and not self._ends and not self._hosting
                last = math.inf if until is None else until
                left = min([last, *(end for end, *_ in self._ends[:1])]) - self._clock.now()
                if idle or left <= 0:
                    return
                self._changed.wait(None if math.isinf(left) else left)

    def _host(self, running: _RunningAction) -> None:
        error: DriveError | None = None
        try:
            if running.action.kind is ActionKind.START_REPLICA:
                self._hosted.start(running.action, self._clock)
            else:
                self._hosted.stop(running.action)
        except Exception as raised:  # noqa: BLE001 -- else the controller would wait forever
            error = as_drive_error(raised, place(running.action))
        over = replace(running, end=self._clock.now(), error=error)
        with self._changed:
            heapq.heappush(self._ends, (over.end, next(self._order), over))
            self._changed.notify_all()

    def _begin(self, db: sqlite3.Connection, action: Action) -> _RunningAction:
        store.current_time(db, self._clock)
        now = store.store_time(db, self._clock)
        seconds = draw_seconds(store.draw_random(db), self._seconds, self._jitter, action.kind)
        mishap = actions.next_fault(db, action)
        hosted = (
            self._hosted.runs
            and action.kind in {ActionKind.START_REPLICA, ActionKind.STOP_REPLICA}
            and mishap in {None, FaultKind.TIMES_OUT}
        )
        try:
            if self._hosted.runs:
                self._hosted.clear(db, action)
            if hosted:
                # In the file the replica never becomes ready, or drains for long: its process determines when.
                span = actions.ActionTiming(now, self._start_timeout, self._start_timeout)
                actions.begin(db, action, span, FaultKind.NEVER_READY)
                return _RunningAction(action, math.inf, mishap, hosted=True)
            end = actions.begin(db, action, actions.ActionTiming(now, seconds, self._start_timeout), mishap)
        except DriveError as error:
            # `wait` returns it. The transaction is committed, so that an injected fault is counted.
            return _RunningAction(action, now, error=error)
        return _RunningAction(action, end, mishap)

    def _finish(self, running: _RunningAction) -> DriveError | None:
        if running.error is not None:
            return running.error
        if running.hosted:
            where = place(running.action)
            return TimedOutError("no answer in time", where=where) if running.mishap else None
        try:
            with self._store.transaction() as db:
                return _end(db, running)
        except DriveError as error:
            return error


def _end(db: sqlite3.Connection, running: _RunningAction) -> DriveError | None:
    action, where = running.action, place(running.action)
    if running.mishap is FaultKind.GPU_LOST:
        lose(db, action.gpu)
        return GpuLostError("the GPU fell off the bus", where=action.gpu)
    if running.mishap is FaultKind.FAILS:
        actions.undo_half(db, action)
        return FailedError("unknown error of the driver", where=where)
    actions.finish(db, action, running.end, store.draw_random(db))
    if action.kind is ActionKind.START_REPLICA and not actions.ready(db, action, running.end):
        return TimedOutError("the replica is not ready", where=where, hint="look at its log")
    if running.mishap is FaultKind.TIMES_OUT:
        return TimedOutError("no answer in time", where=where)
    return None


_FORGET = "DELETE FROM replicas WHERE gpu = ? AND start = ?"
_BE_READY = (
    "UPDATE replicas SET ready_at = ? WHERE gpu = ? AND start = ? AND (ready_at IS NULL OR ready_at > ?)"
)
_WHO = (
    "SELECT g.model, g.uuid, i.gi_id, i.ci_id, i.mig_uuid FROM gpus g"
    " LEFT JOIN instances i ON i.gpu = g.id AND i.start = ? AND i.profile = ? WHERE g.id = ?"
)


class HostedReplicas:
    """The processes of a simulated cluster's replicas.

    Args:
        store: the cluster's file.
        folder: the folder of their records, which need not exist.
        runner: starts and ends them; None only observes them.
    """

    def __init__(self, store: ClusterFile, folder: Path, runner: ReplicaRunner | None) -> None:
        self._store = store
        self._runner = runner
        self._records = ReplicaRecords(folder)

    @property
    def runs(self) -> bool:
        """Whether replicas are started as processes."""
        return self._runner is not None

    def seen(self, observation: Observation) -> Observation:
        """Return an observation with the state of replicas' processes in place of what the cluster's file says."""
        hosts = self._records.gpus()
        if not (self.runs or hosts):
            return observation
        return Observation(
            tuple(self._gpu(gpu) if self.runs or gpu.uuid in hosts else gpu for gpu in observation.gpus)
        )

    def gpus(self, db: sqlite3.Connection) -> set[str]:
        """Return the GPUs that have records; what processes do is not in the cluster's tables."""
        find = "SELECT id FROM gpus WHERE uuid = ?"
        return {name for uuid in self._records.gpus() for (name,) in db.execute(find, (uuid,))}

    def clear(self, db: sqlite3.Connection, action: Action) -> None:
        """Forget the replica at an action's place if its process is gone; end one whose instance is gone."""
        identity = _identity(db, action)
        record = self._record(identity, action)
        if record is None:
            return
        if record.mig_uuid != identity.mig_uuid:
            record.process.kill()
        elif record.alive():
            return
        self._records.remove(record)
        db.execute(_FORGET, (action.gpu, action.placement.start))

    def start(self, action: Action, clock: Clock) -> None:
        """Start a replica's process, and return when it is ready.

        Raises:
            DriveError: it does not start, or is not ready in time.
        """
        with self._store.reading() as db:
            model, identity = _who(db, action)
        try:
            self._running.start((action.gpu, model), identity, action.placement, replica_of(action))
        except FailedError:
            with self._store.transaction() as db:
                db.execute(_FORGET, (action.gpu, action.placement.start))
            raise
        with self._store.transaction() as db:
            now = clock.now()
            db.execute(_BE_READY, (now, action.gpu, action.placement.start, now))
            if _identity(db, action) != identity:
                raise FailedError("the instance disappeared meanwhile", where=place(action))

    def stop(self, action: Action) -> None:
        """Drain a replica's process, and return when it is gone.

        Raises:
            DriveError: it does not end.
        """
        with self._store.reading() as db:
            record = self._record(_identity(db, action), action)
        if record is not None:
            self._running.stop(action.gpu, record)
        with self._store.transaction() as db:
            db.execute(_FORGET, (action.gpu, action.placement.start))

    @property
    def _running(self) -> ReplicaRunner:
        if self._runner is None:
            raise RefusedError("no command is known that runs replicas")
        return self._runner

    def _record(self, identity: Identity, action: Action) -> ReplicaRecord | None:
        return self._records.find(identity.gpu_uuid, action.placement)

    def _gpu(self, gpu: ObservedGpu) -> ObservedGpu:
        return replace(gpu, instances=tuple(self._instance(gpu, each) for each in gpu.instances))

    def _instance(self, gpu: ObservedGpu, instance: ObservedInstance) -> ObservedInstance:
        record = self._records.find(gpu.uuid, instance.placement)
        told = instance.replica
        if record is None or record.mig_uuid != instance.identity.mig_uuid:
            # A replica that should be a process and has none is not ready, whatever the file says.
            unready = None if told is None else replace(told, ready=told.ready and not self.runs)
            return replace(instance, replica=unready)
        if not record.alive():
            return replace(instance, replica=None)
        # A driver that does not run it cannot ask it, and reads what its own driver wrote once it was ready.
        told_ready = told is None or told.ready
        ready = told_ready if self._runner is None else self._runner.ready(record, gpu.id)
        draining = record.draining or (told is not None and told.draining)
        return replace(
            instance, replica=ObservedReplica(record.replica, ready, draining, record.process.leader())
        )


def _identity(db: sqlite3.Connection, action: Action) -> Identity:
    return _who(db, action)[1]


def _who(db: sqlite3.Connection, action: Action) -> tuple[str, Identity]:
    """Return a GPU's model and the identity at an action's place; its MIG UUID is None where there is no instance.

    Raises:
        GpuLostError: there is no such GPU.
    """
    row = db.execute(_WHO, (action.placement.start, action.placement.profile, action.gpu)).fetchone()
    if row is None:
        raise GpuLostError("there is no such GPU", where=action.gpu)
    model, uuid, gi_id, ci_id, mig_uuid = row
    return model, Identity(uuid, -1 if gi_id is None else gi_id, ci_id, mig_uuid)
