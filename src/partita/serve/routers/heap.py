"""A binary heap of (key, value) pairs in two arrays, smallest first, for compiled code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numba import njit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def push(key: NDArray[np.float64], value: NDArray[np.int64], at: int, entry: tuple[float, int]) -> None:
    """Put an entry into the binary heap key[:at], value[:at], smallest first, ties by value."""
    new, what = entry
    while at > 0:
        parent = (at - 1) // 2
        if key[parent] < new or (key[parent] == new and value[parent] < what):
            break
        key[at], value[at] = key[parent], value[parent]
        at = parent
    key[at], value[at] = new, what


@njit(cache=True, nogil=True)
def drop_first(key: NDArray[np.float64], value: NDArray[np.int64], last: int) -> None:
    """Take the first of the binary heap key[:last + 1] away."""
    moved, what = key[last], value[last]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= last:
            break
        right = child + 1
        if right < last and (
            key[right] < key[child] or (key[right] == key[child] and value[right] < value[child])
        ):
            child = right
        if moved < key[child] or (moved == key[child] and what < value[child]):
            break
        key[at], value[at] = key[child], value[child]
        at = child
    key[at], value[at] = moved, what
