"""Pages and parts of pages that are made from the program itself."""

from __future__ import annotations

import json
import re
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from typing import TYPE_CHECKING, Any

from partita.cli.commands import RegisteredCommands
from partita.cli.main import command_line
from partita.dash.endpoints import ALL as ENDPOINTS
from partita.dash.model import Role
from partita.dash.openapi import document as openapi
from partita.documents.codec import schema as schema_of
from partita.kubernetes.rights import ADVICE, APPROVAL, CHANGES, CONTROLLER, DASH, GATEWAY, MIG_MANAGER
from partita.web.report import Report
from partita.workload import WORKLOAD

if TYPE_CHECKING:
    from collections.abc import Iterator

CLI_HEAD = """\
<!-- Made by `make docs`. Do not edit. -->
# Command line

The `--help` of each command, without frames.

- **Streams.** Data go to stdout; progress, notes and errors go to stderr. `-o json` and `-o yaml` are for programs.
  `--out FILE` writes a temporary file and renames it, so that FILE is never half-written.
- **Environment.** Every option can be given as `PARTITA_<COMMAND>_<OPTION>`, in capitals and with `_` for `-`:
  `PARTITA_PLAN_TIME_LIMIT=60` is `partita plan --time-limit 60`. An option on the command line wins. (`--debug`
  works only on the command line.) `NO_COLOR` turns colour off; without a terminal there is none.
- **Ctrl-C** ends a command with exit code 130. During a search of `partita plan`, the first one returns the best plan
  so far with its gap, if there is one; a second one exits.
- **Errors** say what is wrong and where, and a `hint:` line says how to correct it. `--debug` shows a traceback.
- **Exit codes** are in [file-formats.md](file-formats.md#exit-codes).
"""


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:  # noqa: ANN401 -- typer has no public type
    """Yield the words of each command and the command, the whole line first; its words are none."""
    if command is None:
        command = command_line()
    if isinstance(command, RegisteredCommands):
        command.load_all()
    yield path, command
    for name in sorted(getattr(command, "commands", {})):
        yield from commands(command.commands[name], (*path, name))


def options(command: Any) -> list[str]:  # noqa: ANN401 -- as above
    """Return the options of a command as they are written, `--help` left out."""
    return [word for parameter in command.params for word in parameter.opts if word.startswith("-")]


@cache
def cli_page() -> str:
    """Return docs/cli.md: the help of every command."""
    sections = [
        f"## {' '.join(('partita', *path))}\n\n```text\n{_help(path)}\n```\n" for path, _ in commands()
    ]
    return "\n".join([CLI_HEAD, *sections])


def _help(path: tuple[str, ...]) -> str:
    root: Any = command_line()
    for _, command in commands(root):  # which loads all
        command.rich_markup_mode = None  # frames are for terminals
        command.epilog = _as_written(command.epilog)
    out = StringIO()
    with redirect_stdout(out):
        root.main([*path, "--help"], prog_name="partita", standalone_mode=False)
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


def _as_written(epilog: str | None) -> str | None:
    """Return an epilog whose lines stay as they are, as on a terminal, without the escapes of its markup."""
    if epilog is None or epilog.startswith("\b"):
        return epilog
    return "\n\n".join(f"\b\n{each}" for each in epilog.replace("\\[", "[").split("\n\n"))


def schema_text() -> str:
    """Return docs/workload.schema.json: what `partita schema` prints."""
    return json.dumps(schema_of(WORKLOAD), indent=2, ensure_ascii=False) + "\n"


def openapi_text() -> str:
    """Return docs/openapi.json: what `partita dash` answers to /api/v1/openapi.json."""
    return json.dumps(openapi(), indent=1, ensure_ascii=False) + "\n"


def report_schema_text() -> str:
    """Return docs/report.schema.json: the document inside a report."""
    return json.dumps(schema_of(Report), indent=2, ensure_ascii=False) + "\n"


def endpoint_table() -> str:
    """Return a table of all endpoints of the API."""
    lines = ["| | path under `/api/v1` | | returns |", "|---|---|---|---|"]
    for each in sorted(ENDPOINTS, key=lambda each: (each.path, each.method)):
        path = re.sub(r"{(\w+):path}", r"{\1}", each.path) or "(itself)"
        more = " Needs a token that may write." if each.role is Role.WRITE else ""
        lines.append(f"| {each.method} | `{path}` | {each.about}{more} | `{each.returns.__name__}` |")
    lines.append("| GET | `/stream` | Everything that changes, as it changes. | events |")
    lines.append("| POST, DELETE | `/session` | Sign in with a token, and out. | `Session` |")
    return "\n".join(lines) + "\n"


def workload_tables() -> str:
    """Return a table of fields for each part of a workload, made from its schema."""
    schema = schema_of(WORKLOAD)
    parts = [
        ("The document", schema),
        ("`gpus[]`", schema["$defs"]["PoolSpec"]),
        ("`services[]`", schema["$defs"]["ServiceSpec"]),
        ("`services[].slo`", schema["$defs"]["Slo"]),
        ("`services[].batches`", schema["$defs"]["Batches"]),
        ("`limits`", schema["$defs"]["LimitsSpec"]),
        ("`models[]`", schema["$defs"]["ModelSpec"]),
    ]
    return "\n".join(f"### {title}\n\n{_table(part)}" for title, part in parts)


def rights_tables() -> str:
    """Return the tables of the rights in a cluster."""
    parts = []
    for title, rights in (
        ("The controller", CONTROLLER),
        ("The controller, with a Service of its dashboard", DASH),
        ("The gateway and the endpoint picker, in the namespace of their Workload", GATEWAY),
        ("`partita mig-manager`", MIG_MANAGER),
        ("People who want advice", ADVICE),
        ("People who approve plans", APPROVAL),
        ("A controller whose dashboard may change Workloads", CHANGES),
    ):
        rows = [
            f"| `{each.resource}{f'.{each.group}' if each.group else ''}` | {', '.join(each.verbs)} "
            f"| {_SCOPES[each.scope]} | {each.reason} |"
            for each in rights
        ]
        parts.append(f"{title}:\n\n| resource | verbs | where | why |\n|---|---|---|---|\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


_SCOPES = {
    "cluster": "all",
    "workloads": "Workloads' namespaces",
    "home": "its own namespace",
    "operator": "the GPU operator's",
}


def _table(part: dict[str, Any]) -> str:
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, field in part["properties"].items():
        default = "*required*" if name in part.get("required", ()) else _default(field)
        rows.append(f"| `{name}` | {_type(field)} | {default} | {field['description']} |")
    return "\n".join(rows) + "\n"


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    return "-" if value is None or value in ([], {}) or isinstance(value, dict) else f"`{value}`"


def _type(field: dict[str, Any]) -> str:
    kinds = [each for each in field.get("anyOf", [field]) if each.get("type") != "null"]
    return " or ".join(map(_type_of, kinds))


def _type_of(kind: dict[str, Any]) -> str:
    if "const" in kind:
        return f"`{kind['const']}`"
    if "enum" in kind:
        return ", ".join(f"`{each}`" for each in kind["enum"])
    if "$ref" in kind:
        return "mapping"
    if kind["type"] == "array":
        items = kind["items"]
        return "list of mappings" if "$ref" in items else f"list of {_WORDS[items['type']]}"
    return _WORDS[kind["type"]] + _range(kind)


_WORDS = {
    "object": "mapping",
    "string": "text",
    "number": "number",
    "integer": "whole number",
    "boolean": "true or false",
}


def _range(kind: dict[str, Any]) -> str:
    marks = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{mark} {kind[key]:,.15g}" for key, mark in marks.items() if key in kind]
    return f", {', '.join(found)}" if found else ""
