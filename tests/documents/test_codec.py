"""The codec by itself: what may stand where, how faults are told, versions, and lines."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.documents import codec
from partita.documents.codec import (
    DocumentKind,
    DocumentSource,
    FieldFault,
    Meta,
    Text,
    Value,
    check,
    convert,
)
from partita.documents.text import decode, line, parse, parse_json, write
from partita.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Circle(Value, tag_field="shape", tag="circle"):
    radius: Annotated[float, Meta(gt=0, examples=[2])]


class Square(Value, tag_field="shape", tag="square"):
    side: Annotated[int, Meta(ge=1)]


def _even(number: int) -> None:
    if number % 2:
        raise InputError("must be even", hint="halve it")


@dataclass(frozen=True)
class Record:
    number: int


class Drawing(Value):
    name: Text
    shapes: tuple[Circle | Square, ...] = ()
    colour: Colour = Colour.RED
    corners: dict[Annotated[int, Meta(ge=1, le=9)], Annotated[int, check(_even)]] | None = None
    label: Literal["none"] | tuple[Text, ...] | None = None
    record: Record | None = None

    def faults(self) -> Iterator[FieldFault]:
        if self.label == "none" and self.shapes:
            yield FieldFault(("label",), "shapes have labels")


def faults_of(data: object) -> str:
    with pytest.raises(InputError) as caught:
        convert(data, Drawing, DocumentSource("drawing"))
    return f"{caught.value} ({caught.value.hint})"


def test_every_kind_of_value_is_made_and_comes_back() -> None:
    data: dict[str, Any] = {
        "name": "d",
        "shapes": [{"shape": "circle", "radius": 1}, {"shape": "square", "side": 2}],
        "colour": "blue",
        "corners": {"1": 4},
        "label": ["a", "b"],
        "record": {"number": 3, "newer": True},
    }
    made = convert(data, Drawing, DocumentSource("drawing"))
    assert made == Drawing("d", (Circle(1.0), Square(2)), Colour.BLUE, {1: 4}, ("a", "b"), Record(3))
    assert codec.checked(made) == made
    assert decode(line(made), Drawing, "drawing") == made
    assert made.replace(name="e").name == "e"


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("shapes", [{"shape": "oval"}], "shapes[0]: shape must be 'circle' or 'square', not 'oval'"),
        ("shapes", [3], "shapes[0]: must be a mapping, not 3"),
        ("shapes", [{"shape": "circle"}], "shapes[0]: radius is missing (for example radius: 2)"),
        ("shapes", [{"shape": "square", "side": 0, "x": 1}], "shapes[0].side: must be at least 1, not 0"),
        ("colour", "green", "colour: must be 'red' or 'blue', not 'green'"),
        ("corners", {"10": 2}, "corners.10: must be at most 9, not 10"),
        ("corners", {"01": 2}, "corners.01: must be a whole number, not '01'"),
        ("corners", {"3": 5}, "corners.3: must be even (halve it)"),
        ("label", "some", "label: must be 'none' or a list, not 'some'"),
        ("label", ["a", ""], "label[1]: must be text, not empty, not ''"),
        ("label", ["\x1b"], "label[0]: must be text without control characters"),
        ("record", {"number": "x"}, "record.number: must be a whole number, not 'x'"),
        ("name", "a" * 3 + "\ud800", "name: must be text without control characters"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(field: str, value: object, told: str) -> None:
    assert told in faults_of({"name": "d", field: value})


def test_faults_of_types_of_checks_and_between_fields_are_told_together() -> None:
    told = faults_of({"name": "d", "corners": {"3": 5}, "colour": "green", "size": 1})
    assert told.startswith("drawing: 3 faults")
    assert "shapes have labels" in faults_of(
        {"name": "d", "label": "none", "shapes": [{"shape": "square", "side": 1}]}
    )


def test_a_value_made_in_code_is_held_to_the_same_rules() -> None:
    with pytest.raises(InputError, match=r"drawing: shapes\[0\].radius: must be above 0"):
        codec.checked(Drawing("d", (Circle(-1.0),)), "drawing")


OLD = DocumentKind(
    "Drawing",
    Drawing,
    "see the drawings' page",
    version=3,
    migrations={
        1: lambda body: {
            **{key: each for key, each in body.items() if key != "title"},
            "name": body["title"],
        },
        2: lambda body: {**body, "colour": body.get("colour", "red").lower()},
    },
)


def test_a_document_of_an_older_version_is_brought_to_the_newest_step_by_step() -> None:
    old = {"apiVersion": "partita/v1", "kind": "Drawing", "title": "d", "colour": "BLUE"}
    assert convert(old, OLD, DocumentSource("drawing")) == Drawing("d", colour=Colour.BLUE)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"apiVersion": "partita/v4"}, "apiVersion: partita/v4 is newer than this partita (update partita"),
        ({"apiVersion": "partita/v0"}, "'partita/v0' is not a version of this document (write apiVersion"),
        ({"apiVersion": "apps/v1"}, "'apps/v1' is not a version"),
        ({"kind": "Plan"}, "kind: must be 'Drawing', not 'Plan' (write kind: Drawing)"),
    ],
)
def test_of_another_kind_or_version_nothing_else_is_told(change: dict[str, Any], told: str) -> None:
    document = {"apiVersion": "partita/v3", "kind": "Drawing", "nonsense": 1, **change}
    with pytest.raises(InputError) as caught:
        convert(document, OLD, DocumentSource("drawing"))
    assert told in f"{caught.value} ({caught.value.hint})"
    assert "nonsense" not in str(caught.value)


def test_the_schema_has_the_header_and_every_type() -> None:
    schema = codec.schema(OLD)
    assert schema["properties"]["apiVersion"]["const"] == "partita/v3"
    assert schema["required"] == ["apiVersion", "kind", "name"]
    assert set(schema["$defs"]) == {"Circle", "Square", "Colour", "Record"}


def test_a_document_is_written_line_by_line_and_read_again() -> None:
    stream = io.StringIO()
    shapes = [Circle(1), Circle(0.1)]
    write(OLD, stream, {"shapes": [shapes[0], line(shapes[1])], "corners": "{}"}, {"name": "d"})
    assert stream.getvalue() == (
        '{"apiVersion": "partita/v3", "kind": "Drawing", "name": "d",\n'
        ' "shapes": [\n  {"shape": "circle", "radius": 1},\n  {"shape": "circle", "radius": 0.1}],\n'
        ' "corners": {}}\n'
    )
    data, source = parse(stream.getvalue(), "drawing")
    assert convert(data, OLD, source).shapes == (Circle(1.0), Circle(0.1))


KEYS = st.text(max_size=4)
DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


def placed(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(data, (dict, list)):
        for step, each in data.items() if isinstance(data, dict) else enumerate(data):
            yield from placed(each, (*path, step))


@given(DATA, st.sampled_from([None, 0, 1]))
def test_json_and_yaml_agree_on_the_line_of_every_path(data: Any, indent: int | None) -> None:
    text = json.dumps({"all": data}, indent=indent, ensure_ascii=True)
    paths = list(placed({"all": data}))
    read, source = parse(text, "x")
    found = source.lines(paths)
    lines = text.splitlines()
    for path in paths:
        if path and isinstance(path[-1], str):
            assert json.dumps(path[-1]) in lines[found[path] - 1]
    assert read == {"all": data}


@pytest.mark.parametrize("kind", [parse_json, decode])
def test_json_that_is_cut_or_none_is_told_with_its_line(kind: Any) -> None:
    for text, told in {
        "": "x:1: this document is empty",
        '{"name": "d",\n "shapes": [': "x:2: the file ends in the middle",
        '{"name": d}': "x:1: not JSON: expecting value at column 10",
        '{"name": "d",\n "shapes": "a\tb"}': "x:2: not JSON: invalid control character at column 14",
        '{"name": "d",\n "name": "e"}': "x:2: key 'name' is already on line 1",
        '{"name": "d", "nam": 1}': "x:1: nam: unknown key",
    }.items():
        if kind is decode and "already" in told:
            continue
        with pytest.raises(InputError) as caught:
            kind(text, Drawing, "x")
        assert str(caught.value).startswith(told)


MANY_THREADS = """
import sys, threading
from partita.documents.codec import DocumentSource, convert

sys.setswitchinterval(1e-6)
for index in range(60):
    fields = "".join(f"    f{n}: Annotated[float, Meta(gt=0)] = 1.0\\n" for n in range(30))
    names = {}
    exec("from typing import Annotated\\nfrom msgspec import Meta\\nfrom partita.documents.codec import Value\\n"
         f"class Part(Value):\\n{fields}class Whole(Value):\\n"
         + "".join(f"    g{n}: tuple[Part, ...] = ()\\n" for n in range(10)), names)
    barrier = threading.Barrier(6)
    def meet():
        barrier.wait()
        convert({"g1": [{"f1": 2.0}]}, names["Whole"], DocumentSource("x"))
    threads = [threading.Thread(target=meet) for _ in range(6)]
    for each in threads: each.start()
    for each in threads: each.join()
"""


def test_threads_that_meet_a_type_at_once_do_not_crash_the_interpreter():
    done = subprocess.run([sys.executable, "-c", MANY_THREADS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
