"""Reading and writing files so that nothing is half-written and every failure says where."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from partita.errors import InputError, PartitaError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator


def read_text(path: Path | str) -> str:
    """Return the text of a file; `-` reads stdin.

    Raises:
        InputError: missing, a directory, unreadable or not UTF-8.
    """
    if str(path) == "-":
        return sys.stdin.read()
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError("no such file", where=str(path), hint="see `ls` for the name") from None
    except IsADirectoryError:
        raise InputError("this is a directory, not a file", where=str(path)) from None
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text (byte {error.start})", where=str(path)) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None


@contextmanager
def replacing(path: Path | str) -> Iterator[TextIO]:
    """Open a file to be written beside `path` and renamed onto it when the block ends without an error.

    Raises:
        InputError: the place cannot be written to.
        PartitaError: the disk is full, or failed otherwise, while writing.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError("this is a directory, not a file", where=str(path))
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", where=str(path)) from None
    part = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    except OSError as error:
        raise PartitaError(f"could not be written: {error.strerror}", where=str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Have all the writes of the block happen, or none; whatever fails is raised as SQLite raised it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk ends the transaction by itself
            db.execute("ROLLBACK")
        raise
