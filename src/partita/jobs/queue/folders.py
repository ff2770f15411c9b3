"""Where the queue keeps what in the state folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.errors import PartitaError

if TYPE_CHECKING:
    from pathlib import Path

ATTEMPTS = "attempts"


def jobs_folder(state: Path) -> Path:
    """Return the folder of the queue in a state folder."""
    return state / "jobs"


def make_folders(state: Path, *, shared: bool) -> Path:
    """Make the queue's folders and return the first.

    Args:
        state: the state folder.
        shared: whether other users must get to the socket and to their attempts: then they may pass through these
            folders, but see no names in them.

    Raises:
        PartitaError: they cannot be made.
    """
    folder = jobs_folder(state)
    mode = 0o711 if shared else 0o700
    try:
        for each in (folder, folder / ATTEMPTS):
            each.mkdir(exist_ok=True)
            each.chmod(mode)
        if shared:
            state.chmod(state.stat().st_mode | 0o011)
    except OSError as error:
        raise PartitaError(
            f"the queue's folders cannot be made: {error.strerror}", where=str(folder)
        ) from None
    return folder
