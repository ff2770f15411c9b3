"""Every plan of a small problem, tried: its least objective, or that there is none."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from partita.planning.problem import Problem

Given = tuple[float, ...]
"""Items/s of each service, then instances, then nodes that each has so far, none counted beyond what it needs."""


def least_objective(asked: Problem) -> float | None:
    """Return the least objective of all plans, None if there is none. Rates and throughputs are whole numbers.

    Node after node is filled in every way. A pool without a count has a node for every GPU that services could need
    if each had its own.
    """
    needed = _needed(asked)
    found: dict[Given, float] = {(0.0,) * len(needed): 0.0}
    for pool, gpus in _nodes(asked):
        ways = _ways(asked, pool, gpus)
        after: dict[Given, float] = {}
        for have, cost in found.items():
            short = [most - held for held, most in zip(have, needed, strict=True)]
            for more, price in ways.items():
                now = tuple([a + min(b, c) for a, b, c in zip(have, more, short, strict=True)])
                if cost + price < after.get(now, math.inf):
                    after[now] = cost + price
        found = after
    return found.get(needed)


def _needed(asked: Problem) -> Given:
    rates = [float(each.rate) for each in asked.services]
    return (
        *rates,
        *(each.min_replicas for each in asked.services),
        *(each.spread for each in asked.services),
    )


def _nodes(asked: Problem) -> Iterator[tuple[int, int]]:
    for index, pool in enumerate(asked.pools):
        if pool.count is not None:
            for first in range(0, pool.count, pool.per_node):
                yield index, min(pool.per_node, pool.count - first)
            continue
        for s, each in enumerate(asked.services):
            best = max(asked.throughput[s, k] for k, size in enumerate(asked.sizes) if size.pool == index)
            if best:
                for _ in range(max(math.ceil(each.rate / best), each.min_replicas, each.spread)):
                    yield index, 1


def _ways(asked: Problem, pool: int, gpus: int) -> dict[Given, float]:
    """Return what a node can give, and the least that it costs then."""
    services = len(asked.services)
    none = (0,) * services
    one = set(configs(asked, pool))
    found: dict[tuple[Given, Given], float] = {((0.0,) * services, none): 0.0}
    needed = _needed(asked)
    rates, replicas = needed[:services], needed[services : 2 * services]
    best = dict(found)
    for used in range(1, gpus + 1):
        found = {
            (
                tuple(min(a + b, most) for a, b, most in zip(have, gain, rates, strict=True)),
                # One more than is needed tells that the service stands here, all the same.
                tuple(min(a + b, most) for a, b, most in zip(held, here, replicas, strict=True)),
            ): used * asked.gpu_cost(pool)
            for have, held in found
            for gain, here in one
        }
        for key, cost in found.items():
            best.setdefault(key, cost)
    return {(*given, *held, *(min(1, n) for n in held)): cost for (given, held), cost in best.items()}


def configs(asked: Problem, pool: int) -> Iterator[tuple[tuple[float, ...], tuple[int, ...]]]:
    """Yield what one GPU of a pool can give: items/s and instances of each service."""
    services = range(len(asked.services))
    for cut in asked.cuts:
        if cut.pool != pool:
            continue
        slots = [k for k, n in enumerate(cut.counts) for _ in range(n)]
        able = [[s for s in services if asked.throughput[s, k] > 0] or [-1] for k in slots]
        for chosen in product(*able):
            if len({s for s in chosen if s >= 0}) > (asked.max_services_per_gpu or len(services)):
                continue
            pairs = list(zip(slots, chosen, strict=True))
            yield (
                tuple(sum(float(asked.throughput[s, k]) for k, t in pairs if t == s) for s in services),
                tuple(sum(1 for _, t in pairs if t == s) for s in services),
            )
