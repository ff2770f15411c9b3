"""Writes performance tables as CSV or Parquet, whole or not at all."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import IO, TYPE_CHECKING

from partita.errors import InputError
from partita.files import replacing
from partita.perf.columns import OPTIONAL, REQUIRED
from partita.perf.reading import PARQUET

if TYPE_CHECKING:
    from partita.perf.table import PerfTable


def write_table(table: PerfTable, path: Path | str) -> None:
    """Write a table: Parquet where the name ends in `.parquet` or `.pq`, else CSV.

    Optional columns that no row fills are left out. Reading the file gives the same rows again.

    Raises:
        InputError: the place cannot be written to, or Parquet without pyarrow.
    """
    if Path(path).suffix.lower() in PARQUET:
        content = _parquet(table, str(path))
        with replacing(path) as stream:
            stream.buffer.write(content)
    else:
        with replacing(path) as stream:
            write_csv(table, stream)


def write_csv(table: PerfTable, stream: IO[str]) -> None:
    """Write a table as CSV to an open text stream."""
    names = _filled(table)
    out = csv.writer(stream, lineterminator="\n")
    quoted = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    out.writerow(names)
    for row in table:  # a line that begins with # would be read as a comment
        writer = quoted if row.model.startswith("#") else out
        writer.writerow([_plain(getattr(row, name)) for name in names])


def _filled(table: PerfTable) -> list[str]:
    return [*REQUIRED, *(name for name in OPTIONAL if any(not _empty(getattr(row, name)) for row in table))]


def _empty(value: object) -> bool:
    return value is None or value is False or value == ""


def _plain(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


def _parquet(table: PerfTable, name: str) -> bytes:
    try:
        import pyarrow as pa  # noqa: PLC0415 -- an extra, and 45 MB
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise InputError(
            "Parquet tables need pyarrow", where=name, hint="pip install 'partita[parquet]'"
        ) from None
    columns = {each: [getattr(row, each) for row in table] for each in _filled(table)}
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns), buffer)
    return buffer.getvalue()
