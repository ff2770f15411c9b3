"""Imports any table whose columns the user names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.errors import InputError, nearest
from partita.perf.columns import COLUMNS, NUMBERS, REQUIRED, measurements
from partita.perf.reading import joined
from partita.perf.records import read_records, refuse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from partita.perf.records import Records
    from partita.perf.table import PerfTable


def import_columns(path: Path | str, columns: Mapping[str, str], values: Mapping[str, str]) -> PerfTable:
    """Read a table by a mapping of columns.

    Args:
        path: CSV or JSON lines.
        columns: the column of the file by Partita's name; `p99 * 0.001` multiplies its numbers, and
            `in + out` adds two. Columns that the file calls as Partita does need no entry.
        values: one value for all rows, by Partita's name.

    Raises:
        InputError: an unknown name, a column that the file lacks or has twice, rows that cannot be used, or the
            same point twice.
    """
    for name in (*columns, *values):
        if name not in COLUMNS:
            close = nearest(name, list(COLUMNS))
            hint = f"did you mean {close}?" if close else f"they are {', '.join(COLUMNS)}"
            raise InputError(f"performance tables have no column {name!r}", hint=hint)
    records = read_records(path)
    missing = [name for name in REQUIRED if name not in {**columns, **values} and not records.has(name)]
    if missing:
        raise InputError(
            f"nothing says {', '.join(missing)}",
            where=f"{records.path}:{records.header_line}",
            hint=f"add --columns {missing[0]}=COLUMN or --set {missing[0]}=VALUE; "
            f"the file's columns are {', '.join(records.header)}",
        )
    refuse(records.path, records.ragged)
    if not records.fields:
        raise InputError("a header and no rows", where=f"{records.path}:{records.header_line}")
    found, faults = measurements(
        {
            name: _values(records, name, columns, values)
            for name in COLUMNS
            if _told(records, name, columns, values)
        }
    )
    refuse(
        records.path,
        [
            InputError(each.what, where=f"{records.path}:{records.lines[each.row]}", hint=each.hint)
            for each in faults
        ],
    )
    return joined(found, [f"{records.path}:{line}" for line in records.lines], path=records.path)


def _told(records: Records, name: str, columns: Mapping[str, str], values: Mapping[str, str]) -> bool:
    return name in columns or name in values or records.has(name)


def _values(
    records: Records, name: str, columns: Mapping[str, str], values: Mapping[str, str]
) -> Sequence[object]:
    if name in values:
        return [values[name]] * len(records.fields)
    column = columns.get(name, name)
    if name in NUMBERS:
        return records.numbers(column)
    at = records.header.index(records.column(column))
    return [fields[at] for fields in records.fields]
