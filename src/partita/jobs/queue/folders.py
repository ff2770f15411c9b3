"""Where the queue keeps what in the state folder."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from partita.errors import PartitaError
from partita.jobs.run.folder import WISH

if TYPE_CHECKING:
    from pathlib import Path

    from partita.jobs.queue.record import Verdict

ATTEMPTS = "attempts"
LAST_NUMBER = "last-number"


def jobs_folder(state: Path) -> Path:
    """Return the folder of the queue in a state folder."""
    return state / "jobs"


def write_wish(folder: Path, wish: Verdict) -> None:
    """Leave what was wanted of a job in its newest attempt's folder; that it cannot be written stops nothing."""
    with suppress(OSError):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        handle = os.open(folder / WISH, flags, 0o600)
        try:
            os.write(handle, wish.value.encode())
        finally:
            os.close(handle)


class LastNumber:
    """The largest number that was ever given to a job, in a file beside the store: a new store does not begin at 1.

    It is written in place, so that it can be on a full disk, and is not waited for: after a loss of power the store
    and the folders of attempts say the same.

    Args:
        folder: `jobs` in the state folder.

    Attributes:
        found: what the file said when it was opened; 0 if it was not there.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LAST_NUMBER
        try:
            self.found = int(self._path.read_text())
        except (OSError, ValueError):
            self.found = 0
        self._last = self.found

    def given(self, number: int) -> None:
        """Remember that a number was given; that it cannot be written stops nothing."""
        if number <= self._last:
            return
        self._last = number
        with suppress(OSError):
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.pwrite(handle, f"{number:020}\n".encode(), 0)
            finally:
                os.close(handle)


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
