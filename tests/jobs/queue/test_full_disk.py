"""A disk that is full: what runs goes on, what is cancelled ends all the same, and is written later."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from tests.jobs.queue.test_store import flood
from tests.jobs.queue.world import queue

from partita.jobs.queue.record import AttemptVerdict, JobState
from partita.jobs.queue.table import JobStore
from partita.store import DiskFullError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from tests.jobs.queue.world import World

FAR = {"source": "declared", "lower": 0, "upper": 2**40}


class Full(JobStore):
    """Has no room for transactions while it is full, or for one of them."""

    full = False
    at = 0

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        self.at -= 1
        with super().transaction() as db:
            yield db
            if self.full or self.at == 0:
                raise DiskFullError("the queue cannot be written: the disk is full")


def filled(world: World) -> Full:
    store = world.service.table.store
    assert isinstance(store, Full)
    return store


def test_cancel_needs_no_room(tmp_path: Path) -> None:
    with queue(tmp_path, store=Full) as world:
        running = world.submit("sleep", "600")
        deaf = world.submit("sh", "-c", "trap '' TERM; echo; while :; do sleep 0.05; done", grace_s=0.2)
        for job in (running, deaf):
            world.until_state(job, JobState.RUNNING)
        waiting = world.submit("true", memory=FAR)
        after = world.submit("true", after=[f"any:{waiting}"])
        never = world.submit("true", after=[f"ok:{waiting}"])
        filled(world).full = True
        answer = world.ask("cancel", ids=[running, waiting, deaf])
        assert [job["state"] for job in answer["jobs"]] == ["stopping", "cancelled", "stopping"]
        assert answer["notes"] == [
            "the queue cannot be written: the disk is full; it is remembered, and written when it can be"
        ]
        # They were asked before anything could be written.
        for job in (running, deaf):
            folder = world.service.folder_of(world.job(job), 1)
            world.until((folder / "exit.json").exists)
        assert world.ask("cancel", ids=[waiting])["jobs"][0]["was"] == "cancelled"
        rows = {row["id"]: row["state"] for row in world.ask("queue")["jobs"]}
        assert rows == {running: "stopping", deaf: "stopping", after: "waiting"}
        assert [each["state"] for each in world.ask("states", ids=[waiting, never])["jobs"]] == [
            "cancelled"
        ] * 2
        assert "the disk is full" in (world.ask("queue")["trouble"] or "")
        filled(world).full = False
        for job in (running, deaf):
            assert world.until_state(job, JobState.CANCELLED).attempt.verdict is AttemptVerdict.CANCELLED
        world.until_state(after, JobState.DONE)
    with queue(tmp_path) as world:
        assert [each["state"] for each in world.ask("states", ids=[waiting, never])["jobs"]] == [
            "cancelled"
        ] * 2


def test_no_write_that_fails_loses_a_job_or_runs_one_twice(tmp_path: Path) -> None:
    at, failed = 1, True
    while failed:
        folder = tmp_path / str(at)
        folder.mkdir()
        with queue(folder, store=Full) as world:
            once = 'echo once >> "$0"'
            done = world.submit("sh", "-c", once, str(folder / "done"))
            fails = world.submit("sh", "-c", f"{once}; exit 3", str(folder / "failed"), after=[f"ok:{done}"])
            filled(world).at = at
            world.finish()
            failed = filled(world).at <= 0
            assert any("the disk is full" in told for told in world.told) == failed
            jobs = [world.job(each) for each in (done, fails)]
            assert [job.state for job in jobs] == [JobState.DONE, JobState.FAILED], at
            assert [len(job.attempts) for job in jobs] == [1, 1]
        assert [(folder / each).read_text() for each in ("done", "failed")] == ["once\n"] * 2
        at += 1
    assert at > 8


def fill(stream: BinaryIO) -> None:
    while True:
        stream.write(b"x" * 4096)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for a queue and not much more."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=700k", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root mounts, and not in every container")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_jobs_are_cancelled_on_a_disk_that_is_really_full(small_disk: Path) -> None:
    with queue(small_disk) as world:
        running = world.submit("sleep", "600")
        folder = world.service.folder_of(world.until_state(running, JobState.RUNNING), 1)
        world.until((folder / "watch.json").exists)
        waiting = world.submit("true", memory=FAR)
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as stream, pytest.raises(OSError, match="No space"):
            fill(stream)
        with pytest.raises(DiskFullError):
            flood(world)
        answer = world.ask("cancel", ids=[running, waiting])
        assert [job["state"] for job in answer["jobs"]] == ["stopping", "cancelled"]
        assert answer["notes"]
        world.until((folder / "exit.json").exists)
        filler.unlink()
        world.until_state(running, JobState.CANCELLED)
    with queue(small_disk) as world:
        assert [each["state"] for each in world.ask("states", ids=[running, waiting])["jobs"]] == [
            "cancelled"
        ] * 2
