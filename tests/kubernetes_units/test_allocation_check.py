"""Allocations are held against the plan by what stands in claims alone."""

from __future__ import annotations

import itertools

import pytest

from partita.kubernetes.allocation_check import (
    AllocatedDevice,
    WantedDevice,
    allocation_faults,
    together_faults,
)
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement, fault

A100 = gpu_model("a100-40gb")
NVIDIA = "gpu.nvidia.com"
WANTED = WantedDevice("ns/a", NVIDIA, "n0", 1, "2g.10gb", 2)
RIGHT = "gpu-1-mig-2g10gb-14-2"


def held(name: str, claim: str = "ns/a", pool: str = "n0", driver: str = NVIDIA) -> AllocatedDevice:
    return AllocatedDevice(claim, driver, pool, name)


def test_an_allocation_that_is_what_was_planned_has_no_fault():
    beside = [held("gpu-1-mig-1g5gb-19-0", "x/b"), held("gpu-1-mig-3g20gb-9-4", "x/c")]
    assert allocation_faults(WANTED, [held(RIGHT)], [held(RIGHT), *beside], A100) == []


@pytest.mark.parametrize(
    "found",
    [
        [],
        [held(RIGHT), held("gpu-1-mig-1g5gb-19-0")],
        [held("gpu-1-mig-2g10gb-14-0")],
        [held("gpu-0-mig-2g10gb-14-2")],
        [held("gpu-1-mig-1g10gb-15-2")],
        [held("gpu-1")],
        [held("gpu-1-mig-2g10gb-14-2x")],
        [held(RIGHT, pool="n1")],
        [held(RIGHT, driver="dra.example.com")],
    ],
)
def test_any_other_allocation_is_a_fault(found):
    assert allocation_faults(WANTED, found, found, A100)


@pytest.mark.parametrize(
    "other",
    [
        RIGHT,
        "gpu-1",
        "gpu-1-mig-7g40gb-0-0",
        "gpu-1-mig-1g5gb-19-3",
        "gpu-1-mig-4g20gb-5-0",
        "gpu-1-mig-9g99gb-77-0",
    ],
)
def test_what_another_claim_holds_must_not_overlap_it(other):
    assert allocation_faults(WANTED, [held(RIGHT)], [held(RIGHT), held(other, "x/b")], A100)


@pytest.mark.parametrize("model", ["a100-40gb", "h100-80gb", "a30-24gb"])
def test_pairs_are_judged_as_by_the_layouts_rules(model):
    gpu = gpu_model(model)
    all_places = [
        (profile, Placement(start, profile.name)) for profile in gpu.profiles for start in profile.starts
    ]
    names = {
        place: f"gpu-0-mig-{profile.name.replace('.', '').replace('+', '-')}-{profile.gi_profile_id}-{place.start}"
        for profile, place in all_places
    }
    for (_, one), (_, other) in itertools.combinations(all_places, 2):
        devices = [held(names[one], "x/a"), held(names[other], "x/b")]
        assert bool(together_faults(devices, gpu)) == (fault(gpu, (one, other)) is not None), (one, other)


def test_more_instances_than_a_gpu_holds_are_a_fault():
    devices = [held(f"gpu-0-mig-1g5gb-19-{i}", f"x/{i}") for i in range(7)]
    assert together_faults(devices, A100) == []
    assert together_faults([*devices, held("gpu-0-mig-1g5gb-me-20-6", "x/8")], A100)
