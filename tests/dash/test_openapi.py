"""The API against its own OpenAPI document: schemathesis makes up requests, good and bad, and judges the answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from tests.control.world import World, deployment, goal
from tests.dash.client import client, local

from partita.dash.access import Access
from partita.dash.endpoints import ALL
from partita.dash.openapi import EVENTS, document

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = 6
"""Requests made up for each operation, half of them good and half bad."""


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("openapi")
    World(folder).reach(goal(deployment("4g.20gb@0=search 3g.20gb@4=chat", "7g.40gb@0=search", "1g.5gb@6")))
    source = local(folder)
    yield schemathesis.openapi.from_asgi(
        "/api/v1/openapi.json", client(source, Access(names=("testserver",))).app
    )
    source.close()


READS = [(each["operationId"], path) for path, of in document()["paths"].items() if (each := of.get("get"))]


@pytest.mark.parametrize(("name", "path"), [each for each in READS if each[0] != "get_stream"])
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_answers_are_as_the_document_says(schema: Any, name: str, path: str, mode: GenerationMode) -> None:
    operation = schema[path]["GET"]
    assert operation.definition.raw["operationId"] == name
    wrong = [each for each in operation.definition.raw["parameters"] if each["in"] != "path"]
    if mode is GenerationMode.NEGATIVE and not wrong:
        return  # any text is an id

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def judged(case: Any) -> None:
        case.call_and_validate()

    judged()


def test_the_document_is_the_committed_one() -> None:
    kept = json.loads((Path(__file__).parents[2] / "docs" / "openapi.json").read_text())
    assert kept == document(), "run `make docs`"


def test_every_endpoint_and_every_event_is_in_it() -> None:
    made = document()
    told = {operation["operationId"] for path in made["paths"].values() for operation in path.values()}
    assert len(told) == len(ALL) + 3, "each operation has a name of its own"
    stream = made["paths"]["/api/v1/stream"]["get"]["responses"]["200"]["content"]["text/event-stream"]
    assert set(stream["x-events"]) == set(EVENTS)


def values(part: Any) -> Iterator[tuple[str, Any]]:
    """All keys of a document, each with its value."""
    if isinstance(part, dict):
        for key, value in part.items():
            yield key, value
            yield from values(value)
    elif isinstance(part, list):
        for each in part:
            yield from values(each)


def test_generators_of_clients_can_read_it() -> None:
    assert not [key for key, value in values(document()) if key == "items" and not isinstance(value, dict)]


def sent(part: Any, schemas: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The fields of all objects that are in the bodies of requests, each with the name of its object."""
    for key, value in values(part):
        if key == "$ref":
            name = value.rpartition("/")[2]
            fields = schemas[name].get("properties", {})
            yield from ((f"{name}.{field}", of) for field, of in fields.items())
            yield from sent(fields, schemas)


def test_what_clients_send_has_no_field_with_a_default_as_some_generators_have_those_always_be_sent() -> None:
    made = document()
    bodies = [
        of["requestBody"] for path in made["paths"].values() for of in path.values() if "requestBody" in of
    ]
    fields = dict(sent(bodies, made["components"]["schemas"]))
    assert {"Submit.name", "Apply.change", "WorkloadChange.pools", "ServiceWhatIf.rate"} <= fields.keys()
    assert not [name for name, of in fields.items() if "default" in of]
    assert fields["WhatIf.seconds"]["description"].endswith("By default `10.0`.")


def test_what_clients_receive_says_its_defaults() -> None:
    assert document()["components"]["schemas"]["Job"]["properties"]["attempts"]["default"] == []


def test_objects_of_any_fields_are_not_taken_for_empty_ones() -> None:
    parts = [
        value for _, value in values(document()) if isinstance(value, dict) and value.get("type") == "object"
    ]
    assert not [each for each in parts if not each.keys() & {"properties", "additionalProperties"}]


def test_all_that_it_refers_to_is_there() -> None:
    made = document()
    for reference in [value for key, value in values(made) if key == "$ref"]:
        at: Any = made
        for step in reference.removeprefix("#/").split("/"):
            at = at[step]
