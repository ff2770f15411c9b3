"""Drives a simulated cluster, on a simulated clock or the wall clock."""

from __future__ import annotations

import heapq
import math
import threading
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from partita.drive.port import (
    Changes,
    DriveError,
    Ended,
    FailedError,
    GpuLostError,
    NoRoomError,
    Observation,
    TimedOutError,
)
from partita.drive.simulated import acts, faults, meta
from partita.drive.simulated.cluster import lose
from partita.drive.simulated.faults import Mishap
from partita.drive.simulated.hosted import Hosted
from partita.drive.simulated.rows import changed, observation, observed_gpu, version
from partita.drive.simulated.seconds import JITTER, draw
from partita.drive.simulated.store import Store
from partita.drive.state import REPLICAS
from partita.errors import InputError, PartitaError
from partita.sim.clock import WallClock
from partita.transition.durations import MEASURED
from partita.transition.transition import Kind

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection

    from partita.drive.replicas import Runner
    from partita.mig.layout import Placement
    from partita.sim.clock import Clock
    from partita.transition.transition import Action, Durations


@dataclass(frozen=True, slots=True)
class _Running:
    """An action under way, or refused at its beginning and not yet told.

    Attributes:
        end: when it ends; inf while a process that it starts or stops is waited for.
        hosted: that process, and nothing else, says how it ends.
    """

    action: Action
    end: float
    mishap: Mishap | None = None
    error: DriveError | None = None
    hosted: bool = False


@dataclass(frozen=True, slots=True)
class _Mark:
    """How far changes are known: the number of the last one of a row, and the time that had passed then."""

    version: int
    at: float


class SimulatedDriver:
    """A driver of a simulated cluster that lives in a file (the port's `Driver`).

    Same seed, same actions in the same order on a simulated clock: same observations, to the last digit.

    Args:
        path: the cluster's file.
        clock: the time it lives by; set to the cluster's own where that is later. None for a clock like the one
            that the cluster lived by last, as whoever only looks wants it.
        seconds: how long actions take, on average.
        jitter: spread of the log-normal durations; 0 for none.
        start_timeout: seconds after which a replica that is not ready is given up.
        runner: starts replicas as processes, with records in `replicas` beside the file; they are ready when they
            answer. None has them simulated too, apart from those that another driver started.

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
        runner: Runner | None = None,
    ) -> None:
        self._store = Store(path)
        with self._store.reading() as db:
            clock = meta.own_clock(db) if clock is None else clock
            meta.now(db, clock)
        if runner is not None and not isinstance(clock, WallClock):
            self._store.close()
            raise InputError("processes live by the wall clock", where="--services", hint="add --clock wall")
        self._hosted = Hosted(self._store, Path(path).parent / REPLICAS, runner)
        self._clock = clock
        self._seconds = seconds
        self._jitter = jitter
        self._start_timeout = start_timeout
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._order = count()
        # Actions under way by their end, those of one end in the order in which they began; processes apart.
        self._ends: list[tuple[float, int, _Running]] = []
        self._hosting = 0

    @property
    def clock(self) -> Clock:
        """The clock that this cluster lives by."""
        return self._clock

    def observe(self) -> Observation:
        """Return the cluster as it is now.

        Raises:
            DriveError: its file cannot be read.
        """
        with self._store.reading() as db:
            found = observation(db, meta.now(db, self._clock))
        return self._hosted.seen(found)

    def observe_changes(self, mark: object | None, touched: Collection[str]) -> Changes:
        """Return the GPUs that changed since the look that gave the mark, and those touched.

        Raises:
            DriveError: the cluster's file cannot be read.
        """
        with self._store.reading() as db:
            now = meta.now(db, self._clock)
            known = mark if isinstance(mark, _Mark) and not self._hosted.runs else None
            if known is None:
                found = observation(db, now)
            else:
                ids = {*touched, *changed(db, known.version, (known.at, now)), *self._hosted.gpus(db)}
                found = Observation(
                    tuple(gpu for name in sorted(ids) if (gpu := observed_gpu(db, name, now)) is not None)
                )
            return Changes(_Mark(version(db), now), self._hosted.seen(found).gpus)

    def begin(self, action: Action) -> None:
        """Start an action; what goes wrong is told by `wait`."""
        try:
            with self._store.transaction() as db:
                running = self._begin(db, action)
        except DriveError as error:
            running = _Running(action, self._clock.now(), error=error)
        if running.hosted:
            # A daemon: a controller that is told to stop does not wait for a model to load.
            with self._lock:
                self._hosting += 1
            threading.Thread(target=self._host, args=(running,), name=action.id, daemon=True).start()
            return
        with self._lock:
            heapq.heappush(self._ends, (running.end, next(self._order), running))

    def wait(self, until: float | None = None) -> tuple[Ended, ...]:
        """Let time pass until an action ends, or until that time; return those that have ended.

        Raises:
            DriveError: the cluster's file cannot be written to; what has ended is told by the next call.
        """
        self._sleep_until(until)
        with self._store.transaction() as db:
            now = meta.store(db, self._clock)
        over = []
        with self._lock:
            while self._ends and self._ends[0][0] <= now:
                over.append(heapq.heappop(self._ends)[2])
            self._hosting -= sum(each.hosted for each in over)
        return tuple(Ended(each.action, self._finish(each)) for each in over)

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
        """Return at that time, or when an action ends; at once without a time if nothing is under way."""
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

    def _host(self, running: _Running) -> None:
        error: DriveError | None = None
        try:
            if running.action.kind is Kind.START_REPLICA:
                self._hosted.start(running.action, self._clock)
            else:
                self._hosted.stop(running.action)
        except DriveError as told:
            error = told
        except PartitaError as other:
            error = FailedError(other.what, where=other.where, hint=other.hint)
        except Exception as bug:  # noqa: BLE001 -- a thread that dies silently would leave the controller waiting
            error = FailedError(f"a fault in partita itself: {type(bug).__name__}: {bug}")
        over = replace(running, end=self._clock.now(), error=error)
        with self._changed:
            heapq.heappush(self._ends, (over.end, next(self._order), over))
            self._changed.notify_all()

    def _begin(self, db: sqlite3.Connection, action: Action) -> _Running:
        meta.now(db, self._clock)
        now = meta.store(db, self._clock)
        seconds = draw(meta.draw(db), self._seconds, self._jitter, action.kind)
        mishap = faults.strike(db, action)
        hosted = (
            self._hosted.runs
            and action.kind in {Kind.START_REPLICA, Kind.STOP_REPLICA}
            and mishap in {None, Mishap.TIMES_OUT}
        )
        try:
            if self._hosted.runs:
                self._hosted.clear(db, action)
            if hosted:
                # The file has it become ready never, and drain for long: its process says when.
                span = acts.Span(now, self._start_timeout, self._start_timeout)
                acts.begin(db, action, span, Mishap.NEVER_READY)
                return _Running(action, math.inf, mishap, hosted=True)
            end = acts.begin(db, action, acts.Span(now, seconds, self._start_timeout), mishap)
        except DriveError as error:
            # Told by `wait`; the transaction ends well, so that a fault that struck is counted.
            return _Running(action, now, error=error)
        return _Running(action, end, mishap)

    def _finish(self, running: _Running) -> DriveError | None:
        if running.error is not None:
            return running.error
        if running.hosted:
            where = acts.place(running.action)
            return TimedOutError("no answer in time", where=where) if running.mishap else None
        try:
            with self._store.transaction() as db:
                return _end(db, running)
        except DriveError as error:
            return error


def _end(db: sqlite3.Connection, running: _Running) -> DriveError | None:
    action, where = running.action, acts.place(running.action)
    if running.mishap is Mishap.GPU_LOST:
        lose(db, action.gpu)
        return GpuLostError("the GPU fell off the bus", where=action.gpu)
    if running.mishap is Mishap.FAILS:
        acts.undo(db, action)
        return FailedError("unknown error of the driver", where=where)
    acts.finish(db, action, running.end, meta.draw(db))
    if action.kind is Kind.START_REPLICA and not acts.ready(db, action, running.end):
        return TimedOutError("the replica is not ready", where=where, hint="look at its log")
    if running.mishap is Mishap.TIMES_OUT:
        return TimedOutError("no answer in time", where=where)
    return None
