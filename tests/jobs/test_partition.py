from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from partita.errors import InputError
from partita.jobs.partition import Change, Partition, empty, reachable, scattered
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Layout, Placement, fault, legal_layouts, maximal_layouts

PLAIN = ["1g.5gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"]
A100 = gpu_model("a100-40gb").restricted(PLAIN)
A30 = gpu_model("a30-24gb")


def standing(text: str, busy: str = "") -> Partition:
    layout = Layout.parse(A100, text)
    return Partition(layout, frozenset(Placement.parse(word) for word in busy.split()))


def place(partition: Partition, profile: str) -> Partition:
    change = partition.change(profile)
    assert change is not None
    return partition.start(change)


def test_on_an_empty_a100_a_1g_goes_to_6_and_a_3g_to_4():
    for profile, start in (("1g.5gb", 6), ("3g.20gb", 4), ("2g.10gb", 4)):
        change = empty(A100).change(profile)
        assert change == Change(Placement(start, profile))


@pytest.mark.parametrize("profile", PLAIN)
def test_the_placement_keeps_the_most_maximal_layouts_reachable(profile):
    change = empty(A100).change(profile)
    assert change is not None

    def keeps(start: int) -> int:
        return sum(Placement(start, profile) in layout for layout in maximal_layouts(A100))

    assert keeps(change.placement.start) == max(keeps(start) for start in A100.profile(profile).starts)


def test_an_idle_instance_of_the_profile_is_used_before_anything_is_cut():
    change = standing("2g.10gb@0 1g.5gb@6").change("2g.10gb")
    assert change == Change(Placement(0, "2g.10gb"), create=False)


def test_what_stands_idle_does_not_decide_where_a_job_runs():
    h100 = gpu_model("h100-80gb")
    job_a = Placement(6, "1g.10gb")
    for left in range(8):  # idle 1g that earlier jobs have left, in any number
        kept = [Placement(start, "1g.10gb") for start in range(left) if start != 6]
        gpu = empty(h100).at([job_a, *kept], [job_a])
        change = gpu.change("1g.20gb")
        assert change is not None
        assert change.placement == Placement(4, "1g.20gb")
        assert gpu.start(change).change("3g.40gb") is not None


def test_slices_are_scattered_where_there_are_enough_but_at_no_start_together():
    held = standing("1g.5gb@0 1g.5gb@4", busy="1g.5gb@0 1g.5gb@4")
    assert scattered(held, "3g.20gb")
    assert not scattered(held, "2g.10gb")  # it fits
    assert not scattered(held, "7g.40gb")  # there are not so many
    # Idle instances are free slices, as they can be destroyed.
    assert not scattered(standing("1g.5gb@0 1g.5gb@4", busy="1g.5gb@4"), "3g.20gb")


def test_fission_destroys_an_idle_instance_for_smaller_ones():
    partition = standing("7g.40gb@0")
    change = partition.change("1g.5gb")
    assert change is not None
    assert change.destroy == (Placement(0, "7g.40gb"),)
    assert partition.start(change).layout.counts == {"1g.5gb": 1}


def test_fusion_loses_the_least():
    partition = standing("1g.5gb@0 2g.10gb@2 1g.5gb@4 1g.5gb@5 1g.5gb@6", busy="1g.5gb@6 1g.5gb@0")
    change = partition.change("2g.10gb")
    assert change == Change(Placement(2, "2g.10gb"), create=False)
    after = partition.start(change).change("2g.10gb")
    assert after == Change(Placement(4, "2g.10gb"), (Placement(4, "1g.5gb"), Placement(5, "1g.5gb")))


def test_nothing_is_found_where_instances_in_use_are_in_the_way():
    assert standing("1g.5gb@6", busy="1g.5gb@6").change("7g.40gb") is None


def test_a_change_that_touches_an_instance_in_use_is_refused():
    busy = standing("1g.5gb@6 2g.10gb@0", busy="1g.5gb@6")
    for change in (
        Change(Placement(6, "1g.5gb"), create=False),
        Change(Placement(4, "3g.20gb"), (Placement(6, "1g.5gb"),)),
    ):
        with pytest.raises(InputError, match="in use would be touched"):
            busy.start(change)


def test_a_change_made_for_another_state_is_refused():
    for change in (
        Change(Placement(0, "2g.10gb")),
        Change(Placement(4, "2g.10gb"), create=False),
        Change(Placement(4, "2g.10gb"), (Placement(2, "1g.5gb"),)),
    ):
        with pytest.raises(InputError, match="changed since"):
            standing("2g.10gb@0").start(change)


def test_only_an_instance_in_use_can_end():
    with pytest.raises(InputError, match="not in use"):
        standing("2g.10gb@0").end(Placement(0, "2g.10gb"))
    with pytest.raises(InputError, match="does not exist"):
        Partition(Layout(A100), frozenset({Placement(0, "2g.10gb")}))


@given(st.lists(st.sampled_from(PLAIN), max_size=7), st.data())
def test_what_is_destroyed_for_a_placement_is_the_least_that_makes_it_legal(profiles, data):
    partition = empty(A100)
    for profile in profiles:
        if partition.change(profile) is not None:
            partition = place(partition, profile)
    for placement in sorted(partition.busy):
        if data.draw(st.booleans()):
            partition = partition.end(placement)
    for profile in PLAIN:
        for change in partition.changes(profile):
            if not change.create:
                continue

            def legal(lost: tuple[Placement, ...], new: Placement = change.placement) -> bool:
                return fault(A100, (*(p for p in partition.layout if p not in lost), new)) is None

            def loss(lost: tuple[Placement, ...]) -> int:
                return sum(A100.profile(p.profile).compute for p in lost)

            subsets = (s for n in range(len(partition.idle) + 1) for s in combinations(partition.idle, n))
            assert legal(change.destroy)
            assert loss(change.destroy) == min(loss(s) for s in subsets if legal(s))


@settings(max_examples=30, stateful_step_count=30)
class Machine(RuleBasedStateMachine):
    """Jobs start and end on one A100; a model remembers which instances they hold."""

    def __init__(self) -> None:
        super().__init__()
        self.partition = empty(A100)
        self.held: set[Placement] = set()

    @rule(profile=st.sampled_from(PLAIN), which=st.integers(0, 6))
    def start(self, profile: str, which: int) -> None:
        ways = self.partition.changes(profile)
        fits = any(
            fault(A100, (*self.held, Placement(start, profile))) is None
            for start in A100.profile(profile).starts
        )
        assert bool(ways) == fits, "a profile is refused only if no placement is legal beside what is in use"
        if ways:
            change = ways[which % len(ways)]
            self.partition = self.partition.start(change)
            self.held.add(change.placement)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        placement = data.draw(st.sampled_from(sorted(self.held)))
        self.partition = self.partition.end(placement)
        self.held.remove(placement)

    @invariant()
    def what_is_in_use_stands_untouched(self) -> None:
        assert self.partition.busy == self.held
        assert self.held <= set(self.partition.layout)
        assert fault(A100, self.partition.layout.placements) is None


TestMachine = Machine.TestCase


@pytest.mark.parametrize("gpu", [A30, gpu_model("h100-80gb")], ids=lambda gpu: gpu.name)
def test_every_profile_of_other_gpus_can_be_placed_on_an_empty_one(gpu):
    assert all(empty(gpu).change(profile.name) is not None for profile in gpu.profiles)


@pytest.mark.parametrize("model", ["a100-40gb", "a30-24gb"])
def test_the_layouts_within_reach_are_counted_as_they_are_listed(model: str) -> None:
    layouts = legal_layouts(gpu_model(model))
    assert [reachable(layout) for layout in layouts] == [len(layout.reachable()) for layout in layouts]
