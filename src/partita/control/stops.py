"""Why a goal was not reached, in words for the user."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.errors import SHOWN, PartitaError

if TYPE_CHECKING:
    from collections.abc import Sequence


class StoppedError(PartitaError):
    """The goal was not reached; what runs is safe, and nothing is under way."""


class StopRequestedError(PartitaError):
    """Asked to stop on the way; what runs is safe, and nothing is under way (exit code 130)."""

    exit_code = 130


class MovedError(PartitaError):
    """The cluster is not the one that was shown (exit code 5)."""

    exit_code = 5

    def __init__(self, changes: Sequence[str], *, hint: str | None = None) -> None:
        shown = "\n  ".join(changes[:SHOWN]) or "nobody wrote down how it was then"
        more = f"\n  and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
        super().__init__(f"the cluster has moved since:\n  {shown}{more}", hint=hint)
