"""Commands found in the registry: each is listed by a line of its docstring, and imported when it is called."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import partial, wraps
from importlib.util import find_spec
from inspect import getdoc
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from partita.cli.output import apart
from partita.errors import InputError, PartitaError
from partita.registry import registered

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.registry import Registered

_LINE_END = re.compile(r"(?<=\S)\n(?=[\w`'\"(~&])")
"""An end of a line inside a paragraph: rich would keep it, and the terminal breaks lines at its own width."""

_DOCSTRING = re.compile(r'(?:(?!\n\n).)*?:\n\s+"""(.*?)(?:\n\s*\n|""")', re.DOTALL)
"""From a function's `def` to the end of its docstring's first paragraph, with no blank line before the docstring."""


_NARROW = 20
"""Letters for which a narrow terminal has room beside an option."""


class RegisteredCommands(TyperGroup):
    """A family of commands with one for each policy of a group of the registry.

    Attributes:
        group: the group, a key of `registry.GROUPS`.
        order: names that `--help` lists first, in this order; the others follow in the registry's.
    """

    group: ClassVar[str]
    order: ClassVar[tuple[str, ...]] = ()

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 -- typer's own
        super().__init__(**settings)
        self._waiting = dict(registered(self.group))
        for name in [*filter(self._waiting.get, self.order), *self._waiting]:
            self.commands.setdefault(name, TyperCommand(name))

    def body(self, entry: Registered) -> Any:  # noqa: ANN401 -- as `Registered.load`
        """Return what the command of a policy runs: a function that typer makes a command of, or a `typer.Typer`.

        Raises:
            PartitaError: its package is broken.
        """
        return entry.load()

    def load(self, name: str) -> None:
        """Put the command itself in the place of its line, unless it is there already."""
        if name in self._waiting:
            with apart():  # libraries print while they are imported, too
                body = self.body(self._waiting[name])
            self.commands[name] = _command(name, body)
            del self._waiting[name]

    def load_all(self) -> None:
        """Load every command: for the documentation."""
        for name in list(self._waiting):
            self.load(name)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401 -- typer has no public type
        """Return a command, or one of its name with a line of help alone if it is not loaded."""
        entry = self._waiting.get(cmd_name)
        if entry is not None and self.commands[cmd_name].help is None:
            self.commands[cmd_name].help = self._line(entry)
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401 -- as above
        """Return the command that is called, by its name, and the words after it."""
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None:
            self.load(name)
            command = self.commands[name]
        return name, command, rest

    def _line(self, entry: Registered) -> str:
        """Return a command's line in the help, which tells a package that is broken too."""
        line = _docstring_line(entry)
        if line is None:
            try:
                self.load(entry.name)
            except PartitaError as error:
                return error.what
            line = self.commands[entry.name].help or ""
        return line


def _docstring_line(entry: Registered) -> str | None:
    """Return the first paragraph of a command's docstring, or None where it is not found.

    It is read from the source, since importing all commands takes seconds. The function has the command's name, with
    `_` for `-` and behind a word of Python's, or is the one that the entry point names.
    """
    module, _, attribute = entry.place.partition(":")
    with suppress(Exception, SystemExit):  # a package that is broken; loading the command says how
        spec: Any = find_spec(module)
        text = "\n" + spec.loader.get_source(module)
        name = entry.name.replace("-", "_")
        for each in (name, f"{name}_", attribute):
            start = text.find(f"\ndef {each}(")
            found = None if start < 0 else _DOCSTRING.match(text, start + 1)
            if found is not None:
                return " ".join(found[1].split())
    return None


_SECTION = re.compile(
    r"^(?:Args|Returns|Yields|Raises|Attributes|Example|Examples):$.*", re.MULTILINE | re.DOTALL
)
_ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n {5,}.*)*)", re.MULTILINE)


def described(function: Callable[..., object]) -> tuple[str, dict[str, str]]:
    """Return what a docstring in Google's style says of a function, and of its arguments by name."""
    text = getdoc(function) or ""
    arguments = text.partition("\nArgs:\n")[2].partition("\n\n")[0]
    told = {name: " ".join(words.split()) for name, words in _ARGUMENT.findall(arguments)}
    return _SECTION.sub("", text).strip(), told


def _command(name: str, body: Any) -> Any:  # noqa: ANN401 -- as above
    """Return the command that a function or a family is."""
    shell = typer.Typer(add_completion=False)
    shell.callback()(lambda: None)
    if not isinstance(body, typer.Typer):
        shell.command(name)(body)
    elif body.registered_callback or body.registered_groups or len(body.registered_commands) > 1:
        shell.add_typer(body, name=name)
    else:  # a command that has settings of its own
        (alone,) = body.registered_commands
        alone.name = name
        shell.registered_commands.append(alone)
    whole: Any = typer.main.get_command(shell)
    made = whole.commands[name]
    waiting = [made]
    while waiting:
        command = waiting.pop()
        waiting.extend(getattr(command, "commands", {}).values())
        finish(command)
    return made


def finish(command: Any) -> None:  # noqa: ANN401 -- as above
    """Keep what a command writes apart from what libraries print, and make its help fit for every terminal.

    Help leaves out the environment variables that every option has.
    """
    command.callback = command.callback and _kept_apart(command.callback)
    if command.help and "\b" not in command.help:  # that is how a help says that its lines stay
        command.help = _LINE_END.sub(" ", command.help)
    for parameter in command.params:
        parameter.show_envvar = False
        shown = " | ".join(choices(parameter))
        if len(shown) > _NARROW:  # a terminal breaks lines at spaces alone
            told = partial(_told, f"<{shown}>")
            if hasattr(parameter, "type"):
                parameter.type.get_metavar = told
            else:
                parameter.display_type = told


def choices(parameter: Any) -> list[str]:  # noqa: ANN401 -- as above
    """Return the words that an option or argument may be given; none where it takes any.

    Up to typer 0.28 a parameter has a `type` that says so, from 0.29 on a `type_descriptor`.
    """
    kind = parameter.type if hasattr(parameter, "type") else parameter.type_descriptor
    return [str(each) for each in getattr(kind, "choices", None) or ()]


def _told(text: str, *_: object, **__: object) -> str:
    return text


def _kept_apart(body: Callable[..., object]) -> Callable[..., object]:
    """Return a command that keeps what it writes apart, but not while its words are read: they may ask for help."""

    @wraps(body)
    def run(*words: object, **options: object) -> object:
        for name, value in options.items():
            # Ranges of typer's numbers hold `nan`.
            if isinstance(value, float) and not isfinite(value):
                raise InputError(f"must be a finite number, not {value}", where=f"--{name.replace('_', '-')}")
        with apart():
            return body(*words, **options)

    return run
