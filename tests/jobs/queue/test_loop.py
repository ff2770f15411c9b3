"""A daemon that is killed at every write, and a disk that is full: no job is lost, and none runs twice."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from tests.jobs.queue.test_table import flood
from tests.jobs.queue.world import GPU, World, python, queue

from partita.jobs.queue.job_store import JobStore
from partita.jobs.queue.record import AttemptVerdict, JobState
from partita.store import DiskFullError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from tests.jobs.queue.world import World


class Bomb(JobStore):
    """Kills its process before or after its n-th transaction."""

    at = 0
    after = False

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        self.at -= 1
        if self.at == 0 and not self.after:
            os.kill(os.getpid(), signal.SIGKILL)
        with super().transaction() as db:
            yield db
        if self.at == 0 and self.after:
            os.kill(os.getpid(), signal.SIGKILL)


def killed(folder: Path, at: int, *, after: bool) -> bool:
    """Run a daemon in a process of its own until all is over; say whether the bomb went off before that."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with queue(folder, store=lambda path: armed(path, at, after=after), keep=True) as world:
                world.finish()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def armed(path: Path, at: int, *, after: bool) -> Bomb:
    store = Bomb(path)
    store.at, store.after = at, after
    return store


def submit_all(world: World) -> list[str]:
    """Submit a job that is done, one that fails, and one that runs out of memory first."""
    count = 'echo once >> "$0"; sleep 0.1'
    done = world.submit("sh", "-c", count, str(world.folder / "done"))
    fails = world.submit("sh", "-c", f"{count}; exit 3", str(world.folder / "failed"))
    code = f"open({str(world.folder / 'greedy')!r}, 'a').write('once\\n'); x = bytearray(120 << 20)"
    return [done, fails, world.submit(*python(code))]


def test_a_daemon_killed_at_any_write_is_followed_without_loss(tmp_path: Path) -> None:
    at, went_off = 1, True
    while went_off:
        after = at % 2 == 0  # once the write is done, and before anything is done in the world
        folder = tmp_path / str(at)
        folder.mkdir()
        with queue(folder, keep=True) as world:
            done, fails, greedy = submit_all(world)
        went_off = killed(folder, at, after=after)
        with queue(folder) as world:
            world.finish()
            jobs = [world.job(each) for each in (done, fails, greedy)]
            assert [job.state for job in jobs] == [JobState.DONE, JobState.FAILED, JobState.DONE], (at, jobs)
            assert [len(job.attempts) for job in jobs] == [1, 1, 2]
            assert jobs[1].attempt.code == 3
            assert jobs[2].attempts[0].verdict is AttemptVerdict.OUT_OF_MEMORY
            memory = {"source": "declared", "lower": 0, "upper": 39 * 2**30}
            world.until_state(world.submit("true", memory=memory), JobState.DONE)  # no slice is lost
        assert (folder / "done").read_text() == "once\n"
        assert (folder / "failed").read_text() == "once\n"
        assert (folder / "greedy").read_text() == "once\n" * 2
        at += 1
    assert at > 8, "the jobs take more writes than that"


def test_running_jobs_are_found_again_and_a_cancel_is_not_forgotten(tmp_path: Path) -> None:
    with queue(tmp_path, keep=True) as world:
        job = world.submit("sleep", "600", grace_s=0)
        kept = world.submit("sleep", "600")
        world.until_state(kept, JobState.RUNNING)
        world.until_state(job, JobState.RUNNING)
        world.ask("cancel", ids=[job])
        assert world.job(job).state is JobState.STOPPING
    with queue(tmp_path) as world:
        assert world.job(kept).state is JobState.RUNNING
        world.until_state(job, JobState.CANCELLED)
        assert len(world.job(kept).attempts) == 1
        assert world.job(kept).attempt.gpu == GPU


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
            "the queue cannot be written: the disk is full; the cancellation is kept in memory, and written later"
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
