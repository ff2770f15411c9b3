"""The default discipline: simulate several rules to the end of the queue and follow the best.

Most of the rules are list rules in which a slice has a price: the waiting of other jobs (`Priced`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from partita.jobs.disciplines.discipline import Allocation, reserve, start_beside
from partita.jobs.disciplines.planned import PlannedBatch, planned
from partita.jobs.disciplines.simple import TightestFifo, Whole
from partita.jobs.job import shares
from partita.jobs.simulate import proceed

if TYPE_CHECKING:
    from partita.jobs.disciplines.discipline import Discipline, QueueState, SliceReservation, Start
    from partita.jobs.job import Job


Order = Literal["shortest", "longest", "critical"]


@dataclass(frozen=True, slots=True)
class Priced:
    """Each job takes the slice on which the sum of its own time and the time it costs others is least.

    On a slice that is the share w of a GPU, a job that runs t seconds delays each waiting job by w t / GPUs. With n
    of them its cost is t (1 + price w n / GPUs): under load the slice of most work per share wins, which may be a
    whole GPU; when few jobs wait, the fastest slice wins.

    Attributes:
        order: `shortest` or `longest` first by work, or `critical`: jobs that alone last much of the remaining work
            first, then the shortest.
        price: the weight of others' time.
        stretch: the most that a job's cost may be, in multiples of its least cost, before it waits instead.
        horizon: a job takes no slice on which it lasts longer than this many times the remaining work divided by the
            GPUs, unless it lasts as long on every slice.
        critical: a job that alone lasts more than this share of the remaining work is critical.
        patience: a job goes before those that arrived this many seconds after it, whatever its work, and reserves its
            slice. So none starves, and a batch without further arrivals keeps the best order.
    """

    order: Order = "shortest"
    price: float = 1.0
    stretch: float = 1.5
    horizon: float = 1.0
    critical: float = 0.3
    patience: float = 24 * 3600.0

    def decide(self, state: QueueState) -> tuple[Start, ...]:
        """Return the jobs that start on a slice at an acceptable cost."""
        allocation, share = Allocation(state), shares(state.gpus[0].gpu)
        load = self.price * len(state.waiting) / len(state.gpus)
        remaining = _remaining(state, share)
        kept = self._aged(state, allocation)
        begun = {start.job for start in allocation.starts}
        for job in self._sorted(state, remaining):
            if allocation.full:
                break
            if job not in begun:
                kept = self._start(allocation, job, self._choices(job, load, remaining, share), kept)
        return tuple(allocation.starts)

    def _aged(self, state: QueueState, allocation: Allocation) -> SliceReservation | None:
        """Start the jobs that were overtaken for too long; return the reservation of the first that does not fit."""
        newest = max((job.arrival for job in state.waiting), default=0.0)
        for job in state.waiting:
            if newest - job.arrival < self.patience:
                break
            if not allocation.try_start(job, job.thrifty):
                return reserve(state, allocation, job, job.thrifty)
        return None

    def _start(
        self, allocation: Allocation, job: Job, choices: list[str], kept: SliceReservation | None
    ) -> SliceReservation | None:
        """Start a job on the first of its choices that fits; return the reservation after that."""
        for profile in choices:
            if kept is None:
                if allocation.try_start(job, profile):
                    return None
            elif (after := start_beside(allocation, job, profile, kept)) is not None:
                return after
        return kept

    def _choices(self, job: Job, load: float, remaining: float, share: dict[str, float]) -> list[str]:
        """Return the profiles whose cost is acceptable, the cheapest first."""
        longest = max(self.horizon * remaining, min(job.seconds.values()) * 1.0001)
        costs = {p: t * (1.0 + load * share[p]) for p, t in job.seconds.items() if t <= longest}
        limit = min(costs.values()) * self.stretch
        return [profile for profile in sorted(costs, key=costs.__getitem__) if costs[profile] <= limit]

    def _sorted(self, state: QueueState, remaining: float) -> list[Job]:
        if self.order == "critical":
            return sorted(state.waiting, key=lambda job: _critical_first(job, self.critical * remaining))
        return sorted(state.waiting, key=lambda job: job.work, reverse=self.order == "longest")


def _critical_first(job: Job, longest: float) -> tuple[bool, float]:
    critical = min(job.seconds.values()) > longest
    return (not critical, -job.work if critical else job.work)


def _remaining(state: QueueState, share: dict[str, float]) -> float:
    """Return the remaining work in GPU seconds, divided by the number of GPUs."""
    running = sum(max(r.until - state.now, 0.0) * share[r.placement.profile] for r in state.running)
    return (sum(job.work for job in state.waiting) + running) / len(state.gpus)


RULES: tuple[Discipline, ...] = (
    Whole(),
    TightestFifo(),
    Priced("shortest", price=0.3),
    Priced("shortest", price=3.0),
    Priced("shortest", price=3.0, stretch=1.01),
    *(Priced("critical", price=3.0, critical=share) for share in (0.1, 0.2, 0.3, 0.5, 0.7)),
    Priced("longest", price=3.0),
    Priced("longest", price=3.0, stretch=1.01),
)
"""The rules to try: one job at a time, the tightest slices, and priced slices with several parameters."""

TOGETHER = 0.05
"""Jobs count as a batch if they arrived within this share of the makespan."""


@dataclass(slots=True)
class Lookahead:
    """`lookahead`: simulate all rules when jobs have arrived or half of those waiting have started; follow the best.

    While jobs keep arriving, the best rule has the smallest weighted product of mean completion time and makespan
    (idle power makes energy follow the makespan), both from now and over the jobs that wait and run. For a batch,
    jobs that arrived together, it has the shortest makespan among the rules whose mean completion time is not much
    longer than the least. The times are those of tables or history, so that GPUs are not cut where that loses. Every
    rule either reserves for jobs overtaken too long, or keeps the order of arrival.

    The rule is kept between choices, so one object serves one queue, whose jobs have growing ids; the same states in
    the same order give the same starts.

    Attributes:
        weight: of the mean completion time against the makespan: 0.5 weighs them equally, 0.0 is makespan alone.
        longer: share by which the mean completion time of a batch may exceed the least of any rule.
        rules: the rules to choose from.
        plans: whether small batches are also planned to their end.
        most: most waiting jobs, evenly spaced in order of arrival, with which rules are compared.
    """

    weight: float = 0.65
    longer: float = 0.25
    rules: tuple[Discipline, ...] = RULES
    plans: bool = True
    most: int = 500
    _rule: Discipline | None = None
    _newest: int = -1
    _waiting: int = 0

    def decide(self, state: QueueState) -> tuple[Start, ...]:
        """Return the starts of the rule that does best from here."""
        if not state.waiting:
            return ()
        newest = max(job.id for job in state.waiting)
        stands = not isinstance(self._rule, PlannedBatch) or self._rule.stands(state)
        fewer = 2 * len(state.waiting) <= self._waiting
        if self._rule is None or newest > self._newest or fewer or not stands:
            step = -(-len(state.waiting) // self.most)
            sample = replace(state, waiting=state.waiting[::step])
            self._rule = self._best(sample, sampled=step > 1)
            self._waiting = len(state.waiting)
            self._newest = max(newest, self._newest)
        return self._rule.decide(state)

    def to_play(self) -> Lookahead:
        """Return a copy to predict starts with: it goes on with the current rule, and plans no batches."""
        return replace(self, plans=False)

    def _best(self, state: QueueState, *, sampled: bool) -> Discipline:
        played = [(*self._play(state, rule), rule) for rule in self.rules]
        shortest = min(last for _, last, _ in played)
        came = [job.arrival for job in (*state.waiting, *(running.job for running in state.running))]
        if max(came) - min(came) <= TOGETHER * shortest:
            afresh = planned(state) if self.plans and not sampled else ()
            played += [(*self._play(state, plan), plan) for plan in (*self._going_on(state), *afresh)]
            least = min(mean for mean, _, _ in played)
            played = [each for each in played if each[0] <= (1.0 + self.longer) * least]
            return min(played, key=lambda each: (each[1], each[0]))[2]
        return min(played, key=lambda each: each[0] ** self.weight * each[1] ** (1.0 - self.weight))[2]

    def _going_on(self, state: QueueState) -> tuple[PlannedBatch, ...]:
        """Return the current plan, if it can still be followed."""
        return (self._rule,) if isinstance(self._rule, PlannedBatch) and self._rule.stands(state) else ()

    def _play(self, state: QueueState, rule: Discipline) -> tuple[float, float]:
        """Return the mean completion time and the makespan under a rule, in seconds from now."""
        ends = [run.ended - state.now for run in proceed(state, (), rule).runs]
        last = max(*ends, *(r.until - state.now for r in state.running), 1e-9)
        return sum(ends) / len(ends), last
