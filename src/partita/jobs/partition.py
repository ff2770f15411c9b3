"""The partition manager: a state machine over the placement sets of one GPU (MIGM, arXiv 2508.18556).

A state is the set of instances on the GPU and which of them are in use. The edges are the start of a job on a
profile, with the fission or fusion of idle instances that it needs, and the end of a job. Instances in use are never
touched.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache, reduce
from itertools import combinations
from operator import or_
from typing import TYPE_CHECKING

from partita.errors import InputError
from partita.mig.layout import Layout, Placement, fault, maximal_layouts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from partita.mig.gpu import GpuModel


@dataclass(frozen=True, slots=True)
class Change:
    """How an instance comes into use.

    Attributes:
        placement: the instance.
        destroy: idle instances to destroy first: one larger instance is fission, several neighbours are fusion.
        create: whether it must be created; if not, it exists and is idle.
    """

    placement: Placement
    destroy: tuple[Placement, ...] = ()
    create: bool = True


@dataclass(frozen=True)
class Partition:
    """One GPU: its instances, and which of them are in use.

    Attributes:
        layout: all instances.
        busy: the instances in use; the others are idle.
    """

    layout: Layout
    busy: frozenset[Placement] = frozenset()
    _edges: dict[str, tuple[Change, ...]] = field(default_factory=dict, compare=False, repr=False)
    _after: dict[Change | Placement, Partition] = field(default_factory=dict, compare=False, repr=False)
    _states: dict[tuple[Layout, frozenset[Placement]], Partition] = field(
        default_factory=dict, compare=False, repr=False
    )

    def __post_init__(self) -> None:
        if not self.busy <= set(self.layout.placements):
            raise InputError("an instance in use does not exist", where=self.layout.gpu.name)

    @property
    def gpu(self) -> GpuModel:
        """The model of the GPU."""
        return self.layout.gpu

    @cached_property
    def used(self) -> int:
        """Compute slices in use."""
        return _compute(self.gpu, self.busy)

    @cached_property
    def _busy_mask(self) -> int:
        return _mask(self.gpu, self.busy)

    @property
    def idle(self) -> tuple[Placement, ...]:
        """Instances that are not in use."""
        return tuple(p for p in self.layout if p not in self.busy)

    def changes(self, profile: str) -> tuple[Change, ...]:
        """Return every change that brings an instance of a profile into use, the best first.

        The best change leaves room for the largest profile, then keeps the most maximal layouts reachable. Idle
        instances count as free slices: they can be destroyed in a fraction of a second, while a bad start lasts as
        long as its job. Among equals an idle instance comes before one to create, then the one that destroys the
        fewest compute slices of idle instances, then the one with the last start.

        Raises:
            InputError: this GPU has no such profile.
        """
        found = self._edges.get(profile)
        if found is None:
            found = self._edges[profile] = tuple(sorted(self._ways(profile), key=self._preference))
        return found

    def change(self, profile: str) -> Change | None:
        """Return the best change that brings an instance of a profile into use; None if there is none now."""
        found = self.changes(profile)
        return found[0] if found else None

    def start(self, change: Change) -> Partition:
        """Return the GPU after a change, with the instance in use.

        Raises:
            InputError: it touches an instance in use, or does not fit.
        """
        after = self._after.get(change)
        if after is None:
            after = self._after[change] = self._started(change)
        return after

    def end(self, placement: Placement) -> Partition:
        """Return the GPU after the job on an instance has ended: the instance is idle.

        Raises:
            InputError: it is not in use.
        """
        after = self._after.get(placement)
        if after is None:
            if placement not in self.busy:
                raise InputError(f"{placement} is not in use", where=self.gpu.name)
            after = self._after[placement] = self._state(self.layout.placements, self.busy - {placement})
        return after

    def at(self, standing: Iterable[Placement], busy: Iterable[Placement]) -> Partition:
        """Return another state of the same GPU.

        Raises:
            InputError: the layout is not legal, or an instance in use does not exist.
        """
        return self._state(standing, frozenset(busy))

    def _started(self, change: Change) -> Partition:
        if change.placement in self.busy or not self.busy.isdisjoint(change.destroy):
            raise InputError(f"{change.placement}: an instance in use would be touched", where=self.gpu.name)
        standing = set(self.layout.placements)
        if change.create == (change.placement in standing) or not standing.issuperset(change.destroy):
            raise InputError(f"{change.placement}: the GPU has changed since", where=self.gpu.name)
        return self._state(
            (standing - set(change.destroy)) | {change.placement}, self.busy | {change.placement}
        )

    def _state(self, standing: Iterable[Placement], busy: frozenset[Placement]) -> Partition:
        key = (_layout(self.gpu, frozenset(standing)), busy)
        found = self._states.get(key)
        if found is None:
            found = self._states[key] = Partition(*key, _states=self._states)
        return found

    def _ways(self, profile: str) -> list[Change]:
        found = []
        for start in self.gpu.profile(profile).starts:
            placement = Placement(start, profile)
            if placement in self.busy:
                continue
            if placement in self.layout:
                found.append(Change(placement, create=False))
            elif _mask(self.gpu, (placement,)) & self._busy_mask:
                continue
            elif fault(self.gpu, (*self.busy, placement)) is None:
                found.append(Change(placement, self._blocking(placement)))
        return found

    def _blocking(self, placement: Placement) -> tuple[Placement, ...]:
        """Return the idle instances of the fewest compute slices whose removal makes the placement legal."""
        slices = _mask(self.gpu, (placement,))
        below = {each for each in self.idle if _mask(self.gpu, (each,)) & slices}
        for more in self._subsets(tuple(each for each in self.idle if each not in below)):
            lost = below.union(more)
            if fault(self.gpu, (*(p for p in self.layout if p not in lost), placement)) is None:
                return tuple(each for each in self.idle if each in lost)
        raise AssertionError(
            "a placement that is legal beside the busy instances is legal without all idle ones"
        )

    def _subsets(self, placements: tuple[Placement, ...]) -> Iterator[tuple[Placement, ...]]:
        """Yield every subset, those with the fewest compute slices and instances first."""
        yield ()
        subsets = (some for n in range(1, len(placements) + 1) for some in combinations(placements, n))
        yield from sorted(subsets, key=lambda some: (_compute(self.gpu, some), len(some)))

    def keeps(self, change: Change) -> tuple[int, int]:
        """Return what a change leaves possible, counting idle instances as free; more is better.

        Returns:
            The memory slices of the largest profile that can still start, and how many maximal layouts stay
            reachable.
        """
        after = _layout(self.gpu, self.busy | {change.placement})
        return largest_start(after), reachable(after)

    def _preference(self, change: Change) -> tuple[int, int, bool, int, int]:
        largest, layouts = self.keeps(change)
        return (
            -largest,
            -layouts,
            change.create,
            _compute(self.gpu, change.destroy),
            -change.placement.start,
        )


@lru_cache(maxsize=16)
def empty(gpu: GpuModel) -> Partition:
    """Return an empty GPU, the root of its model's states, which are computed once and kept."""
    return Partition(Layout(gpu))


def known(gpu: GpuModel, standing: Iterable[Placement], busy: Iterable[Placement]) -> Partition:
    """Return a GPU's state as the same object on every call, so that its edges are computed once.

    Raises:
        InputError: the layout is not legal, or an instance in use does not exist.
    """
    return empty(gpu).at(standing, busy)


def scattered(partition: Partition, profile: str) -> bool:
    """Return whether a GPU has enough free or idle slices for a profile, but not together at any of its starts.

    Raises:
        InputError: this GPU has no such profile.
    """
    gpu, wanted = partition.gpu, partition.gpu.profile(profile)
    memory = gpu.memory_slices - sum(gpu.profile(p.profile).memory for p in partition.busy)
    compute = gpu.compute_slices - partition.used
    return compute >= wanted.compute and memory >= wanted.memory and partition.change(profile) is None


@lru_cache(maxsize=65536)
def largest_start(layout: Layout) -> int:
    """Return the memory slices of the largest profile that fits beside a layout; 0 if none does."""
    gpu = layout.gpu
    free = (
        profile.memory
        for profile in gpu.profiles
        if any(fault(gpu, (*layout, Placement(start, profile.name))) is None for start in profile.starts)
    )
    return max(free, default=0)


@lru_cache(maxsize=65536)
def reachable(layout: Layout) -> int:
    """Return how many maximal layouts contain this one."""
    bits, maximal = _maximal(layout.gpu)
    mine = sum(bits[placement] for placement in layout)
    return sum(mine & each == mine for each in maximal)


@lru_cache(maxsize=16)
def _maximal(gpu: GpuModel) -> tuple[dict[Placement, int], tuple[int, ...]]:
    """Return a bit for each placement of a GPU, and its maximal layouts as sums of them."""
    places = {placement for layout in maximal_layouts(gpu) for placement in layout}
    bits = {placement: 1 << n for n, placement in enumerate(sorted(places))}
    return bits, tuple(sum(bits[placement] for placement in layout) for layout in maximal_layouts(gpu))


@lru_cache(maxsize=65536)
def _layout(gpu: GpuModel, placements: frozenset[Placement]) -> Layout:
    return Layout(gpu, tuple(placements))


def _compute(gpu: GpuModel, placements: Iterable[Placement]) -> int:
    return sum(gpu.profile(p.profile).compute for p in placements)


def _mask(gpu: GpuModel, placements: Iterable[Placement]) -> int:
    """Return the memory slices of placements, as a bit set."""
    return reduce(or_, (gpu.profile(p.profile).mask(p.start) for p in placements), 0)
