"""SQLite files that outlive programs: opened, brought to the present format, written as a whole or not at all.

The queue, the journal, the energy ledger, the simulated cluster and the record of MIG instances are such files. This
module knows nothing of what they hold. It deals with what can happen to any of them: a full disk, damage, another
program that has the file locked, an older or newer format, a file that is removed while it is open. Whatever happens,
the file is left as it is, and the error says what to do.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copy
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from partita.errors import PartitaError
from partita.files import set_aside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


class StoreError(PartitaError):
    """A database cannot be used."""


class DiskFullError(StoreError):
    """There is no room for what should be written; what was there is as it was."""


class UnreadableError(StoreError):
    """The file is none that this program can read."""


class DamagedError(UnreadableError):
    """The file holds what cannot be, or parts of it are missing."""


class FormatError(UnreadableError):
    """The file has a format that this program does not know."""


@dataclass(frozen=True, slots=True)
class DatabaseFormat:
    """What a kind of database looks like, and how it is spoken of.

    Attributes:
        name: as in "the queue is damaged".
        version: the format that this program writes.
        steps: the statements that make this format of each older one; 0 is a new file.
        unversioned: returns the statements that make this format of a file with tables and no version, for a kind of
            which such files were once written.
        if_damaged: the hint where a file cannot be read; `{path}` stands for the file, here and in the next one.
        if_other: the hint where it has a format that is not known.
        if_removed: the hint where the file was removed or replaced while it was open.
        if_full: the hint where the disk is full.
        durable: whether a transaction is on the disk when it returns, also if the power fails then. Otherwise the
            last ones may be lost, and what is left is still whole.
        whole: whether the whole file is looked through for damage when it is opened.
        private: whether a new file is made for its owner's eyes alone, whatever the umask.
        patience_s: seconds for which another program may have the file to itself.
        raises: the class of error that is raised in place of those of this module.
    """

    name: str
    version: int
    steps: Mapping[int, Sequence[str]]
    unversioned: Callable[[sqlite3.Connection], Sequence[str]] | None = None
    if_damaged: str = "it is left as it is; put a backup in its place, or move it away to begin anew"
    if_other: str = "use the partita that made it"
    if_removed: str = "put the file back, or start this command again"
    if_full: str = "make room; nothing was overwritten"
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

# What SQLite says where no more bytes can be written; a limit on the size of files shows as a failed write.
_NO_ROOM = frozenset({"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_FSYNC"})

# Damage that SQLite tells as a fault of the query.
_DAMAGE = ("malformed", "no such table", "no such column", "Could not decode")

_HINTS = {
    "locked": "another program has it open; `fuser` with its path says which",
    "readonly": "may it be written, and is its file system mounted for writing?",
    "unable to open": "is its folder there, and may it be read and written by this user?",
}


class Database:
    """An open file. Threads may share it: one at a time uses it.

    Args:
        path: the file, made if it is not there; None for one in memory.
        format: what it holds, and how it is spoken of.
        fill: writes the first rows of a new file, in the transaction that makes its tables.
        read_only: whether it is only read. Then it has to be there and in the present format, and nothing of it is
            changed.

    Attributes:
        made: whether it was not there, and was made now.

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
        try:
            with self.told():
                self._require_whole()
                if format.private and not (read_only or self._in_memory or self.path.exists()):
                    self.path.touch(mode=0o600)
                uri = f"file:{quote(str(self.path))}?mode=ro" if read_only else str(self.path)
                self._db = sqlite3.connect(
                    uri,
                    timeout=format.patience_s,
                    isolation_level=None,
                    check_same_thread=False,
                    uri=read_only,
                )
        except OSError as error:
            raise self._as_asked(
                StoreError(f"{format.name} cannot be used: {error.strerror}", where=str(self.path))
            ) from error
        self._identity = _identity(self.path)
        try:
            with self.told():
                self._open()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Open a transaction that writes: all of the block happens, or none.

        Raises:
            DiskFullError: there is no room; nothing has changed.
            StoreError: it cannot be written otherwise; nothing has changed.
        """
        with self._lock, self.told():
            if not self._in_memory and _identity(self.path) != self._identity:
                # Nobody would find again what is written now.
                raise StoreError(
                    f"{self._format.name} was removed or replaced while it was open; nothing is written any more",
                    where=str(self.path),
                    hint=self._format.if_removed,
                )
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk ends the transaction by itself
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read the file as it is at one moment, whatever other programs write meanwhile.

        Raises:
            StoreError: it cannot be read.
        """
        with self._lock, self.told():
            inside = self._db.in_transaction
            if not inside:
                self._db.execute("BEGIN")
            try:
                yield self._db
            finally:
                if not inside and self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextmanager
    def told(self) -> Iterator[None]:
        """Have what SQLite says of the file in the block told as an error of this module, or of the format's class.

        Raises:
            StoreError: something went wrong.
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
        """Return what is raised where the file holds what cannot be."""
        hint = self._format.if_damaged.format(path=self.path)
        return DamagedError(f"{self._format.name} is damaged: {why}", where=str(self.path), hint=hint)

    def _error(self, error: sqlite3.Error) -> StoreError:
        name, text, where = self._format.name, str(error), str(self.path)
        if getattr(error, "sqlite_errorname", "") in _NO_ROOM:
            full = f"{name} cannot be written: the disk is full"
            return DiskFullError(full, where=where, hint=self._format.if_full)
        if type(error) is sqlite3.DatabaseError or any(words in text for words in _DAMAGE):
            return self.damaged(text)
        hint = next((told for words, told in _HINTS.items() if words in text), None)
        return StoreError(f"{name} cannot be used: {text}", where=where, hint=hint)

    def _as_asked(self, error: StoreError) -> PartitaError:
        asked = self._format.raises
        return error if asked is None else asked(error.what, where=error.where, hint=error.hint)

    def _require_whole(self) -> None:
        """Refuse what SQLite would take for a new file, and what it has no words for."""
        if self.path.is_dir():
            raise UnreadableError(f"{self._format.name} is a folder, not a file", where=str(self.path))
        if empty(self.path) and has_log(self.path):
            # SQLite would drop the log, in which the newest rows are.
            raise self.damaged("the file is missing or empty, and its write-ahead log is there")

    def _open(self) -> None:
        # Before anything is changed: what is not ours is left as it is.
        found, tables = self._found()
        if (found, tables) != (0, frozenset()):
            self._require_known(found, tables)
            if self._format.whole:
                (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
                if verdict != "ok":
                    raise self.damaged(verdict.splitlines()[-1])
        if not self._read_only:
            # Readers look while another program writes; what a killed program committed stays.
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute(f"PRAGMA synchronous = {'FULL' if self._format.durable else 'NORMAL'}")
        self._db.execute("PRAGMA foreign_keys = ON")
        if found != self._format.version:
            self._bring_up()

    def _found(self) -> tuple[int, frozenset[str]]:
        """Return the file's format and its tables, both at one moment; 0 and none of a new file."""
        ask = "SELECT user_version, name FROM pragma_user_version LEFT JOIN sqlite_master ON type = 'table'"
        rows = self._db.execute(ask).fetchall()
        return rows[0][0], frozenset(name for _, name in rows if name is not None)

    def _require_known(self, found: int, tables: frozenset[str]) -> None:
        known = found in self._format.steps if found else self._format.unversioned is not None
        if found == self._format.version:
            missing = self._format.tables - tables
            if missing:
                raise self.damaged(f"it has no {', '.join(sorted(missing))}")
        elif not known or self._read_only:
            raise FormatError(
                f"{self._format.name} has format {found}, this partita reads {self._format.version}",
                where=str(self.path),
                hint=self._format.if_other.format(path=self.path),
            )

    def _bring_up(self) -> None:
        """Make the present format of what is there, unless another program has done so meanwhile."""
        with self.transaction():
            found, tables = self._found()
            if found == self._format.version:
                return
            old = self._format.unversioned if found == 0 and tables else None
            for statement in self._format.steps[found] if old is None else old(self._db):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {self._format.version}")
            self.made = (found, tables) == (0, frozenset())
            if self.made and self._fill is not None:
                self._fill(self._db)


@contextmanager
def salvage(path: Path) -> Iterator[Callable[[str], Iterator[tuple[Any, ...]]]]:
    """Open a damaged file for what can be read of it.

    The block gets a function from a query that ends in `ORDER BY` and columns to rows. It reads from both ends, up to
    the damage, so that rows may come twice. A copy is read: SQLite drops a log that it makes no sense of.
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
    """Put another file in a damaged one's place, made whole before that is set aside.

    Args:
        path: the damaged file.
        fill: makes the other file under the path that it is given.

    Returns:
        What the old file, and what stands beside it, are called now.
    """
    new, whole = _new(path)
    for each in (new, *beside(new)):
        each.unlink(missing_ok=True)
    fill(new)
    new.rename(whole)
    return finish_rebuilding(path)


def finish_rebuilding(path: Path) -> list[str]:
    """Finish `rebuild` if it was killed once the other file was whole; return as it does, nothing if it was not."""
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
    """Rename a file and what stands beside it, so that nothing of it is lost; return what they are called now."""
    return [set_aside(each).name for each in (path, *beside(path)) if each.exists()]


def empty(path: Path) -> bool:
    """Say whether a file holds nothing, or is not there. SQLite takes one of a single byte for empty, too."""
    return not path.exists() or path.stat().st_size <= 1


def has_log(path: Path) -> bool:
    """Say whether a write-ahead log stands beside a file, with something in it."""
    log = beside(path)[0]
    return log.exists() and log.stat().st_size > 0


def beside(path: Path) -> tuple[Path, Path]:
    """Return the files that SQLite keeps beside a database: its write-ahead log, and what its readers share."""
    return path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from all others; None if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
