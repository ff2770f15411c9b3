"""Commands as users run them whom the rights of files bind, as they do not bind root."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_RIGHTS = "-dac_override,-dac_read_search,-fowner,-chown"
"""What lets root read and write whatever the rights of files say (capabilities(7))."""


def unprivileged(*command: str) -> list[str]:
    """A command in a process that may do with files what their rights say, also where root starts it."""
    if os.geteuid() != 0:
        return [*command]
    return ["setpriv", "--bounding-set", _RIGHTS, "--inh-caps", _RIGHTS, *command]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody may write a folder and its files while the block runs; nothing in it has changed at the end."""
    rights = {each: each.stat().st_mode & 0o7777 for each in (folder, *folder.iterdir())}
    for each in rights:
        each.chmod(0o555 if each.is_dir() else 0o444)
    before = _all_of(folder)
    try:
        yield
        assert _all_of(folder) == before
    finally:
        for each, mode in rights.items():
            each.chmod(mode)


def _all_of(folder: Path) -> dict[str, tuple[int, int, int]]:
    # Not their contents: to close a file that this process has open in SQLite frees SQLite's locks on it.
    found = {each.name: each.stat() for each in folder.iterdir()}
    return {name: (each.st_ino, each.st_size, each.st_mtime_ns) for name, each in found.items()}
