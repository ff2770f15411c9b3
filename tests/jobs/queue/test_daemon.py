"""The queue at work on a simulated cluster, with real processes."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING

import pytest
from tests.jobs.queue.world import GPU, make_cluster, python, queue

from partita.drive.simulated import SimulatedCluster
from partita.errors import InputError
from partita.jobs.queue.record import AttemptVerdict, JobState

if TYPE_CHECKING:
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
        assert "last of 1 attempts" in (failed.why or "")


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
        assert "the memory of slices of h20-96gb is not known" in world.reasons()[job]


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
        exit_file = world.service.folder_of(running, 1) / "exit.json"
        end = time.monotonic() + 20.0
        while not exit_file.exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(0.2)  # its watcher lets go
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
