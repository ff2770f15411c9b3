"""The streams of the process: what a command writes to stdout, kept apart from what libraries print there.

A library may print what it likes: with `print`, from C, from a thread or a process that it starts. While a command
runs, the place where all those write, file descriptor 1 and `sys.stdout`, leads to stderr, and only `own` leads to
the stdout that the user sees. Commands write with `options.stdout`, `emit`, `emit_document` or `echo`.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import sys
from contextlib import contextmanager, suppress
from enum import Enum, StrEnum
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO, cast

import typer

from partita.cli.safe_text import is_shown, json_shown, shown
from partita.errors import InputError, PartitaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TextIO

    from rich.console import Console
    from typing_extensions import Buffer


_STDOUT, _STDERR = 1, 2


class OutputError(PartitaError):
    """What a command writes cannot be written, because a disk is full, say (exit code 1)."""


class ReaderGoneError(Exception):
    """Nobody reads stdout any more, as after `| head`; there is nobody to tell."""


class _Descriptor(io.FileIO):
    """The user's stdout under a number of its own. After one failure it takes everything and writes nothing."""

    failed = False

    def write(self, data: Buffer, /) -> int:
        if self.failed:
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except BrokenPipeError:
            self.failed = True
            raise ReaderGoneError from None
        except OSError as error:
            self.failed = True
            raise OutputError(f"cannot be written: {error.strerror}", where="stdout") from None


_own: TextIO | None = None
_printed: TextIO | None = None
"""Where libraries print; with `_own` None until a command runs."""


def own() -> TextIO:
    """Return the stream that leads to the user's stdout."""
    return sys.stdout if _own is None else _own  # noqa: TID251 -- the one place


def width() -> int | None:
    """Return the width of the terminal that stdout is, where no other stream tells it; else None."""
    stream = own()
    number = _number(stream)
    if number is None or os.isatty(0) or os.isatty(_STDERR) or not os.isatty(number):
        return None
    return os.get_terminal_size(number).columns or None


def fill_gaps() -> None:
    """Give the streams that the process was started without a place to go.

    Else the next file that is opened would get the number of one of them, and a library that prints would write
    into it.
    """
    for number in (0, _STDOUT, _STDERR):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 -- for the process


def guard_stdout() -> None:
    """Have what is written before a command runs, as help is, fail as what a command writes does.

    A terminal that cannot show a name still shows the rest.
    """
    plain = sys.stdout  # noqa: TID251
    if _number(plain) == _STDOUT:
        plain.flush()
        sys.stdout = _stream(_Descriptor(_STDOUT, "wb", closefd=False), plain)  # noqa: TID251
    elif isinstance(plain, io.TextIOWrapper):
        plain.reconfigure(errors="backslashreplace")


@contextmanager
def apart() -> Iterator[None]:
    """Keep `own` apart from what libraries print, which goes to stderr.

    Afterwards `sys.stdout` is `own`, as for the help of a subcommand, but file descriptor 1 still leads to stderr: C
    libraries may write what they have buffered when the process ends. Where `sys.stdout` is not the process's stdout
    but an object, as under a test runner, all is put back.

    Raises:
        ReaderGoneError: nobody reads stdout any more.
        OutputError: what was written last cannot be written.
    """
    global _own, _printed  # noqa: PLW0603 -- the process has one stdout
    plain = sys.stdout  # noqa: TID251
    if plain is _printed:
        yield
        return
    if (
        _own is None or _printed is None or plain is not _own
    ):  # the first time, or stdout has been redirected since
        _own, _printed = (_moved(plain), plain) if _number(plain) == _STDOUT else (plain, sys.stderr)
    mine, theirs = _own, _printed
    sys.stdout = theirs  # noqa: TID251
    try:
        yield
    finally:
        sys.stdout = mine  # noqa: TID251
        if theirs is sys.stderr:
            _own = _printed = None
        else:
            with suppress(OSError):
                theirs.flush()
            mine.flush()


def _number(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


def _moved(plain: TextIO) -> TextIO:
    """Return a stream to the process's stdout, and let its number, and so `plain`, lead to stderr."""
    plain.flush()
    raw = _Descriptor(os.dup(_STDOUT), "wb")  # like all that Python opens, no child process inherits it
    os.dup2(_STDERR, _STDOUT)
    return _stream(raw, plain)


def _stream(raw: _Descriptor, plain: TextIO) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(raw), plain.encoding, "backslashreplace", line_buffering=raw.isatty()
    )


_COLOUR = re.compile(r"\x1b\[([0-9;:]*)m")
_BEGUN_COLOUR = re.compile(r"\x1b(?:\[[0-9;:]{0,40})?\Z")
# Select Graphic Rendition (ECMA-48, 8.3.117), less what blinks or conceals.
_RENDITIONS = frozenset({0, 1, 2, 3, 4, 7, 9, *range(21, 25), 27, 29, *range(30, 50), *range(90, 108)})


class JsonWriter(io.TextIOBase):
    """A stream for JSON that passes it on as `json_shown`.

    Args:
        stream: where it goes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str, /) -> int:
        """Write a piece of a document."""
        self._stream.write(json_shown(text))
        return len(text)


class ProgramOutput:
    """What a program wrote, piece by piece, for a terminal: colours stay, and what is cut in two is put together."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._kept = ""
        self._coloured = False

    def feed(self, data: bytes, *, final: bool = False) -> str:
        """Return what is to be shown of the next piece."""
        text = self._kept + self._decoder.decode(data, final)
        begun = None if final else _BEGUN_COLOUR.search(text)
        self._kept = text[begun.start() :] if begun else ""
        text = text[: begun.start()] if begun else text
        found, last = [], 0
        for colour in _COLOUR.finditer(text):
            found.append(_program(text[last : colour.start()]))
            harmless = _harmless(colour[1])
            self._coloured = self._coloured or harmless
            found.append(colour[0] if harmless else _program(colour[0]))
            last = colour.end()
        found.append(_program(text[last:]))
        return "".join(found)

    def end(self) -> str:
        """Return the rest, and what puts the terminal's own colours back."""
        rest = self.feed(b"", final=True)
        return rest + ("\x1b[0m" if self._coloured else "")


def _program(text: str) -> str:
    # A carriage return goes back to the beginning of its own line: every progress bar does.
    return "\r".join(shown(part) for part in text.split("\r"))


def _harmless(parameters: str) -> bool:
    """Say whether all that a Select Graphic Rendition asks for is a colour or a weight."""
    numbers = [int(each or 0) for each in re.split("[;:]", parameters)]
    at = 0
    while at < len(numbers):
        if numbers[at] not in _RENDITIONS:
            return False
        # 38;5;n and 38;2;r;g;b: what follows is a colour's numbers.
        at += (
            {5: 3, 2: 5}.get(numbers[at + 1 : at + 2][0], 1)
            if numbers[at] in (38, 48) and at + 1 < len(numbers)
            else 1
        )
    return True


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


def to_write(path: Path | None) -> Path | None:
    """Return the file or folder that a command will write, before it works for what could not be kept.

    Raises:
        InputError: there is no folder for it, or nothing can be written there.
    """
    if path is None:
        return None
    folder = path.parent
    if not folder.is_dir():
        raise InputError(
            f"cannot be written: there is no folder {folder}",
            where=str(path),
            hint="make it, or write elsewhere",
        )
    if not os.access(folder, os.W_OK):
        raise InputError(
            f"cannot be written: {folder} may not be written to", where=str(path), hint="write elsewhere"
        )
    return path


Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", callback=to_write, help="Write the result to this file too."),
]


def stdout() -> Console:
    """Return the console for data: plain where stdout is no terminal, colour off with NO_COLOR."""
    from partita.cli.drawing import SafeConsole  # noqa: PLC0415 -- rich is slow to import

    # No text is markup: names may hold brackets.
    return SafeConsole(file=own(), width=width(), highlight=False, soft_wrap=False, markup=False)


def stderr() -> Console:
    """Return the console for progress and notes."""
    from partita.cli.drawing import SafeConsole  # noqa: PLC0415 -- rich is slow to import

    return SafeConsole(stderr=True, highlight=False, markup=False)


def note(*texts: str) -> None:
    """Write notes to stderr, a line each."""
    for text in texts:
        stderr().print(f"note: {text}", markup=False, soft_wrap=True)


def echo(text: str, *, err: bool = False, newline: bool = True) -> None:
    """Write text to stdout or to stderr; what a terminal would act on is written as an escape."""
    typer.echo(shown(text), file=None if err else own(), err=err, nl=newline)  # noqa: TID251 -- the one place


def emit_document(write: Callable[[TextIO], None], form: Format) -> None:
    """Write a document to stdout as JSON, which is streamed, or as YAML."""
    if form is Format.JSON:
        write(cast("TextIO", JsonWriter(own())))
        return

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
    text = json.dumps(value, ensure_ascii=False)
    if len(text) >= _LARGE:
        import msgspec  # noqa: PLC0415 -- not for --help

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
