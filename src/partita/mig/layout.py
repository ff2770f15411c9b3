"""Layouts: the instances of one GPU as an immutable value."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from partita.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from partita.mig.gpu import GpuModel, Profile


@dataclass(frozen=True, slots=True, order=True)
class Placement:
    """A profile at a start, in memory slices. Sorts by start."""

    start: int
    profile: str

    def __str__(self) -> str:
        return f"{self.profile}@{self.start}"

    @classmethod
    def parse(cls, text: str) -> Placement:
        """Read `3g.20gb@4`.

        Raises:
            InputError: no profile, or no start.
        """
        profile, at, start = text.strip().partition("@")
        if not (profile and at and start.isdecimal()):
            raise InputError(
                f"{text!r} is not a placement", hint="write a profile and its start, as in '3g.20gb@4'"
            )
        return cls(int(start), profile)


@dataclass(frozen=True, slots=True)
class Layout:
    """Instances on one GPU. Always legal: every way to make one checks it.

    Legal means: each start is one that its profile has, memory slices are disjoint, compute slices add up to
    at most the GPU's, no profile exceeds its count, one instance at most owns the media engines, and no
    forbidden combination is complete (NVIDIA MIG User Guide, "Supported MIG Profiles").
    """

    gpu: GpuModel
    placements: tuple[Placement, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "placements", tuple(sorted(self.placements)))
        why = fault(self.gpu, self.placements)
        if why:
            raise InputError(why, where=self.gpu.name, hint=f"see `partita gpus show {self.gpu.name}`")

    @classmethod
    def parse(cls, gpu: GpuModel, text: str) -> Layout:
        """Read what `str` wrote: `1g.5gb@0 3g.20gb@4`, or `-` for none.

        Raises:
            InputError: a word that is no placement, or a layout that is not legal.
        """
        words = [] if text.strip() == "-" else text.split()
        return cls(gpu, tuple(Placement.parse(word) for word in words))

    def __str__(self) -> str:
        return " ".join(str(placement) for placement in self.placements) or "-"

    def __len__(self) -> int:
        return len(self.placements)

    def __iter__(self) -> Iterator[Placement]:
        return iter(self.placements)

    def __contains__(self, placement: Placement) -> bool:
        return placement in self.placements

    def __le__(self, other: Layout) -> bool:
        """Say whether this layout is a subset of `other`: cutting only adds instances."""
        return set(self.placements) <= set(other.placements)

    @property
    def counts(self) -> dict[str, int]:
        """The canonical multiset: how many instances of each profile, in the catalogue's order."""
        found = Counter(placement.profile for placement in self.placements)
        return {profile.name: found[profile.name] for profile in self.gpu.profiles if found[profile.name]}

    @property
    def mask(self) -> int:
        """The memory slices in use, as a bit set."""
        return sum(self.gpu.profile(p.profile).mask(p.start) for p in self.placements)

    @property
    def compute(self) -> int:
        """The compute slices in use."""
        return sum(self.gpu.profile(p.profile).compute for p in self.placements)

    @property
    def maximal(self) -> bool:
        """Whether no further instance fits."""
        return not self.free()

    def free(self, profile: str | None = None) -> tuple[Placement, ...]:
        """Return the placements that could be added, all of them or those of one profile."""
        wanted = self.gpu.profiles if profile is None else (self.gpu.profile(profile),)
        used = self.mask
        options = (
            Placement(start, each.name)
            for each in wanted
            for start in each.starts
            if not used & each.mask(start)
        )
        return tuple(sorted(o for o in options if fault(self.gpu, (*self.placements, o)) is None))

    def place(self, placement: Placement) -> Layout:
        """Return this layout with one more instance.

        Raises:
            InputError: it does not fit.
        """
        return Layout(self.gpu, (*self.placements, placement))

    def remove(self, placement: Placement) -> Layout:
        """Return this layout without an instance.

        Raises:
            InputError: there is no such instance.
        """
        if placement not in self.placements:
            raise InputError(f"no instance {placement} to remove", where=self.gpu.name)
        return Layout(self.gpu, tuple(p for p in self.placements if p != placement))

    def reachable(self) -> tuple[Layout, ...]:
        """Return the maximal layouts that contain this one: what can still become of the GPU."""
        mine = set(self.placements)
        return tuple(layout for layout in maximal_layouts(self.gpu) if mine <= set(layout.placements))


def fault(gpu: GpuModel, placements: Iterable[Placement]) -> str | None:
    """Return why these placements are not legal together on the GPU, or None if they are."""
    used = 0
    counts: Counter[Profile] = Counter()
    for placement in placements:
        if not gpu.has(placement.profile):
            return f"there is no profile {placement.profile}"
        profile = gpu.profile(placement.profile)
        if placement.start not in profile.starts:
            starts = ", ".join(map(str, profile.starts))
            return f"{profile.name} cannot start at {placement.start}, only at {starts}"
        if used & profile.mask(placement.start):
            return f"{placement} overlaps another instance"
        used |= profile.mask(placement.start)
        counts[profile] += 1
    return _count_fault(gpu, counts)


def _count_fault(gpu: GpuModel, counts: Mapping[Profile, int]) -> str | None:
    compute = sum(profile.compute * n for profile, n in counts.items())
    if compute > gpu.compute_slices:
        return f"{compute} compute slices asked of {gpu.compute_slices}"
    for profile, n in counts.items():
        if n > profile.max_instances:
            return f"{n} instances of {profile.name}, a GPU holds at most {profile.max_instances}"
    if sum(n for profile, n in counts.items() if profile.media) > 1:
        return "only one instance of a GPU can own its media engines"
    for combination in gpu.forbidden:
        if combination.within(counts):
            return f"{combination} is forbidden on this GPU"
    return None


def _placements(gpu: GpuModel) -> list[Placement]:
    return sorted(Placement(start, p.name) for p in gpu.profiles for start in p.starts)


@lru_cache(maxsize=64)
def legal_layouts(gpu: GpuModel) -> tuple[Layout, ...]:
    """Return every legal layout of the GPU, the empty one first."""
    options = _placements(gpu)
    found: list[Layout] = []

    def grow(taken: tuple[Placement, ...], first: int, mask: int) -> None:
        found.append(Layout(gpu, taken))
        for index in range(first, len(options)):
            option = options[index]
            slices = gpu.profile(option.profile).mask(option.start)
            more = (*taken, option)
            if not mask & slices and fault(gpu, more) is None:
                grow(more, index + 1, mask | slices)

    grow((), 0, 0)
    return tuple(found)


@lru_cache(maxsize=64)
def maximal_layouts(gpu: GpuModel) -> tuple[Layout, ...]:
    """Return the legal layouts to which no instance can be added."""
    return tuple(layout for layout in legal_layouts(gpu) if layout.maximal)


@lru_cache(maxsize=64)
def maximal_multisets(gpu: GpuModel) -> tuple[tuple[int, ...], ...]:
    """Return the distinct multisets of the maximal layouts, as counts in the order of `gpu.profiles`."""
    names = [profile.name for profile in gpu.profiles]
    counts = {tuple(layout.counts.get(name, 0) for name in names) for layout in maximal_layouts(gpu)}
    return tuple(sorted(counts))


@lru_cache(maxsize=64)
def _by_counts(gpu: GpuModel) -> dict[tuple[int, ...], tuple[Layout, ...]]:
    """Return the legal layouts by their counts per profile, those that keep the most reachable first."""
    found: dict[tuple[int, ...], list[Layout]] = {}
    for layout in legal_layouts(gpu):
        counts = layout.counts
        found.setdefault(tuple(counts.get(p.name, 0) for p in gpu.profiles), []).append(layout)
    # As `Layout.reachable`, with sets of placements as numbers.
    bit = {placement: 1 << index for index, placement in enumerate(_placements(gpu))}
    maximal = [sum(bit[each] for each in layout.placements) for layout in maximal_layouts(gpu)]

    def rank(layout: Layout) -> tuple[int, str]:
        mine = sum(bit[each] for each in layout.placements)
        return sum(mine & other == mine for other in maximal), str(layout)

    return {counts: tuple(sorted(layouts, key=rank, reverse=True)) for counts, layouts in found.items()}


def layouts_of(gpu: GpuModel, counts: tuple[int, ...]) -> tuple[Layout, ...]:
    """Return the legal layouts with these counts per profile (in the order of `gpu.profiles`).

    Those that keep the most maximal layouts reachable come first, so that what is left stays useful.
    """
    return _by_counts(gpu).get(counts, ())


def layout_of(gpu: GpuModel, counts: tuple[int, ...]) -> Layout:
    """Return the first of the layouts with these counts.

    Raises:
        InputError: no layout has them.
    """
    fitting = layouts_of(gpu, counts)
    if not fitting:
        words = " + ".join(f"{n} x {p.name}" for p, n in zip(gpu.profiles, counts, strict=True) if n)
        raise InputError(f"{words} do not fit on one GPU", where=gpu.name)
    return fitting[0]


@lru_cache(maxsize=65_536)
def free_memory(gpu: GpuModel, placements: tuple[Placement, ...]) -> tuple[int, int]:
    """Return a GPU's free memory slices, and how many of them the largest instance that still fits would take.

    Where the placements are no layout that the model has, as another program may cut it, nothing counts as lost.
    """
    taken = [gpu.profile_called(each.profile) for each in placements]
    free = gpu.memory_slices - sum(each.memory for each in taken if each is not None)
    if None in taken or fault(gpu, placements) is not None:
        return max(0, free), max(0, free)
    fitting = (gpu.profile(each.profile).memory for each in Layout(gpu, placements).free())
    return free, min(free, max(fitting, default=0))
