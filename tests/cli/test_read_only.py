"""Commands that only show need no right to write: not in the state folder, and not to what is in it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from tests.cli.commands import Commands
from tests.control.world import deployment
from tests.unprivileged import locked, unprivileged

from partita.control.journal import FILE, Journal
from partita.drive.simulated import SimulatedDriver
from partita.drive.state import CLUSTER
from partita.files import user_name

if TYPE_CHECKING:
    from pathlib import Path

DAY, NIGHT = "day.json", "night.json"

TO_FORMAT_1 = {
    CLUSTER: """
        DROP TRIGGER gpus_INSERT; DROP TRIGGER gpus_UPDATE; DROP TRIGGER gpus_DELETE;
        DROP TRIGGER instances_INSERT; DROP TRIGGER instances_UPDATE; DROP TRIGGER instances_DELETE;
        DROP TRIGGER replicas_INSERT; DROP TRIGGER replicas_UPDATE; DROP TRIGGER replicas_DELETE;
        DROP INDEX replicas_ready; DROP INDEX replicas_gone; DROP TABLE changes;
        ALTER TABLE replicas DROP COLUMN tenants;
        ALTER TABLE meta DROP COLUMN wall; ALTER TABLE meta DROP COLUMN ahead;
        PRAGMA user_version = 1;
    """,
    FILE: """
        DROP TABLE pauses; ALTER TABLE rounds DROP COLUMN prediction;
        PRAGMA user_version = 1;
    """,
}
"""What makes a cluster and a journal of the first version of today's."""


@pytest.fixture
def partita(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    made = Commands(tmp_path, monkeypatch, capsys)
    made.plan(NIGHT, deployment("3g.20gb@4=bert"))
    made("apply", made.plan(DAY, deployment("7g.40gb@0=bert")), "--yes")
    return made


def shown(partita: Commands, *words: str) -> subprocess.CompletedProcess[str]:
    """What a command says that may write nothing."""
    return subprocess.run(
        unprivileged(sys.executable, "-m", "partita", *words),
        cwd=partita.folder,
        env={**os.environ, "PARTITA_STATE": str(partita.state), "COLUMNS": "300"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("status",), 0, "goal: reached, 2/2 actions"),
        (("diff", NIGHT), 3, "1 start"),
        (("apply", NIGHT, "--dry-run"), 0, "1 start"),
        (("doctor",), 1, "the simulated cluster has 8 GPUs"),
    ],
    ids=lambda each: each[0] if isinstance(each, tuple) else "",
)
def test_what_only_shows_needs_no_right_to_write(
    partita: Commands, words: tuple[str, ...], code: int, said: str
) -> None:
    with locked(partita.state):
        found = shown(partita, *words)
    assert (found.returncode, found.stderr) == (code, "")
    assert said in found.stdout


def test_what_runs_is_seen_while_its_owner_has_it_open(partita: Commands) -> None:
    with closing(SimulatedDriver(partita.state / CLUSTER)), closing(Journal(partita.state / FILE)):
        assert (partita.state / f"{CLUSTER}-shm").exists()
        with locked(partita.state):
            found = shown(partita, "status")
    assert (found.returncode, found.stderr) == (0, "")
    assert "start replica bert" in found.stdout


def test_what_an_older_version_wrote_is_seen_and_stays_as_it_is(partita: Commands) -> None:
    for name, statements in TO_FORMAT_1.items():
        with closing(sqlite3.connect(partita.state / name)) as db:
            db.executescript(statements)
    with locked(partita.state):
        found = shown(partita, "status")
    assert (found.returncode, found.stderr) == (0, "")
    assert "start replica bert" in found.stdout
    for name in TO_FORMAT_1:
        with closing(sqlite3.connect(partita.state / name)) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (1,)


@pytest.mark.parametrize("words", [("status",), ("diff", NIGHT), ("energy",)], ids=lambda each: each[0])
def test_a_folder_that_may_not_be_entered_is_told_with_who_may(
    partita: Commands, words: tuple[str, ...]
) -> None:
    partita.state.chmod(0)
    found = shown(partita, *words)
    partita.state.chmod(0o700)
    assert found.returncode == 2
    assert found.stderr.startswith(
        f"error: {partita.state}: you may not look into this folder\nhint: run this as "
    )
    assert f"run this as {user_name(os.geteuid())}" in found.stderr
    assert f"`namei -l {partita.state}`" in found.stderr


def test_what_changes_something_says_that_it_must_write(partita: Commands) -> None:
    with locked(partita.state):
        found = shown(partita, "apply", NIGHT, "--yes")
    assert found.returncode == 1
    assert f"{partita.state}/controller.lock: the lock cannot be opened" in found.stderr
    assert "run this as its owner, or set PARTITA_STATE to a folder of yours" in found.stderr


def test_to_look_with_adopt_makes_nothing(partita: Commands) -> None:
    (partita.state / "controller.lock").unlink()
    with locked(partita.state):
        found = shown(partita, "adopt", "node-0/gpu-0", "7g.40gb@0", "--dry-run")
    assert "is not someone else's instance" in found.stderr


def test_the_log_of_a_cluster_that_was_removed_is_not_taken_for_the_new_ones(partita: Commands) -> None:
    program = (
        f"import os, sqlite3; db = sqlite3.connect({str(partita.state / CLUSTER)!r}, isolation_level=None)\n"
    )
    program += "db.execute('UPDATE gpus SET lost = 1'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", program], check=False)
    assert (partita.state / f"{CLUSTER}-wal").stat().st_size
    (partita.state / CLUSTER).unlink()
    (partita.state / FILE).unlink()
    assert partita("apply", partita.folder / DAY, "--yes").code == 0
    assert (partita.state / f"{CLUSTER}-wal.aside-1").exists()
    assert "lost" not in partita("status").out
