"""Homogeneous cuts: as many instances of one size as fit, the baseline GPU(1), GPU(2), ... of PARIS and ELSA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.serve.cut import ServingCut

if TYPE_CHECKING:
    from partita.serve.problem import ServingProblem


@dataclass(frozen=True, slots=True)
class Homogeneous:
    """Cuts every GPU into instances of one size alone; slices left over stay empty.

    Attributes:
        size: index of the size, from 0.
    """

    size: int

    def cut(self, problem: ServingProblem) -> ServingCut:
        """Return the cut."""
        most = max(each[self.size] for each in problem.multisets)
        one = tuple(most if k == self.size else 0 for k in range(len(problem.profiles)))
        return ServingCut.of([one] * problem.gpus)
