"""The cluster of a state folder as a source: its driver, its journal and its queue of jobs, which are only read.

Nothing here takes a lock that a controller, a daemon or a gateway waits for: files are read as snapshots, and what
does not answer soon is left out until it does.
"""

from __future__ import annotations

import socket
from collections import defaultdict
from typing import TYPE_CHECKING

from partita.control.executor import ClusterView, serving, snapshot
from partita.control.journal import FILE, Journal, State
from partita.dash.model import (
    Event,
    EventPage,
    InstanceDetail,
    InstanceState,
    Part,
    Service,
    Transition,
    TransitionState,
)
from partita.dash.source import LEAVING, LOST, MIG_OFF, USABLE, Look, SeenGpu
from partita.errors import InputError, PartitaError
from partita.jobs.queue.client import QueueClient
from partita.jobs.queue.folders import jobs_folder
from partita.mig.layout import Placement
from partita.transition.transition import ActionKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from partita.control.journal import Progress, Record
    from partita.drive.driver import Driver, ObservedGpu, ObservedInstance
    from partita.transition.deployment import Deployment

_SOON_S = 0.5
"""How long the queue may take to answer."""

_RESHAPING = {ActionKind.CREATE_INSTANCE, ActionKind.DESTROY_INSTANCE}


class LocalSource:
    """The cluster of a state folder.

    Args:
        driver: of the cluster, opened to observe it.
        folder: the state folder.
        workload: name of the workload, where it is known.
    """

    def __init__(self, driver: Driver, folder: Path, *, workload: str | None = None) -> None:
        self._driver = driver
        self._folder = folder
        self._workload = workload
        self._view = ClusterView(driver)
        self._journal: Journal | None = None
        self._journal_version: int | None = None
        self._newest: dict[str, int] = {}
        self._open: dict[int, Record] = {}
        self._progress: Progress | None = None
        self._seen: dict[str, SeenGpu] = {}
        self._capacity: dict[str, list[tuple[str, float, str]]] = {}
        self._services: dict[str, Service] = {}
        self._jobs: dict[tuple[str, str], str] = {}
        self._goal: Deployment | None = None

    @property
    def cluster(self) -> str:
        """Name of this host."""
        return socket.gethostname()

    @property
    def workload(self) -> str | None:
        """Name of the workload, where it is known."""
        return self._workload

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of the API that there are."""
        return (Part.FLEET, Part.SERVICES)

    def look(self) -> Look:
        """Return what has changed since the last call.

        Raises:
            PartitaError: the cluster cannot be observed; a later call goes on.
        """
        events, transition, acting = self._read_journal()
        jobs = self._read_jobs()
        ids = set(self._view.look().gpus) | acting | jobs
        gone = [name for name in ids if self._view.gpu(name) is None and name in self._seen]
        gpus = [made for name in ids if (made := self._made(name)) is not None]
        for name in gone:
            del self._seen[name], self._capacity[name]
        now = self._described() if gpus or gone or transition is not None or events else self._services
        changed = [each for name, each in now.items() if self._services.get(name) != each]
        lost = [name for name in self._services if name not in now]
        self._services = now
        return Look(
            self._driver.clock.now(),
            gpus,
            gone,
            services=changed,
            gone_services=lost,
            goal=self._goal,
            transition=transition,
            events=events,
        )

    def state(self) -> str:
        """Return the fingerprint of the whole state, as `partita status` shows it."""
        return snapshot(self._view.observation).fingerprint

    def events(self, after: str | None, limit: int, gpu: str | None = None) -> EventPage:
        """Return a page of the journal, newest first.

        Raises:
            InputError: it is no cursor of this source.
            JournalError: the journal cannot be read.
        """
        before = None if after is None else _cursor(after)
        journal = self._opened()
        records = [] if journal is None else journal.records(limit + 1, before, gpu)
        kept = records[:limit]
        following = f"{kept[-1].at!r}:{kept[-1].number}" if len(records) > limit else None
        return EventPage(tuple(map(event_of, kept)), following)

    def close(self) -> None:
        """Close the journal."""
        if self._journal is not None:
            self._journal.close()

    def _opened(self) -> Journal | None:
        if self._journal is None and (self._folder / FILE).exists():
            self._journal = Journal(self._folder / FILE)
        return self._journal

    def _read_journal(self) -> tuple[list[Event], Transition | None, set[str]]:
        """Return new events, the newest transition if it changed, and the GPUs on which actions began or ended."""
        journal = self._opened()
        if journal is None or (version := journal.version()) == self._journal_version:
            return [], None, set()
        first = self._journal_version is None
        self._journal_version = version
        if first:
            known = list(reversed(journal.records(1000)))
            self._newest = {kind: _newest(known, kind) for kind in ("action", "note", "goal")}
            records = [each for each in known if each.ended is None]
        else:
            records = known = journal.news(self._newest, self._open.keys())
        touched: set[str] = set()
        for each in records:
            self._newest[each.kind] = max(self._newest.get(each.kind, 0), each.number)
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
            [] if first else [event_of(each) for each in known],
            transition_of(self._progress) if changed else None,
            touched,
        )

    def _read_jobs(self) -> set[str]:
        """Read which jobs run where; return the GPUs on which that changed."""
        now: dict[tuple[str, str], str] = {}
        try:
            with QueueClient(jobs_folder(self._folder), _SOON_S) as daemon:
                found = daemon.ask("instances")["jobs"]
            now = {(job["gpu"], job["instance"]): job["id"] for job in found}
        except PartitaError:
            pass  # no daemon runs, or it does not answer us
        changed = {key[0] for key in now.keys() ^ self._jobs.keys()}
        changed |= {key[0] for key, job in now.items() if self._jobs.get(key) not in (job, None)}
        self._jobs = now
        return changed

    def _made(self, name: str) -> SeenGpu | None:
        """Return a GPU as it is now, if it is another than before."""
        gpu = self._view.gpu(name)
        if gpu is None:
            return None
        acting = {
            Placement.parse(each.placement): ActionKind(each.action)
            for each in self._open.values()
            if each.gpu == name and each.placement is not None and each.action is not None
        }
        instances = [self._instance(gpu, each, acting) for each in gpu.instances]
        taken = {each.start for each in instances}
        instances += (
            InstanceDetail(place.profile, place.start, InstanceState.CHANGING)
            for place, kind in acting.items()
            if kind is ActionKind.CREATE_INSTANCE and place.start not in taken
        )
        node = name.rpartition("/")[0] or self.cluster
        made = SeenGpu(
            gpu.id,
            gpu.uuid,
            gpu.model,
            node,
            LOST if gpu.lost else MIG_OFF if not gpu.mig else LEAVING if gpu.leaving else USABLE,
            tuple(sorted(instances, key=lambda each: each.start)),
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

    def _instance(
        self, gpu: ObservedGpu, each: ObservedInstance, acting: Mapping[Placement, ActionKind]
    ) -> InstanceDetail:
        job = self._jobs.get((gpu.id, str(each.placement)))
        replica = each.replica.replica if each.replica is not None else None
        return InstanceDetail(
            each.placement.profile,
            each.placement.start,
            InstanceState.LOST if gpu.lost else _state(each, job, acting.get(each.placement)),
            each.identity.mig_uuid,
            each.identity.gi_id,
            () if replica is None else tuple(name for name, _ in replica.serves),
            job,
            throughput=None if replica is None else replica.throughput,
            batch=None if replica is None else replica.batch,
            latency_ms=None if replica is None else replica.latency_ms,
        )

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
            name: Service(
                name,
                wanted.get(name, 0.0),
                floors.get(name, 0.0),
                ready.get(name, 0.0),
                planned.get(name, 0.0),
                sum(where[name].values()),
                where=dict(sorted(where[name].items())),
            )
            for name in sorted(ready.keys() | wanted.keys())
        }


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


_TRANSITION_STATES = {
    State.RUNNING: TransitionState.RUNNING,
    State.REACHED: TransitionState.REACHED,
    State.STOPPED: TransitionState.STOPPED,
    State.REPLACED: TransitionState.REPLACED,
}


def transition_of(progress: Progress) -> Transition:
    """Return how far the newest goal is, as a transition."""
    return Transition(
        str(progress.id),
        progress.at,
        progress.command,
        _TRANSITION_STATES[progress.state],
        progress.done,
        progress.actions,
        progress.makespan,
        progress.ended,
        progress.replans,
    )


def _newest(records: Iterable[Record], kind: str) -> int:
    return max((each.number for each in records if each.kind == kind), default=0)


def _cursor(text: str) -> tuple[float, int]:
    at, _, number = text.partition(":")
    try:
        return float(at), int(number)
    except ValueError:
        raise InputError(
            f"{text!r} is no cursor", where="after", hint="use `next` of the page before, or leave it out"
        ) from None
