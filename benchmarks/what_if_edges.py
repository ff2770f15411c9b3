"""What-ifs with as many GPUs as 5 services need, and with fewer: seconds of a core until the answer."""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.report import table
from benchmarks.scale import TABLE, random_problem, services
from partita.dash.model import PoolWhatIf, ServiceWhatIf, WhatIf, WhatIfAnswer
from partita.dash.what_if import answer
from partita.perf.reading import read_table
from partita.perf.table import PerfTable
from partita.planner import prepare
from partita.planning.exact import compile_for
from partita.workload import LimitsSpec, PoolSpec, ServiceSpec, Slo, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

SEEDS = tuple(range(1001, 1091))
"""One inventory each, in turn."""

INVENTORIES = (("a100-80gb",), ("h100-80gb",), ("a100-80gb", "h100-80gb"))
EDGES = (
    ("enough", 1.0, 0),
    ("one fewer", 1.0, -1),
    ("two fewer", 1.0, -2),
    ("a tenth fewer", 0.9, 0),
    ("half", 0.5, 0),
)
"""GPUs as a share of the fewest, and added to that."""


SECONDS = 60.0
"""Most seconds of an answer, so that what others do on the cores does not count."""


def run(*, quick: bool) -> str:
    """Return the table."""
    # The process that searches has these loops compiled soon after a page asks for what may be changed.
    compile_for(random_problem(5, 0))
    found: dict[tuple[str, str], list[float]] = {}
    for seed in SEEDS[:6] if quick else SEEDS:
        for kind, feasible, seconds in at_edges(seed, INVENTORIES[seed % len(INVENTORIES)]):
            found.setdefault((kind, feasible), []).append(seconds)
    rows = [_row(kind, feasible, mine) for (kind, feasible), mine in found.items()]
    rows.append(_row("all", "", [each for mine in found.values() for each in mine]))
    return (
        "## What-ifs at the edge\n\n"
        "5 services at the edge of what the GPUs can do: A100s, H100s, or as many of the one as of the other, with "
        "counts; the rate of one service is raised by half, or its SLO halved or made too tight for any instance. "
        "What an H100 does is the A100's throughput times a factor drawn for each model: no public table has both. "
        f"Seeds {SEEDS[0]} to {SEEDS[-1]}. Seconds are those of one core, as others use the cores as well:\n\n"
        + table(["what", "feasible", "what-ifs", "median seconds of a core", "99 % within", "most"], rows)
    )


def _row(kind: str, feasible: str, seconds: list[float]) -> list[object]:
    return [kind, feasible, len(seconds), median(seconds), float(np.quantile(seconds, 0.99)), max(seconds)]


def at_edges(seed: int, models: tuple[str, ...]) -> Iterator[tuple[str, str, float]]:
    """Yield kind, whether there is a plan, and CPU seconds of each what-if."""
    rng = np.random.default_rng(seed)
    drawn = services(5, seed)
    workload = Workload(
        services=tuple(ServiceSpec(name, model, rate, Slo(slo)) for name, model, rate, slo in drawn),
        gpus=tuple(PoolSpec(model) for model in models),
        limits=LimitsSpec(max_batch=128, max_processes=5, latency_factor=0.45),
    )
    prepared = prepare(workload, _both(rng))
    first = answer(prepared, WhatIf()).plan
    fewest = 0 if first is None else first.gpus

    def counts(gpus: int) -> dict[str, PoolWhatIf]:
        half = gpus // len(models)
        return dict(
            zip(models, (PoolWhatIf(gpus - half * (len(models) - 1)), PoolWhatIf(half)), strict=False)
        )

    while answer(prepared, WhatIf(pools=counts(fewest), seconds=SECONDS)).plan is None:
        fewest += 1
    asked = [(kind, WhatIf(pools=counts(int(fewest * share) + more))) for kind, share, more in EDGES]
    name, _, rate, slo = drawn[int(rng.integers(len(drawn)))]
    asked += [
        (kind, WhatIf(services={name: change}, pools=counts(fewest)))
        for kind, change in (
            ("a rate by half more", ServiceWhatIf(rate=1.5 * rate)),
            ("half an SLO", ServiceWhatIf(latency_ms=slo / 2)),
            ("an SLO too tight", ServiceWhatIf(latency_ms=0.5)),
        )
    ]
    loose = WhatIf(services={name: ServiceWhatIf(rate=rate * float(2 ** rng.uniform(-1, 1)))})
    asked += [("another rate, GPUs without a count", loose), ("nothing, GPUs without a count", WhatIf())]
    for kind, each in asked:
        began = time.process_time()
        found = answer(prepared, each.replace(seconds=SECONDS))
        yield kind, _feasible(found), time.process_time() - began


def _feasible(found: WhatIfAnswer) -> str:
    if found.plan is not None:
        return "yes"
    # A search that ends without a plan or a proof that there is none leaves its bound.
    return "no" if found.bound is None else "no answer in time"


def _both(rng: np.random.Generator) -> PerfTable:
    rows = tuple(read_table(TABLE))
    factor = {model: float(rng.uniform(1.5, 2.2)) for model in sorted({row.model for row in rows})}
    return PerfTable(
        (
            *rows,
            *(
                replace(
                    row,
                    gpu="h100-80gb",
                    throughput=row.throughput * factor[row.model],
                    latency_ms=row.latency_ms / factor[row.model],
                )
                for row in rows
            ),
        )
    )
