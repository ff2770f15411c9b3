"""The journal survives what can happen to a file, and refuses clearly; one controller and one gateway at a time."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.control.world import SLICES, deployment, goal

from partita.control.cluster_view import Fact, Snapshot
from partita.control.goal import goal_of, goal_text
from partita.control.journal import (
    FILE,
    LOCK_FILE,
    Journal,
    JournalError,
    LockedError,
    State,
    controlling,
    holder,
    serving,
)

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
    for each in (one, replace(one, in_place=True)):
        assert goal_of(goal_text(each)) == each


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


HOLD = """
import sys, time
from pathlib import Path
from partita.control.journal import controlling
with controlling(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path: Path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_controller_is_refused_with_the_first_ones_identity(tmp_path: Path, other) -> None:
    with pytest.raises(LockedError, match=f"process {other.pid} on ") as caught, controlling(tmp_path):
        pass
    assert f"kill -INT {other.pid}" in str(caught.value.hint)
    found = holder(tmp_path)
    assert found is not None
    assert (found.pid, found.host) == (other.pid, os.uname().nodename)
    assert abs(found.started - time.time()) < 60


def test_the_lock_of_a_killed_controller_is_free_and_its_identity_known(tmp_path: Path, other) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert holder(tmp_path) is None
    with controlling(tmp_path) as before:
        assert before is not None
        assert before.pid == other.pid


def test_after_an_orderly_end_nothing_is_said(tmp_path: Path) -> None:
    with controlling(tmp_path):
        assert holder(tmp_path) is not None
    with controlling(tmp_path) as before:
        assert before is None


def test_a_lock_file_cut_short_by_a_crash_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text('{"host": "a", "pi')
    with controlling(tmp_path) as before:
        assert before is None


def test_a_gateway_s_lock_is_its_own_and_dies_with_its_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD.replace("controlling", "serving"), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(LockedError, match=f"another gateway.*process {process.pid} on "),
            serving(tmp_path),
        ):
            pass
        with controlling(tmp_path):
            pass
        process.kill()
        process.wait()
    with serving(tmp_path) as before:
        assert before is not None
        assert before.pid == process.pid
