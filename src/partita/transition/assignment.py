"""The assignment problem: who goes where, for the most value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def assign(value: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return for each row a column of its own so that the total value is greatest.

    The Hungarian method by shortest augmenting paths (Jonker and Volgenant 1987), each path a row of array
    operations.

    Args:
        value: shape (n, m) with n <= m; finite.
    """
    n, m = value.shape
    cost = value.max(initial=0.0) - value
    column_price = np.zeros(m)
    row_price = cost.min(axis=1, initial=np.inf) if m else np.zeros(n)
    owner = np.full(m, -1, dtype=np.int64)
    column = np.full(n, -1, dtype=np.int64)
    for first in range(n):  # most rows find a free column at their least cost
        free = np.flatnonzero((cost[first] == row_price[first]) & (owner < 0))
        if len(free):
            owner[free[0]] = first
            column[first] = free[0]
    for row in np.flatnonzero(column < 0):
        _augment(int(row), cost, (row_price, column_price), owner, column)
    return column


def _augment(
    root: int,
    cost: NDArray[np.float64],
    prices: tuple[NDArray[np.float64], NDArray[np.float64]],
    owner: NDArray[np.int64],
    column: NDArray[np.int64],
) -> None:
    row_price, column_price = prices
    distance = np.full(len(owner), np.inf)
    came = np.full(len(owner), -1, dtype=np.int64)
    done = np.zeros(len(owner), dtype=bool)
    row, reached = root, 0.0
    while True:
        further = reached + cost[row] - row_price[row] - column_price
        better = ~done & (further < distance)
        distance[better] = further[better]
        came[better] = row
        open_distance = np.where(done, np.inf, distance)
        reached = float(open_distance.min())
        nearest = np.flatnonzero(open_distance <= reached)
        free = nearest[owner[nearest] < 0]
        end = int(free[0]) if len(free) else int(nearest[0])
        if len(free):
            break
        done[end] = True
        row = int(owner[end])
    seen = np.flatnonzero(done)
    row_price[owner[seen]] += reached - distance[seen]
    row_price[root] += reached
    column_price[seen] -= reached - distance[seen]
    while end >= 0:
        row = int(came[end])
        owner[end] = row
        end, column[row] = int(column[row]), end
