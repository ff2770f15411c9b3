"""Brings jobs from a decision to a running process: what is intended stands in the book before it is done."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from partita.files import set_aside
from partita.jobs.memory.bounds import MIB
from partita.jobs.queue.launching import launch_of, make_parent
from partita.jobs.queue.record import Attempt, JobRecord, State, Verdict
from partita.jobs.queue.seen import device_of
from partita.jobs.run.runner import ForeignAttemptError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from partita.drive.driver import DriveError
    from partita.jobs.queue.book import Book
    from partita.jobs.queue.faults import Faults
    from partita.jobs.queue.hands import Hands
    from partita.jobs.queue.scheduler import Decision
    from partita.jobs.queue.settings import Settings
    from partita.jobs.queue.sight import Sight
    from partita.jobs.run.runner import JobRunner
    from partita.mig.gpu import GpuModel


def decided(job: JobRecord, decision: Decision, model: GpuModel, now: float) -> JobRecord:
    """Return a waiting job of which it was decided that it starts."""
    change = decision.change
    attempt = Attempt(
        number=len(job.attempts) + 1,
        gpu=decision.gpu,
        placement=change.placement,
        limit_bytes=int((model.profile(change.placement.profile).memory_mib or 0) * MIB),
        decided=now,
        destroy=change.destroy,
        create=change.create,
        key=secrets.token_hex(8),
    )
    return replace(job.to(State.STARTING), attempts=(*job.attempts, attempt), tries=job.tries + 1)


class Starts:
    """Has the instances of jobs made, and their processes started.

    Args:
        book: the jobs.
        sight: sees the cluster.
        runner: runs the processes.
        hands: makes instances.
        faults: told what goes wrong.
        folder_of: the folder of a job's attempt.
        settings: how the queue is run.
    """

    def __init__(
        self,
        book: Book,
        sight: Sight,
        runner: JobRunner,
        *,
        hands: Hands,
        faults: Faults,
        folder_of: Callable[[JobRecord, int], Path],
        settings: Settings,
    ) -> None:
        self._book, self._sight, self._runner, self._hands, self._faults = book, sight, runner, hands, faults
        self._folder_of = folder_of
        self._settings = settings

    def make(self, job: JobRecord, now: float) -> None:
        """Bring a job on that starts, or stops, and whose instance is not known to stand."""
        if job.state is State.STARTING and not self._hands.has(job.number):
            self._hands.make(job)
        if job.number in self._hands.made:
            self._placed(job, self._hands.made[job.number], now)
            self._hands.made.pop(job.number)
        elif job.state is State.STOPPING and not self._hands.has(job.number):
            self._withdraw(job, job.attempt.why)

    def launch(self, job: JobRecord, now: float) -> None:
        """Start the process of a job whose instance stands, which happens once however often it is asked."""
        attempt = job.attempt
        environment = self._book.store.environment(job.environment)
        folder = self._folder_of(job, attempt.number)
        make_parent(folder)
        launch = launch_of(job, folder, environment, self._settings)
        try:
            self._runner.start(launch)
        except ForeignAttemptError as error:
            if error.runs:
                raise  # until that has ended
            self._faults.tell(f"job {job.id}: {error}; it was set aside as {set_aside(folder).name}")
            make_parent(folder)
            self._runner.start(launch)
        self._book.save([job.to(State.RUNNING).with_attempt(replace(attempt, began=now))])
        self._sight.resting.wake(attempt.gpu)

    def _placed(self, job: JobRecord, error: DriveError | None, now: float) -> None:
        """Go on with a job whose instance stands, or does not."""
        if job.state is State.STOPPING:
            self._withdraw(job, job.attempt.why)
            return
        device = None if error is not None else device_of(self._sight.look(self._sight.due), job.attempt)
        if device is None:
            why = f"{job.attempt.placement} on {job.attempt.gpu} could not be made: {error or 'it is gone'}"
            self._sight.resting.rest(job.attempt.gpu, why, now)
            self._faults.tell(f"job {job.id}: {why}")
            self._withdraw(job, why)
            return
        job = job.with_attempt(replace(job.attempt, device=device))
        self._book.save([job])
        self.launch(job, now)

    def _withdraw(self, job: JobRecord, why: str | None) -> None:
        """Take back an attempt of which no process was ever started."""
        over = job.attempt.wish is Verdict.CANCELLED
        back = job.to(State.CANCELLED if over else State.WAITING, why=why)
        self._book.save([replace(back, attempts=job.attempts[:-1], tries=job.tries - 1)])
