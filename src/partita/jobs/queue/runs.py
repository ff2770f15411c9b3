"""Minds the processes of jobs: how they end, whether they outgrow their slices, whether their GPU is still there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from partita.jobs.memory.bounds import MIB
from partita.jobs.queue.endings import ended, stopping
from partita.jobs.queue.folders import write_wish
from partita.jobs.queue.growing import growth_of, within
from partita.jobs.queue.record import JobRecord, State, Verdict
from partita.jobs.queue.seen import gone, model_of, models
from partita.jobs.restarts import early_restart
from partita.jobs.run.runner import AttemptPhase

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from partita.jobs.queue.book import Book
    from partita.jobs.queue.families import Families
    from partita.jobs.queue.faults import Faults
    from partita.jobs.queue.scheduler import Scheduler
    from partita.jobs.queue.sight import Sight
    from partita.jobs.run.runner import AttemptStatus, JobRunner


class Runs:
    """Looks at the processes of jobs, and asks them to end.

    Args:
        book: the jobs.
        sight: sees the cluster.
        runner: runs the processes.
        scheduler: knows what is expected of jobs.
        families: learns from how they end.
        faults: told what goes wrong.
        folder_of: the folder of a job's attempt.
    """

    def __init__(
        self,
        book: Book,
        sight: Sight,
        runner: JobRunner,
        *,
        scheduler: Scheduler,
        families: Families,
        faults: Faults,
        folder_of: Callable[[JobRecord, int], Path],
    ) -> None:
        self._book, self._sight, self._runner, self._faults = book, sight, runner, faults
        self._scheduler, self._families = scheduler, families
        self._folder_of = folder_of
        self._stopped: set[int] = set()
        self._steps: dict[int, int] = {}

    def stop(self, job: JobRecord) -> None:
        """Ask the processes of a job to end, once."""
        if job.number not in self._stopped:
            grace = 0.0 if job.attempt.wish is Verdict.LOST else job.asked.grace_s
            folder = self._folder_of(job, job.attempt.number)
            if job.attempt.wish is not None:
                write_wish(folder, job.attempt.wish)
            self._runner.stop(folder, grace_s=grace)
            self._stopped.add(job.number)

    def look(self, job: JobRecord, now: float) -> None:
        """Look at a job's process, if it has one, and draw the consequences."""
        if job.state not in (State.RUNNING, State.STOPPING) or job.attempt.device is None:
            return
        look = self._runner.look(self._folder_of(job, job.attempt.number))
        if look.phase in (AttemptPhase.ENDED, AttemptPhase.LOST):
            self._end(job, look, now)
        elif job.state is State.RUNNING:
            self._forecast(job, look, now)

    def mind_lost(self) -> None:
        """End what runs on GPUs and instances that are gone."""
        for job in self._book.holding:
            if job.attempt.device is None or job.attempt.wish is Verdict.LOST or job.state is State.STARTING:
                continue
            why = gone(self._sight.seen, job.attempt)
            lost = stopping(job, Verdict.LOST, why) if why is not None else None
            if lost is not None:
                self._faults.tell(f"job {job.id}: {why}")
                self._stopped.discard(job.number)
                self._book.save([lost])

    def _end(self, job: JobRecord, look: AttemptStatus, now: float) -> None:
        bounds = self._scheduler.expected(job).bounds
        after = ended(job, look, now, bounds, models(self._sight.seen))
        user = job.submitter.name
        took = self._gpu_seconds(after)
        self._book.save([after], {user: self._book.shares.plus(user, took, now)})
        self._families.add(job, after.attempt)
        self._stopped.discard(job.number)
        self._steps.pop(job.number, None)
        if look.stuck:
            self._faults.tell(
                f"job {job.id}: {len(look.stuck)} of its processes do not end; is its GPU lost?"
            )

    def _gpu_seconds(self, job: JobRecord) -> float:
        """Return what a job's newest attempt had of a whole GPU; nothing of one that is not there any more."""
        attempt = job.attempt
        model = model_of(self._sight.seen, attempt.gpu)
        share = model.profile(attempt.placement.profile).compute / model.compute_slices if model else 0.0
        return max((attempt.ended or 0.0) - (attempt.began or 0.0), 0.0) * share

    def _forecast(self, job: JobRecord, look: AttemptStatus, now: float) -> None:
        """Restart a job early whose memory is going to exceed its slice."""
        progress, attempt = look.progress, job.attempt
        if progress.step is None or progress.step == self._steps.get(job.number):
            return
        self._steps[job.number] = progress.step
        model = model_of(self._sight.seen, attempt.gpu)
        if model is None or progress.of is None or job.tries >= job.asked.most_attempts:
            return
        rate = progress.step / max(now - (attempt.began or now), 0.001)
        profile = early_restart(
            model, attempt.placement.profile, growth_of(progress), within=within(job.asked, rate)
        )
        if profile is None:
            return
        least = int((model.profile(profile).memory_mib or 0) * MIB)
        why = f"its memory was going to exceed {attempt.placement.profile}; {profile} next"
        asked = stopping(job, Verdict.EARLY_RESTART, why)
        if asked is not None:
            self._book.save([replace(asked, at_least_bytes=least)])
