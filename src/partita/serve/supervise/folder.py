"""The folder of workers' specifications, sockets and logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


def make_folder(folder: Path) -> None:
    """Make it if it is not there, for its owner alone: who may connect to a socket may ask its model.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InputError(f"cannot be made: {error.strerror}", where=str(folder)) from None
