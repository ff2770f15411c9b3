"""YAML and JSON text to plain data, quickly, and with a line for whatever cannot be read.

YAML is read by the core schema of YAML 1.2, not by YAML 1.1: `on` and `no` are text, `1e3` is a number. Data
are built from the parser's events: that is fast, repeated keys are seen, aliases cannot multiply without
bound, and nothing but plain values can come out.
"""

from __future__ import annotations

import re
from sys import intern
from typing import TYPE_CHECKING, Any

import yaml

from partita.errors import InputError
from partita.files import DEEPEST, json_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST_REPEATED = 100_000
"""Values that all aliases together may stand for."""

_TOO_DEEP, _SHALLOW = f"nested more than {DEEPEST} deep", "a workload is four levels deep"

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

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


def parse(text: str, name: str) -> object:
    """Return the data of a YAML or JSON document.

    Args:
        text: the document; what starts like JSON is tried as JSON first, which is ten times as fast.
        name: what errors call it.

    Raises:
        InputError: `where` is `name:line`.
    """
    if text.lstrip()[:1] in ("{", "["):
        try:
            return json_value(text, _unrepeated)
        except ValueError:
            pass  # YAML includes JSON, and says where the fault is
    try:
        return _Builder(events(text), name).document()
    except yaml.YAMLError as error:
        raise _syntax(error, text, name) from None


def events(text: str) -> Iterator[Any]:
    """Yield the parser's events.

    Raises:
        yaml.YAMLError: the text is not YAML.
    """
    loader = Loader(text)
    try:
        while loader.check_event():
            yield loader.get_event()
    finally:
        loader.dispose()


def _unrepeated(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


class _Builder:
    """Builds one document. `_size` is how many values the document has so far, those of aliases included."""

    def __init__(self, stream: Iterator[Any], name: str) -> None:
        self._next: Callable[[], Any] = stream.__next__
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

    The parser looks ahead of the builder, and libyaml has a limit of its own from one version to the next.
    """
    bare = _QUOTED.sub("", text)
    return bare.count("[") + bare.count("{") - bare.count("]") - bare.count("}")
