"""The folder of all that outlives a command: the journal, the simulated cluster, which real instances are ours."""

from __future__ import annotations

import grp
import os
import stat
import tempfile
from pathlib import Path

from partita.errors import InputError
from partita.files import home, reading_rights, user_name

VARIABLE = "PARTITA_STATE"
CLUSTER = "cluster.sqlite3"
"""The simulated cluster's file in the state folder."""
REPLICAS = "replicas"
"""The folder of replicas' records in the state folder."""
WORKERS = "workers"
"""The folder of workers' sockets in the state folder."""

_MOST_LINKS = 40


def state_folder() -> Path:
    """Return the state folder, created if it does not exist.

    It is `PARTITA_STATE`, or `partita` under the user's state folder (XDG Base Directory Specification).

    Raises:
        InputError: it cannot be created.
    """
    folder = state_path()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InputError(
            f"the state folder cannot be created: {error.strerror}",
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
    # The specification says to ignore relative paths.
    root = Path(base) if Path(base).is_absolute() else home() / ".local" / "state"
    return root / "partita"


def require_readable(*folders: Path) -> None:
    """Refuse the state folder, or one in it, if this user may not look into it; none of them need exist.

    Raises:
        InputError: it is one.
    """
    for folder in folders:
        try:
            (folder / CLUSTER).stat()
        except PermissionError:
            raise InputError(
                "you may not look into this folder", where=str(folder), hint=reading_rights(folder)
            ) from None
        except OSError:
            continue  # what is missing is told by those who need it


def require_safe(folder: Path, *inside: str) -> None:
    """Refuse a state folder that a user other than root and us owns, can write to or can replace.

    Such a user could choose what a daemon of root reads, writes and runs. Every folder and link on the path is
    checked. A folder such as `/tmp` is safe, where all may create files but only remove their own (sticky).

    Args:
        folder: the state folder; it need not exist yet.
        inside: names of folders in it whose files are checked, as its own are.

    Raises:
        InputError: it is not safe; the error says which folder or file and why.
    """
    _require_safe_path(folder)
    for each in (folder, *(folder / name for name in inside)):
        for found in each.iterdir() if each.is_dir() else ():
            status = found.lstat()
            if not stat.S_ISSOCK(
                status.st_mode
            ):  # all may connect to a socket, and it is always created again
                _refuse(folder, found, status, {0, os.geteuid()}, last=True)


def _require_safe_path(folder: Path) -> None:
    at, waiting, links = Path("/"), list(folder.absolute().parts[1:]), 0
    trusted = {0, os.geteuid()}
    _refuse(folder, at, at.lstat(), trusted, last=not waiting)
    while waiting:
        name = waiting.pop(0)
        if name == "..":
            at = at.parent
            continue
        found = at / name
        try:
            status = found.lstat()
        except FileNotFoundError:
            return  # we create it, inside a safe folder
        except OSError as error:
            raise InputError(
                f"the state folder cannot be reached: {error.strerror}", where=str(found)
            ) from None
        _refuse(folder, found, status, trusted, last=not waiting)
        if not stat.S_ISLNK(status.st_mode):
            at = found
            continue
        links += 1
        if links > _MOST_LINKS:
            raise InputError("the state folder's links form a loop", where=str(folder))
        target = found.readlink()
        at = Path("/") if target.is_absolute() else at
        waiting = [*(target.parts[1:] if target.is_absolute() else target.parts), *waiting]


def _refuse(folder: Path, found: Path, status: os.stat_result, trusted: set[int], *, last: bool) -> None:
    why = None
    if status.st_uid not in trusted:
        why = f"belongs to user {user_name(status.st_uid)}"
    elif not stat.S_ISLNK(status.st_mode) and (last or not status.st_mode & stat.S_ISVTX):
        if status.st_mode & stat.S_IWOTH:
            why = "can be written by everybody"
        elif status.st_mode & stat.S_IWGRP and status.st_gid != 0:
            why = f"can be written by the group {_group(status.st_gid)}"
    if why is not None:
        what = "the state folder" if found == folder else str(found)
        raise InputError(
            f"{what} {why}, who could choose what root runs",
            where=str(folder),
            hint=f"use a folder of root's, such as {VARIABLE}=/var/lib/partita, or: "
            f"chown root: {found} && chmod go-w {found}",
        )


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def host_folder() -> Path:
    """Return a folder that all users of this host share, created if it does not exist: real GPUs have one controller.

    It is `/run/lock/partita`, which a reboot empties (Filesystem Hierarchy Standard 3.0, section 3.15), or a folder
    under the temporary one where that cannot be created.
    """
    for folder in (Path("/run/lock/partita"), Path(tempfile.gettempdir()) / "partita-lock"):
        try:
            folder.mkdir(exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    return state_folder()
