"""Homogeneous cuts: as many instances of one size as fit, the baseline GPU(1), GPU(2), ... of PARIS and ELSA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.serve.cut import ServingCut
from partita.serve.fluid import fluid_rate
from partita.serve.throughput import enough_queries, throughput, unit_traffic

if TYPE_CHECKING:
    from partita.serve.outcome import Router
    from partita.serve.problem import ServingProblem

_SEED, _QUERIES = 101, 20_000


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


@dataclass(frozen=True, slots=True)
class BestHomogeneous:
    """Takes the homogeneous cut of largest throughput in simulation, GPU(max) of PARIS and ELSA.

    Attributes:
        router: what will route the queries.
    """

    router: Router

    def cut(self, problem: ServingProblem) -> ServingCut:
        """Return the cut."""
        traffic = [unit_traffic(problem.share, enough_queries(problem, _QUERIES), _SEED)]

        def rate(cut: ServingCut) -> float:
            guess = fluid_rate(problem, cut.counts, served=problem.quantile).rate
            return throughput(problem, cut.counts, self.router, traffic, guess).rate if guess > 0 else 0.0

        return max((Homogeneous(size).cut(problem) for size in range(len(problem.profiles))), key=rate)
