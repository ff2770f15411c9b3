"""The transition to make between two plans, on GPUs that are enough for both."""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import TYPE_CHECKING

from partita.transition.deployment import DeployedGpu, Deployment, deployment_of
from partita.transition.transition import Request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.planning.plan import Plan, PlannedGpu
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
        Deployment(gpus),
        target,
        {service.name: service.rate for service in now.services},
        {service.name: service.rate for service in wanted.services},
        seconds,
        extra_gpus,
        forbid,
    )


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
