"""What the commands that make performance tables share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from partita.cli.output import echo, own
from partita.errors import InputError, counted
from partita.perf.reading import write_csv, write_table

if TYPE_CHECKING:
    from partita.perf.table import PerfTable

Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="Write CSV, or Parquet, to this file instead of stdout."),
]


def batch_sizes(text: str) -> list[int]:
    """Return the batch sizes of an option, ascending.

    Raises:
        InputError: they are none.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(
            f"{text!r} are not batch sizes", where="--batches", hint="write numbers, as in 1,8,32"
        )
    return sorted({int(part) for part in parts})


def write(table: PerfTable, out: Path | None) -> None:
    """Write a table to a file, or as CSV to stdout."""
    if out is None:
        write_csv(table, own())
    else:
        write_table(table, out)
        rows, models = counted(len(table), "row"), counted(len(table.models), "model")
        echo(f"wrote {rows} of {models} to {out}", err=True)
    for note in table.notes:
        echo(f"note: {note}", err=True)
