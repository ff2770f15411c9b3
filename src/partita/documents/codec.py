"""Plain data to checked values and back; all rules for documents and the texts of their faults are here.

A document is a `Value`, a frozen struct whose annotations define what each field may be:

    class Slo(Value):
        latency_ms: Annotated[float, Meta(gt=0, description="Longest latency, in milliseconds.", examples=[100])]

`convert` builds it from plain data in C. Only if that fails does Python walk the data again, to report every fault
with its place, its reason and a hint. The JSON schema is generated from the same annotations.
"""

from __future__ import annotations

import json
import os
import re
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from math import isfinite
from sys import float_info
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    NamedTuple,
    Self,
    TypeAlias,
    TypeVar,
    dataclass_transform,
)

import msgspec
from msgspec import Meta, inspect

from partita.errors import InputError, combined, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence


__all__ = [
    "Amount",
    "Count",
    "DocumentKind",
    "DocumentSource",
    "FieldFault",
    "FieldPath",
    "Meta",
    "Text",
    "Value",
    "Whole",
    "check",
    "checked",
    "convert",
    "path_of",
    "printable",
    "schema",
    "to_data",
    "written",
]

T = TypeVar("T")

API = "partita"
"""The name before the version, as in `apiVersion: partita/v1`."""
FieldPath = tuple[str | int, ...]
"""Keys and list indices from the document's root."""

MOST_FAULTS = 1_000
"""Faults whose lines are looked up; the rest are counted."""


@dataclass_transform(frozen_default=True)
class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Base of all parts of documents: frozen, compared by value, without unknown fields.

    A class may have a method `faults`, which yields faults between fields that are each valid.
    """

    def replace(self, **changes: Any) -> Self:  # noqa: ANN401 -- values of any field
        """Return a copy with other values in some fields."""
        return msgspec.structs.replace(self, **changes)


class FieldFault(NamedTuple):
    """A fault in a document.

    Attributes:
        path: where it is.
        what: what is wrong.
        hint: how to mend it.
        first: where a name that appears twice appears first.
    """

    path: FieldPath
    what: str
    hint: str | None = None
    first: FieldPath | None = None


def check(test: Callable[[Any], object]) -> Meta:
    """Return an annotation that tests a field's value with a function that raises `InputError`."""
    return Meta(extra={f"check {test.__module__}.{test.__qualname__}": test})  # a field may have several


def _tests(node: inspect.Type) -> list[Callable[[Any], object]]:
    extra = (node.extra or {}) if isinstance(node, inspect.Metadata) else {}
    return [test for name, test in extra.items() if name.startswith("check ")]


def written(path: FieldPath) -> str:
    """Return a path as users read it: `services[3].slo.latency_ms`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def path_of(text: str) -> FieldPath:
    """Return the path that `written` returned as text."""
    return tuple(int(index) if index else key for index, key in re.findall(r"\[(\d+)\]|([^.\[\]]+)", text))


@dataclass(frozen=True, slots=True)
class DocumentSource:
    """Where a document came from.

    Attributes:
        name: its name in errors, mostly the file's path.
        places: yields path and line of each of its parts, in order; None if there is no text.
    """

    name: str
    places: Callable[[], Iterable[tuple[FieldPath, int]]] | None = None

    def lines(self, paths: Iterable[FieldPath]) -> dict[FieldPath, int]:
        """Return the line of each path, or of its nearest enclosing part; empty if there is no text."""
        if self.places is None:
            return {}
        paths = set(paths)
        wanted = {path[:n] for path in paths for n in range(len(path) + 1)}
        found: dict[FieldPath, int] = {(): 1}
        for path, line in self.places():
            if path in wanted:
                found.setdefault(path, line)
                if len(found) == len(wanted):
                    break
        return {
            path: next(found[path[:n]] for n in range(len(path), -1, -1) if path[:n] in found)
            for path in paths
        }

    def refusal(self, faults: Sequence[FieldFault]) -> InputError:
        """Return one error with all faults, each with its line, its field, what is wrong and a hint."""
        shown = faults[:MOST_FAULTS]
        wanted = [path for fault in shown for path in (fault.path, fault.first) if path is not None]
        lines = self.lines(wanted)
        located = [self._located(fault, lines) for fault in shown]
        return combined(self.name, located, len(faults))

    def _located(self, fault: FieldFault, lines: Mapping[FieldPath, int]) -> InputError:
        at = f"{written(fault.path)}: " if fault.path else ""
        first = f", on line {lines[fault.first]}" if fault.first and fault.first in lines else ""
        where = f"{self.name}:{lines[fault.path]}" if fault.path in lines else self.name
        return InputError(f"{at}{fault.what}{first}", where=where, hint=fault.hint)


@dataclass(frozen=True, slots=True)
class DocumentKind(Generic[T]):
    """A kind of document with a header: `apiVersion: partita/v1`, `kind: Workload`.

    Attributes:
        name: value of `kind`.
        type: type of its fields together.
        hint: where such a document comes from, shown for something that is none.
        others: hints by the name of another kind, shown for a document of it.
        version: the version that is written, and the newest that is read.
        migrations: by older version, converts its fields to those of the next version.
    """

    name: str
    type: type[T]
    hint: str
    others: Mapping[str, str] = field(default_factory=dict)
    version: int = 1
    migrations: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = field(default_factory=dict)

    @property
    def header(self) -> dict[str, str]:
        """The first two fields of every document of this kind."""
        return {"apiVersion": f"{API}/v{self.version}", "kind": self.name}

    def body(self, data: object, source: DocumentSource) -> dict[str, Any]:
        """Return a document's fields without the header, converted to the newest version.

        Raises:
            InputError: it is of another kind or version. Its other fields are not checked then.
        """
        if not isinstance(data, dict):
            what = (
                "empty"
                if data is None
                else f"{_shown(data)}, not a mapping"
                if isinstance(data, list)
                else "not a mapping"
            )
            raise source.refusal([FieldFault((), f"this document is {what}", self.hint)])
        faults = [*self._version_faults(data), *self._kind_faults(data)]
        if faults:
            raise source.refusal(faults)
        body = {key: value for key, value in data.items() if key not in ("apiVersion", "kind")}
        for number in range(_version(data["apiVersion"]), self.version):
            body = self.migrations[number](body)
        return body

    def _version_faults(self, data: Mapping[str, Any]) -> Iterator[FieldFault]:
        newest = f"write apiVersion: {API}/v{self.version}"
        text = data.get("apiVersion")
        if "apiVersion" not in data:
            yield FieldFault((), "apiVersion is missing", f"for example apiVersion: {API}/v{self.version}")
        elif not isinstance(text, str):
            yield FieldFault(("apiVersion",), f"must be text, not {_shown(text)}", newest)
        elif _version(text) > self.version:
            yield FieldFault(
                ("apiVersion",), f"{text} is newer than this partita", f"update partita, or {newest}"
            )
        elif _version(text) < self.version and _version(text) not in self.migrations:
            yield FieldFault(("apiVersion",), f"{text!r} is not a version of this document", newest)

    def _kind_faults(self, data: Mapping[str, Any]) -> Iterator[FieldFault]:
        if "kind" not in data:
            yield FieldFault((), "kind is missing", f"for example kind: {self.name}")
        elif data["kind"] != self.name:
            hint = self.others.get(str(data["kind"]), f"write kind: {self.name}")
            yield FieldFault(("kind",), f"must be {self.name!r}, not {_shown(data['kind'])}", hint)


def _version(text: str) -> int:
    name, _, number = text.partition("/v")
    return int(number) if name == API and number.isdecimal() and len(number) < 9 else 0


# Fields that many documents have


def printable(text: str) -> None:
    """Refuse text with characters that cannot be printed.

    Raises:
        InputError: it has some.
    """
    if not text.isprintable():
        raise InputError("must be text without control characters and halves of surrogate pairs")


def addressable(text: str) -> None:
    """Refuse what is not `printable`, and names that addresses cannot have: clients resolve `.` and `..` in paths.

    Raises:
        InputError: it is one of these.
    """
    printable(text)
    if text in (".", ".."):
        raise InputError("must be more than dots: in the addresses of the API it would mean another folder")


Text = Annotated[str, Meta(min_length=1), check(printable)]
Name = Annotated[str, Meta(min_length=1), check(addressable)]
Amount = Annotated[float, Meta(ge=0, le=float_info.max)]
Whole = Annotated[int, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]

# From plain data to values

_learnt: set[object] = set()
_learning = threading.Lock()


def readable(kind: type[T]) -> type[T]:
    """Return a type after msgspec has analyzed it.

    msgspec caches its analysis of a type on first use, and other threads can see the cache before it is complete:
    with 0.22.0, two threads that first use a type at the same time crash the interpreter.
    """
    if kind not in _learnt:
        with _learning:
            msgspec.json.Decoder(kind)
            _learnt.add(kind)
    return kind


def convert(data: object, kind: type[T] | DocumentKind[T], source: DocumentSource) -> T:
    """Return the value that plain data describe.

    Args:
        data: dicts, lists, text, numbers, Booleans and None; keys are text.
        kind: the type wanted, or the kind of document, whose header is then required.
        source: where the data came from, for errors.

    Raises:
        InputError: all faults, each with its place.
    """
    wanted: Any = kind.type if isinstance(kind, DocumentKind) else kind
    data = kind.body(data, source) if isinstance(kind, DocumentKind) else data
    try:
        value: T = _converted(data, wanted)
    except _FieldFaultsError as error:
        raise source.refusal(error.faults) from None
    return value


class _FieldFaultsError(Exception):
    """Plain data do not describe a value.

    Attributes:
        faults: why not.
    """

    def __init__(self, faults: Sequence[FieldFault]) -> None:
        super().__init__()
        self.faults = faults


def _converted(data: object, wanted: Any) -> Any:  # noqa: ANN401 -- a type, and its value
    try:
        value = msgspec.convert(data, readable(wanted), str_keys=True)
    except (msgspec.ValidationError, InputError, OverflowError) as error:
        faults = list(_walk(_info(wanted), data, (), None)) or [FieldFault((), str(error))]
        raise _FieldFaultsError(faults) from None
    test = _test(wanted)
    if test is not None and (found := test(value)):
        raise _FieldFaultsError(list(found))
    return value


def faults_in(value: object) -> Sequence[FieldFault]:
    """Return what is wrong with a value that code built, by the same rules as with one that was read."""
    try:
        _converted(to_data(value), type(value))
    except _FieldFaultsError as error:
        return error.faults
    return ()


def checked(value: T, name: str = "") -> T:
    """Return a value that code built, checked by the same rules as one that was read.

    Args:
        value: the value.
        name: of the value, in errors.

    Raises:
        InputError: all faults, as `convert`.
    """
    return convert(to_data(value), type(value), DocumentSource(name))


def to_data(value: object) -> Any:  # noqa: ANN401 -- plain data
    """Return a value as plain data, as in files; keys are text, and numpy's values become plain numbers and lists.

    Raises:
        InputError: it contains something that documents cannot have.
    """
    return msgspec.to_builtins(value, str_keys=True, enc_hook=_plain)


def _plain(value: object) -> object:
    """Return plain data for numbers, texts and lists of numpy, pandas, polars and Arrow."""
    for name in ("tolist", "to_list", "as_py"):
        if callable(found := getattr(value, name, None)):
            return found()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise InputError(
        f"a {type(value).__name__} cannot be part of a document",
        hint="give numbers, texts, lists and mappings",
    )


@cache
def _info(kind: Hashable) -> inspect.Type:
    return inspect.type_info(kind)


_Test: TypeAlias = "Callable[[Any], Sequence[FieldFault]]"


@cache
def _test(kind: Hashable) -> _Test | None:
    """Return a function that finds the faults beyond types and bounds; None if there can be none.

    Cached by type, so that a million services are tested in a second.
    """
    return _made_test(_info(kind))


def _made_test(node: inspect.Type) -> _Test | None:
    if isinstance(node, inspect.Metadata):
        tests = _tests(node)
        return _leaf_test(tests) if tests else _made_test(node.type)
    if isinstance(node, inspect.UnionType):
        return _union_test(node)
    if isinstance(node, inspect.VarTupleType | inspect.ListType):
        return _list_test(_made_test(node.item_type))
    if isinstance(node, inspect.DictType):
        return _mapping_test(_made_test(node.key_type), _made_test(node.value_type))
    return _test_of_struct(node) if isinstance(node, inspect.StructType) else None


def _leaf_test(tests: Sequence[Callable[[Any], object]]) -> _Test:
    def leaf(value: object) -> Sequence[FieldFault]:
        try:
            for test in tests:
                test(value)
        except InputError as error:
            return (FieldFault((), error.what, error.hint),)
        return ()

    return leaf


def _list_test(test: _Test | None) -> _Test | None:
    if test is None:
        return None
    return lambda values: [_below(index, fault) for index, each in enumerate(values) for fault in test(each)]


def _mapping_test(keys: _Test | None, values: _Test | None) -> _Test | None:
    if keys is None and values is None:
        return None

    def mapping(value: Mapping[Any, Any]) -> Sequence[FieldFault]:
        return [
            _below(str(key), fault)
            for key, each in value.items()
            for fault in (*(keys(key) if keys else ()), *(values(each) if values else ()))
        ]

    return mapping


def _union_test(node: inspect.UnionType) -> _Test | None:
    by_class: dict[type, _Test] = {}
    for each in node.types:
        if (test := _made_test(each)) is not None:
            bare = _bare(each)
            by_class[bare.cls if isinstance(bare, inspect.StructType) else _CLASSES[type(bare)]] = test
    if not by_class:
        return None
    return lambda value: by_class[type(value)](value) if type(value) in by_class else ()


_CLASSES: dict[type[inspect.Type], type] = {
    inspect.StrType: str,
    inspect.IntType: int,
    inspect.FloatType: float,
    inspect.VarTupleType: tuple,
    inspect.DictType: dict,
}


def _bare(node: inspect.Type) -> inspect.Type:
    while isinstance(node, inspect.Metadata):
        node = node.type
    return node


def _test_of_struct(node: inspect.StructType) -> _Test | None:
    made = [(each, _made_test(each.type), _example(each)) for each in node.fields]
    fields = [(each.name, each.encode_name, test, like) for each, test, like in made if test is not None]
    whole = getattr(node.cls, "faults", None)

    def struct(value: object) -> Sequence[FieldFault]:
        found: list[FieldFault] = []
        for name, key, test, example in fields:
            inner = getattr(value, name)
            for fault in test(inner) if inner is not None else ():
                hint = fault.hint or (None if fault.path else example)
                found.append(_below(key, fault._replace(hint=hint)))
        if whole is not None:
            with suppress(InputError):  # raised by a field whose fault is reported already
                found += whole(value)
        return found

    return struct if fields or whole else None


def _below(step: str | int, fault: FieldFault) -> FieldFault:
    return fault._replace(
        path=(step, *fault.path), first=None if fault.first is None else (step, *fault.first)
    )


# Faults of plain data


def _walk(node: inspect.Type, value: Any, path: FieldPath, example: str | None) -> Iterator[FieldFault]:  # noqa: ANN401 -- data
    """Yield all faults of plain data of a type; `example` is the hint for faults of this field."""
    bare = _bare(node)
    if isinstance(bare, inspect.UnionType):
        chosen = _member(bare, value)
        if isinstance(chosen, str):
            faults = [FieldFault(path, chosen, example)]
        else:
            faults = [] if chosen is None else list(_walk(chosen, value, path, example))
    else:
        faults = list(_WALKS[type(bare)](bare, value, path, example)) if type(bare) in _WALKS else []
    if not faults and (tests := _tests(node)):
        faults = [FieldFault(path, each.what, each.hint or example) for each in _leaf_test(tests)(value)]
    yield from faults


def _member(node: inspect.UnionType, value: object) -> inspect.Type | str | None:
    """Return the union's member that a value is meant to be; None for an allowed null; text if it is none of them."""
    if value is None and any(isinstance(each, inspect.NoneType) for each in node.types):
        return None
    types = [each for each in node.types if not isinstance(each, inspect.NoneType)]
    if len(types) == 1:
        return types[0]
    structs = [each for each in types if isinstance(each, inspect.StructType)]
    if isinstance(value, dict) and structs:
        if len(structs) == 1:
            return structs[0]
        tag = value.get(structs[0].tag_field)
        found = next((each for each in structs if each.tag == tag), None)
        kinds = _either([repr(each.tag) for each in structs])
        return found or f"{structs[0].tag_field} must be {kinds}, not {_shown(tag)}"
    for each in types:
        if not isinstance(each, inspect.StructType) and not list(_walk(each, value, (), None)):
            return each
    alike = next((each for each in types if _alike(each, value)), None)
    return alike or f"must be {_either(list(dict.fromkeys(map(_called, types))))}, not {_shown(value)}"


def _alike(node: inspect.Type, value: object) -> bool:
    node = _bare(node)
    if isinstance(node, inspect.VarTupleType | inspect.ListType):
        return isinstance(value, list)
    if isinstance(node, inspect.DictType):
        return isinstance(value, dict)
    if isinstance(node, inspect.FloatType | inspect.IntType):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(node, inspect.StrType) and isinstance(value, str)


def _called(node: inspect.Type) -> str:
    node = _bare(node)
    if isinstance(node, inspect.LiteralType):
        return _either([repr(each) for each in node.values])
    return {
        inspect.StructType: "a mapping",
        inspect.DictType: "a mapping",
        inspect.VarTupleType: "a list",
        inspect.ListType: "a list",
        inspect.StrType: "text",
        inspect.BoolType: "true or false",
        inspect.IntType: "a whole number",
        inspect.FloatType: "a number",
    }.get(type(node), "another value")


def _struct(
    node: inspect.StructType | inspect.DataclassType, value: object, path: FieldPath, example: str | None
) -> Iterator[FieldFault]:
    if not isinstance(value, dict):
        yield _must(path, "a mapping", value, example)
        return
    faults: list[FieldFault] = []
    known = [each.encode_name for each in node.fields]
    for key in value:
        if isinstance(node, inspect.StructType) and key not in known and key != node.tag_field:
            close = nearest(str(key), known)
            hint = f"did you mean {close}?" if close else f"the keys here are {', '.join(known)}"
            faults.append(FieldFault((*path, key), "unknown key", hint))
    for each in node.fields:
        name, like = each.encode_name, _example(each)
        if name in value:
            faults += _walk(each.type, value[name], (*path, name), like)
        elif each.required:
            faults.append(FieldFault(path, f"{name} is missing", like))
    whole = getattr(node.cls, "faults", None)
    if whole is not None:
        with suppress(msgspec.ValidationError, InputError, OverflowError):
            for each in whole(msgspec.convert(value, readable(node.cls), str_keys=True)):
                first = None if each.first is None else (*path, *each.first)
                faults.append(FieldFault((*path, *each.path), each.what, each.hint, first))
    yield from faults


def _mapping(
    node: inspect.DictType, value: object, path: FieldPath, example: str | None
) -> Iterator[FieldFault]:
    if not isinstance(value, dict):
        yield _must(path, "a mapping", value, example)
        return
    if len(value) < (node.min_length or 0):
        yield FieldFault(path, "must be a mapping, not empty", example)
    if node.max_length is not None and len(value) > node.max_length:
        yield FieldFault(path, f"must have at most {node.max_length} keys, but has {len(value)}")
    for key, each in value.items():
        bare = node.key_type.type if isinstance(node.key_type, inspect.Metadata) else node.key_type
        number = (
            isinstance(bare, inspect.IntType) and isinstance(key, str) and re.fullmatch(r"0|[1-9]\d*", key)
        )
        yield from _walk(node.key_type, int(key) if number else key, (*path, key), example)
        yield from _walk(node.value_type, each, (*path, key), example)


def _number(
    node: inspect.FloatType | inspect.IntType,
    value: Any,  # noqa: ANN401 -- data
    path: FieldPath,
    example: str | None,
) -> Iterator[FieldFault]:
    whole = isinstance(node, inspect.IntType)
    right = type(value) is int or (type(value) is float and not whole)
    if not right:
        hint = "write the number without quotes" if _is_number(value) else example
        yield _must(path, "a whole number" if whole else "a number", value, hint)
    elif not whole and not _finite(value):
        yield _must(path, "a finite number", value, example)
    elif node.gt is not None and not value > node.gt:
        yield _must(path, f"above {node.gt:.15g}", value, example)
    elif node.ge is not None and not value >= node.ge:
        yield _must(path, f"at least {node.ge:.15g}", value, example)
    elif node.lt is not None and not value < node.lt:
        yield _must(path, f"below {node.lt:.15g}", value, example)
    elif node.le is not None and not value <= node.le:
        yield _must(path, f"at most {node.le:.15g}", value, example)


def _text(node: inspect.StrType, value: object, path: FieldPath, example: str | None) -> Iterator[FieldFault]:
    if not isinstance(value, str):
        yield _must(path, "text", value, "put it in quotes" if isinstance(value, int | float) else example)
    elif len(value) < (node.min_length or 0):
        yield _must(path, "text, not empty", value, example)
    elif node.max_length is not None and len(value) > node.max_length:
        yield _must(path, f"at most {node.max_length} characters", value, example)
    elif node.pattern is not None and not re.search(node.pattern, value):
        yield _must(path, f"text of the form {node.pattern}", value, example)


def _list(
    node: inspect.VarTupleType | inspect.ListType, value: object, path: FieldPath, example: str | None
) -> Iterator[FieldFault]:
    if not isinstance(value, list | tuple):
        yield _must(path, "a list", value, example)
    elif len(value) < (node.min_length or 0):
        yield FieldFault(path, "must be a list, not empty", example)
    elif node.max_length is not None and len(value) > node.max_length:
        yield FieldFault(path, f"must have at most {node.max_length} items, but has {len(value)}")
    else:
        for index, each in enumerate(value):
            yield from _walk(node.item_type, each, (*path, index), example)


def _flag(_: inspect.BoolType, value: object, path: FieldPath, example: str | None) -> Iterator[FieldFault]:
    if not isinstance(value, bool):
        yield _must(path, "true or false", value, example)


def _choice(
    node: inspect.LiteralType | inspect.EnumType, value: object, path: FieldPath, example: str | None
) -> Iterator[FieldFault]:
    values = node.values if isinstance(node, inspect.LiteralType) else [each.value for each in node.cls]
    if not any(value == each and type(value) is type(each) for each in values):
        yield _must(path, _either([repr(each) for each in values]), value, example)


_WALKS: dict[type[inspect.Type], Callable[[Any, Any, FieldPath, str | None], Iterator[FieldFault]]] = {
    inspect.StructType: _struct,
    inspect.DataclassType: _struct,  # Partita's own records, whose unknown fields are of newer versions
    inspect.VarTupleType: _list,
    inspect.ListType: _list,
    inspect.DictType: _mapping,
    inspect.FloatType: _number,
    inspect.IntType: _number,
    inspect.StrType: _text,
    inspect.BoolType: _flag,
    inspect.LiteralType: _choice,
    inspect.EnumType: _choice,
}


def _must(path: FieldPath, be: str, value: object, hint: str | None) -> FieldFault:
    return FieldFault(path, f"must be {be}, not {_shown(value)}", hint)


def _example(each: inspect.Field) -> str | None:
    node, examples = each.type, None
    while isinstance(node, inspect.Metadata):
        examples = examples or (node.extra_json_schema or {}).get("examples")
        node = node.type
    return f"for example {each.encode_name}: {_flow(examples[0])}" if examples else None


def _flow(value: object) -> str:
    """Return a value as YAML on one line (flow style)."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(each) for each in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    if isinstance(value, int) and abs(value) >= 10**15:
        return f"a number of {len(str(value)):,} digits" if abs(value) < 10**4000 else "a huge number"
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    text = f"{value:.15g}" if isinstance(value, int | float) else text
    return text if len(text) <= 60 else f"{text[:57]}..."


def _either(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, str) and float(value) is not None
    except ValueError:
        return False


def _finite(value: float) -> bool:
    try:
        return isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


# JSON schema


def schema(kind: DocumentKind[Any] | type) -> dict[str, Any]:
    """Return the JSON schema of a kind of document, generated from the types of its fields."""
    wanted = kind.type if isinstance(kind, DocumentKind) else kind
    made = json.loads(msgspec.json.encode(msgspec.json.schema(wanted)))
    parts = made.pop("$defs", {})
    whole = parts.pop(wanted.__name__) if "$ref" in made else made
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": parts}
    if not isinstance(kind, DocumentKind):
        return {**dialect, **whole}
    about = {"apiVersion": "Version of this document: `{}`.", "kind": "What this document is."}
    head = {
        name: {"const": text, "description": about[name].format(text), "examples": [text], "type": "string"}
        for name, text in kind.header.items()
    }
    return {
        **dialect,
        **whole,
        "properties": {**head, **whole["properties"]},
        "required": [*head, *whole["required"]],
        "title": f"Partita {kind.name[0].lower()}{kind.name[1:]}, {kind.header['apiVersion']}",
    }
