"""The queue's loop: intents are on the disk before they are carried out, so a kill loses nothing.

Each step compares the store with the cluster and the processes, and does what is missing. So a start after a kill -9
is not a special case: a half-made instance is completed, a process about to be started is started once, and a running
one is found again in its folder. `PlacementExecutor` creates the instances.
"""

from __future__ import annotations

import math
import random
import secrets
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from partita.errors import PartitaError
from partita.executor import ActionExecutor, Backoff
from partita.files import set_aside
from partita.jobs.memory.bounds import MIB
from partita.jobs.memory.growth import Growth
from partita.jobs.partition import reachable
from partita.jobs.queue.access import owner
from partita.jobs.queue.endings import ended, stopping
from partita.jobs.queue.folders import make_parent, write_wish
from partita.jobs.queue.gpus import device_of, gone, model_of, models
from partita.jobs.queue.record import Attempt, AttemptVerdict, JobRecord, JobState, dump_job
from partita.jobs.queue.scheduler import SchedulerInput
from partita.jobs.restarts import early_restart
from partita.jobs.run.runner import AttemptPhase, ForeignAttemptError, Launch
from partita.store import StoreError
from partita.transition.transition import MEASURED, Action, ActionKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from partita.drive.driver import DriveError, Driver
    from partita.jobs.queue.folders import Retention
    from partita.jobs.queue.forecast import Families
    from partita.jobs.queue.gpus import GpuView
    from partita.jobs.queue.record import JobOptions, JobRecord
    from partita.jobs.queue.scheduler import Decision, Scheduler
    from partita.jobs.queue.settings import QueueSettings
    from partita.jobs.queue.table import JobTable
    from partita.jobs.run.runner import AttemptStatus, JobProgress, JobRunner
    from partita.mig.gpu import GpuModel
    from partita.mig.layout import Placement


_NEVER = float("-inf")

REPORT_S = 2.0
"""Most seconds between a report of a job and the reaction to it, with a margin."""


class Problems:
    """The current problems of the queue.

    Args:
        tell: called with what people should know.

    Attributes:
        told: the newest text; empty if all is well.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._wrong: dict[int, str] = {}
        self.told = ""

    @property
    def first(self) -> str | None:
        """The problem of the first job that has one; None if no job has."""
        return next(iter(self._wrong.values()), None)

    def tell(self, text: str) -> None:
        """Report a text, but not the same one twice in a row."""
        if text != self.told:
            self._tell(text)
        self.told = text

    def each(self, jobs: Iterable[JobRecord], do: Callable[[JobRecord], None]) -> None:
        """Do something with each job, so that a problem with one does not stop the others.

        Raises:
            StoreError: nothing can be written at all.
        """
        for job in jobs:
            try:
                do(job)
            except StoreError:
                raise
            except PartitaError as error:
                self._wrong[job.number] = str(error)
            else:
                self._wrong.pop(job.number, None)


class QueueLoop:
    """Does what is due, a step at a time.

    It asks the scheduler for decisions, starts jobs, watches their processes, and handles their ends.

    Args:
        driver: the cluster's driver.
        runner: runs the processes.
        table: the jobs.
        gpus: observes the cluster.
        scheduler: decides, and forecasts jobs.
        families: learns from how jobs end.
        problems: receives what goes wrong.
        retention: removes old jobs and files.
        folder_of: returns the folder of a job's attempt.
        settings: the queue's settings.
    """

    def __init__(
        self,
        driver: Driver,
        runner: JobRunner,
        *,
        table: JobTable,
        gpus: GpuView,
        scheduler: Scheduler,
        families: Families,
        problems: Problems,
        retention: Retention,
        folder_of: Callable[[JobRecord, int], Path],
        settings: QueueSettings,
    ) -> None:
        self._placements = PlacementExecutor(driver)
        self._runner, self._table, self._gpus = runner, table, gpus
        self._scheduler, self._families, self._problems = scheduler, families, problems
        self._retention, self._folder_of, self._settings = retention, folder_of, settings
        self._pace = settings.pace
        self._now = gpus.now
        self._decided: int | None = None  # the table's version of the last decision
        self._due = dict.fromkeys(("look", "decide", "afresh"), _NEVER)
        self._stopped: set[int] = set()  # jobs whose processes were asked to end
        self._steps: dict[int, int] = {}  # the last step that a job has reported

    def look_soon(self) -> None:
        """Make the next step look at the processes."""
        self._due["look"] = _NEVER

    def scheduler_input(self, now: float) -> SchedulerInput:
        """Return the input of the scheduler."""
        table = self._table
        # A job that waits again is ordered by its number.
        waiting = [table.waiting[number] for number in sorted(table.waiting)]
        return SchedulerInput(now, waiting, table.holding, self._gpus.usable(now), table.shares.at(now))

    def step(self, now: float) -> float:
        """Do what is due, and return the time of the next call; failures are reported and tried again."""
        self._now = now
        try:
            if self._gpus.due == _NEVER:
                self._observe()
                for host in self._gpus.hosts:
                    reachable(host.partition.layout)  # computes a model's layouts before a job waits for that
            self._placements.poll(now)
            self._start_and_stop()
            self._table.write_what_is_left()
            if now >= self._due["look"]:
                self._problems.each(self._table.holding, self.look)
                self._due["look"] = now + self._pace.running
            self._decide_if_due()
            self._retention.step(now)
        except PartitaError as error:
            self._problems.tell(str(error))
            return now + self._pace.failed
        wrong = self._problems.first
        if wrong is not None:
            self._problems.tell(wrong)
            return min(self._next(), now + self._pace.failed)
        self._problems.told = ""
        return self._next()

    def _next(self) -> float:
        if self._placements.busy or self._placements.made:
            return self._now + self._pace.making
        due = [self._retention.due, self._now + self._pace.cluster]
        if self._table.held:
            due += [self._due["look"], self._gpus.due]
        if self._table.waiting:
            due.append(self._due["decide"] if self._changed else self._gpus.due)
        return max(min(due), self._now)

    @property
    def _changed(self) -> bool:
        """Whether the table has changed since the last decision."""
        return self._decided != self._table.version

    def _observe(self) -> None:
        self._gpus.look(self._now + self._pace.cluster)

    # Deciding.

    def _decide_if_due(self) -> None:
        now = self._now
        if now >= self._gpus.due and self._table.active:
            before = self._gpus.hosts
            self._observe()
            self._end_lost()
            if before != self._gpus.hosts or now >= self._due["afresh"]:
                self._decided = None
        if not (self._changed and self._table.waiting and now >= self._due["decide"]):
            return
        self._observe()
        began = time.monotonic()
        decisions = self._scheduler.decide(self.scheduler_input(now))
        # Decisions take at most a sixth of the time, however fast jobs arrive.
        self._due["decide"] = now + 5.0 * (time.monotonic() - began)
        self._due["afresh"] = now + self._pace.afresh
        self._decided = self._table.version
        models = {host.id: host.model for host in self._gpus.hosts}
        self._table.save(
            [decided(self._table.waiting[each.number], each, models[each.gpu], now) for each in decisions]
        )
        self._start_and_stop()

    # Starting: from a decision to a running process.

    def _start_and_stop(self) -> None:
        """Take every starting or stopping job one step further, whichever daemon began it."""
        changing = [job for job in self._table.holding if job.state in (JobState.STARTING, JobState.STOPPING)]
        self._problems.each(changing, self._advance)
        self._placements.poll(self._now)

    def _advance(self, job: JobRecord) -> None:
        if job.attempt.device is None:
            self._make_instance(job)
        elif job.state is JobState.STARTING:
            self._launch(job)
        else:
            self.stop(job)

    def _make_instance(self, job: JobRecord) -> None:
        """Advance a starting or stopping job whose instance may not exist yet."""
        if job.state is JobState.STARTING and not self._placements.has(job.number):
            self._placements.make(job)
        if job.number in self._placements.made:
            self._placed(job, self._placements.made[job.number])
            self._placements.made.pop(job.number)
        elif job.state is JobState.STOPPING and not self._placements.has(job.number):
            self._withdraw(job, job.attempt.why)

    def _placed(self, job: JobRecord, error: DriveError | None) -> None:
        """Advance a job after its instance was created, or could not be."""
        if job.state is JobState.STOPPING:
            self._withdraw(job, job.attempt.why)
            return
        device = None if error is not None else device_of(self._gpus.look(self._gpus.due), job.attempt)
        if device is None:
            why = (
                f"{job.attempt.placement} on {job.attempt.gpu} could not be created: {error or 'it is gone'}"
            )
            self._gpus.resting.rest(job.attempt.gpu, why, self._now)
            self._problems.tell(f"job {job.id}: {why}")
            self._withdraw(job, why)
            return
        job = job.with_attempt(replace(job.attempt, device=device))
        self._table.save([job])
        self._launch(job)

    def _withdraw(self, job: JobRecord, why: str | None) -> None:
        """Withdraw an attempt whose process was never started."""
        over = job.attempt.wish is AttemptVerdict.CANCELLED
        back = job.to(JobState.CANCELLED if over else JobState.WAITING, why=why)
        self._table.save([replace(back, attempts=job.attempts[:-1], tries=job.tries - 1)])

    def _launch(self, job: JobRecord) -> None:
        """Start the process of a job whose instance exists; repeated calls start it once."""
        attempt, asked = job.attempt, job.asked
        folder = self._folder_of(job, attempt.number)
        launch = Launch(
            job=job.id,
            attempt=attempt.number,
            folder=folder,
            command=job.words,
            directory=Path(job.directory),
            environment=self._table.store.environment(job.environment),
            owner=owner(job.submitter),
            device=attempt.device or "",
            memory_bytes=attempt.limit_bytes,
            log_bytes=self._settings.log_bytes,
            grace_s=asked.grace_s,
            index=job.index,
            limit_s=asked.limit_s,
            umask=asked.umask,
            key=attempt.key or "",
            record=dump_job(job),
            oom_patterns=(*asked.oom_patterns, *self._settings.oom_patterns),
        )
        make_parent(folder)
        try:
            self._runner.start(launch)
        except ForeignAttemptError as error:
            if error.runs:
                raise  # the other attempt still runs: try again later
            self._problems.tell(f"job {job.id}: {error}; it was set aside as {set_aside(folder).name}")
            make_parent(folder)
            self._runner.start(launch)
        self._table.save([job.to(JobState.RUNNING).with_attempt(replace(attempt, began=self._now))])
        self._gpus.resting.wake(attempt.gpu)

    # Watching: processes that run, end, must end, or are lost.

    def look(self, job: JobRecord) -> None:
        """Look at a job's process, if it has one, and act on what it shows."""
        if job.state not in (JobState.RUNNING, JobState.STOPPING) or job.attempt.device is None:
            return
        look = self._runner.look(self._folder_of(job, job.attempt.number))
        if look.phase in (AttemptPhase.ENDED, AttemptPhase.LOST):
            self._end(job, look)
        elif job.state is JobState.RUNNING:
            self._restart_early(job, look.progress)

    def look_now(self, jobs: Iterable[JobRecord]) -> None:
        """Look at the processes of jobs outside of a step."""
        self._now = self._gpus.now
        self._problems.each(jobs, self.look)

    def stop(self, job: JobRecord) -> None:
        """Ask the processes of a job to end, once."""
        if job.number not in self._stopped:
            grace = 0.0 if job.attempt.wish is AttemptVerdict.LOST else job.asked.grace_s
            folder = self._folder_of(job, job.attempt.number)
            if job.attempt.wish is not None:
                write_wish(folder, job.attempt.wish)
            self._runner.stop(folder, grace_s=grace)
            self._stopped.add(job.number)

    def _end_lost(self) -> None:
        """End the jobs on GPUs and instances that are gone."""
        for job in self._table.holding:
            attempt = job.attempt
            if (
                attempt.device is None
                or attempt.wish is AttemptVerdict.LOST
                or job.state is JobState.STARTING
            ):
                continue
            why = gone(self._gpus.seen, attempt)
            lost = stopping(job, AttemptVerdict.LOST, why) if why is not None else None
            if lost is not None:
                self._problems.tell(f"job {job.id}: {why}")
                self._stopped.discard(job.number)
                self._table.save([lost])

    def _end(self, job: JobRecord, look: AttemptStatus) -> None:
        bounds = self._scheduler.expected(job).bounds
        after = ended(job, look, self._now, bounds, models(self._gpus.seen))
        user = job.submitter.name
        had = self._table.shares.plus(user, self._gpu_seconds(after.attempt), self._now)
        self._table.save([after], {user: had})
        self._families.add(job, after.attempt)
        self._stopped.discard(job.number)
        self._steps.pop(job.number, None)
        if look.stuck:
            self._problems.tell(
                f"job {job.id}: {len(look.stuck)} of its processes cannot be ended; is its GPU lost?"
            )

    def _gpu_seconds(self, attempt: Attempt) -> float:
        """Return the GPU seconds of an attempt; 0 if its GPU is gone."""
        model = model_of(self._gpus.seen, attempt.gpu)
        share = model.profile(attempt.placement.profile).compute / model.compute_slices if model else 0.0
        return max((attempt.ended or 0.0) - (attempt.began or 0.0), 0.0) * share

    def _restart_early(self, job: JobRecord, progress: JobProgress) -> None:
        """Restart a job whose memory is expected to exceed its slice."""
        attempt = job.attempt
        if progress.step is None or progress.step == self._steps.get(job.number):
            return
        self._steps[job.number] = progress.step
        model = model_of(self._gpus.seen, attempt.gpu)
        if model is None or progress.of is None or job.tries >= job.asked.most_attempts:
            return
        rate = progress.step / max(self._now - (attempt.began or self._now), 0.001)
        here = attempt.placement.profile
        profile = early_restart(model, here, growth_of(progress), within=within(job.asked, rate))
        if profile is None:
            return
        why = f"its memory was expected to exceed {here}; {profile} is next"
        asked = stopping(job, AttemptVerdict.EARLY_RESTART, why)
        if asked is not None:
            least = int((model.profile(profile).memory_mib or 0) * MIB)
            self._table.save([replace(asked, at_least_bytes=least)])


def decided(job: JobRecord, decision: Decision, model: GpuModel, now: float) -> JobRecord:
    """Return a waiting job after the decision to start it."""
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
    return replace(job.to(JobState.STARTING), attempts=(*job.attempts, attempt), tries=job.tries + 1)


def growth_of(progress: JobProgress) -> Growth:
    """Return the growth that a job has reported, with its horizon in reports, not steps."""
    steps, seen = progress.steps, progress.allocated_bytes
    if len(steps) < 2 or progress.of is None:
        return Growth(seen, None)
    spacing = max((steps[-1] - steps[0]) / (len(steps) - 1), 1.0)
    return Growth(seen, len(seen) - 1 + math.ceil(max(progress.of - steps[-1], 0) / spacing))


def within(asked: JobOptions, rate: float) -> int | None:
    """Return the steps that a job may make until its checkpoint is written; None if it writes no checkpoints.

    Args:
        asked: the job's options: whether it writes checkpoints, and how long that may take.
        rate: steps per second.
    """
    return math.ceil(rate * (REPORT_S + asked.grace_s)) if asked.checkpoints else None


_BACKOFF = Backoff(tries=5, first=0.5, jitter=0.0)


class PlacementExecutor:
    """Creates the instances of jobs without blocking: first it destroys what blocks them.

    Jobs of one decision may need slices that another one's start frees. So on each GPU nothing is created while
    anything is still to be destroyed; the instances destroyed were idle, and none of these jobs uses them.

    Args:
        driver: the cluster's driver; nothing else may wait for its actions.
    """

    def __init__(self, driver: Driver) -> None:
        # A task is a job's number and the id of one of its actions: each action has its own tries.
        self._executor: ActionExecutor[tuple[int, str]] = ActionExecutor(driver, _BACKOFF, random.Random(0))
        self._left: dict[int, list[Action]] = {}  # the first is in progress, or waits
        self._made: dict[int, DriveError | None] = {}

    @property
    def busy(self) -> bool:
        """Whether any instance is in progress."""
        return bool(self._left)

    @property
    def made(self) -> dict[int, DriveError | None]:
        """The jobs whose instances exist, or why they do not; the caller removes the ones it has handled."""
        return self._made

    def has(self, number: int) -> bool:
        """Return whether a job's instance is in progress or done."""
        return number in self._left or number in self._made

    def make(self, job: JobRecord) -> None:
        """Begin to create the instance of a job's newest attempt; steps done already are not repeated."""
        attempt = job.attempt
        wanted: list[tuple[ActionKind, Placement]] = [
            (ActionKind.DESTROY_INSTANCE, each) for each in attempt.destroy
        ]
        if attempt.create:
            wanted.append((ActionKind.CREATE_INSTANCE, attempt.placement))
        self._left[job.number] = [
            Action(
                f"job-{job.id}-{attempt.number}-{i}",
                kind,
                attempt.gpu,
                placement,
                None,
                (),
                MEASURED.of(kind),
            )
            for i, (kind, placement) in enumerate(wanted)
        ]
        self._go_on(job.number)

    def poll(self, now: float) -> None:
        """Handle ended actions, and begin what may begin.

        Raises:
            DriveError: the cluster cannot be reached.
        """
        if not self._left:
            return
        for result in self._executor.wait(now):
            number, _ = result.task
            if result.failure is not None:
                del self._left[number]
                self._made[number] = result.failure
            elif result.action.error is None:
                self._executor.drop(result.task)
                self._left[number].pop(0)
                self._go_on(number)
        firsts = [actions[0] for actions in self._left.values()]
        destroying = {action.gpu for action in firsts if action.kind is ActionKind.DESTROY_INSTANCE}
        for task in self._executor.due(now):
            action = self._left[task[0]][0]
            if action.kind is ActionKind.DESTROY_INSTANCE or action.gpu not in destroying:
                self._executor.begin(task, action)

    def _go_on(self, number: int) -> None:
        """Queue a job's next action; if none is left, its instance exists."""
        if actions := self._left[number]:
            self._executor.add((number, actions[0].id))
        else:
            del self._left[number]
            self._made[number] = None
