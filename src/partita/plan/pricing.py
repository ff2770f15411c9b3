"""Pricing: the cheapest integer cover of each service at given prices per instance, exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

NODE_LIMIT = 20_000
"""Nodes of one service's search before its relaxation's bound is taken instead; almost never reached."""

_SLACK = 1e-9
"""Share of a rate that may be missing because of rounding in sums of throughputs."""


@njit(cache=True, nogil=True)
def cheapest_covers(  # noqa: PLR0912, PLR0915, C901 -- one loop, flat for the compiler: recursion is slow there
    prices: NDArray[np.float64],
    throughput: NDArray[np.float64],
    instance_cost: NDArray[np.float64],
    rate: NDArray[np.float64],
    replicas: NDArray[np.int64],
    covers: NDArray[np.int32],
    bounds: NDArray[np.float64],
) -> None:
    """Find for each service the counts per size that meet its rate and replicas at the least price.

    Minimise sum_k (prices[k] + instance_cost[s, k]) a_k subject to sum_k throughput[s, k] a_k >= rate[s] and
    sum_k a_k >= replicas[s], a integer: a covering knapsack in a handful of variables, solved by depth-first
    search over sizes in order of price per throughput. Taking fewer of a size only raises the relaxation's
    bound, so each level stops at the first count that cannot win.

    Args:
        prices: of one instance of each size, shape (K,), not negative.
        throughput: shape (S, K), 0 where a service cannot run.
        instance_cost: shape (S, K), not negative.
        rate: shape (S,), positive.
        replicas: shape (S,).
        covers: result, counts per size, shape (S, K).
        bounds: result, a valid lower bound of each minimum, shape (S,): the minimum itself unless the node
            limit was hit.
    """
    services, sizes = throughput.shape
    order = np.empty(sizes, dtype=np.int64)
    ratio = np.empty(sizes + 1)
    counts = np.zeros(sizes, dtype=np.int64)
    need = np.empty(sizes + 1)
    spent = np.empty(sizes + 1)
    taken = np.empty(sizes + 1, dtype=np.int64)
    best = np.empty(sizes, dtype=np.int64)
    for s in range(services):
        usable = 0
        for k in range(sizes):
            if throughput[s, k] > 0.0:
                value = (prices[k] + instance_cost[s, k]) / throughput[s, k]
                i = usable
                while i > 0 and (
                    ratio[i - 1] > value
                    or (ratio[i - 1] == value and throughput[s, order[i - 1]] < throughput[s, k])
                ):
                    ratio[i] = ratio[i - 1]
                    order[i] = order[i - 1]
                    i -= 1
                ratio[i] = value
                order[i] = k
                usable += 1
        ratio[usable] = np.inf
        cheapest = order[0]
        unit = prices[cheapest] + instance_cost[s, cheapest]
        for i in range(1, usable):
            k = order[i]
            if prices[k] + instance_cost[s, k] < unit:
                unit = prices[k] + instance_cost[s, k]
                cheapest = k
        tolerance = _SLACK * rate[s]
        floor = max(rate[s] * ratio[0], replicas[s] * unit)
        best_cost = np.inf
        nodes = 0
        complete = True
        depth = 0
        need[0] = rate[s]
        spent[0] = 0.0
        taken[0] = 0
        counts[0] = int(np.ceil((rate[s] - tolerance) / throughput[s, order[0]]))
        while depth >= 0:
            nodes += 1
            if nodes > NODE_LIMIT:
                complete = False
                break
            k = order[depth]
            count = counts[depth]
            cost = spent[depth] + count * (prices[k] + instance_cost[s, k])
            left = need[depth] - count * throughput[s, k]
            if left <= tolerance:
                short = replicas[s] - taken[depth] - count
                total = cost + (short * unit if short > 0 else 0.0)
                if total < best_cost * (1.0 - 1e-12):
                    best_cost = total
                    for i in range(usable):
                        best[i] = counts[i] if i <= depth else 0
                    best_short = short
                won = False
            else:
                won = depth + 1 < usable and cost + left * ratio[depth + 1] < best_cost * (1.0 - 1e-12)
            if won:
                depth += 1
                need[depth] = left
                spent[depth] = cost
                taken[depth] = taken[depth - 1] + count
                counts[depth] = int(np.ceil((left - tolerance) / throughput[s, order[depth]]))
                continue
            # Go back to the deepest size of which one fewer can still win.
            if left <= tolerance and count > 0:
                counts[depth] = count - 1
                continue
            depth -= 1
            while depth >= 0 and counts[depth] == 0:
                depth -= 1
            if depth >= 0:
                counts[depth] -= 1
        for k in range(sizes):
            covers[s, k] = 0
        for i in range(usable):
            covers[s, order[i]] = best[i]
        if best_short > 0:
            covers[s, cheapest] += best_short
        bounds[s] = best_cost if complete else min(best_cost, floor)
