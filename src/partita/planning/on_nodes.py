"""Integer programs with nodes in them: which GPU is on which node, or a proof that there is no way.

Counts ignore nodes. Here each node has its own GPUs and its own instances of the services that must be spread; other
services stay counts of their pool, since their instances may go to any node that has room. With
`max_services_per_gpu` the variables are whole configurations of a GPU, all of them listed. Both programs grow with
the nodes, so they run where heuristics fail: on small clusters, where nodes are scarce.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from itertools import combinations, combinations_with_replacement, pairwise, product
from typing import TYPE_CHECKING

import numpy as np

from partita.milp import INFINITY, Program
from partita.planning.assemble import pack
from partita.planning.compact import Counts, round_up
from partita.planning.problem import GpuConfig
from partita.planning.shared_gpus import meets_rates

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from partita.deadline import Deadline
    from partita.planning.problem import Level, MergedPools, Problem


MOST_COLUMNS = 20_000
"""Larger programs are not tried."""


@dataclass(frozen=True, slots=True)
class PoolNode:
    """A node, or one GPU of it: where services survive the loss of a GPU, each GPU is one by itself.

    Attributes:
        pool: its pool in the merged problem.
        member: its pool in the whole problem.
        gpus: how many there are.
        number: of the node in its pool.
        rack: of the node in its pool.
        position: of the GPU in its node, 0 for whole nodes.
    """

    pool: int
    member: int
    gpus: int
    number: int
    rack: int = 0
    position: int = 0

    def domain(self, level: Level) -> tuple[int, ...]:
        """Return what tells the domains of a level apart."""
        ids = {"rack": (self.rack,), "node": (self.number,), "gpu": (self.number, self.position)}
        return (self.member, *ids[level])


@dataclass(frozen=True, slots=True)
class NodesResult:
    """What was found.

    Attributes:
        placed: each GPU's node and configuration (of the merged problem), None if no plan was found.
        bound: proven lower bound of the objective.
        infeasible: proven to have no plan.
    """

    placed: list[tuple[PoolNode, GpuConfig]] | None
    bound: float
    infeasible: bool


def solve_on_nodes(merged: MergedPools, most: float, deadline: Deadline, enough: float) -> NodesResult | None:
    """Return the best plan with its nodes; None where the program would be too large to try.

    Args:
        merged: the problem.
        most: objective of a plan that is known, infinity for none.
        deadline: when to return the best so far.
        enough: stop at a plan of this objective.
    """
    problem = merged.problem
    nodes = _nodes(merged, most)
    if nodes is None:
        return None
    if problem.max_services_per_gpu is None or problem.max_services_per_gpu >= len(problem.services):
        made: _CountsOnNodes | _ConfigsOnNodes | None = _by_counts(problem, nodes)
    else:
        made = _by_configs(problem, nodes)
    if made is None:
        return None
    solution = made.program.solve(deadline, enough=enough)
    if not len(solution.columns):
        return NodesResult(None, solution.bound, solution.infeasible)
    placed = made.read(solution.columns)
    right = meets_rates(problem, Counter(config for _, config in placed))
    return NodesResult(placed if right else None, round_up(solution.bound, problem), infeasible=False)


def apart(problem: Problem) -> list[int]:
    """Return the services for which it matters on which nodes they stand."""
    return [
        s
        for s, service in enumerate(problem.services)
        if service.spread > 1 or service.survive not in {None, "zone"}
    ]


def nodes_there(problem: Problem, s: int) -> float:
    """Return the most nodes that a service can run on, infinity where a pool has no count."""
    pools = {problem.sizes[k].pool for k in np.flatnonzero(problem.throughput[s])}
    total = 0.0
    for pool in (problem.pools[index] for index in pools):
        total += math.inf if pool.count is None else math.ceil(pool.count / pool.per_node)
    return total


def _nodes(merged: MergedPools, most: float) -> list[PoolNode] | None:
    """Return all nodes; a pool without a count has a node for each GPU that a best plan can have."""
    problem, found = merged.problem, list[PoolNode]()
    spread = problem.survives or any(service.spread > 1 for service in problem.services)
    single = any(service.survive == "gpu" for service in problem.services)
    for index, pool in enumerate(problem.pools):
        mine = [(m, merged.whole.pools[m]) for m in merged.members[index]]
        if not spread:
            found.append(PoolNode(index, mine[0][0], pool.count or 10**6, 0))
        elif pool.count is None:
            member = next(m for m, each in mine if each.count is None)
            gpus = _most_gpus(problem, index, most)
            if gpus > MOST_COLUMNS:
                return None
            found += [PoolNode(index, member, 1, i, i) for i in range(gpus)]
        else:
            for member, each in mine:
                count = each.count or 0
                starts = range(0, count, each.per_node)
                if len(starts) > MOST_COLUMNS:
                    return None
                rack = each.nodes_per_rack or 1
                for i, first in enumerate(starts):
                    gpus = min(each.per_node, count - first)
                    if gpus * len(found) > MOST_COLUMNS:
                        return None
                    parts = [(1, position) for position in range(gpus)] if single else [(gpus, 0)]
                    found += [PoolNode(index, member, n, i, i // rack, at) for n, at in parts]
    return found


def _most_gpus(problem: Problem, pool: int, most: float) -> int:
    """Return an upper bound of the GPUs of a pool in any best plan."""
    runs = [k for k, size in enumerate(problem.sizes) if size.pool == pool]
    best = problem.throughput[:, runs].max(axis=1, initial=0.0)
    able = best > 0
    left = np.array([each.survivor_rate for each in problem.services])[able]
    # Where instances of the best size stand on GPUs, nodes and racks of their own, one more is enough for any loss.
    rate = np.maximum(problem.rate[able], left + np.where(left > 0, best[able], 0.0))
    alone = np.maximum(np.ceil(rate / best[able]), problem.replicas[able]).sum()
    if math.isfinite(most) and problem.objective != "watts":
        return int(min(alone, most // problem.gpu_cost(pool)))
    return int(alone)


@dataclass(frozen=True)
class _CountsOnNodes:
    """The program over counts.

    `cuts[v]` is the first column of node v and its cuts; `spread` and `others` list the columns of instances.
    """

    problem: Problem
    nodes: Sequence[PoolNode]
    program: Program
    cuts: Sequence[tuple[int, Sequence[int]]]
    spread: Sequence[tuple[int, int, int, int]]  # column, node, service, size
    others: Sequence[tuple[int, int, int]]  # column, service, size

    def read(self, columns: NDArray[np.float64]) -> list[tuple[PoolNode, GpuConfig]]:
        """Return each GPU's node and configuration; services that need not be spread fill the nodes in turn."""
        problem = self.problem
        shape = problem.throughput.shape
        cuts = np.zeros((len(self.nodes), len(problem.cuts)), dtype=np.int64)
        for v, (first, mine) in enumerate(self.cuts):
            cuts[v, list(mine)] = np.rint(columns[first : first + len(mine)])
        instances = np.zeros((len(self.nodes), *shape), dtype=np.int64)
        for column, v, s, k in self.spread:
            instances[v, s, k] = round(columns[column])
        free = cuts @ problem.supply - instances.sum(axis=1)
        for column, s, k in self.others:
            left = round(columns[column])
            for v in range(len(self.nodes)):
                taken = min(left, int(free[v, k]))
                instances[v, s, k] += taken
                free[v, k] -= taken
                left -= taken
        plain = problem.with_services(tuple(replace(each, spread=1) for each in problem.services))
        return [
            (node, config)
            for v, node in enumerate(self.nodes)
            if cuts[v].any()
            for config in pack(plain, Counts(cuts[v], instances[v]), simplify=False).elements()
        ]


def _by_counts(problem: Problem, nodes: Sequence[PoolNode]) -> _CountsOnNodes | None:
    placed = apart(problem)
    sizes = [[k for k, size in enumerate(problem.sizes) if size.pool == node.pool] for node in nodes]
    mine = [[p for p, cut in enumerate(problem.cuts) if cut.pool == node.pool] for node in nodes]
    width = sum(len(m) + len(placed) * (len(k) + 1) for m, k in zip(mine, sizes, strict=True))
    if width + problem.throughput.size > MOST_COLUMNS:
        return None
    made = _Rows(problem, nodes)
    program = made.program
    supply = {
        v: program.add_rows(np.zeros(len(mine_k)), np.full(len(mine_k), INFINITY))
        for v, mine_k in enumerate(sizes)
    }
    pooled = program.add_rows(np.zeros(len(problem.sizes)), np.full(len(problem.sizes), INFINITY))
    cuts = []
    for v, node in enumerate(nodes):
        entries = []
        for p in mine[v]:
            given = [(i, k) for i, k in enumerate(sizes[v]) if problem.supply[p, k]]
            rows = [supply[v] + i for i, _ in given] + [pooled + k for _, k in given] + made.gpu(v)
            counts = [float(problem.supply[p, k]) for _, k in given] * 2 + made.gpu_values(v)
            entries.append(_entry(rows, counts))
        first = program.add_columns(
            problem.cut_cost[mine[v]], np.full(len(entries), float(node.gpus)), entries, integer=True
        )
        cuts.append((first, mine[v]))
    spread = []
    for s in placed:
        for v in range(len(nodes)):
            for i, k in enumerate(sizes[v]):
                if problem.throughput[s, k] > 0:
                    share = float(problem.throughput[s, k] / problem.rate[s])
                    also = made.standing(s, v, share) + made.partly(s, k)
                    also += [(row, 1.0) for row in made.present(s, v)]
                    entry = _entry(
                        [
                            supply[v] + i,
                            pooled + k,
                            made.rate + s,
                            made.replicas + s,
                            *(row for row, _ in also),
                        ],
                        [-1.0, -1.0, share, 1.0, *(value for _, value in also)],
                    )
                    column = _add(program, problem.instance_cost[s, k], entry)
                    spread.append((column, v, s, k))
    others = []
    for s in sorted(set(range(len(problem.services))) - set(placed)):
        for k in np.flatnonzero(problem.throughput[s]).tolist():
            also = made.partly(s, k)
            entry = _entry(
                [pooled + k, made.rate + s, made.replicas + s, *(row for row, _ in also)],
                [-1.0, problem.throughput[s, k] / problem.rate[s], 1.0, *(value for _, value in also)],
            )
            others.append((_add(program, problem.instance_cost[s, k], entry), s, k))
    return _CountsOnNodes(problem, nodes, program, cuts, spread, others)


@dataclass(frozen=True)
class _ConfigsOnNodes:
    """The program over configurations: each of `columns` is the number of GPUs of a configuration on a node."""

    program: Program
    columns: Sequence[tuple[int, PoolNode, GpuConfig]]

    def read(self, columns: NDArray[np.float64]) -> list[tuple[PoolNode, GpuConfig]]:
        """Return each GPU's node and configuration."""
        return [
            (node, config)
            for column, node, config in self.columns
            for _ in range(round(columns[column]))
            if config.assignment
        ]


def _by_configs(problem: Problem, nodes: Sequence[PoolNode]) -> _ConfigsOnNodes | None:
    if _too_many(problem):
        return None
    per_pool = Counter(node.pool for node in nodes)
    listed: dict[int, list[GpuConfig]] = {}
    width = 0
    for pool, n in per_pool.items():
        listed[pool] = []
        for config in all_configs(problem, pool):
            listed[pool].append(config)
            width += n
            if width > MOST_COLUMNS:
                return None
    made = _Rows(problem, nodes)
    found = []
    for v, node in enumerate(nodes):
        entries, cost = [], []
        for config in listed[node.pool]:
            values: defaultdict[int, float] = defaultdict(float)
            for k, s in config.assignment:
                share = float(problem.throughput[s, k] / problem.rate[s])
                values[made.rate + s] += share
                values[made.replicas + s] += 1
                for row, value in made.standing(s, v, share) + made.partly(s, k):
                    values[row] += value
                values.update(dict.fromkeys(made.present(s, v), 1.0))
            rows = [*values, *made.gpu(v)]
            entries.append(_entry(rows, [*values.values(), *made.gpu_values(v)]))
            cost.append(problem.config_cost(config))
        upper = np.full(len(cost), min(float(node.gpus), INFINITY))
        first = made.program.add_columns(np.array(cost), upper, entries, integer=True)
        found += [(first + i, node, config) for i, config in enumerate(listed[node.pool])]
    return _ConfigsOnNodes(made.program, found)


def _too_many(problem: Problem) -> bool:
    """Return whether there are too many configurations to list, without listing them."""
    services = len(problem.services)
    most = min(problem.max_services_per_gpu or services, services)
    ways = sum(math.prod(math.comb(n + most - 1, n) for n in cut.counts) for cut in problem.cuts)
    return math.comb(services, most) * ways > 10 * MOST_COLUMNS


def all_configs(problem: Problem, pool: int) -> Iterator[GpuConfig]:
    """Yield the configurations of a pool, each with as many services as may share a GPU.

    Configurations with empty slots come too where instances cost something.
    """
    most = min(problem.max_services_per_gpu or len(problem.services), len(problem.services))
    runs = problem.throughput > 0
    seen: set[tuple[tuple[int, int], ...]] = set()
    nobody = (-1,) if problem.instance_cost.any() else ()
    for cut in problem.cuts:
        if cut.pool != pool:
            continue
        for team in combinations(range(len(problem.services)), most):
            choices = []
            for k, n in enumerate(cut.counts):
                able = (*(s for s in team if runs[s, k]), *nobody) or (-1,)
                choices.append(list(combinations_with_replacement(able, n)))
            for chosen in product(*choices):
                slots = tuple(sorted((k, s) for k, mine in enumerate(chosen) for s in mine if s >= 0))
                if slots and slots not in seen:
                    seen.add(slots)
                    yield GpuConfig(pool, slots)


class _Rows:
    """The rows of both programs: rates, replicas, GPUs in a node, and the nodes that a service runs on."""

    def __init__(self, problem: Problem, nodes: Sequence[PoolNode]) -> None:
        self._nodes = nodes
        services = len(problem.services)
        endless = np.full(services, INFINITY)
        self.program = Program()
        self.rate = self.program.add_rows(np.ones(services), endless)
        self.replicas = self.program.add_rows(problem.replicas.astype(np.float64), endless)
        spread = np.array(
            [each.spread if each.spread > 1 else 0 for each in problem.services], dtype=np.float64
        )
        self._spread = self.program.add_rows(spread, endless)
        room = np.array([float(node.gpus) for node in nodes])
        self._room = self.program.add_rows(np.full(len(nodes), -INFINITY), room)
        self._order: defaultdict[int, list[tuple[int, float]]] = defaultdict(list)
        self._order_nodes(racks=any(each.survive == "rack" for each in problem.services))
        self._presence: dict[tuple[int, tuple[int, ...]], int] = {}
        self._losses: dict[tuple[int, tuple[int, ...]], int] = {}
        self._totals: dict[int, int] = {}
        for s, service in enumerate(problem.services):
            if service.survive not in {None, "zone"}:
                self._add_losses(s, service.survive, service.survivor_rate / problem.rate[s])
        self._survive = [None if each.survive == "zone" else each.survive for each in problem.services]
        self._spreads = [each.spread > 1 for each in problem.services]
        self._parts: defaultdict[tuple[int, int], list[tuple[int, float]]] = defaultdict(list)
        for part in problem.parts:
            row = self.program.add_rows(np.ones(1), np.full(1, INFINITY))
            for k in np.flatnonzero(part.sizes).tolist():
                share = float(problem.throughput[part.service, k] / part.rate)
                self._parts[part.service, k].append((row, share))

    def _order_nodes(self, *, racks: bool) -> None:
        """Let the first of two nodes, or of two GPUs of one, that are interchangeable hold at least as many GPUs."""
        of_node: dict[tuple[int, int], list[int]] = {}
        for v, node in enumerate(self._nodes):
            of_node.setdefault((node.member, node.number), []).append(v)
        pairs = [([a], [b]) for mine in of_node.values() for a, b in pairwise(mine)]
        for mine, theirs in pairwise(of_node.values()):
            a, b = self._nodes[mine[0]], self._nodes[theirs[0]]
            moved = replace(a, number=b.number, rack=a.rack if racks else b.rack)
            if moved == b and len(mine) == len(theirs):
                pairs.append((mine, theirs))
        first = self.program.add_rows(np.zeros(len(pairs)), np.full(len(pairs), INFINITY))
        for row, (more, fewer) in enumerate(pairs, first):
            for mine, value in ((more, 1.0), (fewer, -1.0)):
                for v in mine:
                    self._order[v].append((row, value))

    def _add_losses(self, s: int, level: Level, left: float) -> None:
        """Add a row for each domain, and a column for the service's capacity: without the domain, enough is left."""
        domains = list(dict.fromkeys(node.domain(level) for node in self._nodes))
        total = self.program.add_rows(np.zeros(1), np.zeros(1))
        first = self.program.add_rows(np.full(len(domains), left), np.full(len(domains), INFINITY))
        rows = [total, *range(first, first + len(domains))]
        _add_continuous(self.program, _entry(rows, [-1.0] + [1.0] * len(domains)))
        self._totals[s] = total
        self._losses.update({(s, domain): row for row, domain in enumerate(domains, first)})

    def gpu(self, v: int) -> list[int]:
        """Return the rows in which a GPU of a node counts."""
        return [self._room + v, *(row for row, _ in self._order.get(v, ()))]

    def gpu_values(self, v: int) -> list[float]:
        """Return how it counts in each."""
        return [1.0, *(value for _, value in self._order.get(v, ()))]

    def standing(self, s: int, v: int, share: float) -> list[tuple[int, float]]:
        """Return rows and coefficients of an instance of a service on a node, which gives this share of its rate."""
        level = self._survive[s]
        if level is None:
            return []
        return [(self._totals[s], share), (self._losses[s, self._nodes[v].domain(level)], -share)]

    def partly(self, s: int, k: int) -> list[tuple[int, float]]:
        """Return rows and coefficients of an instance for the rates that some sizes must give alone."""
        return self._parts[s, k]

    def present(self, s: int, v: int) -> list[int]:
        """Return the row of a service's instances on a node, where it must be spread.

        A column, which is added with the row, says whether that is one more node on which it runs.
        """
        if not self._spreads[s]:
            return []
        at = (s, self._nodes[v].domain("node"))
        if at not in self._presence:
            self._presence[at] = self.program.add_rows(np.zeros(1), np.array([INFINITY]))
            entry = _entry([self._presence[at], self._spread + s], [-1.0, 1.0])
            self.program.add_columns(np.zeros(1), np.ones(1), [entry], integer=True)
        return [self._presence[at]]


_Entry = tuple["NDArray[np.int32]", "NDArray[np.float64]"]


def _entry(rows: Sequence[int], values: Sequence[float]) -> _Entry:
    return np.array(rows, dtype=np.int32), np.array(values, dtype=np.float64)


def _add(program: Program, cost: float, entry: _Entry) -> int:
    return program.add_columns(np.array([float(cost)]), np.array([INFINITY]), [entry], integer=True)


def _add_continuous(program: Program, entry: _Entry) -> None:
    program.add_columns(np.zeros(1), np.array([INFINITY]), [entry])
