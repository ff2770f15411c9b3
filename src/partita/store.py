"""SQLite files: opening them, migrating them to the current format, and writing them in transactions.

The queue, the journal, the energy ledger, the simulated cluster and the record of MIG instances are such files. This
module is independent of their contents. It handles what can happen to any of them: a full disk, damage, a lock of
another program, an older or newer format, removal while the file is open. In each case the file is left as it is, and
the error has a hint. To read a file, no right to write it is needed, nor to its folder.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from errno import EACCES, EPERM, EROFS
from pathlib import Path
from shutil import copy
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from weakref import WeakKeyDictionary

from partita.errors import PartitaError
from partita.files import file_stamp, reading_rights, set_aside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


class StoreError(PartitaError):
    """A database cannot be used."""


class DiskFullError(StoreError):
    """The disk is full; nothing was changed."""


class UnreadableError(StoreError):
    """This program cannot read the file."""


class DamagedError(UnreadableError):
    """The file has invalid contents, or parts of it are missing."""


class FormatError(UnreadableError):
    """The file has a format that this program does not know."""


@dataclass(frozen=True, slots=True)
class DatabaseFormat:
    """The format of a kind of database, and the texts of its errors.

    Attributes:
        name: as in "the queue is damaged".
        version: the current format.
        steps: by older format, the statements that convert it to the current one; 0 is a new file.
        unversioned: returns the statements that convert a file with tables but without a version; None if no such
            files were ever written.
        if_damaged: hint for a damaged file; `{path}` stands for the file, also in `if_other`.
        if_other: hint for an unknown format.
        if_removed: hint for a file that was removed or replaced while it was open.
        if_full: hint for a full disk.
        durable: whether a transaction survives a power failure once it has returned. Otherwise the last ones may be
            lost, but the file stays consistent.
        whole: whether the whole file is checked for damage when it is opened.
        private: whether a new file is readable by its owner alone, whatever the umask.
        patience_s: most seconds to wait for a lock of another program.
        raises: class of error to raise instead of those of this module.
        tables: names of the tables.
    """

    name: str
    version: int
    steps: Mapping[int, Sequence[str]]
    unversioned: Callable[[sqlite3.Connection], Sequence[str]] | None = None
    if_damaged: str = "it is left as it is; put a backup in its place, or move it away to start afresh"
    if_other: str = "use the version of Partita that wrote it"
    if_removed: str = "put the file back, or start this command again"
    if_full: str = "free some space; nothing was overwritten"
    durable: bool = True
    whole: bool = True
    private: bool = False
    patience_s: float = 10.0
    raises: type[PartitaError] | None = None
    tables: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        """Find which tables a file of this format has."""
        made = (_TABLE.match(each) for statements in self.steps.values() for each in statements)
        object.__setattr__(self, "tables", frozenset(each[1] for each in made if each))


_TABLE = re.compile(r"\s*CREATE TABLE (?:IF NOT EXISTS )?(\w+)")

# SQLite's errors for a full disk; a limit on the size of files shows as a failed write.
_NO_ROOM = frozenset({"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_FSYNC"})

# Damage that SQLite reports as a fault of the query.
_DAMAGE = ("malformed", "no such table", "no such column", "Could not decode")

_HINTS = {
    "locked": "another program has it open; `fuser` with its path shows which",
    "readonly": "may this user write the file and in its folder, and is its file system mounted for writing?",
    "unable to open": "does its folder exist, and may this user read and write there?",
}


_HANDLES = threading.Lock()
_OPEN: WeakKeyDictionary[Database, tuple[int, int] | None] = WeakKeyDictionary()
"""The files that this process has open. A process that closes any handle of a file frees all its locks on it, those
of SQLite, too (sqlite.org/howtocorrupt.html, 2.2), so none of these is read but by SQLite."""

_PAUSE_S = 0.01
_ATTEMPTS = 5
_TICK_NS = 100_000_000
"""Two writes within a tick of the kernel's clock may have one time; a tick is 10 ms at most."""


class Database:
    """An open file; thread-safe.

    Args:
        path: the file, created if it is missing; None for a database in memory.
        format: its format.
        fill: writes the first rows of a new file, in the transaction that creates its tables.
        read_only: whether it is only read: then nothing is written to it or beside it. It must exist. One of an older
            format, or one that is just being created, is seen as it would be in the current format.

    Attributes:
        made: whether the file was created now.

    Raises:
        UnreadableError: it is damaged or of another format. It is left as it is.
        StoreError: it cannot be opened otherwise.
    """

    def __init__(
        self,
        path: Path | str | None,
        format: DatabaseFormat,  # noqa: A002 -- the word for it
        *,
        fill: Callable[[sqlite3.Connection], None] | None = None,
        read_only: bool = False,
    ) -> None:
        self.path = Path(path) if path is not None else Path(":memory:")
        self._format = format
        self._fill = fill
        self._read_only = read_only
        self.made = False
        self._in_memory = path is None
        self._lock = threading.RLock()
        self._identity: tuple[int, int] | None = None
        # Where it is only read: its file, while that is read as it is; else of what the copy was made that `_db` is.
        self._attached: sqlite3.Connection | None = None
        self._copied: object = None
        self._taken = 0
        with self.told(), self._telling_of_files():
            self._require_whole()
            if format.private and not (read_only or self._in_memory or self.path.exists()):
                self.path.touch(mode=0o600)
            self._db = _memory() if read_only or self._in_memory else self._connected(str(self.path))
        try:
            with self.told(), self._telling_of_files():
                if read_only:
                    self._follow()
                else:
                    self._open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._db.close()
        if self._attached is not None:
            self._attached.close()
        with _HANDLES:
            _OPEN.pop(self, None)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Open a write transaction for a block: all of it happens, or nothing.

        Raises:
            DiskFullError: the disk is full; nothing has changed.
            StoreError: it cannot be written for another reason; nothing has changed.
        """
        with self._lock, self.told():
            if not self._in_memory and _identity(self.path) != self._identity:
                # Writes would go to a file that no other program can find.
                raise self._removed("nothing is written any more")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite ends it on a full disk
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read a consistent snapshot of the file in a block, whatever other programs write meanwhile.

        Raises:
            StoreError: it cannot be read.
        """
        with self._lock, self.told():
            inside = self._db.in_transaction
            if self._read_only and not inside:
                with self._telling_of_files():
                    self._follow()
            if not inside:
                self._db.execute("BEGIN")
            try:
                yield self._db
            finally:
                if not inside and self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def version(self) -> tuple[int, int]:
        """Return a value that is another one once another process has written to the file.

        Raises:
            StoreError: it cannot be read.
        """
        with self.reading() as db:
            return self._taken, int(db.execute("PRAGMA data_version").fetchone()[0])

    @contextmanager
    def told(self) -> Iterator[None]:
        """Convert errors of SQLite in a block to those of this module, or to the format's class.

        Raises:
            StoreError: SQLite failed.
        """
        try:
            yield
        except sqlite3.Error as error:
            raise self._as_asked(self._error(error)) from error
        except StoreError as error:
            if self._format.raises is None:
                raise
            raise self._as_asked(error) from error

    def damaged(self, why: str) -> DamagedError:
        """Return the error for a damaged file."""
        hint = self._format.if_damaged.format(path=self.path)
        return DamagedError(f"{self._format.name} is damaged: {why}", where=str(self.path), hint=hint)

    def _removed(self, so: str) -> StoreError:
        return StoreError(
            f"{self._format.name} was removed or replaced while it was open; {so}",
            where=str(self.path),
            hint=self._format.if_removed,
        )

    @contextmanager
    def _telling_of_files(self) -> Iterator[None]:
        """Convert errors of the file system in a block, as `told` does those of SQLite."""
        try:
            yield
        except OSError as error:
            hint = None
            if error.errno in (EACCES, EPERM, EROFS):
                hint = reading_rights(self.path) if self._read_only else _HINTS["readonly"]
            what = f"{self._format.name} cannot be used: {error.strerror}"
            raise StoreError(what, where=str(self.path), hint=hint) from error

    def _error(self, error: sqlite3.Error) -> StoreError:
        name, text, where = self._format.name, str(error), str(self.path)
        if getattr(error, "sqlite_errorname", "") in _NO_ROOM:
            full = f"{name} cannot be written: the disk is full"
            return DiskFullError(full, where=where, hint=self._format.if_full)
        if type(error) is sqlite3.DatabaseError or any(words in text for words in _DAMAGE):
            return self.damaged(text)
        hint = next((hint for words, hint in _HINTS.items() if words in text), None)
        return StoreError(f"{name} cannot be used: {text}", where=where, hint=hint)

    def _as_asked(self, error: StoreError) -> PartitaError:
        asked = self._format.raises
        return error if asked is None else asked(error.what, where=error.where, hint=error.hint)

    def _connected(self, name: str, *, uri: bool = False) -> sqlite3.Connection:
        """Return a connection to the file."""
        with _HANDLES:
            found = sqlite3.connect(
                name, timeout=self._format.patience_s, isolation_level=None, check_same_thread=False, uri=uri
            )
            self._identity = _OPEN[self] = _identity(self.path)
        return found

    def _follow(self) -> None:
        """Have `_db` be what the file has now; it is only read.

        SQLite reads a file in WAL mode through the log and the shared memory beside it, and makes them where they are
        missing, which is to write. They are there while a program has the file open, and after one was killed: then
        the file is read as it is. Else a copy in memory is read, which is made anew when the file has changed. A file
        of an older format is copied in both cases, and the copy brought up (sqlite.org/wal.html, "Read-Only
        Databases").

        Raises:
            OSError: the file cannot be read.
            StoreError: it cannot be used otherwise.
        """
        if self._taken and _identity(self.path) != self._identity:
            raise self._removed("it is read no more")
        end = time.monotonic() + self._format.patience_s
        while self._db is not self._attached and not self._followed():
            if time.monotonic() > end:
                raise StoreError(f"{self._format.name} changes all the time", where=str(self.path))
            time.sleep(_PAUSE_S)

    def _followed(self) -> bool:
        """Follow the file, as `_follow` does; return whether that was possible, or has to be tried again."""
        made_at, made_of = time.time_ns(), _stamps(self.path)
        if self._attached is None and all(made_of[1:]):
            self._attached = self._attach()
        if self._attached is not None:
            version = self._attached.execute("PRAGMA data_version").fetchone()
            if self._attached.execute("PRAGMA user_version").fetchone() == (self._format.version,):
                self._take(self._attached, None)
            elif version != self._copied:
                copied = _memory()
                self._attached.backup(copied)
                self._take(copied, version)
            return True
        self._require_whole()
        if made_of == self._copied:
            return True
        found = self._copy(made_of)
        if found is None:
            return False
        newest = max((each[2] for each in made_of if each is not None), default=0)
        # What is written within the same tick has the same stamp: such a file is copied again at the next look.
        self._take(found, made_of if made_at - newest > _TICK_NS else None)
        return True

    def _attach(self) -> sqlite3.Connection | None:
        """Return a connection to the file, which others have open; None if they have closed it meanwhile."""
        # SQLite takes part in the locks of the shared memory by writing to it where it may, and need not. Who may not
        # write to the file should make none either, which its writers could not use.
        may_write = os.access(self.path, os.W_OK, effective_ids=True)
        uri = f"file:{quote(str(self.path))}?mode=ro{'' if may_write else '&readonly_shm=1'}"
        for attempt in range(_ATTEMPTS):
            found = self._connected(uri, uri=True)
            try:
                found.execute("SELECT count(*) FROM sqlite_master").fetchone()
            except sqlite3.Error as error:
                found.close()
                with _HANDLES:
                    del _OPEN[self]
                if not all(_stamps(self.path)[1:]):
                    return None
                if not isinstance(error, sqlite3.OperationalError) or attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(_PAUSE_S)
            else:
                return found
        return None

    def _copy(self, made_of: _Stamps) -> sqlite3.Connection | None:
        """Return a copy in memory of the file with its log; None if someone opened or changed it meanwhile."""
        log, _ = beside(self.path)
        with _HANDLES:
            identity = _identity(self.path)
            if identity in _OPEN.values():
                return None
            try:
                data = self.path.read_bytes()
                logged = log.read_bytes() if made_of[1] is not None else b""
                whole = self.path.read_bytes() == data and _stamps(self.path) == made_of
            except FileNotFoundError:
                if made_of[0] is None:
                    raise
                return None
            if not whole:
                return None
            self._identity = identity
        return _restored(data, logged)

    def _take(self, found: sqlite3.Connection, made_of: object) -> None:
        """Read another connection from now on, if its contents are as they should be."""
        before, self._db = self._db, found
        try:
            self._open()
        except BaseException:
            self._db = before
            found.close()
            if found is self._attached:
                self._attached = None
                with _HANDLES:
                    del _OPEN[self]
            raise
        before.close()
        self._copied = made_of
        self._taken += 1

    def _require_whole(self) -> None:
        """Refuse a folder, and a file that lost its contents, which SQLite would treat as new."""
        if self.path.is_dir():
            raise UnreadableError(f"{self._format.name} is a folder, not a file", where=str(self.path))
        if empty(self.path) and has_log(self.path):
            # SQLite would delete the log, which has the newest rows.
            raise self.damaged("the file is missing or empty, but its write-ahead log exists")

    def _open(self) -> None:
        # Checked before any change: another program's file is left as it is.
        found, tables = self._found()
        if (found, tables) != (0, frozenset()):
            self._require_known(found, tables)
            if self._format.whole:
                (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
                if verdict != "ok":
                    raise self.damaged(verdict.splitlines()[-1])
        if not self._read_only:
            # WAL: reading is possible during a write, and commits survive a killed program.
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute(f"PRAGMA synchronous = {'FULL' if self._format.durable else 'NORMAL'}")
        self._db.execute("PRAGMA foreign_keys = ON")
        if found != self._format.version:
            self._bring_up()
        if self._read_only:
            self._db.execute("PRAGMA query_only = ON")

    def _found(self) -> tuple[int, frozenset[str]]:
        """Return the file's format and tables, read in one statement; 0 and no tables for a new file."""
        ask = "SELECT user_version, name FROM pragma_user_version LEFT JOIN sqlite_master ON type = 'table'"
        rows = self._db.execute(ask).fetchall()
        return rows[0][0], frozenset(name for _, name in rows if name is not None)

    def _require_known(self, found: int, tables: frozenset[str]) -> None:
        known = found in self._format.steps if found else self._format.unversioned is not None
        if found == self._format.version:
            missing = self._format.tables - tables
            if missing:
                raise self.damaged(f"it has no {', '.join(sorted(missing))}")
        elif not known:
            raise FormatError(
                f"{self._format.name} has format {found}, this partita reads {self._format.version}",
                where=str(self.path),
                hint=self._format.if_other.format(path=self.path),
            )

    def _bring_up(self) -> None:
        """Convert the file to the current format, unless another program has done so meanwhile."""
        with self.transaction():
            found, tables = self._found()
            if found == self._format.version:
                return
            old = self._format.unversioned if found == 0 and tables else None
            for statement in self._format.steps[found] if old is None else old(self._db):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {self._format.version}")
            new = (found, tables) == (0, frozenset())
            self.made = new and not self._read_only
            if new and self._fill is not None:
                self._fill(self._db)


@contextmanager
def salvage(path: Path) -> Iterator[Callable[[str], Iterator[tuple[Any, ...]]]]:
    """Open a damaged file to read what is left of it.

    Yields a function that takes a query ending in `ORDER BY` and columns, and yields rows. It reads from both ends up
    to the damage, so rows may come twice. It reads a copy, as SQLite deletes a log that it cannot read.
    """
    with TemporaryDirectory() as copies:
        for each in (path, *beside(path)):
            if each.exists():
                copy(each, copies)
        with closing(sqlite3.connect(Path(copies) / path.name)) as db:
            db.text_factory = lambda data: data.decode("utf-8", "replace")

            def rows(query: str) -> Iterator[tuple[Any, ...]]:
                for order in ("ASC", "DESC"):
                    with suppress(sqlite3.Error):
                        yield from db.execute(f"{query} {order}")

            yield rows


def rebuild(path: Path, fill: Callable[[Path], None]) -> list[str]:
    """Replace a damaged file by a new one, which is complete before the old one is set aside.

    Args:
        path: the damaged file.
        fill: writes the new file to the path that it is given.

    Returns:
        New names of the old file and of the files that SQLite kept beside it.
    """
    new, whole = _new(path)
    for each in (new, *beside(new)):
        each.unlink(missing_ok=True)
    fill(new)
    new.rename(whole)
    return finish_rebuilding(path)


def finish_rebuilding(path: Path) -> list[str]:
    """Finish a `rebuild` that was killed after the new file was complete; return as `rebuild`, or an empty list."""
    new, whole = _new(path)
    for each in (new, *beside(new)):
        each.unlink(missing_ok=True)
    if not whole.exists():
        return []
    aside = move_away(path)
    whole.rename(path)
    return aside


def _new(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}.new"), path.with_name(f"{path.name}.whole")


def move_away(path: Path) -> list[str]:
    """Rename a file and those that SQLite keeps beside it, so that nothing is lost; return their new names."""
    return [set_aside(each).name for each in (path, *beside(path)) if each.exists()]


def empty(path: Path) -> bool:
    """Return whether a file is missing or empty; SQLite treats a file of one byte as empty, too."""
    return not path.exists() or path.stat().st_size <= 1


def has_log(path: Path) -> bool:
    """Return whether a file has a non-empty write-ahead log."""
    log = beside(path)[0]
    return log.exists() and log.stat().st_size > 0


def beside(path: Path) -> tuple[Path, Path]:
    """Return the files that SQLite keeps beside a database: write-ahead log and shared memory."""
    return path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")


_Stamps = tuple[tuple[int, int, int, int] | None, ...]


def _stamps(path: Path) -> _Stamps:
    """Return the stamps of a database and of the files beside it; None for one that is missing."""
    return tuple(map(file_stamp, (path, *beside(path))))


def _memory() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)


def _restored(data: bytes, log: bytes) -> sqlite3.Connection:
    """Return a database in memory with the contents of a file and of its write-ahead log."""
    found = _memory()
    if log:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "copy"
            path.write_bytes(data)
            beside(path)[0].write_bytes(log)
            with closing(sqlite3.connect(path)) as whole:
                whole.backup(found)
    elif len(data) > _VERSIONS.stop:
        # In memory there is no WAL mode.
        found.deserialize(data[: _VERSIONS.start] + b"\x01\x01" + data[_VERSIONS.stop :])
    return found


_VERSIONS = slice(18, 20)
"""Where a file says whether it is in WAL mode (sqlite.org/fileformat.html, 1.3)."""


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a file; None if it is missing."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
