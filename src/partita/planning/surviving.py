"""Counts onto nodes so that every service survives the loss of any one GPU, node or rack.

A service that survives a loss has capacity T and needs H of it afterwards, so no domain (GPU, node or rack) may hold
more than T - H of it. Cuts are dealt to the nodes in turn; then instances are placed one by one, those with the least
room first. One that finds no place makes others change theirs (a path of moves found breadth first). What still fails
costs something: one more instance, which raises T - H, or one more GPU. So this finds plans on large clusters, and
proves nothing; `planning/on_nodes.py` does, on small ones.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from partita.planning.assemble import pack
from partita.planning.compact import Counts
from partita.planning.on_nodes import PoolNode
from partita.planning.problem import RATE_SLACK, GpuConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from partita.deadline import Deadline
    from partita.planning.problem import Level, MergedPools, Problem

OnNodes = list[tuple[PoolNode, GpuConfig]]

_GROWTH = 1.15
"""Nodes of a pool without a count in the next attempt, as a multiple of those in the last."""

_MOST_MOVED = 3_000
"""GPUs looked at to find a place for one instance."""


def place_surviving(merged: MergedPools, counts: Counts, deadline: Deadline) -> OnNodes | None:
    """Return GPUs on nodes that hold these counts, and more where they must; None if none were found.

    A pool without a count has as few nodes as suffice; more are tried as long as that saves GPUs.

    Args:
        merged: the problem.
        counts: instances that are enough after the loss of the largest one.
        deadline: when to stop trying; one attempt is always made.
    """
    gpus = int(counts.cuts.sum())
    best: _Placing | None = None
    nodes = 1
    while True:
        attempt = _Placing(merged, counts, nodes)
        if attempt.run() and (best is None or attempt.added < best.added):
            best = attempt
        if nodes >= gpus or deadline.over or (best is not None and not best.added) or not _endless(merged):
            return best.result() if best else None
        nodes = min(gpus, max(attempt.nodes_there, math.ceil(attempt.nodes_there * _GROWTH), nodes + 1))


def _endless(merged: MergedPools) -> bool:
    return any(pool.count is None for pool in merged.problem.pools)


@dataclass(frozen=True, slots=True)
class _Move:
    """An instance of a service leaves a GPU, so that another can stand there: a step of a path, back to front."""

    gpu: int
    service: int
    before: _Move | None

    def services(self) -> set[int]:
        """Return the services that the path has moved."""
        return {self.service} | (self.before.services() if self.before else set())


class _Placing:
    """One attempt, with at least so many nodes in pools without a count."""

    def __init__(self, merged: MergedPools, counts: Counts, nodes: int) -> None:
        self._merged = merged
        self._problem = problem = merged.problem
        self._levels: list[Level | None] = [
            None if each.survive == "zone" else each.survive for each in problem.services
        ]
        self._counts = counts.instances.copy()
        self._cuts: list[int] = []
        self._on: list[PoolNode] = []
        self._room: list[tuple[PoolNode, int]] = []
        self._number: dict[object, int] = {}
        self.added = 0
        self._deal(counts.cuts, nodes)
        self._domains = {level: self._numbered(level) for level in ("gpu", "node", "rack")}
        self._free = problem.supply[self._cuts].copy()
        self._held: list[Counter[tuple[int, int]]] = [Counter() for _ in self._cuts]
        self._load: defaultdict[int, defaultdict[int, float]] = defaultdict(lambda: defaultdict(float))

    @property
    def nodes_there(self) -> int:
        """How many nodes have a GPU."""
        return len(set(self._on))

    def _deal(self, cuts: NDArray[np.int64], nodes: int) -> None:
        """Put the GPUs of each pool on its nodes, cut by cut and node after node in turn."""
        for index in range(len(self._problem.pools)):
            mine = [
                p
                for p, cut in enumerate(self._problem.cuts)
                if cut.pool == index
                for _ in range(int(cuts[p]))
            ]
            line = deque((node, node.gpus) for node in self._nodes(index, len(mine), nodes))
            for p in mine:
                node, left = line.popleft()
                self._cuts.append(p)
                self._on.append(node)
                if left > 1:
                    line.append((node, left - 1))
            self._room += line

    def _nodes(self, index: int, gpus: int, nodes: int) -> list[PoolNode]:
        """Return the nodes of a pool: all of those with counts, and as many others as are needed."""
        found: list[PoolNode] = []
        left = gpus
        members = self._merged.members[index]
        for member in sorted(members, key=lambda m: self._merged.whole.pools[m].count is None):
            pool = self._merged.whole.pools[member]
            if pool.count is None:
                wanted = max(math.ceil(left / pool.per_node), nodes if left else 0)
                found += [PoolNode(index, member, pool.per_node, number) for number in range(wanted)]
                break
            found += [
                PoolNode(index, member, min(pool.per_node, pool.count - first), number)
                for number, first in enumerate(range(0, pool.count, pool.per_node))
            ]
            left = max(0, left - pool.count)
        return found

    def _domain(self, level: str, gpu: int) -> int:
        """Return the number of the domain of a GPU at a level."""
        node = self._on[gpu]
        per_rack = self._merged.whole.pools[node.member].nodes_per_rack or 1
        key = {
            "gpu": ("gpu", gpu),
            "node": ("node", node.member, node.number),
            "rack": ("rack", node.member, node.number // per_rack),
        }[level]
        return self._number.setdefault(key, len(self._number))

    def _numbered(self, level: str) -> NDArray[np.int64]:
        return np.array([self._domain(level, gpu) for gpu in range(len(self._cuts))], dtype=np.int64)

    # --- one instance after the other

    def run(self) -> bool:
        """Place all instances; return whether that was possible with the GPUs there are."""
        problem = self._problem
        given = (self._counts * problem.throughput).sum(axis=1)
        domains = {level: max(1, len(np.unique(of))) for level, of in self._domains.items()}

        def tightness(s: int) -> float:
            level = self._levels[s]
            if level is None:
                return 0.0
            return float(given[s] / max(1e-12, self._most(s)) / domains[level])

        for s in sorted(range(len(problem.services)), key=lambda s: (-tightness(s), s)):
            sizes = np.flatnonzero(self._counts[s])
            for k in sorted(sizes.tolist(), key=lambda k: -float(problem.throughput[s, k])):
                waiting = int(self._counts[s, k])
                while self._stands(s) < problem.services[s].spread and waiting and self._put_apart(s, k):
                    waiting -= 1
                while waiting := waiting - self._fill(s, k, waiting):
                    if self._by_moves(s, k):
                        waiting -= 1
                    elif self._levels[s] is not None and self._free[:, k].any():
                        # There is room, where too much of the service stands already: with one more, more may.
                        self._counts[s, k] += 1
                        waiting += 1
                    elif not self._add_gpu(s, k):
                        return False
        return all(self._spread(s) for s in range(len(problem.services)))

    def _spread(self, s: int) -> bool:
        """Add instances until a service stands on as many nodes as it must; return whether that was possible."""
        sizes = np.flatnonzero(self._counts[s]).tolist()
        while self._stands(s) < self._problem.services[s].spread:
            found = next((k for k in sizes if self._put_apart(s, k)), None)
            if found is None:
                found = next((k for k in sizes if self._add_gpu(s, k, apart=True)), None)
                if found is None:
                    return False
                self._put(s, found, len(self._cuts) - 1)
            self._counts[s, found] += 1
        return True

    def _put_apart(self, s: int, k: int) -> bool:
        """Place one instance on a node where its service does not stand yet; return whether there was room."""
        nodes = self._nodes_of(s)
        gpus = np.flatnonzero(self._allowed(s, k) & (self._free[:, k] > 0)).tolist()
        gpu = next((gpu for gpu in gpus if self._on[gpu] not in nodes), None)
        if gpu is None:
            return False
        self._put(s, k, gpu)
        return True

    def _most(self, s: int) -> float:
        """Return what one domain may hold of a service, in items/s."""
        total = float(self._counts[s] @ self._problem.throughput[s])
        return total - self._problem.services[s].survivor_rate * (1 - RATE_SLACK)

    def _loads(self, s: int) -> NDArray[np.float64]:
        """Return what each domain holds of a service, in items/s."""
        loads = np.zeros(len(self._number))
        for domain, load in self._load[s].items():
            loads[domain] = load
        return loads

    def _allowed(self, s: int, k: int) -> NDArray[np.bool_]:
        """Return on which GPUs one more instance leaves enough elsewhere."""
        level = self._levels[s]
        if level is None:
            return np.ones(len(self._cuts), dtype=np.bool_)
        most = self._most(s) - float(self._problem.throughput[s, k])
        allowed: NDArray[np.bool_] = self._loads(s)[self._domains[level]] <= most
        return allowed

    def _fill(self, s: int, k: int, waiting: int) -> int:
        """Place instances on free slots as long as enough is elsewhere; return how many were placed.

        They go where most of the service stands already, so that few services share a node, then where most is free.
        """
        level = self._levels[s]
        of = self._domains[level or "node"]
        gpus = np.flatnonzero(self._free[:, k] > 0)
        room = np.bincount(of, weights=self._free[:, k], minlength=len(self._number))
        loads, each = self._loads(s), float(self._problem.throughput[s, k])
        most = math.inf if level is None else self._most(s)
        placed = 0
        for gpu in gpus[np.lexsort((gpus, of[gpus], -room[of[gpus]], -loads[of[gpus]]))].tolist():
            domain = of[gpu]
            fits = waiting - placed if level is None else max(0, int((most - loads[domain]) / each))
            taken = min(waiting - placed, int(self._free[gpu, k]), fits)
            if taken:
                self._put(s, k, gpu, taken)
                loads[domain] += taken * each
                placed += taken
            if placed == waiting:
                break
        return placed

    def _by_moves(self, s: int, k: int) -> bool:
        """Find a path: the instance takes the place of another one, that one of a third, and the last a free slot."""
        seen = ~self._allowed(s, k) | (self._problem.supply[self._cuts, k] == 0)
        first = [int(gpu) for gpu in np.flatnonzero(~seen)]
        seen[first] = True
        queue: deque[tuple[int, _Move | None]] = deque((gpu, None) for gpu in first)
        looked = 0
        while queue and looked < _MOST_MOVED:
            gpu, path = queue.popleft()
            looked += 1
            moved = {s} | (path.services() if path else set())
            for t, size in list(self._held[gpu]):
                if size != k or t in moved:
                    continue
                level = self._levels[t]
                open_to = self._allowed(t, k)
                if level is not None:
                    open_to |= self._domains[level] == self._domains[level][gpu]
                open_to &= ~seen
                step = _Move(gpu, t, path)
                free = np.flatnonzero(open_to & (self._free[:, k] > 0))
                if len(free):
                    self._apply(s, k, step, int(free[0]))
                    return True
                reached = np.flatnonzero(open_to & (self._problem.supply[self._cuts, k] > 0))
                seen[reached] = True
                queue.extend((int(each), step) for each in reached)
        return False

    def _apply(self, s: int, k: int, last: _Move, free: int) -> None:
        """Move the instances of a path, the last one first, and place the new one where the first one stood."""
        step: _Move | None = last
        to = free
        while step is not None:
            self._put(step.service, k, step.gpu, -1)
            self._put(step.service, k, to)
            to, step = step.gpu, step.before
        self._put(s, k, to)

    def _put(self, s: int, k: int, gpu: int, n: int = 1) -> None:
        self._free[gpu, k] -= n
        self._held[gpu][s, k] += n
        if not self._held[gpu][s, k]:
            del self._held[gpu][s, k]
        level = self._levels[s] or "node"
        self._load[s][int(self._domains[level][gpu])] += n * float(self._problem.throughput[s, k])

    def _add_gpu(self, s: int, k: int, *, apart: bool = False) -> bool:
        """Add a GPU with room for instances of a size, on the node that holds the least of the service.

        Args:
            s: the service.
            k: the size.
            apart: whether the node must be one where the service does not stand yet.
        """
        problem = self._problem
        pool = problem.sizes[k].pool
        mine = [p for p, cut in enumerate(problem.cuts) if cut.pool == pool and cut.counts[k]]
        p = max(mine, key=lambda p: (problem.supply[p, k], -p))
        taken = self._nodes_of(s) if apart else set()
        room = [
            (i, node)
            for i, (node, left) in enumerate(self._room)
            if left and node.pool == pool and node not in taken
        ]
        if room:
            here = Counter[PoolNode]()
            for gpu, held in enumerate(self._held):
                here[self._on[gpu]] += sum(n for (t, _), n in held.items() if t == s)
            i, node = min(room, key=lambda each: (here[each[1]], each[0]))
            self._room[i] = (node, self._room[i][1] - 1)
        else:
            endless = [m for m in self._merged.members[pool] if self._merged.whole.pools[m].count is None]
            if not endless:
                return False
            number = 1 + max((each.number for each in self._on if each.member == endless[0]), default=-1)
            size = self._merged.whole.pools[endless[0]].per_node
            node = PoolNode(pool, endless[0], size, number)
            self._room.append((node, size - 1))
        self._cuts.append(p)
        self._on.append(node)
        self._free = np.vstack([self._free, problem.supply[p]])
        self._held.append(Counter())
        for level, of in self._domains.items():
            self._domains[level] = np.append(of, self._domain(level, len(self._cuts) - 1))
        self.added += 1
        return True

    def _stands(self, s: int) -> int:
        """Return on how many nodes a service runs; 1 for one that may run on any number."""
        return len(self._nodes_of(s)) if self._problem.services[s].spread > 1 else 1

    def _nodes_of(self, s: int) -> set[PoolNode]:
        return {self._on[gpu] for gpu, held in enumerate(self._held) if any(t == s for t, _ in held)}

    # --- from there to configurations

    def result(self) -> OnNodes:
        """Return each GPU with its node; within a node instances are packed so that few services share a GPU."""
        by_node: defaultdict[PoolNode, list[int]] = defaultdict(list)
        for gpu, node in enumerate(self._on):
            by_node[node].append(gpu)
        plain = self._problem.with_services(
            tuple(replace(each, spread=1, survive=None) for each in self._problem.services)
        )
        found: OnNodes = []
        for node, gpus in by_node.items():
            found += [(node, config) for config in self._packed(plain, gpus)]
        return found

    def _packed(self, plain: Problem, gpus: Sequence[int]) -> list[GpuConfig]:
        """Return the configurations of a node's GPUs; where a service survives the loss of a GPU, as they are."""
        held = [self._held[gpu] for gpu in gpus]
        if any(self._levels[s] == "gpu" for each in held for s, _ in each):
            pools = [self._problem.cuts[self._cuts[gpu]].pool for gpu in gpus]
            slots = [tuple(sorted((k, s) for s, k in each.elements())) for each in held]
            return [GpuConfig(pool, mine) for pool, mine in zip(pools, slots, strict=True) if mine]
        counts = Counts(
            np.bincount([self._cuts[gpu] for gpu in gpus], minlength=len(plain.cuts)),
            np.zeros(plain.throughput.shape, dtype=np.int64),
        )
        for each in held:
            for (s, k), n in each.items():
                counts.instances[s, k] += n
        return list(pack(plain, counts, simplify=False).elements())
