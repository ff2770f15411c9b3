"""What users write, made fit for a terminal: nothing of it is acted on, hidden, or shown in another order.

A name, a command or a job's output may hold escape sequences that move the cursor, set the title or write into the
clipboard, and characters that show nothing or turn the text round. `options.stdout`, `stderr`, `echo` and `emit` pass
all text through here, so that a view cannot forget to.
"""

from __future__ import annotations

import codecs
import io
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

# Characters that Unicode counts as letters or marks, and that show nothing.
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\U000e0100-\U000e01ef]")
_BLANKS = frozenset(
    "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
)
_LAYOUT = re.compile(r"[\n\t]")
_SUSPECT = re.compile(r"[^\n\t\x20-\x7e]")  # most text has none, and is gone through at once
_COLOUR = re.compile(r"\x1b\[([0-9;:]*)m")
_BEGUN_COLOUR = re.compile(r"\x1b(?:\[[0-9;:]{0,40})?\Z")
# Select Graphic Rendition (ECMA-48, 8.3.117), less what blinks or conceals.
_RENDITIONS = frozenset({0, 1, 2, 3, 4, 7, 9, *range(21, 25), 27, 29, *range(30, 50), *range(90, 108)})


def shown(text: str) -> str:
    """Return text of several lines for a terminal: what it would act on or not show is written as an escape."""
    return _SUSPECT.sub(lambda each: each[0] if _safe(each[0]) else _escape(each[0]), text)


def inline(text: str) -> str:
    """Return text for a place within a line: line breaks and tabs are written as escapes, too."""
    return shown(_LAYOUT.sub(lambda each: _escape(each[0]), text))


def json_shown(text: str) -> str:
    r"""Return JSON that says the same, with what a terminal would act on or not show as `\uXXXX`."""
    return _SUSPECT.sub(lambda each: each[0] if _safe(each[0]) else _json_escape(each[0]), text)


def is_shown(text: str) -> bool:
    """Say whether a terminal shows all of a text, and nothing else."""
    return all(_safe(each[0]) for each in _SUSPECT.finditer(text))


def _safe(each: str) -> bool:
    return (each.isprintable() and _INVISIBLE.match(each) is None) or each in _BLANKS


def _escape(each: str) -> str:
    return each.encode("unicode_escape").decode()


def _json_escape(each: str) -> str:
    units = each.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


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
