"""From the relaxation to whole GPUs: one cover per service, chosen so that together they fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from partita.planning.exact.columns import OVERFLOW_COST, Relaxation, price_covers
from partita.planning.exact.counts import Counts, reached, round_up
from partita.planning.exact.program import INFINITY, fleet
from partita.planning.watch import Watch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from partita.planning.problem import Problem

ALTERNATIVES = 3000
"""Covers offered to one integer program beside those that stand."""

ROUNDS = 4
MOST_ROUNDS = 10
"""Rounds where the best choice is more than a GPU above the bound: a slow machine gets less far in each."""

ROUND_SECONDS = 2.0
"""Most seconds of one round: another choice of covers does more than a longer search among the same."""

_GRACE_SECONDS = 2.0
"""Time for the first choice even if the watch is over: a plan with a gap is better than none."""


def round_covers(problem: Problem, relaxation: Relaxation, seed: int, watch: Watch) -> Counts | None:
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
        turn = watch.at_most(ROUND_SECONDS)
        if best is None and (watch.over or turn.left < _GRACE_SECONDS):
            turn = Watch(_GRACE_SECONDS)
        choice = _choose(problem, covers, _distinct(covers, offered, more), target, turn)
        if choice is None:
            return best
        found, overflow = choice
        covers, offered = found.instances.astype(np.int32), more
        if not overflow and (best is None or found.value(problem) < best.value(problem)):
            best = found
            watch.tell(best.value(problem), relaxation.bound)
        if best is not None and (reached(best.value(problem), target) or watch.over):
            break
    return best


def cut_for(problem: Problem, covers: NDArray[np.int32]) -> Counts | None:
    """Return the least GPUs that have just these instances, in no time; None if the pools have too few."""
    demand = covers.sum(axis=0).astype(np.float64)
    gpus = fleet(problem, demand, integer=True, extra_cost=None)
    solution = gpus.program.solve(Watch(_GRACE_SECONDS))
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
    """Return covers other than those that stand, the ones that cost least more than the cheapest first."""
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
    """Join alternatives without repeated ones and those that stand, as many as one program takes."""
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
    watch: Watch,
) -> tuple[Counts, bool] | None:
    """Solve the integer program; also say whether it took GPUs that the pools do not have."""
    services, others = alternatives
    demand = covers.sum(axis=0).astype(np.float64)
    extra_cost = OVERFLOW_COST * float(problem.cut_cost.max())
    gpus = fleet(problem, demand, integer=True, extra_cost=extra_cost)
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
    solution = gpus.program.solve(watch, enough=target - standing, offset=standing)
    if not len(solution.columns):
        return None
    taken = np.flatnonzero(solution.columns[first:] > 0.5)
    instances = covers.astype(np.int64)
    instances[services[taken]] = others[taken]
    cuts = np.rint(solution.columns[gpus.cuts : gpus.cuts + len(problem.cuts)]).astype(np.int64)
    overflow = any(solution.columns[column] > 0.5 for column in gpus.extra.values())
    return Counts(cuts, instances), overflow
