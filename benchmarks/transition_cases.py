"""Pairs of deployments made by planning changing rates of public models, each a value built from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from benchmarks.scenarios import DATA
from partita.deadline import Deadline
from partita.mig.catalogue import gpu_model
from partita.mig.layout import legal_layouts
from partita.perf.operating_point import Limits, OperatingPoint, operating_points
from partita.perf.reading import read_table
from partita.planning.exact import ExactPlanner
from partita.planning.problem import Pool, Problem, Service, Size
from partita.transition.deployment import DeployedGpu, DeployedInstance, Deployment, Replica, deployment_of
from partita.transition.transition import PAPER, Request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from partita.planning.plan import Plan

MODELS = (
    "bert", "densenet121", "densenet169", "densenet201", "inceptionv3", "mobilenetv2", "resnet101", "resnet152",
    "resnet50", "vgg16", "vgg19",
)  # fmt: skip
SLO_MS = {"bert": 6434.0}
DEFAULT_SLO_MS = 300.0


@cache
def _points() -> dict[str, dict[str, OperatingPoint]]:
    rows = read_table(DATA / "perf" / "parvagpu_a100_80gb.csv")
    return {
        model: operating_points(
            rows.of(model, "a100-80gb"),
            Limits(0.45 * SLO_MS.get(model, DEFAULT_SLO_MS), max_batch=128, max_processes=5),
        )
        for model in MODELS
    }


def problem_of(rates: Mapping[str, float]) -> Problem:
    """Return the planning problem of these rates; a name is a model and a number, such as `vgg16-1`."""
    profiles = dict.fromkeys(profile for found in _points().values() for profile in found)
    pool = Pool("a100", gpu_model("a100-80gb").restricted(profiles))
    sizes = tuple(Size(0, profile.name) for profile in pool.gpu.profiles)
    services = []
    for name, rate in rates.items():
        model = name.rpartition("-")[0]
        points = tuple(_points()[model].get(size.profile) for size in sizes)
        services.append(Service(name, model, rate, rate, SLO_MS.get(model, DEFAULT_SLO_MS), points))
    return Problem((pool,), tuple(services), sizes)


def whole_rate(name: str) -> float:
    """Return the best throughput of a service's model on one instance."""
    return max(point.throughput for point in _points()[name.rpartition("-")[0]].values())


def plan_for(rates: Mapping[str, float], seconds: float = 10.0) -> Plan:
    """Return the exact plan for these rates, or the best found in the time."""
    return ExactPlanner(deadline=Deadline(seconds)).plan(problem_of(rates))


def on_cluster(plan: Plan, gpus: int) -> Deployment:
    """Return a plan's deployment on the first of so many GPUs."""
    found = deployment_of(plan).gpus
    ids = [f"node-{i // 8}/gpu-{i % 8}" for i in range(gpus)]
    used = [replace(gpu, id=name) for gpu, name in zip(found, ids, strict=False)]
    empty = [DeployedGpu(name, "a100-80gb", ()) for name in ids[len(used) :]]
    return Deployment((*used, *empty))


@dataclass(frozen=True, slots=True)
class Change:
    """A change of rates: the plans for both, and the request of the transition."""

    before: Plan
    after: Plan
    request: Request


def change(old: Mapping[str, float], new: Mapping[str, float], *, extra: int | None = None) -> Change:
    """Return the change from one set of rates to another, in a cluster with as many GPUs again as it takes."""
    before, after = plan_for(old), plan_for(new)
    gpus = 2 * max(len(before.gpus), len(after.gpus))
    request = Request(on_cluster(before, gpus), on_cluster(after, gpus), dict(old), dict(new), PAPER, extra)
    return Change(before, after, request)


def random_change(seed: int, least: int = 4, most: int = 64) -> Change:
    """Return a random change between about `least` and `most` GPUs.

    3 to 12 services; rates of which each takes an exponential share of the GPUs; every service's share changes by a
    lognormal factor (sigma 0.5), one in ten comes or goes, and the total is drawn anew.
    """
    draw = random.Random(seed)
    names = [f"{draw.choice(MODELS)}-{i}" for i in range(draw.randint(3, 12))]
    shares = {name: draw.expovariate(1.0) + 0.05 for name in names}
    later = {name: share * draw.lognormvariate(0, 0.5) for name, share in shares.items()}
    olds = {name for name in names[1:] if draw.random() < 0.1}
    news = {name for name in names[1:] if name not in olds and draw.random() < 0.1}
    before = scaled({n: s for n, s in shares.items() if n not in news}, draw.uniform(least, most))
    after = scaled({n: s for n, s in later.items() if n not in olds}, draw.uniform(least, most))
    return change(before, after)


def scaled(shares: Mapping[str, float], gpus: float) -> dict[str, float]:
    """Return rates in these shares that need about so many GPUs."""
    total = sum(shares.values())
    # A GPU cut well gives a service about a third more than the whole one does.
    return {name: round(1.3 * whole_rate(name) * gpus * share / total, 3) for name, share in shares.items()}


def rates_for(shares: Mapping[str, float], gpus: int) -> dict[str, float]:
    """Return rates in these shares for which the optimum is just so many GPUs, by bisection."""
    low, high = 0.0, float(2 * gpus)
    for _ in range(40):
        middle = (low + high) / 2
        rates = scaled(shares, middle)
        needed = len(plan_for(rates).gpus)
        if needed == gpus:
            return rates
        low, high = (middle, high) if needed < gpus else (low, middle)
    raise ValueError(f"no rates in these shares need {gpus} GPUs")


def walk(counts: Sequence[int], seed: int) -> list[dict[str, float]]:
    """Return rates for each hour whose optimum is that hour's count; shares drift from hour to hour."""
    draw = random.Random(seed)
    shares = {
        name: draw.expovariate(1.0) + 0.2 for name in ("bert-0", "resnet50-1", "vgg19-2", "densenet201-3")
    }
    hours = []
    for gpus in counts:
        shares = {name: share * draw.lognormvariate(0, 0.2) for name, share in shares.items()}
        hours.append(rates_for(shares, gpus))
    return hours


def tight_pair(seed: int) -> Request:
    """Return a change on one or two A30s with two services, nearly all of their capacity needed, no GPU to spare."""
    draw = random.Random(seed)
    used = draw.randint(1, 2), draw.randint(1, 2)
    current, target = (_any_deployment(draw, n, max(used)) for n in used)
    old = {name: c * draw.uniform(0.95, 1.0) for name, c in current.capacity().items()}
    new = {name: c * draw.uniform(0.95, 1.0) for name, c in target.capacity().items()}
    return Request(current, target, old, new, PAPER, extra_gpus=0)


def _any_deployment(draw: random.Random, used: int, there: int) -> Deployment:
    gpu = gpu_model("a30-24gb").restricted(["1g.6gb", "2g.12gb", "4g.24gb"])
    layouts = [layout for layout in legal_layouts(gpu) if len(layout)]
    gpus = []
    for i in range(there):
        placements = draw.choice(layouts).placements if i < used else ()
        gpus.append(
            DeployedGpu(
                f"node-0/gpu-{i}",
                gpu.name,
                tuple(DeployedInstance(p, _any_replica(draw.randint(0, 1), p.profile)) for p in placements),
            )
        )
    return Deployment(tuple(gpus))


def _any_replica(service: int, profile: str) -> Replica:
    throughput = (10.0 + 3 * service) * int(profile[0]) ** (0.8 + 0.1 * service)
    return Replica(f"s{service}", f"net{service}", 8, 1, throughput, 10.0)
