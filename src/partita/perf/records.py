"""CSV files as records that know where they stand."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.errors import InputError, nearest, together
from partita.files import read_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SHOWN = 10


@dataclass(frozen=True, slots=True)
class Records:
    """The header and records of a CSV file, and the line on which each record ends."""

    path: str
    header: tuple[str, ...]
    fields: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]

    def __iter__(self) -> Iterator[Record]:
        for line, fields in zip(self.lines, self.fields, strict=True):
            yield Record(f"{self.path}:{line}", dict(zip(self.header, fields, strict=True)))

    def require(self, *names: str) -> None:
        """Refuse a file without these columns.

        Raises:
            InputError: one is missing.
        """
        missing = [name for name in names if name not in self.header]
        if missing:
            close = nearest(missing[0], list(self.header))
            there = f"its columns are {', '.join(self.header)}"
            raise InputError(
                f"no column {missing[0]!r}",
                where=f"{self.path}:1",
                hint=f"is {close!r} meant?" if close else there,
            )


@dataclass(frozen=True, slots=True)
class Record:
    """One record: its place as `file:line`, and its fields by column."""

    place: str
    fields: dict[str, str]

    def text(self, name: str) -> str:
        """Return a field that must not be empty.

        Raises:
            InputError: it is.
        """
        text = self.fields[name].strip()
        if not text:
            raise InputError(f"{name} is empty", where=self.place)
        return text

    def number(self, name: str) -> float:
        """Return a field as a number, zero or more.

        Raises:
            InputError: it is none, negative or not finite.
        """
        text = self.text(name)
        try:
            number = float(text)
        except ValueError:
            raise InputError(f"{name} is {text!r}, not a number", where=self.place) from None
        if not 0 <= number < float("inf"):
            raise InputError(f"{name} is {text}, not a number of zero or more", where=self.place)
        return number

    def count(self, name: str) -> int:
        """Return a field as a whole number above zero.

        Raises:
            InputError: it is none.
        """
        number = self.number(name)
        if number < 1 or not number.is_integer():
            raise InputError(
                f"{name} is {self.fields[name]}, not a whole number above zero", where=self.place
            )
        return int(number)


def read_records(path: Path | str) -> Records:
    """Read a CSV file with a header; `-` reads stdin. Blank lines are passed over.

    Raises:
        InputError: no such file, not text, not CSV, no header, or records of another length than the header.
    """
    text = read_text(path)
    name = "<stdin>" if str(path) == "-" else str(path)
    if "\0" in text:
        raise InputError(
            "this is not a text file", where=name, hint="CSV is read, and Parquet named *.parquet"
        )
    reader = csv.reader(io.StringIO(text, newline=""))
    fields: list[tuple[str, ...]] = []
    lines: list[int] = []
    try:
        header = tuple(field.strip() for field in next(reader, ()))
        for record in reader:
            if record:
                fields.append(tuple(record))
                lines.append(reader.line_num)
    except csv.Error as error:
        raise InputError(f"not CSV: {error}", where=f"{name}:{reader.line_num}") from None
    if not any(header):
        raise InputError("the file is empty", where=name, hint="the first line of a table names its columns")
    refuse(name, _ragged(name, header, fields, lines))
    return Records(name, header, tuple(fields), tuple(lines))


def _ragged(
    name: str, header: Sequence[str], fields: Sequence[Sequence[str]], lines: Sequence[int]
) -> list[InputError]:
    return [
        InputError(f"{len(record)} fields under {len(header)} columns", where=f"{name}:{line}")
        for record, line in zip(fields, lines, strict=True)
        if len(record) != len(header)
    ]


def refuse(path: str, faults: Sequence[InputError]) -> None:
    """Raise one error for all faults of a file: the first ten by place, and how many more there are.

    Raises:
        InputError: there are any.
    """
    if faults:
        raise together(path, faults[:SHOWN], len(faults))
