"""Which GPU stands in which node: services that must be spread stand on enough of them."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from typing import TYPE_CHECKING

from partita.errors import InfeasibleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from partita.plan.plan import GpuConfig
    from partita.plan.problem import Pool, Problem

_ATTEMPTS = 20

Place = tuple[int, int]
"""A node and a position in it, both counted from 0."""


def place_on_nodes(
    problem: Problem, lines: Sequence[Sequence[GpuConfig]]
) -> Iterator[tuple[Place, GpuConfig]]:
    """Yield each GPU with its place, nodes being numbered through all pools.

    GPUs fill node after node unless a service must be spread; then nodes are filled in turn, and GPUs change
    places until every service stands on as many nodes as it must.

    Args:
        problem: its services say how far they must be spread.
        lines: the configuration of each GPU, pool by pool.

    Raises:
        InfeasibleError: no exchange spreads a service over enough nodes.
    """
    widest = max((service.spread for service in problem.services), default=1)
    if widest > 1:
        yield from _spread(problem, lines, widest)
        return
    first = 0
    for pool, line in zip(problem.pools, lines, strict=True):
        for index, config in enumerate(line):
            node, position = divmod(index, pool.per_node)
            yield (first + node, position), config
        first += _nodes(pool, len(line), 0)


def _nodes(pool: Pool, gpus: int, at_least: int) -> int:
    if pool.count is not None:
        return math.ceil(pool.count / pool.per_node)
    return max(math.ceil(gpus / pool.per_node), at_least if gpus else 0)


def _spread(
    problem: Problem, lines: Sequence[Sequence[GpuConfig]], widest: int
) -> list[tuple[Place, GpuConfig]]:
    """Try more nodes where a pool has no count, and other orders of the GPUs, until services are spread."""
    longest = max(len(line) for line in lines)
    for attempt in range(max(_ATTEMPTS, longest - widest + 1)):
        order = random.Random(attempt)
        shuffled = [order.sample(line, len(line)) if attempt else line for line in lines]
        nodes = _Nodes(problem, shuffled, min(widest + attempt, longest))
        if nodes.spread():
            return nodes.placed()
    raise InfeasibleError(
        f"services cannot be spread as asked over {nodes.count} nodes",
        where="services",
        hint="lower `spread`, or add nodes",
    )


class _Nodes:
    """All places there are, filled node by node in turn."""

    def __init__(self, problem: Problem, lines: Sequence[Sequence[GpuConfig]], widest: int) -> None:
        self._problem = problem
        self._places: dict[Place, GpuConfig | None] = {}
        self._pool: dict[int, int] = {}
        first = 0
        for index, (pool, line) in enumerate(zip(problem.pools, lines, strict=True)):
            nodes = _nodes(pool, len(line), widest)
            room = nodes * pool.per_node if pool.count is None else pool.count
            places = sorted((divmod(i, pool.per_node) for i in range(room)), key=lambda p: (p[1], p[0]))
            for i, (node, position) in enumerate(places):
                self._places[first + node, position] = line[i] if i < len(line) else None
            self._pool.update(dict.fromkeys(range(first, first + nodes), index))
            first += nodes

    @property
    def count(self) -> int:
        """Nodes there are."""
        return len(self._pool)

    def placed(self) -> list[tuple[Place, GpuConfig]]:
        """Return each GPU with its place."""
        return [(place, config) for place, config in sorted(self._places.items()) if config is not None]

    def spread(self) -> bool:
        """Exchange places while that brings a service onto one more node; say whether all are spread."""
        short = self._short()
        while short:
            if not any(self._widen(s) for s in short):
                return False
            short = self._short()
        return True

    def _gpus_per_node(self) -> dict[int, dict[int, int]]:
        """Return for each service how many GPUs hold it on each node."""
        found: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        for (node, _), config in self._places.items():
            for s in {s for _, s in config.assignment} if config else ():
                found[s][node] += 1
        return found

    def _lacking(self) -> dict[int, int]:
        nodes = self._gpus_per_node()
        return {s: each.spread - len(nodes[s]) for s, each in enumerate(self._problem.services)}

    def _short(self) -> list[int]:
        return [s for s, lack in self._lacking().items() if lack > 0]

    def _widen(self, s: int) -> bool:
        mine = [
            p for p, config in self._places.items() if config and any(t == s for _, t in config.assignment)
        ]
        on = {node for node, _ in mine}
        before = self._total_lack()
        for source in mine:
            for target in self._places:
                if target[0] in on or self._pool[target[0]] != self._pool[source[0]]:
                    continue
                self._swap(source, target)
                if self._total_lack() < before:
                    return True
                self._swap(source, target)
        return False

    def _total_lack(self) -> int:
        return sum(lack for lack in self._lacking().values() if lack > 0)

    def _swap(self, a: Place, b: Place) -> None:
        self._places[a], self._places[b] = self._places[b], self._places[a]
