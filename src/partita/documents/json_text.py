"""JSON text to plain data and values, and back: repeated keys are seen, and every fault has its line."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from partita.documents.codec import DocumentSource, convert, to_data
from partita.errors import InputError
from partita.files import json_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import TextIO

    from partita.documents.codec import DocumentKind, FieldPath

T = TypeVar("T")


def decode(text: str | bytes, kind: type[T], name: str) -> T:
    """Return the value of a JSON text that Partita wrote itself, made in C: of keys that stand twice the last holds.

    Raises:
        InputError: as `parse_json`.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, InputError, OverflowError, RecursionError):
        return parse_json(text if isinstance(text, str) else text.decode("utf-8", "replace"), kind, name)


def parse_json(text: str, kind: type[T] | DocumentKind[T], name: str) -> T:
    """Return the value that a JSON text describes.

    Raises:
        InputError: it is no JSON, or not of that kind; all faults are told with their lines.
    """
    return convert(json_data(text, name), kind, DocumentSource(name, lambda paths: json_lines(text, paths)))


class _RepeatedKeyError(Exception):
    """An object that says a key twice."""


def json_data(
    text: str, name: str, on_object: Callable[[dict[str, Any]], dict[str, Any]] | None = None
) -> Any:  # noqa: ANN401 -- plain data
    """Return the plain data of a JSON text.

    Args:
        text: the document.
        name: what errors call it.
        on_object: what takes the place of each object, called when it is complete.

    Raises:
        InputError: it is empty, ends in the middle, is no JSON, is nested too deep, or has a key twice.
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
        hint = f"see column {error.colno}"
        raise InputError(f"not JSON: {error.msg[0].lower()}{error.msg[1:]}", where=where, hint=hint) from None
    except _RepeatedKeyError:
        seen: dict[FieldPath, int] = {}
        for path, line in _json_places(text):
            if path in seen:
                what = f"key {path[-1]!r} is already on line {seen[path]}"
                raise InputError(what, where=f"{name}:{line}", hint="keep one of the two") from None
            seen[path] = line
        raise


def json_lines(text: str, paths: Iterable[FieldPath]) -> dict[FieldPath, int]:
    """Return the line of each path in a JSON text, or of the nearest thing around it."""
    return nearest_lines(_json_places(text), paths)


def nearest_lines(
    places: Iterable[tuple[FieldPath, int]], paths: Iterable[FieldPath]
) -> dict[FieldPath, int]:
    """Return the line of each path among the places of a document, or of the nearest thing around it."""
    paths = set(paths)
    wanted = {path[:n] for path in paths for n in range(len(path) + 1)}
    found: dict[FieldPath, int] = {(): 1}
    for path, line in places:
        if path in wanted:
            found.setdefault(path, line)
            if len(found) == len(wanted):
                break
    return {
        path: next(found[path[:n]] for n in range(len(path), -1, -1) if path[:n] in found) for path in paths
    }


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|\n|[^\s\[\]{},:"]+', re.DOTALL)


def _json_places(text: str) -> Iterator[tuple[FieldPath, int]]:
    """Yield the path and the line of every object's entry and list's item of a JSON text, in their order."""
    path: list[Any] = []  # one step per open container; None in an object that waits for a key
    line, fresh = 1, False  # whether a list waits for its next item
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


# Writing


def line(value: object) -> str:
    """Return a value as JSON on one line, in ASCII; whole numbers as `number` returns them have no `.0`."""
    try:
        text = msgspec.json.format(msgspec.json.encode(value), indent=0).decode()
    except UnicodeEncodeError:
        return json.dumps(to_data(value))
    return text if text.isascii() else json.dumps(json.loads(text))


def compact(value: object) -> str:
    """Return a value as JSON in few characters; half a surrogate pair, as names of files may have, is escaped."""
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        return json.dumps(to_data(value), separators=(",", ":"))


def number(value: float) -> int | float:
    """Return a number that JSON writes in the fewest digits: a whole one without `.0`."""
    return int(value) if float(value).is_integer() and abs(value) < 2**53 else float(value)


def write(
    kind: DocumentKind[Any],
    stream: TextIO,
    parts: Mapping[str, str | Iterable[str]],
    head: Mapping[str, Any] | None = None,
) -> None:
    """Write a document as JSON of which `diff` can compare two; the text is never held as a whole.

    Args:
        kind: its kind, whose header comes first.
        stream: where to.
        parts: its large fields, each the JSON text of its value, or of each item of a list, which get a line each.
        head: its small fields, which stand in the first line.
    """
    stream.write(json.dumps({**kind.header, **(head or {})})[:-1])
    for name, part in parts.items():
        stream.write(f',\n "{name}": ')
        if isinstance(part, str):
            stream.write(part)
            continue
        separator = "[\n  "
        for item in part:
            stream.write(separator + item)
            separator = ",\n  "
        stream.write("[]" if separator.startswith("[") else "]")
    stream.write("}\n")
