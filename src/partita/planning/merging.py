"""Pools that are alike to every service are one pool to the search: columns that are the same prove nothing twice."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from partita.planning.plan import GpuConfig
from partita.planning.problem import Pool, Size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.perf.operating_point import OperatingPoint
    from partita.planning.problem import Problem


@dataclass(frozen=True)
class Merged:
    """A problem whose pools stand for several of another's.

    Attributes:
        problem: the one to search.
        whole: the one that was asked.
        members: for each pool of `problem` the pools of `whole` that it stands for; it has as many GPUs as they.
    """

    problem: Problem
    whole: Problem
    members: tuple[tuple[int, ...], ...]

    def moved(self, config: GpuConfig, member: int) -> GpuConfig:
        """Return a configuration of `problem` as one of a pool of `whole`."""
        return self._to(member, config, self.problem)

    def beside(self, config: GpuConfig, member: int) -> GpuConfig:
        """Return a configuration of a pool of `whole` as one of another that is like it."""
        return config if config.pool == member else self._to(member, config, self.whole)

    def _to(self, member: int, config: GpuConfig, source: Problem) -> GpuConfig:
        slots = ((self._sizes[member][source.sizes[k].profile], s) for k, s in config.assignment)
        return GpuConfig(member, tuple(sorted(slots)))

    @cached_property
    def _sizes(self) -> dict[int, dict[str, int]]:
        found: dict[int, dict[str, int]] = defaultdict(dict)
        for k, size in enumerate(self.whole.sizes):
            found[size.pool][size.profile] = k
        return found

    def split(self, configs: Mapping[GpuConfig, int]) -> Counter[GpuConfig]:
        """Return configurations of `problem` as ones of `whole`, each pool holding no more than it has.

        Pools with a count are filled before one without, in the order in which they were written. What is more than
        all have stands in the last one.
        """
        if self.problem is self.whole:
            return Counter(configs)
        found: Counter[GpuConfig] = Counter()
        left = {index: pool.count for index, pool in enumerate(self.whole.pools)}
        for config, n in sorted(configs.items(), key=lambda item: (item[0].pool, item[0].assignment)):
            rest = n
            mine = sorted(self.members[config.pool], key=lambda index: left[index] is None)
            for member in mine:
                free = left[member]
                taken = rest if free is None or member == mine[-1] else min(rest, free)
                if taken:
                    found[self.moved(config, member)] += taken
                    rest -= taken
                    left[member] = None if free is None else free - taken
        return found


def merge(problem: Problem) -> Merged:
    """Return the problem with pools joined that have the same GPU, cost the same and run every service alike."""
    groups: dict[object, list[int]] = defaultdict(list)
    for index, pool in enumerate(problem.pools):
        mine = [k for k, size in enumerate(problem.sizes) if size.pool == index]
        columns = tuple(
            (
                problem.sizes[k].profile,
                problem.throughput[:, k].tobytes(),
                problem.instance_cost[:, k].tobytes(),
            )
            for k in mine
        )
        groups[pool.gpu, problem.gpu_cost(index), columns].append(index)
    members = tuple(tuple(each) for each in groups.values())
    if len(members) == len(problem.pools):
        return Merged(problem, problem, members)
    kept = [k for index, *_ in members for k, size in enumerate(problem.sizes) if size.pool == index]
    number = {group[0]: at for at, group in enumerate(members)}
    points: dict[int, tuple[OperatingPoint | None, ...]] = {}
    for service in problem.services:
        if id(service.points) not in points:
            points[id(service.points)] = tuple(service.points[k] for k in kept)
    merged = replace(
        problem,
        pools=tuple(_joined(problem, group) for group in members),
        services=tuple(replace(each, points=points[id(each.points)]) for each in problem.services),
        sizes=tuple(Size(number[problem.sizes[k].pool], problem.sizes[k].profile) for k in kept),
    )
    return Merged(merged, problem, members)


def _joined(problem: Problem, group: tuple[int, ...]) -> Pool:
    first = problem.pools[group[0]]
    counts = [problem.pools[index].count for index in group]
    finite = [count for count in counts if count is not None]
    together = sum(finite) if len(finite) == len(counts) else None
    name = "+".join(problem.pools[index].name for index in group)
    return replace(first, name=name, count=together)
