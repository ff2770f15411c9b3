"""Frames of pandas, polars or Arrow to columns and back, through narwhals, which depends on none of them."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from partita.errors import InputError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BACKENDS = ("pandas", "polars", "pyarrow")
"""Libraries of frames. The default is the first that is imported, otherwise the first that is installed."""


_TYPES: dict[str, type] = {
    **dict.fromkeys(("start", "batch", "processes", "instances", "queries"), int),
    **dict.fromkeys(("compute", "memory", "memory_mib", "max_instances"), int),
    **dict.fromkeys(
        ("throughput", "latency_ms", "rate", "capacity", "latency_slo_ms", "seconds", "busy"), float
    ),
    **dict.fromkeys(("memory_mb", "utilization", "power_w"), float),
    "estimated": bool,
}
"""Types of the columns of Partita's frames; all others are text."""


def columns_of(frame: object) -> dict[str, list[object]]:
    """Return the columns of a frame as lists, with None where a value is missing.

    Args:
        frame: of pandas, polars (eager or lazy), pyarrow or another library that narwhals knows; or an object with an
            Arrow stream. Named levels of a pandas index become columns, too.

    Raises:
        InputError: it is not a table, a lazy frame fails, or two columns have the same name.
    """
    import narwhals.stable.v2 as nw  # noqa: PLC0415 -- needed only for frames

    try:
        found = nw.from_native(frame, pass_through=True)
        if not isinstance(found, nw.DataFrame | nw.LazyFrame):
            if not hasattr(frame, "__arrow_c_stream__"):
                raise _no_table(frame)
            try:
                found = nw.from_arrow(frame, backend=_backend(None))
            except ValueError:  # from pyarrow: a single column has an Arrow stream, too
                raise _no_table(frame) from None
        eager = found.collect() if isinstance(found, nw.LazyFrame) else found
    except nw.exceptions.DuplicateError as error:
        raise _unreadable(error, hint="give each column a name of its own") from None
    except (nw.exceptions.NarwhalsError, OSError) as error:
        raise _unreadable(error) from None
    eager = _with_index(eager)
    # In pandas a name need not be text; with several levels of columns it is a tuple.
    return {str(name): _values(eager.get_column(name)) for name in eager.columns}


def _no_table(frame: object) -> InputError:
    return InputError(
        f"{type(frame).__name__} is not a table",
        hint="give a frame of pandas or polars, an Arrow table, or the path of a file",
    )


def _unreadable(error: Exception, hint: str | None = None) -> InputError:
    return InputError(f"this frame cannot be read: {str(error).strip().partition(chr(10) * 2)[0]}", hint=hint)


def _with_index(frame: Any) -> Any:  # noqa: ANN401 -- a frame of narwhals
    """Return a frame with the named levels of its index as columns; only pandas has an index."""
    import narwhals.stable.v2 as nw  # noqa: PLC0415 -- as above

    index = nw.maybe_get_index(frame)
    names = [] if index is None else [each for each in index.names if isinstance(each, str)]
    added = [each for each in names if each not in frame.columns]
    return nw.from_native(frame.to_native().reset_index(level=added)) if added else frame


def _values(column: Any) -> list[object]:  # noqa: ANN401 -- a series of narwhals
    """Return the values, None for missing ones, which pandas marks with NaN."""
    values: list[object] = column.to_list()
    if column.null_count():
        return [
            None if gone else value for value, gone in zip(values, column.is_null().to_list(), strict=True)
        ]
    return values


def frame_of(columns: Mapping[str, Sequence[object]], backend: str | None = None) -> Any:  # noqa: ANN401 -- the reader's own
    """Return columns as a frame.

    Args:
        columns: lists of equal length, by name.
        backend: one of `BACKENDS`; None for the first that is imported, otherwise the first that is installed.

    Raises:
        InputError: there is no such backend, or it is not installed.
    """
    import narwhals.stable.v2 as nw  # noqa: PLC0415 -- as above

    frame = nw.from_dict(dict(columns), backend=_backend(backend))
    # A column without values has no useful type. pandas would turn None into text, and cannot cast it to int.
    bare = [
        name
        for name, values in columns.items()
        if not values or (not frame.implementation.is_pandas() and all(each is None for each in values))
    ]
    types: dict[type, Any] = {int: nw.Int64, float: nw.Float64, bool: nw.Boolean, str: nw.String}
    return frame.with_columns(nw.col(name).cast(types[_TYPES.get(name, str)]) for name in bare).to_native()


def _backend(asked: str | None) -> Any:  # noqa: ANN401 -- one of BACKENDS, which narwhals types as literals
    if asked is None:
        there = [name for name in BACKENDS if name in sys.modules] or [n for n in BACKENDS if find_spec(n)]
        if not there:
            raise InputError("no library for frames is installed", hint="install one: pip install pandas")
        return there[0]
    if asked not in BACKENDS:
        meant = nearest(str(asked), list(BACKENDS))
        hint = f"did you mean {meant}?" if meant else f"one of {', '.join(BACKENDS)}"
        raise InputError(f"frames cannot be made of {asked!r}", hint=hint)
    if not find_spec(asked):
        raise InputError(f"{asked} is not installed", hint=f"pip install {asked}")
    return asked
