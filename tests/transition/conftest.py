"""Random requests, small enough for brute force or large enough to be hard."""

from __future__ import annotations

import random
from functools import cache
from typing import TYPE_CHECKING

import pytest

from partita.mig.catalogue import gpu_model
from partita.mig.layout import legal_layouts
from partita.transition.deployment import DeployedGpu, DeployedInstance, Deployment, Replica
from partita.transition.transition import PAPER, Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.mig.layout import Layout


def replica(service: int, profile: str) -> Replica:
    """Return the replica of a service on a profile: each service has its own curve."""
    compute = int(profile.split("g", maxsplit=1)[0])
    throughput = round((10 + 3 * service) * compute ** (0.8 + 0.05 * (service % 5)), 3)
    return Replica(f"s{service}", f"net{service}", 8, 1, throughput, 10.0)


@cache
def _layouts(model: str) -> tuple[Layout, ...]:
    gpu = gpu_model(model)
    names = [
        p.name for p in gpu.profiles if not p.media and p.memory >= p.compute > 0 and p.memory < 2 * p.compute
    ]
    return tuple(layout for layout in legal_layouts(gpu.restricted(names)) if len(layout))


def _deployment(draw: random.Random, model: str, used: int, there: int, services: int) -> Deployment:
    gpus = []
    for i in range(there):
        layout = draw.choice(_layouts(model)) if i < used else ()
        instances = tuple(DeployedInstance(p, replica(draw.randrange(services), p.profile)) for p in layout)
        gpus.append(DeployedGpu(f"node-{i // 8}/gpu-{i % 8}", model, instances))
    return Deployment(tuple(gpus))


def make_request(
    seed: int,
    *,
    gpus: tuple[int, int] = (1, 4),
    model: str = "a100-80gb",
    services: int = 3,
    extra: int | None = None,
    tight: float = 0.9,
) -> Request:
    """Return a random request whose rates are between `tight` and 1 times the capacities."""
    draw = random.Random(seed)
    now, then = draw.randint(*gpus), draw.randint(*gpus)
    there = 2 * max(now, then) + 2
    current = _deployment(draw, model, now, there, services)
    target = _deployment(draw, model, then, there, services)
    return Request(
        current,
        target,
        {name: c * draw.uniform(tight, 1) for name, c in current.capacity().items()},
        {name: c * draw.uniform(tight, 1) for name, c in target.capacity().items()},
        PAPER,
        extra,
    )


@pytest.fixture(scope="session")
def random_request() -> Callable[..., Request]:
    """Make random requests from seeds."""
    return make_request
