"""The compact integer program: instances of one size are interchangeable, so counts say it all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from partita.planning.exact.counts import Counts, round_up
from partita.planning.exact.program import INFINITY, add_instances, fleet

if TYPE_CHECKING:
    from partita.planning.problem import Problem
    from partita.planning.watch import Watch


@dataclass(frozen=True, slots=True)
class CompactResult:
    """Counts (None if none were found), the proven bound, and whether there is proof that no plan exists."""

    counts: Counts | None
    bound: float
    infeasible: bool


def solve_compact(problem: Problem, watch: Watch, *, enough: float = -INFINITY) -> CompactResult:
    """Solve min cost.n subject to sum_s a[s,k] <= sum_p n[p] supply[p,k] and rates, n and a whole numbers.

    Args:
        problem: best with tens of services; the bound closes slowly for more.
        watch: when to return the best so far.
        enough: stop at a plan of this objective.
    """
    gpus = fleet(problem, np.zeros(len(problem.sizes)), integer=True, extra_cost=None)
    services = len(problem.services)
    endless = np.full(services, INFINITY)
    rates = gpus.program.add_rows(np.ones(services), endless)
    replicas = gpus.program.add_rows(problem.replicas.astype(np.float64), endless)
    pairs, first = add_instances(problem, gpus, rates, replicas, problem.instance_cost)
    solution = gpus.program.solve(watch, enough=enough)
    bound = round_up(solution.bound, problem)
    if not len(solution.columns):
        return CompactResult(None, bound, solution.infeasible)
    instances = np.zeros(problem.throughput.shape, dtype=np.int64)
    instances[pairs[:, 0], pairs[:, 1]] = np.rint(solution.columns[first:])
    cuts = np.rint(solution.columns[gpus.cuts : gpus.cuts + len(problem.cuts)]).astype(np.int64)
    counts = Counts(cuts, instances)
    # The solver's tolerances are absolute; a plan that it let fall short is none, though its bound holds.
    return CompactResult(counts if counts.meets_rates(problem) else None, bound, infeasible=False)
