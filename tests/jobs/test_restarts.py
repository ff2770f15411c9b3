from __future__ import annotations

from dataclasses import replace

import pytest

from partita.jobs.memory.bounds import MIB, Bounds
from partita.jobs.memory.growth import Growth
from partita.jobs.restarts import (
    AttemptEnd,
    NextSlice,
    SliceAttempt,
    early_restart,
    next_attempt,
)
from partita.mig.catalogue import gpu_model

A100 = gpu_model("a100-40gb").restricted(["1g.5gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"])
GIB = 2**30


def climb(
    *profiles: str, end: AttemptEnd = AttemptEnd.OUT_OF_MEMORY, bounds: Bounds | None = None, most: int = 9
) -> NextSlice:
    return next_attempt(A100, tuple(SliceAttempt(profile, end) for profile in profiles), bounds, most=most)


def test_out_of_memory_climbs_to_the_next_slice_with_more_memory():
    assert climb("1g.5gb").profile == "2g.10gb"
    assert climb("3g.20gb").profile == "7g.40gb"
    assert climb("4g.20gb").profile == "7g.40gb"


def test_slices_that_the_bounds_rule_out_are_left_out():
    assert climb("1g.5gb", bounds=Bounds(lower=15 * GIB)).profile == "3g.20gb"
    after = climb("1g.5gb", bounds=Bounds(lower=50 * GIB))
    assert after.profile is None
    assert "no larger slice has what it needs" in after.reason


def test_the_top_of_the_ladder_and_the_last_attempt_end_it_with_a_reason():
    assert climb("7g.40gb").reason == "out of memory on 7g.40gb, and no larger slice has what it needs"
    assert climb("1g.5gb", "2g.10gb", most=2).reason == "out of memory, and that was the last of 2 attempts"


@pytest.mark.parametrize(
    "end", [AttemptEnd.FAILED, AttemptEnd.XID, AttemptEnd.KILLED, AttemptEnd.TERMINATED, AttemptEnd.DONE]
)
def test_nothing_but_out_of_memory_is_tried_again(end):
    assert climb("1g.5gb", end=end).profile is None


def line(to: float, steps: int = 30, horizon: int = 100) -> Growth:
    return Growth([to / horizon * step for step in range(steps + 1)], horizon)


def test_a_job_that_will_outgrow_its_slice_is_restarted_on_one_that_holds_the_expected_peak():
    assert early_restart(A100, "1g.5gb", line(15 * GIB)) == "3g.20gb"
    assert early_restart(A100, "1g.5gb", line(6 * GIB)) == "2g.10gb"


def test_a_job_that_fits_or_of_which_little_is_known_is_left_alone():
    assert early_restart(A100, "1g.5gb", line(4 * GIB)) is None
    assert early_restart(A100, "1g.5gb", line(15 * GIB, steps=5)) is None


def test_a_job_that_no_slice_would_hold_is_left_to_run():
    assert early_restart(A100, "7g.40gb", line(100 * GIB)) is None
    assert early_restart(A100, "1g.5gb", line(100 * GIB)) is None


def test_a_peak_at_the_slice_itself_is_no_reason():
    exactly = (A100.profile("1g.5gb").memory_mib or 0) * MIB
    assert early_restart(A100, "1g.5gb", Growth([float(exactly)] * 50, 100)) is None


def test_a_job_that_writes_checkpoints_is_restarted_only_shortly_before_it_outgrows_its_slice():
    grown = [line(15 * GIB, steps=steps) for steps in range(12, 34)]
    moves = [early_restart(A100, "1g.5gb", growth, within=5) for growth in grown]
    first = next(growth for growth, moved in zip(grown, moves, strict=True) if moved)
    assert set(moves) == {None, "3g.20gb"}
    assert first.within(4).upper <= 4.75 * GIB < first.within(5).upper
    slackened = Growth([*line(10 * GIB, steps=40).allocated, *[4 * GIB] * 40], 100)
    assert early_restart(A100, "1g.5gb", slackened, within=5) is None
    assert early_restart(A100, "1g.5gb", line(15 * GIB, steps=5), within=5) is None  # too little is known


def test_a_job_is_tried_four_times_unless_told_otherwise():
    def after(*profiles: str) -> NextSlice:
        return next_attempt(
            A100, tuple(SliceAttempt(profile, AttemptEnd.OUT_OF_MEMORY) for profile in profiles)
        )

    assert after("1g.5gb", "1g.5gb", "2g.10gb").profile == "3g.20gb"
    assert after("1g.5gb", "1g.5gb", "2g.10gb", "3g.20gb").reason == (
        "out of memory, and that was the last of 4 attempts"
    )


def test_a_slice_of_unknown_memory_is_the_smallest():
    unknown = tuple(
        replace(profile, memory_mib=None) if profile.name == "1g.5gb" else profile
        for profile in A100.profiles
    )
    gpu = replace(A100, profiles=unknown)
    ran_out = (SliceAttempt("1g.5gb", AttemptEnd.OUT_OF_MEMORY),)
    assert next_attempt(gpu, ran_out).profile == "2g.10gb"
    assert next_attempt(gpu, (SliceAttempt("2g.10gb", AttemptEnd.OUT_OF_MEMORY),)).profile == "3g.20gb"
