"""Compiles what simulations need of a router, and leaves the router itself plain Python.

A router is one file. The gateway runs it as it stands, a query at a time, and never imports numba or numpy for it;
a simulation of millions of queries runs the same decisions compiled. So no function is decorated: `compiled` makes a
compiled twin of a plain function, and of those that it calls, when a simulation asks for one.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    import numpy as np
    from numpy.typing import NDArray

    F = TypeVar("F", bound=Callable[..., Any])

_ROOM = __name__.rpartition(".")[0]


def compiled(function: F, *, inline: bool = False, **using: Callable[..., Any] | bool) -> F:
    """Return a function compiled by numba together with the functions of this room that it calls.

    Numba keeps what it has compiled on disk. What is kept is found by what all these functions' files say: when one
    has changed they are compiled anew.

    Args:
        function: takes and gives what numba knows: numbers, arrays, named tuples of them.
        inline: whether what it calls is put in place of its calls. An array that is handed on is counted each time,
            which takes longer than a short decision; long loops run slower in one than apart.
        using: functions and constants to use in place of those of these names.
    """
    return cast("F", _compiled(function, tuple(using.items()), inline=inline, outer=True))


@cache
def _compiled(
    function: FunctionType, using: tuple[tuple[str, Any], ...], *, inline: bool, outer: bool = False
) -> Any:  # noqa: ANN401 -- numba's
    from numba import njit  # noqa: PLC0415 -- takes half a second, and the gateway does without

    known = {**function.__globals__, **dict(using)}
    for name in function.__code__.co_names:
        called = known.get(name)
        if isinstance(called, FunctionType) and called.__module__.startswith(_ROOM):
            # What gets numbers alone is left to LLVM, which does better.
            known[name] = _compiled(called, (), inline=inline and name not in dict(using))
    twin = FunctionType(function.__code__, known, function.__name__, function.__defaults__)
    twin.__module__ = function.__module__
    # Numba's cache tells twins apart by this name alone. It reads what it kept before it looks whether the file is
    # still the same, and fails where that speaks of a class that is no more.
    parts = [getattr(each, "__name__", str(each)) for _, each in using]
    twin.__qualname__ = "-".join([function.__qualname__, *parts, _digest(function.__code__.co_filename)])
    return njit(
        cache=True, nogil=True, error_model="numpy", inline="always" if inline and not outer else "never"
    )(twin)


def _digest(file: str) -> str:
    """Return a digest of a file and of this room's."""
    room = sorted(Path(__file__).parent.glob("*.py"))
    return sha256(b"".join(each.read_bytes() for each in [Path(file), *room])).hexdigest()[:12]


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
