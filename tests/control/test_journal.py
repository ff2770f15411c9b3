"""The journal survives what can happen to a file, is never overwritten, and refuses clearly."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.control.world import SLICES, deployment, goal

from partita.control.executor import Fact, Snapshot
from partita.control.goal import goal_of, goal_text
from partita.control.journal import FILE, Journal, JournalError, State

if TYPE_CHECKING:
    from pathlib import Path

TARGET = deployment("3g.20gb@4=bert 1g.5gb@0=resnet", "")


@pytest.mark.parametrize(
    "content", [b"no journal at all, but long enough to be read as one " * 40, b"SQLite format 3\0"]
)
def test_a_file_that_is_no_journal_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / FILE
    path.write_bytes(content)
    with pytest.raises(JournalError, match="is damaged") as caught:
        Journal(path)
    assert path.read_bytes() == content
    assert f"mv {path} {path}.kept" in str(caught.value.hint)


def test_a_damaged_journal_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / FILE
    journal = Journal(path)
    for number in range(50):
        journal.note(f"note {number} " + "x" * 500, float(number))
    journal.close()
    damaged = bytearray(path.read_bytes())
    damaged[4096:-4096] = os.urandom(len(damaged) - 8192)
    path.write_bytes(damaged)
    with pytest.raises(JournalError):
        Journal(path)
    assert path.read_bytes() == damaged


def test_many_may_open_a_new_one_at_once(tmp_path: Path) -> None:
    made: list[Journal] = []
    threads = [threading.Thread(target=lambda: made.append(Journal(tmp_path / FILE))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    for journal in made:
        assert journal.progress() is None
        journal.close()


def test_a_journal_of_a_newer_partita_is_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE
    Journal(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(JournalError, match="format 99"):
        Journal(path)


def test_a_journal_in_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="unable to open"):
        Journal(tmp_path / "nowhere" / FILE)


def test_rates_are_promised_once_reached_and_what_both_require_on_the_way(tmp_path: Path) -> None:
    journal = Journal(tmp_path / FILE)
    assert journal.promised() is None
    first = goal(TARGET, {"bert": 300.0, "resnet": 90.0})
    journal.begin_goal(first, "apply", 0.0)
    assert journal.promised() == {}
    journal.end_goal(State.REACHED, 1.0)
    assert journal.promised() == {"bert": 300.0, "resnet": 90.0}
    journal.begin_goal(goal(TARGET, {"bert": 200.0, "new": 5.0}, first.new_rates), "apply", 2.0)
    assert journal.promised() == {"bert": 200.0}
    journal.end_goal(State.STOPPED, 3.0)
    assert journal.promised() == {"bert": 200.0}
    assert journal.unfinished() is not None
    journal.close()


def test_a_goal_is_read_back_as_it_was_written() -> None:
    one = goal(TARGET, {"bert": 300.0}, {"bert": 200.0}, extra_gpus=2, forbid=("4g+3g",))
    assert goal_of(goal_text(one)) == one


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["g0", "g1"]), st.sampled_from(sorted(SLICES))),
        st.builds(
            Fact, st.booleans(), st.booleans(), st.none() | st.text(), st.none() | st.text(), st.booleans()
        ),
    ),
    st.dictionaries(
        st.tuples(st.sampled_from(["g0", "g1"]), st.sampled_from(sorted(SLICES))),
        st.builds(
            Fact, st.booleans(), st.booleans(), st.none() | st.text(), st.none() | st.text(), st.booleans()
        ),
    ),
)
def test_what_was_seen_last_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    one: dict[tuple[str, str], Fact],
    other: dict[tuple[str, str], Fact],
) -> None:
    path = tmp_path_factory.mktemp("j") / FILE
    journal = Journal(path)
    gpus = {"g0": "ready", "g1": "lost"}
    for instances in (one, other):
        journal.record((), Snapshot(gpus, instances), 0.0)
    journal.close()
    again = Journal(path)
    assert again.seen() == Snapshot(gpus, other)
    again.close()


def test_what_an_older_version_saw_is_read_and_what_is_damaged_told(tmp_path: Path) -> None:
    Journal(tmp_path / FILE).close()
    rows = [("g0", "", '"ready"'), ("g0", "1g.5gb@0", '[true, false, "MIG-1", null, false]')]
    with closing(sqlite3.connect(tmp_path / FILE)) as db, db:
        db.executemany("INSERT INTO seen VALUES (?, ?, ?)", rows)
    with closing(Journal(tmp_path / FILE)) as journal:
        fact = Fact(ours=True, busy=False, mig_uuid="MIG-1", serves=None, settling=False)
        seen = journal.seen()
        assert seen == Snapshot({"g0": "ready"}, {("g0", "1g.5gb@0"): fact})
        assert seen.fingerprint == "452ee5fb0dae"
    with closing(sqlite3.connect(tmp_path / FILE)) as db, db:
        db.execute("UPDATE seen SET fact = '[true]' WHERE placement <> ''")
    with (
        closing(Journal(tmp_path / FILE)) as journal,
        pytest.raises(JournalError, match="is damaged: a fact"),
    ):
        journal.seen()


def test_old_goals_are_forgotten_in_the_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path / FILE)
    for number in range(150):
        journal.begin_goal(goal(TARGET), "apply", float(number))
        journal.note("something", float(number))
    assert len(journal.tail(1000)) == 100
    journal.close()
