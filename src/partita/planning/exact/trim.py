"""Leave out what is not needed: instances that a plan meets every service without."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from partita.planning.plan import GpuConfig

if TYPE_CHECKING:
    from partita.planning.problem import Problem


def trim(problem: Problem, configs: Counter[GpuConfig]) -> Counter[GpuConfig]:
    """Return the configurations without instances beyond each service's rate, replicas and spread.

    Instances that are a service's only one on their GPU go first, then the smallest: what is left free is
    whole, and fewer services share GPUs.
    """
    gpus = [(config.pool, list(config.assignment)) for config in configs.elements()]
    rate: defaultdict[int, float] = defaultdict(float)
    places: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for index, (_, slots) in enumerate(gpus):
        for k, s in slots:
            rate[s] += float(problem.throughput[s, k])
            places[s].append((index, k))
    for s, mine in places.items():
        spare = rate[s] - problem.services[s].rate
        replicas = len(mine) - int(problem.replicas[s])
        per_gpu = Counter(gpu for gpu, _ in mine)
        for gpu, k in sorted(mine, key=lambda at: (per_gpu[at[0]], problem.throughput[s, at[1]], at)):
            alone = per_gpu[gpu] == 1
            stands = sum(1 for n in per_gpu.values() if n) - alone
            if replicas < 1 or problem.throughput[s, k] > spare or stands < problem.services[s].spread:
                continue
            gpus[gpu][1].remove((k, s))
            per_gpu[gpu] -= 1
            replicas -= 1
            spare -= float(problem.throughput[s, k])
    return Counter(GpuConfig(pool, tuple(slots)) for pool, slots in gpus if slots)
