"""Among the ways to cut the same GPUs for the same instances, the one with the plainest cuts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from partita.planning.exact.program import fleet
from partita.planning.watch import Watch

if TYPE_CHECKING:
    from partita.planning.exact.counts import Counts
    from partita.planning.problem import Problem

_SECONDS = 2.0
_GPU = 100.0
"""Weight of a GPU where the objective does not count GPUs."""


def simplify_cuts(problem: Problem, counts: Counts) -> Counts:
    """Return the same instances on GPUs whose cuts hold as few unlike sizes as it costs nothing to.

    A GPU cut into one size serves one service, as a rule; one cut into three serves three.
    """
    demand = counts.instances.sum(axis=0).astype(np.float64)
    gpus = fleet(problem, demand, integer=True, extra_cost=None)
    spent = float(counts.cuts @ problem.cut_cost)
    every = np.arange(gpus.cuts, gpus.cuts + len(problem.cuts), dtype=np.int32)
    gpus.program.hold(every, -problem.cut_cost, -spent)
    unlike = (problem.supply > 0).sum(axis=1).astype(np.float64)
    fewest = _GPU if problem.objective == "watts" else 0.0
    solution = gpus.program.maximise(every, -(fewest + unlike), Watch(_SECONDS))
    if not len(solution.columns):
        return counts
    cuts = np.rint(solution.columns[gpus.cuts : gpus.cuts + len(every)]).astype(np.int64)
    return replace(counts, cuts=cuts)
