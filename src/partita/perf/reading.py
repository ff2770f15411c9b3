"""Reads and writes performance tables, CSV and Parquet, and refuses what planning could not rely on."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from partita.errors import InputError
from partita.files import replacing
from partita.frames import columns_of
from partita.perf.columns import COLUMNS, NUMBERS, OPTIONAL, REQUIRED, implausible, measurements, read_header
from partita.perf.records import Notation, plain_name, read_records, refuse
from partita.perf.table import PerfTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from partita.perf.table import Measurement


PARQUET = frozenset({".parquet", ".pq"})


@dataclass(frozen=True, slots=True)
class _Source:
    """A file's columns, and where each row stands: `file:line` of CSV, `file: row N` of Parquet.

    Attributes:
        columns: values by the name of a column of performance tables.
        lines: of each row, None where the file has none.
        faults: what is wrong with the header, and rows of another length.
        extra: columns that are passed over.
    """

    path: str
    columns: Mapping[str, Sequence[object]]
    lines: Sequence[int] | None
    faults: tuple[InputError, ...]
    extra: tuple[str, ...]

    def place(self, row: int) -> str:
        return f"{self.path}: row {row + 1}" if self.lines is None else f"{self.path}:{self.lines[row]}"


def read_table(path: Path | str) -> PerfTable:
    """Read one performance table; `-` reads CSV from stdin.

    Raises:
        InputError: no such file, no table, or rows that cannot be used; all are counted, and every kind is told.
    """
    return read_tables([path])


def read_tables(sources: Iterable[object]) -> PerfTable:
    """Read performance tables and join them.

    Each is the path of a file, CSV or Parquet, or a frame of pandas, polars or Arrow. The table's notes say which
    columns were passed over and which rows are implausible.

    Raises:
        InputError: as `read_table`, or the same point in two places.
    """
    rows: list[Measurement] = []
    places: list[tuple[_Source, int]] = []
    notes: list[str] = []
    for each in sources:
        source = _source_of(each)
        found, faults = measurements(source.columns)
        told = [InputError(fault.what, where=source.place(fault.row), hint=fault.hint) for fault in faults]
        refuse(source.path, [*source.faults, *told])
        if source.extra:
            notes.append(f"{source.path}: passed over: {', '.join(map(repr, source.extra))}")
        rows += found
        places += [(source, row) for row in range(len(found))]
    stand = [source.place(row) for source, row in places]
    return joined(rows, stand, path=places[-1][0].path if places else "", notes=notes)


def joined(
    rows: Sequence[Measurement], places: Sequence[str], *, path: str, notes: Iterable[str] = ()
) -> PerfTable:
    """Return rows as a table, with notes of what is hard to believe of them.

    Args:
        rows: the measurements.
        places: where each stands.
        path: what an error about several rows calls their file.
        notes: what was told before.

    Raises:
        InputError: the same point twice.
    """
    _refuse_duplicates(rows, places, path)
    return PerfTable(rows, (*notes, *implausible(rows, lambda row: places[row])))


def _refuse_duplicates(rows: Sequence[Measurement], places: Sequence[str], path: str) -> None:
    keys = [(r.model, r.gpu, r.profile, r.batch, r.processes, r.quantile) for r in rows]
    if len(set(keys)) == len(keys):
        return
    first: dict[tuple[object, ...], int] = {}
    faults: list[InputError] = []
    for index, key in enumerate(keys):
        earlier = first.setdefault(key, index)
        if earlier != index:
            faults.append(
                InputError(
                    "{} on {} {}, batch {}, processes {}, quantile {}".format(*key)
                    + f" is already at {places[earlier]}",
                    where=places[index],
                    hint="keep one of the two rows",
                )
            )
    refuse(path, faults)


def _source_of(given: object) -> _Source:
    if not isinstance(given, str | Path):
        columns = columns_of(given)
        filled = bool(next(iter(columns.values()), ()))
        return _source("the frame", list(columns), columns if filled else {}, where="the frame")
    return _parquet(given) if Path(given).suffix.lower() in PARQUET else _csv(given)


def _csv(path: Path | str) -> _Source:
    records = read_records(path)
    columns: dict[str, Sequence[object]] = dict(
        zip(records.header, zip(*records.fields, strict=True), strict=False)
    )
    if records.notation is not Notation.PLAIN:
        plain = records.notation.plain
        for name in columns.keys() & {records.columns.get(each) for each in NUMBERS}:
            columns[name] = [plain(str(each)) for each in columns[name]]
    where = f"{records.path}:{records.header_line}"
    return _source(
        records.path, records.header, columns, where=where, lines=records.lines, ragged=records.ragged
    )


def _source(
    path: str,
    header: Sequence[str],
    columns: Mapping[str, Sequence[object]],
    *,
    where: str,
    lines: Sequence[int] | None = None,
    ragged: Sequence[InputError] = (),
) -> _Source:
    compared = read_header(header)
    if not columns and not ragged and not compared.faults:
        raise InputError("a header and no rows", where=where, hint="`partita perf import` fills tables")
    if compared.faults and not compared.names:
        raise InputError(
            f"this is no performance table: its columns are {', '.join(header)}",
            where=where,
            hint="`partita perf import --help` lists what other tools write; `import csv` maps any columns",
        )
    hint = f"the columns are {', '.join(COLUMNS)}; `partita perf import csv --columns` maps others"
    faults = [InputError(each, where=where, hint=hint) for each in compared.faults]
    known = {name: columns[written] for name, written in compared.names.items() if written in columns}
    return _Source(path, known, lines, (*faults, *ragged), compared.extra)


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
    nested = [f.name for f in table.schema if pa.types.is_nested(f.type) and plain_name(f.name) in COLUMNS]
    if nested:
        raise InputError(f"column {nested[0]!r} holds lists, not values", where=name)
    plain = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
    columns = {each: table.column(each).to_pylist() for each in plain} if table.num_rows else {}
    return _source(name, plain, columns, where=name)


def write_table(table: PerfTable, path: Path | str) -> None:
    """Write a table: Parquet where the name ends in `.parquet` or `.pq`, else CSV.

    Optional columns that no row fills are left out. Reading the file gives the same rows again.

    Raises:
        InputError: the place cannot be written to, or Parquet without pyarrow.
    """
    if Path(path).suffix.lower() in PARQUET:
        content = _as_parquet(table, str(path))
        with replacing(path) as stream:
            stream.buffer.write(content)
    else:
        with replacing(path) as stream:
            write_csv(table, stream)


def write_csv(table: PerfTable, stream: IO[str]) -> None:
    """Write a table as CSV to an open text stream."""
    names = columns_filled(table)
    out = csv.writer(stream, lineterminator="\n")
    quoted = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    out.writerow(names)
    for row in table:  # a line that begins with # would be read as a comment
        writer = quoted if row.model.startswith("#") else out
        writer.writerow([_plain(getattr(row, name)) for name in names])


def columns_filled(table: PerfTable) -> list[str]:
    """Return the names of the columns that a table has: all that are required, and the others that a row fills."""
    return [*REQUIRED, *(name for name in OPTIONAL if any(not _empty(getattr(row, name)) for row in table))]


def _empty(value: object) -> bool:
    return value is None or value is False or value == ""


def _plain(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


def _as_parquet(table: PerfTable, name: str) -> bytes:
    try:
        import pyarrow as pa  # noqa: PLC0415 -- an extra, and 45 MB
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise InputError(
            "Parquet tables need pyarrow", where=name, hint="pip install 'partita[parquet]'"
        ) from None
    columns = {each: [getattr(row, each) for row in table] for each in columns_filled(table)}
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns), buffer)
    return buffer.getvalue()
