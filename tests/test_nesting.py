"""Documents from outside that are nested without end, or multiply, are refused with their place, quickly."""

from __future__ import annotations

import copy
import gzip
import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from tests.serve.gateway.fake_gateway import ECHO

from partita.control.reconciler import RatesFile
from partita.documents.text import parse
from partita.errors import InputError
from partita.files import DEEPEST, json_value
from partita.jobs.memory.checkpoint import read_config
from partita.jobs.run.documents import ExitDocument, read_document
from partita.perf.reading import read_table
from partita.planning.document import read_plan
from partita.serve.gateway.oip import RequestError, RequestLimits, Signature
from partita.serve.gateway.oip_json import read_request
from partita.serve.worker.oip_client import UpstreamError, read_answer
from partita.serve.worker.spec import read_spec
from partita.sim.traffic import read_trace
from partita.transition.document import read_transition
from partita.workload import read_workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MANY = 100_000
LISTS = ["[" * MANY, '{"a":' * MANY, "[" * MANY + "]" * MANY, '[{"a":' * MANY + "1" + "}]" * MANY]
SOMEWHAT = "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1)  # what a parser reads without complaint
READERS: dict[str, Callable[[Path], object]] = {
    "workload": read_workload,
    "plan": read_plan,
    "transition": read_transition,
    "worker": read_spec,
    "table": read_table,
    "trace": read_trace,
    "transformer": read_config,
    "rates": lambda path: RatesFile(path).measured(),
}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("text", [*LISTS, SOMEWHAT], ids=["lists", "objects", "closed", "both", "somewhat"])
def test_no_file_is_nested_too_deep_to_be_refused(tmp_path, kind, text):
    path = tmp_path / "document.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        READERS[kind](path)
    assert f"ested more than {DEEPEST} deep" in caught.value.what
    assert str(caught.value.where).startswith(f"{path}:1")


def test_nested_json_is_read_up_to_the_limit_and_its_place_is_told():
    deep = "[" * DEEPEST + '"[[["' + "]" * DEEPEST
    assert json_value(deep) == json.loads(deep)
    assert json_value(f'{{"a": {deep[1:-1]}, "b": []}}'.encode())["b"] == []
    with pytest.raises(json.JSONDecodeError, match="Nested more than") as caught:
        json_value(f'{{"]]]": "\\"",\n "a": {deep}}}')
    assert (caught.value.lineno, caught.value.colno) == (2, 6 + DEEPEST)


def test_a_number_that_is_too_long_is_a_fault_of_the_json():
    with pytest.raises(json.JSONDecodeError, match="limit"):
        json_value("9" * 5000)


FLOW = ["[" * MANY, "{[" * MANY, "[{" * MANY, "{a: " * MANY, "- " * MANY, "[\n" * MANY, "&a [" * MANY]
BLOCK = "".join(f"{' ' * depth}a:\n" for depth in range(200))


@pytest.mark.parametrize("text", [*FLOW, BLOCK], ids=[*(each[:4] for each in FLOW), "block"])
def test_no_yaml_is_nested_too_deep_to_be_refused(text):
    # A libyaml with no limit of its own lets the builder see the list that stands where a key belongs.
    with pytest.raises(InputError, match=rf"nested more than {DEEPEST} deep|a key must be a word") as caught:
        parse(text, "w.yaml")
    assert caught.value.hint


def test_brackets_in_text_and_comments_nest_nothing():
    text = (
        "a: '"
        + "[" * 100
        + "'\n# "
        + "{" * 100
        + '\nb: "'
        + "[" * 100
        + '"\nc: x'
        + "[" * 100
        + "\nd: [1\ne: 2"
    )
    assert parse(text.partition("\nd")[0], "w.yaml")[0] == {
        "a": "[" * 100,
        "b": "[" * 100,
        "c": "x" + "[" * 100,
    }
    with pytest.raises(InputError, match="not YAML"):
        parse(text.replace("c: x" + "[" * 100, ""), "w.yaml")


def laughs(line: str) -> str:
    return "a: &a [x, x]\n" + "".join(line.format(new=chr(98 + n), old=chr(97 + n)) for n in range(24))


@pytest.mark.parametrize(
    "text",
    [
        laughs("{new}: &{new} [*{old}, *{old}, *{old}, *{old}]\n"),
        laughs("{new}: &{new} {{x: *{old}, y: *{old}}}\n"),
        laughs("{new}: &{new} [*{old}, *{old}]\n").replace("[x, x]", "{p: 1, q: 2}"),
        "a: &a {x: 1, y: 2}\n" + "".join(f"b{n}: {{<<: *a}}\n" for n in range(50_000)),
    ],
    ids=["lists", "mappings", "mappings of lists", "merges"],
)
def test_aliases_cannot_multiply_without_bound(text):
    with pytest.raises(InputError, match="aliases stand for more than") as caught:
        parse(text, "w.yaml")
    assert str(caught.value.where).startswith("w.yaml:")


def nested(depth: int, kind: str) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value}
    return value


REQUEST = {
    "id": "1",
    "parameters": {"deadline_ms": 5, "timeout": 3, "priority": 0, "binary_data_output": True, "x": 1},
    "inputs": [
        {"name": "INPUT0", "datatype": "FP32", "shape": [1, 4], "parameters": {"y": 1}, "data": [1, 2, 3, 4]}
    ],
    "outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": False, "z": 1}}],
    "more": 1,
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, (dict, list)):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(each, (*path, key))


@pytest.mark.parametrize("path", list(places(REQUEST)), ids=lambda path: ".".join(map(str, path)) or "all")
@pytest.mark.parametrize("kind", ["list", "object"])
def test_no_request_is_nested_too_deep_to_be_answered(path, kind):
    signature = Signature(ECHO)
    for depth in (100, 500, 990):
        document = copy.deepcopy(REQUEST)
        target: Any = document
        text = ("[" if kind == "list" else '{"a":') * depth + "1" + ("]" if kind == "list" else "}") * depth
        for step in path[:-1]:
            target = target[step]
        if path:
            target[path[-1]] = "HERE"
            body = orjson.dumps(document).replace(b'"HERE"', text.encode())
        else:
            body = text.encode()
        with suppress(RequestError):  # a part that nobody reads may be what it likes
            read_request(body, None, signature, RequestLimits())


@pytest.mark.parametrize("text", LISTS)
def test_no_answer_of_a_server_is_nested_too_deep_to_be_refused(text):
    with pytest.raises(UpstreamError):
        read_answer(text.encode(), None)


@pytest.mark.parametrize("text", LISTS)
def test_no_document_of_an_attempt_is_nested_too_deep_to_be_refused(tmp_path, text):
    (tmp_path / "exit.json").write_text(text)
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(InputError, match=r"nested|expecting|mapping"):
            read_document(folder, "exit.json", ExitDocument)
    finally:
        os.close(folder)


def test_a_trace_in_a_small_file_does_not_grow_without_end(tmp_path):
    path = tmp_path / "trace.jsonl.gz"
    path.write_bytes(gzip.compress(b"[" * MANY))
    with pytest.raises(InputError):
        read_trace(path)
