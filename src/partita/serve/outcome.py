"""What became of each query, and the protocol of routers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from partita.serve.problem import ServingProblem
    from partita.sim.arrivals import Traffic

REFUSED = -1
"""Instance of a query that was refused."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The end of each of N queries, in order of arrival.

    Attributes:
        latency: seconds from arrival to answer, inf if refused, shape (N,).
        instance: number of the instance that answered, `REFUSED` if none, shape (N,). Instances are numbered
            size after size, from small to large.
    """

    latency: NDArray[np.float64]
    instance: NDArray[np.int16]

    def attainment(self, deadline: float) -> float:
        """Return the share of queries answered within the deadline, the first tenth left out as warm-up."""
        steady = self.latency[len(self.latency) // 10 :]
        return float(np.count_nonzero(steady <= deadline + TICK) / len(steady))


TICK = 1e-9
"""Seconds by which an answer may be late without counting so: the sum of roundings, not of waiting."""


Serve = Callable[["Traffic"], Outcome]
"""Simulates the serving of queries by one router on one cut."""


class Router(Protocol):
    """Decides which instance answers which query, and when it starts."""

    def on(self, problem: ServingProblem, counts: NDArray[np.int64]) -> Serve:
        """Return what serves queries on instances in these counts, shape (K,)."""
        ...
