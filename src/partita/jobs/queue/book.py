"""The jobs that are not over, as the store has them: what is not written is not believed."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from partita.jobs.queue.chosen import names
from partita.jobs.queue.dependencies import settled
from partita.jobs.queue.record import OVER, Condition, Dependency, JobRecord, State
from partita.jobs.queue.shares import HALF_LIFE_S, Shares
from partita.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from partita.jobs.queue.folders import LastNumber
    from partita.jobs.queue.ids import JobId
    from partita.jobs.queue.shares import Share
    from partita.jobs.queue.store import JobStore


class Book:
    """Keeps them in memory and on the disk.

    Args:
        store: the open store.
        over: told of each job that is over.
        now: seconds since 1970; who came under a clock that was ahead has come by now.
        half_life_s: seconds after which what a user has had counts half.
        mark: where the largest number that was given is written beside the store; None for nowhere.
        given: the largest number that is known to have been given to a job, whatever the store and the mark say.

    Attributes:
        store: the store, for reading.
        active: jobs that are not over, by number; not to be changed.
        waiting: those of them that could start.
        blocked: those that wait for other jobs to end.
        held: the others: they hold an instance, or are about to.
        shares: what each user has had.
        version: grows with every change.
    """

    def __init__(
        self,
        store: JobStore,
        over: Callable[[JobRecord], None],
        *,
        now: float,
        half_life_s: float = HALF_LIFE_S,
        mark: LastNumber | None = None,
        given: int = 0,
    ) -> None:
        self.store = store
        self._over = over
        self.active: dict[int, JobRecord] = {}
        self.waiting: dict[int, JobRecord] = {}
        self.blocked: dict[int, JobRecord] = {}
        self.held: dict[int, JobRecord] = {}
        self._unwritten: dict[int, JobRecord] = {}
        # By what a job may be called, the numbers of those that wait for it.
        self._dependents: defaultdict[JobId, set[int]] = defaultdict(set)
        self._tasks_left: Counter[int] = Counter()  # tasks that are not over, by array
        for job in store.active():
            self._take_in(_come(job, now))
        self.shares = Shares(store.shares(), half_life_s)
        self.version = 0
        self._mark = mark
        self.last = max(store.last_number(), mark.found if mark is not None else 0, given)

    @property
    def holding(self) -> list[JobRecord]:
        """The jobs that hold an instance, or are about to, as they are now."""
        return list(self.held.values())

    def changed(self) -> None:
        """Have it known that what is believed of the jobs has changed, though they have not."""
        self.version += 1

    def get(self, number: int) -> JobRecord | None:
        """Return the job of a number as it is now; None if there is none."""
        return self.active.get(number) or self._unwritten.get(number) or self.store.get(number)

    def tasks(self, wanted: JobId) -> list[JobRecord]:
        """Return the job of an id, or the tasks of an array, as they are now."""
        single = self.active.get(wanted.number)
        if wanted.index is None and single is not None and single.array is None:
            return [single]
        stored = self.store.tasks(wanted.number, wanted.index)
        return [self.active.get(job.number) or self._unwritten.get(job.number) or job for job in stored]

    def now(self, job: JobRecord) -> JobRecord:
        """Return a job as it is now."""
        return self.get(job.number) or job

    def counts(self) -> dict[str, int]:
        """Return how many jobs are in each state, apart from those that are over."""
        holding = Counter(job.state.value for job in self.held.values())
        waiting = len(self.waiting) + len(self.blocked)
        return dict(holding) | ({State.WAITING.value: waiting} if waiting else {})

    def add(self, jobs: Callable[[int], list[JobRecord]]) -> list[JobRecord]:
        """Take in new jobs, made when the first number that is free is known.

        Raises:
            StoreError: they could not be written, and are not there.
        """
        made = jobs(self.last + 1)
        self.save(made)
        self.last = made[-1].number
        if self._mark is not None:
            self._mark.given(self.last)
        return made

    def save(self, jobs: Sequence[JobRecord], shares: Mapping[str, Share] | None = None) -> None:
        """Write jobs and what users have had, and only then believe them.

        What follows for jobs that wait for these is written with them.

        Raises:
            StoreError: they could not be written; nothing has changed.
        """
        if not jobs:
            return
        changed = self._with_dependents(jobs)
        self.store.put((self._unwritten | changed).values(), shares)
        self._unwritten = {}
        self.shares.put(shares or {})
        self._believe(changed.values())

    def insist(self, jobs: Sequence[JobRecord]) -> StoreError | None:
        """Believe jobs even if they cannot be written now; they are with the next that can.

        Returns:
            Why they could not be written; None if they were.
        """
        try:
            self.save(jobs)
        except StoreError as error:
            changed = self._with_dependents(jobs)
            self._unwritten |= changed
            self._believe(changed.values())
            return error
        return None

    def write_what_is_left(self) -> None:
        """Write what could not be written before.

        Raises:
            StoreError: it still cannot be.
        """
        if self._unwritten:
            self.store.put(self._unwritten.values())
            self._unwritten = {}

    def settle(self) -> None:
        """Go on with jobs that wait for others which ended without their being told, as after a repair.

        Raises:
            StoreError: it could not be written.
        """
        found = self._with_dependents(list(self.blocked.values()))
        self.save([job for number, job in found.items() if job is not self.blocked.get(number)])

    def _believe(self, jobs: Iterable[JobRecord]) -> None:
        for job in jobs:
            self._let_go(job.number)
            if job.state in OVER:
                self._over(job)
            else:
                self._take_in(job)
        self.version += 1

    def _take_in(self, job: JobRecord) -> None:
        self.active[job.number] = job
        where = self.held if job.state is not State.WAITING else self.blocked if job.after else self.waiting
        where[job.number] = job
        for each in job.after:
            self._dependents[each.job].add(job.number)
        if job.array is not None:
            self._tasks_left[job.array] += 1

    def _let_go(self, number: int) -> None:
        before = self.active.pop(number, None)
        if before is None:
            return
        for where in (self.waiting, self.blocked, self.held):
            where.pop(number, None)
        for each in before.after:
            self._dependents[each.job].discard(number)
            if not self._dependents[each.job]:
                del self._dependents[each.job]
        if before.array is not None:
            self._tasks_left[before.array] -= 1

    def _with_dependents(self, jobs: Sequence[JobRecord]) -> dict[int, JobRecord]:
        """Return jobs with what follows for those that wait for them, and for those that wait for these."""
        changed = {job.number: job for job in jobs}
        asked = [job.number for job in jobs if job.after and job.state is State.WAITING]
        ended = [job for job in jobs if job.state in OVER]
        while asked or ended:
            tasks_of = self._looking(dict(changed))
            for number in asked:
                after = settled(changed.get(number) or self.blocked[number], tasks_of)
                changed[number] = after
                if after.state in OVER:
                    ended.append(after)
            told = {number for each in ended for number in self._told(each, changed)}
            asked = sorted(n for n in told if (changed.get(n) or self.blocked[n]).state is State.WAITING)
            ended = []
        return changed

    def _told(self, ended: JobRecord, changed: Mapping[int, JobRecord]) -> Iterable[int]:
        """Return the jobs for which the end of one may decide something."""
        for name in names(ended):
            found: Iterable[int] = self._dependents.get(name, ())
            if name.index is None and ended.array is not None and self._open(ended.array, changed):
                # As long as others of the array are open, only a failure decides, and only for those that want none.
                if ended.state is State.DONE:
                    continue
                wanted = Dependency(Condition.OK, name)
                found = [number for number in found if wanted in self.blocked[number].after]
            yield from found

    def _open(self, array: int, changed: Mapping[int, JobRecord]) -> bool:
        """Say whether tasks of an array are not over."""
        ended = sum(
            job.array == array and job.state in OVER and number in self.active
            for number, job in changed.items()
        )
        return self._tasks_left[array] > ended

    def _looking(self, changed: Mapping[int, JobRecord]) -> Callable[[JobId], Sequence[JobRecord]]:
        """Return what finds the jobs of an id, each id once: an array has thousands of tasks."""
        known: dict[JobId, Sequence[JobRecord]] = {}

        def tasks_of(wanted: JobId) -> Sequence[JobRecord]:
            if wanted not in known:
                known[wanted] = [changed.get(job.number, job) for job in self.tasks(wanted)]
            return known[wanted]

        return tasks_of


def _come(job: JobRecord, now: float) -> JobRecord:
    return job if job.submitted <= now else replace(job, submitted=now)
