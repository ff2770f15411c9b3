"""The queue as a daemon carries it: how it is run, what may be asked of it, and the step that it lives by."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from partita.jobs.disciplines.classes import DEFAULT
from partita.jobs.memory.bounds import MIB
from partita.jobs.queue.endings import stopping
from partita.jobs.queue.folders import LastNumber, Retention, write_wish
from partita.jobs.queue.forecast import Families
from partita.jobs.queue.gpus import GpuView
from partita.jobs.queue.loop import Problems, QueueLoop
from partita.jobs.queue.record import OVER, AttemptVerdict, JobRecord, JobState
from partita.jobs.queue.scheduler import Scheduler
from partita.jobs.queue.table import HALF_LIFE_S, JobTable
from partita.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from partita.drive.driver import Driver
    from partita.jobs.queue.scheduler import Prediction, SchedulerInput
    from partita.jobs.queue.table import JobStore
    from partita.jobs.run.runner import JobRunner


MOST_WAITING = 10_000
"""Jobs of one user that may wait, unless the daemon is told otherwise."""


@dataclass(frozen=True, slots=True)
class PollIntervals:
    """How often the queue looks, in seconds.

    Attributes:
        making: at instances that are being made.
        running: at processes.
        cluster: at the GPUs.
        afresh: after which it decides anew even if nothing has changed: jobs age.
        failed: before it tries again what could not be done.
    """

    making: float = 0.02
    running: float = 0.25
    cluster: float = 5.0
    afresh: float = 30.0
    failed: float = 5.0


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """How a queue is run.

    Attributes:
        discipline: who starts first.
        log_bytes: most bytes of an attempt's log that are kept.
        keep_s: seconds after their end at which jobs are forgotten.
        keep_bytes: most bytes that the files of jobs that are over take in all.
        oom_patterns: regular expressions that say in any job's output that memory ran out.
        half_life_s: seconds after which what a user has had counts half.
        most_waiting: jobs of one user that may wait, each task of an array counted; root may have more.
        default_limit_s: time limit of jobs that are submitted without one; None for none.
        most_limit_s: the longest time limit that may be asked for; None for any, and for jobs without one.
    """

    discipline: str = DEFAULT
    log_bytes: int = 64 * MIB
    keep_s: float = 30 * 86400.0
    keep_bytes: int = 20 * 1024 * MIB
    half_life_s: float = HALF_LIFE_S
    most_waiting: int = MOST_WAITING
    default_limit_s: float | None = None
    most_limit_s: float | None = None
    oom_patterns: tuple[str, ...] = ()
    pace: PollIntervals = PollIntervals()


REMEMBERED_JOBS = 5000
"""Jobs that are over from which families are known again when a daemon starts."""


class QueueService:
    """A queue of jobs on a cluster. Nothing in it blocks, and one thread at a time may use it.

    Args:
        driver: the cluster, for this queue alone.
        runner: runs the processes.
        store: the open store.
        folder: for the attempts.
        settings: how it is run.
        given: the largest number that any job is known to have had, beside what the store and the folder say.
        tell: told what people should know: faults, and what was done about them.

    Attributes:
        settings: how it is run.
        table: the jobs that are not over; for reading.
        gpus: the GPUs as they were last seen; for reading.
        scheduler: knows what is expected of jobs.
        families: what is remembered of earlier jobs; for reading.
    """

    def __init__(
        self,
        driver: Driver,
        runner: JobRunner,
        store: JobStore,
        folder: Path,
        *,
        settings: QueueSettings | None = None,
        given: int = 0,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.settings, self._folder = settings or QueueSettings(), folder
        self._problems = Problems(tell)
        self.families = Families(store.forgotten())
        self.scheduler = Scheduler(self.settings.discipline, self.families)
        self.table = JobTable(
            store,
            self.scheduler.forget,
            now=driver.clock.now(),
            half_life_s=self.settings.half_life_s,
            mark=LastNumber(folder.parent),
            given=given,
        )
        self.gpus = GpuView(driver, self.table)
        for job in (*reversed(store.over(REMEMBERED_JOBS)), *self.table.active.values()):
            for attempt in job.attempts:
                self.families.add(job, attempt)
        self.table.settle()
        self._loop = QueueLoop(
            driver,
            runner,
            table=self.table,
            gpus=self.gpus,
            scheduler=self.scheduler,
            families=self.families,
            problems=self._problems,
            retention=Retention(store, folder, self.settings),
            folder_of=self.folder_of,
            settings=self.settings,
        )

    @property
    def now(self) -> float:
        """The time on the cluster's clock."""
        return self.gpus.now

    @property
    def discipline(self) -> str:
        """The name of the discipline."""
        return self.settings.discipline

    @property
    def trouble(self) -> str | None:
        """What is wrong at the moment; None if nothing is."""
        return self._problems.told or self.gpus.resting.why(self.now)

    def folder_of(self, job: JobRecord, number: int) -> Path:
        """Return the folder of an attempt."""
        return self._folder / job.id / str(number)

    def submit(self, jobs: Callable[[int, float], list[JobRecord]]) -> list[JobRecord]:
        """Take in new jobs; they are on the disk when this returns.

        Args:
            jobs: makes them, given the first number that is free and the time.

        Raises:
            StoreError: they could not be written, and are not in the queue.
        """
        return self.table.add(lambda first: jobs(first, self.now))

    def cancel(self, chosen: Iterable[JobRecord]) -> StoreError | None:
        """Have jobs end for good, whatever they are doing, also where nothing can be written.

        On a full disk their processes are asked all the same; that they are cancelled is written when there is room.

        Returns:
            Why it could not be written yet; None if it was.
        """
        changed = self._stopping(chosen, AttemptVerdict.CANCELLED, None)
        error = self.table.insist(changed)
        self._write_wishes(changed, AttemptVerdict.CANCELLED)
        if error is not None:
            asked = [
                job for job in changed if job.state is JobState.STOPPING and job.attempt.device is not None
            ]
            self._problems.each(asked, self._loop.stop)
        self._loop.look_soon()
        return error

    def stop(self, chosen: Iterable[JobRecord], wish: AttemptVerdict, why: str | None = None) -> None:
        """Have jobs that are not over end: at once if they wait, else by asking their processes.

        Args:
            chosen: active jobs.
            wish: `CANCELLED` or `YIELDED`; jobs that wait are only ever cancelled.
            why: told with the attempt.

        Raises:
            StoreError: it could not be written; nothing was stopped.
        """
        self.table.save(self._stopping(chosen, wish, why))
        self._loop.look_soon()

    def _stopping(
        self, chosen: Iterable[JobRecord], wish: AttemptVerdict, why: str | None
    ) -> list[JobRecord]:
        active = [job for job in self._as_they_are(chosen) if job.state not in OVER]
        changed = [stopping(job, wish, why) for job in active]
        return [job for job in changed if job is not None]

    def requeue(self, chosen: Iterable[JobRecord]) -> None:
        """Have jobs wait again: at once those that are over, the others when their processes have ended.

        Raises:
            StoreError: it could not be written; nothing has changed.
        """
        changed: list[JobRecord] = []
        for job in self._as_they_are(chosen):
            if job.state in OVER:
                changed.append(replace(job.to(JobState.WAITING), tries=0))
            elif (asked := stopping(job, AttemptVerdict.REQUEUED, None)) is not None:
                changed.append(asked)
        self.table.save(changed)
        self._write_wishes(changed, AttemptVerdict.REQUEUED)
        self._loop.look_soon()

    def _write_wishes(self, jobs: Iterable[JobRecord], wish: AttemptVerdict) -> None:
        """Leave what was wanted of jobs that have ended in their folders, where it outlives the store."""
        for job in jobs:
            if job.attempts:
                write_wish(self.folder_of(job, job.attempt.number), wish)

    def forget(self, families: Iterable[str]) -> None:
        """Forget how the jobs of these families ended until now.

        Raises:
            StoreError: it could not be written; nothing is forgotten.
        """
        chosen, now = list(families), self.now
        self.table.store.forget_families(chosen, now)
        for family in chosen:
            self.families.forget(family, now)
        self.table.changed()

    def step(self, now: float) -> float:
        """Do what is due, and return when it wants to be called next.

        Whatever fails is told and tried again after a while: nothing that a disk or a driver does ends the queue.
        """
        return self._loop.step(now)

    def predictions(self) -> dict[int, Prediction]:
        """Return when waiting jobs are expected to start."""
        return self.scheduler.predict(self.scheduler_input())

    def scheduler_input(self) -> SchedulerInput:
        """Return what the scheduler looks at."""
        return self._loop.scheduler_input(self.now)

    def _as_they_are(self, chosen: Iterable[JobRecord]) -> list[JobRecord]:
        """Return jobs as they are now: what ended by itself a moment ago is not taken for stopped."""
        jobs = list(chosen)
        with suppress(
            StoreError
        ):  # what could not be written is found again, and is no reason to stop nobody
            self._loop.look_now(job for job in jobs if job.state is JobState.RUNNING)
        return [self.table.now(job) for job in jobs]
