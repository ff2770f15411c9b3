"""What is left of jobs that are over, and for how long."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.jobs.queue.world import PACE, World, queue

from partita.errors import InputError
from partita.jobs.queue import folders
from partita.jobs.queue.job_store import QUEUE, JobStore
from partita.jobs.queue.record import JobState
from partita.jobs.queue.settings import QueueSettings

if TYPE_CHECKING:
    from pathlib import Path


DAY = 86400.0


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "RETENTION_EVERY_S", 0.01)
    monkeypatch.setattr(folders, "RETENTION_PAUSE_S", 0.01)


def settings(**more: object) -> QueueSettings:
    return replace(QueueSettings(pace=PACE), **more)  # type: ignore[arg-type]


def kept(world: World) -> set[str]:
    return {each.name for each in (world.folder / "jobs" / "attempts").iterdir()}


def age(folder: Path, days: float) -> None:
    """Have all that is over have ended some days earlier than it did."""
    with closing(JobStore(folder / "jobs" / "queue.sqlite3")) as store:
        for job in store.over(100):
            attempts = tuple(replace(each, ended=(each.ended or 0) - days * DAY) for each in job.attempts)
            store.put([replace(job, attempts=attempts, submitted=job.submitted - days * DAY)])


def test_what_ended_long_ago_is_forgotten_and_nothing_of_an_active_job_goes(tmp_path: Path) -> None:
    with queue(tmp_path, keep=True) as world:
        old = world.submit("echo", "one", environment={"OF": "one"})
        active = world.submit("sh", "-c", "echo begun; while [ ! -e go ]; do sleep 0.05; done")
        world.until_state(old, JobState.DONE)
        world.until_state(active, JobState.RUNNING)
        had = world.service.table.store.shares()
    age(tmp_path, 31)
    with queue(tmp_path, settings=settings(keep_s=30 * DAY)) as world:
        new = world.submit("true")
        world.until(lambda: world.service.table.store.get(int(old)) is None and kept(world) == {active, new})
        assert world.job(active).state is JobState.RUNNING
        assert {job["id"] for job in world.ask("history")["jobs"]} <= {new}
        with pytest.raises(InputError, match="there is no job"):
            world.ask("log", ids=[old])
        store = world.service.table.store
        assert store.shares().keys() == had.keys()
        with closing(sqlite3.connect(store.path)) as db:
            assert db.execute("SELECT count(*) FROM environments WHERE body LIKE '%OF%'").fetchone() == (0,)
        (tmp_path / "go").touch()
        world.until_state(active, JobState.DONE)


def test_files_beyond_the_bound_go_the_oldest_jobs_first_and_history_stays(tmp_path: Path) -> None:
    with queue(tmp_path, settings=settings(keep_bytes=400_000)) as world:
        jobs = [world.submit("head", "-c", "150000", "/dev/zero") for _ in range(4)]
        world.finish()
        world.until(lambda: kept(world) == set(jobs[-2:]))
        assert {job["id"] for job in world.ask("history")["jobs"]} == set(jobs)
        with pytest.raises(InputError, match="the log of job 1 was deleted"):
            world.ask("log", ids=jobs[:1])
        assert world.ask("log", ids=jobs[-1:])["data"]
        world.ask("requeue", ids=jobs[:1])
        world.until_state(jobs[0], JobState.DONE)
        assert len(world.job(jobs[0]).attempts) == 2


def test_no_number_is_given_twice_though_all_is_forgotten(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        last = [world.submit("true") for _ in range(3)][-1]
        world.finish()
    age(tmp_path, 31)
    with queue(tmp_path) as world:
        world.until(lambda: not kept(world))
    with queue(tmp_path) as world:
        assert int(world.submit("true")) == int(last) + 1


def test_links_in_an_attempts_folder_are_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    with queue(tmp_path, settings=settings(keep_bytes=0)) as world:
        job = world.submit("sh", "-c", f"ln -s {precious} $(dirname $PARTITA_JOB_PROGRESS)/log.7")
        world.until_state(job, JobState.DONE)
        world.until(lambda: not kept(world))
    assert (precious / "file").read_text() == "kept"


@pytest.mark.parametrize("version", [1, 2])
def test_a_store_of_a_format_before_is_taken_over(tmp_path: Path, version: int) -> None:
    with queue(tmp_path) as world:
        job = world.submit("true")
        world.until_state(job, JobState.DONE)
        path = world.service.table.store.path
    with closing(sqlite3.connect(path)) as db:
        if version == 1:
            db.executescript("DROP INDEX jobs_environment; ALTER TABLE used DROP COLUMN at;")
        db.executescript(f"DROP TABLE forgotten; PRAGMA user_version = {version};")
    assert QUEUE.version == 3
    with queue(tmp_path) as world:
        assert world.job(job).state is JobState.DONE
        (share,) = world.service.table.store.shares().values()
        assert abs(share.at - world.service.now) < 60.0
