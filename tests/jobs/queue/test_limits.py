"""What jobs and users are held to: time limits, waiting jobs of a user, and what a submitter's process has set."""

from __future__ import annotations

import base64
import os
import signal
import stat
from typing import TYPE_CHECKING, Any

import pytest
from tests.jobs.queue.world import PACE, queue

from partita.errors import InputError
from partita.jobs.queue.access import Access, Caller, DeniedError
from partita.jobs.queue.record import AttemptVerdict, JobState
from partita.jobs.queue.service import QueueSettings

if TYPE_CHECKING:
    from pathlib import Path

ANN = Caller(1, 65534, 65534)
FAR: dict[str, Any] = {"source": "declared", "lower": 0, "upper": 2**40}


def test_a_job_is_ended_when_its_time_is_over_and_told_as_a_timeout(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        polite = world.submit("sh", "-c", "trap 'echo saved; exit 0' TERM; sleep 600 & wait", limit_s=0.3)
        deaf = world.submit(
            "sh", "-c", "trap '' TERM; while :; do sleep 0.05; done", limit_s=0.3, grace_s=0.2
        )
        quick = world.submit("true", limit_s=600)
        world.finish()
        for job, code in ((polite, 0), (deaf, 128 + signal.SIGKILL)):
            ended = world.job(job)
            assert (ended.state, ended.attempt.verdict) == (JobState.FAILED, AttemptVerdict.TIMEOUT)
            assert ended.attempt.code == code
            assert ended.why == "timeout: it ran for its limit of 0.3s"
        assert b"saved" in base64.b64decode(world.ask("log", ids=[polite])["data"])
        assert world.job(quick).state is JobState.DONE
        (told,) = world.ask("history", ids=[polite])["jobs"]
        assert told["attempts"][0]["verdict"] == "timeout"
        assert told["time_limit_s"] == 0.3


def test_the_limit_is_kept_while_no_daemon_runs_and_is_each_attempts_own(tmp_path: Path) -> None:
    with queue(tmp_path, keep=True) as world:
        job = world.submit("sleep", "600", limit_s=0.4)
        running = world.until_state(job, JobState.RUNNING)
        folder = world.service.folder_of(running, 1)
    while not (folder / "exit.json").exists():
        os.sched_yield()
    with queue(tmp_path) as world:
        assert world.until_state(job, JobState.FAILED).attempt.verdict is AttemptVerdict.TIMEOUT
        world.ask("requeue", ids=[job])
        world.until_state(job, JobState.FAILED)
        assert [each.verdict for each in world.job(job).attempts] == [AttemptVerdict.TIMEOUT] * 2


def test_who_is_cancelled_first_did_not_time_out(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        deaf = world.submit(
            "sh", "-c", "trap '' TERM; echo; while :; do sleep 0.05; done", limit_s=600, grace_s=0.1
        )
        world.until_state(deaf, JobState.RUNNING)
        world.ask("cancel", ids=[deaf])
        assert world.until_state(deaf, JobState.CANCELLED).attempt.verdict is AttemptVerdict.CANCELLED


def test_starts_are_predicted_by_limits_where_nothing_else_is_known(tmp_path: Path) -> None:
    memory = {"source": "declared", "lower": 0, "upper": 30 * 2**30}
    with queue(tmp_path) as world:
        first = world.submit("sleep", "600", memory=memory, limit_s=900)
        world.until_state(first, JobState.RUNNING)
        second = world.submit("sleep", "600", memory=memory, limit_s=900, seconds={"": 9000})
        third = world.submit("sleep", "600", memory=memory)
        rows = {row["id"]: row for row in world.ask("queue")["jobs"]}
        assert 880 < rows[second]["start"] - world.service.now < 920
        assert (
            1780 < rows[third]["start"] - world.service.now < 1820
        )  # it is ended before its 9000 s are over


def test_the_daemons_limits_are_everybodys(tmp_path: Path) -> None:
    settings = QueueSettings(pace=PACE, default_limit_s=60.0, most_limit_s=3600.0)
    with queue(tmp_path, settings=settings) as world:

        def limit(**more: Any) -> float | None:
            return world.job(world.submit("true", memory=FAR, **more)).asked.limit_s

        assert limit() == 60.0
        assert limit(limit_s=90) == 90.0
        for too_much in (3601, 0):  # 0 asks for no limit
            with pytest.raises(InputError, match="more than the 3,600 s"):
                limit(limit_s=too_much)
    with queue(tmp_path, settings=QueueSettings(pace=PACE, most_limit_s=3600.0)) as world:
        assert world.job(world.submit("true", memory=FAR)).asked.limit_s == 3600.0
    with queue(tmp_path, settings=QueueSettings(pace=PACE, default_limit_s=60.0)) as world:
        assert world.job(world.submit("true", memory=FAR, limit_s=0)).asked.limit_s is None


def test_a_user_has_only_so_many_waiting_jobs(tmp_path: Path) -> None:
    with queue(tmp_path, access=Access(0), settings=QueueSettings(pace=PACE, most_waiting=5)) as world:
        first = world.submit("true", caller=ANN, array="0-2", memory=FAR)
        world.submit("true", caller=ANN, memory=FAR, after=[f"any:{first}"])
        with pytest.raises(InputError, match="has 4 waiting jobs, and 2 more would be above the 5"):
            world.submit("true", caller=ANN, array="0-1", memory=FAR)
        world.submit("true", caller=ANN, memory=FAR)
        with pytest.raises(InputError, match="has 5 waiting jobs") as caught:
            world.submit("true", caller=ANN, memory=FAR)
        assert "--max-waiting" in (caught.value.hint or "")
        world.submit("true", array="0-9", memory=FAR)  # root has no such bound
        world.ask("cancel", caller=ANN, ids=[first])
        world.submit("true", caller=ANN, memory=FAR)


def test_all_of_ones_jobs_are_cancelled_and_nobody_elses(tmp_path: Path) -> None:
    with queue(tmp_path, access=Access(0)) as world:
        mine = [world.submit("true", caller=ANN, memory=FAR) for _ in range(3)]
        roots = world.submit("true", memory=FAR)
        counted = world.ask("mine", caller=ANN)
        assert counted["jobs"] == 3
        late = world.submit("true", caller=ANN, memory=FAR)
        found = world.ask("cancel", caller=ANN, owner=None, newest=counted["newest"])
        assert [job["id"] for job in found["jobs"]] == mine
        assert world.job(late).state is world.job(roots).state is JobState.WAITING
        with pytest.raises(DeniedError, match="another user's"):
            world.ask("mine", caller=ANN, owner="root")
        assert world.ask("mine", owner=counted["user"])["jobs"] == 1
        assert [job["id"] for job in world.ask("history", mine=True)["jobs"]] == []
        assert len(world.ask("history")["jobs"]) == 3
        assert len(world.ask("history", caller=ANN)["jobs"]) == 3


@pytest.mark.parametrize(
    ("asked", "daemons"), [(0o000, 0o777), (0o027, 0o000), (0o077, 0o777), (None, 0o000)]
)
def test_a_jobs_files_have_the_submitters_umask(tmp_path: Path, asked: int | None, daemons: int) -> None:
    if daemons == 0o777 and os.geteuid() != 0:
        pytest.skip("nobody but root gets on with that")
    before = os.umask(0o022)
    try:
        with queue(tmp_path) as world:
            os.umask(daemons)
            more: dict[str, Any] = {} if asked is None else {"umask": asked}
            job = world.submit("sh", "-c", "umask > mask; touch file; mkdir folder", **more)
            done = world.until_state(job, JobState.DONE, JobState.FAILED)
            assert done.state is JobState.DONE, done.why
            folder = world.service.folder_of(done, 1)
            modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()}
    finally:
        os.umask(before)
    mask = 0o022 if asked is None else asked
    assert int((tmp_path / "mask").read_text(), 8) == mask
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~mask
    # The job's user passes through these, whatever the daemon's umask; what the watcher writes is its owner's alone.
    assert [stat.S_IMODE(each.stat().st_mode) for each in (folder, folder.parent)] == [0o711] * 2
    assert {name: mode & 0o077 for name, mode in modes.items()} == dict.fromkeys(modes, 0)
