"""The jobs that are not over, as the store has them: what is not written is not believed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from partita.jobs.queue.record import OVER, JobRecord, State
from partita.jobs.queue.shares import HALF_LIFE_S, Shares

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from partita.jobs.queue.shares import Share
    from partita.jobs.queue.store import Store


class Book:
    """Keeps them in memory and on the disk.

    Args:
        store: the open store.
        over: told of each job that is over.
        now: seconds since 1970; who came under a clock that was ahead has come by now.
        half_life_s: seconds after which what a user has had counts half.

    Attributes:
        store: the store, for reading.
        active: jobs that are not over, by number; not to be changed.
        waiting: those of them that wait.
        held: the others: they hold an instance, or are about to.
        shares: what each user has had.
        version: grows with every change.
    """

    def __init__(
        self, store: Store, over: Callable[[JobRecord], None], *, now: float, half_life_s: float = HALF_LIFE_S
    ) -> None:
        self.store = store
        self._over = over
        self.active = {job.number: _come(job, now) for job in store.active()}
        self.waiting = {n: job for n, job in self.active.items() if job.state is State.WAITING}
        self.held = {n: job for n, job in self.active.items() if job.state is not State.WAITING}
        self.shares = Shares(store.shares(), half_life_s)
        self.version = 0
        self._last = store.last_number()

    @property
    def holding(self) -> list[JobRecord]:
        """The jobs that hold an instance, or are about to, as they are now."""
        return list(self.held.values())

    def changed(self) -> None:
        """Have it known that what is believed of the jobs has changed, though they have not."""
        self.version += 1

    def now(self, job: JobRecord) -> JobRecord:
        """Return a job as it is now."""
        return self.active.get(job.number) or self.store.get(job.number) or job

    def counts(self) -> dict[str, int]:
        """Return how many jobs are in each state, apart from those that are over."""
        holding = Counter(job.state.value for job in self.held.values())
        return dict(holding) | ({State.WAITING.value: len(self.waiting)} if self.waiting else {})

    def add(self, jobs: Callable[[int], list[JobRecord]]) -> list[JobRecord]:
        """Take in new jobs, made when the first number that is free is known.

        Raises:
            StoreError: they could not be written, and are not there.
        """
        made = jobs(self._last + 1)
        self.save(made)
        self._last = made[-1].number
        return made

    def save(self, jobs: Sequence[JobRecord], shares: Mapping[str, Share] | None = None) -> None:
        """Write jobs and what users have had, and only then believe them.

        Raises:
            StoreError: they could not be written; nothing has changed.
        """
        if not jobs:
            return
        self.store.put(jobs, shares)
        self.shares.put(shares or {})
        for job in jobs:
            for where in (self.waiting, self.held):
                where.pop(job.number, None)
            if job.state in OVER:
                self.active.pop(job.number, None)
                self._over(job)
                continue
            self.active[job.number] = job
            (self.waiting if job.state is State.WAITING else self.held)[job.number] = job
        self.version += 1


def _come(job: JobRecord, now: float) -> JobRecord:
    return job if job.submitted <= now else replace(job, submitted=now)
