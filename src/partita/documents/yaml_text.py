"""YAML 1.2 to plain data, fast, and with the line of every fault.

Values follow the core schema of YAML 1.2, not YAML 1.1: `on` and `no` are text, `1e3` is a number. Data are built
from the parser's events. That is fast, finds repeated keys, limits how much aliases can multiply, and yields only
plain values.
"""

from __future__ import annotations

import re
from sys import intern
from typing import TYPE_CHECKING, Any

import yaml

from partita.errors import InputError
from partita.files import DEEPEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from partita.documents.codec import FieldPath

MOST_REPEATED = 100_000
"""Most values that all aliases together may stand for."""

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _events(text: str) -> Callable[[], Any]:
    """Return a function that returns the parser's next event; the last is the end of the stream."""
    give: Callable[[], Any] = Loader(text).get_event
    return give


_TOO_DEEP, _SHALLOW = f"nested more than {DEEPEST} deep", "no document is more than six levels deep"
_CONSTANTS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **{sign + word: float(sign + "inf") for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")},
}
_INTEGER = re.compile(r"[-+]?\d{1,400}")
_QUOTED = re.compile(r"""\"(?:[^"\\]|\\.)*"|'[^']*'|#.*""")
_FLOAT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?")


def yaml_data(text: str, name: str, no_json: InputError | None = None) -> object:
    """Return the plain data of a YAML text.

    Args:
        text: the document.
        name: its name in errors.
        no_json: raised if it is not YAML either, for text that looks like JSON.

    Raises:
        InputError: it is not YAML, or uses YAML that documents may not have; `where` is `name:line`.
    """
    try:
        return _Builder(_events(text), name).document()
    except yaml.YAMLError as error:
        raise no_json or _syntax(error, text, name) from None


class _Builder:
    """Builds one document; `_size` counts its values so far, including those of aliases."""

    def __init__(self, give: Callable[[], Any], name: str) -> None:
        self._next = give
        self._name = name
        self._anchors: dict[str, tuple[object, int]] = {}
        self._size = 0
        self._repeated = 0

    def document(self) -> object:
        self._next()  # the stream's start
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None
        value = self._value(self._next(), 0)
        self._next()  # the document's end
        after = self._next()
        if not isinstance(after, yaml.StreamEndEvent):
            raise self._fault("a second document", after, "keep one document in a file")
        return value

    def _value(self, event: Any, depth: int) -> object:  # noqa: ANN401 -- PyYAML has no type for events
        kind = type(event)
        before = self._size
        self._size += 1
        if kind is yaml.AliasEvent:
            return self._alias(event)
        if event.tag is not None and event.tag not in ("!", "tag:yaml.org,2002:str"):
            raise self._fault(f"tag {event.tag} is not read", event, "write plain values without tags")
        if kind is yaml.ScalarEvent:
            value = self._scalar(event)
        elif depth == DEEPEST:
            raise self._fault(_TOO_DEEP, event, _SHALLOW)
        elif kind is yaml.MappingStartEvent:
            value = self._mapping(depth + 1)
        else:
            value = self._sequence(depth + 1)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, self._size - before)
        return value

    def _mapping(self, depth: int) -> dict[str, object]:
        found: dict[str, object] = {}
        keys: dict[str, Any] = {}
        while type(event := self._next()) is not yaml.MappingEndEvent:
            if type(event) is not yaml.ScalarEvent:
                raise self._fault("a key must be a word", event, "quote a key that starts with {, [, & or *")
            key = intern(event.value)
            if key in keys:
                first = keys[key].start_mark.line + 1
                raise self._fault(f"key {key!r} is already on line {first}", event, "keep one of the two")
            keys[key] = event
            found[key] = self._value(self._next(), depth)
        merged = found.pop("<<", {})
        if not isinstance(merged, dict):
            raise self._fault("only one mapping can be merged", keys["<<"], "write <<: *anchor of a mapping")
        return {**merged, **found}

    def _sequence(self, depth: int) -> list[object]:
        found = []
        while type(event := self._next()) is not yaml.SequenceEndEvent:
            found.append(self._value(event, depth))
        return found

    def _scalar(self, event: Any) -> object:  # noqa: ANN401 -- PyYAML has no type for events
        text: str = event.value
        if not event.implicit[0]:  # quoted
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if text[0] in "+-.0123456789":
            if _INTEGER.fullmatch(text):
                return int(text)
            if _FLOAT.fullmatch(text):
                return float(text)
        return text

    def _alias(self, event: Any) -> object:  # noqa: ANN401 -- PyYAML has no type for events
        if event.anchor not in self._anchors:
            raise self._fault(f"no anchor &{event.anchor} before this alias", event, "write the value itself")
        value, size = self._anchors[event.anchor]
        self._size += size
        self._repeated += size
        if self._repeated > MOST_REPEATED:
            raise self._fault(f"aliases stand for more than {MOST_REPEATED} values", event, "write them out")
        return value

    def _fault(self, what: str, event: Any, hint: str) -> InputError:  # noqa: ANN401 -- as above
        return InputError(what, where=f"{self._name}:{event.start_mark.line + 1}", hint=hint)


def _syntax(error: yaml.YAMLError, text: str, name: str) -> InputError:
    hint = "check the indentation (spaces, no tabs), and quote text that holds : or #"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        line = min(error.problem_mark.line + 1, max(1, len(text.splitlines())))
        if _depth(text[: error.problem_mark.index]) > DEEPEST:
            return InputError(_TOO_DEEP, where=f"{name}:{line}", hint=_SHALLOW)
        what = ", ".join(part for part in (error.context, error.problem) if part)
        return InputError(f"not YAML: {what}", where=f"{name}:{line}", hint=hint)
    position = getattr(error, "position", 0)
    line = text.count("\n", 0, position) + 1
    return InputError(
        f"not text that YAML allows: {getattr(error, 'reason', error)}",
        where=f"{name}:{line}",
        hint="remove control characters; save the file as UTF-8",
    )


def _depth(text: str) -> int:
    """Return how many brackets are open at the end of a text.

    The parser, which reads ahead of the builder, may fail first on deep nesting: some versions of libyaml limit it.
    """
    bare = _QUOTED.sub("", text)
    return bare.count("[") + bare.count("{") - bare.count("]") - bare.count("}")


def yaml_places(text: str) -> Iterator[tuple[FieldPath, int]]:
    """Yield the path and line of every mapping entry and list item, in order."""
    path: list[Any] = []  # one step per open container; None in a mapping before its next key
    give = _events(text)
    while (kind := type(event := give())) is not yaml.StreamEndEvent:
        if kind in (yaml.MappingEndEvent, yaml.SequenceEndEvent):
            path.pop()
            _close(path)
            continue
        if kind not in (yaml.ScalarEvent, yaml.AliasEvent, yaml.MappingStartEvent, yaml.SequenceStartEvent):
            continue
        line = event.start_mark.line + 1
        if path and path[-1] is None:
            path[-1] = event.value if kind is yaml.ScalarEvent else ""
            yield tuple(path), line
            continue
        if path and isinstance(path[-1], int):
            path[-1] += 1
            yield tuple(path), line
        if kind is yaml.MappingStartEvent:
            path.append(None)
        elif kind is yaml.SequenceStartEvent:
            path.append(-1)
        else:
            _close(path)


def _close(path: list[Any]) -> None:
    """After a value has ended, set the enclosing mapping to before its next key."""
    if path and isinstance(path[-1], str):
        path[-1] = None
