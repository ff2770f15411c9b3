from __future__ import annotations

import csv
from collections import Counter
from itertools import combinations
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from partita.errors import InputError
from partita.mig.catalogue import gpu_model, gpu_names
from partita.mig.gpu import Combination, GpuModel, Profile
from partita.mig.layout import (
    Layout,
    Placement,
    fault,
    layout_of,
    layouts_of,
    legal_layouts,
    maximal_layouts,
    maximal_multisets,
)

if TYPE_CHECKING:
    from pathlib import Path

PAPER = ("1g.5gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb")
A100 = gpu_model("a100-40gb").restricted(PAPER)
OLD_DRIVER = A100.forbidding(["4g+3g"])
A30 = gpu_model("a30-24gb").restricted(("1g.6gb", "2g.12gb", "4g.24gb"))
H100 = gpu_model("h100-80gb").restricted(p.name for p in gpu_model("h100-80gb").profiles if not p.media)
GPUS = (A100, OLD_DRIVER, A30, H100, gpu_model("a30-24gb"), gpu_model("rtx-pro-6000-96gb"))


def legal_by_definition(gpu: GpuModel, placements: tuple[Placement, ...]) -> bool:
    """Say whether placements are legal together, restated from the MIG User Guide slice by slice."""
    profiles = [gpu.profile(p.profile) for p in placements]
    slices = [
        s
        for p, profile in zip(placements, profiles, strict=True)
        for s in range(p.start, p.start + profile.memory)
    ]
    names = Counter(p.profile for p in placements)
    sizes = Counter(p.profile.split(".")[0] for p in placements)
    return (
        all(p.start in profile.starts for p, profile in zip(placements, profiles, strict=True))
        and len(slices) == len(set(slices))
        and sum(profile.compute for profile in profiles) <= gpu.compute_slices
        and sum(profile.media for profile in profiles) <= 1
        and all(names[profile.name] <= profile.max_instances for profile in profiles)
        and not any(
            all((names if "." in part else sizes)[part] >= n for part, n in Counter(each.parts).items())
            for each in gpu.forbidden
        )
    )


def all_placements(gpu: GpuModel) -> list[Placement]:
    return [Placement(start, profile.name) for profile in gpu.profiles for start in profile.starts]


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    gpu = draw(st.sampled_from(GPUS))
    return draw(st.sampled_from(legal_layouts(gpu)))


@pytest.mark.parametrize(
    ("gpu", "legal", "maximal", "multisets"),
    [(A100, 298, 19, 14), (OLD_DRIVER, 297, 18, 13), (A30, 26, 5, 4), (H100, 723, 78, 38)],
    ids=["a100", "a100 without 4g+3g", "a30", "h100"],
)
def test_layouts_are_as_many_as_published(gpu: GpuModel, legal: int, maximal: int, multisets: int) -> None:
    assert len(legal_layouts(gpu)) == legal
    assert len(maximal_layouts(gpu)) == maximal
    assert len(maximal_multisets(gpu)) == multisets


@pytest.mark.parametrize("gpu", [A30, OLD_DRIVER], ids=["a30", "a100 without 4g+3g"])
def test_legal_layouts_are_those_of_the_definition(gpu: GpuModel) -> None:
    options = all_placements(gpu)
    brute = {
        tuple(sorted(chosen))
        for size in range(gpu.compute_slices + 1)
        for chosen in combinations(options, size)
        if legal_by_definition(gpu, chosen)
    }
    found = [layout.placements for layout in legal_layouts(gpu)]
    assert len(found) == len(set(found))
    assert set(found) == brute


def test_placements_are_those_that_nvidia_smi_lists(shared_data: Path) -> None:
    with (shared_data / "mig" / "placements_lgipp.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for name in gpu_names():
        gpu = gpu_model(name)
        if (gpu.compute_slices, gpu.memory_slices) != (7, 8):
            continue
        for row in rows:
            profile = next((p for p in gpu.profiles if p.gi_profile_id == int(row["profile_id"])), None)
            assert profile is not None, f"{name} lacks {row['profile']}"
            assert list(profile.starts) == [int(start) for start in row["starts"].split(";")]
            assert profile.memory == int(row["size"])


@given(layouts())
def test_free_placements_are_just_those_that_are_legal_to_add(layout: Layout) -> None:
    expected = [
        p for p in all_placements(layout.gpu) if legal_by_definition(layout.gpu, (*layout.placements, p))
    ]
    assert list(layout.free()) == sorted(expected)
    assert layout.maximal == (not expected)
    for profile in layout.gpu.profiles:
        assert list(layout.free(profile.name)) == sorted(p for p in expected if p.profile == profile.name)


@given(layouts(), st.data())
def test_removing_what_was_placed_gives_the_layout_back(layout: Layout, data: st.DataObject) -> None:
    assume(not layout.maximal)
    placement = data.draw(st.sampled_from(layout.free()))
    more = layout.place(placement)
    assert placement in more
    assert placement not in layout
    assert more.remove(placement) == layout
    assert layout <= more
    assert not more <= layout
    assert len(more) == len(layout) + 1


@given(layouts(), st.data())
def test_placing_what_is_not_free_is_refused(layout: Layout, data: st.DataObject) -> None:
    taken = [p for p in all_placements(layout.gpu) if p not in layout.free()]
    assume(taken)
    with pytest.raises(InputError):
        layout.place(data.draw(st.sampled_from(taken)))


@given(layouts())
def test_removing_what_is_not_there_is_refused(layout: Layout) -> None:
    for placement in set(all_placements(layout.gpu)) - set(layout):
        with pytest.raises(InputError, match="no instance"):
            layout.remove(placement)


@given(layouts())
def test_every_subset_of_a_legal_layout_is_legal(layout: Layout) -> None:
    for placement in layout:
        smaller = layout.remove(placement)
        assert smaller <= layout
        assert smaller in legal_layouts(layout.gpu)


@given(layouts())
def test_slices_in_use_are_those_of_the_instances(layout: Layout) -> None:
    profiles = [layout.gpu.profile(p.profile) for p in layout]
    assert layout.mask.bit_count() == sum(p.memory for p in profiles)
    assert layout.compute == sum(p.compute for p in profiles)
    assert layout.counts == dict(Counter(p.name for p in profiles))


@given(layouts())
def test_text_reads_back_as_the_same_layout(layout: Layout) -> None:
    assert Layout.parse(layout.gpu, str(layout)) == layout


@given(layouts())
def test_the_order_in_which_placements_are_given_does_not_matter(layout: Layout) -> None:
    again = Layout(layout.gpu, layout.placements[::-1])
    assert again == layout
    assert hash(again) == hash(layout)


@given(layouts())
def test_reachable_layouts_are_the_maximal_ones_that_hold_this_one(layout: Layout) -> None:
    reachable = layout.reachable()
    assert reachable
    assert set(reachable) == {each for each in maximal_layouts(layout.gpu) if layout <= each}
    assert all(each.maximal for each in reachable)


@given(layouts())
def test_a_multiset_of_a_legal_layout_has_a_layout_that_keeps_the_most_reachable(layout: Layout) -> None:
    counts = tuple(layout.counts.get(profile.name, 0) for profile in layout.gpu.profiles)
    found = layout_of(layout.gpu, counts)
    assert found.counts == layout.counts
    assert len(found.reachable()) >= len(layout.reachable())


def test_a_multiset_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"2 x 4g\.20gb do not fit"):
        layout_of(A100, (0, 0, 0, 2, 0))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("9g.5gb@0", "no profile 9g.5gb"),
        ("2g.10gb@1", "cannot start at 1, only at 0, 2, 4"),
        ("3g.20gb@0 2g.10gb@2", "overlaps"),
        ("4g.20gb@0 3g.20gb@4", "3g\\+4g is forbidden"),
        ("3g.20gb", "not a placement"),
        ("3g.20gb@-4", "not a placement"),
    ],
)
def test_an_illegal_layout_is_refused_with_the_reason(text: str, what: str) -> None:
    with pytest.raises(InputError, match=what) as caught:
        Layout.parse(OLD_DRIVER, text)
    assert caught.value.hint


def test_one_instance_alone_owns_the_media_engines() -> None:
    gpu = gpu_model("a100-40gb")
    with pytest.raises(InputError, match=r"a GPU holds at most 1|media engines"):
        Layout.parse(gpu, "1g.5gb+me@0 1g.5gb+me@1")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("4g+3g", ("3g", "4g")),
        ("1g.5gb+me+2g.10gb", ("1g.5gb+me", "2g.10gb")),
        ("3g+3g", ("3g", "3g")),
    ],
)
def test_a_combination_keeps_the_variant_with_its_profile(text: str, parts: tuple[str, ...]) -> None:
    assert Combination.parse(text).parts == parts


@pytest.mark.parametrize("text", ["", "4g", "big+small", "4g+", "+3g", "4gx+3g", "4g.20+3g"])
def test_what_is_no_combination_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not a combination"):
        Combination.parse(text)


def test_forbidding_is_symmetric_and_idempotent() -> None:
    assert A100.forbidding(["3g+4g", "4g+3g"]) == OLD_DRIVER.forbidding(["4g+3g"])


TOY = GpuModel(
    "toy",
    "toy",
    "toy",
    3,
    8,
    (
        Profile("1g.1gb", 1, 1, tuple(range(6)), 4),
        Profile("1g.2gb", 1, 2, (0, 2, 4, 6), 2),
        Profile("0g.1gb+me", 0, 1, (0, 1, 2, 3), 4, media=True),
    ),
)
"""A GPU whose memory would hold more than its compute slices, its counts or its media engines allow."""


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("1g.1gb@0 1g.1gb@1 1g.1gb@2", None),
        ("1g.1gb@0 1g.1gb@1 1g.1gb@2 1g.1gb@3", "4 compute slices asked of 3"),
        ("1g.2gb@0 1g.2gb@2", None),
        ("1g.2gb@0 1g.2gb@2 1g.2gb@4", "3 instances of 1g.2gb, a GPU holds at most 2"),
        ("0g.1gb+me@0 1g.1gb@1", None),
        ("0g.1gb+me@0 0g.1gb+me@1", "only one instance of a GPU can own its media engines"),
        ("1g.2gb@2 1g.1gb@3", "1g.1gb@3 overlaps another instance"),
        ("1g.2gb@2 1g.1gb@4", None),
    ],
)
def test_each_rule_decides_where_no_other_does(text: str, what: str | None) -> None:
    assert fault(TOY, [Placement.parse(word) for word in text.split()]) == what
    if what is None:
        assert tuple(Layout.parse(TOY, text)) in {layout.placements for layout in legal_layouts(TOY)}


def test_all_legal_layouts_of_a_gpu_short_of_compute_are_found() -> None:
    options = all_placements(TOY)
    brute = {
        tuple(sorted(chosen))
        for size in range(5)
        for chosen in combinations(options, size)
        if legal_by_definition(TOY, chosen)
    }
    assert {layout.placements for layout in legal_layouts(TOY)} == brute


def test_no_instance_at_all_is_a_layout_that_reads_back() -> None:
    empty = Layout(A30)
    assert str(empty) == "-"
    assert Layout.parse(A30, " - ") == Layout.parse(A30, "") == empty
    assert (len(empty), empty.mask, empty.compute, empty.counts, empty.maximal) == (0, 0, 0, {}, False)
    with pytest.raises(InputError, match="'-' is not a placement"):
        Layout.parse(A30, "- -")


@pytest.mark.parametrize("text", ["3g.20gb@", "@4", "@", "", "3g.20gb@4@4", "3g.20gb@x"])
def test_what_lacks_a_profile_or_a_start_is_no_placement(text: str) -> None:
    with pytest.raises(InputError, match="is not a placement"):
        Placement.parse(text)


def test_a_placement_is_read_with_spaces_around_it() -> None:
    assert Placement.parse(" 3g.20gb@4 ") == Placement(4, "3g.20gb")


def test_layouts_of_counts_begin_with_the_one_that_leaves_most_open() -> None:
    for counts, first in (((1, 0, 0), "1g.6gb@"), ((0, 1, 0), "2g.12gb@")):
        found = layouts_of(A30, counts)
        assert [len(each.reachable()) for each in found] == sorted(
            (len(each.reachable()) for each in found), reverse=True
        )
        assert all(str(each).startswith(first) for each in found)
        assert layout_of(A30, counts) == found[0]
    most, *_, least = [len(each.reachable()) for each in layouts_of(A100, (1, 0, 0, 0, 0))]
    assert most > least
    assert layouts_of(A30, (0, 0, 2)) == ()
    assert layouts_of(A30, (1, 1, 1)) == ()
