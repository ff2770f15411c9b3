"""MIG-Serving's own algorithms (arXiv 2109.11067): greedy, Monte Carlo tree search, and the genetic pipeline of both.

The *utility* of an instance for a service is its throughput over the service's required rate; the *completion rate* c
of a service is the sum of its utilities, and a deployment is valid when none is below 1 (sections 4 and 5). A
*configuration* is a cut with a service on each of its instances; its score is the sum over its instances of (1 - c) u
(section 5 and appendix A). The paper has no replicas and no spread; here they count once rates are met.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from partita.deadline import Deadline
from partita.errors import InfeasibleError, InputError
from partita.planning.assemble import assemble
from partita.planning.bound import lower_bound, relax
from partita.planning.compact import reached
from partita.planning.plan import Plan, Solver
from partita.planning.problem import GpuConfig, gpus_used

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from partita.planning.problem import Cut, Problem


# --- what services still lack

TOLERANCE = 1e-9
"""A completion rate this little below 1 is done: it is a sum of rounded quotients."""


@dataclass(frozen=True, slots=True)
class Completion:
    """How far services are: completion rates, instances, and GPUs they run on; each of shape (S,)."""

    rate: NDArray[np.float64]
    instances: NDArray[np.int64]
    gpus: NDArray[np.int64]


@dataclass(frozen=True)
class ServiceDemand:
    """What the services of a problem need, as the paper's planners see it."""

    problem: Problem

    @cached_property
    def utility(self) -> NDArray[np.float64]:
        """Throughput of service s on size k over its required rate, 0 where it cannot run; shape (S, K)."""
        rate = self.problem.rate[:, None]
        return np.divide(
            self.problem.throughput, rate, out=np.zeros_like(self.problem.throughput), where=rate > 0
        )

    @cached_property
    def share(self) -> NDArray[np.float64]:
        """What share of a service's replicas one instance is, 0 where it cannot run; shape (S, K)."""
        return (self.problem.throughput > 0) / self.problem.replicas[:, None]

    @cached_property
    def spread(self) -> NDArray[np.int64]:
        """Fewest GPUs that a service runs on, one for each node it is spread over; shape (S,)."""
        return np.array([service.spread for service in self.problem.services], dtype=np.int64)

    @cached_property
    def splits(self) -> Splits:
        """The ways to divide a cut between two services."""
        return Splits.of(self.problem)

    @cached_property
    def worth(self) -> NDArray[np.float64]:
        """What each service's whole rate costs at the relaxation's prices, in units of the objective, shape (S,).

        At these prices no configuration is worth more than it costs; the difference is waste.
        """
        return self.problem.rate * relax(self.problem).price

    def value(self, done: Completion, config: GpuConfig) -> float:
        """Return what a GPU is worth at those prices, counting only what services still lack."""
        given = self.after(done, {config: 1}).rate
        useful = np.minimum(given, 1.0) - np.minimum(done.rate, 1.0)
        return float(self.worth @ useful)

    def spare(self, done: Completion) -> float:
        """Return what services have beyond their rates, at those prices."""
        return float(self.worth @ np.maximum(done.rate - 1.0, 0.0))

    @cached_property
    def start(self) -> Completion:
        """Nothing deployed yet.

        Raises:
            InfeasibleError: a service that no size can run.
        """
        stuck = np.flatnonzero(~(self.problem.throughput > 0).any(axis=1))
        if stuck.size:
            name = self.problem.services[stuck[0]].name
            raise InfeasibleError("no profile runs it within its limits", where=f"service {name}")
        none = np.zeros(len(self.problem.services), dtype=np.int64)
        return Completion(np.where(self.problem.rate > 0, 0.0, 1.0), none, none)

    def after(self, done: Completion, configs: Mapping[GpuConfig, int]) -> Completion:
        """Return how far services are when these GPUs are added; negative numbers take GPUs away."""
        rate, instances, gpus = done.rate.copy(), done.instances.copy(), done.gpus.copy()
        for config, n in configs.items():
            for size, service in config.assignment:
                rate[service] += n * self.utility[service, size]
                instances[service] += n
            for service in {service for _, service in config.assignment}:
                gpus[service] += n
        return Completion(rate, instances, gpus)

    def missing(self, done: Completion) -> NDArray[np.float64]:
        """Return what each service lacks, shape (S,): 1 - c, then what is missing of replicas and spread."""
        rate = 1.0 - done.rate
        others = np.maximum(1.0 - done.instances / self.problem.replicas, 1.0 - done.gpus / self.spread)
        return np.maximum(np.where(rate > TOLERANCE, rate, others), 0.0)

    def gain(self, done: Completion) -> NDArray[np.float64]:
        """Return by how much one instance reduces what is missing, shape (S, K)."""
        return np.where((done.rate < 1.0 - TOLERANCE)[:, None], self.utility, self.share)

    def weight(self, done: Completion) -> NDArray[np.float64]:
        """Return what one instance adds to the score of a configuration, (1 - c) u; shape (S, K)."""
        return self.missing(done)[:, None] * self.gain(done)

    def unmet(self, done: Completion) -> NDArray[np.int64]:
        """Return the indices of the services that still lack something."""
        return np.flatnonzero(self.missing(done) > 0)


def gpus_left(problem: Problem, configs: Mapping[GpuConfig, int]) -> NDArray[np.float64]:
    """Return how many GPUs each pool has left, infinity where it has no count."""
    used = gpus_used(configs)
    return np.array([np.inf if p.count is None else p.count - used[i] for i, p in enumerate(problem.pools)])


def short_of_gpus(problem: Problem, unmet: Iterable[int], planner: str) -> InfeasibleError:
    """Return the error that says which services a planner could not meet with the GPUs there are."""
    names = [problem.services[index].name for index in unmet]
    some = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    pools = ", ".join(f"{pool.name}: {pool.count}" for pool in problem.pools if pool.count is not None)
    return InfeasibleError(
        f"{planner} used all GPUs that help ({pools or 'none'}) and cannot meet: {some}",
        hint="add GPUs, or try --planner exact, which finds a plan if there is one",
    )


# --- configurations that are best for what services still lack

LEAST_COST = 1e-9
"""A GPU that costs nothing is chosen first, but its score stays finite."""


@dataclass(frozen=True)
class Splits:
    """Every way to divide the sizes of a cut between two services.

    The score is a sum over instances, so giving all instances of one size to one service scores at least as well as
    dividing them. Only whole sizes are divided.

    Attributes:
        parts: instances of each size that one service gets, over the cost of the GPU; distinct rows, (C, K).
        cut: index of the cut of each split, shape (N,).
        first: index in `parts` of what the first service gets, shape (N,).
        second: index in `parts` of what the second gets, shape (N,); row 0 is nothing.
        pool: index of the pool of each split, shape (N,).
    """

    parts: NDArray[np.float64]
    cut: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    pool: NDArray[np.int64]

    @classmethod
    def of(cls, problem: Problem) -> Splits:
        """Return the splits of all cuts of a problem; sole owners only if a GPU may not be shared."""
        index: dict[tuple[float, ...], int] = {(0.0,) * len(problem.sizes): 0}
        rows: list[tuple[int, int, int, int]] = []
        shared = problem.max_services_per_gpu != 1
        for number, cut in enumerate(problem.cuts):
            cost = max(problem.gpu_cost(cut.pool), LEAST_COST)
            for halves in _halves(cut.counts, shared=shared):
                parts = (tuple(n / cost for n in half) for half in halves)
                first, second = (index.setdefault(part, len(index)) for part in parts)
                rows.append((number, first, second, cut.pool))
        table = np.array(rows, dtype=np.int64).reshape(-1, 4)
        return cls(np.array(list(index)), *table.T)


def _halves(counts: tuple[int, ...], *, shared: bool) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield the divisions of a multiset's sizes in two, each once: the first size stays in the first half."""
    present = [size for size, n in enumerate(counts) if n]
    for moved in range(len(present) if shared else 1):
        for sizes in combinations(present[1:], moved):
            second = tuple(n if size in sizes else 0 for size, n in enumerate(counts))
            yield tuple(n - m for n, m in zip(counts, second, strict=True)), second


class PairSearch:
    """The best-scoring configuration of at most two services, kept up to date as services complete.

    For a given split the best first and the best second service are independent, so one pass over the
    services per part finds the best of all pairs: O(C S) memory and time to start, then O(C) per GPU, and
    O(S) for each part whose best service changed. C, the distinct parts, is some tens.
    """

    def __init__(self, demand: ServiceDemand, done: Completion) -> None:
        self._demand = demand
        self._splits = demand.splits
        self._weight = demand.weight(done)
        self._score = self._splits.parts @ self._weight.T
        self._owner = self._score.argmax(axis=1)
        self._rows = np.arange(len(self._owner))

    def best(self, left: NDArray[np.float64]) -> GpuConfig | None:
        """Return the best configuration of pools that have GPUs left, None where no instance would help."""
        splits = self._splits
        best = self._score[self._rows, self._owner]
        scores = np.where(left[splits.pool] > 0, best[splits.first] + best[splits.second], 0.0)
        split = int(scores.argmax())
        if scores[split] <= 0:
            return None
        owners = self._owner[splits.first[split]], self._owner[splits.second[split]]
        return _pair(self._demand, self._weight, split, owners)

    def update(self, done: Completion, services: Iterable[int]) -> None:
        """Update the scores after these services have come this far."""
        self._weight = self._demand.weight(done)
        for service in services:
            self._score[:, service] = self._splits.parts @ self._weight[service]
            stale = np.flatnonzero(self._owner == service)
            self._owner[stale] = self._score[stale].argmax(axis=1)
            better = self._score[:, service] > self._score[self._rows, self._owner]
            self._owner[better] = service


def _pair(
    demand: ServiceDemand, weight: NDArray[np.float64], split: int, owners: tuple[int, int]
) -> GpuConfig:
    """Return a split with its two services as a configuration; instances that help nobody stay empty."""
    splits = demand.splits
    cut = demand.problem.cuts[splits.cut[split]]
    pairs = [
        (size, int(service))
        for part, service in zip((splits.first[split], splits.second[split]), owners, strict=True)
        for size in np.flatnonzero(splits.parts[part]).tolist()
        if weight[service, size] > 0
        for _ in range(cut.counts[size])
    ]
    return GpuConfig(cut.pool, tuple(sorted(pairs)))


def top_pairs(
    demand: ServiceDemand, done: Completion, left: NDArray[np.float64], services: NDArray[np.int64], most: int
) -> list[GpuConfig]:
    """Return the best-scoring distinct configurations of at most two of these services, best first.

    Lists all of them, O(N m^2) for N splits and m services, so it is for a handful of services.
    """
    splits = demand.splits
    weight = demand.weight(done)
    score = splits.parts @ weight[services].T
    both = score[splits.first][:, :, None] + score[splits.second][:, None, :]
    alone = splits.second == 0
    both[alone] = np.where(np.eye(len(services), dtype=bool), both[alone], 0.0)
    both[left[splits.pool] <= 0] = 0.0
    flat = both.ravel()
    best = np.argsort(-flat, kind="stable")[: 2 * most]
    found: dict[GpuConfig, None] = {}
    for split, first, second in zip(*np.unravel_index(best[flat[best] > 0], both.shape), strict=True):
        found[_pair(demand, weight, int(split), (services[first], services[second]))] = None
    return list(found)[:most]


def packed(
    demand: ServiceDemand, done: Completion, left: NDArray[np.float64], services: NDArray[np.int64]
) -> list[GpuConfig]:
    """Return for each cut the configuration that mixes as many of these services as help, best score first.

    Instances are given out from large to small, each to the service of largest (1 - c) u, where u counts only
    as far as the service still lacks it and c grows with each instance. O(S) per instance of a cut.
    """
    cuts = [cut for cut in demand.problem.cuts if left[cut.pool] > 0]
    scored = [_pack(demand, cut, demand.gain(done)[services], demand.missing(done)[services]) for cut in cuts]
    order = sorted(range(len(cuts)), key=lambda index: -scored[index][0])
    return [
        GpuConfig(cuts[index].pool, tuple(sorted((size, int(services[s])) for size, s in scored[index][1])))
        for index in order
        if scored[index][1]
    ]


def _pack(
    demand: ServiceDemand, cut: Cut, gain: NDArray[np.float64], missing: NDArray[np.float64]
) -> tuple[float, list[tuple[int, int]]]:
    most = demand.problem.max_services_per_gpu or len(missing)
    missing = missing.copy()
    owned = np.zeros(len(missing), dtype=bool)
    pairs: list[tuple[int, int]] = []
    score = 0.0
    for size in reversed(range(len(cut.counts))):
        for _ in range(cut.counts[size]):
            useful = np.minimum(gain[:, size], missing)
            worth = missing * useful
            if np.count_nonzero(owned) >= most:
                worth[~owned] = 0.0
            best = int(worth.argmax())
            if worth[best] <= 0:
                break
            pairs.append((size, best))
            score += float(worth[best])
            missing[best] -= useful[best]
            owned[best] = True
    return score / max(demand.problem.gpu_cost(cut.pool), LEAST_COST), pairs


# --- the fast algorithm


@dataclass(frozen=True, slots=True)
class GreedyPlanner:
    """The fast algorithm of MIG-Serving (arXiv 2109.11067, section 5.2): one pass, no random numbers.

    Attributes:
        deadline: only measures the seconds; a pass has nothing to return before its end.
    """

    deadline: Deadline = field(default_factory=Deadline)

    def plan(self, problem: Problem) -> Plan:
        """Return the plan of one greedy pass.

        Raises:
            InfeasibleError: a service is unmet and no GPU that is left would help it.
        """
        configs = greedy_configs(problem)
        bound = lower_bound(problem)
        return assemble(
            problem, configs, lower_bound=bound, solver=Solver("greedy", 0, self.deadline.seconds)
        )


def greedy_configs(problem: Problem) -> Counter[GpuConfig]:
    """Return the deployment of one greedy pass.

    Raises:
        InfeasibleError: a service is unmet and no GPU that is left would help it.
    """
    demand = ServiceDemand(problem)
    configs, done = complete(demand, demand.start, gpus_left(problem, {}))
    unmet = demand.unmet(done)
    if unmet.size:
        raise short_of_gpus(problem, unmet.tolist(), "greedy")
    return configs


def complete(
    demand: ServiceDemand, done: Completion, left: NDArray[np.float64]
) -> tuple[Counter[GpuConfig], Completion]:
    """Add the GPU of largest score until no service lacks anything, or no GPU helps (appendix A).

    The score of a configuration is sum_i max(0, 1 - c_i) u_i, over those that mix at most two services,
    divided by the cost of its GPU. *Last mile*: where the best one would give a service more than it lacks,
    the GPU is packed with more services instead.

    Args:
        demand: what the services need.
        done: how far they are.
        left: GPUs left in each pool.

    Returns:
        The GPUs added, and how far the services are then.
    """
    search = PairSearch(demand, done)
    left = left.copy()
    added: Counter[GpuConfig] = Counter()
    while demand.missing(done).any():
        config = search.best(left)
        if config is None:
            break
        after = demand.after(done, {config: 1})
        if any(after.rate[service] > 1.0 for _, service in config.assignment):
            config = packed(demand, done, left, demand.unmet(done))[0]
            after = demand.after(done, {config: 1})
        added[config] += 1
        left[config.pool] -= 1
        done = after
        search.update(done, {service for _, service in config.assignment})
    return added, done


# --- the slow algorithm

CHILDREN = 10
"""Children of a node (K in appendix A of the paper)."""


PICKED = 5
"""Unsatisfied services, picked at random, whose configurations become children."""


_POOL = 2  # configurations per kind of completion that roll-outs choose from: more is more random


_FAR = 8  # with this many small instances missing or more, completions are of one kind


_EXPLORATION = 0.1  # UCT's constant; costs are divided by the greedy completion's, so they are near 1


_FAILED = 2.0  # cost, on the same scale, of a roll-out that ran out of GPUs


@dataclass(frozen=True, slots=True)
class MctsPlanner:
    """Monte Carlo tree search from an empty deployment (arXiv 2109.11067, appendix A).

    Its first roll-out is the greedy pass, so its plan is never worse than that one.

    Attributes:
        iterations: most roll-outs.
    """

    seed: int = 0
    iterations: int = 200
    deadline: Deadline = field(default_factory=Deadline)

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
        demand = ServiceDemand(problem)
        bound = lower_bound(problem)
        search = TreeSearch(demand, random.Random(self.seed), self.deadline)
        configs = search.run(demand.start, gpus_left(problem, {}), self.iterations, bound)
        if configs is None:
            _, done = complete(demand, demand.start, gpus_left(problem, {}))
            raise short_of_gpus(problem, demand.unmet(done).tolist(), "mcts")
        solver = Solver("mcts", self.seed, self.deadline.seconds)
        return assemble(problem, configs, lower_bound=bound, solver=solver)


@dataclass(slots=True)
class _Node:
    """How far services are after the configurations on the path to a node, and what its roll-outs cost."""

    done: Completion
    left: NDArray[np.float64]
    children: dict[GpuConfig, _Node] | None = None
    visits: int = 0
    total: float = 0.0


class TreeSearch:
    """Search for the cheapest GPUs that give services what they lack.

    It keeps the pool of good configurations that roll-outs pick from, which later runs use again.
    """

    def __init__(self, demand: ServiceDemand, rng: random.Random, deadline: Deadline) -> None:
        self._demand = demand
        self._random = rng
        self._deadline = deadline
        self._pool: dict[bytes, list[GpuConfig]] = {}

    def run(
        self, done: Completion, left: NDArray[np.float64], iterations: int, enough: float = -math.inf
    ) -> Counter[GpuConfig] | None:
        """Return the cheapest GPUs found after which no service lacks anything, None where none were.

        Each iteration walks down the tree by UCT, expands the leaf it comes to, and rolls out from there. The
        first roll-out is the greedy completion. Of equally cheap ones the one with the most spare capacity wins.

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
            if self._deadline.over or least[0] <= enough:
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
        """Return what the GPUs cost, and the negative of the services' spare capacity."""
        cost = sum(n * self._demand.problem.config_cost(config) for config, n in configs.items())
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
            if not self._pool[kind] or self._deadline.over:
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
        """Return a key, equal for completions that need similar GPUs: small instances missing, at most `_FAR`."""
        gain = self._demand.gain(node.done)
        least = np.where(gain > 0, gain, np.inf).min(axis=1)
        some = np.minimum(np.ceil(missing / least), _FAR).astype(np.int8)
        return bytes(some.tobytes() + (node.left > 0).tobytes())

    def _candidates(self, node: _Node, most: int) -> list[GpuConfig]:
        """Return good configurations of random unmet services, and for the last mile of all unmet ones.

        The paper ranks them by score. Here the best-scoring and the packed ones are ranked by what services need of
        them, at the prices of the relaxation, over what they cost.
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
            key=lambda config: -demand.value(done, config) / max(demand.problem.config_cost(config), 1e-9),
        )
        return ranked[:most]


def _most_promising(children: Mapping[GpuConfig, _Node], visits: int) -> GpuConfig:
    """Return the child of least mean cost minus UCT's exploration term; untried ones come first."""

    def rank(config: GpuConfig) -> float:
        node = children[config]
        if not node.visits:
            return -math.inf
        return node.total / node.visits - _EXPLORATION * math.sqrt(math.log(visits) / node.visits)

    return min(children, key=rank)


# --- the whole pipeline: a greedy start, improved by a genetic algorithm with tree search inside

_ERASED = (0.02, 0.2)  # share of the GPUs that a crossover erases


_ERASED_MOST = 60  # the most that it erases: refilling more takes longer and does no better


_SWAPPED = 0.1  # swaps of a mutation, per GPU


_SPARE_GAIN = 1e-6  # the least increase of spare capacity that counts as a gain


@dataclass(frozen=True, slots=True)
class GeneticPlanner:
    """The two-phase pipeline of MIG-Serving (arXiv 2109.11067, section 5.3); never worse than greedy.

    Attributes:
        population: deployments kept from round to round.
        rounds_without_gain: rounds without a better plan after which it stops.
        iterations: roll-outs of the tree search per crossover.
    """

    seed: int = 0
    population: int = 6
    rounds_without_gain: int = 10
    iterations: int = 3
    deadline: Deadline = field(default_factory=Deadline)

    def __post_init__(self) -> None:
        for name, least in (("population", 1), ("rounds_without_gain", 1), ("iterations", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}", where=name, hint=f"at least {least}")

    def plan(self, problem: Problem) -> Plan:
        """Return the best plan of all rounds.

        Raises:
            InfeasibleError: greedy, where it starts, finds no plan.
        """
        bound = lower_bound(problem)
        configs = _Evolution(self, problem).run(greedy_configs(problem), bound)
        solver = Solver("genetic", self.seed, self.deadline.seconds)
        return assemble(problem, configs, lower_bound=bound, solver=solver)


class _Fitness(NamedTuple):
    """What a deployment costs, and the negative of the services' spare capacity: the smaller the better."""

    cost: float
    wanting: float


class _Evolution:
    """Rounds of the genetic algorithm: a chromosome is a deployment, a gene the configuration of a GPU."""

    def __init__(self, planner: GeneticPlanner, problem: Problem) -> None:
        self._planner = planner
        self._problem = problem
        self._demand = ServiceDemand(problem)
        self._random = random.Random(planner.seed)
        self._search = TreeSearch(self._demand, self._random, planner.deadline)

    def run(self, start: Counter[GpuConfig], bound: float) -> Counter[GpuConfig]:
        """Return the fittest deployment of all rounds."""
        deadline = self._planner.deadline
        elite = [start]
        best = self._fitness(start)
        idle = 0
        while (
            idle < self._planner.rounds_without_gain and not deadline.over and not reached(best.cost, bound)
        ):
            deadline.tell(best.cost, bound)
            elite = self._select([*elite, *self._offspring(elite)])
            fittest = self._fitness(elite[0])
            gained = fittest.cost < best.cost or fittest.wanting < best.wanting - _SPARE_GAIN
            idle = 0 if gained else idle + 1
            best = fittest
        return elite[0]

    def _offspring(self, elite: list[Counter[GpuConfig]]) -> list[Counter[GpuConfig]]:
        """Return a mutated and crossed child per place in the population, fewer when the time is over."""
        children = []
        for place in range(self._planner.population):
            if self._planner.deadline.over:
                break
            children.append(self._cross(self._mutate(elite[place % len(elite)])))
        return children

    def _select(self, deployments: list[Counter[GpuConfig]]) -> list[Counter[GpuConfig]]:
        """Return the fittest distinct deployments, parents before children of equal fitness."""
        distinct = {frozenset(each.items()): each for each in deployments}
        return sorted(distinct.values(), key=self._fitness)[: self._planner.population]

    def _fitness(self, configs: Mapping[GpuConfig, int]) -> _Fitness:
        cost = sum(n * self._problem.config_cost(config) for config, n in configs.items())
        return _Fitness(cost, -self._demand.spare(self._demand.after(self._demand.start, configs)))

    def _cross(self, parent: Counter[GpuConfig]) -> Counter[GpuConfig]:
        """Erase random GPUs and let the tree search add what services then lack.

        The paper does not say how it picks GPUs. Here a GPU is the likelier to go the more it wastes at the prices of
        the relaxation; without that bias equally good children are rare, and better ones rarer.
        """
        gpus = list(parent.elements())
        share = self._random.uniform(*_ERASED)
        number = min(max(2, int(len(gpus) * share)), _ERASED_MOST, len(gpus))
        waste = {config: max(self._waste(config), 1e-3) for config in parent}
        # Keys u^(1/weight): the largest are a weighted sample without replacement (Efraimidis and Spirakis).
        keys = [self._random.random() ** (1.0 / waste[config]) for config in gpus]
        erased = Counter(gpus[i] for i in sorted(range(len(gpus)), key=lambda i: -keys[i])[:number])
        kept = parent - erased
        done = self._demand.after(self._demand.start, kept)
        refill = self._search.run(done, gpus_left(self._problem, kept), self._planner.iterations)
        return parent if refill is None else kept + refill

    def _waste(self, config: GpuConfig) -> float:
        cost = self._problem.config_cost(config)
        worth = sum(self._demand.worth[s] * self._demand.utility[s, k] for k, s in config.assignment)
        return 1.0 - float(worth) / max(cost, 1e-9)

    def _mutate(self, parent: Counter[GpuConfig]) -> Counter[GpuConfig]:
        """Swap the services of pairs of instances of equal size, where no GPU then mixes too many."""
        configs = list(parent.elements())
        slots = defaultdict(list)
        for gpu, config in enumerate(configs):
            for place, (size, _) in enumerate(config.assignment):
                slots[size].append((gpu, place))
        genes = [list(config.assignment) for config in configs]
        for _ in range(max(1, int(_SWAPPED * len(genes)))):
            instances = slots[self._random.choice(list(slots))]
            (a, i), (b, j) = self._random.choice(instances), self._random.choice(instances)
            genes[a][i], genes[b][j] = genes[b][j], genes[a][i]
            if not self._allowed(genes[a], genes[b]):
                genes[a][i], genes[b][j] = genes[b][j], genes[a][i]
        pairs = zip(configs, genes, strict=True)
        child = Counter(GpuConfig(config.pool, tuple(sorted(gene))) for config, gene in pairs)
        unmet = self._demand.unmet(self._demand.after(self._demand.start, child))
        return parent if unmet.size else child

    def _allowed(self, *genes: list[tuple[int, int]]) -> bool:
        most = self._problem.max_services_per_gpu
        return most is None or all(len({service for _, service in gene}) <= most for gene in genes)
