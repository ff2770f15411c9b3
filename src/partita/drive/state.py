"""The folder of everything that outlives a command: the journal, the simulated cluster, what is ours on real GPUs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from partita.errors import InputError

VARIABLE = "PARTITA_STATE"
CLUSTER = "cluster.sqlite3"
"""The simulated cluster's file in the state folder."""
REPLICAS = "replicas"
"""The folder of replicas' records in the state folder."""
WORKERS = "workers"
"""The folder of workers' sockets in the state folder."""


def state_folder() -> Path:
    """Return the state folder, made if it is not there.

    It is `PARTITA_STATE`, or `partita` under the user's state folder (XDG Base Directory Specification).

    Raises:
        InputError: it cannot be made.
    """
    folder = state_path()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InputError(
            f"the state folder cannot be made: {error.strerror}",
            where=str(folder),
            hint=f"set {VARIABLE} to a folder that you can write to",
        ) from None
    return folder


def state_path() -> Path:
    """Return where the state folder is or would be."""
    asked = os.environ.get(VARIABLE)
    if asked:
        return Path(asked).expanduser()
    base = os.environ.get("XDG_STATE_HOME", "")
    # The specification has relative paths ignored.
    root = Path(base) if Path(base).is_absolute() else Path.home() / ".local" / "state"
    return root / "partita"


def host_folder() -> Path:
    """Return a folder that all users of this host share, made if it is not there: real GPUs have one controller.

    `/run/lock/partita`, which a reboot empties (Filesystem Hierarchy Standard 3.0, section 3.15), or a folder under
    the temporary one where that cannot be made.
    """
    for folder in (Path("/run/lock/partita"), Path(tempfile.gettempdir()) / "partita-lock"):
        try:
            folder.mkdir(exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    return state_folder()
