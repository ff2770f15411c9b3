"""At most n services on a GPU: column generation over whole GPUs, since counts are no longer enough."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from itertools import combinations, count, product
from typing import TYPE_CHECKING

import numpy as np

from partita.deadline import Deadline
from partita.milp import INFINITY, Program
from partita.planning.compact import Counts, reached, round_up
from partita.planning.problem import RATE_SLACK, GpuConfig, gpus_used

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from partita.planning.problem import Problem


MOST_SHARING = 4
"""Most services on a GPU for which all ways to share its slots are priced."""


_ROUNDS = 300


_CUT_ROUNDS = 12
"""Most rounds that add cutting planes."""


_VIOLATED = 0.02
"""Share of its right side by which the linear program must miss a cutting plane for it to be added."""


_PROVING = 0.4
"""Share of the time in which the bound is raised; the rest is for plans."""


_KEPT = 40
"""Columns added in a round, the most promising ones."""


_DIVE_ROUNDS = 25
"""Most rounds of pricing between two decisions of a dive."""


_PATIENCE = 6
"""Turns without a better plan after which the search ends though there is time."""


_SURE = 0.95
"""A dive takes every column that has at least this value in the linear program."""


_NEARLY = ((0.85, 2000), (0.7, 6000), (0.5, 15000))
"""Columns for the integer program: worth at least this share of their GPU, and at most so many, turn by turn.

Whole numbers seldom fit the columns alone that the linear program mixes."""


_Part = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SharedResult:
    """Configurations (None if none were found within the pools) and the proven bound of the objective."""

    configs: Counter[GpuConfig] | None
    bound: float


def solve_shared(
    problem: Problem, start: Counter[GpuConfig], known: float, deadline: Deadline, seed: int = 0
) -> SharedResult:
    """Choose whole GPUs, each with at most `max_services_per_gpu` services.

    A column is a GPU's configuration; what it gives a service beyond its whole rate does not count, which makes
    the linear program tight. Pricing tries every way to divide a cut's slots into as many parts as services may
    share it, and gives each part to the service it is worth most to. The program's value is a bound once no
    configuration is worth more than its GPU, and before that after division by the worth of the best
    (Farley, 1990).

    Plans are made in turns, as long as there is time and they get better. A dive takes the columns of largest value
    in the linear program, then prices again for what the services still lack (Sadykov et al., 2019, "Primal
    heuristics for branch and price"). An integer program then combines the columns of all dives and others nearly
    worth their GPU.

    Args:
        problem: one whose `max_services_per_gpu` is at most `MOST_SHARING`.
        start: configurations known to meet all services together.
        known: a bound of the objective that is proven already.
        deadline: when to return the best so far.
        seed: of the random choices between columns of similar value.
    """
    shapes = _Shapes.of(problem)
    pricing = _Pricing(problem, shapes)
    master = _ConfigMaster(problem)
    master.add(start)
    prices, bound = _generate(master, pricing, deadline.share(_PROVING), _ROUNDS, _CUT_ROUNDS)
    least = max(known, round_up(bound, problem))
    best = _Best(problem, least, deadline)
    best.take(start)
    rng = random.Random(seed)
    fruitless = 0
    for turn in count():
        if best.done or fruitless == _PATIENCE:
            break
        before = best.value
        best.take(_dive(problem, shapes, master, deadline, rng if turn else None))
        if turn < len(_NEARLY) and not best.done:
            master.add(pricing.best(prices, *_NEARLY[turn])[0])
        if not best.done:
            best.take(master.whole(least, deadline.share(0.35)))
        fruitless = 0 if best.value < before else fruitless + 1
    return SharedResult(best.configs, least)


class _Best:
    """The best configurations found that the pools have GPUs for."""

    def __init__(self, problem: Problem, least: float, deadline: Deadline) -> None:
        self._problem = problem
        self._least = least
        self._deadline = deadline
        self.configs: Counter[GpuConfig] | None = None
        self.value = INFINITY

    def take(self, configs: Counter[GpuConfig] | None) -> None:
        """Keep configurations if they meet all rates and are better."""
        if not configs or not meets_rates(self._problem, configs):
            return
        found = trim(self._problem, configs)
        value = config_value(self._problem, found)
        if value < self.value - 1e-9:
            self.configs, self.value = found, value
            self._deadline.tell(value, self._least)

    @property
    def done(self) -> bool:
        """Whether nothing better is worth looking for."""
        return self._deadline.over or reached(self.value, self._least)


def _generate(
    master: _ConfigMaster, pricing: _Pricing, deadline: Deadline, rounds: int, cuts: int = 0
) -> tuple[_ServicePrices, float]:
    """Add columns until none is worth more than its GPU; return the last prices and the bound they prove.

    Args:
        master: the program.
        pricing: finds columns.
        deadline: when to stop.
        rounds: most rounds of pricing.
        cuts: most rounds that add cutting planes once there are no more columns.
    """
    bound = -INFINITY
    prices, value = master.solve(deadline)
    for _ in range(rounds):
        found, worth = pricing.best(prices, 1.0 + 1e-9, _KEPT)
        bound = max(bound, value / max(1.0, worth))
        if deadline.over:
            break
        if not master.add(found):
            if not cuts or not master.cut_off():
                break
            cuts -= 1
        prices, value = master.solve(deadline)
    return prices, bound


def _dive(
    problem: Problem, shapes: _Shapes, known: _ConfigMaster, deadline: Deadline, rng: random.Random | None
) -> Counter[GpuConfig] | None:
    """Take GPUs one after the other, those of largest value in the linear program; None if time or GPUs run out.

    Args:
        problem: what the plan is for.
        shapes: how its GPUs can be divided.
        known: gives the first columns; new ones are added to it.
        deadline: when to give up.
        rng: chooses between columns of similar value; None for the largest.
    """
    taken: Counter[GpuConfig] = Counter()
    columns = list(known.used())
    while (rest := _Remainder.of(problem, taken)) is not None:
        if deadline.over:
            return None
        master = _ConfigMaster(rest.problem)
        master.add(_alone(rest.problem))
        master.add(filter(None, map(rest.inside, columns)))
        _generate(master, _Pricing(rest.problem, shapes), deadline, _DIVE_ROUNDS)
        if master.overflow > 1e-6:
            return None
        weights = {rest.outside(config): weight for config, weight in master.used().items()}
        columns = list(weights)
        known.add(columns)
        taken += _surest(weights, rng)
    return taken


def _surest(weights: dict[GpuConfig, float], rng: random.Random | None) -> Counter[GpuConfig]:
    """Return what to take of the linear program's solution: whole GPUs, or else columns of the largest value."""
    whole = Counter({config: int(weight + 1e-6) for config, weight in weights.items() if weight >= 1 - 1e-6})
    if whole:
        return whole
    order = sorted(weights, key=lambda config: -weights[config])
    found: Counter[GpuConfig] = Counter()
    busy: set[int] = set()
    for config in order:
        services = {s for _, s in config.assignment}
        if weights[config] < _SURE:
            break
        if not services & busy:
            found[config] = 1
            busy |= services
    if found:
        return found
    about = [config for config in order if weights[config] > weights[order[0]] - 0.15]
    return Counter([about[0] if rng is None else rng.choice(about)])


def _alone(problem: Problem) -> list[GpuConfig]:
    """Return for each service a GPU of its own in each pool, so that the program always has a solution."""
    found = []
    for s in range(len(problem.services)):
        for pool in range(len(problem.pools)):
            mine = [p for p, cut in enumerate(problem.cuts) if cut.pool == pool]
            given = problem.supply[mine] @ problem.throughput[s]
            if given.any():
                counts = problem.supply[mine[int(given.argmax())]]
                slots = [k for k in np.flatnonzero(problem.throughput[s]).tolist() for _ in range(counts[k])]
                found.append(GpuConfig(pool, tuple((k, s) for k in slots)))
    return found


@dataclass(frozen=True, slots=True)
class _Remainder:
    """What services still lack when some GPUs are taken: a problem of those that lack something.

    Attributes:
        services: index in the whole problem of each of its services.
    """

    problem: Problem
    services: tuple[int, ...]

    @classmethod
    def of(cls, problem: Problem, taken: Counter[GpuConfig]) -> _Remainder | None:
        """Return the remainder, None where no service lacks anything."""
        rate = problem.rate.astype(np.float64)
        replicas, gpus = Counter[int](), Counter[int]()
        used = Counter[int]()
        for config, n in taken.items():
            used[config.pool] += n
            for k, s in config.assignment:
                rate[s] -= n * problem.throughput[s, k]
                replicas[s] += n
            for s in {s for _, s in config.assignment}:
                gpus[s] += n
        lacking = []
        for s, service in enumerate(problem.services):
            more = int(problem.replicas[s]) - replicas[s]
            nodes = service.spread - gpus[s]
            if rate[s] > RATE_SLACK * service.rate or more > 0 or nodes > 0:
                # A service whose rate is met may still lack an instance, of any size.
                left = max(float(rate[s]), 1e-6 * service.rate)
                lacking.append(
                    (s, replace(service, rate=left, min_replicas=max(more, 1), spread=max(nodes, 1)))
                )
        if not lacking:
            return None
        pools = tuple(
            pool if pool.count is None else replace(pool, count=max(0, pool.count - used[index]))
            for index, pool in enumerate(problem.pools)
        )
        rest = replace(problem, services=tuple(service for _, service in lacking), pools=pools)
        return cls(rest, tuple(s for s, _ in lacking))

    def inside(self, config: GpuConfig) -> GpuConfig | None:
        """Return a configuration without the services that lack nothing, None if nothing is left."""
        number = {s: i for i, s in enumerate(self.services)}
        slots = tuple(sorted((k, number[s]) for k, s in config.assignment if s in number))
        return GpuConfig(config.pool, slots) if slots else None

    def outside(self, config: GpuConfig) -> GpuConfig:
        """Return a configuration with the services' own numbers."""
        return GpuConfig(config.pool, tuple(sorted((k, self.services[s]) for k, s in config.assignment)))


@dataclass(frozen=True, slots=True)
class _ServicePrices:
    """Worth of each service's rate, replicas, GPUs, and of the cutting planes; rent of each pool's GPUs."""

    rate: NDArray[np.float64]
    replica: NDArray[np.float64]
    gpu: NDArray[np.float64]
    rent: NDArray[np.float64]
    cuts: tuple[tuple[_RoundedRate, float], ...] = ()


@dataclass(frozen=True, slots=True)
class _RoundedRate:
    """A cutting plane: a service's rate in whole multiples of a throughput, all rounded up (Chvatal, Gomory).

    With u the throughput that a GPU gives the service, sum u x >= rate. So sum ceil(u / unit) x >= rate / unit, and
    since the left side is a whole number, at least the next whole number.

    Attributes:
        unit: items/s.
        least: the right side.
    """

    service: int
    unit: float
    least: int

    @classmethod
    def of(cls, service: int, unit: float, rate: float) -> _RoundedRate:
        """Return the cutting plane of a service's rate for a unit."""
        return cls(service, unit, max(1, math.ceil(rate / unit - 1e-6)))

    def counted(self, throughput: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the coefficients of GPUs that give these items/s."""
        return np.minimum(np.ceil(throughput / self.unit - 1e-9), self.least)


@dataclass(frozen=True, slots=True)
class _Shapes:
    """All ways to divide the slots of all cuts among as many services as may share a GPU.

    Attributes:
        parts: instances of each size that a service may get on a GPU, shape (Q, K).
        divisions: parts of each division, filled up with Q, the empty part; shape (D, most).
        pool: of each division, shape (D,).
    """

    parts: NDArray[np.int64]
    divisions: NDArray[np.int64]
    pool: NDArray[np.int64]

    @classmethod
    def of(cls, problem: Problem) -> _Shapes:
        """Return the divisions of a problem's cuts."""
        most = problem.max_services_per_gpu or 1
        divisions = [(cut.pool, d) for cut in problem.cuts for d in _divisions(cut.counts, most)]
        parts = sorted({part for _, division in divisions for part in division})
        number = {part: i for i, part in enumerate(parts)}
        filled = [
            [number[part] for part in division] + [len(parts)] * (most - len(division))
            for _, division in divisions
        ]
        return cls(np.array(parts), np.array(filled), np.array([pool for pool, _ in divisions]))


class _Pricing:
    """Gives the parts of each division to the services that they are worth most to."""

    def __init__(self, problem: Problem, shapes: _Shapes) -> None:
        self._problem = problem
        self._most = min(problem.max_services_per_gpu or 1, len(problem.services))
        self._parts = shapes.parts
        # Shorter divisions are filled up with the empty part, which is worth nothing to anybody.
        self._empty = len(shapes.parts)
        few = (shapes.divisions != self._empty).sum(axis=1) <= self._most
        self._divisions = shapes.divisions[few][:, : self._most]
        self._pool = shapes.pool[few]
        self._cost = np.array([problem.gpu_cost(pool) for pool in self._pool])
        runs = problem.throughput > 0
        self._slots = runs.astype(np.int64) @ self._parts.T
        self._given = problem.throughput @ self._parts.T
        self._share = np.minimum((problem.throughput / problem.rate[:, None]) @ self._parts.T, 1.0)
        self._own_cost = problem.instance_cost @ self._parts.T

    def best(self, prices: _ServicePrices, least: float, most: int) -> tuple[list[GpuConfig], float]:
        """Return at most `most` configurations worth `least` or more per unit of cost, and the worth of the best."""
        worth = prices.rate[:, None] * self._share + prices.replica[:, None] * self._slots - self._own_cost
        for cut, price in prices.cuts:
            worth[cut.service] += price * cut.counted(self._given[cut.service])
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


def _most_missed(
    s: int, rate: float, given: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[_RoundedRate | None, float]:
    """Return the cutting plane that a solution misses by the largest share of its right side, and that share.

    Args:
        s: the service.
        rate: what it needs, in items/s.
        given: items/s that each column gives it, shape (N,).
        weights: how much of each column the solution takes, shape (N,).
    """
    best: _RoundedRate | None = None
    most = 0.0
    used = weights > 1e-9
    for each in np.unique(given[used]).tolist():
        for unit in (each, each / 2, each / 3):
            cut = _RoundedRate.of(s, unit, rate)
            missed = 1.0 - float(cut.counted(given[used]) @ weights[used]) / cut.least
            if missed > most:
                best, most = cut, missed
    return best, most


class _ConfigMaster:
    """The linear, then integer, program over the configurations found so far."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._program = Program()
        services = len(problem.services)
        endless = np.full(services, INFINITY)
        spread = np.array([max(service.spread, 1) for service in problem.services], dtype=np.float64)
        # A service needs at least as many GPUs, and instances, as its rate takes of the largest.
        gpus = np.ceil(problem.rate / (problem.throughput @ problem.supply.T).max(axis=1) - 1e-6)
        instances = np.ceil(problem.rate / problem.throughput.max(axis=1) - 1e-6)
        replicas = np.maximum(problem.replicas, instances)
        self._needs = np.concatenate([np.ones(services), replicas, np.maximum(spread, gpus)])
        self._program.add_rows(self._needs, np.concatenate([endless] * 3))
        counts = [np.inf if pool.count is None else pool.count for pool in problem.pools]
        self._limits = np.minimum(np.array(counts, dtype=np.float64), 1e9)
        pools = len(problem.pools)
        self._program.add_rows(np.full(pools, -INFINITY), self._limits)
        rows = [(np.array([3 * services + i], dtype=np.int32), np.array([-1.0])) for i in range(pools)]
        self._overflow_cost = 1e4 * float(problem.cut_cost.max())
        self._program.add_columns(np.full(pools, self._overflow_cost), np.full(pools, INFINITY), rows)
        self._configs: dict[GpuConfig, int] = {}
        self._weights: NDArray[np.float64] = np.zeros(0)
        self._cuts: list[tuple[_RoundedRate, int]] = []
        self._cuts_of: defaultdict[int, list[tuple[_RoundedRate, int]]] = defaultdict(list)
        self.overflow = 0.0

    def used(self) -> dict[GpuConfig, float]:
        """Return the configurations in the last linear program's solution, and the value of each."""
        found = {
            config: float(self._weights[column])
            for config, column in self._configs.items()
            if column < len(self._weights)
        }
        return {config: weight for config, weight in found.items() if weight > 1e-6}

    def add(self, configs: Iterable[GpuConfig]) -> bool:
        """Add configurations as columns; say whether there were new ones."""
        new = [config for config in dict.fromkeys(configs) if config not in self._configs]
        entries = [self._entries(config) for config in new]
        cost = np.array([self._problem.config_cost(config) for config in new])
        first = self._program.add_columns(cost, np.full(len(new), INFINITY), entries)
        self._configs.update({config: first + i for i, config in enumerate(new)})
        return bool(new)

    def _entries(self, config: GpuConfig) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        services = len(self._problem.services)
        values: defaultdict[int, float] = defaultdict(float)
        for k, s in config.assignment:
            values[s] += float(self._problem.throughput[s, k] / self._problem.rate[s])
            values[services + s] += 1
            values[2 * services + s] = 1
            values[s] = min(values[s], 1.0)
        values[3 * services + config.pool] = 1
        for s, given in self._gives(config).items():
            for cut, row in self._cuts_of[s]:
                values[row] = float(cut.counted(np.array(given)))
        return np.array(list(values), dtype=np.int32), np.array(list(values.values()), dtype=np.float64)

    def solve(self, deadline: Deadline) -> tuple[_ServicePrices, float]:
        """Return the prices and the value of the linear program."""
        self._program.make_continuous()
        solution = self._program.solve(Deadline(max(deadline.left, 1.0)))
        services = len(self._problem.services)
        self._weights = solution.columns
        self.overflow = float(solution.columns[: len(self._problem.pools)].sum())
        rate, replica, gpu = np.maximum(solution.duals[: 3 * services], 0.0).reshape(3, services)
        rent = np.maximum(-solution.duals[3 * services : 3 * services + len(self._problem.pools)], 0.0)
        priced = tuple(
            (cut, price) for cut, row in self._cuts if (price := float(solution.duals[row])) > 1e-12
        )
        return _ServicePrices(rate, replica, gpu, rent, priced), solution.value

    def _gives(self, config: GpuConfig) -> dict[int, float]:
        found: defaultdict[int, float] = defaultdict(float)
        for k, s in config.assignment:
            found[s] += float(self._problem.throughput[s, k])
        return found

    def cut_off(self) -> bool:
        """Add for each service the cutting plane that the last solution misses most; return whether any was added."""
        gives: defaultdict[int, list[tuple[int, float]]] = defaultdict(list)
        for config, at in self._configs.items():
            for s, throughput in self._gives(config).items():
                gives[s].append((at, throughput))
        found = []
        for s, mine in gives.items():
            columns = np.array([column for column, _ in mine], dtype=np.int32)
            given = np.array([each for _, each in mine])
            weights = self._weights[columns]
            cut, missed = _most_missed(s, float(self._problem.rate[s]), given, weights)
            if cut is not None and missed > _VIOLATED:
                found.append((cut, columns, cut.counted(given)))
        for chosen, columns, counted in found:
            row = self._program.height
            self._program.hold(columns, counted, float(chosen.least))
            self._cuts.append((chosen, row))
            self._cuts_of[chosen.service].append((chosen, row))
        return bool(found)

    def whole(self, enough: float, deadline: Deadline) -> Counter[GpuConfig] | None:
        """Return the best whole numbers of GPUs over the columns; None if the pools have too few for any."""
        self._program.make_integer()
        solution = self._program.solve(Deadline(max(deadline.left, 1.0), deadline.stop), enough=enough)
        if not len(solution.columns) or solution.columns[: len(self._problem.pools)].sum() > 0.5:
            return None
        taken = {config: round(solution.columns[column]) for config, column in self._configs.items()}
        return Counter({config: n for config, n in taken.items() if n})


# --- what configurations cost, whether they meet all rates, and which instances they do not need


def config_value(problem: Problem, configs: Mapping[GpuConfig, int]) -> float:
    """Return the objective; a GPU beyond a pool's count costs more than any plan."""
    used = gpus_used(configs)
    value = sum(n * problem.gpu_cost(pool) for pool, n in sorted(used.items()))
    if problem.instance_cost.any():
        for config, n in configs.items():
            value += n * float(sum(problem.instance_cost[s, k] for k, s in config.assignment))
    beyond = sum(max(0, used[i] - p.count) for i, p in enumerate(problem.pools) if p.count is not None)
    return value + beyond * 1e6 * float(problem.cut_cost.max())


def meets_rates(problem: Problem, configs: Mapping[GpuConfig, int]) -> bool:
    """Say whether every service gets its rates, as `Counts.meets_rates` does."""
    instances = np.zeros(problem.throughput.shape, dtype=np.int64)
    for config, n in configs.items():
        for k, s in config.assignment:
            instances[s, k] += n
    return Counts(np.zeros(0, dtype=np.int64), instances).meets_rates(problem)


def trim(problem: Problem, configs: Counter[GpuConfig]) -> Counter[GpuConfig]:
    """Return the configurations without instances beyond each service's rate, replicas and spread.

    Instances that are a service's only one on their GPU go first, then the smallest, so that fewer services share
    a GPU.
    """
    gpus = [(config.pool, list(config.assignment)) for config in configs.elements()]
    rate: defaultdict[int, float] = defaultdict(float)
    places: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for index, (_, slots) in enumerate(gpus):
        for k, s in slots:
            rate[s] += float(problem.throughput[s, k])
            places[s].append((index, k))
    for s, mine in places.items():
        spare = rate[s] - problem.services[s].rate
        replicas = len(mine) - int(problem.replicas[s])
        per_gpu = Counter(gpu for gpu, _ in mine)
        for gpu, k in sorted(mine, key=lambda at: (per_gpu[at[0]], problem.throughput[s, at[1]], at)):
            alone = per_gpu[gpu] == 1
            stands = sum(1 for n in per_gpu.values() if n) - alone
            if replicas < 1 or problem.throughput[s, k] > spare or stands < problem.services[s].spread:
                continue
            gpus[gpu][1].remove((k, s))
            per_gpu[gpu] -= 1
            replicas -= 1
            spare -= float(problem.throughput[s, k])
    return Counter(GpuConfig(pool, tuple(slots)) for pool, slots in gpus if slots)
