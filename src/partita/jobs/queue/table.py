"""The jobs that are not over, in memory and in the store.

`JobTable` holds them. It writes each change, and what follows for
dependent jobs, before it applies it in memory. `UsageShares` is how much of the GPUs each user has used.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from partita.jobs.queue.job_store import UserShare
from partita.jobs.queue.record import (
    OVER,
    Dependency,
    DependencyCondition,
    JobRecord,
    JobState,
    names_of,
    settled,
)
from partita.jobs.queue.settings import HALF_LIFE_S
from partita.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from partita.jobs.queue.folders import LastNumber
    from partita.jobs.queue.job_store import JobStore
    from partita.jobs.queue.record import AttemptVerdict, JobId, JobRecord


class UsageShares:
    """All users' usage, which decays exponentially.

    Args:
        had: usage by user.
        half_life_s: seconds after which past usage counts half.
    """

    def __init__(self, had: Mapping[str, UserShare], half_life_s: float = HALF_LIFE_S) -> None:
        self._had = dict(had)
        self._half_life_s = half_life_s

    def at(self, now: float) -> dict[str, float]:
        """Return each user's decayed GPU seconds."""
        return {user: self._left(share, now) for user, share in self._had.items()}

    def plus(self, user: str, gpu_seconds: float, now: float) -> UserShare:
        """Return a user's usage after some more GPU seconds."""
        share = self._had.get(user, UserShare(0.0, now))
        return UserShare(self._left(share, now) + gpu_seconds, now)

    def put(self, shares: Mapping[str, UserShare]) -> None:
        """Set users' usage."""
        self._had |= shares

    def _left(self, share: UserShare, now: float) -> float:
        # If the clock is set back, usage must not grow.
        return share.gpu_seconds * math.exp2(-max(now - share.at, 0.0) / self._half_life_s)


class JobTable:
    """The jobs that are not over, in memory and on the disk.

    Args:
        store: the open store.
        over: called with each job that is over.
        now: seconds since 1970; later times of submission, of a clock that was ahead, are set to it.
        half_life_s: seconds after which a user's past usage counts half.
        mark: keeps the largest job number beside the store; None for nowhere.
        given: largest job number that is known to be taken, whatever the store and the mark say.

    Attributes:
        store: the store; read-only.
        active: jobs that are not over, by number; read-only.
        waiting: those that could start.
        blocked: those that wait for other jobs to end.
        held: the others: they hold an instance, or are about to.
        shares: each user's usage.
        ended: how many jobs have ended since the table was made, by state.
        verdicts: how many attempts those had, by how each ended.
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
        self.ended: Counter[JobState] = Counter()
        self.verdicts: Counter[AttemptVerdict] = Counter()
        self._unwritten: dict[int, JobRecord] = {}
        # By the job or array that is waited for, the numbers of the jobs that wait.
        self._dependents: defaultdict[JobId, set[int]] = defaultdict(set)
        self._tasks_left: Counter[int] = Counter()  # number of tasks that are not over, by array
        for job in store.active():
            self._insert(job if job.submitted <= now else replace(job, submitted=now))
        self.shares = UsageShares(store.shares(), half_life_s)
        self.version = 0
        self._mark = mark
        self.last = max(store.last_number(), mark.found if mark is not None else 0, given)

    @property
    def holding(self) -> list[JobRecord]:
        """The jobs that hold an instance, or are about to."""
        return list(self.held.values())

    def changed(self) -> None:
        """Raise the version: what is expected of the jobs has changed, though they have not."""
        self.version += 1

    def get(self, number: int) -> JobRecord | None:
        """Return the job of a number, active or over; None if there is none."""
        return self.active.get(number) or self._unwritten.get(number) or self.store.get(number)

    def tasks(self, wanted: JobId) -> list[JobRecord]:
        """Return the job of an id, or the tasks of an array, active or over."""
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
        return dict(holding) | ({JobState.WAITING.value: waiting} if waiting else {})

    def add(self, jobs: Callable[[int], list[JobRecord]]) -> list[JobRecord]:
        """Add new jobs.

        Args:
            jobs: returns them, given the first free number.

        Raises:
            StoreError: they could not be written and were not added.
        """
        made = jobs(self.last + 1)
        self.save(made)
        self.last = made[-1].number
        if self._mark is not None:
            self._mark.given(self.last)
        return made

    def save(self, jobs: Sequence[JobRecord], shares: Mapping[str, UserShare] | None = None) -> None:
        """Write jobs and users' usage, then apply them in memory.

        Dependent jobs that change through them are written in the same transaction.

        Raises:
            StoreError: they could not be written, and nothing has changed.
        """
        if not jobs:
            return
        changed = self._with_dependents(jobs)
        self.store.put((self._unwritten | changed).values(), shares)
        self._unwritten = {}
        self.shares.put(shares or {})
        self._apply(changed.values())

    def insist(self, jobs: Sequence[JobRecord]) -> StoreError | None:
        """Apply jobs even if they cannot be written now; they are then written with the next ones.

        Returns:
            Why they could not be written; None if they were.
        """
        try:
            self.save(jobs)
        except StoreError as error:
            changed = self._with_dependents(jobs)
            self._unwritten |= changed
            self._apply(changed.values())
            return error
        return None

    def write_what_is_left(self) -> None:
        """Write what `insist` could not.

        Raises:
            StoreError: it still cannot be written.
        """
        if self._unwritten:
            self.store.put(self._unwritten.values())
            self._unwritten = {}

    def settle(self) -> None:
        """Update the jobs that wait for jobs which ended while their dependents were not looked at, as in a repair.

        Raises:
            StoreError: it could not be written.
        """
        found = self._with_dependents(list(self.blocked.values()))
        self.save([job for number, job in found.items() if job is not self.blocked.get(number)])

    def _apply(self, jobs: Iterable[JobRecord]) -> None:
        for job in jobs:
            self._remove(job.number)
            if job.state in OVER:
                self.ended[job.state] += 1
                self.verdicts.update(each.verdict for each in job.attempts if each.verdict is not None)
                self._over(job)
            else:
                self._insert(job)
        self.version += 1

    def _insert(self, job: JobRecord) -> None:
        self.active[job.number] = job
        where = (
            self.held if job.state is not JobState.WAITING else self.blocked if job.after else self.waiting
        )
        where[job.number] = job
        for each in job.after:
            self._dependents[each.job].add(job.number)
        if job.array is not None:
            self._tasks_left[job.array] += 1

    def _remove(self, number: int) -> None:
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
        """Return jobs, and all direct and indirect dependents whose state changes with them."""
        changed = {job.number: job for job in jobs}
        asked = [job.number for job in jobs if job.after and job.state is JobState.WAITING]
        ended = [job for job in jobs if job.state in OVER]
        while asked or ended:
            tasks_of = self._finder(dict(changed))
            for number in asked:
                after = settled(changed.get(number) or self.blocked[number], tasks_of)
                changed[number] = after
                if after.state in OVER:
                    ended.append(after)
            affected = {number for each in ended for number in self._affected(each, changed)}
            asked = sorted(
                n for n in affected if (changed.get(n) or self.blocked[n]).state is JobState.WAITING
            )
            ended = []
        return changed

    def _affected(self, ended: JobRecord, changed: Mapping[int, JobRecord]) -> Iterable[int]:
        """Return the numbers of the jobs that may change because a job has ended."""
        for name in names_of(ended):
            found: Iterable[int] = self._dependents.get(name, ())
            if name.index is None and ended.array is not None and self._open(ended.array, changed):
                # While other tasks are not over, only a failure decides, and only for jobs that require success.
                if ended.state is JobState.DONE:
                    continue
                wanted = Dependency(DependencyCondition.OK, name)
                found = [number for number in found if wanted in self.blocked[number].after]
            yield from found

    def _open(self, array: int, changed: Mapping[int, JobRecord]) -> bool:
        """Return whether tasks of an array are not over."""
        ended = sum(
            job.array == array and job.state in OVER and number in self.active
            for number, job in changed.items()
        )
        return self._tasks_left[array] > ended

    def _finder(self, changed: Mapping[int, JobRecord]) -> Callable[[JobId], Sequence[JobRecord]]:
        """Return a function that finds the jobs of an id and caches them, as an array may have thousands of tasks."""
        known: dict[JobId, Sequence[JobRecord]] = {}

        def tasks_of(wanted: JobId) -> Sequence[JobRecord]:
            if wanted not in known:
                known[wanted] = [changed.get(job.number, job) for job in self.tasks(wanted)]
            return known[wanted]

        return tasks_of
