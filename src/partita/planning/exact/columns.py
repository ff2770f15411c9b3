"""Column generation: prices for instances, the bound they prove, and covers worth taking.

The Dantzig-Wolfe reformulation of the compact program: a column is a whole integer cover of a service, and
only the rows of the sizes couple services. A master program over the columns found so far gives prices;
pricing finds every service's cheapest cover at them, exactly. The Lagrangian value of any prices is a valid
bound, so the best one seen is kept. Services are priced one by one but share the master's rows in groups, so
that the master stays small however many services there are. Prices are smoothed towards the best so far
(Wentges, 1997), without which they swing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from partita.planning.exact.pricing import cheapest_covers
from partita.planning.exact.program import INFINITY, Fleet, fleet
from partita.planning.watch import Watch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from partita.planning.problem import Problem

GROUPS = 300
SMOOTHING = 0.7
PRECISION = 1e-8
OVERFLOW_COST = 1e4
"""Price of a GPU that a pool does not have, in units of the dearest GPU."""


@dataclass(frozen=True, slots=True)
class Relaxation:
    """What column generation found.

    Attributes:
        bound: proven lower bound of the objective.
        prices: of one instance of each size, shape (K,), in units of the objective.
        covers: an integer cover of every service, close to the optimum together, shape (S, K).
        alternatives: other covers that the optimum mixes in: service of each, shape (A,), and counts (A, K).
        overflow: GPUs that the pools lack even if GPUs and covers could be split; 0 if enough.
    """

    bound: float
    prices: NDArray[np.float64]
    covers: NDArray[np.int32]
    alternatives: tuple[NDArray[np.int64], NDArray[np.int32]]
    overflow: float


@dataclass(frozen=True, slots=True)
class _Prices:
    """Price of an instance per size, scarcity rent of a GPU per finite pool, worth of each group's cover."""

    sizes: NDArray[np.float64]
    rents: NDArray[np.float64]
    worth: NDArray[np.float64]

    def towards(self, other: _Prices, share: float) -> _Prices:
        """Return prices this share of the way to others; worths stay as they are."""
        return _Prices(
            share * other.sizes + (1 - share) * self.sizes,
            share * other.rents + (1 - share) * self.rents,
            self.worth,
        )


@dataclass(frozen=True, slots=True)
class _Offer:
    """The cheapest covers at some prices: counts (S, K), and their sums and bounds by group."""

    covers: NDArray[np.int32]
    usage: NDArray[np.float64]
    cost: NDArray[np.float64]
    bounds: NDArray[np.float64]


class ColumnGeneration:
    """One run over one problem."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        services = len(problem.services)
        groups = min(GROUPS, services)
        self._starts = np.arange(groups) * services // groups
        self._master = _Master(problem, groups)
        self._limits = np.array([p.count for p in problem.pools if p.count is not None], dtype=np.float64)
        self._bound = -INFINITY
        self._best = self._first_prices()

    def run(self, watch: Watch) -> Relaxation:
        """Return the relaxation, or as good a one as the watch allows."""
        offer = self._try(self._best)
        self._master.add(offer, np.arange(len(self._starts)))
        while True:
            value, target = self._master.solve()
            watch.tell(None, self._bound)
            if value - self._bound <= PRECISION * abs(value) or watch.over:
                break
            # Smoothed prices often find no better cover although the master's own would.
            if not self._improves(target.towards(self._best, SMOOTHING), target) and not self._improves(
                target, target
            ):
                break
        covers, alternatives = self._master.mixture(self._starts)
        return Relaxation(self._bound, self._best.sizes, covers, alternatives, self._master.overflow)

    def _improves(self, prices: _Prices, target: _Prices) -> bool:
        return self._master.improve(self._try(prices), target)

    def _try(self, prices: _Prices) -> _Offer:
        """Price all services, and keep the bound and the prices if they are the best so far."""
        offer = self._offer(prices)
        bound = float(offer.bounds.sum() - prices.rents @ self._limits)
        if bound > self._bound:
            self._bound, self._best = bound, prices
        return offer

    def _offer(self, prices: _Prices) -> _Offer:
        """Return every service's cheapest cover at these prices."""
        covers, bounds = price_covers(self._problem, prices.sizes)
        spent = (covers * self._problem.instance_cost).sum(axis=1)
        return _Offer(
            covers,
            np.add.reduceat(covers, self._starts, axis=0).astype(np.float64),
            np.add.reduceat(spent, self._starts),
            np.add.reduceat(bounds, self._starts),
        )

    def _first_prices(self) -> _Prices:
        """Price instances by their compute slices, scaled so that no cut is worth more than its GPU."""
        problem = self._problem
        slices = np.array([_compute(problem, k) for k in range(len(problem.sizes))])
        worth = (problem.supply @ slices / problem.cut_cost).max()
        return _Prices(slices / worth, np.zeros(len(self._limits)), np.zeros(len(self._starts)))


def _compute(problem: Problem, k: int) -> float:
    size = problem.sizes[k]
    gpu = problem.pools[size.pool].gpu
    return gpu.profile(size.profile).compute / gpu.compute_slices * problem.gpu_cost(size.pool)


def price_covers(
    problem: Problem, prices: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return each service's cheapest cover, shape (S, K), and a valid lower bound of its price, (S,)."""
    covers = np.zeros(problem.throughput.shape, dtype=np.int32)
    unit_cost = np.maximum(prices, 0.0) + problem.instance_cost
    bounds = cheapest_covers(unit_cost, problem.throughput, problem.rate, problem.replicas, covers)
    return covers, bounds


class _Master:
    """The linear program over the columns found so far: one row per size, pool and group of services."""

    def __init__(self, problem: Problem, groups: int) -> None:
        nothing = np.zeros(len(problem.sizes))
        extra_cost = OVERFLOW_COST * float(problem.cut_cost.max())
        self._fleet: Fleet = fleet(problem, nothing, integer=False, extra_cost=extra_cost)
        self._sizes = len(problem.sizes)
        ones = np.ones(groups)
        self._groups = self._fleet.program.add_rows(ones, ones)
        self._first = self._fleet.program.width
        self._columns: list[tuple[_Offer, int]] = []
        self._weights: NDArray[np.float64] = np.zeros(0)
        self.overflow = 0.0

    def add(self, offer: _Offer, groups: NDArray[np.int64]) -> None:
        """Add the covers of these groups as columns."""
        entries = []
        for group in groups:
            used = np.flatnonzero(offer.usage[group])
            rows = np.append(self._fleet.sizes + used, self._groups + group)
            entries.append((rows.astype(np.int32), np.append(-offer.usage[group][used], 1.0)))
        self._fleet.program.add_columns(offer.cost[groups], np.full(len(groups), INFINITY), entries)
        self._columns.extend((offer, int(group)) for group in groups)

    def improve(self, offer: _Offer, prices: _Prices) -> bool:
        """Add the covers that are cheaper than what their group is worth; say whether there were any."""
        reduced = offer.usage @ prices.sizes + offer.cost - prices.worth
        better = np.flatnonzero(reduced < -1e-9 * np.maximum(1.0, np.abs(prices.worth)))
        self.add(offer, better)
        return len(better) > 0

    def solve(self) -> tuple[float, _Prices]:
        """Return the optimum over the columns and its prices. It takes milliseconds, whatever time is left."""
        solution = self._fleet.program.solve(Watch())
        pools = [self._fleet.counts[pool] for pool in sorted(self._fleet.counts)]
        self.overflow = float(sum(solution.columns[c] for c in self._fleet.extra.values()))
        self._weights = solution.columns[self._first :]
        return solution.value, _Prices(
            np.maximum(solution.duals[self._fleet.sizes : self._fleet.sizes + self._sizes], 0.0),
            np.maximum(-solution.duals[pools], 0.0),
            solution.duals[self._groups :],
        )

    def mixture(
        self, starts: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], tuple[NDArray[np.int64], NDArray[np.int32]]]:
        """Return the covers of largest weight, and those of their services in other columns with weight."""
        used = np.flatnonzero(self._weights > 1e-9)
        used = used[np.argsort(-self._weights[used], kind="stable")]
        first = self._columns[used[0]][0].covers
        covers = np.zeros_like(first)
        ends = np.append(starts[1:], len(first))
        done: set[int] = set()
        services: list[NDArray[np.int64]] = []
        others: list[NDArray[np.int32]] = []
        for column in used:
            offer, group = self._columns[column]
            span = slice(int(starts[group]), int(ends[group]))
            if group not in done:
                done.add(group)
                covers[span] = offer.covers[span]
                continue
            differs = np.flatnonzero((offer.covers[span] != covers[span]).any(axis=1)) + span.start
            services.append(differs)
            others.append(offer.covers[differs])
        if not services:
            return covers, (np.zeros(0, dtype=np.int64), np.zeros((0, first.shape[1]), dtype=np.int32))
        return covers, (np.concatenate(services), np.concatenate(others))
