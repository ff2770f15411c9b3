"""MIG-Serving's whole pipeline: a greedy start, improved by a genetic algorithm with tree search inside."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from partita.errors import InputError
from partita.planning.exact.counts import reached
from partita.planning.paper.demand import Demand, config_cost, gpus_left
from partita.planning.paper.greedy import greedy_configs
from partita.planning.paper.mcts import TreeSearch
from partita.planning.paper.paper_bound import lower_bound
from partita.planning.placing.assemble import assemble
from partita.planning.plan import GpuConfig, Plan, Solver
from partita.planning.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.planning.problem import Problem

_ERASED = (0.02, 0.2)  # share of the GPUs that a crossover erases
_ERASED_MOST = 60  # and the most of them: refilling more takes longer and does no better
_SWAPPED = 0.1  # swaps of a mutation, per GPU
_SPARE_GAIN = 1e-6  # more to spare counts as a gain from here on


@dataclass(frozen=True, slots=True)
class GeneticPlanner:
    """The two-phase pipeline of MIG-Serving (arXiv 2109.11067, section 5.3); never worse than greedy.

    Attributes:
        population: deployments kept from round to round.
        rounds_without_gain: stops after so many rounds that found nothing better, or when the watch is over.
        iterations: tree search's roll-outs per crossover.
    """

    seed: int = 0
    population: int = 6
    rounds_without_gain: int = 10
    iterations: int = 3
    watch: Watch = field(default_factory=Watch)

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
        solver = Solver("genetic", self.seed, self.watch.seconds)
        return assemble(problem, configs, lower_bound=bound, solver=solver)


class _Fitness(NamedTuple):
    """What a deployment costs, and the negative of what services have to spare: the smaller the better."""

    cost: float
    wanting: float


class _Evolution:
    """Rounds of the genetic algorithm: a chromosome is a deployment, a gene the configuration of a GPU."""

    def __init__(self, planner: GeneticPlanner, problem: Problem) -> None:
        self._planner = planner
        self._problem = problem
        self._demand = Demand(problem)
        self._random = random.Random(planner.seed)
        self._search = TreeSearch(self._demand, self._random, planner.watch)

    def run(self, start: Counter[GpuConfig], bound: float) -> Counter[GpuConfig]:
        """Return the fittest deployment of all rounds."""
        watch = self._planner.watch
        elite = [start]
        best = self._fitness(start)
        idle = 0
        while idle < self._planner.rounds_without_gain and not watch.over and not reached(best.cost, bound):
            watch.tell(best.cost, bound)
            elite = self._select([*elite, *self._offspring(elite)])
            fittest = self._fitness(elite[0])
            gained = fittest.cost < best.cost or fittest.wanting < best.wanting - _SPARE_GAIN
            idle = 0 if gained else idle + 1
            best = fittest
        return elite[0]

    def _offspring(self, elite: list[Counter[GpuConfig]]) -> list[Counter[GpuConfig]]:
        """Return a mutated and crossed child per place in the population, fewer when the watch is over."""
        children = []
        for place in range(self._planner.population):
            if self._planner.watch.over:
                break
            children.append(self._cross(self._mutate(elite[place % len(elite)])))
        return children

    def _select(self, deployments: list[Counter[GpuConfig]]) -> list[Counter[GpuConfig]]:
        """Return the fittest distinct deployments, parents before children of equal fitness."""
        distinct = {frozenset(each.items()): each for each in deployments}
        return sorted(distinct.values(), key=self._fitness)[: self._planner.population]

    def _fitness(self, configs: Mapping[GpuConfig, int]) -> _Fitness:
        cost = sum(n * config_cost(self._problem, config) for config, n in configs.items())
        return _Fitness(cost, -self._demand.spare(self._demand.after(self._demand.start, configs)))

    def _cross(self, parent: Counter[GpuConfig]) -> Counter[GpuConfig]:
        """Erase random GPUs and let tree search refill what services then lack.

        The paper does not say how it picks them; here the more a GPU wastes at the prices of the relaxation,
        the likelier it goes. Without such a bias equally good children are rare, and better ones rarer.
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
        cost = config_cost(self._problem, config)
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
