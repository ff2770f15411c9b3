"""Pricing: the cheapest integer cover of each service at given prices per instance, exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from partita.planning.exact.program import RATE_SLACK

if TYPE_CHECKING:
    from numpy.typing import NDArray

NODE_LIMIT = 20_000
"""Nodes of one service's search before its relaxation's bound is taken instead; almost never reached."""


_BETTER = 1.0 - 1e-12
"""A cover must cost less than this share of the best one to replace it: rounding must not look like gain."""


@njit(cache=True, nogil=True)
def cheapest_covers(
    unit_cost: NDArray[np.float64],
    throughput: NDArray[np.float64],
    rate: NDArray[np.float64],
    replicas: NDArray[np.int64],
    covers: NDArray[np.int32],
) -> NDArray[np.float64]:
    """Find for each service the counts per size that meet its rate and replicas at the least cost.

    Minimise sum_k unit_cost[s, k] a_k subject to sum_k throughput[s, k] a_k >= rate[s] and
    sum_k a_k >= replicas[s], a integer: a covering knapsack in a handful of variables, solved by depth-first
    search over sizes in order of cost per throughput.

    Args:
        unit_cost: price and own cost of one instance, shape (S, K), not negative.
        throughput: shape (S, K), 0 where a service cannot run; each service can run somewhere.
        rate: shape (S,), positive.
        replicas: shape (S,).
        covers: result, counts per size, shape (S, K).

    Returns:
        A valid lower bound of each minimum, shape (S,): the minimum itself unless the node limit was hit.
    """
    services, sizes = throughput.shape
    bounds = np.empty(services)
    order = np.empty(sizes, dtype=np.int64)
    ratio = np.empty(sizes + 1)
    best = np.empty(sizes, dtype=np.int64)
    for s in range(services):
        usable = _order(unit_cost[s], throughput[s], order, ratio)
        cheapest = order[0]
        for i in range(1, usable):
            if unit_cost[s, order[i]] < unit_cost[s, cheapest]:
                cheapest = order[i]
        least = unit_cost[s, cheapest]
        cost, short, complete = _search(
            unit_cost[s], throughput[s], rate[s], replicas[s], order[:usable], ratio, least, best
        )
        covers[s] = 0
        for i in range(usable):
            covers[s, order[i]] = best[i]
        covers[s, cheapest] += short
        bounds[s] = cost if complete else min(cost, max(rate[s] * ratio[0], replicas[s] * least))
    return bounds


@njit(cache=True, nogil=True)
def _order(
    unit_cost: NDArray[np.float64],
    throughput: NDArray[np.float64],
    order: NDArray[np.int64],
    ratio: NDArray[np.float64],
) -> int:
    """Sort the sizes that run by cost per throughput, larger ones first among equals; return how many run."""
    usable = 0
    for k in range(len(throughput)):
        if throughput[k] <= 0.0:
            continue
        value = unit_cost[k] / throughput[k]
        i = usable
        while i > 0 and (
            ratio[i - 1] > value or (ratio[i - 1] == value and throughput[order[i - 1]] < throughput[k])
        ):
            ratio[i] = ratio[i - 1]
            order[i] = order[i - 1]
            i -= 1
        ratio[i] = value
        order[i] = k
        usable += 1
    ratio[usable] = np.inf
    return usable


@njit(cache=True, nogil=True)
def _search(  # noqa: PLR0917 -- compiled functions take no keywords
    unit_cost: NDArray[np.float64],
    throughput: NDArray[np.float64],
    rate: float,
    replicas: int,
    order: NDArray[np.int64],
    ratio: NDArray[np.float64],
    least: float,
    best: NDArray[np.int64],
) -> tuple[float, int, bool]:
    """Fill `best` with the counts of the cheapest cover, in `order`.

    Counts go down from the one that suffices alone. Taking fewer of a size only raises the relaxation's bound,
    so a level ends at the first count that cannot win. Missing replicas are made up with the cheapest size.

    Returns:
        Cost of the cover, replicas made up, and whether the search was complete.
    """
    tolerance = RATE_SLACK * rate
    usable = len(order)
    counts = np.zeros(usable, dtype=np.int64)
    need, spent, taken = np.empty(usable), np.empty(usable), np.empty(usable, dtype=np.int64)
    need[0], spent[0], taken[0] = rate, 0.0, 0
    counts[0] = int(np.ceil((rate - tolerance) / throughput[order[0]]))
    best_cost, best_short = np.inf, 0
    depth = nodes = 0
    while depth >= 0:
        nodes += 1
        if nodes > NODE_LIMIT:
            return best_cost, best_short, False
        count = counts[depth]
        cost = spent[depth] + count * unit_cost[order[depth]]
        left = need[depth] - count * throughput[order[depth]]
        if left > tolerance and cost + left * ratio[depth + 1] < best_cost * _BETTER:
            depth += 1
            need[depth], spent[depth], taken[depth] = left, cost, taken[depth - 1] + count
            counts[depth] = int(np.ceil((left - tolerance) / throughput[order[depth]]))
            continue
        if left <= tolerance:
            short = max(replicas - taken[depth] - count, 0)
            if cost + short * least < best_cost * _BETTER:
                best_cost, best_short = cost + short * least, short
                best[:usable] = counts
                best[depth + 1 : usable] = 0
        elif depth + 1 == usable or cost + left * ratio[depth + 1] >= best_cost * _BETTER:
            depth -= 1
        while depth >= 0 and counts[depth] == 0:
            depth -= 1
        if depth >= 0:
            counts[depth] -= 1
    return best_cost, best_short, True
