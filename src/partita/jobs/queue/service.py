"""The queue that a daemon runs: its settings, its operations, and the step that the daemon calls again and again."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from partita.jobs.queue.endings import stopping
from partita.jobs.queue.folders import LastNumber, Retention, write_wish
from partita.jobs.queue.forecast import Families
from partita.jobs.queue.gpus import GpuView
from partita.jobs.queue.loop import Problems, QueueLoop
from partita.jobs.queue.record import OVER, AttemptVerdict, JobRecord, JobState
from partita.jobs.queue.scheduler import Scheduler
from partita.jobs.queue.settings import QueueSettings
from partita.jobs.queue.table import JobTable
from partita.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from partita.drive.driver import Driver
    from partita.jobs.queue.job_store import JobStore
    from partita.jobs.queue.scheduler import Prediction, SchedulerInput
    from partita.jobs.run.runner import JobRunner


REMEMBERED_JOBS = 5000
"""Jobs that are over from which a starting daemon learns the families again."""


class QueueService:
    """A queue of jobs on a cluster. Its methods do not block; only one thread at a time may use it.

    Args:
        driver: the cluster; nothing else may use it.
        runner: runs the processes.
        store: the open store.
        folder: for the attempts.
        settings: how the queue is run.
        given: largest job number that is known to be taken, whatever the store and the folder say.
        tell: called with lines for the operator: faults, and what was done about them.

    Attributes:
        settings: how the queue is run.
        table: the jobs that are not over; read-only.
        gpus: the GPUs as last seen; read-only.
        scheduler: decides, and knows what is expected of jobs.
        families: what earlier jobs showed; read-only.
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
        """What is wrong now; None if nothing is."""
        return self._problems.told or self.gpus.resting.why(self.now)

    def folder_of(self, job: JobRecord, number: int) -> Path:
        """Return the folder of an attempt."""
        return self._folder / job.id / str(number)

    def submit(self, jobs: Callable[[int, float], list[JobRecord]]) -> list[JobRecord]:
        """Add new jobs; they are on the disk when this returns.

        Args:
            jobs: returns them, given the first free number and the time (s since 1970).

        Raises:
            StoreError: they could not be written and are not in the queue.
        """
        return self.table.add(lambda first: jobs(first, self.now))

    def cancel(self, chosen: Iterable[JobRecord]) -> StoreError | None:
        """Cancel jobs, whatever their state, even if nothing can be written.

        On a full disk their processes are still asked to end; the cancellation is written when there is space.

        Returns:
            Why it could not be written; None if it was.
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
        """End jobs: waiting ones at once, the others by asking their processes.

        Args:
            chosen: active jobs.
            wish: `CANCELLED` or `YIELDED`; waiting jobs can only be cancelled.
            why: shown with the attempt.

        Raises:
            StoreError: it could not be written, and nothing was stopped.
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
        """Put jobs back into the queue: those that are over at once, the others when their processes have ended.

        Raises:
            StoreError: it could not be written, and nothing has changed.
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
        """Write the request into the folders of jobs that have ended, where it survives the loss of the store."""
        for job in jobs:
            if job.attempts:
                write_wish(self.folder_of(job, job.attempt.number), wish)

    def forget(self, families: Iterable[str]) -> None:
        """Forget what the jobs of these families have shown until now.

        Raises:
            StoreError: it could not be written, and nothing is forgotten.
        """
        chosen, now = list(families), self.now
        self.table.store.forget_families(chosen, now)
        for family in chosen:
            self.families.forget(family, now)
        self.table.changed()

    def step(self, now: float) -> float:
        """Do what is due; return the time of the next call.

        Failures are reported and retried later: no fault of a disk or a driver ends the queue.
        """
        return self._loop.step(now)

    def predictions(self) -> dict[int, Prediction]:
        """Return when waiting jobs are expected to start."""
        return self.scheduler.predict(self.scheduler_input())

    def scheduler_input(self) -> SchedulerInput:
        """Return the scheduler's input as of now."""
        return self._loop.scheduler_input(self.now)

    def _as_they_are(self, chosen: Iterable[JobRecord]) -> list[JobRecord]:
        """Return jobs as they are now, so that one that just ended by itself is not stopped."""
        jobs = list(chosen)
        # An end that cannot be written now is found again later, and must not prevent a stop.
        with suppress(StoreError):
            self._loop.look_now(job for job in jobs if job.state is JobState.RUNNING)
        return [self.table.now(job) for job in jobs]
