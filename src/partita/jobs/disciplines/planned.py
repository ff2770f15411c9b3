"""A batch planned to its end: which instance each job takes, by FAR's method, and the order of starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from partita.jobs.disciplines.discipline import Allocation
from partita.jobs.job import shares
from partita.mig.layout import Placement

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from partita.jobs.disciplines.discipline import QueueState, Start
    from partita.jobs.job import Job
    from partita.mig.gpu import GpuModel


MOST_WORK = 1400
"""Batches with more moves and swaps in one pass of the search are not planned; these take some tenths of a second."""

_IMPROVED = 4
"""How many allocations of a family are improved, the best ones."""

_CHANGE_S = 0.3
"""Seconds to destroy and create an instance, roughly."""

_NOT_NOW = (1, 0, 0)
"""The rank of an instance that is blocked by what runs: behind all others."""


@dataclass(frozen=True, slots=True)
class InstanceNode:
    """An instance that a GPU may be cut into once those that contain it have ended.

    Attributes:
        parent: index of the smallest instance that contains it; None for a whole GPU.
        mask: memory slices that it is on, a bit for each.
    """

    placement: Placement
    parent: int | None
    mask: int


@lru_cache(maxsize=16)
def tree(gpu: GpuModel) -> tuple[InstanceNode, ...]:
    """Return the instances of a GPU model, each after those that contain it, without partly overlapping ones."""
    nodes: list[InstanceNode] = []
    plain = [profile for profile in gpu.profiles if not profile.media]
    for profile in sorted(plain, key=lambda each: (-each.memory, -each.compute, each.name)):
        for start in profile.starts:
            mask = profile.mask(start)
            above = [at for at, node in enumerate(nodes) if node.mask & mask]
            if all(nodes[at].mask | mask == nodes[at].mask for at in above):
                nodes.append(InstanceNode(Placement(start, profile.name), above[-1] if above else None, mask))
    return tuple(nodes)


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """Jobs start on their planned instances, in the plan's order, and none blocks an earlier one.

    Attributes:
        order: GPU and placement of each job, in the order of their planned beginnings.
    """

    order: tuple[tuple[Job, int, Placement], ...]

    def decide(self, state: QueueState) -> tuple[Start, ...]:
        """Return the starts that are due."""
        allocation, waiting = Allocation(state), set(state.waiting)
        model = state.gpus[0].gpu
        kept = [0] * len(state.gpus)  # memory slices that earlier jobs wait for
        for job, gpu, placement in self.order:
            if job not in waiting:
                continue
            mask = model.profile(placement.profile).mask(placement.start)
            change = None
            if not kept[gpu] & mask:
                changes = allocation.gpus[gpu].changes(placement.profile)
                change = next((each for each in changes if each.placement == placement), None)
            if change is None:
                kept[gpu] |= mask
            else:
                allocation.start(job, gpu, change)
        return tuple(allocation.starts)

    def stands(self, state: QueueState) -> bool:
        """Return whether the plan can still be followed.

        It has all waiting jobs, its GPUs exist, and nobody else has taken the slices that it waits for.
        """
        running = {(each.gpu, each.placement) for each in state.running}
        waiting, model = set(state.waiting), state.gpus[0].gpu
        if not waiting <= {job for job, _, _ in self.order}:
            return False
        for job, gpu, placement in self.order:
            if job not in waiting:
                continue
            if gpu >= len(state.gpus):
                return False
            mask = model.profile(placement.profile).mask(placement.start)
            for other in state.gpus[gpu].busy:
                if model.profile(other.profile).mask(other.start) & mask and (gpu, other) not in running:
                    return False
        return True


def planned(state: QueueState) -> tuple[PlannedBatch, ...]:
    """Return plans for the waiting jobs, none if there are too many: large instances first, and small ones first.

    While jobs run, only the plan with large instances first is returned, as it goes on from their instances.

    This is FAR (arXiv 2507.13601): from a family of allocations, which begins with the least work for all jobs and
    gives ever larger slices to the longest one, it takes the best by longest job first on a tree of instances; then
    it moves and swaps jobs as long as that shortens the makespan. Here a move may go to an instance of any size, and
    there may be several GPUs, with jobs running.
    """
    gpu, jobs = state.gpus[0].gpu, state.waiting
    nodes = tree(gpu)
    if len(jobs) * (len(nodes) * len(state.gpus) + len(jobs) // 2) > MOST_WORK:
        return ()
    if any(not any(node.placement.profile in job.seconds for node in nodes) for job in jobs):
        return ()
    family = sorted((_placed(state, nodes, each) for each in _family(gpu, jobs)), key=lambda each: each.last)
    for each in family[:_IMPROVED]:
        each.improve()
    best = min(family[:_IMPROVED], key=lambda each: each.last)
    if best.last == float("inf"):
        return ()
    idle = not any(partition.busy for partition in state.gpus)
    return (best.plan(large_first=True), *((best.plan(large_first=False),) if idle else ()))


def _family(gpu: GpuModel, jobs: Sequence[Job]) -> Iterator[list[str]]:
    """Yield allocations of profiles to jobs."""
    share, on_tree = shares(gpu), {node.placement.profile for node in tree(gpu)}
    fits = [{p: t for p, t in job.seconds.items() if p in on_tree} for job in jobs]
    chosen = [min(times, key=lambda p: times[p] * share[p]) for times in fits]
    yield list(chosen)
    while True:
        longest = max(range(len(jobs)), key=lambda each: fits[each][chosen[each]])
        times, now = fits[longest], fits[longest][chosen[longest]]
        shorter = [p for p, t in times.items() if t < now and share[p] > share[chosen[longest]]]
        if not shorter:
            return
        chosen[longest] = min(shorter, key=lambda p: times[p] * share[p])
        yield list(chosen)


@dataclass
class _Schedule:
    """Which instance each job takes, by the number of its GPU and of its node.

    Attributes:
        free: by GPU and node, the seconds from now until jobs running there have ended.
        at: by job, its GPU and node.
    """

    state: QueueState
    nodes: tuple[InstanceNode, ...]
    free: list[list[float]]
    at: list[tuple[int, int]]
    work: list[list[float]] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.work = [[0.0] * len(self.nodes) for _ in self.free]
        for job, (gpu, node) in enumerate(self.at):
            self.work[gpu][node] += self._takes(job, node)
        self.ends = [self._end(gpu) for gpu in range(len(self.free))]

    @property
    def last(self) -> float:
        """Seconds until the last job ends."""
        return max(self.ends)

    def _takes(self, job: int, node: int) -> float:
        seconds = self.state.waiting[job].seconds.get(self.nodes[node].placement.profile)
        return float("inf") if seconds is None else seconds

    def _begins(self, gpu: int) -> list[tuple[float, float]]:
        """Return when each node of a GPU begins and ends."""
        found: list[tuple[float, float]] = []
        for node, free, work in zip(self.nodes, self.free[gpu], self.work[gpu], strict=True):
            above = found[node.parent][1] if node.parent is not None else 0.0
            begins = max(free, above)
            # A node without planned jobs is never created, and delays none of those that it contains.
            found.append((begins, begins + work + _CHANGE_S if work > 1e-9 else above))
        return found

    def _end(self, gpu: int) -> float:
        return max(
            (end for (_, end), work in zip(self._begins(gpu), self.work[gpu], strict=True) if work > 1e-9),
            default=0.0,
        )

    def improve(self) -> None:
        """Move and swap jobs as long as that shortens the makespan."""
        places = [(gpu, node) for gpu in range(len(self.free)) for node in range(len(self.nodes))]
        before = float("inf")
        while self.last < before - 1e-6:
            before = self.last
            for job in range(len(self.at)):
                for place in places:
                    self._try({job: place})
            for job in range(len(self.at)):
                for other in range(job):
                    self._try({job: self.at[other], other: self.at[job]})

    def _try(self, moves: dict[int, tuple[int, int]]) -> None:
        """Move jobs if all fit and the makespan becomes shorter."""
        if any(self._takes(job, node) == float("inf") for job, (_, node) in moves.items()):
            return
        last, back = self.last, {job: self.at[job] for job in moves}
        self._move(moves)
        if self.last >= last - 1e-9:
            self._move(back)

    def _move(self, moves: dict[int, tuple[int, int]]) -> None:
        touched = set()
        for job, (gpu, node) in moves.items():
            was, on = self.at[job]
            self.work[was][on] -= self._takes(job, on)
            self.work[gpu][node] += self._takes(job, node)
            self.at[job] = (gpu, node)
            touched |= {was, gpu}
        for gpu in touched:
            self.ends[gpu] = self._end(gpu)

    def plan(self, *, large_first: bool) -> PlannedBatch:
        """Return the order of starts; on one instance the shortest goes first, which does not change the makespan."""
        begins = [[times[0] for times in self._begins(gpu)] for gpu in range(len(self.free))]
        order = sorted(
            range(len(self.at)),
            key=lambda job: (
                begins[self.at[job][0]][self.at[job][1]] * (1 if large_first else -1),
                self._takes(job, self.at[job][1]),
                self.state.waiting[job].id,
            ),
        )
        return PlannedBatch(
            tuple(
                (self.state.waiting[job], self.at[job][0], self.nodes[self.at[job][1]].placement)
                for job in order
            )
        )


def _placed(state: QueueState, nodes: tuple[InstanceNode, ...], profiles: Sequence[str]) -> _Schedule:
    """Place jobs, those on larger profiles and then longer ones first, each on the instance where it ends first.

    Among instances where it ends at the same time, the one that keeps the most layouts possible is taken.
    """
    gpu = state.gpus[0].gpu
    free = _free(state, nodes)
    ends = [[0.0] * len(nodes) for _ in free]
    at = [(0, 0)] * len(profiles)
    rank = _ranks(state, nodes)
    order = sorted(
        range(len(profiles)),
        key=lambda job: (-gpu.profile(profiles[job]).memory, -state.waiting[job].seconds[profiles[job]]),
    )
    for job in order:
        here = {
            (index, node): max(free[index][node], _from(ends[index], nodes, node))
            for index in range(len(free))
            for node, each in enumerate(nodes)
            if each.placement.profile == profiles[job]
        }
        at[job] = index, node = min(here, key=lambda each: (here[each], rank.get(each, _NOT_NOW)))
        ends[index][node] = here[index, node] + state.waiting[job].seconds[profiles[job]]
    return _Schedule(state, nodes, free, at)


def _ranks(state: QueueState, nodes: tuple[InstanceNode, ...]) -> dict[tuple[int, int], tuple[int, int, int]]:
    """Return, by free GPU and node, the rank by which an `Allocation` would choose; least is best.

    Empty where nothing runs: then the tree's order packs a batch well.
    """
    if not any(partition.busy for partition in state.gpus):
        return {}
    number = {node.placement: at for at, node in enumerate(nodes)}
    found = {}
    for index, partition in enumerate(state.gpus):
        for profile in {placement.profile for placement in number}:
            for change in partition.changes(profile):
                if (at := number.get(change.placement)) is not None:
                    largest, layouts = partition.keeps(change)
                    found[index, at] = (-partition.used, -largest, -layouts)
    return found


def _from(ends: Sequence[float], nodes: tuple[InstanceNode, ...], node: int) -> float:
    parent = nodes[node].parent
    return max(ends[node], _from(ends, nodes, parent) if parent is not None else 0.0)


def _free(state: QueueState, nodes: tuple[InstanceNode, ...]) -> list[list[float]]:
    """Return, by GPU and node, the seconds until what blocks it is expected to end."""
    found = [[0.0] * len(nodes) for _ in state.gpus]
    gpu = state.gpus[0].gpu
    known = {(running.gpu, running.placement): running.until - state.now for running in state.running}
    for index, partition in enumerate(state.gpus):
        for placement in partition.busy:
            left = max(known.get((index, placement), float("inf")), 0.0)
            mask = gpu.profile(placement.profile).mask(placement.start)
            for at, node in enumerate(nodes):
                if node.mask & mask:
                    found[index][at] = max(found[index][at], left)
    return found
