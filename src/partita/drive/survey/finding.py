"""One thing found, how much it matters, and the command that mends it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How much a finding matters: fine as it is, good to know, or in the way of using the GPUs there are."""

    OK = "ok"
    NOTE = "note"
    MEND = "mend"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something found.

    Attributes:
        where: the GPU, file or program it concerns; None for the host.
        hint: what mends it, if possible a command.
    """

    level: Level
    what: str
    where: str | None = None
    hint: str | None = None
