"""The cluster of a state folder as a source: its driver, its journal and its queue of jobs, which are only read.

Nothing here takes a lock that a controller, a daemon or a gateway waits for: files are read as snapshots, and what
does not answer soon is left out until it does.
"""

from __future__ import annotations

import socket
import time
from collections import defaultdict
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from partita.control.cluster_view import ClusterView, serving, snapshot
from partita.control.held import NOTHING_HELD, held_as_stored, held_as_told
from partita.control.journal import END, FILE, Journal, JournalError, Position, State, holder
from partita.dash.gateway_watch import GatewayWatch
from partita.dash.jobs import jobs
from partita.dash.measured import GatewayNow, ServiceNow, load_change, with_measured
from partita.dash.model import (
    Event,
    EventPage,
    GpuCut,
    GpuHistory,
    InstanceDetail,
    InstanceState,
    Job,
    Part,
    Service,
    Transition,
)
from partita.dash.source import LEAVING, LOST, MIG_OFF, USABLE, Look, SeenGpu
from partita.dash.transitions import transition_of
from partita.drive.state import CLUSTER
from partita.errors import PartitaError
from partita.jobs.queue.client import BusyDaemonError, QueueClient
from partita.jobs.queue.folders import jobs_folder
from partita.jobs.queue.job_store import FILE as QUEUE
from partita.mig.layout import Placement
from partita.transition.transition import ActionKind
from partita.workload import read_workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from partita.control.journal import ActingProcess, Progress, Record
    from partita.dash.gateway import GatewayPage
    from partita.dash.power import PowerMeter
    from partita.dash.source import InstanceKey, InstanceLoad
    from partita.drive.driver import Driver, Observation, ObservedGpu, ObservedInstance
    from partita.transition.deployment import Deployment

_SOON_S = 0.5
"""How long the queue may take to answer."""

WATCHED_JOBS = 200
"""Jobs of which every change is told: those that run and wait first."""

_STORED_S = 10.0
"""Seconds after which it is looked again which of the jobs without a queue's process have ended."""

_MOST_OPEN, MOST_OF_A_GPU = 2000, 500
"""Records that are read at the start, to find actions in progress; and of one GPU."""

_RESHAPING = {ActionKind.CREATE_INSTANCE, ActionKind.DESTROY_INSTANCE}


class LocalSource:
    """The cluster of a state folder.

    Args:
        opening: opens the driver of the cluster for a block; called again when the cluster is made anew.
        folder: the state folder.
        workload: file of the workload, for its name and its services' SLOs.
        gateways: metrics pages of the gateways in front of its services.
        power: returns what says how many watts the driver's GPUs draw; None where nothing does.
    """

    def __init__(
        self,
        opening: Callable[[], AbstractContextManager[Driver]],
        folder: Path,
        *,
        workload: Path | None = None,
        gateways: Sequence[GatewayPage] = (),
        power: Callable[[Driver], PowerMeter | None] = lambda _: None,
    ) -> None:
        self.folder = folder
        self.workload_file = workload
        self._opening = opening
        self._power_of = power
        self._stack = ExitStack()
        self._driver: Driver | None = None
        self._power: PowerMeter | None = None
        self._files: tuple[object, ...] = ()
        self._slos = _Slos(workload)
        self._watch = GatewayWatch(gateways)
        self._forget()

    def _forget(self) -> None:
        """Know nothing of the cluster."""
        self._journal: Journal | None = None
        self._journal_version: tuple[int, int] | None = None
        self._forget_journal()
        self._progress: Progress | None = None
        self._seen: dict[str, SeenGpu] = {}
        self._capacity: dict[str, list[tuple[str, float, str]]] = {}
        self._services: dict[str, Service] = {}
        self._jobs: dict[tuple[str, str], str] = {}
        self._first_jobs: dict[str, Job] = {}
        self.held = NOTHING_HELD
        self._told_by: ActingProcess | None = None
        self._stored: tuple[object, float] = (None, 0.0)
        self._goal: Deployment | None = None
        self._gateway = GatewayNow()

    def _forget_journal(self) -> None:
        """Know nothing of the journal."""
        self._journal_known = False
        self._newest = Position(0, 0, 0)
        self._open: dict[int, Record] = {}

    @property
    def cluster(self) -> str:
        """Name of this host."""
        return socket.gethostname()

    @property
    def workload(self) -> str | None:
        """Name of the workload's file, where it is known."""
        return None if self.workload_file is None else self.workload_file.stem

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of the API that there are."""
        return (Part.FLEET, Part.SERVICES)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is missing, and why."""
        found = (self._watch.latest().fault, self._left_behind())
        return tuple(each for each in found if each is not None)

    def _left_behind(self) -> str | None:
        """Return what to do about a transition that nobody carries out: its process was killed, or has ended."""
        newest = self._progress
        if newest is None or newest.state is not State.RUNNING or holder(self.folder) is not None:
            return None
        paused = "" if newest.paused is None else f", which {newest.paused} paused"
        resume = "" if newest.paused is None else "`partita resume`, and "
        return f"no process carries out transition {newest.id}{paused}: go on with {resume}`{newest.command}`"

    def look(self) -> Look:
        """Return what has changed since the last call.

        Raises:
            PartitaError: the cluster cannot be observed; a later call goes on.
        """
        driver, anew = self._current()
        events, transition, acting, fault = self._try_journal()
        busy, changed_jobs = self._read_jobs()
        differing = self._view.look().gpus
        ids = set(differing) | acting | busy
        gone = [name for name in ids if self._view.gpu(name) is None and name in self._seen]
        gpus = [made for name in ids if (made := self._made(name)) is not None]
        for name in gone:
            del self._seen[name], self._capacity[name]
        load = self._new_load()
        stale = gpus or gone or transition is not None or events or load is not None or self._slos.changed()
        now = self._described() if stale else self._services
        changed = [each for name, each in now.items() if self._services.get(name) != each]
        lost = [name for name in self._services if name not in now]
        self._services = now
        return Look(
            driver.clock.now(),
            gpus,
            gone,
            load=load or {},
            watts=self._watts(ids),
            services=changed,
            gone_services=lost,
            goal=self._goal,
            transition=transition,
            jobs=changed_jobs,
            events=events,
            reset="the cluster was made anew" if anew else None,
            fault=fault,
        )

    @property
    def observation(self) -> Observation:
        """The cluster as of the last look."""
        return self._view.observation

    @property
    def seen_by_services(self) -> Observation:
        """The cluster as of the last look, as those see it who change services."""
        return self.held.seen_by_services(self._view.observation)

    @property
    def now(self) -> float:
        """The cluster's clock."""
        return self._current()[0].clock.now()

    def state(self) -> str:
        """Return the fingerprint of the state that is changed by plans, as `partita status` shows it."""
        return snapshot(self.seen_by_services).fingerprint

    def events(self, after: str | None, limit: int, gpu: str | None = None) -> EventPage:
        """Return a page of the journal, newest first.

        Raises:
            JournalError: the journal cannot be read.
        """
        journal, before = self._opened(), END if after is None else _cursor(after)
        if journal is None:
            return EventPage(())
        records, following = journal.records(limit, before, gpu)
        more = len(records) == limit and journal.records(1, following, gpu)[0]
        return EventPage(tuple(map(event_of, records)), ".".join(map(str, following)) if more else None)

    def history(self, gpu_id: str) -> GpuHistory:
        """Return how a GPU was cut, and what happened on it, newest first.

        Raises:
            JournalError: the journal cannot be read.
        """
        journal, gpu = self._opened(), self._view.gpu(gpu_id)
        records = [] if journal is None else journal.records(MOST_OF_A_GPU, gpu=gpu_id)[0]
        now = [] if gpu is None else placed(gpu)
        return GpuHistory(cuts(now, records), tuple(map(event_of, records)), ())

    def close(self) -> None:
        """Close the cluster and the journal, and read no gateway any more."""
        self._watch.close()
        self._close()

    def _close(self) -> None:
        self._stack.close()
        self._driver = None
        self._close_journal()
        self._forget()

    def _close_journal(self) -> None:
        if self._journal is not None:
            self._journal.close()
        self._journal, self._journal_version = None, None

    def _current(self) -> tuple[Driver, bool]:
        """Return the driver of the cluster that is there now, and whether it is another one than before.

        Raises:
            PartitaError: there is none, or it cannot be opened.
        """
        journal = self.folder / FILE
        files = (_identity(self.folder / CLUSTER), _identity(journal), _written(journal))
        if self._driver is not None and files[0] == self._files[0]:
            if (
                files[1:] != self._files[1:]
            ):  # opened anew it is checked: it may not be SQLite that wrote to it
                self._close_journal()
            if files[1] != self._files[1]:
                self._forget_journal()
            self._files = files
            return self._driver, False
        anew = bool(self._files)
        self._close()
        self._driver = self._stack.enter_context(self._opening())
        self._files = files
        self._view = ClusterView(self._driver)
        self._power = self._power_of(self._driver)
        return self._driver, anew

    def _new_load(self) -> dict[InstanceKey, InstanceLoad] | None:
        """Return the loads of instances, if gateways said something new."""
        before, now = self._gateway, self._watch.latest()
        if now is before:
            return None
        self._gateway = now
        return load_change(before, now)

    def _watts(self, changed: Iterable[str]) -> Mapping[str, float | None]:
        if self._power is None:
            return {}
        running = [(gpu, Placement.parse(place).start) for gpu, place in self._jobs]
        known = [gpu for name in changed if (gpu := self._view.gpu(name)) is not None]
        return self._power.read(time.monotonic(), known, running)

    def _opened(self) -> Journal | None:
        if self._journal is None and (self.folder / FILE).exists():
            self._journal = Journal(self.folder / FILE, read_only=True)
        return self._journal

    def _try_journal(
        self,
    ) -> tuple[list[Event], Transition | None, set[str], JournalError | None]:
        """Read the journal; where that cannot be, say why: GPUs, services and jobs are seen without it."""
        try:
            return *self._read_journal(), None
        except JournalError as error:
            self._close_journal()  # which is opened anew, and checked then, at the next look
            return [], None, set(), error

    def _read_journal(self) -> tuple[list[Event], Transition | None, set[str]]:
        """Return new events, the newest transition if it changed, and the GPUs on which actions began or ended."""
        journal = self._opened()
        if journal is None or (version := journal.version()) == self._journal_version:
            return [], None, set()
        first = not self._journal_known
        self._journal_known, self._journal_version = True, version
        news = (
            journal.records(_MOST_OPEN)[0][::-1] if first else journal.news(self._newest, self._open.keys())
        )
        touched: set[str] = set()
        for each in news:
            newest = max(getattr(self._newest, each.kind), each.number >> 2)
            self._newest = self._newest._replace(**{each.kind: newest})
            if each.kind == "action" and each.gpu is not None:
                touched.add(each.gpu)
                if each.ended is None:
                    self._open[each.number] = each
                else:
                    self._open.pop(each.number, None)
        before, self._progress = self._progress, journal.progress()
        if self._progress is None:
            return [], None, touched
        reached = self._progress.state in (State.REACHED, State.REPLACED)
        target = self._progress.goal.target
        self._goal = None if reached else self._goal if self._goal == target else target
        changed = before != self._progress
        return (
            [] if first else [event_of(each) for each in news],
            transition_of(self._progress) if changed else None,
            touched,
        )

    def _read_jobs(self) -> tuple[set[str], list[Job]]:
        """Read which jobs run where, and the first of all; return the GPUs where that changed, and changed jobs."""
        first: dict[str, Job] = {}
        try:
            with QueueClient(jobs_folder(self.folder), _SOON_S) as daemon:
                self.held = held_as_told(daemon.ask("instances"))
                first = {each.id: each for each in jobs(daemon, None, WATCHED_JOBS).jobs}
            self._told_by = holder(self.folder)
        except PartitaError as error:  # no daemon runs, or it does not answer us; jobs go on
            if isinstance(error, BusyDaemonError):
                first = self._first_jobs  # else all of them were news once it answers
            self._read_held()
        now = {(gpu, str(placement)): job for (gpu, placement), job in self.held.jobs.items()}
        gpus = {key[0] for key in now.keys() | self._jobs.keys() if now.get(key) != self._jobs.get(key)}
        changed = [each for number, each in first.items() if self._first_jobs.get(number) != each]
        self._jobs, self._first_jobs = now, first
        return gpus, changed if self._seen else []  # at the first look all of them are known by their page

    def _read_held(self) -> None:
        """Read what jobs hold from the queue's store: its process has ended, unless it is only too busy to answer."""
        acting = holder(self.folder)
        if acting is not None and acting == self._told_by:
            return
        path, now = jobs_folder(self.folder) / QUEUE, time.monotonic()
        stamp = _identity(path), _written(path)
        if stamp == self._stored[0] and not (self.held.jobs and now > self._stored[1] + _STORED_S):
            return
        self._stored = stamp, now
        with suppress(PartitaError):  # whoever changes something is told
            self.held = held_as_stored(self.folder)

    def _made(self, name: str) -> SeenGpu | None:
        """Return a GPU as it is now, if it is another than before."""
        gpu = self._view.gpu(name)
        if gpu is None:
            return None
        acting = {
            each.placement: ActionKind(each.action)
            for each in self._open.values()
            if each.gpu == name and each.placement is not None and each.action is not None
        }
        node = name.rpartition("/")[0] or self.cluster
        made = SeenGpu(
            gpu.id, gpu.uuid, gpu.model, node, gpu_state(gpu), shown_instances(gpu, acting, self._jobs)
        )
        if self._seen.get(name) == made:
            return None
        self._seen[name] = made
        self._capacity[name] = [
            (service, throughput, f"{gpu.model} {each.placement.profile}")
            for each in gpu.instances
            if (replica := serving(each)) is not None
            for service, throughput in replica.serves
        ]
        return made

    def _described(self) -> dict[str, Service]:
        """Return all services that run or are wanted, by name."""
        ready: dict[str, float] = defaultdict(float)
        where: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for rows in self._capacity.values():
            for service, throughput, place in rows:
                ready[service] += throughput
                where[service][place] += 1
        goal = self._progress.goal if self._progress is not None else None
        wanted = goal.new_rates if goal is not None else {}
        reached = self._progress is not None and self._progress.state is State.REACHED
        floors = wanted if reached else goal.guaranteed if goal is not None else {}
        planned = goal.target.capacity() if goal is not None else {}
        return {
            name: self._service(
                name,
                (wanted.get(name, 0.0), floors.get(name, 0.0), ready.get(name, 0.0), planned.get(name, 0.0)),
                where[name],
            )
            for name in sorted(ready.keys() | wanted.keys() | self._gateway.services.keys())
        }

    def _service(
        self, name: str, rates: tuple[float, float, float, float], where: Mapping[str, int]
    ) -> Service:
        slo_ms, quantile = self._slos.of(name) or (None, None)
        found = Service(
            name, *rates, sum(where.values()), slo_ms, quantile, where=dict(sorted(where.items()))
        )
        return with_measured(found, self._gateway.services.get(name, ServiceNow()))


class _Slos:
    """The SLOs of a workload's file, read again when it changes; while it cannot be read, those from before hold."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._modified: tuple[int, int] | None = None
        self._known: dict[str, tuple[float, float | None]] = {}
        if path is not None:
            self._read(path)

    def of(self, service: str) -> tuple[float, float | None] | None:
        """Return latency in ms and quantile of a service."""
        return self._known.get(service)

    def changed(self) -> bool:
        """Return whether the file has changed, and read it if it has."""
        if self._path is None:
            return False
        with suppress(OSError, PartitaError):
            status = self._path.stat()
            if (status.st_mtime_ns, status.st_size) != self._modified:
                self._read(self._path)
                return True
        return False

    def _read(self, path: Path) -> None:
        with suppress(OSError):
            status = path.stat()
            self._modified = status.st_mtime_ns, status.st_size
        loaded = read_workload(path)
        self._known = {each.name: (each.slo.latency_ms, each.slo.quantile) for each in loaded.services}


def cuts(now: Iterable[tuple[str, str | None]], records: Iterable[Record]) -> tuple[GpuCut, ...]:
    """Return how a GPU was cut, newest first, by undoing its actions one by one.

    Args:
        now: its placements, and the service on each.
        records: its actions, newest first.
    """
    state = dict(now)
    done = sorted(
        (each for each in records if each.ended is not None and each.error is None and each.placement),
        key=lambda each: (each.ended or 0.0, each.number),
        reverse=True,
    )
    found: list[GpuCut] = []
    for each in done:
        at, place = each.ended or 0.0, each.placement or ""
        if not found or found[-1].at != at:
            found.append(GpuCut(at, _as_text(state)))
        match each.action:
            case ActionKind.CREATE_INSTANCE:
                state.pop(place, None)
            case ActionKind.DESTROY_INSTANCE:
                state[place] = None
            case ActionKind.START_REPLICA if place in state:
                state[place] = None
            case ActionKind.STOP_REPLICA if place in state:
                state[place] = each.service
    return tuple(found)


def _as_text(state: Mapping[str, str | None]) -> tuple[str, ...]:
    rows = sorted((Placement.parse(place), service) for place, service in state.items())
    return tuple(f"{place} {service}" if service else str(place) for place, service in rows)


def _service(instance: ObservedInstance) -> str | None:
    return instance.replica.replica.service if instance.replica is not None else None


def _identity(path: Path) -> object:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _written(path: Path) -> object:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def gpu_state(gpu: ObservedGpu) -> int:
    """Return the state of a GPU, as `GpuColumns.state` has it."""
    return LOST if gpu.lost else MIG_OFF if not gpu.mig else LEAVING if gpu.leaving else USABLE


def shown_instances(
    gpu: ObservedGpu, acting: Mapping[str, ActionKind], jobs: Mapping[tuple[str, str], str]
) -> tuple[InstanceDetail, ...]:
    """Return the instances of a GPU as the API shows them, by start, with those that are being made.

    Args:
        gpu: the GPU.
        acting: actions on it that are in progress, by placement.
        jobs: ids of jobs, by GPU and placement.
    """
    found = [
        _instance_detail(gpu, each, jobs.get((gpu.id, place)), acting.get(place))
        for each in gpu.instances
        for place in (str(each.placement),)
    ]
    taken = {each.start for each in found}
    making = (Placement.parse(at) for at, kind in acting.items() if kind is ActionKind.CREATE_INSTANCE)
    found += (
        InstanceDetail(place.profile, place.start, InstanceState.CHANGING)
        for place in making
        if place.start not in taken
    )
    return tuple(sorted(found, key=lambda each: each.start))


def placed(gpu: ObservedGpu) -> list[tuple[str, str | None]]:
    """Return the placements of a GPU's instances, and the service on each."""
    return [(str(each.placement), _service(each)) for each in gpu.instances]


def _instance_detail(
    gpu: ObservedGpu, each: ObservedInstance, job: str | None = None, acting: ActionKind | None = None
) -> InstanceDetail:
    """Return an instance as the API shows it.

    Args:
        gpu: the GPU.
        each: the instance.
        job: id of the job on it.
        acting: the action on it that is in progress.
    """
    replica = each.replica.replica if each.replica is not None else None
    return InstanceDetail(
        each.placement.profile,
        each.placement.start,
        InstanceState.LOST if gpu.lost else _state(each, job, acting),
        each.identity.mig_uuid,
        each.identity.gi_id,
        () if replica is None else tuple(name for name, _ in replica.serves),
        job,
        throughput=None if replica is None else replica.throughput,
        batch=None if replica is None else replica.batch,
        latency_ms=None if replica is None else replica.latency_ms,
    )


def _state(each: ObservedInstance, job: str | None, acting: ActionKind | None) -> InstanceState:
    if acting in _RESHAPING or (each.ours and not each.complete):
        return InstanceState.CHANGING
    if each.replica is not None:
        if each.replica.draining:
            return InstanceState.DRAINING
        return InstanceState.SERVING if each.replica.ready else InstanceState.STARTING
    if job is not None:
        return InstanceState.JOB
    return InstanceState.FREE if each.ours and not each.busy else InstanceState.FOREIGN


def event_of(record: Record) -> Event:
    """Return a record of the journal as an event."""
    kind = "fault" if record.error is not None else record.kind
    return Event(
        record.number,
        record.at,
        kind,
        record.text,
        record.gpu,
        record.service,
        ended=record.ended,
        error=record.error,
    )


def _cursor(text: str) -> Position:
    return Position(*map(int, text.split(".")))
