"""The checker of schedules, held to schedules made by hand: right ones, and each with one thing wrong."""

from __future__ import annotations

import pytest

from partita.jobs.check import check_runs
from partita.jobs.job import Job, job_on
from partita.jobs.simulate import Run
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement

A100 = gpu_model("a100-40gb").restricted(["1g.5gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"])


def job(number: int, arrival: float = 0.0) -> Job:
    return job_on(A100, number, {profile.name: 10.0 for profile in A100.profiles}, arrival=arrival)


ONE, TWO = job(1), job(2)


def run(
    each: Job, place: str, decided: float, ended: float, *, began: float | None = None, gpu: int = 0
) -> Run:
    return Run(
        each,
        gpu,
        Placement.parse(place),
        decided,
        decided if began is None else began,
        ended,
        0,
        created=True,
    )


def faults(*runs: Run, jobs: tuple[Job, ...] = (ONE, TWO), count: int = 2) -> list[str]:
    return check_runs(jobs, runs, A100, count)


def test_a_right_schedule_raises_no_alarm() -> None:
    assert faults(run(ONE, "4g.20gb@0", 0, 10), run(TWO, "3g.20gb@4", 0, 10)) == []
    assert faults(run(ONE, "7g.40gb@0", 0, 10), run(TWO, "7g.40gb@0", 10, 20)) == [], "one after the other"
    assert faults(run(ONE, "7g.40gb@0", 0, 10), run(TWO, "7g.40gb@0", 0, 10, gpu=1)) == [], "two GPUs"
    assert faults(run(TWO, "7g.40gb@0", 10, 20), run(ONE, "7g.40gb@0", 0, 10)) == [], "in any order"
    assert faults(run(ONE, "1g.5gb@0", 0, 0), run(TWO, "2g.10gb@2", 3, 3, began=3)) == [], "in no time"
    assert faults() == ["job 1 runs 0 times", "job 2 runs 0 times"]
    assert faults(jobs=()) == []


def test_each_job_runs_once() -> None:
    assert faults(run(ONE, "1g.5gb@0", 0, 10)) == ["job 2 runs 0 times"]
    twice = (run(ONE, "1g.5gb@0", 0, 10), run(ONE, "1g.5gb@1", 0, 10), run(TWO, "1g.5gb@2", 0, 10))
    assert faults(*twice) == ["job 1 runs 2 times"]


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        ("2g.10gb@0", "1g.5gb@1", "job 2 on GPU 0: shares memory slices with job 1"),
        ("1g.5gb@3", "4g.20gb@0", "job 2 on GPU 0: shares memory slices with job 1"),
        ("2g.10gb@4", "1g.5gb@5", "job 2 on GPU 0: shares memory slices with job 1"),
    ],
)
@pytest.mark.parametrize("decided", [0.0, 9.9])
def test_instances_in_use_share_no_memory_slice(first: str, second: str, what: str, decided: float) -> None:
    assert faults(run(ONE, first, 0, 10), run(TWO, second, decided, 20)) == [what]


@pytest.mark.parametrize(("first", "second"), [("2g.10gb@0", "1g.5gb@2"), ("1g.5gb@4", "4g.20gb@0")])
def test_instances_side_by_side_are_right(first: str, second: str) -> None:
    assert faults(run(ONE, first, 0, 10), run(TWO, second, 5, 20)) == []


def test_an_instance_is_taken_when_it_is_decided_and_not_when_the_job_begins() -> None:
    told = faults(run(ONE, "7g.40gb@0", 0, 10), run(TWO, "7g.40gb@0", 9, 20, began=10))
    assert "job 2 on GPU 0: shares memory slices with job 1" in told
    assert "job 2 on GPU 0: 14 compute slices in use of 7" in told


def test_no_more_compute_slices_are_in_use_than_there_are() -> None:
    """Profiles never say so on the GPUs there are, where memory runs out first; on a GPU with fewer it does."""
    jobs = tuple(job(n) for n in range(4))
    small = type(A100)(
        "toy", "toy", "toy", 4, 8, tuple(p for p in A100.profiles if p.name in {"1g.5gb", "2g.10gb"})
    )
    wide = [run(each, f"1g.5gb@{n}", n, 10) for n, each in enumerate(jobs)]
    assert check_runs(jobs, wide, small, 1) == []
    five = (*jobs, job(4))
    wide.append(run(five[4], "1g.5gb@4", 9.5, 20))
    assert check_runs(five, wide, small, 1) == ["job 4 on GPU 0: 5 compute slices in use of 4"]
    wide[-1] = run(five[4], "1g.5gb@4", 10, 20)
    assert check_runs(five, wide, small, 1) == []


@pytest.mark.parametrize(("gpu", "wrong"), [(-1, True), (0, False), (1, False), (2, True)])
def test_a_run_is_on_a_gpu_that_there_is(gpu: int, *, wrong: bool) -> None:
    told = faults(run(ONE, "1g.5gb@0", 0, 10), run(TWO, "1g.5gb@1", 0, 10, gpu=gpu))
    assert told == ([f"job 2: there is no GPU {gpu}"] if wrong else [])


def test_a_run_is_on_a_profile_that_holds_its_job_where_that_may_start() -> None:
    large = job_on(A100, 3, {"7g.40gb": 5.0})
    assert faults(run(large, "1g.5gb@0", 0, 10), jobs=(large,)) == ["job 3: 1g.5gb does not hold it"]
    assert faults(run(ONE, "3g.20gb@2", 0, 10), jobs=(ONE,)) == ["job 1: 3g.20gb@2 is not a placement"]


@pytest.mark.parametrize(
    ("decided", "began", "ended", "wrong"),
    [
        (5, 5, 5, False),
        (5, 6, 7, False),
        (4, 6, 7, True),
        (6, 5, 7, True),
        (5, 7, 6, True),
    ],
)
def test_times_follow_each_other(decided: float, began: float, ended: float, *, wrong: bool) -> None:
    late = job(1, arrival=5.0)
    told = faults(run(late, "1g.5gb@0", decided, ended, began=began), jobs=(late,))
    assert told == (["job 1: it begins before it arrives, or ends before it begins"] if wrong else [])
