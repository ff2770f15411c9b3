"""The queue at work: what is intended is on the disk before anything is done in the world, and a kill loses nothing.

Each step compares what the store says with what is there, and does what is missing. So a start after a kill -9 is no
special case: an instance half made is completed, a process about to be started is started once, one that runs is
found again in its folder.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from partita.drive.port import Observation
from partita.errors import PartitaError
from partita.jobs.early_restart import early_restart
from partita.jobs.memory.bounds import MIB
from partita.jobs.queue.disciplines import DEFAULT
from partita.jobs.queue.endings import ended
from partita.jobs.queue.families import Families
from partita.jobs.queue.growing import growth_of, within
from partita.jobs.queue.hands import Hands
from partita.jobs.queue.hosts import hosts
from partita.jobs.queue.launching import launch_of, make_parent
from partita.jobs.queue.record import OVER, Attempt, JobRecord, State, Verdict
from partita.jobs.queue.resting import Resting
from partita.jobs.queue.scheduler import Scheduler, View
from partita.jobs.queue.seen import device_of, gone, model_of, models
from partita.jobs.queue.store import Store, StoreError
from partita.jobs.run.port import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from partita.drive.port import DriveError, Driver
    from partita.jobs.queue.hosts import Host
    from partita.jobs.queue.scheduler import Decision, Prediction
    from partita.jobs.run.port import Look, Runner

REMEMBERED_JOBS = 5000
"""Jobs that are over from which families are known again when a daemon starts."""


@dataclass(frozen=True, slots=True)
class Pace:
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
class Settings:
    """How a queue is run.

    Attributes:
        discipline: who starts first.
        log_bytes: most bytes of an attempt's log that are kept.
    """

    discipline: str = DEFAULT
    log_bytes: int = 64 * MIB
    pace: Pace = Pace()


class QueueService:
    """A queue of jobs on a cluster. Nothing in it blocks, and one thread at a time may use it.

    Args:
        driver: the cluster, for this queue alone.
        runner: runs the processes.
        store: the open store.
        folder: for the attempts.
        settings: how it is run.
        tell: told what people should know: faults, and what was done about them.
    """

    def __init__(
        self,
        driver: Driver,
        runner: Runner,
        store: Store,
        folder: Path,
        *,
        settings: Settings | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._driver, self._runner, self._store, self._folder = driver, runner, store, folder
        self._settings = settings or Settings()
        self._told = ""
        self._tell_someone = tell
        self._hands = Hands(driver)
        self._families = Families()
        for job in reversed(store.over(REMEMBERED_JOBS)):
            self._learn(job)
        self._scheduler = Scheduler(self._settings.discipline, self._families)
        self._active = {job.number: job for job in store.active()}
        for job in self._active.values():
            self._learn(job)
        self._waiting = {n: job for n, job in self._active.items() if job.state is State.WAITING}
        self._held = {n: job for n, job in self._active.items() if job.state is not State.WAITING}
        self._used = store.used()
        self._last = store.last_number()
        self._stopped: set[int] = set()
        self._wrong: dict[int, str] = {}
        self._seen_steps: dict[int, int] = {}
        self._observation = Observation(())
        self._observed = False
        self._hosts: tuple[Host, ...] = ()
        self._resting = Resting()
        self._dirty = True
        self._now = driver.clock.now()
        self._due = dict.fromkeys(("look", "observe", "decide", "afresh"), 0.0)
        self.version = 0

    # What is asked of it

    @property
    def now(self) -> float:
        """The time on the cluster's clock."""
        return self._driver.clock.now()

    @property
    def discipline(self) -> str:
        """The name of the discipline."""
        return self._settings.discipline

    @property
    def store(self) -> Store:
        """The store, for reading."""
        return self._store

    @property
    def scheduler(self) -> Scheduler:
        """Knows what is expected of jobs."""
        return self._scheduler

    @property
    def hosts(self) -> tuple[Host, ...]:
        """The GPUs that jobs may use, as they were when last looked at."""
        return self._hosts

    @property
    def used(self) -> dict[str, float]:
        """GPU seconds each user has had."""
        return self._used

    @property
    def active(self) -> dict[int, JobRecord]:
        """The jobs that are not over, by number; not to be changed."""
        return self._active

    @property
    def trouble(self) -> str | None:
        """What is wrong at the moment; None if nothing is."""
        return self._told or self._resting.why(self._now)

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
        made = jobs(self._last + 1, self.now)
        self._save(made)
        self._last = made[-1].number
        return made

    def stop(self, chosen: Iterable[JobRecord], wish: Verdict, why: str | None = None) -> None:
        """Have jobs that are not over end: at once if they wait, else by asking their processes.

        Args:
            chosen: active jobs.
            wish: `CANCELLED` or `YIELDED`; jobs that wait are only ever cancelled.
            why: told with the attempt.

        Raises:
            StoreError: it could not be written; nothing was stopped.
        """
        active = [job for job in self._as_they_are(chosen) if job.state not in OVER]
        changed = [self._stopping(job, wish, why) for job in active]
        self._save([job for job in changed if job is not None])
        self._due["look"] = 0.0

    def requeue(self, chosen: Iterable[JobRecord]) -> None:
        """Have jobs wait again: at once those that are over, the others when their processes have ended.

        Raises:
            StoreError: it could not be written; nothing has changed.
        """
        changed = []
        for job in self._as_they_are(chosen):
            if job.state in OVER:
                changed.append(replace(job.to(State.WAITING), tries=0))
            elif (stopping := self._stopping(job, Verdict.REQUEUED, None)) is not None:
                changed.append(stopping)
        self._save(changed)
        self._due["look"] = 0.0

    def _as_they_are(self, chosen: Iterable[JobRecord]) -> list[JobRecord]:
        """Return jobs as they are now: what ended by itself a moment ago is not taken for stopped."""
        jobs = list(chosen)
        self._each([job for job in jobs if job.state is State.RUNNING], self._look_at_process)
        return [self._active.get(job.number) or self._store.get(job.number) or job for job in jobs]

    # What it does

    def step(self, now: float) -> float:
        """Do what is due, and return when it wants to be called next.

        Whatever fails is told and tried again after a while: nothing that a disk or a driver does ends the queue.
        """
        self._now = now
        try:
            if not self._observed:
                self._observe()
            self._hands.poll(now)
            self._start_and_stop()
            if now >= self._due["look"]:
                self._each(self.holding(), self._look_at_process)
                self._due["look"] = now + self._settings.pace.running
            self._decide_if_due()
        except PartitaError as error:
            return self._failed(str(error))
        if self._wrong:
            return self._failed(next(iter(self._wrong.values())))
        self._told = ""
        return self._next()

    def counts(self) -> dict[str, int]:
        """Return how many jobs are in each state, apart from those that are over."""
        holding = Counter(job.state.value for job in self._held.values())
        return dict(holding) | ({State.WAITING.value: len(self._waiting)} if self._waiting else {})

    def predictions(self) -> dict[int, Prediction]:
        """Return when waiting jobs are expected to start."""
        return self._scheduler.predict(self.view())

    def _failed(self, what: str) -> float:
        self._tell(what)
        return (
            min(self._next(), self._now + self._settings.pace.failed)
            if self._wrong
            else (self._now + self._settings.pace.failed)
        )

    def _next(self) -> float:
        pace = self._settings.pace
        if self._hands.busy or self._hands.made:
            return self._now + pace.making
        holding = bool(self._held)
        due = [self._due["look"]] if holding else []
        if self._waiting:
            due.append(self._due["decide"] if self._dirty else self._due["observe"])
        elif holding:
            due.append(self._due["observe"])
        return max(min(due, default=self._now + pace.cluster), self._now)

    def _start_and_stop(self) -> None:
        """Bring every job that starts or stops one step on, whoever began it."""
        changing = [each for each in self.holding() if each.state in (State.STARTING, State.STOPPING)]
        self._each(changing, self._bring_on)
        self._hands.poll(self._now)

    def _bring_on(self, job: JobRecord) -> None:
        if job.attempt.device is None:
            self._before_launch(job)
        elif job.state is State.STARTING:
            self._launch(job)
        elif job.number not in self._stopped:
            grace = 0.0 if job.attempt.wish is Verdict.LOST else job.asked.grace_s
            self._runner.stop(self.folder_of(job, job.attempt.number), grace_s=grace)
            self._stopped.add(job.number)

    def _before_launch(self, job: JobRecord) -> None:
        if job.state is State.STARTING and not self._hands.has(job.number):
            self._hands.make(job)
        if job.number in self._hands.made:
            error = self._hands.made[job.number]
            self._placed(job, error)
            self._hands.made.pop(job.number)
        elif job.state is State.STOPPING and not self._hands.has(job.number):
            self._withdraw(job, job.attempt.why)

    def _placed(self, job: JobRecord, error: DriveError | None) -> None:
        """Go on with a job whose instance stands, or does not."""
        if job.state is State.STOPPING:
            self._withdraw(job, job.attempt.why)
            return
        device = None if error is not None else device_of(self._observe(), job.attempt)
        if device is None:
            why = f"{job.attempt.placement} on {job.attempt.gpu} could not be made: {error or 'it is gone'}"
            self._resting.rest(job.attempt.gpu, why, self._now)
            self._tell(f"job {job.id}: {why}")
            self._withdraw(job, why)
            return
        job = job.with_attempt(replace(job.attempt, device=device))
        self._save([job])
        self._launch(job)

    def _withdraw(self, job: JobRecord, why: str | None) -> None:
        """Take back an attempt of which no process was ever started."""
        over = job.attempt.wish is Verdict.CANCELLED
        back = job.to(State.CANCELLED if over else State.WAITING, why=why)
        self._save([replace(back, attempts=job.attempts[:-1], tries=job.tries - 1)])

    def _launch(self, job: JobRecord) -> None:
        """Start a job's process, which happens once however often it is asked."""
        attempt = job.attempt
        environment = self._store.environment(job.environment)
        folder = self.folder_of(job, attempt.number)
        make_parent(folder)
        self._runner.start(launch_of(job, folder, environment, self._settings.log_bytes))
        running = job.to(State.RUNNING).with_attempt(replace(attempt, began=self._now))
        self._save([running])
        self._resting.wake(attempt.gpu)

    def _look_at_process(self, job: JobRecord) -> None:
        if job.state not in (State.RUNNING, State.STOPPING) or job.attempt.device is None:
            return
        look = self._runner.look(self.folder_of(job, job.attempt.number))
        if look.phase in (Phase.ENDED, Phase.LOST):
            self._end(job, look)
        elif job.state is State.RUNNING:
            self._forecast(job, look)

    def _each(self, jobs: Iterable[JobRecord], do: Callable[[JobRecord], None]) -> None:
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

    def _end(self, job: JobRecord, look: Look) -> None:
        bounds = self._scheduler.expected(job).bounds
        after = ended(job, look, self._now, bounds, models(self._observation))
        attempt = after.attempt
        model = model_of(self._observation, attempt.gpu)
        share = model.profile(attempt.placement.profile).compute / model.compute_slices if model else 0.0
        took = max((attempt.ended or 0.0) - (attempt.began or 0.0), 0.0) * share
        user = job.submitter.name
        used = {user: self._used.get(user, 0.0) + took}
        self._save([after], used)
        self._used |= used
        self._families.add(job.family, attempt)
        self._stopped.discard(job.number)
        self._seen_steps.pop(job.number, None)
        if look.stuck:
            self._tell(f"job {job.id}: {len(look.stuck)} of its processes do not end; is its GPU lost?")

    def _forecast(self, job: JobRecord, look: Look) -> None:
        """Restart a job early whose memory is going to exceed its slice."""
        progress, attempt = look.progress, job.attempt
        if progress.step is None or progress.step == self._seen_steps.get(job.number):
            return
        self._seen_steps[job.number] = progress.step
        model = model_of(self._observation, attempt.gpu)
        if model is None or progress.of is None or job.tries >= job.asked.most_attempts:
            return
        rate = progress.step / max(self._now - (attempt.began or self._now), 0.001)
        profile = early_restart(
            model, attempt.placement.profile, growth_of(progress), within=within(job.asked, rate)
        )
        if profile is None:
            return
        least = int((model.profile(profile).memory_mib or 0) * MIB)
        why = f"its memory was going to exceed {attempt.placement.profile}; {profile} next"
        stopping = self._stopping(job, Verdict.EARLY_RESTART, why)
        if stopping is not None:
            self._save([replace(stopping, at_least_bytes=least)])

    def _stopping(self, job: JobRecord, wish: Verdict, why: str | None) -> JobRecord | None:
        """Return a job on its way to an end; None if it is on it already."""
        if job.state is State.WAITING:
            return job.to(State.CANCELLED, why=why) if wish is Verdict.CANCELLED else None
        if job.attempt.wish in (wish, Verdict.CANCELLED):
            return None
        asked = replace(job.attempt, wish=wish, why=why)
        if job.state is not State.STOPPING:
            job = job.to(State.STOPPING, why=why)
        return job.with_attempt(asked)

    def _decide_if_due(self) -> None:
        now, pace = self._now, self._settings.pace
        holding = bool(self._held)
        if now >= self._due["observe"] and (self._waiting or holding):
            before = self._hosts
            self._observe()
            self._mind_lost()
            self._dirty = self._dirty or before != self._hosts or now >= self._due["afresh"]
        if not (self._dirty and self._waiting and now >= self._due["decide"]):
            return
        self._observe()
        began = time.monotonic()
        decisions = self._scheduler.decide(self.view())
        # At most a sixth of the time is spent on decisions, however fast jobs come.
        self._due["decide"] = now + 5.0 * (time.monotonic() - began)
        self._due["afresh"] = now + pace.afresh
        self._dirty = False
        self._save([self._starting(each) for each in decisions])
        self._start_and_stop()

    def _starting(self, decision: Decision) -> JobRecord:
        job, change = self._waiting[decision.number], decision.change
        model = next(host.model for host in self._hosts if host.id == decision.gpu)
        attempt = Attempt(
            number=len(job.attempts) + 1,
            gpu=decision.gpu,
            placement=change.placement,
            limit_bytes=int((model.profile(change.placement.profile).memory_mib or 0) * MIB),
            decided=self._now,
            destroy=change.destroy,
            create=change.create,
        )
        return replace(job.to(State.STARTING), attempts=(*job.attempts, attempt), tries=job.tries + 1)

    def _observe(self) -> Observation:
        self._observation = self._driver.observe()
        self._observed = True
        self._hosts = hosts(self._observation, self.holding())
        self._due["observe"] = self._now + self._settings.pace.cluster
        return self._observation

    def holding(self) -> list[JobRecord]:
        """Return the jobs that hold an instance, or are about to."""
        return list(self._held.values())

    def view(self) -> View:
        """Return what the scheduler looks at."""
        resting = self._resting.gpus(self._now)
        usable = [host for host in self._hosts if host.id not in resting]
        # One that waits again has the place that its number gives it.
        waiting = [self._waiting[number] for number in sorted(self._waiting)]
        return View(self._now, waiting, self.holding(), usable, self._used)

    def _mind_lost(self) -> None:
        """End what runs on GPUs and instances that are gone."""
        for job in self.holding():
            if job.attempt.device is None or job.attempt.wish is Verdict.LOST or job.state is State.STARTING:
                continue
            why = gone(self._observation, job.attempt)
            if why is not None:
                stopping = self._stopping(job, Verdict.LOST, why)
                if stopping is not None:
                    self._tell(f"job {job.id}: {why}")
                    self._stopped.discard(job.number)
                    self._save([stopping])

    def _save(self, jobs: list[JobRecord], used: dict[str, float] | None = None) -> None:
        """Write jobs, and only then believe them."""
        if not jobs:
            return
        self._store.put(jobs, used)
        for job in jobs:
            for where in (self._waiting, self._held):
                where.pop(job.number, None)
            if job.state in OVER:
                self._active.pop(job.number, None)
                self._scheduler.forget(job)
                continue
            self._active[job.number] = job
            (self._waiting if job.state is State.WAITING else self._held)[job.number] = job
        self.version += 1
        self._dirty = True

    def _learn(self, job: JobRecord) -> None:
        for attempt in job.attempts:
            self._families.add(job.family, attempt)

    def _tell(self, text: str) -> None:
        """Tell something once, however often it comes in a row."""
        if text != self._told:
            self._tell_someone(text)
        self._told = text
