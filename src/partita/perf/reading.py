"""Reads performance tables from CSV and Parquet, and refuses what planning could not rely on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from partita.errors import InputError
from partita.perf.columns import COLUMNS, header_faults, measurements
from partita.perf.records import read_records, refuse
from partita.perf.table import PerfTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from partita.perf.table import Measurement

PARQUET = frozenset({".parquet", ".pq"})


@dataclass(frozen=True, slots=True)
class _Source:
    """A file's columns, and where each row stands: `file:line` of CSV, `file: row N` of Parquet."""

    path: str
    columns: Mapping[str, Sequence[object]]
    lines: Sequence[int] | None

    def place(self, row: int) -> str:
        return f"{self.path}: row {row + 1}" if self.lines is None else f"{self.path}:{self.lines[row]}"


def read_table(path: Path | str) -> PerfTable:
    """Read one performance table; `-` reads CSV from stdin.

    Raises:
        InputError: no such file, no table, or rows that cannot be used; all are counted and ten shown.
    """
    return read_tables([path])


def read_tables(paths: Iterable[Path | str]) -> PerfTable:
    """Read performance tables and join them.

    Raises:
        InputError: as `read_table`, or the same point in two places.
    """
    rows: list[Measurement] = []
    places: list[tuple[_Source, int]] = []
    for path in paths:
        source = _parquet(path) if Path(path).suffix.lower() in PARQUET else _csv(path)
        found, faults = measurements(source.columns)
        refuse(
            source.path,
            [InputError(each.what, where=source.place(each.row), hint=each.hint) for each in faults],
        )
        rows += found
        places += [(source, row) for row in range(len(found))]
    _refuse_duplicates(rows, places)
    return PerfTable(rows)


def _refuse_duplicates(rows: list[Measurement], places: list[tuple[_Source, int]]) -> None:
    keys = [(r.model, r.gpu, r.profile, r.batch, r.processes, r.quantile) for r in rows]
    if len(set(keys)) == len(keys):
        return
    first: dict[tuple[object, ...], int] = {}
    faults: list[InputError] = []
    for index, key in enumerate(keys):
        earlier = first.setdefault(key, index)
        if earlier != index:
            (source, row), (other, at) = places[index], places[earlier]
            faults.append(
                InputError(
                    "{} on {} {}, batch {}, processes {}, quantile {}".format(*key)
                    + f" is already at {other.place(at)}",
                    where=source.place(row),
                    hint="keep one of the two rows",
                )
            )
    refuse(places[-1][0].path, faults)


def _csv(path: Path | str) -> _Source:
    records = read_records(path)
    _refuse_header(records.header, f"{records.path}:1", rows=len(records.fields))
    columns = dict(zip(records.header, zip(*records.fields, strict=True), strict=True))
    return _Source(records.path, columns, records.lines)


def _refuse_header(header: Sequence[str], where: str, *, rows: int) -> None:
    faults = header_faults(header)
    if faults:
        raise InputError("; ".join(faults), where=where, hint=f"the columns are {', '.join(COLUMNS)}")
    if not rows:
        raise InputError("a header and no rows", where=where, hint="`partita perf import` fills tables")


def _parquet(path: Path | str) -> _Source:
    name = str(path)
    try:
        import pyarrow as pa  # noqa: PLC0415 -- an extra, and 45 MB
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise InputError(
            "Parquet tables need pyarrow", where=name, hint="pip install 'partita[parquet]'"
        ) from None
    if Path(path).is_dir():
        raise InputError("this is a directory, not a file", where=name)
    try:
        table = parquet.read_table(name)
    except FileNotFoundError:
        raise InputError("no such file", where=name) from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"not a Parquet file: {str(error).splitlines()[0]}", where=name) from None
    _refuse_header(table.column_names, name, rows=table.num_rows)
    nested = [field.name for field in table.schema if pa.types.is_nested(field.type)]
    if nested:
        raise InputError(f"column {nested[0]!r} holds lists, not values", where=name)
    return _Source(name, {each: table.column(each).to_pylist() for each in table.column_names}, None)
