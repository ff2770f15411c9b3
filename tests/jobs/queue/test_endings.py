"""What follows from the end of an attempt."""

from __future__ import annotations

from dataclasses import replace

import pytest

from partita.jobs.memory.bounds import MIB, Bounds
from partita.jobs.queue.endings import ended, stopping
from partita.jobs.queue.record import Attempt, AttemptVerdict, JobRecord, JobState, Submitter
from partita.jobs.run.runner import AttemptPhase, AttemptStatus, JobProgress
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement
from partita.oom import classify

A100 = gpu_model("a100-40gb")
UNSURE = "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
SURE = "torch.OutOfMemoryError: CUDA out of memory."


def running(profile: str, *earlier: Attempt) -> JobRecord:
    limit = int((A100.profile(profile).memory_mib or 0) * MIB)
    attempt = Attempt(len(earlier) + 1, "g", Placement(0, profile), limit, 0.0, device="MIG", began=1.0)
    job = JobRecord(1, Submitter(1, 1, "ann"), ("x",), "/", "", "f", 0.0, state=JobState.RUNNING)
    return replace(job, attempts=(*earlier, attempt), tries=len(earlier) + 1)


def end(job: JobRecord, text: str, code: int = 1, peak: int | None = None) -> JobRecord:
    ending = classify(code, text)
    look = AttemptStatus(
        AttemptPhase.ENDED,
        code,
        out_of_memory=ending.verdict == "out-of-memory",
        ending=ending,
        began=1.0,
        ended=2.0,
        progress=JobProgress(peak_bytes=peak),
    )
    return ended(job, look, 3.0, Bounds(), [A100])


def test_what_is_surely_out_of_memory_climbs_and_says_by_which_line():
    after = end(running("1g.5gb"), SURE)
    assert (after.state, after.attempt.verdict) == (JobState.WAITING, AttemptVerdict.OUT_OF_MEMORY)
    assert after.attempt.why == "out of memory on 1g.5gb"
    assert (after.attempt.said, after.attempt.unsure) == (SURE, False)
    assert after.at_least_bytes > running("1g.5gb").attempt.limit_bytes
    again = end(running("1g.10gb", after.attempt), SURE)
    assert again.state is JobState.WAITING


def test_what_is_perhaps_out_of_memory_gets_one_larger_slice_and_no_more():
    after = end(running("1g.5gb"), UNSURE)
    assert after.state is JobState.WAITING
    assert after.attempt.why == "perhaps out of memory on 1g.5gb"
    assert after.attempt.unsure
    again = end(running("1g.10gb", after.attempt), UNSURE)
    assert again.state is JobState.FAILED
    assert again.why is not None
    assert "a larger slice did not help" in again.why
    # One that is sure goes on climbing, whatever was before.
    assert end(running("1g.10gb", after.attempt), SURE).state is JobState.WAITING


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_a_slice_that_was_nearly_full_makes_it_sure(share: float):
    job = running("1g.5gb")
    after = end(job, UNSURE, peak=int(share * job.attempt.limit_bytes))
    assert after.attempt.unsure is (share < 0.95)
    bare = end(job, "Error: out of memory", peak=int(share * job.attempt.limit_bytes))
    assert (bare.state is JobState.WAITING) is (share > 0.95)


def test_another_error_is_a_failure_with_the_line_kept_for_who_asks():
    after = end(
        running("1g.5gb"), "CUDA out of memory at 64, halving\nepoch 1 done\nValueError: labels must be small"
    )
    assert (after.state, after.why) == (JobState.FAILED, "exit code 1")
    assert after.attempt.said == "ValueError: labels must be small"


def test_more_processes_than_the_instance_holds_need_no_words():
    look = AttemptStatus(AttemptPhase.ENDED, 137, out_of_memory=True, began=1.0, ended=2.0)
    after = ended(running("1g.5gb"), look, 3.0, Bounds(), [A100])
    assert after.attempt.verdict is AttemptVerdict.OUT_OF_MEMORY
    assert not after.attempt.unsure


@pytest.mark.parametrize("wish", [AttemptVerdict.YIELDED, AttemptVerdict.REQUEUED])
def test_an_attempt_that_made_room_does_not_count(wish: AttemptVerdict):
    job = running("1g.5gb")
    for _ in range(10):  # more often than there are attempts
        job = stopping(job, wish, "services need it") or job
        job = ended(job, AttemptStatus(AttemptPhase.ENDED, 143, began=1.0, ended=2.0), 3.0, Bounds(), [A100])
        assert (job.state, job.tries, job.attempt.verdict) == (JobState.WAITING, 0, wish)
        attempt = replace(job.attempt, wish=None, verdict=None)
        job = replace(job, state=JobState.RUNNING, attempts=(*job.attempts, attempt), tries=job.tries + 1)
    assert end(job, SURE).state is JobState.WAITING  # the ladder begins at its first rung


@pytest.mark.parametrize(("phase", "verdict"), [(AttemptPhase.LOST, AttemptVerdict.LOST)])
def test_an_attempt_that_was_lost_counts(phase: AttemptPhase, verdict: AttemptVerdict):
    job = running("1g.5gb")
    most = job.asked.most_attempts
    for tries in range(1, most + 1):
        job = ended(job, AttemptStatus(phase, None, began=1.0, ended=2.0), 3.0, Bounds(), [A100])
        assert (job.attempt.verdict, job.tries) == (verdict, tries)
        assert job.state is (JobState.WAITING if tries < most else JobState.FAILED)
        attempt = replace(job.attempt, verdict=None)
        job = replace(job, state=JobState.RUNNING, attempts=(*job.attempts, attempt), tries=tries + 1)
    told = "that was its only attempt" if most == 1 else f"that was the last of {most} attempts"
    assert told in (job.why or "")
