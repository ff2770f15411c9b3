"""MIG-Serving's slow algorithm: Monte Carlo tree search over GPU configurations."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from partita.errors import InputError
from partita.planning.paper.configs import packed, top_pairs
from partita.planning.paper.demand import Completion, Demand, config_cost, gpus_left, short_of_gpus
from partita.planning.paper.greedy import complete
from partita.planning.paper.paper_bound import lower_bound
from partita.planning.placing.assemble import assemble
from partita.planning.plan import GpuConfig, Plan, Solver
from partita.planning.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from partita.planning.problem import Problem


CHILDREN = 10
"""Children of a node (K in appendix A of the paper)."""

PICKED = 5
"""Unsatisfied services, picked at random, whose configurations become children."""

_POOL = 2  # configurations per kind of completion that roll-outs choose from: more is more random
_FAR = 8  # small instances missing from which on completions are of one kind
_EXPLORATION = 0.1  # of UCT; costs are over that of the greedy completion, so near 1
_FAILED = 2.0  # what a roll-out counts, on the same scale, that ran out of GPUs


@dataclass(frozen=True, slots=True)
class MctsPlanner:
    """Monte Carlo tree search from an empty deployment (arXiv 2109.11067, appendix A).

    Its first roll-out is the greedy pass, so its plan is never worse than that one.

    Attributes:
        iterations: roll-outs, if the watch is not over before.
    """

    seed: int = 0
    iterations: int = 200
    watch: Watch = field(default_factory=Watch)

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise InputError(
                f"{self.iterations} iterations", where="iterations", hint="at least one is needed"
            )

    def plan(self, problem: Problem) -> Plan:
        """Return the plan with the least objective of all roll-outs.

        Raises:
            InfeasibleError: no roll-out met all services.
        """
        demand = Demand(problem)
        bound = lower_bound(problem)
        search = TreeSearch(demand, random.Random(self.seed), self.watch)
        configs = search.run(demand.start, gpus_left(problem, {}), self.iterations, bound)
        if configs is None:
            _, done = complete(demand, demand.start, gpus_left(problem, {}))
            raise short_of_gpus(problem, demand.unmet(done).tolist(), "mcts")
        solver = Solver("mcts", self.seed, self.watch.seconds)
        return assemble(problem, configs, lower_bound=bound, solver=solver)


@dataclass(slots=True)
class _Node:
    """How far services are after the configurations on the way here, and what roll-outs through here cost."""

    done: Completion
    left: NDArray[np.float64]
    children: dict[GpuConfig, _Node] | None = None
    visits: int = 0
    total: float = 0.0


class TreeSearch:
    """Search for the cheapest GPUs that give services what they lack.

    Keeps the pool of good configurations that roll-outs pick from between runs, as it serves any later search.
    """

    def __init__(self, demand: Demand, rng: random.Random, watch: Watch) -> None:
        self._demand = demand
        self._random = rng
        self._watch = watch
        self._pool: dict[bytes, list[GpuConfig]] = {}

    def run(
        self, done: Completion, left: NDArray[np.float64], iterations: int, enough: float = -math.inf
    ) -> Counter[GpuConfig] | None:
        """Return the cheapest GPUs found after which no service lacks anything, None where none were.

        Each iteration walks down the tree by UCT, expands the leaf it comes to, and rolls out from there. The
        first roll-out is the greedy completion. Of equally cheap ones that which leaves the most to spare wins.

        Args:
            done: how far services are.
            left: GPUs left in each pool.
            iterations: roll-outs.
            enough: stop at this cost.
        """
        best, reached = complete(self._demand, done, left)
        failed = bool(self._demand.missing(reached).any())
        least = (math.inf, 0.0) if failed else self._cost(done, best)
        scale = max(self._cost(done, best)[0], 1e-9)
        root = _Node(done, left)
        for _ in range(iterations):
            if self._watch.over or least[0] <= enough:
                break
            path, way = self._descend(root)
            configs = self._roll_out(path[-1], way)
            cost = (math.inf, 0.0) if configs is None else self._cost(done, configs)
            for node in path:
                node.visits += 1
                node.total += min(sum(cost) / scale, _FAILED)
            if configs is not None and cost < least:
                best, least = configs, cost
        return best if math.isfinite(least[0]) else None

    def _cost(self, done: Completion, configs: Counter[GpuConfig]) -> tuple[float, float]:
        """Return what the GPUs cost, and the negative of what services then have to spare."""
        cost = sum(n * config_cost(self._demand.problem, config) for config, n in configs.items())
        return cost, -self._demand.spare(self._demand.after(done, configs))

    def _descend(self, root: _Node) -> tuple[list[_Node], Counter[GpuConfig]]:
        """Walk to a leaf, expanding it if it was visited before; return the nodes and the GPUs on the way."""
        path, configs = [root], Counter[GpuConfig]()
        node = root
        while node.visits:
            if node.children is None:
                good = self._candidates(node, CHILDREN) if self._demand.unmet(node.done).size else []
                node.children = {config: self._after(node, config) for config in good}
            if not node.children:
                break
            config = _most_promising(node.children, node.visits)
            node = node.children[config]
            configs[config] += 1
            path.append(node)
        return path, configs

    def _roll_out(self, leaf: _Node, way: Counter[GpuConfig]) -> Counter[GpuConfig] | None:
        """Add random GPUs of the pool until no service lacks anything; None if none helps or time is over."""
        node, configs = leaf, way.copy()
        while (missing := self._demand.missing(node.done)).any():
            kind = self._kind(node, missing)
            if kind not in self._pool:
                self._pool[kind] = self._candidates(node, _POOL)
            if not self._pool[kind] or self._watch.over:
                return None
            config = self._random.choice(self._pool[kind])
            configs[config] += 1
            node = self._after(node, config)
        return configs

    def _after(self, node: _Node, config: GpuConfig) -> _Node:
        left = node.left.copy()
        left[config.pool] -= 1
        return _Node(self._demand.after(node.done, {config: 1}), left)

    def _kind(self, node: _Node, missing: NDArray[np.float64]) -> bytes:
        """Return what completions served alike have in common: small instances missing, up to some."""
        gain = self._demand.gain(node.done)
        least = np.where(gain > 0, gain, np.inf).min(axis=1)
        some = np.minimum(np.ceil(missing / least), _FAR).astype(np.int8)
        return bytes(some.tobytes() + (node.left > 0).tobytes())

    def _candidates(self, node: _Node, most: int) -> list[GpuConfig]:
        """Return good configurations of random unmet services, and for the last mile of all unmet ones.

        The paper ranks them by score. Here those of the best score and the packed ones are ranked by what is of
        use in them, at the prices of the relaxation, over what they cost.
        """
        demand, done = self._demand, node.done
        unmet = demand.unmet(done)
        picked = self._random.sample(unmet.tolist(), min(PICKED, len(unmet)))
        some = np.array(sorted(picked), dtype=np.int64)
        found = [
            *top_pairs(demand, done, node.left, some, 2 * most),
            *packed(demand, done, node.left, some),
            *packed(demand, done, node.left, unmet),
        ]
        ranked = sorted(
            dict.fromkeys(found),
            key=lambda config: -demand.value(done, config) / max(config_cost(demand.problem, config), 1e-9),
        )
        return ranked[:most]


def _most_promising(children: Mapping[GpuConfig, _Node], visits: int) -> GpuConfig:
    """Return the child of least mean cost less the room for surprise (UCT); untried ones come first."""

    def rank(config: GpuConfig) -> float:
        node = children[config]
        if not node.visits:
            return -math.inf
        return node.total / node.visits - _EXPLORATION * math.sqrt(math.log(visits) / node.visits)

    return min(children, key=rank)
