"""Databases: what can happen to a file is told, and loses nothing."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.unprivileged import locked, unprivileged

from partita.errors import PartitaError
from partita.files import user_name
from partita.store import (
    DamagedError,
    Database,
    DatabaseFormat,
    DiskFullError,
    FormatError,
    StoreError,
    UnreadableError,
    beside,
    finish_rebuilding,
    has_log,
    rebuild,
    salvage,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

V1 = DatabaseFormat("the shelf", 1, {0: ["CREATE TABLE books (title TEXT)"]}, patience_s=0.05)
V2 = replace(
    V1,
    version=2,
    steps={
        0: ["CREATE TABLE books (title TEXT, pages INTEGER)"],
        1: ["ALTER TABLE books ADD COLUMN pages INTEGER"],
    },
    if_damaged="look at {path}",
)


def add(database: Database, *titles: str) -> None:
    with database.transaction() as db:
        db.executemany("INSERT INTO books (title) VALUES (?)", [(each,) for each in titles])


def titles(database: Database) -> list[str]:
    with database.reading() as db:
        return [title for (title,) in db.execute("SELECT title FROM books ORDER BY rowid")]


def test_an_older_file_is_brought_to_the_present_format(tmp_path: Path) -> None:
    path = tmp_path / "shelf"
    with closing(Database(path, V1)) as old:
        assert old.made
        add(old, "Emma")
    for _ in range(2):
        with closing(Database(path, V2)) as new, new.reading() as db:
            assert not new.made
            assert db.execute("SELECT title, pages FROM books").fetchall() == [("Emma", None)]
    with closing(Database(path, V2, read_only=True)) as reader:
        assert titles(reader) == ["Emma"]
        with pytest.raises(StoreError, match="readonly"):
            add(reader, "Persuasion")


READ = """
import sys
from partita.errors import PartitaError
from partita.store import Database, DatabaseFormat
steps = {0: ["CREATE TABLE books (title TEXT, pages INTEGER)"], 1: ["ALTER TABLE books ADD COLUMN pages INTEGER"]}
try:
    with Database(sys.argv[1], DatabaseFormat("the shelf", 2, steps), read_only=True).reading() as db:
        print(*(title for (title,) in db.execute("SELECT title FROM books WHERE pages IS NULL ORDER BY rowid")))
except PartitaError as error:
    print(error.with_hint)
"""
WRITE_AND_DIE = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("INSERT INTO books (title) VALUES ('Persuasion')")
os.kill(os.getpid(), 9)
"""


def read_by_others(path: Path) -> str:
    """What a process says that may not write."""
    command = unprivileged(sys.executable, "-c", READ, str(path))
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("version", [V1, V2], ids=["older", "current"])
def test_who_may_not_write_reads_what_was_written_whoever_has_it_open(
    tmp_path: Path, version: DatabaseFormat
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "shelf"
    with closing(Database(path, version)) as made:
        add(made, "Emma")
        with locked(folder):
            assert read_by_others(path) == "Emma"  # its writer lives
    assert [each.name for each in folder.iterdir()] == ["shelf"]
    with locked(folder):
        assert read_by_others(path) == "Emma"  # it ended well
    subprocess.run([sys.executable, "-c", WRITE_AND_DIE, str(path)], check=False)
    assert has_log(path)
    with locked(folder):
        assert read_by_others(path) == "Emma Persuasion"  # it was killed
    beside(path)[1].unlink()
    with locked(folder):
        assert read_by_others(path) == "Emma Persuasion"  # and the folder copied without the shared memory


def test_what_may_not_be_read_is_told_with_who_may(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "shelf"
    assert "No such file" in read_by_others(path)
    Database(path, V2).close()
    path.chmod(0)
    told = read_by_others(path)
    assert "the shelf cannot be used: Permission denied" in told
    assert f"run this as {user_name(os.geteuid())}" in told
    assert f"`namei -l {path}`" in told
    path.chmod(0o600)
    folder.chmod(0)
    assert "Permission denied" in read_by_others(path)
    folder.chmod(0o700)


def test_a_reader_follows_writers_that_come_and_go(tmp_path: Path) -> None:
    path = tmp_path / "shelf"
    path.touch()
    with closing(Database(path, V2, read_only=True)) as reader:
        assert titles(reader) == []  # it is just being created
        versions = [reader.version()]
        for number, title in enumerate(("Emma", "Persuasion", "Sanditon")):
            with closing(Database(path, V2)) as writer:
                add(writer, title)
                assert len(titles(reader)) == number + 1
                versions.append(reader.version())
            assert titles(reader)[-1] == title
            assert len(set(versions)) == number + 2
        with pytest.raises(StoreError, match="readonly"):
            add(reader, "Emma")
        path.rename(tmp_path / "moved")
        with pytest.raises(StoreError, match="removed or replaced"):
            titles(reader)


def test_a_reader_of_an_older_file_follows_its_writer_and_the_migration(tmp_path: Path) -> None:
    path = tmp_path / "shelf"
    with closing(Database(path, V1)) as old, closing(Database(path, V2, read_only=True)) as reader:
        add(old, "Emma")
        assert titles(reader) == ["Emma"]
        add(old, "Persuasion")
        assert titles(reader) == ["Emma", "Persuasion"]
        with closing(Database(path, V2)) as new:
            add(new, "Sanditon")
            assert titles(reader) == ["Emma", "Persuasion", "Sanditon"]
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (2,)


def test_a_copy_is_made_anew_once_the_file_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "shelf"
    Database(path, V2).close()
    with closing(Database(path, V2, read_only=True)) as reader:
        for number in range(20):
            with closing(Database(path, V2)) as writer:
                add(writer, str(number))
            assert len(titles(reader)) == number + 1
            assert [each.name for each in tmp_path.iterdir()] == ["shelf"]


def test_a_file_that_had_no_version_is_brought_up_once(tmp_path: Path) -> None:
    path = tmp_path / "shelf"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE books (title TEXT)")
    with pytest.raises(FormatError):
        Database(path, V2)
    able = replace(V2, unversioned=lambda _: V2.steps[1])
    for _ in range(2):
        with closing(Database(path, able)) as found:
            add(found, "Emma")


def _garbage(path: Path) -> None:
    path.write_bytes(b"no database at all" * 100)


def _newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")


def _less(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE books")


def _middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)


def _log_alone(path: Path) -> None:
    path.write_bytes(b"")
    path.with_name(f"{path.name}-wal").write_bytes(b"\x37" * 4096)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("spoil", [_garbage, _newer, _less, _middle, _log_alone])
def test_what_cannot_be_read_is_told_and_left_as_it_is(
    tmp_path: Path, spoil: Callable[[Path], None], *, read_only: bool
) -> None:
    path = tmp_path / "shelf"
    with closing(Database(path, V2)) as made:
        add(made, *(f"{number} {'x' * 100}" for number in range(200)))
    spoil(path)
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    for _ in range(2):
        with pytest.raises(FormatError if spoil is _newer else DamagedError) as caught:
            Database(path, V2, read_only=read_only)
        assert caught.value.where == str(path)
        assert spoil is _newer or caught.value.hint == f"look at {path}"
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


def test_other_programs_and_folders_are_told(tmp_path: Path) -> None:
    path = tmp_path / "shelf"
    with pytest.raises(UnreadableError, match="is a folder, not a file"):
        Database(tmp_path, V2)
    with pytest.raises(StoreError, match="unable to open") as caught:
        Database(tmp_path / "nowhere" / "shelf", V2)
    assert "does its folder exist" in str(caught.value.hint)
    with closing(Database(path, V2)) as made, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert titles(made) == []
        with pytest.raises(StoreError, match="locked") as caught:
            add(made, "Emma")
        assert "another program has it open" in str(caught.value.hint)
        other.execute("ROLLBACK")
        add(made, "Emma")


def test_nothing_is_written_into_a_file_that_is_no_longer_there(tmp_path: Path) -> None:
    path = tmp_path / "shelf"
    with closing(Database(path, V2)) as made:
        path.rename(tmp_path / "moved")
        for _ in range(2):
            with pytest.raises(StoreError, match="removed or replaced"):
                add(made, "Emma")
            path.touch()


def test_a_full_disk_is_told_and_changes_nothing(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "shelf", V2)) as made:
        add(made, "Emma")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        # A file may not grow beyond this, as on a disk without room.
        resource.setrlimit(resource.RLIMIT_FSIZE, (16384, limits[1]))
        try:
            with pytest.raises(DiskFullError, match="the disk is full"):
                add(made, *("x" * 1000 for _ in range(100)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert titles(made) == ["Emma"]
        add(made, "Persuasion")
        assert titles(made) == ["Emma", "Persuasion"]


def test_errors_are_of_the_class_that_is_asked_for(tmp_path: Path) -> None:
    class ShelfError(PartitaError):
        pass

    with pytest.raises(ShelfError, match="folder"):
        Database(tmp_path, replace(V2, raises=ShelfError))
    with closing(Database(None, replace(V2, raises=ShelfError))) as made:
        with pytest.raises(ShelfError, match="no such table"), made.reading() as db:
            db.execute("SELECT * FROM others")
        with pytest.raises(ZeroDivisionError), made.transaction() as db:
            db.executemany("INSERT INTO books (title) VALUES (?)", ((1 // n,) for n in (1, 0)))
        assert titles(made) == []


def test_a_new_file_is_filled_once_and_private_where_asked(tmp_path: Path) -> None:
    path, made = tmp_path / "shelf", list[Database]()

    def fill(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO books VALUES ('Emma', 1)")

    def make() -> None:
        made.append(Database(path, replace(V2, private=True, patience_s=30.0), fill=fill))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(each.made for each in made) == 1
    for each in made:
        assert titles(each) == ["Emma"]
    for file in tmp_path.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
    for each in made:
        each.close()


def test_what_can_be_read_of_a_damaged_file_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "shelf"
    with closing(Database(path, V2)) as made:
        add(made, *(f"{number} {'x' * 500}" for number in range(200)))
    data = bytearray(path.read_bytes())
    middle = len(data) // 8192 * 4096
    data[middle : middle + 4096] = b"\xa5" * 4096
    path.write_bytes(data)
    with salvage(path) as rows:
        found = dict(rows("SELECT rowid, title FROM books ORDER BY rowid"))
    assert 180 < len(found) < 200

    def fill(new: Path) -> None:
        with closing(Database(new, V2)) as made:
            add(made, *found.values())

    assert rebuild(path, fill) == ["shelf.aside-1"]
    assert finish_rebuilding(path) == []
    assert (tmp_path / "shelf.aside-1").read_bytes() == data
    with closing(Database(path, V2)) as made:
        assert titles(made) == list(found.values())
