"""Delimited text as people and programs write it, read as records that know their line.

It reads CSV with commas, semicolons, tabs, bars or blanks, and JSON lines; UTF-8 and UTF-16, with and without a byte
order mark; gzip; comment lines; column names in any case; numbers with a decimal comma or with thousands separators,
where the file shows which of the two a comma is.
"""

from __future__ import annotations

import csv
import io
import json
import re
import zlib
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING

from partita.errors import InputError, counted, nearest, refuse
from partita.files import decoded, json_fault, json_value, read_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

DELIMITERS = ",;\t|"
MOST_BYTES = 2 << 30
"""The largest size to which a compressed file may unpack."""

_GZIP = b"\x1f\x8b"
_FOREIGN = {
    b"PK\x03\x04": ("an Excel workbook or a ZIP archive", "save the sheet as CSV, or unpack the archive"),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", "save the sheet as CSV"),
    b"PAR1": ("a Parquet file", "name it *.parquet"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "unpack it first: zstd -d"),
    b"\xfd7zXZ": ("compressed with xz", "unpack it first: xz -d"),
    b"BZh": ("compressed with bzip2", "unpack it first: bzip2 -d"),
    b"ARROW1": ("an Arrow file", "write it as Parquet or CSV"),
    b"SQLite format 3": ("an SQLite database", "export the table as CSV"),
    b"FEA1": ("a Feather file", "write it as Parquet or CSV"),
    b"ORC": ("an ORC file", "write it as CSV"),
    b"Obj\x01": ("an Avro file", "write it as CSV or JSON lines"),
    b"\x89HDF": ("an HDF5 file", "write the table as CSV"),
    b"\x93NUMPY": ("an array of numpy", "write it with numpy.savetxt, delimiter=',' and a header"),
    b"\x80\x04\x95": ("a pickle of Python", "write the table as CSV"),
    b"\x80\x05\x95": ("a pickle of Python", "write the table as CSV"),
    b"\x04\x22\x4d\x18": ("compressed with lz4", "unpack it first: lz4 -d"),
    b"%PDF": ("a PDF", "find the table as CSV"),
    b"version https://git-lfs": ("a pointer of Git LFS", "fetch the file itself: git lfs pull"),
}
MISSING = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "null", "none", "-", "--", "\\n"})
"""What R, pandas, polars, Excel, BigQuery and databases write, in any case, where they have no value."""


class Notation(Enum):
    """How a file writes numbers: whether they have commas, and what a comma means."""

    PLAIN = "as programs do"
    POINT = "1,234.5"
    COMMA = "1.234,5"
    QUOTED_COMMA = "both, or decimal commas in a file with commas"
    UNKNOWN = "1,234 may be either"

    def plain(self, text: str) -> str:
        """Return a number as `float` reads it; other and ambiguous text is returned unchanged."""
        if self is Notation.PLAIN:
            return text
        parts = _AFFIXES.fullmatch(text.strip())
        if parts:  # `p99,9` and `85,5 %`
            return parts["before"] + self.plain(parts["number"]) + parts["after"]
        bare = _SPACES.sub("", text.strip())
        if self is Notation.POINT and _THOUSANDS.fullmatch(bare):
            return bare.replace(",", "")
        if self is Notation.COMMA and (_DECIMAL.fullmatch(bare) or _DOTTED.fullmatch(bare)):
            return bare.replace(".", "").replace(",", ".")
        if self is Notation.QUOTED_COMMA and _COMMA.fullmatch(bare):
            return bare.replace(".", "").replace(",", ".")
        return bare


_SPACES = re.compile(r"(?<=\d)[ '\u2019\u00a0\u202f\u2009](?=\d{3}(?!\d))")
_AFFIXES = re.compile(r"(?=[pP]|.*%)(?P<before>[pP]?)(?P<number>[^pP%]+?)(?P<after>\s*%?)")
_GROUPS = r"(?:[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d?(?:,\d{2})+,\d{3})"
_POINT = re.compile(rf"[-+]?(?:\d+\.(?!\d{{3}}$)\d+|{_GROUPS}\.\d+)(?:[eE][-+]?\d+)?")
_COMMA = re.compile(
    r"[-+]?(?:\d*,(?!\d{3}$)\d+|\d{4,},\d+|0*,\d+|[1-9]\d{0,2}(?:\.\d{3})+,\d+)(?:[eE][-+]?\d+)?"
)
_THOUSANDS = re.compile(rf"[-+]?{_GROUPS}(?:\.\d*)?")
_DECIMAL = re.compile(r"[-+]?(?:[1-9]\d{0,2}(?:\.\d{3})+|\d*),\d+(?:[eE][-+]?\d+)?")
_DOTTED = re.compile(r"[-+]?[1-9]\d{0,2}(?:\.\d{3})+")


def _notation(text: str, rows: list[tuple[str, ...]], delimiter: str) -> Notation:
    """Return how a file writes numbers.

    A comma is a decimal comma if a number of the file shows it (`22,3`), a thousands separator if one shows that
    (`1,234.5`) or the delimiter is the comma itself.
    """
    if '"' not in text and not _SPACES.search(text) and (delimiter == "," or "," not in text):
        return Notation.PLAIN
    bare = {
        _SPACES.sub("", each.strip().lstrip("pP").rstrip("% \u00a0\u202f"))
        for row in rows
        for each in row
        if each[:1] in "+-0123456789, pP"
    }
    comma = any(map(_COMMA.fullmatch, bare))
    point = delimiter == "," or any(map(_POINT.fullmatch, bare))
    if comma:
        return Notation.QUOTED_COMMA if point else Notation.COMMA
    return Notation.POINT if point else Notation.UNKNOWN


@dataclass(frozen=True, slots=True)
class Record:
    """One record: its place as `file:line`, and its fields by column as the file names it."""

    place: str
    fields: dict[str, str]
    records: Records

    def has(self, name: str) -> bool:
        """Return whether the field is there and not empty."""
        column = self.records.columns.get(plain_name(name))
        return column is not None and self.fields[column].strip().casefold() not in MISSING

    def text(self, name: str) -> str:
        """Return a field that must not be empty.

        Raises:
            InputError: it is.
        """
        text = self.fields[self.records.columns[plain_name(name)]].strip()
        if not text:
            raise InputError(f"{name} is empty", where=self.place)
        return text

    def number(self, name: str) -> float:
        """Return a field as a number, zero or more.

        Raises:
            InputError: it is not a number, negative or not finite.
        """
        text = self.text(name)
        try:
            number = float(self.records.notation.plain(text))
        except ValueError:
            raise InputError(
                f"{name} is {text!r}, not a number", where=self.place, hint=number_hint(text)
            ) from None
        if not 0 <= number < float("inf"):
            raise InputError(f"{name} is {text}, not a number of zero or more", where=self.place)
        return number

    def count(self, name: str) -> int:
        """Return a field as a whole number above zero.

        Raises:
            InputError: it is not a whole number above zero.
        """
        number = self.number(name)
        if number < 1 or not number.is_integer():
            raise InputError(f"{name} is {self.text(name)}, not a whole number above zero", where=self.place)
        return int(number)


@dataclass(frozen=True)
class Records:
    """The header and records of a file, and the line on which each record ends.

    Attributes:
        path: the file's name in errors.
        header: the column names as written, without spaces around them.
        fields: a record's fields, as many as there are columns.
        lines: the line of each record.
        header_line: the line of the header.
        ragged: records of another length than the header, which are in none of the above.
        notation: how the file writes numbers.
    """

    path: str
    header: tuple[str, ...]
    fields: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]
    header_line: int = 1
    ragged: tuple[InputError, ...] = ()
    notation: Notation = Notation.PLAIN

    def __iter__(self) -> Iterator[Record]:
        for line, fields in zip(self.lines, self.fields, strict=True):
            yield Record(f"{self.path}:{line}", dict(zip(self.header, fields, strict=True)), self)

    @cached_property
    def columns(self) -> dict[str, str]:
        """The column names as written, by their plain form; of two with the same plain form the first."""
        return {plain_name(name): name for name in reversed(self.header)}

    def has(self, *names: str) -> bool:
        """Return whether the file has all these columns."""
        return all(plain_name(name) in self.columns for name in names)

    def require(self, *names: str) -> None:
        """Refuse a file without these columns, or with records of another length than its header.

        Raises:
            InputError: one is missing, or there are such records.
        """
        faults = []
        for name in names:
            try:
                self.column(name)
            except InputError as error:
                faults.append(error)
        refuse(self.path, [*faults, *self.ragged])

    def column(self, name: str) -> str:
        """Return a column's name as the file writes it.

        Raises:
            InputError: the file has no such column.
        """
        alike = [each for each in self.header if plain_name(each) == plain_name(name)]
        if len(alike) > 1 and alike.count(name) != 1:
            raise InputError(
                f"column {alike[0]!r} appears twice",
                where=f"{self.path}:{self.header_line}",
                hint="leave one of the two out, or name them apart",
            )
        found = name if name in alike else next(iter(alike), None)
        if found is None:
            close = nearest(name, list(self.header))
            raise InputError(
                f"no column {name!r}",
                where=f"{self.path}:{self.header_line}",
                hint=f"did you mean {close!r}?" if close else f"its columns are {', '.join(self.header)}",
            )
        return found

    def numbers(self, expression: str) -> list[str]:
        """Return a column's numbers, a multiple of them (`p99 * 0.001`, `p99 / 1000`), or a sum of such, as text.

        A field that is not a number is returned unchanged; in a sum it is returned instead of the sum.

        Raises:
            InputError: the file has no such column.
        """
        if self.has(expression):
            return self._plain(expression)
        terms = [_TERM.fullmatch(each.strip()) for each in expression.split("+")]
        if not all(terms) or (len(terms) == 1 and terms[0] and terms[0]["factor"] is None):
            self.column(expression)
        parts = [
            [_times(text, factor) for text in self._plain(term["name"])]
            for term in terms
            if term
            for factor in [_factor(term["sign"], term["factor"])]
        ]
        return parts[0] if len(parts) == 1 else [_sum(texts) for texts in zip(*parts, strict=True)]

    def _plain(self, name: str) -> list[str]:
        at = self.header.index(self.column(name))
        return [self.notation.plain(fields[at]) for fields in self.fields]


_TERM = re.compile(r"(?P<name>.+?)(?:\s*(?P<sign>[*/])\s*(?P<factor>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?))?")


def _factor(sign: str | None, factor: str | None) -> float:
    number = 1.0 if factor is None else float(factor)
    if number == 0.0:
        raise InputError(f"a factor of {factor} leaves nothing of a number", where="--columns")
    return 1 / number if sign == "/" else number


def _times(text: str, factor: float) -> str:
    return repr(float(text) * factor) if _is_number(text) else text


def _sum(texts: tuple[str, ...]) -> str:
    odd = next((each for each in texts if not _is_number(each)), None)
    return repr(sum(map(float, texts))) if odd is None else odd


def plain_name(name: str) -> str:
    """Return a column's name in lower case, with underscores for spaces and punctuation."""
    return _PUNCTUATION.sub("_", name.casefold()).strip("_")


_PUNCTUATION = re.compile(r"[^\w%]+|_+")


def read_records(path: Path | str) -> Records:
    """Read a file with a header, or JSON lines; `-` reads stdin.

    It skips blank lines, lines of empty fields, and lines that begin with `#`. A header that begins with `#`, as
    numpy writes it, is recognised by its number of fields. Empty fields beyond the header's are dropped.

    Raises:
        InputError: no such file, not text, not CSV, no header.
    """
    name = "<stdin>" if str(path) == "-" else str(path)
    content = _unpacked(read_bytes(path), name)
    text = decoded(content, name)
    if "\0" in text:
        raise InputError(
            "this is not a text file", where=name, hint="CSV is read, and Parquet named *.parquet"
        )
    start = text.lstrip()[:1]
    if start == "<":
        raise InputError(
            "this is a web page or XML, not a table", where=name, hint="download the file itself"
        )
    return _json_records(text, name) if start in ("{", "[") else _delimited(text, name)


def _unpacked(content: bytes, name: str) -> bytes:
    """Return what a file holds, unpacked if it is gzip.

    Raises:
        InputError: damaged, packed twice, or of a binary format that its first bytes show.
    """
    if content.startswith(_GZIP):
        content = _gunzipped(content, name)
    for magic, (what, hint) in _FOREIGN.items():
        if content.startswith(magic):
            named = magic == b"PAR1" and name.lower().endswith((".parquet", ".pq"))
            mend = "write it as CSV or JSON lines" if named else hint
            raise InputError(f"this is {what}, not CSV", where=name, hint=mend)
    if content.startswith(_GZIP):
        raise InputError("this is packed twice", where=name, hint="unpack it first: gzip -d")
    return content


def _gunzipped(content: bytes, name: str) -> bytes:
    parts, size = [], 0
    while content:
        member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            parts.append(member.decompress(content, MOST_BYTES - size + 1))
        except zlib.error:
            raise InputError("this gzip file is damaged", where=name, hint="fetch it again") from None
        size += len(parts[-1])
        if size > MOST_BYTES:
            raise InputError(f"unpacks to more than {MOST_BYTES >> 30} GiB", where=name, hint="split it")
        if not member.eof:
            raise InputError("this gzip file ends too early", where=name, hint="fetch it again")
        content = member.unused_data.lstrip(b"\0")
    return b"".join(parts)


class _Lines:
    """The lines of a text for the csv module: comments left out at the start of a record, lines counted."""

    def __init__(self, text: str) -> None:
        self._lines = io.StringIO(text, newline="")
        self.number = 0
        self.between = True
        self.comments: list[tuple[int, str]] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        for line in self._lines:
            self.number += 1
            if self.between and line.lstrip().startswith("#"):
                self.comments.append((self.number, line))
                continue
            self.between = False
            return line
        raise StopIteration


def _delimited(text: str, name: str) -> Records:
    lines = _Lines(text)
    delimiter = _delimiter(text)
    rows: list[tuple[int, list[str]]] = []
    spaced = f'{delimiter} "' in text
    try:
        for row in csv.reader(lines, delimiter=delimiter, skipinitialspace=spaced):
            lines.between = True
            if any(map(str.strip, row)) and not (not rows and _excel_hint(row)):
                rows.append((lines.number, row))
    except csv.Error as error:
        raise InputError(f"not CSV: {error}", where=f"{name}:{lines.number}") from None
    rows = _with_row_names(_with_commented_header(rows, lines.comments, delimiter))
    if not rows:
        raise InputError("the file is empty", where=name, hint="the first line of a table names its columns")
    at, first = rows[0]
    header = tuple(each.strip() for each in first)
    while len(header) > 1 and not header[-1]:
        header = header[:-1]
    # Tables that were put one after the other, as by `cat`, have the header again.
    below = [row for row in rows[1:] if row[1] != first]
    kept, places, ragged = _even(below, len(header), name)
    return Records(name, header, tuple(kept), places, at, ragged, _notation(text, kept, delimiter))


def _delimiter(text: str) -> str:
    """Return the delimiter that the first line with one has most of, outside quotes."""
    for line in io.StringIO(text):
        bare = _QUOTED.sub("", line)
        if (bare.strip() and not bare.lstrip().startswith("#")) or bare.lower().startswith("sep="):
            counts = {mark: bare.count(mark) for mark in DELIMITERS}
            best = max(counts, key=lambda mark: counts[mark])
            return best if counts[best] else _blank(line)
    return ","


_QUOTED = re.compile(r'"[^"]*"')


def _blank(line: str) -> str:
    """Return a blank for a line with blanks and no other delimiter, as of R's `write.table` and numpy's `savetxt`."""
    return " " if " " in _QUOTED.sub("", line).strip() else ","


def _with_row_names(rows: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """Return the rows with an empty name for a first column of row numbers, which R writes without a name."""
    if len(rows) < 2 or any(len(row) != len(rows[0][1]) + 1 for _, row in rows[1:]):
        return rows
    if [row[0] for _, row in rows[1:]] != [str(number) for number in range(1, len(rows))]:
        return rows
    return [(rows[0][0], ["", *rows[0][1]]), *rows[1:]]


def _excel_hint(row: Sequence[str]) -> bool:
    """Return whether a first line is Excel's `sep=;`, which names the delimiter and is no header."""
    return row[0].strip().lower().startswith("sep=") and len("".join(row)) <= len("sep=,")


def _with_commented_header(
    rows: list[tuple[int, list[str]]], comments: list[tuple[int, str]], delimiter: str
) -> list[tuple[int, list[str]]]:
    """Return the rows with a header that begins with `#` before them, if the first row is not a header."""
    if rows and any(map(_is_number, rows[0][1])):
        for number, line in comments:
            fields = next(csv.reader([line.lstrip().lstrip("#")], delimiter=delimiter, skipinitialspace=True))
            if (
                number < rows[0][0]
                and len(fields) == len(rows[0][1]) > 1
                and not any(map(_is_number, fields))
            ):
                return [(number, fields), *rows]
    return rows


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _even(
    rows: Iterable[tuple[int, list[str]]], width: int, name: str
) -> tuple[list[tuple[str, ...]], tuple[int, ...], tuple[InputError, ...]]:
    kept: list[tuple[str, ...]] = []
    places: list[int] = []
    ragged: list[InputError] = []
    for line, row in rows:
        if len(row) > width and not any(map(str.strip, row[width:])):
            del row[width:]
        if len(row) == width:
            kept.append(tuple(row))
            places.append(line)
        else:
            hint = (
                "quote a number that holds a comma, or a text that holds a delimiter"
                if len(row) > width
                else None
            )
            ragged.append(
                InputError(
                    f"{counted(len(row), 'field')} under {width} columns", where=f"{name}:{line}", hint=hint
                )
            )
    return kept, tuple(places), tuple(ragged)


def number_hint(text: str) -> str | None:
    """Return the hint for a text that should have been a number."""
    if _THOUSANDS.fullmatch(text.strip()):
        return "it is ambiguous: write a decimal point, and no thousands separator"
    if _WITH_UNIT.fullmatch(text.strip()):
        return "write the number alone, in the unit of the column"
    return None


_WITH_UNIT = re.compile(r"[-+]?[\d.,]+\s*[^\W\d_][^\d]*|[-+]?[\d.,]+\s*[%/\u00b5][^\d]*")


def _json_records(text: str, name: str) -> Records:
    """Return JSON lines, or an array of objects, as records; the columns are the keys in order of appearance."""
    rows: list[dict[str, object]] = []
    places: list[int] = []
    for line, value in _json_values(text, name):
        if not isinstance(value, dict):
            raise InputError("this line is not a JSON object", where=f"{name}:{line}")
        rows.append(_flat(value))
        places.append(line)
    header = tuple(dict.fromkeys(key for row in rows for key in row))
    if not header:
        raise InputError("the file holds no values", where=name)
    fields = tuple(tuple(_scalar(row.get(key)) for key in header) for row in rows)
    return Records(name, tuple(key.strip() for key in header), fields, tuple(places))


def _json_values(text: str, name: str) -> Iterator[tuple[int, object]]:
    if text.lstrip().startswith("["):
        try:
            values = json_value(text, _once)
        except json.JSONDecodeError as error:
            raise InputError(json_fault(error), where=f"{name}:{error.lineno}") from None
        except InputError as error:
            raise InputError(error.what, where=name, hint=error.hint) from None
        yield from ((1, value) for value in values)
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                value = json_value(line, _once)
            except json.JSONDecodeError as error:
                raise InputError(
                    json_fault(error),
                    where=f"{name}:{number}",
                    hint="write one JSON object on each line, or a list of them (pandas: orient='records')",
                ) from None
            except InputError as error:
                raise InputError(error.what, where=f"{name}:{number}", hint=error.hint) from None
            yield number, value


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{twice!r} appears twice in one object", hint="keep one of the two")
    return found


def _flat(value: dict[str, object], before: str = "") -> dict[str, object]:
    """Return an object's values by their paths: `input` inside `data` is `data.input`."""
    found: dict[str, object] = {}
    for key, each in value.items():
        if isinstance(each, dict):
            found |= _flat(each, f"{before}{key}.")
        else:
            found[before + key] = each
    return found


def _scalar(value: object) -> str:
    if value is None or isinstance(value, list):
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
