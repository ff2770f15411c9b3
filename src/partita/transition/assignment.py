"""The assignment problem: who goes where, for the most value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Assignment:
    """Gives each row a column of its own so that the total value is greatest, also after values have fallen.

    The Hungarian method by shortest augmenting paths (Jonker and Volgenant 1987), each path a row of array
    operations. A value that falls leaves the prices valid, so only its row is assigned again.

    Args:
        value: shape (n, m) with n <= m; finite.
    """

    def __init__(self, value: NDArray[np.float64]) -> None:
        self._rows, m = value.shape
        # Rows that want nothing make it square: a column that is let go is then never left with a price.
        self._cost = value.max(initial=0.0) - np.vstack([value, np.zeros((m - self._rows, m))])
        self._column_price = np.zeros(m)
        self._row_price = self._cost.min(axis=1, initial=np.inf)
        self._owner = np.full(m, -1, dtype=np.int64)
        self._column = np.full(m, -1, dtype=np.int64)
        for row in range(m):  # most rows find a free column at their least cost
            free = np.flatnonzero((self._cost[row] == self._row_price[row]) & (self._owner < 0))
            if len(free):
                self._owner[free[0]] = row
                self._column[row] = free[0]

    def columns(self) -> NDArray[np.int64]:
        """Return the column of each row."""
        for row in np.flatnonzero(self._column < 0):
            self._augment(int(row))
        return self._column[: self._rows].copy()

    def lower(self, row: int, column: int, by: float) -> None:
        """Let the value of a pair fall."""
        self._cost[row, column] += by
        if self._column[row] == column:
            self._column[row] = self._owner[column] = -1

    def _augment(self, root: int) -> None:
        cost, owner, column_price = self._cost, self._owner, self._column_price
        distance = np.full(len(owner), np.inf)
        undone = np.full(
            len(owner), np.inf
        )  # the distances of columns that are not done, the others infinite
        came = np.full(len(owner), -1, dtype=np.int64)
        done: list[int] = []
        row, reached = root, 0.0
        while True:
            further = cost[row] - column_price
            further += reached - self._row_price[row]
            further[done] = np.inf
            better = further < undone
            undone[better] = further[better]
            came[better] = row
            reached = float(undone.min())
            nearest = (undone <= reached).nonzero()[0]
            free = nearest[owner[nearest] < 0]
            end = int(free[0]) if len(free) else int(nearest[0])
            if len(free):
                break
            distance[end] = reached
            undone[end] = np.inf
            done.append(end)
            row = int(owner[end])
        self._row_price[owner[done]] += reached - distance[done]
        self._row_price[root] += reached
        column_price[done] -= reached - distance[done]
        while end >= 0:
            row = int(came[end])
            owner[end] = row
            end, self._column[row] = int(self._column[row]), end
