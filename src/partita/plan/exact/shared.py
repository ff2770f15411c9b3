"""At most n services on a GPU: column generation over whole GPUs, since counts no longer say it all."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING

import numpy as np

from partita.plan.exact.counts import reached, round_up
from partita.plan.exact.program import INFINITY, Program
from partita.plan.exact.trim import trim
from partita.plan.exact.valuing import config_value, meets_rates
from partita.plan.plan import GpuConfig
from partita.plan.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from partita.plan.problem import Problem

MOST_SHARING = 4
"""Most services on a GPU for which all ways to share its slots are priced."""

_ROUNDS = 300
_KEPT = 40
"""Columns added in a round, the most promising ones."""

_NEARLY = ((0.85, 2000), (0.7, 6000), (0.5, 15000))
"""Columns for the integer program: worth at least this share of their GPU, and at most so many, round by round.

Whole numbers seldom fit the columns alone that the linear program mixes."""

_Part = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SharedResult:
    """Configurations (None if none were found within the pools) and the proven bound of the objective."""

    configs: Counter[GpuConfig] | None
    bound: float


def solve_shared(problem: Problem, start: Iterable[GpuConfig], watch: Watch) -> SharedResult:
    """Choose whole GPUs, each with at most `max_services_per_gpu` services.

    A column is a GPU's configuration; what it gives a service beyond its whole rate does not count, which makes
    the linear program tight. Pricing tries every way to divide a cut's slots into as many parts as services may
    share it, and gives each part to the service it is worth most to. The program's value is a bound once no
    configuration is worth more than its GPU, and before that after division by the worth of the best
    (Farley, 1990). An integer program over the columns then makes the plan.

    Args:
        problem: one whose `max_services_per_gpu` is at most `MOST_SHARING`.
        start: configurations known to meet all services together.
        watch: when to return the best so far.
    """
    master = _Master(problem)
    master.add(start)
    bound = -INFINITY
    pricing = _Pricing(problem)
    for _ in range(_ROUNDS):
        prices, value = master.solve(watch)
        found, worth = pricing.best(prices, 1.0 + 1e-9, _KEPT)
        bound = max(bound, value / max(1.0, worth))
        watch.tell(None, round_up(bound, problem))
        if not master.add(found) or watch.over:
            break
    least = round_up(bound, problem)
    best: Counter[GpuConfig] | None = None
    for share, most in _NEARLY:
        master.add(pricing.best(prices, share, most)[0])
        configs = master.whole(least, watch.share(0.5))
        if configs and meets_rates(problem, configs):
            best = trim(problem, configs)
        if watch.over or (best and reached(config_value(problem, best), least)):
            break
    return SharedResult(best, least)


@dataclass(frozen=True, slots=True)
class _Prices:
    """Worth of meeting each service's rate, of a replica, of a GPU it stands on; rent of each pool's GPUs."""

    rate: NDArray[np.float64]
    replica: NDArray[np.float64]
    gpu: NDArray[np.float64]
    rent: NDArray[np.float64]


class _Pricing:
    """All ways to divide the slots of all cuts among as many services as may share a GPU."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._most = min(problem.max_services_per_gpu or 1, len(problem.services))
        divisions = [(cut.pool, d) for cut in problem.cuts for d in _divisions(cut.counts, self._most)]
        parts = sorted({part for _, division in divisions for part in division})
        number = {part: i for i, part in enumerate(parts)}
        self._parts = np.array(parts)
        # Shorter divisions are filled up with the empty part, which is worth nothing to anybody.
        self._empty = len(parts)
        self._divisions = np.array(
            [
                [number[part] for part in division] + [self._empty] * (self._most - len(division))
                for _, division in divisions
            ]
        )
        self._pool = np.array([pool for pool, _ in divisions])
        self._cost = np.array([problem.gpu_cost(pool) for pool in self._pool])
        runs = problem.throughput > 0
        self._slots = runs.astype(np.int64) @ self._parts.T
        self._share = np.minimum((problem.throughput / problem.rate[:, None]) @ self._parts.T, 1.0)
        self._own_cost = problem.instance_cost @ self._parts.T

    def best(self, prices: _Prices, least: float, most: int) -> tuple[list[GpuConfig], float]:
        """Return the configurations worth at least so much per unit of cost, and the worth of the best one."""
        worth = prices.rate[:, None] * self._share + prices.replica[:, None] * self._slots - self._own_cost
        worth = np.maximum(worth + prices.gpu[:, None] * (self._slots > 0), 0.0)
        worth = np.column_stack([worth, np.zeros(len(worth))])
        first = np.argsort(-worth, axis=0, kind="stable")[: self._most]
        value = np.full(len(self._divisions), -np.inf)
        team = np.zeros_like(self._divisions)
        for ranks in product(range(self._most), repeat=self._most):
            services = first[ranks, self._divisions]
            total = worth[services, self._divisions].sum(axis=1)
            total[self._repeated(services)] = -np.inf
            better = total > value
            value[better], team[better] = total[better], services[better]
        value -= prices.rent[self._pool]
        per_cost = value / self._cost
        order = np.argsort(-per_cost, kind="stable")[:most]
        chosen = order[per_cost[order] >= least]
        return [self._config(i, team[i], worth) for i in chosen], float(per_cost.max())

    def _repeated(self, services: NDArray[np.int64]) -> NDArray[np.bool_]:
        repeated = np.zeros(len(services), dtype=np.bool_)
        for i, j in combinations(range(self._most), 2):
            both = (self._divisions[:, i] != self._empty) & (self._divisions[:, j] != self._empty)
            repeated |= both & (services[:, i] == services[:, j])
        return repeated

    def _config(self, i: int, team: NDArray[np.int64], worth: NDArray[np.float64]) -> GpuConfig:
        slots: list[tuple[int, int]] = []
        for part, s in zip(self._divisions[i], team, strict=True):
            if part != self._empty and worth[s, part] > 0.0:
                runs = self._problem.throughput[s] > 0
                slots += [(k, int(s)) for k, n in enumerate(self._parts[part]) if runs[k] for _ in range(n)]
        return GpuConfig(int(self._pool[i]), tuple(sorted(slots)))


def _divisions(counts: _Part, most: int) -> set[tuple[_Part, ...]]:
    """Return all ways to divide the counts into at most so many parts that are not empty, in no order."""
    if not any(counts):
        return {()}
    if most == 1:
        return {(counts,)}
    found: set[tuple[_Part, ...]] = {(counts,)}
    for part in product(*(range(n + 1) for n in counts)):
        if any(part) and part != counts:
            rest = tuple(n - m for n, m in zip(counts, part, strict=True))
            found |= {tuple(sorted((part, *others))) for others in _divisions(rest, most - 1)}
    return found


class _Master:
    """The linear, then integer, program over the configurations found so far."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._program = Program()
        services = len(problem.services)
        endless = np.full(services, INFINITY)
        spread = np.array([max(service.spread, 1) for service in problem.services], dtype=np.float64)
        self._needs = np.concatenate([np.ones(services), problem.replicas, spread])
        self._program.add_rows(self._needs, np.concatenate([endless] * 3))
        counts = [np.inf if pool.count is None else pool.count for pool in problem.pools]
        self._limits = np.minimum(np.array(counts, dtype=np.float64), 1e9)
        pools = len(problem.pools)
        self._program.add_rows(np.full(pools, -INFINITY), self._limits)
        rows = [(np.array([3 * services + i], dtype=np.int32), np.array([-1.0])) for i in range(pools)]
        self._overflow_cost = 1e4 * float(problem.cut_cost.max())
        self._program.add_columns(np.full(pools, self._overflow_cost), np.full(pools, INFINITY), rows)
        self._configs: dict[GpuConfig, int] = {}

    def add(self, configs: Iterable[GpuConfig]) -> bool:
        """Add configurations as columns; say whether there were new ones."""
        new = [config for config in dict.fromkeys(configs) if config not in self._configs]
        entries = [self._entries(config) for config in new]
        cost = np.array([self._cost(config) for config in new])
        first = self._program.add_columns(cost, np.full(len(new), INFINITY), entries)
        self._configs.update({config: first + i for i, config in enumerate(new)})
        return bool(new)

    def _cost(self, config: GpuConfig) -> float:
        own = sum(self._problem.instance_cost[s, k] for k, s in config.assignment)
        return self._problem.gpu_cost(config.pool) + float(own)

    def _entries(self, config: GpuConfig) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        services = len(self._problem.services)
        values: defaultdict[int, float] = defaultdict(float)
        for k, s in config.assignment:
            values[s] += float(self._problem.throughput[s, k] / self._problem.rate[s])
            values[services + s] += 1
            values[2 * services + s] = 1
            values[s] = min(values[s], 1.0)
        values[3 * services + config.pool] = 1
        return np.array(list(values), dtype=np.int32), np.array(list(values.values()), dtype=np.float64)

    def solve(self, watch: Watch) -> tuple[_Prices, float]:
        """Return the prices and the value of the linear program."""
        solution = self._program.solve(Watch(max(watch.left, 1.0)))
        services = len(self._problem.services)
        rate, replica, gpu = np.maximum(solution.duals[: 3 * services], 0.0).reshape(3, services)
        return _Prices(rate, replica, gpu, np.maximum(-solution.duals[3 * services :], 0.0)), solution.value

    def whole(self, enough: float, watch: Watch) -> Counter[GpuConfig] | None:
        """Return the best whole numbers of GPUs over the columns; None if the pools have too few for any."""
        self._program.make_integer()
        solution = self._program.solve(Watch(max(watch.left, 1.0), watch.stop), enough=enough)
        if not len(solution.columns) or solution.columns[: len(self._problem.pools)].sum() > 0.5:
            return None
        taken = {config: round(solution.columns[column]) for config, column in self._configs.items()}
        return Counter({config: n for config, n in taken.items() if n})
