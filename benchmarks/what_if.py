"""What-ifs: seconds until the bound, and until the plan, of a workload with another rate, SLO or number of GPUs."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.report import table
from benchmarks.scale import LIMITS, SLOS, TABLE, services
from partita.dash.model import PoolWhatIf, ServiceWhatIf, WhatIf
from partita.dash.searches import Searches, WorkloadFile
from partita.dash.what_if import answer
from partita.perf.reading import read_table
from partita.perf.table import PerfTable
from partita.planner import prepare
from partita.workload import LimitsSpec, PoolSpec, ServiceSpec, Slo, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from partita.dash.model import WhatIfAnswer

SIZES = (5, 100, 1000)
"""Services."""

SEEDS = (1, 2, 3)
CHANGES = 8
"""What-ifs of each workload, one after another."""

EDGE_SEEDS = tuple(range(1, 11))
INVENTORIES = (("a100-80gb",), ("h100-80gb",), ("a100-80gb", "h100-80gb"))
EDGES = (
    ("enough", 1.0, 0),
    ("one fewer", 1.0, -1),
    ("two fewer", 1.0, -2),
    ("a tenth fewer", 0.9, 0),
    ("half", 0.5, 0),
)
"""GPUs as a share of the fewest, and added to that."""


def run(*, quick: bool) -> str:
    """Return the tables."""
    rows: list[list[object]] = []
    for count in SIZES[:2] if quick else SIZES:
        found = [each for seed in (SEEDS[:1] if quick else SEEDS) for each in _workload(count, seed)]
        for until in ("bound", "plan"):
            mine = [(seconds, answer) for wanted, seconds, answer in found if wanted == until]
            walls = [seconds for seconds, _ in mine]
            rows.append(
                [count, until, len(mine), median(walls), max(walls), sum(each.feasible for _, each in mine)]
            )
    load = os.getloadavg()[1]
    head = ["services", "until", "what-ifs", "median seconds", "most seconds", "feasible"]
    return (
        "## What-ifs\n\n"
        "Each workload has random services as in [planning at scale](#planning-at-scale), on A100-80GBs. Each "
        "what-if changes the rate of one service by a factor between a half and two, or loosens its SLO, or changes "
        "the number of GPUs; the bound is asked for first, then the plan, as the dashboard asks: in the process that "
        "searches, with the workload prepared, and nothing kept of the answers before. Seconds are those of the one "
        f"who asks, on a clock, while {load:.0f} processes on average wanted the machine's cores:"
        f"\n\n{table(head, rows)}\n"
        f"{_edges(EDGE_SEEDS[:2] if quick else EDGE_SEEDS)}"
    )


def _edges(seeds: Sequence[int]) -> str:
    """Return the table of what-ifs with as many GPUs as are needed, and fewer."""
    found: dict[tuple[str, bool], list[float]] = {}
    for seed in seeds:
        for models in INVENTORIES:
            for kind, feasible, seconds in _at_edges(seed, models):
                found.setdefault((kind, feasible), []).append(seconds)
    rows: list[list[object]] = [
        [kind, "yes" if feasible else "no", len(mine), median(mine), max(mine)]
        for (kind, feasible), mine in found.items()
    ]
    every = [each for mine in found.values() for each in mine]
    rows.append(["all", "", len(every), median(every), max(every)])
    return (
        "5 services at the edge of what the GPUs can do: A100s, H100s, or as many of the one as of the other, with "
        "counts; the rate of one service is raised by half, or its SLO halved or made too tight for any instance. "
        "What an H100 does is the A100's throughput times a factor drawn for each model: no public table has both. "
        "Seconds are those of one core, as others use the cores as well:\n\n"
        + table(["what", "feasible", "what-ifs", "median seconds of a core", "most seconds of a core"], rows)
    )


def _at_edges(seed: int, models: tuple[str, ...]) -> Iterator[tuple[str, bool, float]]:
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

    while answer(prepared, WhatIf(pools=counts(fewest), seconds=2.0)).plan is None:
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
        found = answer(prepared, each)
        yield kind, found.plan is not None, time.process_time() - began


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


def _workload(count: int, seed: int) -> list[tuple[str, float, WhatIfAnswer]]:
    """Return what was asked of a workload, the seconds, and the answer."""
    rng = np.random.default_rng(seed)
    drawn = services(count, seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "workload.json"
        shutil.copy(TABLE, path.with_name("perf.csv"))
        document = {
            "apiVersion": "partita/v1",
            "kind": "Workload",
            "performance": ["perf.csv"],
            "gpus": [{"model": "a100-80gb"}],
            "limits": LIMITS,
            "services": [
                {"name": name, "model": model, "rate": rate, "slo": {"latency_ms": slo}}
                for name, model, rate, slo in drawn
            ],
        }
        path.write_text(json.dumps(document))
        workload = WorkloadFile(path)
        with closing(Searches()) as searches:
            first = searches.what_if(workload, WhatIf(), None)
            gpus = 0 if first.plan is None else first.plan.gpus
            asked = [_change(drawn, gpus, rng) for _ in range(CHANGES)]
            return [
                (until, *_timed(searches, workload, each.replace(until=until)))
                for each in asked
                for until in ("bound", "plan")
            ]


def _change(drawn: Sequence[tuple[str, str, float, float]], gpus: int, rng: np.random.Generator) -> WhatIf:
    name, _, rate, slo = drawn[int(rng.integers(len(drawn)))]
    kind = rng.integers(3)
    if kind == 0:
        return WhatIf(services={name: ServiceWhatIf(rate=round(rate * float(2 ** rng.uniform(-1, 1)), 3))})
    if kind == 1:
        return WhatIf(services={name: ServiceWhatIf(latency_ms=max(slo, float(rng.choice(SLOS))))})
    return WhatIf(pools={"a100-80gb": PoolWhatIf(count=round(gpus * float(rng.uniform(0.97, 1.1))))})


def _timed(searches: Searches, workload: WorkloadFile, asked: WhatIf) -> tuple[float, WhatIfAnswer]:
    began = time.monotonic()
    answer = searches.what_if(workload, asked, None)
    return time.monotonic() - began, answer
