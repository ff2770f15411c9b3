"""The ways to divide a cut between two services."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from partita.planning.problem import Problem

LEAST_COST = 1e-9
"""A GPU that costs nothing is chosen first, but its score stays finite."""


@dataclass(frozen=True)
class Splits:
    """Every way to divide the sizes of a cut between two services.

    The score adds up over instances, so no way to divide instances of one size scores better than giving them
    all to one service; only whole sizes need be divided.

    Attributes:
        parts: instances of each size that one service gets, over the cost of the GPU; distinct rows, (C, K).
        cut: index of the cut of each split, shape (N,).
        first: index in `parts` of what the first service gets, shape (N,).
        second: index in `parts` of what the second gets, shape (N,); row 0 is nothing.
        pool: index of the pool of each split, shape (N,).
    """

    parts: NDArray[np.float64]
    cut: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    pool: NDArray[np.int64]

    @classmethod
    def of(cls, problem: Problem) -> Splits:
        """Return the splits of all cuts of a problem; sole owners only if a GPU may not be shared."""
        index: dict[tuple[float, ...], int] = {(0.0,) * len(problem.sizes): 0}
        rows: list[tuple[int, int, int, int]] = []
        shared = problem.max_services_per_gpu != 1
        for number, cut in enumerate(problem.cuts):
            cost = max(problem.gpu_cost(cut.pool), LEAST_COST)
            for halves in _halves(cut.counts, shared=shared):
                parts = (tuple(n / cost for n in half) for half in halves)
                first, second = (index.setdefault(part, len(index)) for part in parts)
                rows.append((number, first, second, cut.pool))
        table = np.array(rows, dtype=np.int64).reshape(-1, 4)
        return cls(np.array(list(index)), *table.T)


def _halves(counts: tuple[int, ...], *, shared: bool) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield the divisions of a multiset's sizes in two, each once: the first size stays in the first half."""
    present = [size for size, n in enumerate(counts) if n]
    for moved in range(len(present) if shared else 1):
        for sizes in combinations(present[1:], moved):
            second = tuple(n if size in sizes else 0 for size, n in enumerate(counts))
            yield tuple(n - m for n, m in zip(counts, second, strict=True)), second
