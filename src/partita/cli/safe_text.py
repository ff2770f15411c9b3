"""Text that is safe on a terminal: what it would act on, or not show, is written as an escape."""

from __future__ import annotations

import re

# Characters that Unicode counts as letters or marks, and that show nothing.
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\U000e0100-\U000e01ef]")
_BLANKS = frozenset(
    "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
)
_LAYOUT = re.compile(r"[\n\t]")
_SUSPECT = re.compile(r"[^\n\t\x20-\x7e]")  # most text has none, and is gone through at once


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
