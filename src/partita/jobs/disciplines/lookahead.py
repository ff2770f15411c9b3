"""The default: play several rules to the end of the queue and follow the best."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

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
    long, or keeps the order of arrival.

    Between choices the rule is kept, so one object serves one queue, whose jobs have growing ids; the same states in
    the same order give the same starts.

    Attributes:
        weight: what mean completion time counts against makespan: 0.5 both, 0.0 makespan alone.
        rules: the rules to choose from.
        most: waiting jobs, evenly spaced in order of arrival, with which rules are compared.
    """

    weight: float = 0.5
    rules: tuple[Discipline, ...] = RULES
    most: int = 500
    _rule: Discipline | None = None
    _newest: int = -1
    _waiting: int = 0

    def decide(self, state: State) -> tuple[Start, ...]:
        """Return the starts of the rule that does best from here."""
        if not state.waiting:
            return ()
        newest = max(job.id for job in state.waiting)
        if self._rule is None or newest > self._newest or 2 * len(state.waiting) <= self._waiting:
            step = -(-len(state.waiting) // self.most)
            sample = replace(state, waiting=state.waiting[::step])
            self._rule = min(self.rules, key=lambda rule: self._score(sample, rule))
            self._waiting = len(state.waiting)
            self._newest = max(newest, self._newest)
        return self._rule.decide(state)

    def _score(self, state: State, rule: Discipline) -> float:
        ends = [run.ended - state.now for run in proceed(state, (), rule).runs]
        last = max(*ends, *(r.until - state.now for r in state.running), 1e-9)
        mean = sum(ends) / len(ends)
        return float(mean**self.weight * last ** (1.0 - self.weight))
