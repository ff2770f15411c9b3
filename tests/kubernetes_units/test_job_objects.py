"""What Jobs ask for, and what is remembered of how their pods ended."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest

from partita.errors import InputError
from partita.jobs.memory.bounds import Bounds
from partita.jobs.queue.record import AttemptVerdict, JobState
from partita.jobs.run.runner import AttemptPhase, AttemptStatus
from partita.kubernetes.job_objects import (
    JobMemo,
    JobObject,
    PodEnding,
    after_end,
    dump_memo,
    job_faults,
    job_record,
    on_slice,
    read_memo,
    stated_memory,
)
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement
from partita.oom import classify

A100 = gpu_model("a100-40gb")
OOM = "step 1\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"
BODY: dict[str, Any] = {
    "metadata": {
        "name": "train",
        "namespace": "team",
        "uid": "j",
        "creationTimestamp": "2026-11-27T10:00:00Z",
        "labels": {"partita.dev/queue": "serving"},
    },
    "spec": {
        "template": {
            "spec": {
                "containers": [
                    {"name": "main", "image": "train:1", "resources": {"claims": [{"name": "partita"}]}}
                ],
                "resourceClaims": [{"name": "partita", "resourceClaimTemplateName": "partita"}],
            }
        }
    },
}


def job(memory: str = "", **annotations: str) -> JobObject:
    body = copy.deepcopy(BODY)
    if memory:
        body["metadata"]["labels"]["partita.dev/memory"] = memory
    body["metadata"]["annotations"] = {f"partita.dev/{key}": text for key, text in annotations.items()}
    return msgspec.convert(body, JobObject)


def end(memo: JobMemo, profile: str, pod: str, code: int = 1, log: str = OOM) -> JobMemo:
    """Return what is remembered after a pod on a slice has ended."""
    record = job_record(job(), memo, 1)
    running = on_slice(record, ("node-0/gpu-0", Placement(0, profile)), A100, 0.0, JobState.RUNNING)
    status = AttemptStatus(AttemptPhase.ENDED, code=code, ending=classify(code, log), began=0.0, ended=1.0)
    return after_end(memo, running, PodEnding(pod, status, 1.0), Bounds(), [A100])[0]


@pytest.mark.parametrize(
    ("text", "lower", "upper"),
    [
        ("12Gi", 0.0, 12 * 2**30),
        ("900M", 0.0, 9e8),
        ("2GiB", 0.0, 2**31),
        ("10Gi-14Gi", 10 * 2**30, 14 * 2**30),
    ],
)
def test_memory_is_read_as_kubernetes_writes_it(text: str, lower: float, upper: float) -> None:
    found = stated_memory(job(text))
    assert (found.lower, found.upper) == (lower, upper)


def test_nothing_is_known_of_a_job_that_says_nothing() -> None:
    assert stated_memory(job()).source == "none"


@pytest.mark.parametrize("text", ["much", "0Gi", "14Gi-10Gi", "-3Gi"])
def test_memory_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"memory|first is more"):
        stated_memory(job(text))
    assert [fault.where for fault in job_faults(job(text))] == ["partita.dev/memory"]


def test_a_job_whose_pods_do_not_hold_the_claim_is_refused() -> None:
    assert list(job_faults(job())) == []
    body = copy.deepcopy(BODY)
    del body["spec"]["template"]["spec"]["resourceClaims"]
    body["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
    faults = [str(each) for each in job_faults(msgspec.convert(body, JobObject))]
    assert len(faults) == 3
    assert "do not have Partita's claim" in faults[0]
    assert "none of its containers uses the slice" in faults[1]
    assert "requests nvidia.com/gpu itself" in faults[2]


def test_out_of_memory_climbs_from_slice_to_slice() -> None:
    memo = end(JobMemo(), "1g.5gb", "a")
    assert (memo.tries, memo.over) == (1, "")
    assert memo.at_least_bytes > 5 * 2**30 * 0.9
    memo = end(memo, "1g.10gb", "b")
    memo = end(memo, "3g.20gb", "c")
    assert not memo.over
    memo = end(memo, "7g.40gb", "d")
    assert "last of 4 attempts" in memo.over


def test_pods_that_run_out_of_memory_side_by_side_are_one_step() -> None:
    memo = end(JobMemo(), "1g.5gb", "a")
    assert end(memo, "1g.5gb", "b") == memo
    assert end(memo, "1g.10gb", "a") == memo  # it is known already


@pytest.mark.parametrize(("code", "log"), [(1, "ValueError: no such file\n"), (137, ""), (0, "")])
def test_other_ends_are_the_jobs_own_affair(code: int, log: str) -> None:
    assert end(JobMemo(), "1g.5gb", "a", code, log) == JobMemo()


def test_a_pod_that_is_lost_counts_as_an_attempt() -> None:
    memo = JobMemo()
    for tries in range(1, 5):
        record = job_record(job(), memo, 1)
        starting = on_slice(record, ("node-0/gpu-0", Placement(0, "1g.5gb")), A100, 0.0, JobState.STARTING)
        status = AttemptStatus(AttemptPhase.LOST, why="it did not start")
        memo, attempt = after_end(memo, starting, PodEnding(f"{tries}", status, 5.0), Bounds(), [A100])
        assert (memo.tries, attempt.verdict) == (tries, AttemptVerdict.LOST)
        assert memo.why.startswith("it did not start")
    assert memo.over == "it did not start; that was the last of 4 attempts"


def test_what_is_remembered_is_read_again() -> None:
    memo = end(JobMemo(resumed=True), "1g.5gb", "a")
    assert read_memo(job(attempts=dump_memo(memo))) == memo
    assert read_memo(job(attempts="not JSON")) == JobMemo()
    assert read_memo(job()) == JobMemo()
