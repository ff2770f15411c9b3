"""The whole queue at one moment, as data for lists: rows, reasons why jobs wait, and expected starts.

Other users' private data is left out. Expectations are computed seldom (`Outlook`) and reused for a while.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType

from partita.documents.codec import Value
from partita.errors import PartitaError
from partita.jobs.partition import scattered
from partita.jobs.queue.forecast import called, fitting, largest_slice
from partita.jobs.queue.gpus import can_come_free, models_of
from partita.jobs.queue.record import OVER, AttemptVerdict, JobState, StatedMemory, waits_for
from partita.jobs.queue.scheduler import Prediction, SchedulerInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from partita.jobs.queue.forecast import Forecast
    from partita.jobs.queue.record import Attempt, JobRecord
    from partita.jobs.queue.scheduler import Scheduler
    from partita.jobs.queue.service import QueueService
    from partita.mig.gpu import GpuModel, Profile


ROW_COMMAND = 200
"""Characters of a command in a list; `history` shows all of it."""


class JobRow(Value):
    """A job in a list. Private data is null; what does not apply to its state is left out."""

    id: str
    user: str
    state: JobState
    priority: int
    submitted: float
    name: str | None
    command: str | tuple[str, ...] | None
    attempts: int | tuple[AttemptRow, ...]
    time_limit_s: float | None
    after: tuple[str, ...]
    gpu: str | UnsetType = UNSET
    instance: str | UnsetType = UNSET
    began: float | UnsetType | None = UNSET
    why: str | UnsetType | None = UNSET


class QueueRow(JobRow):
    """A job that is not over, with its expected memory and start."""

    memory_bytes: float | None = None
    reason: str | None = None
    start: float | UnsetType | None = UNSET
    start_estimated: bool | UnsetType | None = UNSET


class HistoryRow(JobRow, kw_only=True):
    """All of a job, for those who may see it; the environment is never listed. `number` orders all jobs."""

    number: int
    directory: str
    memory: StatedMemory
    gpu_time: Mapping[str, float]
    grace_s: float
    most_attempts: int
    verdict: str


class AttemptRow(Value):
    """An attempt: its instance's memory, when it was decided on, and how it went; unknown values are null."""

    attempt: int
    gpu: str
    instance: str
    began: float | None
    ended: float | None
    seconds: float | None
    exit_code: int | None
    verdict: AttemptVerdict | None
    why: str | None
    peak_memory_bytes: int | None
    decided_by: str | None
    sure: bool
    energy_j: float | None
    limit_bytes: int
    decided: float


def row(job: JobRecord, *, open_to: bool) -> JobRow:
    """Return a job for a list.

    Args:
        job: the job.
        open_to: whether the caller may see its name and command.
    """
    return JobRow(**_fields(job, open_to=open_to))


def whole(job: JobRecord, energy: Callable[[str, int], float | None]) -> HistoryRow:
    """Return all of a job.

    Args:
        job: the job.
        energy: returns the joules that an attempt (the job's id and its number) used; None, not 0, where unknown.
    """
    details = {
        "command": job.words,
        "attempts": tuple(_attempt_row(each, energy(job.id, each.number)) for each in job.attempts),
    }
    return HistoryRow(
        **_fields(job, open_to=True) | details,
        number=job.number,
        directory=job.directory,
        memory=job.asked.memory,
        gpu_time=job.asked.seconds,
        grace_s=job.asked.grace_s,
        most_attempts=job.asked.most_attempts,
        verdict=job.why or job.state.value,
    )


def _fields(job: JobRecord, *, open_to: bool) -> dict[str, Any]:
    """Return the fields of a job's row."""
    found: dict[str, Any] = {
        "id": job.id,
        "user": job.submitter.name,
        "state": job.state,
        "priority": job.priority,
        "submitted": job.submitted,
        "name": job.name if open_to else None,
        "command": " ".join(job.words)[:ROW_COMMAND] if open_to else None,
        "attempts": len(job.attempts),
        "time_limit_s": job.asked.limit_s,
        "after": tuple(map(str, job.after)),
    }
    if job.attempts and job.state is not JobState.WAITING:
        attempt = job.attempt
        found |= {"gpu": attempt.gpu, "instance": str(attempt.placement), "began": attempt.began}
    if job.state in OVER:
        found["why"] = job.why
    return found


def _attempt_row(attempt: Attempt, energy_j: float | None) -> AttemptRow:
    seconds = None
    if attempt.began is not None and attempt.ended is not None:
        seconds = max(attempt.ended - attempt.began, 0.0)
    return AttemptRow(
        attempt=attempt.number,
        gpu=attempt.gpu,
        instance=str(attempt.placement),
        began=attempt.began,
        ended=attempt.ended,
        seconds=seconds,
        exit_code=attempt.code,
        verdict=attempt.verdict,
        why=attempt.why,
        peak_memory_bytes=attempt.peak_bytes,
        decided_by=attempt.said,
        sure=not attempt.unsure,
        energy_j=energy_j,
        limit_bytes=attempt.limit_bytes,
        decided=attempt.decided,
    )


GIB = 2**30


@dataclass(frozen=True, slots=True)
class Situation:
    """The facts that the reasons of all jobs use.

    Attributes:
        models: of the GPUs that jobs may use.
        discipline: its name.
        used: GPU seconds of each user so far.
        least: the user with the fewest GPU seconds of those with waiting jobs.
        free: profiles of which an instance could be used now.
        possible: profiles of which an instance could be free once the queue's own jobs have ended.
        scattered: profiles for which some GPU has enough slices, but not together.
        until: when a slice of a profile is expected to be free, as text, by profile.
        ahead: number of jobs before each waiting one in the order of predicted starts.
        resting: why GPUs are not used for a while.
    """

    models: Sequence[GpuModel]
    discipline: str
    used: Mapping[str, float]
    least: str
    free: frozenset[str]
    possible: frozenset[str]
    scattered: frozenset[str]
    until: Mapping[str, str]
    ahead: Mapping[int, int]
    resting: str | None = None


def situation(
    view: SchedulerInput, scheduler: Scheduler, predicted: Mapping[int, Prediction], trouble: str | None
) -> Situation:
    """Return the facts that the reasons of all jobs use.

    Args:
        view: the waiting jobs, and all GPUs, with those that rest.
        scheduler: the queue's scheduler.
        predicted: when the jobs are expected to start.
        trouble: the current problem.
    """
    never = Prediction(math.inf, guessed=True)
    waiting = sorted(view.waiting, key=lambda job: (predicted.get(job.number, never).start, job.number))
    users = {job.submitter.name for job in waiting}
    return Situation(
        models=models_of(view.hosts),
        discipline=scheduler.name,
        used=view.used,
        least=min(sorted(users), key=lambda user: view.used.get(user, 0.0), default=""),
        free=frozenset(
            profile.name
            for host in view.hosts
            for profile in host.model.profiles
            if host.partition.change(profile.name) is not None
        ),
        possible=can_come_free(view.hosts),
        scattered=frozenset(
            profile.name
            for host in view.hosts
            for profile in host.model.profiles
            if scattered(host.partition, profile.name)
        ),
        until=_until(waiting, models_of(view.hosts), scheduler, predicted),
        ahead={job.number: i for i, job in enumerate(waiting)},
        resting=trouble,
    )


def _until(
    waiting: Sequence[JobRecord],
    models: Sequence[GpuModel],
    scheduler: Scheduler,
    predicted: Mapping[int, Prediction],
) -> dict[str, str]:
    """Return, for each profile, the expected start of the first job on it."""
    found: dict[str, str] = {}
    largest = largest_slice(models)
    for job in waiting:
        prediction = predicted.get(job.number)
        if prediction is None or not prediction.played:
            break
        expected = scheduler.expected(job)
        for profile in (
            each for model in models for each in fitting(model, expected, job.at_least_bytes, largest)[:1]
        ):
            at = datetime.fromtimestamp(prediction.start).astimezone()
            found.setdefault(profile.name, at.strftime("%H:%M"))
    return found


def reason(job: JobRecord, expected: Forecast, now: Situation) -> str:
    """Return why a job waits."""
    if not now.models:
        return now.resting or "there is no GPU in MIG mode"
    largest = largest_slice(now.models)
    found = [fitting(model, expected, job.at_least_bytes, largest) for model in now.models]
    fits = [profiles[0] for profiles in found if profiles]
    if not fits:
        return _too_large(job, expected, largest) if largest else memory_unknown(now.models)
    parts = [job.why] if job.why else []
    parts.append(_needs(fits[0], job, expected, largest))
    parts.append(_before(job, fits, now))
    return "; ".join(parts)


def why_on_the_largest(job: JobRecord, expected: Forecast, largest: float) -> str | None:
    """Return why a job that may need more than the largest slice begins there, and what to do; None for other jobs.

    Either jobs of its family ran out of memory even there, perhaps by a fault that is corrected by now, or only the
    upper bound of its model's forecast is above the largest slice.
    """
    if not largest or expected.need <= expected.need_here(largest):
        return None
    if job.asked.memory.source == "model" and expected.bounds.lower < largest:
        return (
            f"by {expected.source} it needs {expected.bounds.lower / GIB:.3g} to {expected.bounds.upper / GIB:.3g} "
            f"GiB, and the largest slice has {largest / GIB:.3g}; state it more exactly with --memory"
        )
    return (
        f"earlier jobs of {called(job)} ran out of memory on the largest slice; if that was a fault, "
        f"start again with `partita forget {job.name or job.id}` or a new --memory"
    )


def _needs(profile: Profile, job: JobRecord, expected: Forecast, largest: float) -> str:
    if job.at_least_bytes > expected.need:
        return f"needs {profile.name}"
    if (why := why_on_the_largest(job, expected, largest)) is not None:
        return f"begins on {profile.name}: {why}"
    if not expected.need:
        return f"begins on {profile.name}, nothing is known of its memory"
    source = {"declared": "declared"}.get(expected.source, f"by {expected.source}")
    return f"needs {profile.name} ({expected.need / GIB:.3g} GiB {source})"


def _before(job: JobRecord, fits: Sequence[Profile], now: Situation) -> str:
    user = job.submitter.name
    if (
        now.discipline == "fair"
        and user != now.least
        and now.used.get(user, 0.0) > now.used.get(now.least, 0.0)
    ):
        return f"user {user} has used more than {now.least}, who goes first"
    ahead = now.ahead.get(job.number, 0)
    if not any(profile.name in now.possible for profile in fits):
        return "services or others hold all such slices"
    if not any(profile.name in now.free for profile in fits):
        apart = any(profile.name in now.scattered for profile in fits)
        busy = "slices are free, but not together" if apart else "all busy"
        until = now.until.get(fits[0].name)
        if until:
            busy += f" until ~{until}"
        return busy + (f", {_jobs(ahead)} first" if ahead else "")
    return f"{_jobs(ahead)} first" if ahead else "its slice is reserved for an earlier job, or it starts now"


def _jobs(count: int) -> str:
    return "1 job goes" if count == 1 else f"{count:,} jobs go"


def memory_unknown(models: Iterable[GpuModel]) -> str:
    """Return why jobs cannot be placed on GPUs whose slices have unknown memory."""
    names = ", ".join(dict.fromkeys(model.name for model in models))
    return f"the memory of the slices of {names} is unknown: give it in a file with --gpus-file"


def _too_large(job: JobRecord, expected: Forecast, largest: float) -> str:
    need = max(expected.need_here(largest), job.at_least_bytes)
    return (
        f"larger than any slice of the GPUs here: needs {need / GIB:.3g} GiB of at most {largest / GIB:.3g}"
    )


FRESH = 5.0
"""An outlook is reused for this many times the time it took, even if something has changed."""

OLD_S = 15.0
"""Seconds after which an outlook is computed again even if nothing has changed."""

KEPT_S, MOST_KEPT = 30.0, 64
"""Seconds for which a snapshot is kept for a client that reads it page by page, and the most snapshots kept."""

_ORDER = {JobState.RUNNING: 0, JobState.STOPPING: 1, JobState.STARTING: 2, JobState.WAITING: 3}


class Outlook:
    """What is expected of the waiting jobs: when they start, and the facts for their reasons.

    Args:
        service: the queue.

    Attributes:
        predicted: when waiting jobs are expected to start.
        rank: of the waiting jobs, by expected start; those without one come last.
        situation: the facts that reasons use.
    """

    def __init__(self, service: QueueService) -> None:
        self._service = service
        began = time.monotonic()
        self._version, self._hosts = service.table.version, service.gpus.hosts
        self.predicted: dict[int, Prediction] = {}
        with suppress(PartitaError):  # the queue can be listed even without predictions
            self.predicted = service.predictions()
        waiting = [*service.table.waiting.values(), *service.table.blocked.values()]
        used = service.table.shares.at(service.now)
        view = SchedulerInput(service.now, waiting, (), service.gpus.hosts, used)
        self.situation = situation(view, service.scheduler, self.predicted, service.trouble)
        self.rank = self.situation.ahead
        self._made = time.monotonic()
        self._fresh = FRESH * (self._made - began)

    def stale(self) -> bool:
        """Return whether the outlook should be computed again."""
        age, service = time.monotonic() - self._made, self._service
        if age <= self._fresh:
            return False
        return age > OLD_S or self._version != service.table.version or self._hosts != service.gpus.hosts


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """All jobs that are not over, as they were at one moment.

    Attributes:
        revision: identifies it among all snapshots of this daemon.
        jobs: those that hold an instance, then the others by expected start, then those that arrived since.
        counts: how many jobs are in each state, over all jobs, even if only some were asked for.
        now: the moment, in seconds since 1970.
    """

    revision: str
    jobs: tuple[JobRecord, ...]
    counts: dict[str, int]
    now: float
    trouble: str | None
    outlook: Outlook


class Overview:
    """Makes snapshots of a queue, and keeps them for clients that read them page by page.

    Args:
        service: the queue.
    """

    def __init__(self, service: QueueService) -> None:
        self._service = service
        self._outlook: Outlook | None = None
        self._kept: OrderedDict[str, tuple[float, QueueSnapshot]] = OrderedDict()
        self._number = count(1)

    def snapshot(self, uid: int | None = None) -> QueueSnapshot:
        """Return the queue as it is now.

        Args:
            uid: the user whose jobs to return; None for all.
        """
        if self._outlook is None or self._outlook.stale():
            self._outlook = Outlook(self._service)
        table, rank = self._service.table, self._outlook.rank
        last = len(rank)
        waiting = [*table.waiting.values(), *table.blocked.values()]
        waiting.sort(key=lambda job: (rank.get(job.number, last), job.number))
        holding = sorted(table.holding, key=lambda job: (_ORDER[job.state], job.number))
        jobs = tuple(job for job in (*holding, *waiting) if uid is None or job.submitter.uid == uid)
        return QueueSnapshot(
            f"{table.version}.{next(self._number)}",
            jobs,
            table.counts(),
            self._service.now,
            self._service.trouble,
            self._outlook,
        )

    def keep(self, snapshot: QueueSnapshot) -> None:
        """Keep a snapshot for the next pages."""
        now = time.monotonic()
        self._kept[snapshot.revision] = (now, snapshot)
        self._kept.move_to_end(snapshot.revision)
        while len(self._kept) > MOST_KEPT or next(iter(self._kept.values()))[0] < now - KEPT_S:
            self._kept.popitem(last=False)

    def kept(self, revision: str) -> QueueSnapshot | None:
        """Return a kept snapshot; None if it has expired."""
        found = self._kept.get(revision)
        return found and found[1]

    def rows(
        self, snapshot: QueueSnapshot, offset: int, limit: int, may: Callable[[JobRecord], bool]
    ) -> tuple[QueueRow, ...]:
        """Return some of a snapshot's jobs, in order."""
        chosen = snapshot.jobs[offset : offset + limit]
        return tuple(self._row(job, snapshot, open_to=may(job)) for job in chosen)

    def _row(self, job: JobRecord, snapshot: QueueSnapshot, *, open_to: bool) -> QueueRow:
        shown = _fields(job, open_to=open_to)
        expected = self._service.scheduler.expected(job)
        if job.number not in self._service.table.active:
            self._service.scheduler.forget(job)
        shown["memory_bytes"] = expected.need or None
        shown["reason"] = job.why
        if job.state is JobState.WAITING:
            shown["reason"] = (
                waits_for(job) if job.after else reason(job, expected, snapshot.outlook.situation)
            )
            prediction = None if job.after else snapshot.outlook.predicted.get(job.number)
            shown["start"] = prediction and prediction.start
            shown["start_estimated"] = prediction and prediction.guessed
        return QueueRow(**shown)
