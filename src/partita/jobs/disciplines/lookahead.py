"""The default: play several rules to the end of the queue and follow the best."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from partita.jobs.disciplines.planned import Planned, planned
from partita.jobs.disciplines.priced import Priced
from partita.jobs.disciplines.tightest_fifo import TightestFifo
from partita.jobs.disciplines.whole import Whole
from partita.jobs.simulate import proceed

if TYPE_CHECKING:
    from partita.jobs.disciplines.discipline import Discipline, Start, State

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
"""What is tried: one job at a time, the tightest slices, and priced slices in several moods."""

TOGETHER = 0.05
"""The share of the makespan within which jobs have come that count as a batch."""


@dataclass(slots=True)
class Lookahead:
    """`lookahead`: play all rules when jobs have arrived or half of those waiting have gone; follow the best.

    While jobs keep coming, best is the smallest product of mean completion time and makespan (idle power makes energy
    follow the makespan), both reckoned from now over the jobs that wait and run. Of a batch, jobs that have come
    together, it is the shortest makespan of those rules whose mean completion time is little longer than the least.
    What decides is what the tables or history say of the jobs, so that nothing is split where that loses. Every rule
    that it follows reserves for those overtaken too long, or keeps the order of arrival.

    Between choices the rule is kept, so one object serves one queue, whose jobs have growing ids; the same states in
    the same order give the same starts.

    Attributes:
        weight: what mean completion time counts against makespan: 0.5 both alike, 0.0 makespan alone.
        longer: by what share the mean completion time of a batch may exceed the least of any rule.
        rules: the rules to choose from.
        plans: whether small batches are planned to their end, too.
        most: waiting jobs, evenly spaced in order of arrival, with which rules are compared.
    """

    weight: float = 0.65
    longer: float = 0.25
    rules: tuple[Discipline, ...] = RULES
    plans: bool = True
    most: int = 500
    _rule: Discipline | None = None
    _newest: int = -1
    _waiting: int = 0

    def decide(self, state: State) -> tuple[Start, ...]:
        """Return the starts of the rule that does best from here."""
        if not state.waiting:
            return ()
        newest = max(job.id for job in state.waiting)
        stands = not isinstance(self._rule, Planned) or self._rule.stands(state)
        fewer = 2 * len(state.waiting) <= self._waiting
        if self._rule is None or newest > self._newest or fewer or not stands:
            step = -(-len(state.waiting) // self.most)
            sample = replace(state, waiting=state.waiting[::step])
            self._rule = self._best(sample, sampled=step > 1)
            self._waiting = len(state.waiting)
            self._newest = max(newest, self._newest)
        return self._rule.decide(state)

    def to_play(self) -> Lookahead:
        """Return a copy to foretell starts with: it goes on with the rule that is followed, and plans nothing."""
        return replace(self, plans=False)

    def _best(self, state: State, *, sampled: bool) -> Discipline:
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

    def _going_on(self, state: State) -> tuple[Planned, ...]:
        """Return the plan that is followed, if it can still be."""
        return (self._rule,) if isinstance(self._rule, Planned) and self._rule.stands(state) else ()

    def _play(self, state: State, rule: Discipline) -> tuple[float, float]:
        """Return the mean completion time and the makespan, from now in seconds, if a rule were followed."""
        ends = [run.ended - state.now for run in proceed(state, (), rule).runs]
        last = max(*ends, *(r.until - state.now for r in state.running), 1e-9)
        return sum(ends) / len(ends), last
