"""Ids of jobs as people write them: `12`, `12_3`, and the indices of an array."""

from __future__ import annotations

import re
from dataclasses import dataclass

from partita.errors import InputError

MOST_TASKS = 10_000

_ID = re.compile(r"(\d{1,15})(?:_(\d{1,9}))?")
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")


@dataclass(frozen=True, slots=True)
class JobId:
    """A job, a whole array, or one task of it.

    Attributes:
        index: None for a job outside an array, and for all tasks of one.
    """

    number: int
    index: int | None = None

    def __str__(self) -> str:
        return str(self.number) if self.index is None else f"{self.number}_{self.index}"


def parse_id(text: str) -> JobId:
    """Read `12` or `12_3`.

    Raises:
        InputError: it is neither.
    """
    found = _ID.fullmatch(text.strip())
    if found is None:
        raise InputError(f"{text!r} is no job id", hint="write 12, or 12_3 for a task of an array")
    return JobId(int(found[1]), None if found[2] is None else int(found[2]))


def parse_array(text: str) -> tuple[int, ...]:
    """Read `0-9`, or several ranges and numbers as `0-9,20`; in order, each once.

    Raises:
        InputError: not that, or too many.
    """
    indices: set[int] = set()
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        if found is None:
            raise InputError(f"{text!r} is no array", where="--array", hint="write 0-9, or 0-9,20")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first or last - first >= MOST_TASKS:
            raise InputError(f"{part} is no range of 1 to {MOST_TASKS} tasks", where="--array")
        indices.update(range(first, last + 1))
    if len(indices) > MOST_TASKS:
        raise InputError(f"{len(indices)} tasks; an array has at most {MOST_TASKS}", where="--array")
    return tuple(sorted(indices))
