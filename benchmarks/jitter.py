"""How batch times vary around their mean, by public measurements, and what that costs of the capacity."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.report import table
from benchmarks.scenarios import DATA
from partita.perf.operating_point import JITTER
from partita.perf.table import PerfTable
from partita.planning.formulate import Measured
from partita.serve.dispatching.estimates import table_of
from partita.serve.waiting import CapacityModel, InstanceKind, Promise
from partita.workload import PoolSpec, ServiceSpec, Slo, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

_TIMES = Path(__file__).resolve().parent / "batch_times.csv"
_COLUMNS = {"p90_ms": 0.9, "p95_ms": 0.95, "p99_ms": 0.99, "p999_ms": 0.999}
_JITTERS = (0.025, JITTER, 0.1)
_SHARES = (0.9, 0.95, 0.99)
_BATCH = 8
_SLACK = (1.5, 2.5, 4.0)
_COUNTS = (1, 3)
_MODELS = {
    "parvagpu_a100_80gb.csv": ("bert", "densenet201", "resnet152", "resnet50", "vgg19"),
    "mig_serving_a100.csv": ("albert-large-v2-pytorch", "gpt2-pytorch", "roberta-large-tensorflow"),
}


def run(*, quick: bool) -> str:
    return "\n".join(["## Jitter of batch times", "", *_measured(), "", *_cost(quick=quick)])


# What was measured


def _measured() -> Iterator[str]:
    rows = list(csv.DictReader(_TIMES.read_text().splitlines()))
    cells = []
    for name, quantile in _COLUMNS.items():
        ratios = sorted(float(row[name]) / float(row["mean_ms"]) for row in rows if row[name])
        assumed = math.exp(NormalDist().inv_cdf(quantile) * JITTER - JITTER**2 / 2)
        cells.append(
            [
                f"p{100 * quantile:g}",
                len(ratios),
                *(f"{float(np.quantile(ratios, at)):.3f}" for at in (0.5, 0.75, 0.9, 1.0)),
                f"{_spread(float(np.quantile(ratios, 0.5)), quantile):.3f}",
                f"{_spread(float(np.quantile(ratios, 0.9)), quantile):.3f}",
                f"{assumed:.3f}",
                f"{np.mean([each <= assumed for each in ratios]):.0%}",
            ]
        )
    slices = [row for row in rows if row["slice"] != "whole"]
    worst = max(float(row["p99_ms"]) / float(row["mean_ms"]) for row in slices)
    yield (
        f"A table of means says nothing of the batches that take longer. {len(rows)} public measurements "
        "do (`benchmarks/batch_times.csv`): logs of NVIDIA's results in MLPerf Inference v1.1 and v2.0 "
        "(ResNet-50, SSD-ResNet34 and SSD-MobileNet at batch 1 and 8, 59,000 to 1.9 million batches "
        "each, TensorRT alone and behind Triton, on a 1g.6gb of an A30 and on whole A100s and A10s), and "
        "tables of NVIDIA's DeepLearningExamples (ResNet-50 at batch 1 to 128 in ONNX Runtime behind "
        "Triton, on A100, A40, V100 and T4). All run one batch after the other, with inputs of one size. "
        "A row is a quantile of the batch times divided by their mean; the spread is the standard "
        "deviation of the logarithm that a log-normal of that quantile has."
    )
    yield ""
    header = [
        "quantile",
        "rows",
        "median",
        "75 % at most",
        "90 % at most",
        "worst",
        "spread, median",
        "spread, 90 %",
    ]
    yield table([*header, f"a spread of {JITTER:g} gives", "rows within that"], cells)
    yield (
        f"Plans assume {JITTER:g} where a table has means alone: p99 is then "
        f"{math.exp(NormalDist().inv_cdf(0.99) * JITTER - JITTER**2 / 2):.2f} of the mean. Of the "
        f"{len(slices)} rows on a MIG slice none is above {worst:.3f} at p99. What these measurements do "
        "not show: several MPS processes at a time, neighbours on other slices, thermal limits, and "
        "inputs of unlike sizes. Beyond p99.9 single batches took 5 to 40 ms longer, which no log-normal "
        "of this spread has. In MIG-Serving's public table the column of p90 is the batch size divided "
        "by the throughput (within 0.1 % in 80 % of 320 rows), so it is a mean as well."
    )


def _spread(ratio: float, quantile: float) -> float:
    """Return the least spread of a log-normal of mean 1 with this quantile, 0 if it is below 1."""
    z = NormalDist().inv_cdf(quantile)
    inside = z * z - 2 * math.log(ratio)
    return max(0.0, z - math.sqrt(inside)) if inside > 0 else z


# What it costs


def _cost(*, quick: bool) -> Iterator[str]:
    kinds = list(_kinds())[:: 4 if quick else 1]
    model = _model()
    lost: dict[tuple[float, float], list[float]] = {}
    for kind, deadline in kinds:
        for share, count in product(_SHARES, _COUNTS):
            promise = Promise(deadline, share, "poisson")
            still = model.holds(kind, count, promise)
            for jitter in _JITTERS if still > 0 else ():
                held = model.holds(replace(kind, jitter=jitter), count, promise)
                lost.setdefault((jitter, share), []).append(1 - held / still)
    cells = [
        [
            f"{jitter:g}",
            f"{share:.0%}",
            len(found),
            *(
                f"{each:.1%}"
                for each in (np.median(found), np.mean(found), np.quantile(found, 0.9), np.max(found))
            ),
        ]
        for (jitter, share), found in sorted(lost.items())
    ]
    yield (
        f"What it costs: the capacity with waiting of {', '.join(map(str, _COUNTS))} equal instances (1g "
        f"and 3g, batch {_BATCH}), of {sum(map(len, _MODELS.values()))} models of public tables, Poisson "
        f"arrivals, SLOs of {', '.join(f'{each:g}' for each in _SLACK)} times the batch's seconds, "
        "against the same without jitter. Simulated by the capacity model that plans use, with its own "
        "seeds and to 0.4 % of the capacity. The worst cases are of one kind of instance, whose batches "
        "of 1 and 8 take equally long, at the shortest SLO: there the share in time hardly depends on "
        "the rate, and a little jitter moves far the rate at which it is kept."
    )
    yield ""
    header = [
        "spread",
        "promised",
        "cases",
        "capacity lost, median",
        "mean",
        "in 90 % of the cases at most",
        "worst",
    ]
    yield table(header, cells)


def _model() -> CapacityModel:
    any_service = ServiceSpec("any", model="any", rate=1.0, slo=Slo(100.0))
    workload = Workload(gpus=(PoolSpec("a100-80gb"),), services=(any_service,))
    return CapacityModel(Measured(workload, PerfTable(()), ()))


def _kinds() -> Iterator[tuple[InstanceKind, float]]:
    """Yield instances without jitter, and the deadline in seconds."""
    for name, models in _MODELS.items():
        for slices, seconds in _tables(name, models):
            kind = InstanceKind(slices, tuple(table_of(seconds, _BATCH, 0.0)), 1, 0.0)
            for slack in _SLACK:
                yield kind, slack * seconds[_BATCH]


def _tables(name: str, models: tuple[str, ...]) -> Iterator[tuple[int, dict[int, float]]]:
    found: dict[tuple[str, int], dict[int, float]] = {}
    for row in csv.DictReader((DATA / "perf" / name).read_text().splitlines()):
        slices = int(row["profile"][0])
        if row["model"] in models and row["processes"] == "1" and slices in (1, 3):
            found.setdefault((row["model"], slices), {})[int(row["batch"])] = float(row["latency_ms"]) / 1000
    for (_, slices), seconds in sorted(found.items()):
        yield slices, seconds
