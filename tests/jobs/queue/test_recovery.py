"""A store that was lost, damaged, or put back from a backup: told, and mended so that nothing runs twice."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.jobs.queue.world import SCALE, queue

from partita.errors import PartitaError
from partita.jobs.queue import job_store
from partita.jobs.queue.job_store import FILE
from partita.jobs.queue.record import OVER, AttemptVerdict, JobState
from partita.jobs.queue.recovery import LostStoreError, open_store, recover
from partita.jobs.run import real
from partita.jobs.run.runner import AttemptPhase
from partita.store import DamagedError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.jobs.queue.world import World

WAIT = 'echo once >> "$0"; n=0; while [ ! -e go ] && [ $n -lt 1000 ]; do sleep 0.05; n=$((n + 1)); done'
FAR = {"source": "declared", "lower": 0, "upper": 2**40}


@pytest.fixture(autouse=True)
def nothing_runs_on(tmp_path: Path) -> Iterator[None]:
    """End what a failed test has left running."""
    yield
    runner = real.RealJobRunner(SCALE)
    for attempt in (tmp_path / "jobs" / "attempts").glob("*/[0-9]*"):
        if (attempt / "launch.json").exists() and runner.look(attempt).phase is AttemptPhase.RUNNING:
            runner.stop(attempt, grace_s=0.0)


def populate(world: World) -> dict[str, str]:
    """Have a job of every kind: done, failed, out of memory and waiting again, running, cancelled, never run."""
    jobs = {
        "done": world.submit("sh", "-c", 'echo once >> "$0"', str(world.folder / "done")),
        "failed": world.submit("sh", "-c", 'echo once >> "$0"; exit 3', str(world.folder / "failed")),
        "cancelled": world.submit("sleep", "600", grace_s=0),
        "running": world.submit("sh", "-c", WAIT, str(world.folder / "running"), name="mine", limit_s=900),
    }
    for name in ("cancelled", "running"):
        world.until_state(jobs[name], JobState.RUNNING)
    world.ask("cancel", ids=[jobs["cancelled"]])
    world.until_state(jobs["cancelled"], JobState.CANCELLED)
    world.until_state(jobs["failed"], JobState.FAILED)
    world.until_state(jobs["done"], JobState.DONE)
    jobs["task"] = f"{world.submit('true', array='3-4')}_3"
    world.until(lambda: len(world.service.table.active) == 1)
    jobs["waiting"] = world.submit("sh", "-c", 'echo once >> "$0"', str(world.folder / "waiting"), memory=FAR)
    return jobs


def store_of(folder: Path) -> Path:
    return folder / "jobs" / FILE


def check_recovered(world: World, jobs: dict[str, str], *, waiting: bool) -> None:
    """What ran goes on, what is over is over, and nothing has run twice."""
    running = world.job(jobs["running"])
    assert (running.state, len(running.attempts), running.name) == (JobState.RUNNING, 1, "mine")
    assert running.asked.limit_s == 900
    assert (jobs["waiting"] in {job.id for job in world.service.table.active.values()}) == waiting
    (world.folder / "go").touch()
    world.until_state(jobs["running"], JobState.DONE)
    ends = {
        "done": JobState.DONE,
        "failed": JobState.FAILED,
        "cancelled": JobState.CANCELLED,
        "running": JobState.DONE,
    }
    for name, state in ends.items():
        world.until(lambda name=name, state=state: world.job(jobs[name]).state is state)  # type: ignore[misc]
        assert len(world.job(jobs[name]).attempts) == 1
    assert [task["state"] for task in world.ask("states", ids=[jobs["task"]])["jobs"]] == ["done"]
    for name in ("done", "failed", "running"):
        assert (world.folder / name).read_text() == "once\n"
    (told,) = world.ask("history", ids=[jobs["failed"]])["jobs"]
    assert told["attempts"][0]["exit_code"] == 3
    # A job that is taken over can be run again as it was submitted, and no number is given twice.
    world.ask("requeue", ids=[jobs["done"]])
    world.until(lambda: world.job(jobs["done"]).state is JobState.DONE)
    assert (world.folder / "done").read_text() == "once\n" * 2
    assert int(world.submit("true")) > int(jobs["waiting"])


@pytest.mark.parametrize("how", ["missing", "empty", "garbage", "log alone"])
def test_a_lost_store_is_told_and_taken_over_without_running_anything_twice(tmp_path: Path, how: str) -> None:
    with queue(tmp_path, keep=True) as world:
        jobs = populate(world)
    path = store_of(tmp_path)
    if how == "missing":
        path.unlink()
    elif how == "garbage":
        path.write_bytes(b"\xa5" * 8192)
    else:
        path.write_bytes(b"")
    if how == "log alone":
        path.with_name(f"{FILE}-wal").write_bytes(b"\x37" * 4096)
    before = {each.name: each.read_bytes() for each in path.parent.glob(f"{FILE}*")}
    for _ in range(2):
        with pytest.raises(StoreError) as caught, queue(tmp_path):
            pass
        assert "partita daemon --recover" in (caught.value.hint or "")
    assert {each.name: each.read_bytes() for each in path.parent.glob(f"{FILE}*")} == before
    if how in ("missing", "empty"):
        assert isinstance(caught.value, LostStoreError)
        assert f"store is {how}, and 6 jobs have attempts on the disk, of which 1 run" in caught.value.what
        assert f"it had jobs up to number {jobs['waiting']}" in caught.value.what
    else:
        assert isinstance(caught.value, DamagedError)
    with queue(tmp_path, mend=True) as world:
        check_recovered(world, jobs, waiting=False)
        assert "recovered: " in world.told[-1] or "recovered: " in "".join(world.told)
    if how in ("garbage", "log alone"):
        kept = {each.name: each.read_bytes() for each in path.parent.glob(f"{FILE}*.aside-1")}
        assert kept == {f"{name}.aside-1": data for name, data in before.items()}
    with queue(tmp_path):  # and is as any other from now on
        pass


def test_jobs_that_wait_are_read_from_a_damaged_store(tmp_path: Path) -> None:
    with queue(tmp_path, keep=True) as world:
        jobs = populate(world)
        many = world.submit("true", array="0-399", memory=FAR, name="x" * 60)
        world.service.table.store.close()
    path = store_of(tmp_path)
    data = bytearray(path.read_bytes())
    # A page in the middle of the tasks.
    at = data.index(b'"index":200') // 4096 * 4096
    data[at : at + 4096] = b"\xa5" * 4096
    path.write_bytes(data)
    with pytest.raises(DamagedError), queue(tmp_path):
        pass
    with queue(tmp_path, mend=True) as world:
        tasks = world.ask("states", ids=[many])["jobs"]
        assert len(tasks) > 380
        assert {task["state"] for task in tasks} == {"waiting"}
        check_recovered(world, jobs, waiting=True)


@pytest.mark.parametrize("killed_at", [1, 2, 3, 4])
def test_a_recovery_that_is_killed_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    small_store(tmp_path)
    path, left = store_of(tmp_path), killed_at
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP INDEX jobs_environment")  # which takes JSON alone
        db.execute("UPDATE jobs SET body = '{' WHERE number = 7")
        db.commit()
    rename = Path.rename

    def killing(self: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killing)
    try:
        recover(path.parent, print).close()
        killed = False
    except KeyboardInterrupt:
        killed = True
    monkeypatch.undo()
    assert killed == (killed_at < 4)  # the new one when it is whole, the old one, and the new one again
    told: list[str] = []
    with closing(recover(path.parent, told.append)) as store:
        assert [job.number for job in store.active()] == [1, 2, 3, 4, 5, 6, 8, 9, 10]
    assert not list(path.parent.glob("*.[nw]*"))


def test_a_store_that_was_put_back_from_a_backup_is_not_believed(tmp_path: Path) -> None:
    with queue(tmp_path, keep=True) as world:
        first = world.submit("sh", "-c", 'echo once >> "$0"', str(tmp_path / "first"))
        second = world.submit("sh", "-c", WAIT, str(tmp_path / "second"))
        world.service.table.store.close()
    backup = store_of(tmp_path).read_bytes()
    with queue(tmp_path, keep=True) as world:
        world.until_state(first, JobState.DONE)
        world.until_state(second, JobState.RUNNING)
        third = world.submit("sh", "-c", 'echo once >> "$0"', str(tmp_path / "third"))
        world.until_state(third, JobState.DONE)
    store_of(tmp_path).write_bytes(backup)
    with (
        pytest.raises(LostStoreError, match="not have attempt 1 of job 1, nor attempts of 2 more") as caught,
        queue(tmp_path),
    ):
        pass
    assert "of which 1 run" in caught.value.what
    with queue(tmp_path, mend=True) as world:
        assert world.job(second).state is JobState.RUNNING
        (tmp_path / "go").touch()
        world.finish()
        assert [world.job(each).state for each in (first, second, third)] == [JobState.DONE] * 3
        assert int(world.submit("true")) == int(third) + 1
    for name in ("first", "second", "third"):
        assert (tmp_path / name).read_text() == "once\n"


def test_numbers_go_on_where_nothing_but_the_last_one_is_left(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        last = world.submit("true", memory=FAR)
    store_of(tmp_path).unlink()
    with (
        pytest.raises(LostStoreError, match=f"missing, and it had jobs up to number {last}"),
        queue(tmp_path),
    ):
        pass
    with queue(tmp_path, mend=True) as world:
        assert int(world.submit("true", memory=FAR)) == int(last) + 1


def test_a_folder_of_another_attempt_is_set_aside_and_never_read_as_this_ones(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        old = world.submit("sh", "-c", "echo old; exit 7")
        world.until_state(old, JobState.FAILED)
        theirs = world.service.folder_of(world.job(old), 1)
        new = str(int(old) + 1)
        shutil.copytree(theirs, theirs.parent.parent / new / "1")
        assert world.submit("sh", "-c", "echo new") == new
        done = world.until_state(new, *OVER)
        assert (done.state, done.attempt.code) == (JobState.DONE, 0)
        here = world.service.folder_of(done, 1)
        assert (here / "log").read_text() == "new\n"
        assert (here.with_name("1.aside-1") / "log").read_text() == "old\n"
        assert any("set aside as 1.aside-1" in told for told in world.told)


@pytest.mark.parametrize("change", ["command", "garbage", "stale"])
def test_a_launch_that_is_not_what_was_submitted_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    start = real._start_watcher

    def tampered(folder: Path, lock: int, digest: str) -> None:
        launch = json.loads((folder / "launch.json").read_text())
        launch["command"] = ["sh", "-c", f"echo tampered > {tmp_path / 'tampered'}"]
        if change == "stale":
            launch["attempt"] = 9
        text = json.dumps(launch) + ("" if change != "garbage" else " ")
        (folder / "launch.json").write_text(text)
        start(folder, lock, digest)

    monkeypatch.setattr(real, "_start_watcher", tampered)
    with queue(tmp_path) as world:
        job = world.submit("sh", "-c", f"touch {tmp_path / 'ran'}")
        failed = world.until_state(job, *OVER)
        assert (failed.state, failed.attempt.code) == (JobState.FAILED, 125)
        assert failed.why == "launch.json is not what was submitted; nothing was started"
    assert not (tmp_path / "tampered").exists()
    assert not (tmp_path / "ran").exists()


def test_a_store_that_goes_while_it_is_open_is_told_and_nothing_is_taken_in(tmp_path: Path) -> None:
    with queue(tmp_path, keep=True) as world:
        jobs = populate(world)
        store_of(tmp_path).rename(tmp_path / "moved")
        with pytest.raises(StoreError, match="removed or replaced"):
            world.submit("true")
        store_of(tmp_path).touch()
        with pytest.raises(StoreError, match="removed or replaced"):
            world.submit("true")
        world.service.step(world.service.now)
    (tmp_path / "moved").replace(store_of(tmp_path))
    with queue(tmp_path) as world:
        check_recovered(world, jobs, waiting=True)


def small_store(path: Path) -> int:
    with queue(path, keep=True) as world:
        world.submit("true", array="0-9", memory=FAR)
        world.service.table.store.close()
    return store_of(path).stat().st_size


def test_no_length_of_a_truncated_store_is_taken_for_an_empty_one(tmp_path: Path) -> None:
    size = small_store(tmp_path)
    path, whole = store_of(tmp_path), store_of(tmp_path).read_bytes()
    for length in sorted({*range(0, size, 4096), 1, 15, 99, 101, 4097, size - 1}):
        path.write_bytes(whole[:length])
        with pytest.raises(StoreError) as caught:
            open_store(path.parent)
        assert "--recover" in (caught.value.hint or ""), length
        assert path.read_bytes() == whole[:length], length
        told: list[str] = []
        with closing(recover(path.parent, told.append)) as store:
            assert store.last_number() <= 10, length  # as many as can be read
        for each in path.parent.glob(f"{FILE}*"):
            each.unlink()
    path.write_bytes(whole)
    with closing(open_store(path.parent)) as store:
        assert len(store.active()) == 10
    with closing(recover(path.parent, told.append)) as store:
        assert len(store.active()) == 10  # what is whole stays as it is


def test_what_is_no_store_or_cannot_be_used_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_store(tmp_path)
    path = store_of(tmp_path)

    def refusal() -> PartitaError:
        for opening in (open_store, lambda folder: recover(folder, print)):
            with pytest.raises(PartitaError) as caught:
                opening(path.parent).close()
            assert isinstance(caught.value, StoreError)
        assert not list(path.parent.glob("*.aside-*"))
        return caught.value

    monkeypatch.setattr(job_store, "QUEUE", replace(job_store.QUEUE, patience_s=0.05))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        assert "another program has it open" in (refusal().hint or "")
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")
    assert "format 99" in refusal().what
    path.rename(tmp_path / "moved")
    path.mkdir()
    assert "is a folder, not a file" in refusal().what


def test_an_attempt_that_runs_and_cannot_be_read_is_not_run_beside(tmp_path: Path) -> None:
    with queue(tmp_path, keep=True) as world:
        jobs = populate(world)
        folder = world.service.folder_of(world.job(jobs["running"]), 1)
    store_of(tmp_path).unlink()
    launch = (folder / "launch.json").read_bytes()
    (folder / "launch.json").write_bytes(launch[:100])
    with pytest.raises(PartitaError, match="runs, but its folder cannot be read"), queue(tmp_path, mend=True):
        pass
    (folder / "launch.json").write_bytes(launch)
    with queue(tmp_path, mend=True) as world:
        check_recovered(world, jobs, waiting=False)


def test_what_was_wanted_of_a_job_outlives_the_store(tmp_path: Path) -> None:
    slow = ("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
    with queue(tmp_path, keep=True) as world:
        going = world.submit(*slow, grace_s=600)
        again = world.submit("sleep", "600", grace_s=0)
        back = world.submit("true")
        for job in (going, again):
            world.until_state(job, JobState.RUNNING)
        world.until_state(back, JobState.DONE)
        world.ask("cancel", ids=[going])
        world.until_state(going, JobState.STOPPING)
        world.service.step(world.service.now)
        world.ask("requeue", ids=[again, back])
    store_of(tmp_path).unlink()
    with queue(tmp_path, mend=True) as world:
        assert world.job(going).attempt.wish is AttemptVerdict.CANCELLED
        world.until(lambda: len(world.job(again).attempts) == 2)
        assert world.job(again).attempts[0].verdict is AttemptVerdict.REQUEUED
        world.until(lambda: world.job(back).state is JobState.DONE)
        assert len(world.job(back).attempts) == 2
        world.service.folder_of(world.job(going), 1)
        real.RealJobRunner(SCALE).stop(world.service.folder_of(world.job(going), 1), grace_s=0.0)
        world.until_state(going, JobState.CANCELLED)
