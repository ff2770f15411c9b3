"""First idle, first served: the baseline of PARIS and ELSA (DAC'22), and what most servers do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from partita.serve.outcome import Outcome

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from partita.serve.outcome import Serve
    from partita.serve.problem import ServingProblem
    from partita.sim.arrivals import Traffic


@dataclass(frozen=True, slots=True)
class Fifs:
    """One queue in order of arrival; the instance that has been idle for longest, or is idle next, takes its head."""

    def on(self, problem: ServingProblem, counts: NDArray[np.int64]) -> Serve:
        """Return what serves queries on these instances. Nothing is ever refused."""
        size_of = np.repeat(np.arange(len(counts)), counts)

        def serve(traffic: Traffic) -> Outcome:
            return Outcome(*_fifs(traffic.arrival, traffic.batch, size_of, problem.latency))

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
    took = np.empty(queries)
    by = np.empty(queries, dtype=np.int16)
    for q in range(queries):
        first = 0
        for p in range(1, instances):
            if idle_at[p] < idle_at[first]:
                first = p
        idle_at[first] = max(arrival[q], idle_at[first]) + latency[size_of[first], batch[q] - 1]
        took[q] = idle_at[first] - arrival[q]
        by[q] = first
    return took, by
