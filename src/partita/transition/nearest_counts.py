"""Counts of instances that are as good as a plan's and nearer to what runs, by integer programming."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from partita.planning.exact.counts import Counts
from partita.planning.exact.program import INFINITY, fleet
from partita.planning.watch import Watch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from partita.planning.problem import Problem

_SECONDS = 2.0

_FRESH = 0.25
"""Instances kept that one more new instance is worth avoiding."""


def nearest_counts(problem: Problem, counts: Counts, now: NDArray[np.int64]) -> Counts | None:
    """Return counts of the same objective that keep the most instances; None if none are found in time.

    Args:
        problem: what is to be met.
        counts: those of a plan.
        now: instances of size k that service s runs on now, shape (S, K).
    """
    gpus = fleet(problem, np.zeros(len(problem.sizes)), integer=True, extra_cost=None)
    endless = np.full(len(problem.services), INFINITY)
    rates = gpus.program.add_rows(np.ones(len(problem.services)), endless)
    replicas = gpus.program.add_rows(problem.replicas.astype(np.float64), endless)
    pairs = np.argwhere(problem.throughput > 0)
    entries = [
        (
            np.array([gpus.sizes + k, rates + s, replicas + s], dtype=np.int32),
            np.array([-1.0, problem.throughput[s, k] / problem.rate[s], 1.0]),
        )
        for s, k in pairs
    ]
    cost = problem.instance_cost[pairs[:, 0], pairs[:, 1]]
    most = now[pairs[:, 0], pairs[:, 1]].astype(np.float64)
    kept = gpus.program.add_columns(cost, most, entries, integer=True)
    fresh = gpus.program.add_columns(cost, np.full(len(pairs), INFINITY), entries, integer=True)
    columns = np.arange(gpus.program.width, dtype=np.int32)
    objective = np.concatenate([problem.cut_cost, cost, cost])
    gpus.program.hold(columns, -objective, -counts.value(problem) * (1 + 1e-9))
    changed = np.arange(kept, kept + 2 * len(pairs), dtype=np.int32)
    weights = np.concatenate([np.ones(len(pairs)), np.full(len(pairs), -_FRESH)])
    solution = gpus.program.maximise(changed, weights, Watch(_SECONDS))
    if not len(solution.columns):
        return None
    chosen = np.rint(solution.columns).astype(np.int64)
    instances = np.zeros(problem.throughput.shape, dtype=np.int64)
    instances[pairs[:, 0], pairs[:, 1]] = (
        chosen[kept : kept + len(pairs)] + chosen[fresh : fresh + len(pairs)]
    )
    if ((problem.throughput * instances).sum(axis=1) < problem.rate * (1 - 1e-9)).any():
        return None  # the solver's tolerance was used
    return Counts(chosen[gpus.cuts : gpus.cuts + len(problem.cuts)], instances)
