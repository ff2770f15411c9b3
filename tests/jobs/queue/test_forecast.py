"""What is known of jobs from their family, and seconds on slices that were never measured."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.jobs.queue.world import ME, queue

from partita.errors import InputError
from partita.jobs.job import shares
from partita.jobs.memory.bounds import MIB
from partita.jobs.memory.history import Ended, History
from partita.jobs.queue.forecast import (
    DEFAULT_SECONDS,
    TIE,
    Families,
    family_of,
    fitting,
    forecast,
    largest_slice,
    seconds_on,
)
from partita.jobs.queue.overview import why_on_the_largest
from partita.jobs.queue.record import (
    Attempt,
    AttemptVerdict,
    JobOptions,
    JobRecord,
    JobState,
    StatedMemory,
    Submitter,
)
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement

if TYPE_CHECKING:
    from pathlib import Path


A100 = gpu_model("a100-80gb").restricted(["1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"])
H200 = gpu_model("h200-141gb")
GIB = 2**30


def job(declared: float | None = None, model: tuple[float, float] | None = None) -> JobRecord:
    memory = StatedMemory()
    if declared is not None:
        memory = StatedMemory("declared", 0.0, declared * GIB)
    if model is not None:
        memory = StatedMemory("model", model[0] * GIB, model[1] * GIB)
    family = family_of(1, "exp", ())
    return JobRecord(
        7, Submitter(1, 1, "ann"), ("x",), "/", "", family, 0.0, JobOptions(memory=memory), name="exp"
    )


def limit(profile: str) -> int:
    return int((A100.profile(profile).memory_mib or 0) * MIB)


def attempt(profile: str, verdict: AttemptVerdict, peak: float | None = None, at: float = 10.0) -> Attempt:
    peak_bytes = None if peak is None else int(peak * GIB)
    return Attempt(
        1, "g", Placement(0, profile), limit(profile), 0.0, ended=at, verdict=verdict, peak_bytes=peak_bytes
    )


def begins(families: Families, wanted: JobRecord, *models: object) -> list[str]:
    """Return the first profile on each model of GPU that holds the job."""
    here = models or (A100,)
    largest = largest_slice(here)  # type: ignore[arg-type]
    expected = forecast(wanted, families)
    return [
        found[0].name
        for model in here
        if (found := fitting(model, expected, wanted.at_least_bytes, largest))  # type: ignore[arg-type]
    ]


def ran_out_everywhere(wanted: JobRecord) -> Families:
    families = Families()
    for profile in ("1g.10gb", "1g.20gb", "3g.40gb", "7g.80gb"):
        families.add(wanted, attempt(profile, AttemptVerdict.OUT_OF_MEMORY))
    return families


def test_a_family_that_why_on_the_largest_slice_begins_there_again_or_where_its_user_says():
    families = ran_out_everywhere(job())
    assert begins(families, job()) == ["7g.80gb"]
    assert begins(families, job(declared=8)) == ["1g.10gb"]
    assert begins(families, job(declared=30)) == ["3g.40gb"]
    assert begins(families, job(model=(4, 30))) == ["7g.80gb"]  # the model was wrong
    assert begins(families, job(), A100, H200) == ["7g.141gb"]  # there is a larger one


def test_what_ran_with_another_forecast_says_nothing_of_this_one():
    families = Families()
    families.add(job(model=(25, 35)), attempt("3g.40gb", AttemptVerdict.DONE))
    assert begins(families, job(model=(45, 50))) == ["7g.80gb"]
    families.add(job(model=(45, 50)), attempt("7g.80gb", AttemptVerdict.OUT_OF_MEMORY))
    assert begins(families, job(model=(25, 35))) == ["3g.40gb"]


def test_evidence_never_asks_for_more_than_there_is_but_a_word_does():
    assert begins(Families(), job(declared=200)) == []
    assert begins(Families(), job(model=(90, 200))) == []
    assert begins(Families(), job(model=(60, 200))) == ["7g.80gb"]
    families = ran_out_everywhere(job(declared=8))
    assert begins(families, job(declared=8)) == ["7g.80gb"]
    assert begins(families, job(declared=200)) == []


def test_why_it_begins_on_the_largest_is_told_with_the_way_out():
    families = ran_out_everywhere(job())
    told = why_on_the_largest(job(), forecast(job(), families), largest_slice([A100]))
    assert told is not None
    assert "`partita forget exp`" in told
    assert "--memory" in told
    nothing = why_on_the_largest(job(), forecast(job(), Families()), largest_slice([A100]))
    assert nothing is None


def test_where_only_a_forecast_goes_beyond_the_largest_slice_no_job_is_said_to_have_run_out():
    wanted, families, largest = job(model=(37, 100)), Families(), largest_slice([A100])
    told = why_on_the_largest(wanted, forecast(wanted, families), largest)
    assert (
        told
        == "by model it needs 37 to 100 GiB, and the largest slice has 79; state it more exactly with --memory"
    )
    families.add(wanted, attempt("3g.40gb", AttemptVerdict.OUT_OF_MEMORY))
    told = why_on_the_largest(wanted, forecast(wanted, families), largest)
    assert told is not None
    assert told.startswith("by model and history it needs 39.2 to 100 GiB")
    families.add(wanted, attempt("7g.80gb", AttemptVerdict.OUT_OF_MEMORY))
    told = why_on_the_largest(wanted, forecast(wanted, families), largest)
    assert told is not None
    assert "ran out of memory on the largest slice" in told


def test_a_declaration_is_raised_only_by_jobs_that_declared_the_same():
    families = Families()
    families.add(job(declared=8), attempt("1g.10gb", AttemptVerdict.OUT_OF_MEMORY))
    assert begins(families, job(declared=8)) == ["1g.20gb"]
    assert begins(families, job(declared=9)) == ["1g.10gb"]
    assert begins(families, job(declared=30)) == ["3g.40gb"]


def test_one_declaration_that_was_too_large_does_not_bind_its_successors():
    families = Families()
    families.add(job(declared=70), attempt("7g.80gb", AttemptVerdict.DONE))
    assert begins(families, job()) == ["1g.10gb"]
    families.add(job(declared=70), attempt("7g.80gb", AttemptVerdict.DONE, peak=15.0))
    assert begins(families, job()) == ["1g.20gb"]
    families.add(job(declared=70), attempt("7g.80gb", AttemptVerdict.DONE, peak=0.5))
    assert begins(families, job()) == ["1g.10gb"]
    assert begins(families, job(declared=12)) == ["1g.20gb"]


def test_what_the_ladder_found_is_begun_on():
    families = Families()
    families.add(job(), attempt("1g.10gb", AttemptVerdict.OUT_OF_MEMORY))
    families.add(job(), attempt("1g.20gb", AttemptVerdict.DONE, peak=3.0))
    assert begins(families, job()) == ["1g.20gb"]
    families.add(job(), attempt("1g.20gb", AttemptVerdict.OUT_OF_MEMORY))  # the newest is believed
    assert begins(families, job()) == ["3g.40gb"]


def test_what_may_not_have_been_memory_teaches_nothing():
    families = Families()
    families.add(job(), replace(attempt("3g.40gb", AttemptVerdict.OUT_OF_MEMORY), unsure=True))
    families.add(job(), attempt("3g.40gb", AttemptVerdict.FAILED))
    assert begins(families, job()) == ["1g.10gb"]
    assert families.known == ()


def test_the_history_alone_says_what_the_next_one_needs():
    assert History().need() == 0
    assert History((Ended(10, True),)).need() == 11
    assert History((Ended(10, True), Ended(80, False, declared=70))).need() == 11
    assert History((Ended(10, True), Ended(80, False, declared=70, peak=30))).need() == 30
    assert History((Ended(10, True), Ended(80, False, declared=70), Ended(20, False))).need() == 20


def test_what_ended_before_it_was_forgotten_does_not_count():
    families = Families({job().family: 10.0})
    families.add(job(), attempt("1g.10gb", AttemptVerdict.OUT_OF_MEMORY, at=10.0))
    assert begins(families, job()) == ["1g.10gb"]
    families.add(job(), attempt("1g.10gb", AttemptVerdict.OUT_OF_MEMORY, at=11.0))
    assert begins(families, job()) == ["1g.20gb"]
    version = families.version(job().family)
    families.forget(job().family, 12.0)
    assert begins(families, job()) == ["1g.10gb"]
    assert families.version(job().family) > version


def test_forgetting_outlives_the_daemon_and_is_each_users_own_affair(tmp_path: Path) -> None:
    told = {"source": "declared", "lower": 0, "upper": 4 * GIB}
    with queue(tmp_path) as world:
        world.until_state(world.submit("true", name="exp"), JobState.DONE)
        # A command need not be text that SQLite can hold.
        first = world.until_state(world.submit("true", "\udcff", memory=told), JobState.DONE)
        listed = world.ask("families")["families"]
        assert [(each["name"], each["command"]) for each in listed] == [
            ("exp", None),
            ("", "true \udcff"),
        ]
        assert listed[0] | {"memory": None} == {
            "name": "exp",
            "command": None,
            "user": first.submitter.name,
            "done": 1,
            "out_of_memory": 0,
            "memory": None,
            "begins_on": "1g.5gb",
        }
        forgotten = world.ask("forget", ids=["exp", first.id])["families"]
        assert len(forgotten) == 2
        with pytest.raises(InputError, match="nothing is remembered of 'exp'"):
            world.ask("forget", ids=["exp"])
    with queue(tmp_path) as world:
        assert world.ask("families")["families"] == []
        world.until_state(world.submit("true", name="exp"), JobState.DONE)
    with queue(tmp_path) as world:
        assert [each["name"] for each in world.ask("families")["families"]] == ["exp"]
        assert world.ask("forget", every=True, caller=ME)["families"]
        assert world.ask("families")["families"] == []


A100_OF_40GB = gpu_model("a100-40gb").restricted(["1g.5gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"])
SHARE = shares(A100_OF_40GB)


def seconds(known: dict[str, float], *profiles: str) -> dict[str, float]:
    """Return the seconds without the small share that breaks ties towards smaller slices."""
    asked = tuple(A100_OF_40GB.profile(name) for name in profiles or SHARE)
    found = seconds_on(A100_OF_40GB, asked, known)
    return {name: t / (1 + TIE * SHARE[name]) for name, t in found.items()}


def test_a_smaller_slice_is_slower_by_the_ratio_of_the_slices_and_a_larger_one_no_faster() -> None:
    assert SHARE["2g.10gb"] / SHARE["1g.5gb"] == pytest.approx(2.0)
    assert seconds({"2g.10gb": 100.0}) == pytest.approx(
        {"1g.5gb": 200.0, "2g.10gb": 100.0, "3g.20gb": 100.0, "4g.20gb": 100.0, "7g.40gb": 100.0}
    )


def test_what_was_measured_stands_and_the_fastest_of_the_smaller_holds_for_the_rest() -> None:
    assert seconds({"1g.5gb": 90.0, "3g.20gb": 70.0, "4g.20gb": 80.0}) == pytest.approx(
        {"1g.5gb": 90.0, "2g.10gb": 90.0, "3g.20gb": 70.0, "4g.20gb": 80.0, "7g.40gb": 70.0}
    )


def test_seconds_without_a_profile_are_those_of_the_smallest_slice_that_holds_it() -> None:
    assert seconds({"": 60.0}, "3g.20gb", "7g.40gb") == pytest.approx({"3g.20gb": 60.0, "7g.40gb": 60.0})
    assert seconds({}, "2g.10gb") == pytest.approx({"2g.10gb": DEFAULT_SECONDS})
    assert seconds({"9g": 5.0, "": 60.0}, "2g.10gb") == pytest.approx({"2g.10gb": 60.0})


def test_a_tie_goes_to_the_smaller_slice() -> None:
    found = seconds_on(A100_OF_40GB, tuple(A100_OF_40GB.profile(name) for name in SHARE), {"1g.5gb": 100.0})
    assert list(found.values()) == sorted(found.values())
    assert len(set(found.values())) == len(found)
