"""Options that several commands share, and what stands behind them."""

from __future__ import annotations

from enum import Enum, StrEnum
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from partita.cli.streams import own, width
from partita.cli.terminal import JsonWriter, is_shown, json_shown, shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    from rich.console import Console


class Format(StrEnum):
    """What stdout carries."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


WorkloadFile = Annotated[
    Path, typer.Option("-f", "--file", metavar="WORKLOAD", help="Workload (YAML or JSON); - is stdin.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Write no files.")]
Output = Annotated[Format, typer.Option("-o", "--output", help="Format on stdout.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the result to this file too.")]


def stdout() -> Console:
    """Return the console for data: plain where stdout is no terminal, colour off with NO_COLOR."""
    from partita.cli.console import SafeConsole  # noqa: PLC0415 -- rich is slow to import

    # No text is markup: names may hold brackets.
    return SafeConsole(file=own(), width=width(), highlight=False, soft_wrap=False, markup=False)


def stderr() -> Console:
    """Return the console for progress and notes."""
    from partita.cli.console import SafeConsole  # noqa: PLC0415 -- rich is slow to import

    return SafeConsole(stderr=True, highlight=False, markup=False)


def echo(text: str, *, err: bool = False, newline: bool = True) -> None:
    """Write text to stdout or to stderr; what a terminal would act on is written as an escape."""
    typer.echo(shown(text), file=None if err else own(), err=err, nl=newline)  # noqa: TID251 -- the one place


def emit_document(write: Callable[[TextIO], None], form: Format) -> None:
    """Write a document to stdout as JSON, which is streamed, or as YAML."""
    if form is Format.JSON:
        write(cast("TextIO", JsonWriter(own())))
        return
    import io  # noqa: PLC0415 -- only for YAML
    import json  # noqa: PLC0415

    text = io.StringIO()
    write(text)
    emit(json.loads(text.getvalue()), form)


def emit(value: object, form: Format) -> None:
    """Write plain data to stdout as JSON or YAML, numbers without what floating point adds at their ends."""
    value = clean(value)
    if form is Format.YAML:
        import yaml  # noqa: PLC0415

        text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
        if not is_shown(text):
            text = yaml.safe_dump(value, sort_keys=False)  # which escapes all that is not ASCII
        echo(text, newline=False)
    else:
        echo(json_shown(indented_json(value)))


_LARGE = 100_000
"""Characters from which on it pays to import what indents faster."""


def indented_json(value: object) -> str:
    """Return plain data as `json.dumps` indents it, which it does in Python: that takes seconds for a long queue."""
    import json  # noqa: PLC0415

    text = json.dumps(value, ensure_ascii=False)
    if len(text) >= _LARGE:
        import msgspec  # noqa: PLC0415 -- slow to import beside a short text

        try:
            return msgspec.json.format(text, indent=2)
        except (msgspec.DecodeError, UnicodeEncodeError):
            pass  # NaN, or half a character: no JSON for others than Python
    return json.dumps(value, indent=2, ensure_ascii=False)


def clean(value: object) -> object:
    """Return plain data with its numbers to twelve digits, and no negative zero."""
    if isinstance(value, Enum):
        return clean(value.value)  # a kind of text for JSON, and nothing for YAML
    if isinstance(value, float):
        return float(f"{value:z.12g}") if isfinite(value) else value
    if isinstance(value, dict):
        return {key: clean(each) for key, each in value.items()}
    return [clean(each) for each in value] if isinstance(value, list | tuple) else value
