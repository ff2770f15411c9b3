"""The fluid cut: the best one if queries divided at will and never waited."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.serve.fluid import fluid_cut

if TYPE_CHECKING:
    from partita.serve.cut import ServingCut
    from partita.serve.problem import ServingProblem


@dataclass(frozen=True, slots=True)
class FluidCut:
    """Cuts by the integer fluid model.

    Attributes:
        margin: part of the deadline that a query may take to run; the rest is left for waiting.
    """

    margin: float = 1.0

    def cut(self, problem: ServingProblem) -> ServingCut:
        """Return the cut."""
        return fluid_cut(problem, served=1.0, margin=self.margin)[0]
