"""The energy of GPUs by owner: attributed between readings of their counters, summed in a ledger, and exported.

`attribute` divides the energy between two readings among owners. `EnergySampler` reads counters and records that.
`QueueEnergy` follows which jobs run. `EnergyLedger` is the file: sums by minute for a day, by hour for a quarter of a
year, and in all.
"""

from __future__ import annotations

import math
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from partita.errors import PartitaError
from partita.mig.catalogue import gpu_model
from partita.mig.gpu import LIMIT_W
from partita.store import Database, DatabaseFormat, UnreadableError, move_away

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from prometheus_client.core import Metric

    from partita.drive.driver import EnergyMeter, EnergyReading, Observation
    from partita.jobs.queue.record import JobRecord
    from partita.mig.layout import Placement


class OwnerKind(StrEnum):
    """Who can use energy."""

    JOB = "job"
    SERVICE = "service"
    UNALLOCATED = "unallocated"


@dataclass(frozen=True, slots=True, order=True)
class EnergyOwner:
    """A job's attempt, a service, or no owner.

    Attributes:
        name: the job's id (`12`, or `12_3` of an array) or the service's name.
        attempt: of a job, from 1; 0 for others.
    """

    kind: OwnerKind
    name: str = ""
    attempt: int = 0


NOBODY = EnergyOwner(OwnerKind.UNALLOCATED)


@dataclass(frozen=True, slots=True)
class Stay:
    """An owner on an instance for a time; a GPU without MIG is one instance with all slices.

    Attributes:
        gpu: the GPU's id.
        compute: compute slices of the instance, as a share of the GPU's.
        memory: memory slices of the instance, as a share of the GPU's.
        began: seconds; may lie before the interval.
        ended: seconds; infinite while it goes on.
        activity: mean share of the instance's compute that was busy; None where unknown.
        start: memory slice at which the instance starts.
    """

    owner: EnergyOwner
    gpu: str
    compute: float
    memory: float
    began: float
    ended: float = math.inf
    activity: float | None = None
    start: int = 0

    @property
    def size(self) -> float:
        """Its share of the GPU."""
        return (self.compute + self.memory) / 2.0


@dataclass(frozen=True, slots=True)
class Interval:
    """The energy of a GPU between two readings of its counter.

    Attributes:
        joules: at least 0.
        idle_w: watts that the GPU draws without work.
    """

    began: float
    ended: float
    joules: float
    idle_w: float


@dataclass(frozen=True, slots=True)
class Part:
    """What one owner used in an interval, and the seconds of its stays in it."""

    owner: EnergyOwner
    idle_j: float
    active_j: float
    seconds: float


def attribute(interval: Interval, stays: Sequence[Stay]) -> tuple[Part, ...]:
    """Return the energy of an interval on one GPU by owner; the parts add up to it.

    The idle part is at most the whole: a GPU that drew less than its idle power did no work.

    Args:
        interval: not empty.
        stays: on this GPU, in any order; those outside the interval are ignored.
    """
    lasts = interval.ended - interval.began
    idle = min(interval.joules, interval.idle_w * lasts)
    present = [(stay, during(stay, interval.began, interval.ended)) for stay in stays]
    present = [(stay, seconds) for stay, seconds in present if seconds > 0.0]
    sizes = [stay.size * seconds / lasts for stay, seconds in present]
    by_activity = all(stay.activity is not None for stay, _ in present)
    loads = [
        stay.compute * seconds * ((stay.activity or 0.0) if by_activity else 1.0) for stay, seconds in present
    ]
    # Records of stays that follow each other on an instance may overlap by moments.
    held, load = max(1.0, math.fsum(sizes)), math.fsum(loads)
    found: dict[EnergyOwner, Part] = {}
    for (stay, seconds), size, weight in zip(present, sizes, loads, strict=True):
        before = found.get(stay.owner, Part(stay.owner, 0.0, 0.0, 0.0))
        active = (interval.joules - idle) * (weight / load) if load > 0.0 else 0.0
        found[stay.owner] = Part(
            stay.owner, before.idle_j + idle * size / held, before.active_j + active, before.seconds + seconds
        )
    return (*found.values(), _rest(interval, idle, found))


def during(stay: Stay, began: float, ended: float) -> float:
    """Return how many seconds of a period a stay lasts."""
    return max(0.0, min(stay.ended, ended) - max(stay.began, began))


def _rest(interval: Interval, idle: float, found: dict[EnergyOwner, Part]) -> Part:
    """Return the part without an owner; rounding may make the rest slightly negative, which becomes 0."""
    left = max(0.0, idle - math.fsum(part.idle_j for part in found.values()))
    active = max(0.0, interval.joules - idle - math.fsum(part.active_j for part in found.values()))
    return Part(NOBODY, left, active, interval.ended - interval.began)


@dataclass(frozen=True, slots=True)
class Energy:
    """What an owner used.

    Attributes:
        idle_j: its share of what the GPUs draw without work, in joules.
        active_j: what it used beyond that, in joules.
        seconds: for which a counter was read, summed over its instances.
        missing_s: seconds for which no counter could be read; the energy of these is in none of the sums.
    """

    idle_j: float = 0.0
    active_j: float = 0.0
    seconds: float = 0.0
    missing_s: float = 0.0

    @property
    def joules(self) -> float | None:
        """Idle and active energy together; None if no counter was read."""
        return self.idle_j + self.active_j if self.seconds > 0.0 else None


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What one owner used on one GPU."""

    gpu: str
    owner: EnergyOwner
    energy: Energy


@dataclass(frozen=True, slots=True)
class Counter:
    """A GPU's counter when it was last read.

    Attributes:
        at: when, in seconds.
        joules: None if it could not be read, for the reason `why`.
        idle_w: the least power that the GPU was seen to draw, or its known idle power.
    """

    gpu: str
    uuid: str
    at: float
    joules: float | None
    why: str | None = None
    idle_w: float | None = None


EVERY_S = 10.0
MOST_IDLE = 0.12
"""Share of its power limit that a GPU is assumed to draw idle until it draws less; MISO has 9 % on an A100."""

_LEAST_S = 2.0
"""Counters are updated at most ten times a second, so shorter times give no reliable power."""


class EnergySampler:
    """Samples a meter into a ledger; it continues where the last sampler stopped.

    Args:
        meter: reads the counters.
        ledger: stores the results.
        every_s: seconds between two samples.

    Attributes:
        models: of the GPUs that were read, the catalogue's names by id.
    """

    def __init__(self, meter: EnergyMeter, ledger: EnergyLedger, *, every_s: float = EVERY_S) -> None:
        self._meter = meter
        self._ledger = ledger
        self._every_s = every_s
        self._counters = ledger.counters()
        self._due = -math.inf
        self.models: dict[str, str] = {}

    @property
    def sampled(self) -> float | None:
        """When the counters were last read; `step` needs stays that ended later. None before the first reading."""
        return min((each.at for each in self._counters.values()), default=None)

    def step(self, now: float, stays: Sequence[Stay], *, at_once: bool = False) -> float:
        """Sample if it is due; return when it is due next.

        Args:
            now: seconds, on the clock of the stays.
            stays: of all owners that were on an instance since `sampled`.
            at_once: sample even if it is not due.

        Raises:
            PartitaError: no GPU answers, or the ledger cannot be written to.
        """
        # A clock that was set back must not delay the next sample.
        if at_once or now >= self._due or now < self._due - 2.0 * self._every_s:
            self.sample(now, stays)
            self._due = now + self._every_s
        return self._due

    def sample(self, now: float, stays: Sequence[Stay]) -> None:
        """Read the counters, and record what each owner used since they were last read.

        Args:
            now: as in `step`.
            stays: as in `step`.

        Raises:
            PartitaError: no GPU answers, or the ledger cannot be written to.
        """
        # A stay that ends now was there until now.
        readings = self._meter.energy({(each.gpu, each.start) for each in stays if each.ended >= now})
        entries: list[LedgerEntry] = []
        counters = {}
        for reading in readings:
            here = [stay for stay in stays if stay.gpu == reading.gpu]
            last = self._counters.get(reading.gpu)
            counter = _counter(reading, last, now)
            counters[reading.gpu] = counter
            entries += _entries(last, counter, here)
        self._ledger.add(now, counters.values(), entries)
        self._counters.update(counters)
        self.models = {each.gpu: each.model for each in readings}


def stay_of(
    owner: EnergyOwner,
    gpu: str,
    model: str,
    placement: Placement | None,
    *,
    began: float = -math.inf,
    ended: float = math.inf,
) -> Stay:
    """Return a stay on an instance, or on a whole GPU without MIG (no placement).

    Raises:
        InputError: the catalogue has no such GPU or profile.
    """
    if placement is None:
        return Stay(owner, gpu, 1.0, 1.0, began, ended)
    of = gpu_model(model)
    profile = of.profile(placement.profile)
    compute, memory = profile.compute / of.compute_slices, profile.memory / of.memory_slices
    return Stay(owner, gpu, compute, memory, began, ended, start=placement.start)


def services_of(observation: Observation) -> tuple[Stay, ...]:
    """Return the stays of the services' current replicas."""
    return tuple(
        stay_of(
            EnergyOwner(OwnerKind.SERVICE, each.replica.replica.service), gpu.id, gpu.model, each.placement
        )
        for gpu in observation.gpus
        for each in gpu.instances
        if each.replica is not None
    )


def _counter(reading: EnergyReading, last: Counter | None, now: float) -> Counter:
    idle = reading.idle_w
    if idle is None:
        most = MOST_IDLE * (gpu_model(reading.model).power_limit_w or LIMIT_W)
        known = most if last is None or last.idle_w is None else last.idle_w
        idle = min(known, _watts(last, reading, now))
    return Counter(reading.gpu, reading.uuid, now, reading.joules, reading.why, idle)


def _watts(last: Counter | None, reading: EnergyReading, now: float) -> float:
    if last is None or last.joules is None or reading.joules is None or now - last.at < _LEAST_S:
        return math.inf
    took = reading.joules - last.joules
    return took / (now - last.at) if took > 0.0 else math.inf


def _entries(last: Counter | None, now: Counter, stays: Sequence[Stay]) -> Iterator[LedgerEntry]:
    """Yield what each owner used between two readings of a GPU; nothing if no time passed or the GPU was replaced."""
    if last is None or last.uuid != now.uuid or now.at <= last.at:
        return
    # A counter that fell was reset with the driver.
    if last.joules is None or now.joules is None or now.joules < last.joules:
        seconds = {NOBODY: now.at - last.at}
        for stay in stays:
            seconds[stay.owner] = seconds.get(stay.owner, 0.0) + during(stay, last.at, now.at)
        for owner, missing in seconds.items():
            if missing > 0.0:
                yield LedgerEntry(now.gpu, owner, Energy(missing_s=missing))
        return
    interval = Interval(last.at, now.at, now.joules - last.joules, now.idle_w or 0.0)
    for part in attribute(interval, stays):
        yield LedgerEntry(now.gpu, part.owner, Energy(part.idle_j, part.active_j, part.seconds))


LOOK_S = 1.0
"""Seconds between two looks at the running attempts, which is how exactly their ends are known."""


class QueueEnergy:
    """Follows which attempts run, and has their energy sampled.

    Args:
        sampler: reads the counters.
        tell: called once with what went wrong; the queue goes on without energy figures.
    """

    def __init__(self, sampler: EnergySampler, tell: Callable[[str], None] = lambda _: None) -> None:
        self._sampler = sampler
        self._tell = tell
        self._told = ""
        self._there: dict[EnergyOwner, Stay] = {}
        self._gone: list[Stay] = []
        self._due = -math.inf

    def step(
        self, now: float, jobs: Iterable[JobRecord], services: Callable[[], Sequence[Stay]] = tuple
    ) -> float:
        """Note which attempts run, and sample if it is due; return the time of the next call.

        Args:
            now: seconds, of the queue's clock.
            jobs: at least all running ones.
            services: returns the stays of services on the same GPUs.
        """
        if self._due - LOOK_S <= now < self._due:
            return self._due
        self._due = now + LOOK_S
        running = {stay.owner: stay for job in jobs for stay in self._stays(job)}
        self._gone += [
            replace(stay, ended=now) for owner, stay in self._there.items() if owner not in running
        ]
        # Sample at once when other attempts run, so that attempts of a few seconds are measured too.
        changed = running.keys() != self._there.keys()
        self._there = running
        try:
            self._sampler.step(now, [*running.values(), *self._gone, *services()], at_once=changed)
        except PartitaError as error:
            if self._told != str(error):
                self._told = str(error)
                self._tell(f"energy is not measured: {error}")
            return self._due
        sampled = self._sampler.sampled
        self._gone = [stay for stay in self._gone if sampled is None or stay.ended > sampled]
        return self._due

    def _stays(self, job: JobRecord) -> Iterable[Stay]:
        attempt = job.attempts[-1] if job.attempts else None
        if attempt is None or attempt.began is None or attempt.verdict is not None:
            return
        model = self._sampler.models.get(attempt.gpu)
        # Before the first reading no model is known, and nothing was measured.
        if model is not None:
            owner = EnergyOwner(OwnerKind.JOB, job.id, attempt.number)
            yield stay_of(owner, attempt.gpu, model, attempt.placement, began=attempt.began)


FILE = "energy.sqlite3"
MINUTE_S, HOUR_S = 60, 3600
MINUTES_S = 25 * HOUR_S
"""For how long sums by minute are kept; older ones become sums by hour."""

HOURS_S = 92 * 24 * HOUR_S
MOST_OWNERS = 100_000
"""The newest owners, whose sums over all time are kept."""

_SCHEMA = """
CREATE TABLE counters (
    gpu TEXT PRIMARY KEY, uuid TEXT NOT NULL, at REAL NOT NULL, joules REAL, why TEXT, idle_w REAL
) WITHOUT ROWID;
CREATE TABLE sums (
    slot INTEGER NOT NULL, gpu TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, attempt INTEGER NOT NULL,
    idle_j REAL NOT NULL, active_j REAL NOT NULL, seconds REAL NOT NULL, missing_s REAL NOT NULL,
    PRIMARY KEY (slot, gpu, kind, name, attempt)
) WITHOUT ROWID;
CREATE TABLE totals (
    seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, attempt INTEGER NOT NULL,
    idle_j REAL NOT NULL, active_j REAL NOT NULL, seconds REAL NOT NULL, missing_s REAL NOT NULL,
    UNIQUE (kind, name, attempt)
);
"""
_ADD = """
idle_j = idle_j + excluded.idle_j, active_j = active_j + excluded.active_j,
seconds = seconds + excluded.seconds, missing_s = missing_s + excluded.missing_s
"""
_ADD_SUM = f"INSERT INTO sums VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET {_ADD}"  # noqa: S608 -- all from constants of this file, as below
_ADD_TOTAL = f"""
INSERT INTO totals (kind, name, attempt, idle_j, active_j, seconds, missing_s) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET {_ADD}
"""  # noqa: S608
_TO_HOURS = f"""
INSERT INTO sums
SELECT slot / {HOUR_S} * {HOUR_S}, gpu, kind, name, attempt,
       sum(idle_j), sum(active_j), sum(seconds), sum(missing_s)
FROM sums WHERE slot < ? AND slot % {HOUR_S} > 0 GROUP BY 1, 2, 3, 4, 5
ON CONFLICT DO UPDATE SET {_ADD}
"""  # noqa: S608
_OLD_JOBS = "kind = 'job' AND name <> '' AND seq <= ?"
_FOLD = f"""
INSERT INTO totals (kind, name, attempt, idle_j, active_j, seconds, missing_s)
SELECT kind, '', 0, sum(idle_j), sum(active_j), sum(seconds), sum(missing_s)
FROM totals WHERE {_OLD_JOBS} GROUP BY kind ON CONFLICT DO UPDATE SET {_ADD}
"""  # noqa: S608


_FORMAT = DatabaseFormat(
    name="the energy ledger",
    version=1,
    steps={0: _SCHEMA.split(";")},
    if_damaged="it is left as it is; the daemon sets it aside when it starts, and begins a new one",
    if_other="use the partita that made it, or start the daemon, which sets it aside",
    if_removed="start the daemon again",
    durable=False,
    private=True,  # other users' jobs are in it
)


class EnergyLedger:
    """The file of used energy. One process writes, any number read.

    Args:
        path: its file, created if it does not exist.
        mend: for the process that writes, which no fault of the file must stop: a damaged file is set aside, now or
            later, and a new one begun; if no file can be used, energy is kept in memory. It is called with a text on
            what was wrong and what was done.
        read_only: for processes that only read.

    Raises:
        UnreadableError: without `mend`, it is damaged or of another format, and is left as it is.
        StoreError: without `mend`, the file cannot be used.
    """

    def __init__(
        self, path: Path, mend: Callable[[str], None] | None = None, *, read_only: bool = False
    ) -> None:
        self._path = path
        self._mend = mend
        self._lock = threading.RLock()
        self._compacted = 0.0
        self._file = Database(path, _FORMAT, read_only=read_only) if mend is None else self._usable(mend)

    def add(self, at: float, counters: Iterable[Counter], entries: Iterable[LedgerEntry]) -> None:
        """Store readings and their results, all or nothing.

        Args:
            at: end of their period, in seconds.
            counters: as they were read.
            entries: what each owner used.

        Raises:
            PartitaError: the disk is full, or failed otherwise.
        """
        slot = int(at // MINUTE_S) * MINUTE_S
        with self._mending() as file, file.transaction() as db:
            for each in counters:
                row = (each.gpu, each.uuid, each.at, each.joules, each.why, each.idle_w)
                db.execute("INSERT OR REPLACE INTO counters VALUES (?, ?, ?, ?, ?, ?)", row)
            for entry in entries:
                who = (entry.owner.kind.value, entry.owner.name, entry.owner.attempt)
                took = entry.energy
                sums = (took.idle_j, took.active_j, took.seconds, took.missing_s)
                db.execute(_ADD_SUM, (slot, entry.gpu, *who, *sums))
                db.execute(_ADD_TOTAL, (*who, *sums))
            if abs(at - self._compacted) >= HOUR_S:
                self._compacted = at
                _compact(db, at)

    def counters(self) -> dict[str, Counter]:
        """Return the counters as they were last read, by GPU."""
        with self._reading() as db:
            return {row[0]: Counter(*row) for row in db.execute("SELECT * FROM counters ORDER BY gpu")}

    def of(self, owner: EnergyOwner) -> Energy | None:
        """Return what an owner used in all; None if nothing is recorded of it."""
        find = "SELECT idle_j, active_j, seconds, missing_s FROM totals WHERE kind = ? AND name = ? AND attempt = ?"
        with self._reading() as db:
            row = db.execute(find, (owner.kind.value, owner.name, owner.attempt)).fetchone()
        return None if row is None else Energy(*row)

    def joules(self, job: str, attempt: int) -> float | None:
        """Return the joules that an attempt of a job used so far; None if not measured, or if the file fails."""
        try:
            found = self.of(EnergyOwner(OwnerKind.JOB, job, attempt))
        except PartitaError:
            return None
        return None if found is None else found.joules

    def since(self, began: float) -> tuple[LedgerEntry, ...]:
        """Return what each owner used on each GPU since a time, to the minute (to the hour after a day)."""
        find = """
        SELECT gpu, kind, name, attempt, sum(idle_j), sum(active_j), sum(seconds), sum(missing_s)
        FROM sums WHERE slot >= ? GROUP BY gpu, kind, name, attempt ORDER BY gpu, kind, name, attempt
        """
        with self._reading() as db:
            rows = db.execute(find, (int(began // MINUTE_S) * MINUTE_S,)).fetchall()
        return tuple(
            LedgerEntry(row[0], EnergyOwner(OwnerKind(row[1]), row[2], row[3]), Energy(*row[4:]))
            for row in rows
        )

    def last_job(self) -> int:
        """Return the largest job number in the ledger; 0 for none, or if the file fails."""
        try:
            with self._reading() as db:
                (found,) = db.execute(
                    "SELECT max(CAST(name AS INTEGER)) FROM totals WHERE kind = 'job'"
                ).fetchone()
        except PartitaError:
            return 0
        return int(found or 0)

    def totals(self) -> dict[tuple[OwnerKind, str], Energy]:
        """Return what services, no owner, and all jobs together (under an empty name) used in all; it never falls."""
        find = """
        SELECT kind, CASE kind WHEN 'job' THEN '' ELSE name END AS whose,
               sum(idle_j), sum(active_j), sum(seconds), sum(missing_s)
        FROM totals GROUP BY kind, whose ORDER BY kind, whose
        """
        with self._reading() as db:
            return {(OwnerKind(row[0]), row[1]): Energy(*row[2:]) for row in db.execute(find)}

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _usable(self, tell: Callable[[str], None]) -> Database:
        """Return a ledger that can be written, whatever the state of the file."""
        try:
            try:
                return Database(self._path, _FORMAT)
            except UnreadableError as error:
                tell(f"{error}; set aside as {', '.join(move_away(self._path))}, and another one was begun")
                return Database(self._path, _FORMAT)
        except PartitaError as error:
            tell(f"{error}; energy is counted in memory, until the daemon ends")
            return Database(None, _FORMAT)

    @contextmanager
    def _mending(self) -> Iterator[Database]:
        """Use the file; if it is damaged, replace it for the next use."""
        with self._lock:
            try:
                yield self._file
            except UnreadableError:
                if self._mend is not None:
                    self._file.close()
                    self._file = self._usable(self._mend)
                raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._mending() as file, file.reading() as db:
            yield db


def _compact(db: sqlite3.Connection, at: float) -> None:
    """Turn old sums by minute into sums by hour, and delete older ones."""
    minutes = int((at - MINUTES_S) // HOUR_S) * HOUR_S
    db.execute(_TO_HOURS, (minutes,))
    db.execute(f"DELETE FROM sums WHERE slot < ? AND slot % {HOUR_S} > 0", (minutes,))  # noqa: S608 -- a constant
    db.execute("DELETE FROM sums WHERE slot < ?", (int(at - HOURS_S),))
    # Sums of deleted single jobs stay in the sum of all jobs.
    (newest,) = db.execute("SELECT coalesce(max(seq), 0) FROM totals").fetchone()
    old = (newest - MOST_OWNERS,)
    db.execute(_FOLD, old)
    db.execute(f"DELETE FROM totals WHERE {_OLD_JOBS}", old)  # noqa: S608 -- a constant


def energy_metrics(ledger: EnergyLedger) -> Iterator[Metric]:
    """Yield the metrics of a ledger as they are now.

    All jobs are one series, as a series for each would stay forever; `partita energy --by job` lists them.
    """
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415 -- of the extras

    up = GaugeMetricFamily(
        "partita_gpu_energy_counter_up",
        "Whether the GPU's energy counter can be read",
        labels=("gpu", "UUID"),
    )
    counter = CounterMetricFamily(
        "partita_gpu_energy_joules", "The GPU's own energy counter", labels=("gpu", "UUID")
    )
    for each in ledger.counters().values():
        up.add_metric((each.gpu, each.uuid), float(each.joules is not None))
        if each.joules is not None:
            counter.add_metric((each.gpu, each.uuid), each.joules)
    took = CounterMetricFamily(
        "partita_energy_joules",
        "Energy attributed to jobs, a service, or nobody: a share of idle power, and the work beyond it",
        labels=("kind", "name", "part"),
    )
    missing = CounterMetricFamily(
        "partita_energy_missing_seconds",
        "Seconds for which no counter could be read: what was taken then is not in the joules",
        labels=("kind", "name"),
    )
    for (kind, name), energy in ledger.totals().items():
        missing.add_metric((kind.value, name), energy.missing_s)
        if energy.joules is not None:
            took.add_metric((kind.value, name, "idle"), energy.idle_j)
            took.add_metric((kind.value, name, "active"), energy.active_j)
    yield from (up, counter, took, missing)
