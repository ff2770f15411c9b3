"""Random cuts: the baseline that shows what unlike slices alone are worth."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from partita.serve.cut import ServingCut

if TYPE_CHECKING:
    from partita.serve.problem import ServingProblem


@dataclass(frozen=True, slots=True)
class RandomCut:
    """Cuts each GPU in one of the ways that leave nothing more to fit, all equally likely."""

    seed: int = 0

    def cut(self, problem: ServingProblem) -> ServingCut:
        """Return the cut, the same for the same seed."""
        return ServingCut.of(Random(self.seed).choices(problem.multisets, k=problem.gpus))
