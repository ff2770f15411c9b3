"""First idle, first served: the baseline of PARIS and ELSA (DAC'22), and what most servers do."""

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
class Fifs:
    """One queue in order of arrival; the instance that has been idle for longest, or is idle next, takes its head."""

    def on(self, problem: ServingProblem, counts: NDArray[np.int64]) -> Serve:
        """Return what serves queries on these instances. Only what no size can run is refused."""
        size_of = np.repeat(np.arange(len(counts)), counts)

        def serve(traffic: Traffic) -> ServingOutcome:
            return ServingOutcome(*_fifs(traffic.arrival, traffic.batch, size_of, problem.latency))

        return serve


@njit(cache=True, nogil=True, error_model="numpy")
def _fifs(
    arrival: NDArray[np.float64],
    batch: NDArray[np.int64],
    size_of: NDArray[np.int64],
    latency: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.int16]]:
    instances, queries = len(size_of), len(arrival)
    idle_at = np.zeros(instances)
    took = np.full(queries, np.inf)
    by = np.full(queries, REFUSED, dtype=np.int16)
    for q in range(queries):
        now, b = arrival[q], batch[q] - 1
        first, soonest = REFUSED, np.inf
        for p in range(instances):
            if idle_at[p] < soonest and latency[size_of[p], b] < np.inf:
                first, soonest = p, idle_at[p]
        if first != REFUSED:
            idle_at[first] = max(now, soonest) + latency[size_of[first], b]
            took[q] = idle_at[first] - now
            by[q] = first
    return took, by
