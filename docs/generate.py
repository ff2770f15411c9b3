"""Make the generated parts of the documentation, or check them: `python -m docs.generate [--check]`.

Generated are docs/cli.md, docs/workload.schema.json, docs/openapi.json, docs/report.schema.json, the table of
endpoints in docs/api.md, the tables of fields in docs/file-formats.md, the output of console sessions, deploy/crds,
and the rights in the chart and in docs/kubernetes.md. With `--check` nothing is written; what is stale, a dead link,
a command that does not exist or is not described, and a session that fails are named, and the exit code is 1. What is
stale is decided by shape (docs/shape.py), on any versions of what the project depends on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from difflib import unified_diff
from typing import TYPE_CHECKING

from docs.checks import command_faults, link_faults, undocumented
from docs.pages import (
    cli_page,
    endpoint_table,
    openapi_text,
    report_schema_text,
    rights_tables,
    schema_text,
    workload_tables,
)
from docs.sessions import ROOT, SessionError, rerun
from docs.shape import page_shape

from partita.kubernetes.crds import definitions
from partita.kubernetes.rights import roles_document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLI, SCHEMA, FORMATS = "docs/cli.md", "docs/workload.schema.json", "docs/file-formats.md"
OPENAPI, API = "docs/openapi.json", "docs/api.md"
REPORT = "docs/report.schema.json"
KUBERNETES = "docs/kubernetes.md"
SESSIONS = ("README.md", "docs/getting-started.md", "docs/serving.md", "docs/jobs.md")

_SHOWN = 40
"""Lines of difference that are shown of a page."""

_TABLES = re.compile(r"(<!-- begin workload -->\n).*?(<!-- end workload -->)", re.DOTALL)
_ENDPOINTS = re.compile(r"(<!-- begin endpoints -->\n).*?(<!-- end endpoints -->)", re.DOTALL)
_RIGHTS = re.compile(r"(<!-- begin rights -->\n).*?(<!-- end rights -->)", re.DOTALL)


def generated() -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each file with generated parts; a text of the same shape is as it was.

    Raises:
        SessionError: a command of a console session failed.
    """
    yield CLI, _kept(_read(CLI), cli_page(), page_shape)
    yield SCHEMA, _kept(_read(SCHEMA) or "null", schema_text(), json.loads)
    yield OPENAPI, _kept(_read(OPENAPI) or "null", openapi_text(), json.loads)
    yield REPORT, _kept(_read(REPORT) or "null", report_schema_text(), json.loads)
    yield API, _ENDPOINTS.sub(lambda found: f"{found[1]}{endpoint_table()}{found[2]}", _read(API))
    yield from deployed()
    yield FORMATS, _TABLES.sub(lambda found: f"{found[1]}{workload_tables()}{found[2]}", _read(FORMATS))
    with ThreadPoolExecutor() as pool:  # each page waits for its commands most of the time
        yield from zip(SESSIONS, pool.map(lambda name: rerun(_read(name), name), SESSIONS), strict=True)


def deployed() -> Iterator[tuple[str, str]]:
    """Yield the path and the text of what is made for a cluster, but for what helm renders."""
    yield from ((f"deploy/crds/{name}", text) for name, text in definitions().items())
    yield "deploy/chart/files/rights.yaml", roles_document()
    yield KUBERNETES, _RIGHTS.sub(lambda found: f"{found[1]}{rights_tables()}{found[2]}", _read(KUBERNETES))


def _kept(old: str, new: str, shape: Callable[[str], object]) -> str:
    return old if shape(old) == shape(new) else new


def _read(name: str) -> str:
    path = ROOT / name
    return path.read_text() if path.exists() else ""


def faults() -> list[str]:
    """Return what is wrong in the documentation as it is."""
    try:
        stale = [_stale(name, _read(name), text) for name, text in generated() if text != _read(name)]
    except SessionError as error:
        return [str(error)]
    return [*stale, *undocumented(_read(CLI)), *link_faults(ROOT), *command_faults(ROOT)]


def _stale(name: str, old: str, new: str) -> str:
    lines = list(
        unified_diff(old.splitlines(), new.splitlines(), name, "what is printed now", lineterm="", n=1)
    )
    more = [f"... {len(lines) - _SHOWN} more lines"] if len(lines) > _SHOWN else []
    return "\n".join([f"{name} is stale: run `make docs`", *lines[:_SHOWN], *more])


def main() -> None:
    """Make or check."""
    parser = argparse.ArgumentParser(description="Make the generated parts of the documentation.")
    parser.add_argument("--check", action="store_true", help="change nothing; name what is stale or wrong")
    parser.add_argument(
        "--deploy", action="store_true", help="only definitions and rights, which take no time"
    )
    os.environ["COLUMNS"] = "80"
    asked = parser.parse_args()
    if asked.check:
        found = faults()
        print("\n".join(found) if found else "the documentation is up to date")
        sys.exit(bool(found))
    for name, text in deployed() if asked.deploy else generated():
        if text != _read(name):
            (ROOT / name).write_text(text)
            print(f"wrote {name}")


if __name__ == "__main__":
    main()
