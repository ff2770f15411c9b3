"""Minimum closures of a precedence graph, by minimum cut."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def least_sum(weights: Mapping[int, float], before: Sequence[Sequence[int]]) -> float:
    """Return the least total weight of a set of nodes that holds all that comes before its members.

    The empty set counts, so the result is at most 0. It is a minimum cut (Picard 1976): nodes of negative
    weight hang on the source, those of positive weight on the sink, and what comes before costs nothing to cross.

    Args:
        weights: of the nodes that have any.
        before: for each node, the nodes that come directly before it; acyclic.
    """
    network = _Network()
    gain = 0.0
    pending = [node for node, weight in weights.items() if weight < 0]
    seen = set(pending)
    while pending:
        node = pending.pop()
        weight = weights.get(node, 0.0)
        if weight < 0:
            network.join(_SOURCE, node, -weight)
            gain -= weight
        elif weight > 0:
            network.join(node, _SINK, weight)
        for earlier in before[node]:
            network.join(node, earlier, float("inf"))
            if earlier not in seen:
                seen.add(earlier)
                pending.append(earlier)
    return network.flow() - gain


_SOURCE, _SINK = -1, -2


class _Network:
    """A flow network and its maximum flow by Dinic's algorithm (1970)."""

    def __init__(self) -> None:
        self._arcs: dict[int, list[int]] = {_SOURCE: [], _SINK: []}
        self._to: list[int] = []
        self._room: list[float] = []
        self._level: dict[int, int] = {}
        self._next: dict[int, int] = {}
        self._least = 0.0

    def join(self, start: int, end: int, capacity: float) -> None:
        """Add an arc; its opposite stands beside it, at the index with the last bit changed."""
        for a, b, room in ((start, end, capacity), (end, start, 0.0)):
            self._arcs.setdefault(a, []).append(len(self._to))
            self._to.append(b)
            self._room.append(room)

    def flow(self) -> float:
        """Return the maximum flow from source to sink; it uses the network up."""
        finite = [room for room in self._room if room != float("inf")]
        self._least = 1e-12 * max(finite, default=0.0)
        total = 0.0
        while self._set_levels():
            self._next = dict.fromkeys(self._arcs, 0)
            while sent := self._send():
                total += sent
        return total

    def _set_levels(self) -> bool:
        self._level = {_SOURCE: 0}
        queue = deque([_SOURCE])
        while queue:
            node = queue.popleft()
            for arc in self._arcs[node]:
                if self._room[arc] > self._least and self._to[arc] not in self._level:
                    self._level[self._to[arc]] = self._level[node] + 1
                    queue.append(self._to[arc])
        return _SINK in self._level

    def _send(self) -> float:
        """Send flow along one path of the levels; return how much, 0 when none is left."""
        path: list[int] = []
        node = _SOURCE
        while node != _SINK:
            arc = self._onward(node)
            if arc is not None:
                path.append(arc)
                node = self._to[arc]
            elif path:
                back = path.pop()
                node = self._to[back ^ 1]
                self._next[node] += 1
            else:
                return 0.0
        sent = min(self._room[arc] for arc in path)
        for arc in path:
            self._room[arc] -= sent
            self._room[arc ^ 1] += sent
        return sent

    def _onward(self, node: int) -> int | None:
        arcs = self._arcs[node]
        while self._next[node] < len(arcs):
            arc = arcs[self._next[node]]
            end = self._to[arc]
            if self._room[arc] > self._least and self._level.get(end) == self._level[node] + 1:
                return arc
            self._next[node] += 1
        return None
