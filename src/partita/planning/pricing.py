"""Pricing: the cheapest integer cover of each service at given prices per instance, exactly.

A cover meets a service's rate and replicas. Where a service survives the loss of a GPU, node or rack, the largest
instance may be lost wherever it stands: what is left without it must be enough. The search is repeated for every
choice of the largest size, which turns that into the same covering problem with fewer sizes and a larger rate. Zones
and spot GPUs are known of each size: they ask for rates on some of the sizes alone (`problem.Part`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from partita.planning.problem import RATE_SLACK

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from partita.planning.problem import Problem


def price_covers(
    problem: Problem, prices: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return each service's cheapest cover, shape (S, K), and a valid lower bound of its price, (S,)."""
    covers = np.zeros(problem.throughput.shape, dtype=np.int32)
    unit_cost = np.maximum(prices, 0.0) + problem.instance_cost
    if not (problem.survives or problem.parts):
        return covers, cheapest_covers(unit_cost, problem.throughput, problem.rate, problem.replicas, covers)
    services, sizes = len(problem.services), len(problem.sizes)
    left = np.array([0.0 if each.survive == "zone" else each.survivor_rate for each in problem.services])
    of = np.array([part.service for part in problem.parts], dtype=np.int64)
    parted = np.zeros(services, dtype=np.bool_)
    parted[of] = True
    bounds = np.empty(services)

    def given(mine: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        return unit_cost[mine], problem.throughput[mine], problem.rate[mine], problem.replicas[mine]

    # Each kind is compiled when it is first needed, which takes seconds.
    if len(mine := np.flatnonzero(~parted & (left == 0))):
        bounds[mine], covers[mine] = _priced(cheapest_covers, given(mine), sizes)
    if len(mine := np.flatnonzero(~parted & (left > 0))):
        bounds[mine], covers[mine] = _priced(cheapest_surviving_covers, (*given(mine), left[mine]), sizes)
    if len(mine := np.flatnonzero(parted)):
        masks = np.array([part.sizes for part in problem.parts], dtype=np.bool_)
        rates = np.array([part.rate for part in problem.parts])
        firsts = np.searchsorted(of, np.append(mine, services))
        with_parts = (*given(mine), left[mine], firsts, masks, rates)
        bounds[mine], covers[mine] = _priced(cheapest_covers_on_parts, with_parts, sizes)
    return covers, bounds


def compile_loops(problem: Problem) -> None:
    """Have all loops compiled that `price_covers` needs for a problem: it takes seconds once on a machine."""
    part_of = {part.service for part in problem.parts}
    kinds = {
        (s in part_of, each.survive not in {None, "zone"}): each for s, each in enumerate(problem.services)
    }
    price_covers(problem.with_services(tuple(kinds.values())), np.zeros(len(problem.sizes)))


def _priced(
    price: Callable[..., NDArray[np.float64]], given: Sequence[NDArray[Any]], sizes: int
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Return bounds and covers of some services by one of the compiled functions below."""
    covers = np.zeros((len(given[0]), sizes), dtype=np.int32)
    return price(*given, covers), covers


NODE_LIMIT = 20_000
"""Search nodes per service, after which the relaxation's bound is used; almost never reached."""


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
    replicas: int | np.int64,
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
                for i in range(usable):  # one by one: numba takes 2 s to compile what assigns to a slice
                    best[i] = counts[i] if i <= depth else 0
        elif depth + 1 == usable or cost + left * ratio[depth + 1] >= best_cost * _BETTER:
            depth -= 1
        while depth >= 0 and counts[depth] == 0:
            depth -= 1
        if depth >= 0:
            counts[depth] -= 1
    return best_cost, best_short, True


# --- covers that survive a loss, or that need a rate on some sizes

PART_NODE_LIMIT = 2_000
"""Search nodes where rates are needed on some sizes alone; then the relaxation's bound is used."""


@njit(cache=True, nogil=True)
def cheapest_surviving_covers(  # noqa: PLR0917 -- compiled functions take no keywords
    unit_cost: NDArray[np.float64],
    throughput: NDArray[np.float64],
    rate: NDArray[np.float64],
    replicas: NDArray[np.int64],
    left: NDArray[np.float64],
    covers: NDArray[np.int32],
) -> NDArray[np.float64]:
    """Find for each service the cheapest counts that are enough without the largest instance.

    As `cheapest_covers`, and sum_k throughput[s, k] a_k - max {throughput[s, k] : a_k > 0} >= left[s].

    Args:
        unit_cost: price and own cost of one instance, shape (S, K), not negative.
        throughput: shape (S, K), 0 where a service cannot run; each service can run somewhere.
        rate: shape (S,), positive.
        replicas: shape (S,).
        left: items/s without the largest instance, shape (S,), positive.
        covers: result, counts per size, shape (S, K).

    Returns:
        A valid lower bound of each minimum, shape (S,).
    """
    services, sizes = throughput.shape
    bounds = np.empty(services)
    order = np.empty(sizes, dtype=np.int64)
    ratio = np.empty(sizes + 1)
    best = np.empty(sizes, dtype=np.int64)
    able = np.empty(sizes)
    for s in range(services):
        least, least_bound = np.inf, np.inf
        for largest in range(sizes):
            lost, paid = throughput[s, largest], unit_cost[s, largest]
            if lost <= 0.0:
                continue
            for k in range(sizes):
                able[k] = throughput[s, k] if throughput[s, k] <= lost else 0.0
            usable = _order(unit_cost[s], able, order, ratio)
            need, fewest = max(rate[s], left[s] + lost) - lost, replicas[s] - 1
            cheapest = order[0]
            for i in range(1, usable):
                if unit_cost[s, order[i]] < unit_cost[s, cheapest]:
                    cheapest = order[i]
            cheap = unit_cost[s, cheapest]
            cost, short, complete = _search(
                unit_cost[s], able, need, fewest, order[:usable], ratio, cheap, best
            )
            bound = cost if complete else min(cost, max(need * ratio[0], fewest * cheap))
            least_bound = min(least_bound, bound + paid)
            if cost + paid < least * _BETTER:
                least = cost + paid
                covers[s] = 0
                for i in range(usable):
                    covers[s, order[i]] = best[i]
                covers[s, cheapest] += short
                covers[s, largest] += 1
        bounds[s] = least_bound
    return bounds


@njit(cache=True, nogil=True)
def cheapest_covers_on_parts(  # noqa: PLR0917 -- compiled functions take no keywords
    unit_cost: NDArray[np.float64],
    throughput: NDArray[np.float64],
    rate: NDArray[np.float64],
    replicas: NDArray[np.int64],
    left: NDArray[np.float64],
    first_part: NDArray[np.int64],
    part_sizes: NDArray[np.bool_],
    part_rate: NDArray[np.float64],
    covers: NDArray[np.int32],
) -> NDArray[np.float64]:
    """Find for each service the cheapest counts that are also enough on some sizes alone, its parts.

    As `cheapest_surviving_covers` where left[s] is positive, else as `cheapest_covers`; and
    sum_{k in part} throughput[s, k] a_k >= part_rate of each of its parts.

    Args:
        unit_cost: price and own cost of one instance, shape (S, K), not negative.
        throughput: shape (S, K), 0 where a service cannot run; each service can run somewhere.
        rate: shape (S,), positive.
        replicas: shape (S,).
        left: items/s without the largest instance, shape (S,); 0 where none may be lost.
        first_part: the parts of s are first_part[s] to first_part[s + 1] - 1; shape (S + 1,).
        part_sizes: shape (R, K).
        part_rate: shape (R,).
        covers: result, counts per size, shape (S, K).

    Returns:
        A valid lower bound of each minimum, shape (S,); infinite where no counts are enough.
    """
    services, sizes = throughput.shape
    bounds = np.empty(services)
    order = np.empty(sizes, dtype=np.int64)
    ratio = np.empty(sizes + 1)
    best = np.empty(sizes, dtype=np.int64)
    able, cost_of = np.empty(sizes), np.empty(sizes)
    for s in range(services):
        first, last = first_part[s], first_part[s + 1]
        least, least_bound = np.inf, np.inf
        for largest in range(sizes if left[s] > 0.0 else 1):
            stands = 1 if left[s] > 0.0 else 0
            lost, paid = stands * throughput[s, largest], stands * unit_cost[s, largest]
            if stands and lost <= 0.0:
                continue
            for k in range(sizes):
                able[k] = throughput[s, k] if not stands or throughput[s, k] <= lost else 0.0
            usable = _order(unit_cost[s], able, order, ratio)
            weights, needs = _rows(
                able,
                max(rate[s], left[s] + lost) - lost,
                replicas[s] - stands,
                order[:usable],
                part_sizes[first:last],
                part_rate[first:last],
            )
            for r in range(first, last):
                needs[r - first + 2] -= lost if part_sizes[r, largest] else 0.0
            for i in range(usable):
                cost_of[i] = unit_cost[s, order[i]]
            cost, bound = _search_rows(cost_of[:usable], weights, needs, best)
            least_bound = min(least_bound, bound + paid)
            if cost + paid < least * _BETTER:
                least = cost + paid
                covers[s] = 0
                for i in range(usable):
                    covers[s, order[i]] = best[i]
                covers[s, largest] += stands
        bounds[s] = least_bound
    return bounds


@njit(cache=True, nogil=True)
def _rows(  # noqa: PLR0917 -- compiled functions take no keywords
    able: NDArray[np.float64],
    need: float,
    fewest: int,
    order: NDArray[np.int64],
    part_sizes: NDArray[np.bool_],
    part_rate: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the rows of rate, replicas and parts: what each size gives, in `order`, and what is needed."""
    rows = len(part_rate) + 2
    weights, needs = np.ones((rows, len(order))), np.empty(rows)
    needs[0], needs[1] = need, fewest
    for i in range(len(order)):
        weights[0, i] = able[order[i]]
    for r in range(len(part_rate)):
        needs[r + 2] = part_rate[r]
        for i in range(len(order)):
            weights[r + 2, i] = able[order[i]] if part_sizes[r, order[i]] else 0.0
    return weights, needs


@njit(cache=True, nogil=True)
def _search_rows(  # noqa: PLR0912 -- one loop, where calls would cost
    cost: NDArray[np.float64],
    weights: NDArray[np.float64],
    needs: NDArray[np.float64],
    best: NDArray[np.int64],
) -> tuple[float, float]:
    """Fill `best` with the counts of the least cost for which weights . counts >= needs, all of them.

    Rows are as `_rows` returns them. Depth-first search over the sizes in the order given, from counts that split the
    rate evenly. A branch ends where some row alone costs too much.

    Returns:
        Cost of the counts, infinite if there are none, and a valid lower bound of it.
    """
    rows, usable = weights.shape
    given, ratio, tolerance = _by_size(cost, weights, needs)
    left = np.empty((usable + 1, rows))
    spent = np.zeros(usable + 1)
    counts = np.zeros(usable, dtype=np.int64)
    for r in range(rows):
        left[0, r] = needs[r]
    root = _rows_bound(left[0], tolerance, ratio[0])
    for i in range(usable):
        best[i] = 0
    if root == np.inf:
        return np.inf, root
    best_cost = _split_evenly(cost, weights, needs, best)
    depth = nodes = 0
    counts[0] = _enough(left[0], tolerance, given[0])
    while depth >= 0:
        nodes += 1
        if nodes > PART_NODE_LIMIT and best_cost < np.inf:
            for r in range(rows):
                if r != 1:
                    root = max(root, _cover_row(cost, weights[r], needs[r], counts)[1])
            return best_cost, min(root, best_cost)
        spent[depth + 1] = spent[depth] + counts[depth] * cost[depth]
        done = True
        for r in range(rows):
            left[depth + 1, r] = left[depth, r] - counts[depth] * given[depth, r]
            done = done and left[depth + 1, r] <= tolerance[r]
        total = spent[depth + 1] + _rows_bound(left[depth + 1], tolerance, ratio[depth + 1])
        if total < best_cost * _BETTER:
            if done:
                best_cost = total
                for i in range(usable):
                    best[i] = counts[i] if i <= depth else 0
            elif depth + 1 < usable:
                depth += 1
                counts[depth] = _enough(left[depth], tolerance, given[depth])
                continue
        while depth >= 0 and counts[depth] == 0:
            depth -= 1
        if depth >= 0:
            counts[depth] -= 1
    return best_cost, best_cost


@njit(cache=True, nogil=True)
def _by_size(
    cost: NDArray[np.float64], weights: NDArray[np.float64], needs: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the weights by size, the least cost per unit of each row from a size on, and each row's tolerance."""
    rows, usable = weights.shape
    given = np.empty((usable, rows))
    ratio = np.empty((usable + 1, rows))
    tolerance = np.empty(rows)
    for r in range(rows):
        tolerance[r] = RATE_SLACK * abs(needs[r])
        ratio[usable, r] = np.inf
        for i in range(usable - 1, -1, -1):
            given[i, r] = weights[r, i]
            own = cost[i] / weights[r, i] if weights[r, i] > 0.0 else np.inf
            ratio[i, r] = min(own, ratio[i + 1, r])
    return given, ratio, tolerance


@njit(cache=True, nogil=True)
def _cover_row(
    cost: NDArray[np.float64], weight: NDArray[np.float64], need: float, counts: NDArray[np.int64]
) -> tuple[float, float]:
    """Fill `counts` with those of the least cost for one row alone; return the cost and a valid lower bound of it."""
    usable = len(cost)
    order = np.empty(usable, dtype=np.int64)
    ratio = np.empty(usable + 1)
    found = np.zeros(usable, dtype=np.int64)
    for i in range(usable):
        counts[i] = 0
    n = _order(cost, weight, order, ratio)
    if need <= 0.0:
        return 0.0, 0.0
    if n == 0:
        return np.inf, np.inf
    none = np.int64(0)  # for a plain 0 numba compiles the search once more
    paid, _, complete = _search(cost, weight, need, none, order[:n], ratio, 0.0, found)
    for i in range(n):
        counts[order[i]] = found[i]
    return paid, paid if complete else need * ratio[0]


@njit(cache=True, nogil=True)
def _split_evenly(
    cost: NDArray[np.float64],
    weights: NDArray[np.float64],
    needs: NDArray[np.float64],
    best: NDArray[np.int64],
) -> float:
    """Fill `best` with the best counts that give so many zones, those outside a part, equal rates; return their cost.

    The cost is infinite, and `best` as it was, where no such counts meet all rows.
    """
    rows, usable = weights.shape
    groups = rows - 2
    least = np.inf
    made = np.zeros((groups, usable), dtype=np.int64)
    paid, outside = np.empty(groups), np.empty(usable)
    counts = np.zeros(usable, dtype=np.int64)
    for n in range(2, groups + 1):
        rate = needs[0] / n
        for g in range(groups):
            rate = max(rate, needs[g + 2] / (n - 1))
        for g in range(groups):
            for i in range(usable):
                outside[i] = 0.0 if weights[g + 2, i] > 0.0 else weights[0, i]
            paid[g] = _cover_row(cost, outside, rate, made[g])[0]
        total = 0.0
        for i in range(usable):
            counts[i] = 0
        for _ in range(n):
            cheapest = 0
            for g in range(groups):
                if paid[g] < paid[cheapest]:
                    cheapest = g
            total += paid[cheapest]
            paid[cheapest] = np.inf
            for i in range(usable):
                counts[i] += made[cheapest, i]
        if total < least and _meets(weights, needs, counts):
            least = total
            for i in range(usable):
                best[i] = counts[i]
    return least


@njit(cache=True, nogil=True)
def _meets(weights: NDArray[np.float64], needs: NDArray[np.float64], counts: NDArray[np.int64]) -> bool:
    """Return whether counts meet all rows."""
    rows, usable = weights.shape
    for r in range(rows):
        held = 0.0
        for i in range(usable):
            held += weights[r, i] * counts[i]
        if held < needs[r] - RATE_SLACK * abs(needs[r]):
            return False
    return True


@njit(cache=True, nogil=True)
def _rows_bound(
    left: NDArray[np.float64], tolerance: NDArray[np.float64], ratio: NDArray[np.float64]
) -> float:
    """Return what the dearest row costs at least."""
    most = 0.0
    for r in range(len(left)):
        if left[r] > tolerance[r]:
            most = max(most, left[r] * ratio[r])
    return most


@njit(cache=True, nogil=True)
def _enough(left: NDArray[np.float64], tolerance: NDArray[np.float64], weight: NDArray[np.float64]) -> int:
    """Return the count of one size that no row needs more of."""
    most = 0
    for r in range(len(left)):
        if left[r] > tolerance[r] and weight[r] > 0.0:
            most = max(most, int(np.ceil((left[r] - tolerance[r]) / weight[r])))
    return most
