"""The queue as a whole at one moment, kept for a while: order, predicted starts, and what reasons have in common."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from partita.jobs.partition import scattered
from partita.jobs.queue.dependencies import waits_for
from partita.jobs.queue.forecast import fitting, largest_slice
from partita.jobs.queue.hosts import can_come_free
from partita.jobs.queue.listing import row
from partita.jobs.queue.reasons import Situation, reason
from partita.jobs.queue.record import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.jobs.queue.daemon import QueueService
    from partita.jobs.queue.record import JobRecord
    from partita.jobs.queue.scheduler import Prediction

FRESH = 5.0
"""Times what it took to make for which an overview serves even if something has changed."""

OLD_S = 15.0
"""Seconds after which it is made anew even if nothing has."""

_ORDER = {State.RUNNING: 0, State.STOPPING: 1, State.STARTING: 2, State.WAITING: 3}


class Overview:
    """A snapshot of a queue.

    Args:
        service: the queue.
    """

    def __init__(self, service: QueueService) -> None:
        self._service = service
        began = time.monotonic()
        self.version = service.book.version
        self._hosts = service.sight.hosts
        self.predicted = service.predictions()
        waiting = [job for job in service.book.active.values() if job.state is State.WAITING]
        # Those that are never predicted to start come last.
        waiting.sort(key=lambda job: (self._start(job), job.number))
        holding = [job for job in service.book.active.values() if job.state is not State.WAITING]
        holding.sort(key=lambda job: (_ORDER[job.state], job.number))
        self._newest = max(service.book.active, default=0)
        self._order = [job.number for job in (*holding, *waiting)]
        self._situation = self._look(waiting)
        self._made = time.monotonic()
        self._fresh = FRESH * (self._made - began)

    def stale(self) -> bool:
        """Say whether another one should be made."""
        age, service = time.monotonic() - self._made, self._service
        changed = self.version != service.book.version or self._hosts != service.sight.hosts
        return age > OLD_S or (age > self._fresh and changed)

    @property
    def order(self) -> list[int]:
        """The jobs in order: those that hold an instance, then by predicted start, then what has come since."""
        return [
            *self._order,
            *sorted(number for number in self._service.book.active if number > self._newest),
        ]

    def rows(self, offset: int, limit: int, may: Callable[[JobRecord], bool]) -> list[dict[str, Any]]:
        """Return some of the jobs as data, in order."""
        found = []
        for number in self.order[offset : offset + limit]:
            job = self._service.book.active.get(number)
            if job is not None:
                found.append(self._row(job, open_to=may(job)))
        return found

    def _row(self, job: JobRecord, *, open_to: bool) -> dict[str, Any]:
        shown = row(job, open_to=open_to)
        expected = self._service.scheduler.expected(job)
        shown["memory_bytes"] = expected.need or None
        if job.state is State.WAITING:
            shown["reason"] = waits_for(job) if job.after else reason(job, expected, self._situation)
            prediction = self.predicted.get(job.number)
            shown["start"] = prediction and prediction.start
            shown["start_estimated"] = prediction and not prediction.exact
        else:
            shown["reason"] = job.why
        return shown

    def _start(self, job: JobRecord) -> float:
        found: Prediction | None = self.predicted.get(job.number)
        return found.start if found else float("inf")

    def _look(self, waiting: list[JobRecord]) -> Situation:
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
            ahead={job.number: i for i, job in enumerate(waiting)},
            resting=service.trouble,
        )

    def _until(self, waiting: list[JobRecord]) -> dict[str, str]:
        """Return, for each profile, when the first job that begins on it is expected to."""
        found: dict[str, str] = {}
        models = {host.model.name: host.model for host in self._service.sight.hosts}.values()
        largest = largest_slice(models)
        for job in waiting:
            prediction = self.predicted.get(job.number)
            if prediction is None or not prediction.exact:
                break
            expected = self._service.scheduler.expected(job)
            for profile in (
                each for model in models for each in fitting(model, expected, job.at_least_bytes, largest)[:1]
            ):
                at = datetime.fromtimestamp(prediction.start).astimezone()
                found.setdefault(profile.name, at.strftime("%H:%M"))
        return found
