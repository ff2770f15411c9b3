"""A daemon is killed at every write to its store; the next one loses no job and runs none twice."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.jobs.queue.world import GPU, World, python, queue

from partita.jobs.queue.record import AttemptVerdict, JobState
from partita.jobs.queue.table import JobStore

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path


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
