"""Losses by brute force: every plan of a tiny problem, and what each loss leaves of a plan."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

from tests.planning.exhaustive import configs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from partita.planning.plan import Plan
    from partita.planning.problem import Pool, Problem, Service

_Held = tuple[float, float, float, float]
"""Items/s of a service: all, on GPUs that are not spot, most of one domain that is complete, of the open domain."""


def least_objective(asked: Problem) -> float | None:
    """Return the least objective of all plans, None if there is none. Throughputs are whole numbers.

    GPU after GPU is filled in every way, zone by zone, rack by rack and node by node. A pool without a count has a
    node for every instance that services could need.
    """
    start: tuple[_Held, ...] = ((0.0, 0.0, 0.0, 0.0),) * len(asked.services)
    found = {start: 0.0}
    line = list(_gpus(asked))
    for at, (pool, domains) in enumerate(line):
        after: dict[tuple[_Held, ...], float] = {}
        ways = {given: asked.gpu_cost(pool) for given, _ in configs(asked, pool)}
        ways[(0.0,) * len(start)] = 0.0
        following = line[at + 1][1] if at + 1 < len(line) else {}
        ends = {level for level, domain in domains.items() if following.get(level) != domain}
        for have, cost in found.items():
            for given, price in ways.items():
                now = tuple(
                    _with(held, more, service.rate, spot=asked.pools[pool].spot, ends=service.survive in ends)
                    for held, more, service in zip(have, given, asked.services, strict=True)
                )
                after[now] = min(after.get(now, math.inf), cost + price)
        found = after
    enough = (
        cost
        for have, cost in found.items()
        if all(_enough(service, held) for service, held in zip(asked.services, have, strict=True))
    )
    return min(enough, default=None)


def _with(held: _Held, more: float, rate: float, *, spot: bool, ends: bool) -> _Held:
    total, reserved, most, here = held
    here += more
    reserved = min(reserved + more * (not spot), rate)
    return (total + more, reserved, max(most, here) if ends else most, 0.0 if ends else here)


def _enough(service: Service, held: _Held) -> bool:
    total, reserved, most, _ = held
    left = total - most if service.survive else total
    least = service.rate * service.survive_share if service.survive else 0.0
    return (
        total >= service.rate
        and left >= least - 1e-9
        and reserved >= service.rate * (1 - service.spot) - 1e-9
    )


def _gpus(asked: Problem) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield pool and domains of each GPU, those of one domain one after the other."""
    for index, pool in sorted(enumerate(asked.pools), key=lambda each: each[1].zone):
        for i in range(_most(asked, index) if pool.count is None else pool.count):
            node = i if pool.count is None else i // pool.per_node
            yield (
                index,
                {
                    "gpu": (index, i),
                    "node": (index, node),
                    "rack": (index, node // (pool.nodes_per_rack or 1)),
                    "zone": pool.zone,
                },
            )


def _most(asked: Problem, pool: int) -> int:
    most = 0
    for s, service in enumerate(asked.services):
        best = max(
            (asked.throughput[s, k] for k, size in enumerate(asked.sizes) if size.pool == pool), default=0
        )
        most += (math.ceil(service.rate / best) + (1 if service.survive else 0)) if best else 0
    return most


def losses(plan: Plan, asked: Problem) -> list[str]:
    """Return what some loss leaves too little of: each domain's GPUs are taken away, and the rest is added up."""
    pools = {pool.name: pool for pool in asked.pools}
    first: dict[str, int] = {}
    at = 0
    for pool in asked.pools:
        first[pool.name] = at
        used = [_node(gpu.id) for gpu in plan.gpus if _pool(asked, gpu.model, gpu.pool) == pool.name]
        at = at + math.ceil(pool.count / pool.per_node) if pool.count else max([at, *(n + 1 for n in used)])
    domains: dict[str, dict[object, set[str]]] = defaultdict(lambda: defaultdict(set))
    for gpu in plan.gpus:
        pool = pools[_pool(asked, gpu.model, gpu.pool)]
        rack = (pool.name, (_node(gpu.id) - first[pool.name]) // (pool.nodes_per_rack or 1))
        for level, domain in {"gpu": gpu.id, "node": _node(gpu.id), "rack": rack, "zone": pool.zone}.items():
            domains[level][domain].add(gpu.id)
        if pool.spot:
            domains["spot"]["spot"].add(gpu.id)
    found = []
    for service in asked.services:
        taken = [(each, service.survivor_rate) for each in domains[service.survive or ""].values()]
        taken += [(each, service.rate * (1 - service.spot)) for each in domains["spot"].values()]
        for gone, least in taken:
            left = sum(
                each.point.throughput
                for gpu in plan.gpus
                if gpu.id not in gone
                for each in gpu.instances
                if each.service == service.name
            )
            if left < least * (1 - 1e-8):
                found.append(f"{service.name} has {left:g} of {least:g} without {sorted(gone)}")
    return found


def _node(gpu_id: str) -> int:
    return int(gpu_id.split("/", maxsplit=1)[0].removeprefix("node-"))


def _pool(asked: Problem, model: str, name: str) -> str:
    mine: list[Pool] = [pool for pool in asked.pools if pool.gpu.name == model and name in ("", pool.name)]
    (only,) = mine
    return only.name
