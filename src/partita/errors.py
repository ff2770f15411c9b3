"""Errors a user can mend: what is wrong, where, and how to put it right."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SHOWN = 10
"""Faults that one error tells."""


class PartitaError(Exception):
    """Base of all errors that are shown to the user without a traceback.

    Args:
        what: one sentence, in the user's words.
        where: `file:line`, a field's path or a service's name.
        hint: what mends it, if possible a command.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


class InputError(PartitaError):
    """A file, option or field that cannot be used (exit code 2)."""

    exit_code = 2


class InfeasibleError(PartitaError):
    """No plan can meet what is asked with the GPUs there are (exit code 4)."""

    exit_code = 4


def nearest(word: str, known: list[str]) -> str | None:
    """Return the known word that `word` most likely meant, or None if none is close."""
    import difflib  # noqa: PLC0415 -- only on the way to an error message

    found = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    longer = [each for each in known if word and each.startswith(word)]
    return next(iter(found or longer), None)


def together(path: str, faults: Sequence[InputError], total: int) -> InputError:
    """Return one error for the faults of a file: those given, with their places, of `total` that there are."""
    if total == 1:
        return faults[0]
    told = [f"{fault} ({fault.hint})" if fault.hint else str(fault) for fault in faults]
    more = [f"and {total - len(faults)} more"] if total > len(faults) else []
    what = f"{total} faults\n  " + "\n  ".join([*told, *more])
    return InputError(what, where=path, hint="mend these lines and try again")
