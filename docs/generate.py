"""Make the generated parts of the documentation, or check them: `python -m docs.generate [--check]`.

Generated are docs/cli.md, docs/workload.schema.json, the tables of fields in docs/file-formats.md and the output of
console sessions. With `--check` nothing is written; what is stale, a dead link, a command that does not exist or is
not described, and a session that fails are named, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import TYPE_CHECKING

from docs.checks import command_faults, link_faults, undocumented
from docs.pages import cli_page, made_with, schema_text, workload_tables
from docs.sessions import ROOT, SessionError, rerun

if TYPE_CHECKING:
    from collections.abc import Iterator

CLI, SCHEMA, FORMATS = "docs/cli.md", "docs/workload.schema.json", "docs/file-formats.md"
SESSIONS = ("README.md", "docs/getting-started.md", "docs/serving.md", "docs/jobs.md")

_TABLES = re.compile(r"(<!-- begin workload -->\n).*?(<!-- end workload -->)", re.DOTALL)


def generated() -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each file with generated parts.

    Raises:
        SessionError: a command of a console session failed.
    """
    yield CLI, cli_page()
    yield SCHEMA, schema_text()
    yield FORMATS, _TABLES.sub(lambda found: f"{found[1]}{workload_tables()}{found[2]}", _read(FORMATS))
    for name in SESSIONS:
        yield name, rerun(_read(name), name)


def _read(name: str) -> str:
    path = ROOT / name
    return path.read_text() if path.exists() else ""


def faults() -> list[str]:
    """Return what is wrong in the documentation as it is.

    Where other versions of what decides the look are installed than the pages were made with, generated parts are
    not compared: they would differ in form alone. Sessions are run all the same.
    """
    same = made_with() in _read(CLI)
    if not same:
        print(f"note: generated pages were made with other versions than {made_with()}, and are not compared")
    try:
        stale = [name for name, text in generated() if same and text != _read(name)]
    except SessionError as error:
        return [str(error)]
    return [
        *(f"{name} is stale: run `make docs`" for name in stale),
        *undocumented(_read(CLI)),
        *link_faults(ROOT),
        *command_faults(ROOT),
    ]


def main() -> None:
    """Make or check."""
    parser = argparse.ArgumentParser(description="Make the generated parts of the documentation.")
    parser.add_argument("--check", action="store_true", help="change nothing; name what is stale or wrong")
    os.environ["COLUMNS"] = "80"
    if parser.parse_args().check:
        found = faults()
        print("\n".join(found) if found else "the documentation is up to date")
        sys.exit(bool(found))
    for name, text in generated():
        if text != _read(name):
            (ROOT / name).write_text(text)
            print(f"wrote {name}")


if __name__ == "__main__":
    main()
