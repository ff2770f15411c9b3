"""Errors for the user: what is wrong, where, and how to mend it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SHOWN = 10
"""Most kinds of fault that one error lists."""


class PartitaError(Exception):
    """Base of all errors that are shown to the user without a traceback.

    Args:
        what: one sentence, in the user's terms.
        where: `file:line`, a field's path or a service's name.
        hint: how to mend it, if possible a command.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what

    @property
    def with_hint(self) -> str:
        """The message and its hint in one line, as logs and conditions tell them."""
        return f"{self}; {self.hint}" if self.hint else str(self)


class InputError(PartitaError):
    """A file, option or field cannot be used (exit code 2)."""

    exit_code = 2


class UnknownNameError(InputError):
    """What is named is not there (exit code 2)."""


class DeniedError(PartitaError):
    """The caller may not do that."""


class InfeasibleError(PartitaError):
    """The available GPUs cannot meet the request (exit code 4)."""

    exit_code = 4


def nearest(word: str, known: list[str]) -> str | None:
    """Return the known word that `word` most likely means; None if none is close."""
    import difflib  # noqa: PLC0415 -- needed only for error messages

    found = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    longer = [each for each in known if word and each.startswith(word)]
    return next(iter(found or longer), None)


def counted(count: int, word: str, plural: str | None = None) -> str:
    """Return a count with its word: 1 GPU, 2 GPUs, 1,000 GPUs.

    Args:
        count: how many there are.
        word: for one of them.
        plural: for several; None if an `s` makes it.
    """
    return f"{count:,} {word if count == 1 else plural or f'{word}s'}"


def refuse(path: str, faults: Sequence[InputError]) -> None:
    """Raise one error for all faults of a file, if there are any: each kind with its places and count.

    Raises:
        InputError: there are faults.
    """
    if faults:
        raise combined(path, faults, len(faults))


def combined(path: str, faults: Sequence[InputError], total: int) -> InputError:
    """Return one error for the faults of a file.

    Faults that differ only in the values they name are described once, with the places of the others.

    Args:
        path: the file.
        faults: those to list.
        total: number of all faults.
    """
    if total == 1:
        return faults[0]
    kinds: dict[tuple[str, str], list[InputError]] = {}
    for fault in faults:
        kinds.setdefault((_VALUE.sub("*", fault.what), _VALUE.sub("*", fault.hint or "")), []).append(fault)
    shown = [_summary(alike, path) for alike in list(kinds.values())[:SHOWN]]
    hidden = total - sum(len(alike) for alike in list(kinds.values())[:SHOWN])
    more = [f"and {hidden:,} more"] if hidden else []
    of = f" of {len(kinds)} kinds" if 1 < len(kinds) < total == len(faults) else ""
    what = f"{total:,} faults{of}\n  " + "\n  ".join([*shown, *more])
    return InputError(what, where=path, hint="mend these lines and try again")


_VALUE = re.compile(r"""'[^']*'|"[^"]*"|\d[\d,.]*""")
"""What may differ between faults of one kind: quoted values and numbers."""
_PLACES = 8
"""Most places that are named for the faults of one kind."""


def _summary(alike: Sequence[InputError], path: str) -> str:
    """Return the first of the faults of one kind with its hint, and the places of the others.

    If all have the same place, their texts are returned instead.
    """
    first, others = alike[0], alike[1:]
    text = f"{first} ({first.hint})" if first.hint else str(first)
    if not others:
        return text
    if all(each.where == first.where for each in others):
        hidden = len(others) - _PLACES
        more = [f"and {hidden:,} more like it"] if hidden > 0 else []
        return "; ".join([text, *(each.what for each in others[:_PLACES]), *more])
    places = [(each.where or "").removeprefix(path).lstrip(": ") for each in others]
    lines = "lines " if len(places) > 1 else "line "
    named = ", ".join(places[:_PLACES]) + (", ..." if len(places) > _PLACES else "")
    on = f" on {lines if places[0].isdecimal() else ''}{named}" if all(places) else ""
    return f"{text}; {len(others):,} more like it{on}"
