"""The queue as a whole: what is expected of it, found at leisure, and all of it at one moment, found at once."""

from __future__ import annotations

import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import TYPE_CHECKING, Any

from partita.errors import PartitaError
from partita.jobs.partition import scattered
from partita.jobs.queue.dependencies import waits_for
from partita.jobs.queue.forecast import fitting, largest_slice
from partita.jobs.queue.hosts import can_come_free
from partita.jobs.queue.listing import row
from partita.jobs.queue.reasons import Situation, reason
from partita.jobs.queue.record import State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from partita.jobs.queue.daemon import QueueService
    from partita.jobs.queue.record import JobRecord
    from partita.jobs.queue.scheduler import Prediction

FRESH = 5.0
"""Times what it took to make for which an outlook serves even if something has changed."""

OLD_S = 15.0
"""Seconds after which it is made anew even if nothing has."""

KEPT_S, MOST_KEPT = 30.0, 64
"""Seconds for which a snapshot is kept for the one who reads it page by page, and how many are at most."""

_ORDER = {State.RUNNING: 0, State.STOPPING: 1, State.STARTING: 2, State.WAITING: 3}


class Outlook:
    """What is expected of the jobs that wait: when they start, and what their reasons have in common.

    Args:
        service: the queue.

    Attributes:
        predicted: when waiting jobs are expected to start.
        rank: of the waiting jobs, by expected start; those that are not expected to start come last.
        situation: what reasons have in common.
    """

    def __init__(self, service: QueueService) -> None:
        self._service = service
        began = time.monotonic()
        self._version, self._hosts = service.book.version, service.sight.hosts
        self.predicted: dict[int, Prediction] = {}
        with suppress(PartitaError):  # who asks for the queue gets it, whatever becomes of its future
            self.predicted = service.predictions()
        waiting = [*service.book.waiting.values(), *service.book.blocked.values()]
        waiting.sort(key=lambda job: (self._start(job), job.number))
        self.rank = {job.number: i for i, job in enumerate(waiting)}
        self.situation = self._look(waiting)
        self._made = time.monotonic()
        self._fresh = FRESH * (self._made - began)

    def stale(self) -> bool:
        """Say whether another one should be made."""
        age, service = time.monotonic() - self._made, self._service
        if age <= self._fresh:
            return False
        return age > OLD_S or self._version != service.book.version or self._hosts != service.sight.hosts

    def _start(self, job: JobRecord) -> float:
        found = self.predicted.get(job.number)
        return found.start if found else float("inf")

    def _look(self, waiting: Sequence[JobRecord]) -> Situation:
        service = self._service
        hosts = service.sight.hosts
        models = {host.model.name: host.model for host in hosts}
        users = {job.submitter.name for job in waiting}
        used = service.book.shares.at(service.now)
        return Situation(
            models=tuple(models.values()),
            discipline=service.discipline,
            used=used,
            least=min(sorted(users), key=lambda user: used.get(user, 0.0), default=""),
            free=frozenset(
                profile.name
                for host in hosts
                for profile in host.model.profiles
                if host.partition.change(profile.name) is not None
            ),
            possible=can_come_free(hosts),
            scattered=frozenset(
                profile.name
                for host in hosts
                for profile in host.model.profiles
                if scattered(host.partition, profile.name)
            ),
            until=self._until(waiting),
            ahead=self.rank,
            resting=service.trouble,
        )

    def _until(self, waiting: Sequence[JobRecord]) -> dict[str, str]:
        """Return, for each profile, when the first job that begins on it is expected to."""
        found: dict[str, str] = {}
        models = {host.model.name: host.model for host in self._service.sight.hosts}.values()
        largest = largest_slice(models)
        for job in waiting:
            prediction = self.predicted.get(job.number)
            if prediction is None or not prediction.played:
                break
            expected = self._service.scheduler.expected(job)
            for profile in (
                each for model in models for each in fitting(model, expected, job.at_least_bytes, largest)[:1]
            ):
                at = datetime.fromtimestamp(prediction.start).astimezone()
                found.setdefault(profile.name, at.strftime("%H:%M"))
        return found


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All jobs that are not over, as they were at one moment.

    Attributes:
        revision: tells it from all others of this daemon.
        jobs: those that hold an instance, then the others by expected start, then what has come since it was found.
        counts: how many jobs are in each state; of all of them, also where only some were asked for.
        now: the moment, in seconds since 1970.
    """

    revision: str
    jobs: tuple[JobRecord, ...]
    counts: dict[str, int]
    now: float
    trouble: str | None
    outlook: Outlook


class Overview:
    """Makes snapshots of a queue, and keeps them for those who read them page by page.

    Args:
        service: the queue.
    """

    def __init__(self, service: QueueService) -> None:
        self._service = service
        self._outlook: Outlook | None = None
        self._kept: OrderedDict[str, tuple[float, Snapshot]] = OrderedDict()
        self._number = count(1)

    def snapshot(self, uid: int | None = None) -> Snapshot:
        """Return the queue as it is now.

        Args:
            uid: of the user whose jobs are wanted; None for all.
        """
        if self._outlook is None or self._outlook.stale():
            self._outlook = Outlook(self._service)
        book, rank = self._service.book, self._outlook.rank
        last = len(rank)
        waiting = [*book.waiting.values(), *book.blocked.values()]
        waiting.sort(key=lambda job: (rank.get(job.number, last), job.number))
        holding = sorted(book.holding, key=lambda job: (_ORDER[job.state], job.number))
        jobs = tuple(job for job in (*holding, *waiting) if uid is None or job.submitter.uid == uid)
        return Snapshot(
            f"{book.version}.{next(self._number)}",
            jobs,
            book.counts(),
            self._service.now,
            self._service.trouble,
            self._outlook,
        )

    def keep(self, snapshot: Snapshot) -> None:
        """Keep a snapshot of which more will be asked for."""
        now = time.monotonic()
        self._kept[snapshot.revision] = (now, snapshot)
        self._kept.move_to_end(snapshot.revision)
        while len(self._kept) > MOST_KEPT or next(iter(self._kept.values()))[0] < now - KEPT_S:
            self._kept.popitem(last=False)

    def kept(self, revision: str) -> Snapshot | None:
        """Return a snapshot that was kept; None if it is there no more."""
        found = self._kept.get(revision)
        return found and found[1]

    def rows(
        self, snapshot: Snapshot, offset: int, limit: int, may: Callable[[JobRecord], bool]
    ) -> list[dict[str, Any]]:
        """Return some of a snapshot's jobs as data, in order."""
        return [self._row(job, snapshot, open_to=may(job)) for job in snapshot.jobs[offset : offset + limit]]

    def _row(self, job: JobRecord, snapshot: Snapshot, *, open_to: bool) -> dict[str, Any]:
        shown = row(job, open_to=open_to)
        expected = self._service.scheduler.expected(job)
        if job.number not in self._service.book.active:
            self._service.scheduler.forget(job)
        shown["memory_bytes"] = expected.need or None
        if job.state is State.WAITING:
            shown["reason"] = (
                waits_for(job) if job.after else reason(job, expected, snapshot.outlook.situation)
            )
            prediction = None if job.after else snapshot.outlook.predicted.get(job.number)
            shown["start"] = prediction and prediction.start
            shown["start_estimated"] = prediction and prediction.guessed
        else:
            shown["reason"] = job.why
        return shown
