"""TOML to plain data, with a line for each field."""

from __future__ import annotations

import re
import tomllib
from functools import partial
from typing import TYPE_CHECKING, Any

from partita.documents.codec import DocumentSource
from partita.documents.json_text import nearest_lines
from partita.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from partita.documents.codec import FieldPath


def parse_toml(text: str, name: str, hint: str) -> tuple[dict[str, Any], DocumentSource]:
    """Return the plain data of a TOML text, and what finds its lines; `hint` is for text that is none.

    Raises:
        InputError: it is no TOML, with line and column.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what = str(error)
        at = re.search(r" \(at (line (\d+), column (\d+)|end of document)\)$", what)
        where = f"{name}:{at[2]}:{at[3]}" if at and at[2] else name
        told = what[: at.start()] if at and at[2] else what
        raise InputError(f"not TOML: {told[:1].lower()}{told[1:]}", where=where, hint=hint) from None
    except RecursionError:
        raise InputError("not TOML: nested too deep", where=name, hint=hint) from None
    return data, DocumentSource(name, partial(_lines, text))


def _lines(text: str, paths: Iterable[FieldPath]) -> dict[FieldPath, int]:
    return nearest_lines(_places(text), paths)


def _places(text: str) -> Iterator[tuple[FieldPath, int]]:
    """Yield the path and the line of each table and each of its keys that has a line of its own."""
    table: FieldPath = ()
    count: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if head := re.match(r"\s*(\[{1,2})\s*([\w.-]+)\s*\]{1,2}", line):
            name = head[2]
            table = tuple(name.split("."))
            if head[1] == "[[":
                table = (*table, count.setdefault(name, 0))
                count[name] += 1
            yield table, number
        elif key := re.match(r"\s*([\w-]+)\s*=", line):
            yield (*table, key[1]), number
