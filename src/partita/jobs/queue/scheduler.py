"""Which jobs start now on which GPU, and when the others are expected to start.

A discipline decides for each GPU model; running a copy of it ahead predicts the starts. No I/O, but caches and the
disciplines' own state are kept.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from partita.errors import InfeasibleError
from partita.jobs.disciplines.classes import discipline, to_play
from partita.jobs.disciplines.discipline import QueueState, RunningJob
from partita.jobs.job import job_on
from partita.jobs.queue.forecast import DEFAULT_SECONDS, forecast, job_for, largest_slice
from partita.jobs.queue.gpus import can_come_free, models_of
from partita.jobs.simulate import proceed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from partita.jobs.disciplines.discipline import Discipline
    from partita.jobs.job import Job
    from partita.jobs.partition import Change
    from partita.jobs.queue.forecast import Families, Forecast
    from partita.jobs.queue.gpus import Host
    from partita.jobs.queue.record import JobOptions, JobRecord
    from partita.mig.gpu import GpuModel


EXACT = 60
"""Waiting jobs whose start is predicted by running the discipline ahead; for the others it is estimated."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A job starts on a GPU, in the instance that the change creates or keeps."""

    number: int
    gpu: str
    change: Change


@dataclass(frozen=True, slots=True)
class Prediction:
    """When a job is expected to start.

    Attributes:
        start: seconds since 1970.
        guessed: whether it rests on a run time that was neither declared nor learned from earlier jobs.
        played: whether the discipline was run ahead until then; otherwise it is an estimate.
    """

    start: float
    guessed: bool
    played: bool = True


@dataclass(frozen=True, slots=True)
class SchedulerInput:
    """What the scheduler decides from.

    Attributes:
        now: seconds since 1970.
        waiting: jobs, in order of their numbers.
        active: jobs that hold an instance.
        hosts: the GPUs.
        used: decayed GPU seconds of each user.
    """

    now: float
    waiting: Sequence[JobRecord]
    active: Sequence[JobRecord]
    hosts: Sequence[Host]
    used: Mapping[str, float]


class Scheduler:
    """Decides for each GPU model in turn; keeps the disciplines, which have state, and what is expected of jobs.

    Args:
        name: of the discipline.
        families: what earlier jobs showed.

    Raises:
        InputError: there is no such discipline.
    """

    def __init__(self, name: str, families: Families) -> None:
        self.name = name
        self._families = families
        discipline(name)
        self._disciplines: dict[str, Discipline] = {}
        self._expected: dict[int, tuple[JobOptions, int, Forecast]] = {}
        # By (model, profiles that can come free, largest slice of all models), then by job number.
        self._jobs: defaultdict[
            tuple[str, frozenset[str], float], dict[int, tuple[JobRecord, int, Job | None]]
        ] = defaultdict(dict)

    def decide(self, view: SchedulerInput) -> tuple[Decision, ...]:
        """Return the jobs that start now."""
        decided: list[Decision] = []
        for model, group in _by_model(view.hosts):
            begun = {each.number for each in decided}
            waiting = self._waiting(view, group, begun)
            if not waiting or not _room(group, waiting):
                continue
            state = self._state(view, group, waiting)
            starts = self._discipline(model).decide(state)
            decided += [Decision(start.job.id, group[start.gpu].id, start.change) for start in starts]
        return tuple(decided)

    def predict(self, view: SchedulerInput) -> dict[int, Prediction]:
        """Return when waiting jobs are expected to start; those that fit no GPU here are absent.

        For the first `EXACT` jobs of each GPU model a copy of the discipline is run ahead, as if nothing more
        arrived. The others are estimated from the work before them.
        """
        found: dict[int, Prediction] = {}
        for model, group in _by_model(view.hosts):
            waiting = self._waiting(view, group, set())
            if not waiting:
                continue
            for number, prediction in self._predict(view, model, group, waiting).items():
                before = found.get(number)
                if before is None or prediction.start < before.start:
                    found[number] = prediction
        return found

    def expected(self, job: JobRecord) -> Forecast:
        """Return the memory and run time expected of a job."""
        version = self._families.version(job.family)
        kept = self._expected.get(job.number)
        if kept is None or kept[0] is not job.asked or kept[1] != version:
            kept = self._expected[job.number] = (job.asked, version, forecast(job, self._families))
        return kept[2]

    def _job(self, job: JobRecord, model: GpuModel, free: frozenset[str], largest: float) -> Job | None:
        """Return a job as the disciplines see it, cached until something changes; None if it fits nowhere."""
        version = self._families.version(job.family)
        of_model = self._jobs[model.name, free, largest]
        kept = of_model.get(job.number)
        if kept is None or kept[0] is not job or kept[1] != version:
            made = job_for(model, job, self.expected(job), free, largest)
            kept = of_model[job.number] = (job, version, made)
        return kept[2]

    def forget(self, job: JobRecord) -> None:
        """Drop what is cached of a job that is over."""
        self._expected.pop(job.number, None)
        for of_model in self._jobs.values():
            of_model.pop(job.number, None)

    def _discipline(self, model: GpuModel) -> Discipline:
        if model.name not in self._disciplines:
            self._disciplines[model.name] = discipline(self.name)
        return self._disciplines[model.name]

    def _waiting(self, view: SchedulerInput, group: Sequence[Host], begun: set[int]) -> tuple[Job, ...]:
        model, free, largest = group[0].model, can_come_free(group), _largest(view)
        jobs = [self._job(job, model, free, largest) for job in view.waiting if job.number not in begun]
        return tuple([job for job in jobs if job is not None])

    def _state(self, view: SchedulerInput, group: Sequence[Host], waiting: tuple[Job, ...]) -> QueueState:
        index = {host.id: i for i, host in enumerate(group)}
        running = tuple(
            self._running(job, group, index[job.attempt.gpu], view)
            for job in view.active
            if job.attempt.gpu in index
        )
        return QueueState(view.now, waiting, tuple(host.partition for host in group), running, view.used)

    def _running(
        self, record: JobRecord, group: Sequence[Host], gpu: int, view: SchedulerInput
    ) -> RunningJob:
        attempt, model, now = record.attempt, group[0].model, view.now
        job = self._job(record, model, can_come_free(group), _largest(view)) or _stand_in(record, model)
        # A job that has run longer than expected is expected to run as long again.
        ran = max(now - (attempt.began or now), 0.0)
        expected = job.seconds.get(attempt.placement.profile) or max(job.seconds.values())
        left = expected - ran if ran < expected else ran
        return RunningJob(job, gpu, attempt.placement, now + left)

    def _predict(
        self, view: SchedulerInput, model: GpuModel, group: Sequence[Host], waiting: tuple[Job, ...]
    ) -> dict[int, Prediction]:
        first = self._first(waiting)
        state = self._state(view, group, first)
        try:
            runs = proceed(state, (), to_play(self._discipline(model))).runs
        except InfeasibleError:
            return {}
        # The start of a job is a guess if a job of unknown run time starts before it.
        unknown = [run.began for run in runs if self._expected[run.job.id][2].timed == "default"]
        since = view.now if self._overrun(view, state) else min(unknown, default=math.inf)
        found = {run.job.id: Prediction(run.began, run.decided > max(since, view.now)) for run in runs}
        last = max((run.began for run in runs), default=view.now)
        done = 0.0
        for job in waiting:
            if job.id not in found:
                found[job.id] = Prediction(last + done / len(group), guessed=True, played=False)
                done += job.work
        return found

    def _overrun(self, view: SchedulerInput, state: QueueState) -> bool:
        """Return whether a job runs whose run time is unknown, or that has run longer than expected."""
        running = {each.job.id: each for each in state.running}
        for record in view.active:
            each = running.get(record.number)
            if each is None:
                continue
            expected = each.job.seconds.get(each.placement.profile) or max(each.job.seconds.values())
            ran = view.now - (record.attempt.began or view.now)
            if ran >= expected or self.expected(record).timed == "default":
                return True
        return False

    def _first(self, waiting: tuple[Job, ...]) -> tuple[Job, ...]:
        if len(waiting) <= EXACT:
            return waiting
        chosen = sorted(waiting, key=lambda job: (-job.priority, job.arrival, job.id))[:EXACT]
        return tuple(sorted(chosen, key=lambda job: (job.arrival, job.id)))


def _largest(view: SchedulerInput) -> float:
    return largest_slice(models_of(view.hosts))


def _by_model(found: Sequence[Host]) -> list[tuple[GpuModel, list[Host]]]:
    ordered = sorted(found, key=lambda host: (host.model.name, host.id))
    groups = [list(group) for _, group in groupby(ordered, key=lambda host: host.model.name)]
    return [(group[0].model, group) for group in groups]


def _room(group: Sequence[Host], waiting: Sequence[Job]) -> bool:
    """Return whether any of the jobs could start: a quick check, as mostly all slices are in use."""
    free = {
        profile.name
        for profile in group[0].model.profiles
        if any(host.partition.change(profile.name) is not None for host in group)
    }
    return bool(free) and any(not free.isdisjoint(job.seconds) for job in waiting)


def _stand_in(record: JobRecord, model: GpuModel) -> Job:
    """Return a job for a record that is expected to fit nowhere but runs."""
    seconds = {record.attempt.placement.profile: DEFAULT_SECONDS}
    return job_on(model, record.number, seconds, user=record.submitter.name)
