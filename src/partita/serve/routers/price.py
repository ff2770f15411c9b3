"""Prices: the cheapest slice that still meets the deadline, chosen on arrival."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

from partita.serve.fluid import second_prices
from partita.serve.problem import REFUSED, ServingOutcome

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from partita.serve.problem import Serve, ServingProblem
    from partita.sim.traffic import Traffic


@dataclass(frozen=True, slots=True)
class Price:
    """Binds each query on arrival to the instance of least price x latency among those that meet its deadline.

    The prices are the fluid model's duals: what a second of each size is worth. Of equally cheap instances the one
    that is idle first takes the query; where none meets the deadline it is refused.
    """

    def on(self, problem: ServingProblem, counts: NDArray[np.int64]) -> Serve:
        """Return what serves queries on these instances."""
        size_of = np.repeat(np.arange(len(counts)), counts)
        cost = second_prices(problem, counts)[:, None] * problem.latency
        tables = _Tables(problem.latency, cost, problem.deadline - problem.latency)

        def serve(traffic: Traffic) -> ServingOutcome:
            return ServingOutcome(*_price(traffic.arrival, traffic.batch, size_of, tables))

        return serve


class _Tables(NamedTuple):
    """Of batch size b on size k: seconds, what they cost, and the longest wait that keeps the deadline; (K, B)."""

    latency: NDArray[np.float64]
    cost: NDArray[np.float64]
    longest_wait: NDArray[np.float64]


@njit(cache=True, nogil=True, error_model="numpy")
def _price(
    arrival: NDArray[np.float64],
    batch: NDArray[np.int64],
    size_of: NDArray[np.int64],
    tables: _Tables,
) -> tuple[NDArray[np.float64], NDArray[np.int16]]:
    latency, cost, longest_wait = tables
    idle_at = np.zeros(len(size_of))
    took = np.full(len(arrival), np.inf)
    by = np.full(len(arrival), REFUSED, dtype=np.int16)
    for q in range(len(arrival)):
        now, b = arrival[q], batch[q] - 1
        chosen, cheapest, soonest = REFUSED, np.inf, np.inf
        for p in range(len(size_of)):
            k = size_of[p]
            start = max(now, idle_at[p])
            if start - now <= longest_wait[k, b] and (
                cost[k, b] < cheapest or (cost[k, b] == cheapest and start < soonest)
            ):
                chosen, cheapest, soonest = p, cost[k, b], start
        if chosen != REFUSED:
            idle_at[chosen] = soonest + latency[size_of[chosen], b]
            took[q] = idle_at[chosen] - now
            by[q] = chosen
    return took, by
