"""The default: play several rules to the end of the queue and follow the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.jobs.priced import Priced
from partita.jobs.simulate import proceed
from partita.jobs.tightest_fifo import TightestFifo
from partita.jobs.whole import Whole

if TYPE_CHECKING:
    from partita.jobs.discipline import Discipline, Start, State

RULES: tuple[Discipline, ...] = (
    Whole(),
    TightestFifo(),
    Priced("shortest", price=0.3),
    Priced("shortest", price=3.0),
    Priced("shortest", price=3.0, stretch=1.01),
    Priced("critical", price=3.0),
    Priced("longest", price=3.0),
    Priced("longest", price=3.0, stretch=1.01),
)
"""What is tried: one job at a time, the tightest slices, and priced slices in several moods."""


@dataclass(slots=True)
class Lookahead:
    """`lookahead`: play all rules when jobs have arrived or half of those waiting have gone; follow the best.

    Best is the smallest product of mean completion time and makespan (idle power makes energy follow the makespan),
    both reckoned from now over the jobs that wait and run. What decides is what the tables or history say of the
    jobs, so that nothing is split where that loses. Every rule that it follows reserves for those overtaken too
    long, or keeps the order of arrival. A rule with which the jobs would end later than one at a time on whole GPUs,
    in the mean or the last of them, is followed only if all would.

    Between choices the rule is kept, so one object serves one queue, whose jobs have growing ids; the same states in
    the same order give the same starts.

    Attributes:
        weight: what mean completion time counts against makespan: 0.5 both, 0.0 makespan alone.
        rules: the rules to choose from.
    """

    weight: float = 0.5
    rules: tuple[Discipline, ...] = RULES
    _rule: Discipline | None = None
    _newest: int = -1
    _waiting: int = 0
    _latest: float = 0.0

    def decide(self, state: State) -> tuple[Start, ...]:
        """Return the starts of the rule that does best from here."""
        newest = max(job.id for job in state.waiting)
        if self._rule is None or newest > self._newest or 2 * len(state.waiting) <= self._waiting:
            whole = _mean_and_last(state, Whole())
            if self._rule is None or newest > self._newest:
                self._latest = state.now + whole[1]
            self._rule = self._choose(state, whole[0], self._latest - state.now + 1e-6)
            self._waiting = len(state.waiting)
            self._newest = max(newest, self._newest)
        return self._rule.decide(state)

    def _choose(self, state: State, mean: float, last: float) -> Discipline:
        """Return the best rule that keeps both figures within these, or the best if none does."""
        tried = [(_mean_and_last(state, rule), rule) for rule in self.rules]
        within = [each for each in tried if each[0][0] <= mean and each[0][1] <= last]
        return min(within or tried, key=lambda each: self._score(*each[0]))[1]

    def _score(self, mean: float, last: float) -> float:
        return float(mean**self.weight * last ** (1.0 - self.weight))


def _mean_and_last(state: State, rule: Discipline) -> tuple[float, float]:
    """Return in how many seconds the waiting jobs end in the mean, and the last one that waits or runs."""
    ends = [run.ended - state.now for run in proceed(state, (), rule).runs]
    return sum(ends) / len(ends), max(*ends, *(r.until - state.now for r in state.running), 1e-9)
