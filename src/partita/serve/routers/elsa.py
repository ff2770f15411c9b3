"""ELSA: the smallest slice that has slack left (PARIS and ELSA, DAC'22, section IV.C)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from partita.serve.problem import REFUSED, ServingOutcome

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from partita.serve.problem import Serve, ServingProblem
    from partita.sim.traffic import Traffic


@dataclass(frozen=True, slots=True)
class Elsa:
    """Binds each query on arrival, walking the instances from small to large.

    slack(p) = SLA - alpha (T_wait(p) + beta T_est(p, b)); the first instance with slack > 0 takes the query; if
    none has, the one that would finish it first.

    Attributes:
        alpha: weight of the whole prediction.
        beta: weight of the query's own estimate.
    """

    alpha: float = 1.0
    beta: float = 1.0

    def on(self, problem: ServingProblem, counts: NDArray[np.int64]) -> Serve:
        """Return what serves queries on these instances. Only what no size can run is refused."""
        size_of = np.repeat(np.arange(len(counts)), counts)
        latency = problem.latency
        longest_wait = problem.deadline / self.alpha - self.beta * latency

        def serve(traffic: Traffic) -> ServingOutcome:
            return ServingOutcome(*_elsa(traffic.arrival, traffic.batch, size_of, latency, longest_wait))

        return serve


@njit(cache=True, nogil=True, error_model="numpy")
def _elsa(
    arrival: NDArray[np.float64],
    batch: NDArray[np.int64],
    size_of: NDArray[np.int64],
    latency: NDArray[np.float64],
    longest_wait: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.int16]]:
    instances, queries = len(size_of), len(arrival)
    idle_at = np.zeros(instances)
    took = np.full(queries, np.inf)
    by = np.full(queries, REFUSED, dtype=np.int16)
    for q in range(queries):
        now, b = arrival[q], batch[q] - 1
        chosen = -1
        for p in range(instances):
            if max(0.0, idle_at[p] - now) < longest_wait[size_of[p], b]:
                chosen = p
                break
        if chosen < 0:
            best = np.inf
            for p in range(instances):
                end = max(now, idle_at[p]) + latency[size_of[p], b]
                if end < best:
                    best, chosen = end, p
        if chosen >= 0:
            idle_at[chosen] = max(now, idle_at[chosen]) + latency[size_of[chosen], b]
            took[q] = idle_at[chosen] - now
            by[q] = chosen
    return took, by
