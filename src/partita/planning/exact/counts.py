"""A plan as counts: GPUs of each cut and instances of each size per service, before anything has a place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from partita.errors import PartitaError
from partita.planning.exact.program import RATE_SLACK

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from partita.planning.problem import Problem

TOLERANCE = 1e-6
"""Distance below which an objective counts as having reached its bound."""


@dataclass(frozen=True, slots=True)
class Counts:
    """GPUs cut by p, shape (P,); instances of size k that service s runs on, shape (S, K)."""

    cuts: NDArray[np.int64]
    instances: NDArray[np.int64]

    def value(self, problem: Problem) -> float:
        """Return the objective."""
        return float(self.cuts @ problem.cut_cost + (self.instances * problem.instance_cost).sum())

    def meets_rates(self, problem: Problem) -> bool:
        """Say whether every service gets its rate, up to rounding in sums."""
        capacity = (self.instances * problem.throughput).sum(axis=1)
        return bool((capacity >= problem.rate * (1 - 2 * RATE_SLACK)).all())


def round_up(bound: float, problem: Problem) -> float:
    """Return the least objective a plan can have that is not below the bound: whole GPUs are whole."""
    if problem.objective == "gpus" and np.isfinite(bound):
        return float(np.ceil(bound - TOLERANCE))
    return bound


def reached(value: float, bound: float) -> bool:
    """Say whether a value has come down to its bound, up to rounding in sums."""
    return value <= bound + TOLERANCE * max(1.0, abs(bound))


class OutOfTimeError(PartitaError):
    """No plan was found in the time there was, nor proof that there is none; `bound` is of the objective."""

    def __init__(self, bound: float) -> None:
        super().__init__(
            "no plan was found in the time there was, nor proof that there is none", hint="raise --time-limit"
        )
        self.bound = bound
