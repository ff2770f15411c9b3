"""The queue at work: what is intended is on the disk before anything is done in the world, and a kill loses nothing.

Each step compares what the store says with what is there, and does what is missing. So a start after a kill -9 is no
special case: an instance half made is completed, a process about to be started is started once, one that runs is
found again in its folder.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from partita.errors import PartitaError
from partita.jobs.partition import reachable
from partita.jobs.queue.record import JobRecord, State
from partita.jobs.queue.scheduler import View
from partita.jobs.queue.starts import decided

if TYPE_CHECKING:
    from partita.jobs.queue.book import Book
    from partita.jobs.queue.faults import Faults
    from partita.jobs.queue.hands import Hands
    from partita.jobs.queue.retention import Retention
    from partita.jobs.queue.runs import Runs
    from partita.jobs.queue.scheduler import Scheduler
    from partita.jobs.queue.settings import Pace
    from partita.jobs.queue.sight import Sight
    from partita.jobs.queue.starts import Starts

_NEVER = float("-inf")


class Loop:
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
        book: Book,
        sight: Sight,
        hands: Hands,
        starts: Starts,
        runs: Runs,
        scheduler: Scheduler,
        faults: Faults,
        retention: Retention,
        pace: Pace,
    ) -> None:
        self._book, self._sight, self._hands, self._starts, self._runs = book, sight, hands, starts, runs
        self._scheduler, self._faults, self._retention, self._pace = scheduler, faults, retention, pace
        self._now = sight.now
        self._decided: int | None = None  # the book's version on which it was last decided
        self._due = dict.fromkeys(("look", "decide", "afresh"), _NEVER)

    def look_soon(self) -> None:
        """Have the next step look at the processes."""
        self._due["look"] = _NEVER

    def view(self, now: float) -> View:
        """Return what the scheduler looks at."""
        # One that waits again has the place that its number gives it.
        waiting = [self._book.waiting[number] for number in sorted(self._book.waiting)]
        return View(now, waiting, self._book.holding, self._sight.usable(now), self._book.shares.at(now))

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
        changing = [job for job in self._book.holding if job.state in (State.STARTING, State.STOPPING)]
        self._faults.each(changing, self._bring_on)
        self._hands.poll(self._now)

    def _bring_on(self, job: JobRecord) -> None:
        if job.attempt.device is None:
            self._starts.make(job, self._now)
        elif job.state is State.STARTING:
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
