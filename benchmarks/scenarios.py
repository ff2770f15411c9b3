"""Planning problems made from the public tables in `../shared/data`, each a value built from a seed."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from partita.mig.catalogue import gpu_model
from partita.perf.operating_point import Limits, OperatingPoint, operating_points
from partita.perf.table import Measurement, PerfTable
from partita.planning.problem import Pool, Problem, Service, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SLO_MS = 100.0
SERVICES = 24
WHOLE_GPUS = {"normal": 270.0, "lognormal": 360.0}
"""GPUs of the static whole cut that the rates are scaled to, as in figure 9 of the paper (208 to 402)."""


def mig_serving_24(kind: Literal["normal", "lognormal"], seed: int) -> Problem:
    """Return 24 services drawn from the 16 public tables of MIG-Serving (arXiv 2109.11067, section 8).

    The paper says neither its rates nor its seeds: here they are drawn from a normal (standard deviation a
    third of the mean) or a lognormal distribution (sigma 1), in units of each model's throughput on a whole
    A100, and scaled to as many GPUs as the paper's. The SLO is 100 ms at the 90th percentile.

    Args:
        kind: distribution of the rates.
        seed: of numpy's default generator.
    """
    random = np.random.default_rng(seed)
    table = _mig_serving_table()
    gpu = gpu_model("a100-40gb").forbidding(["4g+3g"])
    models = table.models
    drawn = [models[i] for i in random.permutation(SERVICES) % len(models)]
    wholes = _spread(kind, random)
    profiles = [p.name for p in gpu.profiles if any(row.profile == p.name for row in table)]
    points = {model: operating_points(table.of(model, gpu.name), Limits(SLO_MS)) for model in models}
    return Problem(
        pools=(Pool("a100", gpu),),
        services=tuple(
            _service(f"{model}-{index}", model, wholes[index], points[model], profiles)
            for index, model in enumerate(drawn)
        ),
        sizes=tuple(Size(0, profile) for profile in profiles),
    )


def _spread(kind: str, random: np.random.Generator) -> NDArray[np.float64]:
    if kind == "normal":
        drawn = np.maximum(random.normal(1.0, 1 / 3, SERVICES), 0.05)
    else:
        drawn = random.lognormal(0.0, 1.0, SERVICES)
    scaled: NDArray[np.float64] = drawn / drawn.sum() * WHOLE_GPUS[kind]
    return scaled


def _service(
    name: str, model: str, wholes: float, points: dict[str, OperatingPoint], profiles: list[str]
) -> Service:
    rate = round(wholes * max(point.throughput for point in points.values()), 2)
    found = tuple(points.get(profile) for profile in profiles)
    return Service(name, model, rate=rate, asked_rate=rate, latency_slo_ms=SLO_MS, points=found)


def _mig_serving_table() -> PerfTable:
    with (DATA / "perf" / "mig_serving_a100.csv").open(newline="", encoding="utf-8") as file:
        return PerfTable(
            Measurement(
                model=row["model"],
                gpu=row["gpu"],
                profile=row["profile"],
                batch=int(row["batch"]),
                processes=int(row["processes"]),
                throughput=float(row["throughput"]),
                latency_ms=float(row["latency_ms"]),
                quantile=row["quantile"],
                source=row["source"],
            )
            for row in csv.DictReader(file)
        )
