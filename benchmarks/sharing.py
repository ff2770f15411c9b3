"""Small services together: 5,000 services at 0.5/s, with models of 0.2 to 1 GB each, on instances that they share."""

from __future__ import annotations

import math
import random
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.report import table
from partita.deadline import Deadline
from partita.planner import check, plan, prepare
from partita.planning.tenants import Needs, needs_of, simulated_waits
from partita.workload import ModelSpec, PoolSpec, ServiceSpec, Slo, Workload

if TYPE_CHECKING:
    from partita.planner import PreparedWorkload
    from partita.planning.plan import Plan

MODELS = 200
QUERIES = 200_000
"""Queries of the simulation of each shared instance."""


class Case(NamedTuple):
    """Services with random models and SLOs: how many, queries/s of each, and MB of the models' weights."""

    services: int
    rate: float
    smallest: float
    largest: float
    seed: int

    def workload(self, *, share: bool) -> Workload:
        """Return the services on A100s of 80 GB."""
        draw = random.Random(self.seed)
        models = tuple(
            ModelSpec(
                name=f"model-{i}",
                gflop=draw.uniform(2, 40),
                mbytes=draw.uniform(100, 600),
                weights_mb=draw.uniform(self.smallest, self.largest),
                precision="fp16",
            )
            for i in range(MODELS)
        )
        return Workload(
            gpus=(PoolSpec(model="a100-80gb"),),
            services=tuple(
                ServiceSpec(
                    name=f"service-{i}",
                    model=draw.choice(models).name,
                    rate=self.rate,
                    slo=Slo(latency_ms=draw.choice([100, 200, 500]), quantile=0.99 if share else None),
                    share=share or None,
                )
                for i in range(self.services)
            ),
            models=models,
        )


def bounds(asked: PreparedWorkload, needs: Needs) -> tuple[float, float]:
    """Return the GPUs that memory alone takes, and those that busy time alone takes, fractions allowed."""
    supply = asked.problem.supply
    memory = needs.memory.min(axis=1).sum() / (supply @ needs.room).max()
    # A GPU is busy with a service for the least part of its time on the size of which it has the most per second.
    most = supply.max(axis=0).astype(np.float64)
    busy = (needs.busy / np.maximum(most, 1e-9)).min(axis=1).sum()
    return float(memory), float(busy)


def attained(found: Plan, needs: Needs, asked: PreparedWorkload, seed: int) -> tuple[float, int]:
    """Return the least share in time of all services in simulations, and how many are below 0.99."""
    number = {spec.name: s for s, spec in enumerate(needs.specs)}
    sizes = {size.profile: k for k, size in enumerate(asked.problem.sizes)}
    least, below = 1.0, 0
    for gpu in found.gpus:
        for instance in gpu.instances:
            of = np.array([number[name] for name, _ in instance.serves])
            k = sizes[instance.placement.profile]
            waits = simulated_waits(needs.rate[of], needs.seconds[of, k], QUERIES, seed)
            shares = [(waits <= needs.slack[s, k]).mean() for s in of]
            least = min(least, *shares)
            below += sum(bool(share < 0.99) for share in shares)
    return least, below


def run(*, quick: bool) -> str:
    """Return the table."""
    cases = [Case(300, 0.5, 200, 970, 1), Case(100, 10.0, 20, 80, 1)]
    if not quick:
        cases = [*(Case(5000, 0.5, 200, 970, seed) for seed in (1, 2)), Case(1000, 10.0, 20, 80, 1)]
    return _TEXT + table(_HEAD, [_row(case) for case in cases])


_HEAD = [
    "services", "rate/s", "MB of weights", "seed", "GPUs, one instance each", "GPUs, shared", "memory bound",
    "busy-time bound", "shared / larger bound", "proven bound", "instances", "least share in time",
    "services below 0.99", "seconds",
]  # fmt: skip

_TEXT = f"""Services with p99 within 100, 200 or 500 ms, {MODELS} models with estimated times, on A100 80 GB. *One
instance each* is planned by arithmetic, without waiting. The bounds are those of memory and of busy time alone, in
fractions of GPUs; the ratio is to the larger one, rounded up. *Proven* is the linear program of both together. Every
shared instance is simulated with {QUERIES:,} Poisson queries, first come first served. The checker passes every plan.

"""


def _row(case: Case) -> list[object]:
    apart = plan(case.workload(share=False), deadline=Deadline(60.0)).plan
    asked = prepare(case.workload(share=True))
    needs = needs_of(asked.problem, asked.workload, asked.formulation.measured)
    assert needs is not None
    begun = time.monotonic()
    found = plan(asked, deadline=Deadline(60.0)).plan
    seconds = time.monotonic() - begun
    faults = check(found, asked)
    assert not faults, faults[:3]
    memory, busy = bounds(asked, needs)
    least, below = attained(found, needs, asked, case.seed)
    gpus = len(found.gpus)
    return [
        case.services,
        case.rate,
        f"{case.smallest:g} to {case.largest:g}",
        case.seed,
        len(apart.gpus),
        gpus,
        f"{memory:.2f}",
        f"{busy:.2f}",
        f"{gpus / math.ceil(max(memory, busy)):.3f}",
        f"{found.objective.lower_bound:.0f}",
        sum(len(gpu.instances) for gpu in found.gpus),
        f"{least:.4f}",
        below,
        f"{seconds:.1f}",
    ]
