"""Which GPU stands in which node: services that must be spread stand on enough of them."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from partita.planning.merging import merge
from partita.planning.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.planning.plan import GpuConfig
    from partita.planning.problem import Pool, Problem

_ATTEMPTS = 20

Place = tuple[int, int]
"""A node and a position in it, both counted from 0."""

Placed = list[tuple[Place, "GpuConfig"]]


def place_on_nodes(
    problem: Problem, lines: Sequence[Sequence[GpuConfig]], watch: Watch | None = None
) -> Placed | None:
    """Return each GPU with its place, nodes being numbered through all pools; None where that was not found.

    GPUs fill node after node unless a service must be spread; then nodes are filled in turn, and GPUs change
    places until every service stands on as many nodes as it must. A GPU may go to a pool that is like its own.
    That none was found proves nothing (`planning/exact/on_nodes.py` does).

    Args:
        problem: its services say how far they must be spread.
        lines: the configuration of each GPU, pool by pool, no more than the pool has.
        watch: when to give up; one try is made whatever it says.
    """
    widest = max((service.spread for service in problem.services), default=1)
    if widest > 1:
        return _spread(problem, lines, widest, watch or Watch())
    placed: Placed = []
    first = 0
    for pool, line in zip(problem.pools, lines, strict=True):
        for index, config in enumerate(line):
            node, position = divmod(index, pool.per_node)
            placed.append(((first + node, position), config))
        first += nodes_of(pool, len(line), 0)
    return placed


def nodes_of(pool: Pool, gpus: int, at_least: int) -> int:
    """Return how many nodes a pool has: those that its count fills, or without one as many as are wanted."""
    if pool.count is not None:
        return math.ceil(pool.count / pool.per_node)
    return max(math.ceil(gpus / pool.per_node), at_least if gpus else 0)


def _spread(
    problem: Problem, lines: Sequence[Sequence[GpuConfig]], widest: int, watch: Watch
) -> Placed | None:
    """Try more nodes where a pool has no count, and other orders of the GPUs, until services are spread."""
    longest = max(len(line) for line in lines)
    for attempt in range(max(_ATTEMPTS, longest - widest + 1)):
        if attempt and watch.over:
            return None
        order = random.Random(attempt)
        shuffled = [order.sample(line, len(line)) if attempt else line for line in lines]
        nodes = _Nodes(problem, shuffled, min(widest + attempt, longest))
        if nodes.spread():
            return nodes.placed()
    return None


class _Nodes:
    """All places there are, filled node by node in turn."""

    def __init__(self, problem: Problem, lines: Sequence[Sequence[GpuConfig]], widest: int) -> None:
        self._merged = merge(problem)
        self._alike = {m: group for group, ms in enumerate(self._merged.members) for m in ms}
        self._wanted = {s: each.spread for s, each in enumerate(problem.services) if each.spread > 1}
        self._places: list[Place] = []
        self._held: list[GpuConfig | None] = []
        self._pool: list[int] = []
        first = 0
        for index, (pool, line) in enumerate(zip(problem.pools, lines, strict=True)):
            nodes = nodes_of(pool, len(line), widest)
            room = nodes * pool.per_node if pool.count is None else pool.count
            places = sorted((divmod(i, pool.per_node) for i in range(room)), key=lambda p: (p[1], p[0]))
            for i, (node, position) in enumerate(places):
                self._places.append((first + node, position))
                self._held.append(line[i] if i < len(line) else None)
                self._pool.append(index)
            first += nodes
        self._spreading = [
            {s for _, s in config.assignment if s in self._wanted} if config else set[int]()
            for config in self._held
        ]
        self._on: dict[int, Counter[int]] = defaultdict(Counter)
        for at, services in enumerate(self._spreading):
            for s in services:
                self._on[s][self._places[at][0]] += 1

    def placed(self) -> Placed:
        """Return each GPU with its place, as a configuration of the pool in which that is."""
        order = sorted(range(len(self._places)), key=self._places.__getitem__)
        return [
            (self._places[at], self._merged.beside(config, self._pool[at]))
            for at in order
            if (config := self._held[at]) is not None
        ]

    def spread(self) -> bool:
        """Exchange places while that brings a service onto one more node; say whether all are spread."""
        short = self._short()
        while short:
            if not any(self._widen(s) for s in short):
                return False
            short = self._short()
        return True

    def _short(self) -> list[int]:
        return [s for s, spread in self._wanted.items() if self._nodes(s) < spread]

    def _nodes(self, s: int) -> int:
        return sum(1 for n in self._on[s].values() if n)

    def _widen(self, s: int) -> bool:
        on = self._on[s]
        for source in [at for at, services in enumerate(self._spreading) if s in services]:
            for target, (node, _) in enumerate(self._places):
                if on[node] or self._alike[self._pool[target]] != self._alike[self._pool[source]]:
                    continue
                if self._gain(source, target) > 0:
                    self._swap(source, target)
                    return True
        return False

    def _gain(self, a: int, b: int) -> int:
        """Return by how many nodes services that are short are short by less after an exchange."""
        from_a, from_b = self._spreading[a], self._spreading[b]
        node_a, node_b = self._places[a][0], self._places[b][0]
        moves = [(s, node_a, node_b) for s in from_a - from_b] + [
            (s, node_b, node_a) for s in from_b - from_a
        ]
        total = 0
        for s, source, target in moves:
            before = self._nodes(s)
            after = before - (self._on[s][source] == 1) + (self._on[s][target] == 0)
            total += min(after, self._wanted[s]) - min(before, self._wanted[s])
        return total

    def _swap(self, a: int, b: int) -> None:
        for at, to in ((a, b), (b, a)):
            for s in self._spreading[at]:
                self._on[s][self._places[at][0]] -= 1
                self._on[s][self._places[to][0]] += 1
        self._held[a], self._held[b] = self._held[b], self._held[a]
        self._spreading[a], self._spreading[b] = self._spreading[b], self._spreading[a]
