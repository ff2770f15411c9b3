"""A planned series summed up for reading: a row for each period, a row for each change, and the comparison."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from partita.series.planning import PlanChange, PlannedSeries, PlanSequence


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """A change and whether it pays.

    Attributes:
        period: index of the period at whose beginning its plan holds.
        when: that beginning.
        begin: when it has to begin.
        seconds: predicted.
        moves: replicas that start or stop.
        gpus_meanwhile: most GPUs in use at once.
        held: GPU-hours (or cost) of what it holds beyond the plans.
        price: `held` and the price of its moves.
        saves: what one plan for the run before and the one after it would take more than both; None where the GPUs do
            not suffice for one.
    """

    period: int
    when: str
    begin: str
    seconds: float
    moves: int
    gpus_meanwhile: int
    held: float
    price: float
    saves: float | None


@dataclass(frozen=True, slots=True)
class PeriodRow:
    """A period.

    Attributes:
        when: its beginning.
        hours: its length.
        gpus: of the plan that holds.
        value: the plan's objective: its GPUs, or their cost per hour.
        bound: proven lower bound of any plan for this period alone.
        alone: value of the plan for this period alone.
        peak: value of the plan for the largest rates of all; None where the GPUs do not suffice for one.
        change: the change at its beginning; None where what ran before goes on.
    """

    when: str
    hours: float
    gpus: int
    value: float
    bound: float
    alone: float
    peak: float | None
    change: ChangeRow | None


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """A sequence of plans beside others.

    Attributes:
        name: what it is.
        value_hours: GPU-hours (or cost) of its plans.
        held: of what changes hold beyond that.
        over: all of it above the bound, as a fraction.
        changes: how many.
        moves: of all changes.
        minutes: in which something changes.
        cost: with the price of moves.
    """

    name: str
    value_hours: float
    held: float
    over: float
    changes: int
    moves: int
    minutes: float
    cost: float


@dataclass(frozen=True, eq=False)
class SeriesOverview:
    """What the terminal, the page and the document show of a planned series."""

    planned: PlannedSeries

    @property
    def unit(self) -> str:
        """What the objective counts over time."""
        return "GPU-hours" if self.planned.objective == "gpus" else "cost"

    def changes(self) -> list[ChangeRow]:
        """Return the changes of the chosen sequence in order."""
        return [self._change(change) for change in self.planned.chosen.changes]

    def periods(self) -> list[PeriodRow]:
        """Return the periods in order."""
        planned = self.planned
        changes = {each.period: each for each in self.changes()}
        peak = None if planned.peak is None else planned.peak.runs[0].plan.objective.value
        rows = []
        for index, period in enumerate(planned.series.periods):
            plan = planned.chosen.run_of(index).plan
            rows.append(
                PeriodRow(
                    planned.series.when(period.begin),
                    period.hours,
                    len(plan.gpus),
                    plan.objective.value,
                    planned.bounds[index],
                    planned.alone[index],
                    peak,
                    changes.get(index),
                )
            )
        return rows

    def compared(self) -> list[ComparedRow]:
        """Return the chosen sequence and those that it is compared with; without those whose changes do not fit."""
        planned = self.planned
        sequences = {
            "chosen": planned.chosen,
            "each period, near the last": planned.near,
            "each period, anew": planned.fresh,
            "one for the largest rates": planned.peak,
        }
        return [self._compared(name, each) for name, each in sequences.items() if each is not None]

    def _change(self, change: PlanChange) -> ChangeRow:
        planned = self.planned
        held = change.gpu_hours * planned.gpu_value
        saves = planned.savings[change.period]
        return ChangeRow(
            change.period,
            planned.series.when(planned.series.periods[change.period].begin),
            planned.series.when(change.begin),
            change.seconds,
            change.moves,
            change.transition.peak_gpus,
            held,
            held + planned.move_price * change.moves,
            saves if isfinite(saves) else None,
        )

    def _compared(self, name: str, sequence: PlanSequence) -> ComparedRow:
        planned = self.planned
        return ComparedRow(
            name,
            sequence.value_hours,
            sequence.in_change,
            sequence.total / planned.bound - 1 if planned.bound else 0.0,
            len(sequence.changes),
            sequence.moves,
            sequence.seconds / 60,
            sequence.cost(planned.move_price),
        )
