"""Text to plain data and values, and back: JSON, YAML and TOML, with the line of every fault.

`read` reads users' files, YAML 1.2 or JSON. Workers read only JSON and import little, so the parsers of YAML and TOML
are imported when they are needed.
"""

from __future__ import annotations

import json
import re
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from partita.documents.codec import DocumentSource, Value, convert, readable, to_data
from partita.errors import InputError
from partita.files import json_fault, json_value, read_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import TextIO

    from partita.documents.codec import DocumentKind, FieldPath

T = TypeVar("T")


def read(path: Path | str, kind: type[T] | DocumentKind[T]) -> T:
    """Read a document, YAML or JSON; `-` reads stdin.

    Args:
        path: the file.
        kind: the type wanted, or the kind of document, whose header is then required.

    Raises:
        InputError: the file cannot be read; or all its faults, each with `file:line`, the field and a hint.
    """
    data, source = parse(read_text(path), "<stdin>" if str(path) == "-" else str(path))
    return convert(data, kind, source)


def parse(
    text: str, name: str, on_object: Callable[[dict[str, Any]], dict[str, Any]] | None = None
) -> tuple[Any, DocumentSource]:
    """Return the plain data of a YAML or JSON text, and the source that finds its lines.

    Args:
        text: the document; if it starts like JSON it is first read as JSON, which is ten times as fast.
        name: its name in errors.
        on_object: replaces each object of JSON.

    Raises:
        InputError: it is neither YAML nor JSON; `where` is `name:line`.
    """
    no_json: InputError | None = None
    if text.lstrip()[:1] in ("{", "["):
        try:
            return json_data(text, name, on_object), DocumentSource(name, partial(_json_places, text))
        except InputError as error:
            # It may be YAML that starts with a bracket; a text with another fault, such as a cut end, is not.
            if not error.what.startswith("not JSON"):
                raise
            no_json = error if _LIKE_JSON.match(text) else None
    from partita.documents.yaml_text import yaml_data, yaml_places  # noqa: PLC0415 -- workers read no YAML

    return yaml_data(text, name, no_json), DocumentSource(name, partial(yaml_places, text))


_LIKE_JSON = re.compile(r"[\s\[{]*\"")

# JSON


def decode(text: str | bytes, kind: type[T], name: str) -> T:
    """Return the value of a JSON text that Partita wrote, decoded in C; of a repeated key the last value counts.

    Raises:
        InputError: as `parse_json`.
    """
    try:
        return msgspec.json.decode(text, type=readable(kind))
    except (msgspec.DecodeError, InputError, OverflowError, RecursionError):
        return parse_json(text if isinstance(text, str) else text.decode("utf-8", "replace"), kind, name)


def parse_json(text: str, kind: type[T] | DocumentKind[T], name: str) -> T:
    """Return the value that a JSON text describes.

    Raises:
        InputError: it is not JSON, or not of that kind; all faults, with their lines.
    """
    return convert(json_data(text, name), kind, DocumentSource(name, partial(_json_places, text)))


class _RepeatedKeyError(Exception):
    """An object has a key twice."""


def json_data(
    text: str, name: str, on_object: Callable[[dict[str, Any]], dict[str, Any]] | None = None
) -> Any:  # noqa: ANN401 -- plain data
    """Return the plain data of a JSON text.

    Args:
        text: the document.
        name: its name in errors.
        on_object: replaces each object once that is complete.

    Raises:
        InputError: it is empty, cut short, not JSON, nested too deep, or has a key twice.
    """

    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise _RepeatedKeyError
        return found if on_object is None else on_object(found)

    if not text.strip():
        raise InputError("this document is empty", where=f"{name}:1", hint="write it again")
    try:
        return json_value(text, made)
    except json.JSONDecodeError as error:
        where = f"{name}:{error.lineno}"
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
            hint = "it was cut short when it was written or copied; write it again"
            raise InputError("the file ends in the middle", where=where, hint=hint) from None
        hint = "look for a comma, a colon or a quote that is missing or one too many"
        raise InputError(json_fault(error), where=where, hint=hint) from None
    except _RepeatedKeyError:
        seen: dict[FieldPath, int] = {}
        for path, line in _json_places(text):
            if path in seen:
                what = f"key {path[-1]!r} is already on line {seen[path]}"
                raise InputError(what, where=f"{name}:{line}", hint="keep one of the two") from None
            seen[path] = line
        raise


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|\n|[^\s\[\]{},:"]+', re.DOTALL)


def _json_places(text: str) -> Iterator[tuple[FieldPath, int]]:
    """Yield the path and line of every entry and list item of a JSON text, in order."""
    path: list[Any] = []  # one step per open container; None in an object before its next key
    line, fresh = 1, False  # `fresh`: the next value is a list item
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark == "\n":
            line += 1
            continue
        if mark in "]}":
            path.pop()
            fresh = False
        elif mark == ",":
            if isinstance(path[-1], str):
                path[-1] = None
            fresh = isinstance(path[-1], int)
        elif path and path[-1] is None:
            path[-1] = json.loads(mark)
            yield tuple(path), line
        elif mark != ":":
            if fresh:
                path[-1] += 1
                yield tuple(path), line
            fresh = mark == "["
            if mark in "[{":
                path.append(-1 if mark == "[" else None)


# TOML


def parse_toml(text: str, name: str, hint: str) -> tuple[dict[str, Any], DocumentSource]:
    """Return the plain data of a TOML text, and the source that finds its lines.

    Args:
        text: the document.
        name: its name in errors.
        hint: for text that is not TOML.

    Raises:
        InputError: it is not TOML, with line and column.
    """
    import tomllib  # noqa: PLC0415 -- workers read no TOML

    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what = str(error)
        at = re.search(r" \(at (line (\d+), column (\d+)|end of document)\)$", what)
        where = f"{name}:{at[2]}:{at[3]}" if at and at[2] else name
        what = what[: at.start()] if at and at[2] else what
        raise InputError(f"not TOML: {what[:1].lower()}{what[1:]}", where=where, hint=hint) from None
    except RecursionError:
        raise InputError("not TOML: nested too deep", where=name, hint=hint) from None
    return data, DocumentSource(name, partial(_toml_places, text))


def _toml_places(text: str) -> Iterator[tuple[FieldPath, int]]:
    """Yield the path and line of each table, and of each key that has a line of its own."""
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


# Writing


def line(value: object) -> str:
    """Return a value as JSON on one line, in ASCII."""
    try:
        text = msgspec.json.format(msgspec.json.encode(value), indent=0).decode()
    except UnicodeEncodeError:
        return json.dumps(to_data(value))
    return text if text.isascii() else json.dumps(json.loads(text))


def compact(value: object) -> str:
    """Return a value as JSON without spaces; lone surrogates, as file names may have, are escaped."""
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        return json.dumps(to_data(value), separators=(",", ":"))


def number(value: float) -> int | float:
    """Return a number as an int if it is whole, so that JSON writes it without `.0`."""
    return int(value) if float(value).is_integer() and abs(value) < 2**53 else float(value)


def write(
    kind: DocumentKind[Any],
    stream: TextIO,
    parts: Mapping[str, Value | str | Iterable[Value | str]],
    head: Mapping[str, Any] | None = None,
) -> None:
    """Write a document as JSON with line breaks that suit `diff`, without building the whole text in memory.

    Args:
        kind: its kind, whose header comes first.
        stream: where it is written.
        parts: its large fields, each a value or the items of a list, one a line. A text is written as it is, as JSON.
        head: its small fields, written on the first line.
    """
    stream.write(json.dumps({**kind.header, **(head or {})})[:-1])
    for name, part in parts.items():
        stream.write(f',\n "{name}": ')
        if isinstance(part, Value | str):
            stream.write(part if isinstance(part, str) else line(part))
            continue
        separator = "[\n  "
        for item in part:
            stream.write(separator + (item if isinstance(item, str) else line(item)))
            separator = ",\n  "
        stream.write("[]" if separator.startswith("[") else "]")
    stream.write("}\n")
