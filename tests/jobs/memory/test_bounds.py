from __future__ import annotations

import pytest

from partita.errors import InputError
from partita.jobs.memory.bounds import (
    MIB,
    Bounds,
    holds,
    slices,
    smallest,
    training_bytes,
)
from partita.mig.catalogue import gpu_model

A100 = gpu_model("a100-40gb").restricted(["1g.5gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"])


def test_bounds_that_cross_are_refused():
    with pytest.raises(InputError, match="cannot need between 2 and 1 bytes"):
        Bounds(2.0, 1.0)


def test_bounds_are_tightened_by_others_and_give_way_to_those_that_contradict():
    assert Bounds(1.0, 9.0).tightened(Bounds(3.0)) == Bounds(3.0, 9.0)
    assert Bounds(1.0, 2.0).tightened(Bounds(5.0, 6.0)) == Bounds(5.0, 6.0)


def test_the_slices_to_climb_each_have_more_memory():
    assert [p.name for p in slices(A100)] == ["1g.5gb", "2g.10gb", "3g.20gb", "7g.40gb"]
    memory = [p.memory_mib or 0 for p in slices(gpu_model("h100-80gb"))]
    assert memory == sorted(set(memory))


def test_the_smallest_slice_is_the_first_that_holds_the_need():
    exactly = (A100.profile("2g.10gb").memory_mib or 0) * MIB
    found, more = smallest(A100, exactly), smallest(A100, exactly + 1)
    assert found == A100.profile("2g.10gb")
    assert holds(A100.profile("2g.10gb"), exactly)
    assert more == A100.profile("3g.20gb")
    assert smallest(A100, 1e12) is None


def test_training_keeps_gradients_and_the_state_of_its_optimiser():
    assert training_bytes(10, 40, "none") == 40
    assert training_bytes(10, 40, "sgd") == 80
    assert training_bytes(10, 40, "adam") == 160
    # Mixed precision: 2 + 2 + a copy of 4 + 8 bytes, the 16 of ZeRO's section 3.1.
    assert training_bytes(10, 20, "adam") == 160
    with pytest.raises(InputError, match="no optimiser"):
        training_bytes(10, 20, "adamm")  # type: ignore[arg-type]
