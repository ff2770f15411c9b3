"""What-ifs: seconds until the bound, and until the plan, of a workload with another rate, SLO or number of GPUs."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.report import table
from benchmarks.scale import SLOS, services, write_workload
from partita.dash.model import PoolWhatIf, ServiceWhatIf, WhatIf
from partita.dash.searches import Searches, WorkloadFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.dash.model import WhatIfAnswer

SIZES = (5, 100, 1000)
"""Services."""

SEEDS = (1, 2, 3)
CHANGES = 8
"""What-ifs of each workload, one after another."""


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
        f"\n\n{table(head, rows)}"
    )


def _workload(count: int, seed: int) -> list[tuple[str, float, WhatIfAnswer]]:
    """Return what was asked of a workload, the seconds, and the answer."""
    rng = np.random.default_rng(seed)
    drawn = services(count, seed)
    with tempfile.TemporaryDirectory() as folder:
        workload = WorkloadFile(write_workload(Path(folder), drawn))
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
