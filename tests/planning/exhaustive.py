"""Every plan of a small problem, tried: its least objective, or that there is none."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from partita.planning.problem import Problem

Given = tuple[tuple[float, ...], tuple[int, ...], tuple[int, ...]]
"""Items/s, instances, and nodes that each service has so far, none counted beyond what it needs."""


def least_objective(asked: Problem) -> float | None:
    """Return the least objective of all plans, None if there is none. Rates and throughputs are whole numbers.

    Node after node is filled in every way. A pool without a count has a node for every GPU that services could need
    if each had its own.
    """
    nothing: Given = tuple(tuple(kind(0) for _ in asked.services) for kind in (float, int, int))  # type: ignore[assignment]
    found: dict[Given, float] = {nothing: 0.0}
    for pool, gpus in _nodes(asked):
        ways = _ways(asked, pool, gpus)
        after: dict[Given, float] = {}
        for have, cost in found.items():
            for more, price in ways.items():
                now = _sum(asked, have, more)
                after[now] = min(after.get(now, math.inf), cost + price)
        found = after
    done = [cost for have, cost in found.items() if have == _needed(asked)]
    return min(done, default=None)


def _needed(asked: Problem) -> Given:
    return (
        tuple(float(each.rate) for each in asked.services),
        tuple(each.min_replicas for each in asked.services),
        tuple(each.spread for each in asked.services),
    )


def _sum(asked: Problem, have: Given, more: Given) -> Given:
    return tuple(
        tuple(min(a + b, most) for a, b, most in zip(x, y, needed, strict=True))
        for x, y, needed in zip(have, more, _needed(asked), strict=True)
    )  # type: ignore[return-value]


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
    none = (0,) * len(asked.services)
    one = set(configs(asked, pool))
    found: dict[tuple[tuple[float, ...], tuple[int, ...]], float] = {((0.0,) * len(none), none): 0.0}
    rates, replicas, _ = _needed(asked)
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
    return {(given, held, tuple(min(1, n) for n in held)): cost for (given, held), cost in best.items()}


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
