"""Options that map names to others: `--columns seconds=Timestamp,tokens='Total tokens'`."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from partita.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable


def pairs(given: Iterable[str] | None, option: str) -> dict[str, str]:
    """Return the pairs of an option that may be given several times, each with pairs between commas.

    A value that holds a comma stands in double quotes, as in CSV.

    Raises:
        InputError: something else than NAME=VALUE, or a name twice; `where` is `option`.
    """
    found: dict[str, str] = {}
    for part in (
        each for text in given or () for each in next(csv.reader([text], skipinitialspace=True), [])
    ):
        name, equals, value = part.partition("=")
        if not (name.strip() and equals and value.strip()):
            raise InputError(f"{part!r} is no NAME=VALUE", where=option, hint=f"for example {option} a=b,c=d")
        if name.strip() in found:
            raise InputError(f"{name.strip()} is there twice", where=option)
        found[name.strip()] = value.strip()
    return found
