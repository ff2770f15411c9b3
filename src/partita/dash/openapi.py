"""The OpenAPI 3.1 document of the API, made from its endpoints and the types of their documents."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import msgspec

from partita import __version__
from partita.dash import model
from partita.dash.endpoints import ALL
from partita.dash.model import Fault, Role

if TYPE_CHECKING:
    from partita.dash.endpoint import Endpoint

ROOT = "/api/v1"

EVENTS = {
    "hello": model.Hello,
    "gpu": model.GpuChange,
    "load": model.LoadChange,
    "services": tuple[model.Service, ...],
    "transition": model.Transition,
    "job": model.Job,
    "event": model.Event,
    "reset": model.Reset,
    "fault": model.ClusterFault,
}
"""The events of the stream, and the types of their documents."""

_REFERENCE = "#/components/schemas/{name}"
_NAME = re.compile(r"{(\w+)(?::\w+)?}")

_STREAM = (
    "Server-sent events: first `hello`, then `gpu`, `load`, `services`, `transition`, `job` and `event` as they "
    "happen. Send the header `Last-Event-ID`, or the parameter `last_event`, to go on where a connection ended. "
    "`reset` says that events are missing: load everything anew. `fault` says what cannot be seen now, and why. "
    "Comment lines are pings."
)


def document() -> dict[str, Any]:
    """Return the document as plain data."""
    types = [each.returns for each in ALL] + [each.body for each in ALL if each.body is not None]
    types += [Fault, model.SignIn, model.Session]
    queries = [each.query for each in ALL]
    events, parts = msgspec.json.schema_components(EVENTS.values(), ref_template=_REFERENCE)
    _, own = msgspec.json.schema_components([*types, *queries], ref_template=_REFERENCE)
    schemas = {**parts, **own}
    parameters = {query: _query(query, schemas) for query in dict.fromkeys(queries)}
    for query in parameters:
        schemas.pop(query.__name__, None)
    paths: dict[str, Any] = {}
    for each in ALL:
        paths.setdefault(_path(each), {})[each.method.lower()] = _operation(each, parameters[each.query])
    paths[f"{ROOT}/stream"] = {"get": _stream(dict(zip(EVENTS, events, strict=True)))}
    paths[f"{ROOT}/session"] = _session()
    made = {
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {
            "title": "Partita",
            "version": __version__,
            "description": "What a cluster of MIG GPUs does: fleet, services, jobs, plans and transitions.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "../../"}],  # from where this document lies, also behind a proxy
        "security": [{}, {"bearer": []}, {"cookie": []}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "cookie": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "partita",
                    "description": "That of POST /api/v1/session; each server adds letters of its own to the name.",
                },
            },
            "responses": {
                "Fault": {
                    "description": "It was refused, or failed: what, where, how to mend it.",
                    "content": {"application/json": {"schema": _reference(Fault)}},
                }
            },
        },
    }
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(made))
    _leave_out_false_items(plain)
    _let_be_left_out(plain)
    _open_free_objects(plain)
    return plain


def _let_be_left_out(made: dict[str, Any]) -> None:
    """Say the defaults of what clients send in words: some generators have every field with a `default` be sent."""
    schemas = made["components"]["schemas"]
    bodies = [
        each["requestBody"]
        for path in made["paths"].values()
        for each in path.values()
        if "requestBody" in each
    ]
    for name in _referred(bodies, schemas):
        for field in schemas[name].get("properties", {}).values():
            default = field.pop("default", None)
            if default not in (None, "", {}, []):
                told = f"By default `{json.dumps(default)}`."
                field["description"] = f"{field['description']} {told}" if "description" in field else told


def _referred(part: object, schemas: dict[str, Any], found: frozenset[str] = frozenset()) -> frozenset[str]:
    """Return the names of all schemas that a part of the document refers to, also through others."""
    if isinstance(part, list):
        for each in part:
            found = _referred(each, schemas, found)
    elif isinstance(part, dict):
        for key, value in part.items():
            name = value.rpartition("/")[2] if key == "$ref" else ""
            if name and name not in found:
                found = _referred(schemas[name], schemas, found | {name})
            else:
                found = _referred(value, schemas, found)
    return found


def _open_free_objects(part: object) -> None:
    """Say of objects without declared fields that they may have any: some generators take them for empty ones."""
    if isinstance(part, dict):
        if part.get("type") == "object" and "properties" not in part:
            part.setdefault("additionalProperties", True)
        for each in part.values():
            _open_free_objects(each)
    elif isinstance(part, list):
        for each in part:
            _open_free_objects(each)


def _leave_out_false_items(part: object) -> None:
    """Take `items: false` from tuples, whose `maxItems` says the same: some generators of clients know no `false`."""
    if isinstance(part, dict):
        if part.get("items") is False:
            del part["items"]
        for each in part.values():
            _leave_out_false_items(each)
    elif isinstance(part, list):
        for each in part:
            _leave_out_false_items(each)


def _path(endpoint: Endpoint) -> str:
    return ROOT + _NAME.sub(r"{\1}", endpoint.path)


def _operation(endpoint: Endpoint, query: list[dict[str, Any]]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _NAME.findall(endpoint.path)
    ]
    if endpoint.if_match is not None:
        parameters.append(
            {
                "name": "If-Match",
                "in": "header",
                "required": True,
                "schema": {"type": "string"},
                "description": f"{endpoint.if_match.about}, in quotes: what the request is for, as it was seen.",
            }
        )
    made: dict[str, Any] = {
        "operationId": _operation_id(endpoint),
        "summary": endpoint.about,
        "parameters": [*parameters, *query],
        "responses": {
            str(endpoint.status): {
                "description": (endpoint.returns.__doc__ or endpoint.about).split("\n")[0],
                "headers": {"ETag": {"schema": {"type": "string"}}},
                "content": {"application/json": {"schema": _reference(endpoint.returns)}},
            },
            **({"304": {"description": "It is as it was."}} if endpoint.method == "GET" else {}),
            "default": {"$ref": "#/components/responses/Fault"},
        },
    }
    if endpoint.body is not None:
        made["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _reference(endpoint.body)}},
        }
    if endpoint.role is Role.WRITE:
        made["security"] = [{"bearer": []}, {"cookie": []}]
    return made


def _operation_id(endpoint: Endpoint) -> str:
    words = re.findall(r"\w+", _NAME.sub(r"by-\1", endpoint.path)) or ["index"]
    return "_".join([endpoint.method.lower(), *(word for word in words if word != "by")])


def _query(query: type, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    fields: dict[str, dict[str, Any]] = schemas[query.__name__].get("properties", {})
    needed = schemas[query.__name__].get("required", [])
    return [_parameter(name, dict(field), required=name in needed) for name, field in fields.items()]


def _parameter(name: str, field: dict[str, Any], *, required: bool) -> dict[str, Any]:
    about = field.pop("description", None)
    options = [each for each in field.pop("anyOf", []) if each != {"type": "null"}]
    if options:  # a parameter that may be left out is never null
        field.update(options[0])
        about = field.pop("description", about)
    if field.get("default", "") is None:
        del field["default"]
    return {
        "name": name,
        "in": "query",
        "required": required,
        "schema": field,
        **({"description": about} if about else {}),
    }


def _stream(events: dict[str, Any]) -> dict[str, Any]:
    return {
        "operationId": "get_stream",
        "summary": "Everything that changes, as it changes.",
        "description": _STREAM,
        "parameters": [
            {"name": "Last-Event-ID", "in": "header", "required": False, "schema": {"type": "string"}},
            {
                "name": "last_event",
                "in": "query",
                "required": False,
                "schema": {"type": "integer", "minimum": 0},
            },
        ],
        "responses": {
            "200": {
                "description": "The stream, which ends when either side closes it.",
                "content": {"text/event-stream": {"schema": {"type": "string"}, "x-events": events}},
            },
            "default": {"$ref": "#/components/responses/Fault"},
        },
    }


def _session() -> dict[str, Any]:
    answer = {
        "description": "Who asks, and what that role may do.",
        "content": {"application/json": {"schema": _reference(model.Session)}},
    }
    fault = {"$ref": "#/components/responses/Fault"}
    body = {"required": True, "content": {"application/json": {"schema": _reference(model.SignIn)}}}
    return {
        "post": {
            "operationId": "sign_in",
            "summary": "Sign in with a token; the answer sets a cookie.",
            "security": [{}],
            "requestBody": body,
            "responses": {"200": answer, "default": fault},
        },
        "delete": {
            "operationId": "sign_out",
            "summary": "Sign out: the cookie is worthless from now on.",
            "responses": {"200": answer, "default": fault},
        },
    }


def _reference(kind: type) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(name=kind.__name__)}
