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

from partita.deadline import Deadline
from partita.milp import INFINITY
from partita.planning.compact import Counts, GpuSupply, gpu_supply, reached, round_up
from partita.planning.pricing import price_covers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from partita.planning.problem import Problem


GROUPS = 300


SMOOTHING = 0.7


PRECISION = 1e-8


OVERFLOW_COST = 1e4
"""Price of a GPU that a pool does not have, in units of the dearest GPU."""


@dataclass(frozen=True, slots=True)
class CoverRelaxation:
    """What column generation found.

    Attributes:
        bound: proven lower bound of the objective.
        prices: of one instance of each size, shape (K,), in units of the objective.
        covers: one integer cover per service, together close to the optimum, shape (S, K).
        alternatives: other covers in the optimum: service of each, shape (A,), and counts (A, K).
        overflow: GPUs that the pools lack even if GPUs and covers could be split; 0 if enough.
    """

    bound: float
    prices: NDArray[np.float64]
    covers: NDArray[np.int32]
    alternatives: tuple[NDArray[np.int64], NDArray[np.int32]]
    overflow: float


@dataclass(frozen=True, slots=True)
class _SizePrices:
    """Price of an instance per size, scarcity rent of a GPU per finite pool, worth of each group's cover."""

    sizes: NDArray[np.float64]
    rents: NDArray[np.float64]
    worth: NDArray[np.float64]

    def towards(self, other: _SizePrices, share: float) -> _SizePrices:
        """Return prices this share of the way to others; worths stay as they are."""
        return _SizePrices(
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
        self._master = _CoverMaster(problem, groups)
        self._limits = np.array([p.count for p in problem.pools if p.count is not None], dtype=np.float64)
        self._bound = -INFINITY
        self._best = self._first_prices()

    def run(self, deadline: Deadline) -> CoverRelaxation:
        """Return the relaxation: the best found by the deadline."""
        offer = self._try(self._best)
        self._master.add(offer, np.arange(len(self._starts)))
        while True:
            value, target = self._master.solve()
            deadline.tell(None, self._bound)
            if value - self._bound <= PRECISION * abs(value) or deadline.over:
                break
            # Smoothed prices often find no better cover although the master's own would.
            if not self._improves(target.towards(self._best, SMOOTHING), target) and not self._improves(
                target, target
            ):
                break
        covers, alternatives = self._master.mixture(self._starts)
        return CoverRelaxation(self._bound, self._best.sizes, covers, alternatives, self._master.overflow)

    def _improves(self, prices: _SizePrices, target: _SizePrices) -> bool:
        return self._master.improve(self._try(prices), target)

    def _try(self, prices: _SizePrices) -> _Offer:
        """Price all services, and keep the bound and the prices if they are the best so far."""
        offer = self._offer(prices)
        bound = float(offer.bounds.sum() - prices.rents @ self._limits)
        if bound > self._bound:
            self._bound, self._best = bound, prices
        return offer

    def _offer(self, prices: _SizePrices) -> _Offer:
        """Return every service's cheapest cover at these prices."""
        covers, bounds = price_covers(self._problem, prices.sizes)
        spent = (covers * self._problem.instance_cost).sum(axis=1)
        return _Offer(
            covers,
            np.add.reduceat(covers, self._starts, axis=0).astype(np.float64),
            np.add.reduceat(spent, self._starts),
            np.add.reduceat(bounds, self._starts),
        )

    def _first_prices(self) -> _SizePrices:
        """Price instances by their compute slices, scaled so that no cut is worth more than its GPU."""
        problem = self._problem
        slices = np.array([_compute(problem, k) for k in range(len(problem.sizes))])
        worth = (problem.supply @ slices / problem.cut_cost).max()
        return _SizePrices(slices / worth, np.zeros(len(self._limits)), np.zeros(len(self._starts)))


def _compute(problem: Problem, k: int) -> float:
    size = problem.sizes[k]
    gpu = problem.pools[size.pool].gpu
    return gpu.profile(size.profile).compute / gpu.compute_slices * problem.gpu_cost(size.pool)


class _CoverMaster:
    """The linear program over the columns found so far: one row per size, pool and group of services."""

    def __init__(self, problem: Problem, groups: int) -> None:
        nothing = np.zeros(len(problem.sizes))
        extra_cost = OVERFLOW_COST * float(problem.cut_cost.max())
        self._supply: GpuSupply = gpu_supply(problem, nothing, integer=False, extra_cost=extra_cost)
        self._sizes = len(problem.sizes)
        ones = np.ones(groups)
        self._groups = self._supply.program.add_rows(ones, ones)
        self._first = self._supply.program.width
        self._columns: list[tuple[_Offer, int]] = []
        self._weights: NDArray[np.float64] = np.zeros(0)
        self.overflow = 0.0

    def add(self, offer: _Offer, groups: NDArray[np.int64]) -> None:
        """Add the covers of these groups as columns."""
        entries = []
        for group in groups:
            used = np.flatnonzero(offer.usage[group])
            rows = np.append(self._supply.sizes + used, self._groups + group)
            entries.append((rows.astype(np.int32), np.append(-offer.usage[group][used], 1.0)))
        self._supply.program.add_columns(offer.cost[groups], np.full(len(groups), INFINITY), entries)
        self._columns.extend((offer, int(group)) for group in groups)

    def improve(self, offer: _Offer, prices: _SizePrices) -> bool:
        """Add the covers that are cheaper than what their group is worth; say whether there were any."""
        reduced = offer.usage @ prices.sizes + offer.cost - prices.worth
        better = np.flatnonzero(reduced < -1e-9 * np.maximum(1.0, np.abs(prices.worth)))
        self.add(offer, better)
        return len(better) > 0

    def solve(self) -> tuple[float, _SizePrices]:
        """Return the optimum over the columns and its prices. It takes milliseconds, whatever time is left."""
        solution = self._supply.program.solve(Deadline())
        pools = [self._supply.counts[pool] for pool in sorted(self._supply.counts)]
        self.overflow = float(sum(solution.columns[c] for c in self._supply.extra.values()))
        self._weights = solution.columns[self._first :]
        return solution.value, _SizePrices(
            np.maximum(solution.duals[self._supply.sizes : self._supply.sizes + self._sizes], 0.0),
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


# --- rounding: one cover per service, chosen so that together they fit on whole GPUs

ALTERNATIVES = 3000
"""Covers offered to one integer program besides the current ones."""


ROUNDS = 4


MOST_ROUNDS = 10
"""Rounds where the best choice is more than a GPU above the bound: a slow machine gets less far in each."""


ROUND_SECONDS = 2.0
"""Most seconds of one round: another choice of covers does more than a longer search among the same."""


_GRACE_SECONDS = 2.0
"""Time for the first choice even if the time is over: a plan with a gap is better than none."""


def round_covers(
    problem: Problem, relaxation: CoverRelaxation, seed: int, deadline: Deadline
) -> Counts | None:
    """Choose one cover for each service and whole GPUs for all, as few as can be found.

    Services whose cheapest cover is certain keep it; an integer program chooses for the others among covers
    that cost almost the same. Each round starts from the last one's choice and offers other covers, made by
    shaking the prices a little.

    Returns:
        The counts, or None if the pools' GPUs were not enough for any choice tried.
    """
    rng = np.random.default_rng(seed)
    covers, offered = relaxation.covers, relaxation.alternatives
    target = round_up(relaxation.bound, problem)
    best: Counts | None = None
    near = target + float(problem.cut_cost.max()) + 1e-6
    for index in range(MOST_ROUNDS):
        if index >= ROUNDS and (best is None or best.value(problem) <= near):
            break
        more = _nearly_cheapest(problem, relaxation.prices, covers, 0.01 * 2.0 ** (index % ROUNDS), rng)
        turn = deadline.at_most(ROUND_SECONDS)
        if best is None and (deadline.over or turn.left < _GRACE_SECONDS):
            turn = Deadline(_GRACE_SECONDS)
        choice = _choose(problem, covers, _distinct(covers, offered, more), target, turn)
        if choice is None:
            return best
        found, overflow = choice
        covers, offered = found.instances.astype(np.int32), more
        if not overflow and (best is None or found.value(problem) < best.value(problem)):
            best = found
            deadline.tell(best.value(problem), relaxation.bound)
        if best is not None and (reached(best.value(problem), target) or deadline.over):
            break
    return best


def cut_for(problem: Problem, covers: NDArray[np.int32]) -> Counts | None:
    """Return the fewest GPUs that hold these instances, found within `_GRACE_SECONDS`; None if none were found."""
    demand = covers.sum(axis=0).astype(np.float64)
    gpus = gpu_supply(problem, demand, integer=True, extra_cost=None)
    solution = gpus.program.solve(Deadline(_GRACE_SECONDS))
    if not len(solution.columns):
        return None
    cuts = np.rint(solution.columns[gpus.cuts : gpus.cuts + len(problem.cuts)]).astype(np.int64)
    return Counts(cuts, covers.astype(np.int64))


_Alternatives = tuple["NDArray[np.int64]", "NDArray[np.int32]"]


def _nearly_cheapest(
    problem: Problem,
    prices: NDArray[np.float64],
    covers: NDArray[np.int32],
    shake: float,
    rng: np.random.Generator,
) -> _Alternatives:
    """Return covers other than the current ones, sorted by what they cost above the cheapest."""
    cheapest, least = price_covers(problem, prices)
    found, extra = [], []
    for attempt in range(7):
        shaken = prices * (1 + shake * rng.standard_normal(len(prices))) if attempt else prices
        other = cheapest if attempt == 0 else price_covers(problem, shaken)[0]
        differs = np.flatnonzero((other != covers).any(axis=1))
        dearer = (other[differs] * (prices + problem.instance_cost[differs])).sum(axis=1) - least[differs]
        order = np.argsort(dearer, kind="stable")[:ALTERNATIVES]
        found.append((differs[order], other[differs[order]]))
        extra.append(dearer[order])
    services = np.concatenate([services for services, _ in found])
    others = np.concatenate([others for _, others in found])
    order = np.argsort(np.concatenate(extra), kind="stable")
    return services[order], others[order]


def _distinct(covers: NDArray[np.int32], first: _Alternatives, then: _Alternatives) -> _Alternatives:
    """Join alternatives without duplicates and the current covers, as many as one program takes."""
    services, others = np.concatenate([first[0], then[0]]), np.concatenate([first[1], then[1]])
    differs = (others != covers[services]).any(axis=1)
    services, others = services[differs], others[differs]
    _, keep = np.unique(np.column_stack([services, others]), axis=0, return_index=True)
    keep = np.sort(keep)[: max(ALTERNATIVES, len(first[0]))]
    return services[keep], others[keep]


def _choose(
    problem: Problem,
    covers: NDArray[np.int32],
    alternatives: _Alternatives,
    target: float,
    deadline: Deadline,
) -> tuple[Counts, bool] | None:
    """Solve the integer program; also return whether it used GPUs that the pools do not have."""
    services, others = alternatives
    demand = covers.sum(axis=0).astype(np.float64)
    extra_cost = OVERFLOW_COST * float(problem.cut_cost.max())
    gpus = gpu_supply(problem, demand, integer=True, extra_cost=extra_cost)
    distinct, row_of = np.unique(services, return_inverse=True)
    one = gpus.program.add_rows(np.full(len(distinct), -INFINITY), np.ones(len(distinct)))
    change = (others - covers[services]).astype(np.float64)
    cost = (change * problem.instance_cost[services]).sum(axis=1)
    entries = []
    for row, delta in zip(row_of, change, strict=True):
        used = np.flatnonzero(delta)
        entries.append(
            (np.append(gpus.sizes + used, one + row).astype(np.int32), np.append(-delta[used], 1.0))
        )
    first = gpus.program.add_columns(cost, np.ones(len(cost)), entries, integer=True)
    standing = float((covers * problem.instance_cost).sum())
    solution = gpus.program.solve(deadline, enough=target - standing, offset=standing)
    if not len(solution.columns):
        return None
    taken = np.flatnonzero(solution.columns[first:] > 0.5)
    instances = covers.astype(np.int64)
    instances[services[taken]] = others[taken]
    cuts = np.rint(solution.columns[gpus.cuts : gpus.cuts + len(problem.cuts)]).astype(np.int64)
    overflow = any(solution.columns[column] > 0.5 for column in gpus.extra.values())
    return Counts(cuts, instances), overflow
