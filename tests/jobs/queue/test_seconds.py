"""How long a job is taken to run on slices it has never run on."""

from __future__ import annotations

import pytest

from partita.jobs.job import shares
from partita.jobs.queue.forecast import DEFAULT_SECONDS, TIE, seconds_on
from partita.mig.catalogue import gpu_model

A100 = gpu_model("a100-40gb").restricted(["1g.5gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"])
SHARE = shares(A100)


def seconds(known: dict[str, float], *profiles: str) -> dict[str, float]:
    """Return the seconds without the small share that breaks ties towards smaller slices."""
    asked = tuple(A100.profile(name) for name in profiles or SHARE)
    found = seconds_on(A100, asked, known)
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
    found = seconds_on(A100, tuple(A100.profile(name) for name in SHARE), {"1g.5gb": 100.0})
    assert list(found.values()) == sorted(found.values())
    assert len(set(found.values())) == len(found)
