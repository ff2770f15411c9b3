"""Compiles what simulations need of a router, and leaves the router itself plain Python.

A router is one file. The gateway runs it as it stands, a query at a time, and never imports numba or numpy for it;
a simulation of millions of queries runs the same decisions compiled. So no function is decorated: `compiled` makes a
compiled twin of a plain function, and of those that it calls, when a simulation asks for one.
"""

from __future__ import annotations

from functools import cache
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal, TypeVar

    import numpy as np
    from numpy.typing import NDArray

    F = TypeVar("F", bound=Callable[..., Any])

_ROOM = __name__.rpartition(".")[0]


def compiled(function: F, **using: Callable[..., Any]) -> F:
    """Return a function compiled by numba together with the functions of this room that it calls.

    Numba keeps what it has compiled on disk, by file, and compiles anew when the file has changed; so what decides
    stands in the same file as the loop that asks it.

    Args:
        function: takes and gives what numba knows: numbers, arrays, named tuples of them.
        using: functions to call in place of those of these names.
    """
    return cast("F", _compiled(function, tuple(using.items()), "never"))


@cache
def _compiled(
    function: FunctionType,
    using: tuple[tuple[str, FunctionType], ...],
    inline: Literal["never", "always"],
) -> Any:  # noqa: ANN401 -- numba's
    from numba import njit  # noqa: PLC0415 -- takes half a second, and the gateway does without

    known = {**function.__globals__, **dict(using)}
    for name in function.__code__.co_names:
        called = known.get(name)
        if isinstance(called, FunctionType) and called.__module__.startswith(_ROOM):
            # Put in place of its call: an array that is handed on is counted each time, which takes longer than the
            # rest of a decision. What gets numbers alone is left to LLVM, which does better.
            known[name] = _compiled(called, (), "never" if name in dict(using) else "always")
    twin = FunctionType(function.__code__, known, function.__name__, function.__defaults__)
    twin.__module__ = function.__module__
    # Numba's cache tells twins that call different functions apart by this name alone.
    twin.__qualname__ = "-".join([function.__qualname__, *(each.__name__ for _, each in using)])
    return njit(cache=True, nogil=True, error_model="numpy", inline=inline)(twin)


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
