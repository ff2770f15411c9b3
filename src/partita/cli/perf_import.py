"""`partita perf import`: a command for each importer, with its docstring as help and its parameters as options."""

from __future__ import annotations

import re
from inspect import Parameter, Signature, formatannotation, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from partita.cli.commands import RegisteredCommands, described
from partita.cli.options import pairs
from partita.cli.output import echo
from partita.cli.perf_table import Out, write
from partita.registry import make

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.registry import Registered

Raw = Annotated[Path, typer.Argument(metavar="PATH", help="Output of the tool.")]

_MAPPING = "Mapping[str, str]"
_TYPES = {"str": str, "int": int, "float": float, "bool": bool, "Path": Path, _MAPPING: list[str]}
"""What an option takes, by how its parameter is annotated; a mapping is written NAME=VALUE,NAME=VALUE."""


class Importers(RegisteredCommands):
    """A command for each importer."""

    group = "importers"

    def body(self, entry: Registered) -> Callable[..., None]:
        """Return the command of an importer."""
        importer = entry.load()
        text, told = described(importer)
        given = signature(importer).parameters
        parameters = {_name(each): each for name, each in given.items() if name != "path" and _is_named(each)}

        def run(path: Path, out: Path | None, **options: Any) -> None:  # noqa: ANN401 -- as its parameters are
            values: dict[str, object] = {}
            if "set" not in parameters:
                values |= pairs(options.pop("set", None), "--set")
            for name, value in options.items():
                each = parameters[name]
                values[each.name] = pairs(value, f"--{name}") if _annotated(each) == _MAPPING else value
            write(make("importers", entry.name, path=path, **values), out)

        options = [_option(each, told.get(each.name, "")) for each in parameters.values()]
        if not entry.own and "set" not in parameters:
            options.append(Parameter("set", Parameter.KEYWORD_ONLY, default=None, annotation=_Set))
        path = Parameter("path", Parameter.POSITIONAL_OR_KEYWORD, annotation=Raw)
        out = Parameter("out", Parameter.KEYWORD_ONLY, default=None, annotation=Out)
        try:
            shape = Signature([path, *options, out])
        except ValueError as error:
            raise entry.broken(str(error)) from None
        run.__signature__ = shape  # type: ignore[attr-defined]  # where typer looks for parameters
        run.__annotations__ = {}
        run.__doc__ = text or f"Import what {entry.name} writes, with {entry.package}."
        return run


app = typer.Typer(
    cls=Importers, help="Turn other tools' measurements into a performance table.", no_args_is_help=True
)


def _is_named(parameter: Parameter) -> bool:
    return parameter.kind in {Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY}


def _name(parameter: Parameter) -> str:
    """Return what an option is called: `set_` is `--set`, since Python has a `set` of its own."""
    return parameter.name.rstrip("_")


def _annotated(parameter: Parameter) -> str:
    """Return how a parameter is annotated, without `| None`; nothing needs to be imported for it."""
    found = parameter.annotation
    if found is Parameter.empty:
        return type(parameter.default).__name__
    return re.sub(r"\s*\|\s*None$", "", found if isinstance(found, str) else formatannotation(found))


def _option(parameter: Parameter, told: str) -> Parameter:
    """Return the option for a parameter; what is of no known type is text."""
    kind = _TYPES.get(_annotated(parameter), str)
    mapping = _annotated(parameter) == _MAPPING
    words = typer.Option(
        f"--{_name(parameter).replace('_', '-')}",
        metavar="NAME=VALUE,..." if mapping else None,
        help=told[:1].upper() + told[1:],
    )
    default = None if mapping else parameter.default
    return Parameter(
        _name(parameter), Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind | None, words]
    )


def _set(context: typer.Context, values: list[str] | None) -> list[str] | None:
    """Take options that are written as those of other packages' importers once were: --set NAME=VALUE."""
    if values:
        echo("note: --set NAME=VALUE is written --NAME VALUE now", err=True)
        context.default_map = {**(context.default_map or {}), **pairs(values, "--set")}
    return values


_Set = Annotated[list[str] | None, typer.Option("--set", hidden=True, is_eager=True, callback=_set)]
