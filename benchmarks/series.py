"""A day at once: 30 services over 24 hours, against planning each hour and the peak."""

from __future__ import annotations

import csv
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.report import table
from benchmarks.scale import LIMITS, TABLE, services
from benchmarks.scenarios import DATA
from partita.perf.reading import read_tables
from partita.planner import check, prepare
from partita.series.planning import at_rates, plan_series
from partita.series.rates import Period, RateSeries
from partita.workload import LimitsSpec, PoolSpec, ServiceSpec, Slo, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from partita.planner import PreparedWorkload
    from partita.series.planning import PlannedSeries

HOURS = 24
SERVICES = 30
SEEDS = (1,)
DAYS = ("Jormungandr's figure 7", "Azure LLM", "GenTD26")
_FACTOR = 0.05
"""On the largest rates, so that all services at once take some 30 GPUs."""


def run(*, quick: bool) -> str:
    """Return the tables."""
    count, days, seeds = (8, DAYS[:1], SEEDS[:1]) if quick else (SERVICES, DAYS, SEEDS)
    rows: list[list[object]] = []
    compared: list[list[object]] = []
    cases = [(count, day, seed) for day in days for seed in seeds]
    with ProcessPoolExecutor(len(cases)) as pool:
        for row, others in pool.map(_case, cases):
            rows.append(row)
            compared += others
    return (
        "## A day at once\n\n"
        f"{count} services with random models, SLOs and largest rates (as under *Planning at scale*, rates times "
        f"{_FACTOR:g}) on A100-80GBs without a count. Each follows a day of its own. *Jormungandr's figure 7*: its "
        "curve of GPUs from hour 1 to 23 (hour 0 is the mean of its neighbours), shifted by up to three hours and "
        "with 5 % of noise. *Azure LLM*: the hour of the conversation and of the code trace, stretched to a day, "
        "begun at a random minute, at a random mix of both. *GenTD26*: a random day of that trace, items by the "
        "hour; in an hour without a query the service is off. A move costs 0.0106 GPU-hours. GPU-hours include what "
        "changes hold beyond the plans. All plans and changes pass the checkers. "
        "The days are planned side by side, each with the comparison below:\n\n"
        + table(
            [
                "day",
                "seed",
                "sum of hourly bounds, GPU-hours",
                "planned",
                "above",
                "changes",
                "moves",
                "minutes of change",
                "seconds",
                "of a core",
            ],
            rows,
        )
        + "\nThe same days in other ways:\n\n"
        + table(
            [
                "day",
                "seed",
                "plans",
                "GPU-hours",
                "above the bounds",
                "changes",
                "moves",
                "minutes of change",
            ],
            compared,
        )
    )


def _case(case: tuple[int, str, int]) -> tuple[list[object], list[list[object]]]:
    """Return the row of a day, and the rows of the same day in other ways."""
    count, day, seed = case
    prepared = workload(count, seed)
    series = rates(day, prepared, seed)
    started, cpu = time.monotonic(), time.process_time()
    planned = plan_series(prepared, series, anew=True, seed=seed)
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    _check(planned, prepared)
    chosen = planned.chosen
    changes = [len(chosen.changes), chosen.moves, round(chosen.seconds / 60, 1)]
    figures = [round(planned.bound, 2), round(chosen.total, 2), f"{planned.gap:.2%}", *changes, seconds, cpu]
    others = list(_compared(day, seed, planned))
    print(day, seed, figures, others, file=sys.stderr, flush=True)
    return [day, seed, *figures], others


def workload(count: int, seed: int) -> PreparedWorkload:
    """Return random services with their largest rates."""
    drawn = services(count, seed, _FACTOR)
    return prepare(
        Workload(
            gpus=(PoolSpec(model="a100-80gb"),),
            services=tuple(
                ServiceSpec(name=name, model=model, rate=rate, slo=Slo(latency_ms=slo))
                for name, model, rate, slo in drawn
            ),
            limits=LimitsSpec(**LIMITS),  # type: ignore[arg-type]  # the fields of a dict
        ),
        read_tables([str(TABLE)]),
    )


def rates(day: str, prepared: PreparedWorkload, seed: int) -> RateSeries:
    """Return the rates of a day of that kind."""
    rng = np.random.default_rng(seed)
    curves = {"Azure LLM": _azure, "GenTD26": _gentd26}.get(day, _figure_7)(
        rng, len(prepared.workload.services)
    )
    largest = {spec.name: spec.rate for spec in prepared.workload.services}
    periods = (
        Period(
            float(hour),
            1.0,
            {
                name: round(most * float(share), 4) if (share := curve[hour]) > 0 else 0.0
                for (name, most), curve in zip(largest.items(), curves, strict=True)
            },
        )
        for hour in range(HOURS)
    )
    return RateSeries(tuple(periods))


def _figure_7(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Return shares of the largest rates, shape (count, HOURS)."""
    figures = json.loads((DATA / "paper_figures.json").read_text())
    curve = np.array(figures["jormungandr_fig7_gpus_hr1..23"]["A100-7/7"], dtype=np.float64)
    curve = np.concatenate([[(curve[0] + curve[-1]) / 2], curve])
    shifts = rng.integers(-3, 4, size=count)
    shifted = np.array([np.roll(curve, shift) for shift in shifts]) * rng.normal(
        1.0, 0.05, size=(count, HOURS)
    )
    return _of_largest(shifted)


def _azure(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    bins = []
    for name in ("conv", "code"):
        with (DATA / "traces" / f"azure_llm_2023_{name}.csv").open(newline="") as stream:
            at = [datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in csv.DictReader(stream)]
        counted, _ = np.histogram(at, bins=_MINUTES, range=(min(at), max(at)))
        bins.append(counted / counted.mean())
    found = []
    for mix, begin in zip(rng.random(count), rng.integers(_MINUTES, size=count), strict=True):
        minutes = np.roll(mix * bins[0] + (1 - mix) * bins[1], begin)
        found.append(np.array([part.mean() for part in np.array_split(minutes, HOURS)]))
    return _of_largest(np.array(found))


_MINUTES = 60


def _gentd26(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    with (DATA / "traces" / "gentd26_first_half.csv").open(newline="") as stream:
        rows = [(float(row["seconds"]), float(row["batch"])) for row in csv.DictReader(stream)]
    seconds, sizes = np.array(rows).T
    hours = int(seconds.max() // 3600)
    hourly, _ = np.histogram(seconds, bins=hours, range=(0, hours * 3600), weights=sizes)
    busy = [start for start in range(hours - HOURS) if hourly[start : start + HOURS].sum() > 0]
    return _of_largest(np.array([hourly[start : start + HOURS] for start in rng.choice(busy, size=count)]))


def _of_largest(curves: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = curves / curves.max(axis=1, keepdims=True)
    return found


def _check(planned: PlannedSeries, prepared: PreparedWorkload) -> None:
    """Hold each plan of the chosen sequence to the rates of its periods; changes were checked as they were made."""
    for run_ in planned.chosen.runs:
        asked = at_rates(prepared, planned.series.most(run_.first, run_.last))
        assert asked is None or not check(run_.plan, asked)


def _compared(day: str, seed: int, planned: PlannedSeries) -> Iterator[list[object]]:
    sequences = {
        "chosen": planned.chosen,
        "near the last, each hour": planned.near,
        "anew, each hour": planned.fresh,
        "one for the largest rates": planned.peak,
    }
    for name, each in sequences.items():
        if each is not None:
            over = each.total / planned.bound - 1
            figures = [len(each.changes), each.moves, round(each.seconds / 60, 1)]
            yield [day, seed, name, round(each.total, 2), f"{over:.2%}", *figures]
