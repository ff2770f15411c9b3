"""Priorities for disciplines that have none, and the disciplines that queues use, by name."""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from partita.jobs.disciplines.discipline import Allocation, reserve
from partita.jobs.disciplines.lookahead import Lookahead
from partita.jobs.disciplines.simple import StaticOnes, TightestBatched, TightestFifo, Whole
from partita.registry import make

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.jobs.disciplines.discipline import Discipline, QueueState, SliceReservation, Start
    from partita.jobs.job import Job


DEFAULT = "lookahead"


def discipline(name: str) -> Discipline:
    """Return a discipline of that name, for one queue.

    Raises:
        InputError: there is none.
        PartitaError: the package that provides it is broken.
    """
    made: Discipline = make("disciplines", name)
    return made


def lookahead() -> Discipline:
    """Return the default: the rule that simulation finds best.

    Fifty jobs are enough to choose a rule, in some thirty milliseconds.
    """
    return Classes(lambda: Lookahead(most=50))


def makespan() -> Discipline:
    """Return the lookahead that minimises only the makespan."""
    return Classes(lambda: Lookahead(weight=0.0, longer=math.inf, most=50))


def tightest_fifo() -> Discipline:
    """Return the discipline of the smallest slices, in order of arrival."""
    return Classes(TightestFifo)


def tightest_batched() -> Discipline:
    """Return the discipline of the smallest slices, in batches."""
    return Classes(TightestBatched)


def whole() -> Discipline:
    """Return the discipline of whole GPUs."""
    return Classes(Whole)


def static_ones() -> Discipline:
    """Return the discipline of GPUs in their smallest slices."""
    return Classes(StaticOnes)


def to_play(which: Discipline) -> Discipline:
    """Return a copy of a discipline to predict starts with, which does not change the original."""
    return which.to_play() if isinstance(which, Classes | Lookahead) else copy(which)


@dataclass(slots=True)
class Classes:
    """Priorities for a discipline that has none: it decides for each class of one priority, the highest first.

    The first job of a class that has to wait reserves its slice, and no job of a lower class starts that would
    delay it. So no priority is inverted, and slices beside the reservation are still used.
    """

    make: Callable[[], Discipline]
    _of: dict[int, Discipline] = field(default_factory=dict)

    def decide(self, state: QueueState) -> tuple[Start, ...]:
        """Return the starts of all classes."""
        classes: dict[int, list[Job]] = {}
        for job in state.waiting:
            classes.setdefault(job.priority, []).append(job)
        if len(classes) == 1:
            return self._inner(next(iter(classes))).decide(state)
        allocation, kept = Allocation(state), None
        for priority in sorted(classes, reverse=True):
            here = replace(state, waiting=tuple(classes[priority]), gpus=tuple(allocation.gpus))
            _take(allocation, self._inner(priority).decide(here), kept)
            begun = {start.job for start in allocation.starts}
            left = next((job for job in classes[priority] if job not in begun), None)
            if kept is None and left is not None:
                kept = reserve(state, allocation, left, left.tightest)
        return tuple(allocation.starts)

    def _inner(self, priority: int) -> Discipline:
        if priority not in self._of:
            self._of[priority] = self.make()
        return self._of[priority]

    def to_play(self) -> Classes:
        """Return a copy to predict starts with."""
        return Classes(
            lambda: to_play(self.make()), {priority: to_play(each) for priority, each in self._of.items()}
        )


def _take(allocation: Allocation, starts: tuple[Start, ...], kept: SliceReservation | None) -> None:
    """Add starts, apart from those that would delay the reservation."""
    closed: set[int] = set()  # later starts on such a GPU build on one that was left out
    for start in starts:
        if start.gpu in closed:
            continue
        if kept is not None and not kept.leaves_room(allocation, start.gpu, start.change):
            closed.add(start.gpu)
            continue
        allocation.start(start.job, start.gpu, start.change)
        if kept is not None and start.gpu == kept.gpu:
            kept = kept.and_beside(start.change)
