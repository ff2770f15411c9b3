"""Priorities, fair shares between users, and no starvation."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from partita.jobs.disciplines.discipline import Allocation, reserve, start_beside

if TYPE_CHECKING:
    from partita.jobs.disciplines.discipline import QueueState, Start
    from partita.jobs.job import Job


@dataclass(frozen=True, slots=True)
class Fair:
    """`fair`: by priority, then the user of the least GPU time, then arrival; tightest slices; small jobs backfill.

    A job that has waited for `patience` seconds is aged. Aged jobs go first, by arrival, whatever their priority,
    and the first of them that does not fit reserves its slice: nothing starts that would delay it.

    Attributes:
        patience: seconds.
    """

    patience: float = 4 * 3600.0

    def decide(self, state: QueueState) -> tuple[Start, ...]:
        """Return the jobs that fit, in that order."""
        allocation, had = Allocation(state), self._had(state)
        queues: dict[str, list[Job]] = {}
        for job in sorted(state.waiting, key=lambda each: self._rank(state, 0.0, each), reverse=True):
            queues.setdefault(job.user, []).append(job)
        # A user's first rank changes only when their own job starts, so one heap of users stays in order.
        first = [(self._rank(state, had.get(user, 0.0), queue[-1]), user) for user, queue in queues.items()]
        heapify(first)
        kept = None
        while first and not allocation.full:
            user = heappop(first)[1]
            job = queues[user].pop()
            profile = job.tightest
            if kept is not None:
                after = start_beside(allocation, job, profile, kept)
                started, kept = after is not None, after or kept
            else:
                started = allocation.try_start(job, profile)
                if not started and self._aged(state, job):
                    kept = reserve(state, allocation, job, profile)
            if started:
                had[user] = had.get(user, 0.0) + self._takes(state, job, job.seconds[profile])
            if queues[user]:
                heappush(first, (self._rank(state, had.get(user, 0.0), queues[user][-1]), user))
        return tuple(allocation.starts)

    def _had(self, state: QueueState) -> dict[str, float]:
        """Return the GPU seconds of each user, with those that their running jobs will still take."""
        had = dict(state.used)
        for running in state.running:
            job = running.job
            had[job.user] = had.get(job.user, 0.0) + self._takes(state, job, running.until - state.now)
        return had

    def _takes(self, state: QueueState, job: Job, seconds: float) -> float:
        gpu = state.gpus[0].gpu
        return max(seconds, 0.0) * gpu.profile(job.tightest).compute / gpu.compute_slices

    def _aged(self, state: QueueState, job: Job) -> bool:
        return state.now - job.arrival >= self.patience

    def _rank(self, state: QueueState, had: float, job: Job) -> tuple[bool, int, float, float, int]:
        if self._aged(state, job):
            return (False, 0, 0.0, job.arrival, job.id)
        return (True, -job.priority, had, job.arrival, job.id)
