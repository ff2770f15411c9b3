"""The transition to make between two plans, on GPUs that are enough for both."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from itertools import chain, count
from typing import TYPE_CHECKING

from partita.transition.deployment import DeployedGpu, Deployment, deployment_of, restated
from partita.transition.transition import Request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.planning.plan import Plan, PlannedGpu
    from partita.planning.problem import Pool
    from partita.transition.deployment import Layouts
    from partita.transition.transition import Durations

_PER_NODE = 8


def request_between(
    now: Plan | Layouts,
    wanted: Plan | Layouts,
    seconds: Durations,
    extra_gpus: int | None,
    forbid: tuple[str, ...],
) -> Request:
    """Return the request for a transition between two plans, on GPUs that are enough for both."""
    current, target = deployment_of(now), deployment_of(wanted)
    standing = {gpu.id: gpu for gpu in current.gpus}
    there = enough_gpus(now.gpus, wanted.gpus, extra_gpus or 0)
    gpus = tuple(standing.get(name, DeployedGpu(name, model, ())) for name, model in there)
    return Request(
        restated(Deployment(gpus), target),
        target,
        {service.name: service.rate for service in now.services},
        {service.name: service.rate for service in wanted.services},
        seconds,
        extra_gpus,
        forbid,
        in_place=any(service.loss is not None for service in wanted.services),
    )


def with_room(current: Deployment, plan: Plan, pools: Sequence[Pool]) -> Deployment:
    """Return what runs, with empty GPUs as far as pools have them and a plan may need them.

    New GPUs stand in nodes that have room, then in nodes of their own.

    Args:
        current: what runs.
        plan: one that has as many GPUs of each pool as are needed.
        pools: the pools, of unlike models.
    """
    there, needed = Counter(gpu.model for gpu in current.gpus), Counter(gpu.model for gpu in plan.gpus)
    taken = {gpu.id for gpu in current.gpus}
    nodes: dict[str, dict[str, None]] = defaultdict(dict)
    for gpu in current.gpus:
        nodes[gpu.model][gpu.id.rpartition("/")[0]] = None
    numbers = [int(node[5:]) for mine in nodes.values() for node in mine if re.fullmatch(r"node-\d+", node)]
    following = count(max(numbers, default=-1) + 1)
    more: list[DeployedGpu] = []
    for pool in pools:
        model = pool.gpu.name
        left = needed[model] if pool.count is None else min(needed[model], pool.count - there[model])
        for node in chain(nodes[model], (f"node-{number}" for number in following)):
            if left <= 0:
                break
            free = [name for i in range(pool.per_node) if (name := f"{node}/gpu-{i}") not in taken][:left]
            more += [DeployedGpu(name, model, ()) for name in free]
            left -= len(free)
    return Deployment((*current.gpus, *more))


def whole_nodes(gpus: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return these GPUs and those beside them in nodes of eight: a transition needs some room."""
    found = dict(gpus)
    for name, model in gpus:
        node = name.rpartition("/")[0]
        for i in range(_PER_NODE) if node else ():
            found.setdefault(f"{node}/gpu-{i}", model)
    return list(found.items())


def enough_gpus(
    now: Sequence[PlannedGpu | DeployedGpu], wanted: Sequence[PlannedGpu | DeployedGpu], extra: int
) -> list[tuple[str, str]]:
    """Return ids and models of GPUs that are enough for two plans, plus `extra` of each model wanted.

    They are the GPUs of the plans, in whole nodes; where one id has two models, it is the first plan's.
    """
    there = dict(whole_nodes([(gpu.id, gpu.model) for gpu in (*wanted, *now)]))
    used = Counter(gpu.model for gpu in now)
    needed = Counter(gpu.model for gpu in wanted)
    spare = count()
    for model in sorted(needed):
        missing = max(used[model], needed[model]) + extra - Counter(there.values())[model]
        there.update((f"spare/gpu-{next(spare)}", model) for _ in range(missing))
    return list(there.items())
