"""The queue at work: what is intended is on the disk before anything is done in the world, and a kill loses nothing.

Each step compares what the store says with what is there, and does what is missing. So a start after a kill -9 is no
special case: an instance half made is completed, a process about to be started is started once, one that runs is
found again in its folder.
"""

from __future__ import annotations

import math
import secrets
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from partita.drive.driver import Observation
from partita.errors import PartitaError
from partita.files import set_aside
from partita.jobs.memory.bounds import MIB
from partita.jobs.memory.growth import Growth
from partita.jobs.partition import reachable
from partita.jobs.queue.access import owner
from partita.jobs.queue.endings import ended, stopping
from partita.jobs.queue.folders import write_wish
from partita.jobs.queue.record import Attempt, AttemptVerdict, JobRecord, JobState, dump_job
from partita.jobs.queue.scheduler import SchedulerInput, catalogued, hosts
from partita.jobs.restarts import early_restart
from partita.jobs.run.runner import AttemptPhase, ForeignAttemptError, Launch
from partita.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from partita.drive.driver import DriveError, Driver
    from partita.jobs.queue.folders import Retention
    from partita.jobs.queue.forecast import Families
    from partita.jobs.queue.hands import Hands
    from partita.jobs.queue.record import JobOptions, JobRecord
    from partita.jobs.queue.scheduler import Decision, Host, Scheduler
    from partita.jobs.queue.service import PollIntervals, QueueSettings
    from partita.jobs.queue.table import JobTable
    from partita.jobs.run.runner import AttemptStatus, JobProgress, JobRunner
    from partita.mig.gpu import GpuModel


class Problems:
    """Remembers what is wrong at the moment.

    Args:
        tell: told what people should know.

    Attributes:
        told: the newest; empty if all is well.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._wrong: dict[int, str] = {}
        self.told = ""

    @property
    def first(self) -> str | None:
        """What is wrong with the first of the jobs with which something is; None if nothing is."""
        return next(iter(self._wrong.values()), None)

    def tell(self, text: str) -> None:
        """Tell something once, however often it comes in a row."""
        if text != self.told:
            self._tell(text)
        self.told = text

    def each(self, jobs: Iterable[JobRecord], do: Callable[[JobRecord], None]) -> None:
        """Do something with each job, so that what is wrong with one holds up no other.

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


FIRST_S, LONGEST_S = 30.0, 600.0


@dataclass(frozen=True, slots=True)
class _Rest:
    until: float
    seconds: float
    why: str


class RestingGpus:
    """Remembers them; each rest in a row is twice as long as the one before."""

    def __init__(self) -> None:
        self._rests: dict[str, _Rest] = {}

    def rest(self, gpu: str, why: str, now: float) -> None:
        """Leave a GPU alone."""
        before = self._rests.get(gpu)
        seconds = min(2.0 * before.seconds, LONGEST_S) if before else FIRST_S
        self._rests[gpu] = _Rest(now + seconds, seconds, why)

    def wake(self, gpu: str) -> None:
        """Forget what was wrong with a GPU: something was made on it."""
        self._rests.pop(gpu, None)

    def gpus(self, now: float) -> frozenset[str]:
        """Return those that rest now."""
        return frozenset(gpu for gpu, rest in self._rests.items() if rest.until > now)

    def why(self, now: float) -> str | None:
        """Return what is wrong with one that rests now; None if none does."""
        return next((rest.why for rest in self._rests.values() if rest.until > now), None)


class GpuView:
    """Looks at the cluster.

    Args:
        driver: the cluster's.
        book: knows what the queue's own jobs hold.

    Attributes:
        seen: the cluster as it was last seen.
        resting: GPUs on which something could not be made.
        due: when to look again.
    """

    def __init__(self, driver: Driver, book: JobTable) -> None:
        self._driver, self._book = driver, book
        self.seen = Observation(())
        self._hosts: tuple[Host, ...] = ()
        self._of: tuple[Observation, int] | None = None
        self.resting = RestingGpus()
        self.due = float("-inf")

    @property
    def now(self) -> float:
        """The time on the cluster's clock."""
        return self._driver.clock.now()

    @property
    def hosts(self) -> tuple[Host, ...]:
        """The GPUs that jobs may use, as they were last seen, with what the queue's own jobs hold now."""
        # Jobs start and end between two looks: what runs must be in use wherever it is looked at.
        now = (self.seen, self._book.version)
        if self._of is None or self._of[0] is not now[0] or self._of[1] != now[1]:
            self._hosts, self._of = hosts(self.seen, self._book.holding), now
        return self._hosts

    def look(self, due: float) -> Observation:
        """Look at the cluster, and again when it is `due`.

        Raises:
            DriveError: it cannot be reached.
        """
        self.seen = self._driver.observe()
        self.due = due
        return self.seen

    def usable(self, now: float) -> list[Host]:
        """Return the GPUs that jobs may use, apart from those that rest."""
        resting = self.resting.gpus(now)
        return [host for host in self.hosts if host.id not in resting]


def device_of(seen: Observation, attempt: Attempt) -> str | None:
    """Return the MIG UUID of an attempt's instance; None if it does not stand, or is not ours."""
    gpu = seen.gpu(attempt.gpu)
    for each in gpu.instances if gpu is not None and not gpu.lost else ():
        if each.placement == attempt.placement and each.ours and each.complete:
            return each.identity.mig_uuid
    return None


def gone(seen: Observation, attempt: Attempt) -> str | None:
    """Return why an attempt's instance is not there any more; None if it is."""
    gpu = seen.gpu(attempt.gpu)
    if gpu is None or gpu.lost:
        return f"{attempt.gpu} fell off the bus"
    if all(each.identity.mig_uuid != attempt.device for each in gpu.instances):
        return f"its instance {attempt.placement} on {attempt.gpu} was destroyed"
    return None


def models(seen: Observation) -> list[GpuModel]:
    """Return the models of GPU there are, those of lost ones included: they may come back."""
    names = sorted({gpu.model for gpu in seen.gpus})
    return [model for name in names if (model := catalogued(name)) is not None]


def model_of(seen: Observation, gpu_id: str) -> GpuModel | None:
    """Return the model of a GPU; None if it is not there or not in the catalogue."""
    gpu = seen.gpu(gpu_id)
    return catalogued(gpu.model) if gpu is not None else None


def launch_of(
    job: JobRecord, folder: Path, environment: Mapping[str, str], settings: QueueSettings
) -> Launch:
    """Return the launch of a job's newest attempt, whose instance stands.

    Args:
        job: which.
        folder: the attempt's own, not there yet.
        environment: as it was submitted with.
        settings: how the queue is run.
    """
    return Launch(
        job=job.id,
        attempt=job.attempt.number,
        folder=folder,
        command=job.words,
        directory=Path(job.directory),
        environment=environment,
        owner=owner(job.submitter),
        device=job.attempt.device or "",
        memory_bytes=job.attempt.limit_bytes,
        log_bytes=settings.log_bytes,
        grace_s=job.asked.grace_s,
        index=job.index,
        limit_s=job.asked.limit_s,
        umask=job.asked.umask,
        key=job.attempt.key or "",
        record=dump_job(job),
        oom_patterns=(*job.asked.oom_patterns, *settings.oom_patterns),
    )


def make_parent(folder: Path) -> None:
    """Make the folder of a job's attempts, which its user may pass through.

    Raises:
        PartitaError: it cannot be made.
    """
    try:
        folder.parent.mkdir(exist_ok=True)
        folder.parent.chmod(0o711)  # whatever the daemon's umask is
    except OSError as error:
        raise PartitaError(f"a job cannot be started: {error.strerror}", where=str(folder)) from error


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
    return replace(job.to(JobState.STARTING), attempts=(*job.attempts, attempt), tries=job.tries + 1)


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
        book: JobTable,
        sight: GpuView,
        runner: JobRunner,
        *,
        hands: Hands,
        faults: Problems,
        folder_of: Callable[[JobRecord, int], Path],
        settings: QueueSettings,
    ) -> None:
        self._book, self._sight, self._runner, self._hands, self._faults = book, sight, runner, hands, faults
        self._folder_of = folder_of
        self._settings = settings

    def make(self, job: JobRecord, now: float) -> None:
        """Bring a job on that starts, or stops, and whose instance is not known to stand."""
        if job.state is JobState.STARTING and not self._hands.has(job.number):
            self._hands.make(job)
        if job.number in self._hands.made:
            self._placed(job, self._hands.made[job.number], now)
            self._hands.made.pop(job.number)
        elif job.state is JobState.STOPPING and not self._hands.has(job.number):
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
        self._book.save([job.to(JobState.RUNNING).with_attempt(replace(attempt, began=now))])
        self._sight.resting.wake(attempt.gpu)

    def _placed(self, job: JobRecord, error: DriveError | None, now: float) -> None:
        """Go on with a job whose instance stands, or does not."""
        if job.state is JobState.STOPPING:
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
        over = job.attempt.wish is AttemptVerdict.CANCELLED
        back = job.to(JobState.CANCELLED if over else JobState.WAITING, why=why)
        self._book.save([replace(back, attempts=job.attempts[:-1], tries=job.tries - 1)])


LOOK_S = 2.0
"""Seconds that pass at most between a report and what follows from it, with some to spare."""


def growth_of(progress: JobProgress) -> Growth:
    """Return the growth that a job has reported, its horizon counted in reports, not steps."""
    steps, seen = progress.steps, progress.allocated_bytes
    if len(steps) < 2 or progress.of is None:
        return Growth(seen, None)
    spacing = max((steps[-1] - steps[0]) / (len(steps) - 1), 1.0)
    return Growth(seen, len(seen) - 1 + math.ceil(max(progress.of - steps[-1], 0) / spacing))


def within(asked: JobOptions, rate: float) -> int | None:
    """Return the steps that a job may make until its checkpoint is written; None if it writes none.

    Args:
        asked: says whether it writes checkpoints, and how long that may take.
        rate: steps per second.
    """
    return math.ceil(rate * (LOOK_S + asked.grace_s)) if asked.checkpoints else None


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
        book: JobTable,
        sight: GpuView,
        runner: JobRunner,
        *,
        scheduler: Scheduler,
        families: Families,
        faults: Problems,
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
            grace = 0.0 if job.attempt.wish is AttemptVerdict.LOST else job.asked.grace_s
            folder = self._folder_of(job, job.attempt.number)
            if job.attempt.wish is not None:
                write_wish(folder, job.attempt.wish)
            self._runner.stop(folder, grace_s=grace)
            self._stopped.add(job.number)

    def look(self, job: JobRecord, now: float) -> None:
        """Look at a job's process, if it has one, and draw the consequences."""
        if job.state not in (JobState.RUNNING, JobState.STOPPING) or job.attempt.device is None:
            return
        look = self._runner.look(self._folder_of(job, job.attempt.number))
        if look.phase in (AttemptPhase.ENDED, AttemptPhase.LOST):
            self._end(job, look, now)
        elif job.state is JobState.RUNNING:
            self._forecast(job, look, now)

    def mind_lost(self) -> None:
        """End what runs on GPUs and instances that are gone."""
        for job in self._book.holding:
            if (
                job.attempt.device is None
                or job.attempt.wish is AttemptVerdict.LOST
                or job.state is JobState.STARTING
            ):
                continue
            why = gone(self._sight.seen, job.attempt)
            lost = stopping(job, AttemptVerdict.LOST, why) if why is not None else None
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
        asked = stopping(job, AttemptVerdict.EARLY_RESTART, why)
        if asked is not None:
            self._book.save([replace(asked, at_least_bytes=least)])


_NEVER = float("-inf")


class QueueLoop:
    """Does what is due, a step at a time.

    Args:
        book: the jobs.
        sight: sees the cluster.
        hands: makes instances.
        starts: brings jobs to a running process.
        runs: minds the processes.
        scheduler: decides.
        faults: told what goes wrong.
        retention: removes what is left of jobs that are over.
        pace: how often it looks.
    """

    def __init__(
        self,
        *,
        book: JobTable,
        sight: GpuView,
        hands: Hands,
        starts: Starts,
        runs: Runs,
        scheduler: Scheduler,
        faults: Problems,
        retention: Retention,
        pace: PollIntervals,
    ) -> None:
        self._book, self._sight, self._hands, self._starts, self._runs = book, sight, hands, starts, runs
        self._scheduler, self._faults, self._retention, self._pace = scheduler, faults, retention, pace
        self._now = sight.now
        self._decided: int | None = None  # the book's version on which it was last decided
        self._due = dict.fromkeys(("look", "decide", "afresh"), _NEVER)

    def look_soon(self) -> None:
        """Have the next step look at the processes."""
        self._due["look"] = _NEVER

    def view(self, now: float) -> SchedulerInput:
        """Return what the scheduler looks at."""
        # One that waits again has the place that its number gives it.
        waiting = [self._book.waiting[number] for number in sorted(self._book.waiting)]
        return SchedulerInput(
            now, waiting, self._book.holding, self._sight.usable(now), self._book.shares.at(now)
        )

    def step(self, now: float) -> float:
        """Do what is due, and return when it wants to be called next; what fails is told and tried again."""
        self._now = now
        try:
            if self._sight.due == _NEVER:
                self._observe()
                for host in self._sight.hosts:
                    reachable(
                        host.partition.layout
                    )  # finds the layouts of its model, before a job waits for it
            self._hands.poll(now)
            self._start_and_stop()
            self._book.write_what_is_left()
            if now >= self._due["look"]:
                self._faults.each(self._book.holding, self._look)
                self._due["look"] = now + self._pace.running
            self._decide_if_due()
            self._retention.step(now)
        except PartitaError as error:
            self._faults.tell(str(error))
            return now + self._pace.failed
        wrong = self._faults.first
        if wrong is not None:
            self._faults.tell(wrong)
            return min(self._next(), now + self._pace.failed)
        self._faults.told = ""
        return self._next()

    def _next(self) -> float:
        if self._hands.busy or self._hands.made:
            return self._now + self._pace.making
        due = [self._retention.due, self._now + self._pace.cluster]
        if self._book.held:
            due += [self._due["look"], self._sight.due]
        if self._book.waiting:
            due.append(self._due["decide"] if self._changed else self._sight.due)
        return max(min(due), self._now)

    @property
    def _changed(self) -> bool:
        """Whether anything has changed since it was last decided."""
        return self._decided != self._book.version

    def _observe(self) -> None:
        self._sight.look(self._now + self._pace.cluster)

    def _look(self, job: JobRecord) -> None:
        self._runs.look(job, self._now)

    def _start_and_stop(self) -> None:
        """Bring every job that starts or stops one step on, whoever began it."""
        changing = [job for job in self._book.holding if job.state in (JobState.STARTING, JobState.STOPPING)]
        self._faults.each(changing, self._bring_on)
        self._hands.poll(self._now)

    def _bring_on(self, job: JobRecord) -> None:
        if job.attempt.device is None:
            self._starts.make(job, self._now)
        elif job.state is JobState.STARTING:
            self._starts.launch(job, self._now)
        else:
            self._runs.stop(job)

    def _decide_if_due(self) -> None:
        now = self._now
        if now >= self._sight.due and self._book.active:
            before = self._sight.hosts
            self._observe()
            self._runs.mind_lost()
            if before != self._sight.hosts or now >= self._due["afresh"]:
                self._decided = None
        if not (self._changed and self._book.waiting and now >= self._due["decide"]):
            return
        self._observe()
        began = time.monotonic()
        decisions = self._scheduler.decide(self.view(now))
        # At most a sixth of the time is spent on decisions, however fast jobs come.
        self._due["decide"] = now + 5.0 * (time.monotonic() - began)
        self._due["afresh"] = now + self._pace.afresh
        self._decided = self._book.version
        models = {host.id: host.model for host in self._sight.hosts}
        self._book.save(
            [decided(self._book.waiting[each.number], each, models[each.gpu], now) for each in decisions]
        )
        self._start_and_stop()
