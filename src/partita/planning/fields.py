"""Checked access to a JSON document: every value that is not what it should be is named with its place."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from partita.errors import InputError, nearest
from partita.files import json_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_KINDS = {
    dict: "an object",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
}


def parse_json(text: str, name: str, on_object: Callable[[dict[str, Any]], dict[str, Any]]) -> object:
    """Return the value that a JSON text holds, each object passed through `on_object` as it is completed.

    Raises:
        InputError: the text is empty, ends in the middle or is not JSON (with line and column), or says a
            key twice.
    """
    if not text.strip():
        raise InputError("the file is empty", where=name, hint="write it again with `partita plan --out`")

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(found)
        if len(result) != len(found):
            keys = [key for key, _ in found]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise InputError(f"an object has the key {twice!r} twice", where=name)
        return on_object(result)

    try:
        return json_value(text, pairs)
    except json.JSONDecodeError as error:
        raise _syntax(error, text, name) from None


def _syntax(error: json.JSONDecodeError, text: str, name: str) -> InputError:
    cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
    where = f"{name}:{error.lineno}:{error.colno}"
    if cut:
        hint = "it was cut short when it was written or copied; write it again with `partita plan --out`"
        return InputError("the file ends in the middle", where=where, hint=hint)
    return InputError(f"not JSON: {error.msg[0].lower()}{error.msg[1:]}", where=where)


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object and its place in the file: `file` is the file's name, `path` such as `gpus[3]`."""

    data: dict[str, Any]
    file: str
    path: str = ""

    @classmethod
    def of(cls, value: object, file: str, path: str, required: str, optional: str = "") -> Fields:
        """Return a JSON object that has the required keys (separated by blanks) and no unknown ones.

        Raises:
            InputError: no object, or a key too few or too many.
        """
        if not isinstance(value, dict):
            raise InputError(f"expected an object, found {_kind(value)}", where=_place(file, path))
        fields = cls(value, file, path)
        known = [*required.split(), *optional.split()]
        for key in value:
            if key not in known:
                close = nearest(key, known)
                raise fields.error(
                    f"unknown key {key!r}",
                    hint=f"did you mean {close}?" if close else f"known are {', '.join(known)}",
                )
        for key in required.split():
            if key not in value:
                raise fields.error(f"the key {key!r} is missing")
        return fields

    def error(self, what: str, key: str = "", hint: str | None = None) -> InputError:
        """Return the error that names this object, or one of its keys."""
        return InputError(what, where=_place(self.file, self._at(key)), hint=hint)

    def _at(self, key: str) -> str:
        return ".".join(part for part in (self.path, key) if part)

    def text(self, key: str) -> str:
        """Return text that is not empty and can be printed."""
        value = self.data[key]
        if not isinstance(value, str):
            raise self.error(f"expected text, found {_kind(value)}", key)
        if not value:
            raise self.error("this text must not be empty", key)
        if not value.isprintable():
            raise self.error(f"this text has characters that cannot be printed: {value!a:.40}", key)
        return value

    def flag(self, key: str) -> bool:
        """Return true or false; an absent key is false."""
        value = self.data.get(key, False)
        if not isinstance(value, bool):
            raise self.error(f"expected true or false, found {_kind(value)}", key)
        return value

    def number(self, key: str, least: float = 0.0) -> float:
        """Return a finite number that is at least `least`."""
        value = self.data[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(f"expected a number, found {_kind(value)}", key)
        if not _finite(value):
            raise self.error(f"expected a finite number, found {json.dumps(value)[:20]}", key)
        if value < least:
            raise self.error(f"expected at least {least:g}, found {value!r}", key)
        return float(value)

    def whole(self, key: str, least: int = 0) -> int:
        """Return a whole number that is at least `least`."""
        number = self.number(key, least)
        if not number.is_integer():
            raise self.error(f"expected a whole number, found {number!r}", key)
        return int(self.data[key])

    def items(self, key: str) -> Iterator[tuple[str, object]]:
        """Yield the path and the value of each item of a list."""
        value = self.data[key]
        if not isinstance(value, list):
            raise self.error(f"expected a list, found {_kind(value)}", key)
        at = self._at(key)
        return ((f"{at}[{index}]", item) for index, item in enumerate(value))


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _kind(value: object) -> str:
    return "nothing (null)" if value is None else _KINDS[type(value)]


def _place(file: str, path: str) -> str:
    return f"{file}: {path}" if path else file
