"""The queue at work on a simulated cluster, with real processes: limits, quotas, and clocks that are set."""

from __future__ import annotations

import base64
import os
import signal
import stat
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.jobs.queue.world import GPU, PACE, PATIENCE_S, World, make_cluster, python, queue

from partita.drive.simulated import SimulatedCluster
from partita.errors import DeniedError, InputError
from partita.jobs.queue.access import Access, Caller
from partita.jobs.queue.job_store import JobStore
from partita.jobs.queue.record import AttemptVerdict, JobRecord, JobState, Submitter
from partita.jobs.queue.settings import QueueSettings
from partita.jobs.queue.table import JobTable
from partita.jobs.run.folder import is_watched
from partita.sim import clock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


GREEDY = python("x = bytearray(120 << 20); print('enough')")
"""Takes 120 MiB: a 5 GiB slice gives 80 MiB to a simulated job, a 10 GiB one 160."""


def test_a_submitted_job_runs_in_its_directory_with_its_environment_and_is_done(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        job = world.submit(
            "sh", "-c", 'pwd; echo "$COLOUR $CUDA_VISIBLE_DEVICES"', environment={"COLOUR": "red"}
        )
        done = world.until_state(job, JobState.DONE)
        log = base64.b64decode(world.ask("log", ids=[job])["data"]).decode()
        assert log.splitlines()[0] == str(tmp_path)
        assert log.splitlines()[1].startswith("red MIG-")
        assert done.attempt.verdict is AttemptVerdict.DONE
        assert done.attempt.code == 0


def test_out_of_memory_is_tried_again_on_the_next_larger_slice_under_the_same_id(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        job = world.submit(*GREEDY, name="greedy")
        done = world.until_state(job, JobState.DONE, JobState.FAILED)
        assert [each.verdict for each in done.attempts] == [AttemptVerdict.OUT_OF_MEMORY, AttemptVerdict.DONE]
        assert [each.placement.profile for each in done.attempts] == ["1g.5gb", "1g.10gb"]
        # Its family is known from now on, and begins where it fits.
        again = world.until_state(world.submit(*GREEDY, name="greedy"), JobState.DONE, JobState.FAILED)
        assert [each.placement.profile for each in again.attempts] == ["1g.10gb"]


def test_attempts_are_bounded(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        job = world.submit(*GREEDY, most_attempts=1)
        failed = world.until_state(job, JobState.DONE, JobState.FAILED)
        assert failed.state is JobState.FAILED
        assert failed.why is not None
        assert failed.why.startswith("out of memory")
        assert failed.why.endswith("; that was its only attempt")


def test_a_command_that_does_not_exist_fails_with_a_reason(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        failed = world.until_state(world.submit("no-such-program-here"), JobState.FAILED)
        assert "no-such-program-here" in (failed.why or "")


def test_a_job_larger_than_any_slice_waits_and_says_so(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        world.until(lambda: bool(world.service.step(world.service.now)))
        job = world.submit("true", memory={"source": "declared", "lower": 0, "upper": 2**40})
        world.submit("true")
        world.until(lambda: len(world.service.table.active) == 1)
        assert "larger than any slice of the GPUs here" in world.reasons()[job]


def test_where_no_source_says_the_memory_of_slices_a_job_waits_and_says_that(tmp_path: Path) -> None:
    SimulatedCluster.create(tmp_path / "cluster.sqlite3", [("node-0/gpu-0", "h20-96gb")]).close()
    with queue(tmp_path) as world:
        world.until(lambda: bool(world.service.step(world.service.now)))
        job = world.submit("true", memory={"source": "declared", "lower": 0, "upper": 2**30})
        assert "the memory of the slices of h20-96gb is unknown" in world.reasons()[job]


def test_every_waiting_job_has_a_reason_and_a_predicted_start(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        memory = {"source": "declared", "lower": 0, "upper": 30 * 2**30}
        first = world.submit("sleep", "600", memory=memory, seconds={"": 600})
        world.until_state(first, JobState.RUNNING)
        waiting = [world.submit("sleep", "600", memory=memory, seconds={"": 600}) for _ in range(3)]
        rows = {row["id"]: row for row in world.ask("queue")["jobs"]}
        starts = [rows[job]["start"] - world.service.now for job in waiting]
        assert starts == sorted(starts)
        assert 500 < starts[0] < 700
        for job in waiting:
            assert "needs 7g.40gb (30 GiB declared)" in rows[job]["reason"]
            assert "all busy until ~" in rows[job]["reason"]


def test_an_array_runs_each_index_once(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        out = tmp_path / "out"
        command = ("sh", "-c", f"echo {{index}} $PARTITA_ARRAY_INDEX >> {out}")
        job = world.submit(*command, array="3-6")
        world.finish()
        assert sorted(out.read_text().split("\n"))[1:] == ["3 3", "4 4", "5 5", "6 6"]
        assert world.ask("states", ids=[f"{job}_5"])["jobs"][0]["id"] == f"{job}_5"
        assert len(world.ask("states", ids=[job])["jobs"]) == 4


@pytest.mark.parametrize("when", [JobState.WAITING, JobState.STARTING, JobState.RUNNING, JobState.STOPPING])
def test_a_job_is_cancelled_whatever_it_is_doing(tmp_path: Path, when: JobState) -> None:
    with queue(tmp_path) as world:
        job = world.submit("sleep", "600", grace_s=600 if when is JobState.STOPPING else 0)
        if when is JobState.STOPPING:
            world.until_state(job, JobState.RUNNING)
            world.ask("requeue", ids=[job])
        elif when is not JobState.WAITING:
            world.until_state(job, when)
        assert world.job(job).state is when
        world.ask("cancel", ids=[job])
        world.ask("cancel", ids=[job])
        cancelled = world.until_state(job, JobState.CANCELLED)
        world.ask("cancel", ids=[job])
        assert cancelled.state is JobState.CANCELLED
        assert world.job(world.submit("true")).state is JobState.WAITING


def test_a_requeued_job_runs_again_under_its_id(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        job = world.submit("sleep", "600", grace_s=0)
        world.until_state(job, JobState.RUNNING)
        world.ask("requeue", ids=[job])
        world.until(lambda: len(world.job(job).attempts) == 2 and world.job(job).state is JobState.RUNNING)
        assert world.job(job).attempts[0].verdict is AttemptVerdict.REQUEUED
        world.ask("cancel", ids=[job])
        world.until_state(job, JobState.CANCELLED)
        world.ask("requeue", ids=[job])
        world.until_state(job, JobState.RUNNING)
        assert len(world.job(job).attempts) == 3


def test_a_job_that_ignores_sigterm_is_killed_after_its_grace(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        job = world.submit("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done", grace_s=0.3)
        world.until_state(job, JobState.RUNNING)
        world.until(lambda: bool(world.ask("log", ids=[job])["data"]))
        world.ask("cancel", ids=[job])
        assert world.until_state(job, JobState.CANCELLED).attempt.verdict is AttemptVerdict.CANCELLED


def test_what_ran_on_a_gpu_that_fell_off_is_lost_and_runs_again_elsewhere(tmp_path: Path) -> None:
    make_cluster(tmp_path, gpus=2).close()
    with queue(tmp_path) as world:
        job = world.submit("sleep", "600")
        gpu = world.until_state(job, JobState.RUNNING).attempt.gpu
        cluster = SimulatedCluster(tmp_path / "cluster.sqlite3")
        cluster.lose(gpu)
        cluster.close()
        world.until(lambda: len(world.job(job).attempts) == 2 and world.job(job).state is JobState.RUNNING)
        lost, again = world.job(job).attempts
        assert lost.verdict is AttemptVerdict.LOST
        assert "fell off the bus" in (lost.why or "")
        assert again.gpu != gpu


def test_no_slice_is_lost_when_jobs_of_every_size_come_and_go(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        for gib in (4, 30, 9, 18, 4, 38, 4):
            world.submit("true", memory={"source": "declared", "lower": 0, "upper": gib * 2**30})
        world.finish()
        whole = world.submit("true", memory={"source": "declared", "lower": 0, "upper": 39 * 2**30})
        assert world.until_state(whole, JobState.DONE).attempt.placement.profile == "7g.40gb"


def test_instances_of_others_are_never_touched(tmp_path: Path) -> None:
    from partita.mig.layout import Placement  # noqa: PLC0415 -- used once

    cluster = make_cluster(tmp_path)
    theirs = Placement(0, "4g.20gb")
    cluster.create_foreign(GPU, theirs)
    cluster.close()
    with queue(tmp_path) as world:
        small = world.submit("true")
        assert world.until_state(small, JobState.DONE).attempt.placement.start >= 4
        whole = world.submit("true", memory={"source": "declared", "lower": 0, "upper": 39 * 2**30})
        world.until(lambda: world.service.now > world.job(whole).submitted + 0.5)
        assert world.job(whole).state is JobState.WAITING
        assert "services or others hold all such slices" in world.reasons()[whole]
        world.until_state(world.submit("true"), JobState.DONE)  # what can never start holds up nobody


def test_slices_that_are_free_but_not_together_are_told(tmp_path: Path) -> None:
    from partita.mig.layout import Placement  # noqa: PLC0415 -- used in two tests

    cluster = make_cluster(tmp_path)
    cluster.create_foreign(GPU, Placement(0, "1g.5gb"))
    cluster.close()
    with queue(tmp_path) as world:
        small = [
            world.until_state(world.submit("sleep", "60", memory=declared(4)), JobState.RUNNING)
            for _ in range(4)
        ]
        assert sorted(job.attempt.placement.start >= 4 for job in small) == [False, False, False, True]
        ended = [job.id for job in small if job.attempt.placement.start < 4]
        world.ask("cancel", ids=ended)
        for job in ended:
            world.until_state(job, JobState.CANCELLED)
        # A 3g takes four memory slices of the five that are free, and the last job is on one of them.
        waits = world.submit("true", memory=declared(18))
        # Once the cluster has been seen again.
        world.until(lambda: "slices are free, but not together" in world.reasons().get(waits, ""))


def declared(gib: int) -> dict[str, object]:
    return {"source": "declared", "lower": 0, "upper": gib * 2**30}


def test_a_job_that_nobody_knows_is_told(tmp_path: Path) -> None:
    with queue(tmp_path) as world, pytest.raises(InputError, match="there is no job 77"):
        world.ask("cancel", ids=["77"])


def test_a_job_restarts_before_it_runs_out_of_memory(tmp_path: Path) -> None:
    code = (
        "import json, os, time\n"
        "path = os.environ['PARTITA_JOB_PROGRESS']\n"
        "for step in range(400):\n"
        "    with open(path, 'a') as f:\n"
        "        f.write(json.dumps([step, 400, (20 << 20) + (step << 18), None]) + '\\n')\n"
        "    time.sleep(0.01)\n"
        "time.sleep(600)\n"
    )
    with queue(tmp_path) as world:
        job = world.submit(*python(code), grace_s=1.0)
        world.until(lambda: len(world.job(job).attempts) == 2)
        first, second = world.job(job).attempts
        assert first.verdict is AttemptVerdict.EARLY_RESTART
        assert second.placement.profile == "1g.10gb"


def test_a_job_that_has_just_ended_is_done_and_not_cancelled(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        job = world.submit("true")
        running = world.until_state(job, JobState.RUNNING, JobState.DONE)
        folder = world.service.folder_of(running, 1)
        end = time.monotonic() + PATIENCE_S
        while not (folder / "exit.json").exists() or is_watched(folder):
            assert time.monotonic() < end
            time.sleep(0.01)
        world.ask("cancel", ids=[job])
        assert world.job(job).state is JobState.DONE


def test_jobs_that_need_what_another_start_destroys_start_together(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        whole = {"source": "declared", "lower": 0, "upper": 39 * 2**30}
        world.until_state(world.submit("true", memory=whole), JobState.DONE)
        small = {"source": "declared", "lower": 0, "upper": 4 * 2**30}
        for _ in range(7):
            world.submit("true", memory=small)
        world.finish()
        assert world.told == []
        assert {len(job.attempts) for job in world.service.table.store.over(10)} == {1}


def test_higher_priorities_go_first_and_are_not_overtaken(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        first = world.submit("sleep", "600", memory={"source": "declared", "lower": 0, "upper": 4 * 2**30})
        world.until_state(first, JobState.RUNNING)
        whole = world.submit(
            "true",
            memory={"source": "declared", "lower": 0, "upper": 39 * 2**30},
            priority=10,
            seconds={"": 60},
        )
        small = world.submit("true", memory={"source": "declared", "lower": 0, "upper": 4 * 2**30})
        world.until(lambda: world.service.now > world.job(small).submitted + 1.0)
        assert world.job(whole).state is JobState.WAITING
        assert world.job(small).state is JobState.WAITING, "it would delay the job of higher priority"
        world.ask("cancel", ids=[first])
        world.until_state(whole, JobState.DONE)
        world.until_state(small, JobState.DONE)


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


HOUR = 3600.0
JUMPS = (2 * HOUR, -3 * HOUR, 30 * 24 * HOUR, 0.0)

STUBBORN = python(
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.7), print('saved'), sys.exit(0)))\n"
    "print('begun')\n"
    "while True: time.sleep(0.02)\n"
)


class _Time:
    """The `time` of the clocks' module, whose wall clock can be set."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.monotonic, self.sleep = time.monotonic, time.sleep

    def time(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> _Time:
    found = _Time()
    monkeypatch.setattr(clock, "time", found)
    return found


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def starts(world: World) -> dict[str, float]:
    return {job["id"]: job.get("start") or 0.0 for job in world.ask("queue")["jobs"]}


def test_a_clock_that_is_set_while_the_daemon_works_changes_nothing(tmp_path: Path, wall: _Time) -> None:
    with queue(tmp_path) as world:
        running = world.submit(*STUBBORN, grace_s=PATIENCE_S)
        world.until_state(running, JobState.RUNNING)
        for wall.ahead in JUMPS:
            with within(PATIENCE_S):
                world.until_state(world.submit("true"), JobState.DONE)
        assert len(world.job(running).attempts) == 1
        world.until(lambda: b"begun" in (world.service.folder_of(world.job(running), 1) / "log").read_bytes())
        world.ask("cancel", ids=[running])
        wall.ahead = 5 * HOUR
        job = world.until_state(running, JobState.CANCELLED)
        assert (job.attempt.verdict, job.attempt.code) == (AttemptVerdict.CANCELLED, 0), (
            "it had its whole grace"
        )


@pytest.mark.parametrize("jump", JUMPS)
def test_a_daemon_that_starts_under_another_time_starves_and_kills_nothing(
    tmp_path: Path, wall: _Time, jump: float
) -> None:
    whole = {"source": "declared", "lower": 0, "upper": 39 * 2**30}
    wait = "while [ ! -e go ]; do sleep 0.05; done"
    wall.ahead = HOUR
    with queue(tmp_path, discipline="fair", keep=True) as world:
        running = world.submit("sh", "-c", wait, memory=whole)
        world.until_state(running, JobState.RUNNING)
        waiting = world.submit("true", memory=whole)
    wall.ahead += jump
    with queue(tmp_path, discipline="fair") as world:
        later = world.submit("true", memory=whole)
        world.until(lambda: all(starts(world).get(job) for job in (waiting, later)))
        assert world.job(running).state is JobState.RUNNING
        assert world.service.now - PATIENCE_S <= starts(world)[waiting] <= starts(world)[later], (
            "who came first goes first"
        )
        (tmp_path / "go").touch()
        world.finish()
        for job in (running, waiting, later):
            assert world.job(job).state is JobState.DONE
            assert len(world.job(job).attempts) == 1


def test_who_came_under_a_clock_that_was_ahead_has_come_by_now(tmp_path: Path) -> None:
    far = Submitter(0, 0, "root")
    with closing(JobStore(tmp_path / "queue.sqlite3")) as store:
        store.put([JobRecord(1, far, ("true",), "/", "key", "family", submitted=9e9)])
        assert JobTable(store, lambda _: None, now=5e9).waiting[1].submitted == 5e9


def test_an_attempt_is_tried_again_under_another_time(tmp_path: Path, wall: _Time) -> None:
    code = "x = []\nwhile True: x.append(bytearray(1 << 20))\n"
    with queue(tmp_path, keep=True) as world:
        job = world.submit(*python(code), most_attempts=3)
        world.until(lambda: world.job(job).tries == 2)
    wall.ahead = -24 * HOUR
    with queue(tmp_path) as world:
        found = world.until_state(job, JobState.FAILED)
        assert [each.verdict for each in found.attempts] == [AttemptVerdict.OUT_OF_MEMORY] * 3
