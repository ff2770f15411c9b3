"""Planning at scale: services by the hundred thousand, pools of unlike GPUs, the whole command, its start-up."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.report import table
from benchmarks.scenarios import DATA
from partita.deadline import Deadline
from partita.mig.catalogue import gpu_model
from partita.perf.operating_point import Limits, OperatingPoint, operating_points
from partita.perf.reading import read_table
from partita.planning.exact import ExactPlanner
from partita.planning.problem import Pool, Problem, Service, Size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.perf.table import PerfTable

TABLE = DATA / "perf" / "parvagpu_a100_80gb.csv"
SLOS = (125.0, 187.5, 250.0, 375.0, 500.0, 750.0, 1000.0, 1500.0, 2500.0)
LIMITS = {"max_batch": 128, "max_processes": 5, "latency_factor": 0.45}
CASES = ((100, 1.15), (1000, 1.0), (10_000, 1.0), (100_000, 1.0))
"""Services, and a factor on their rates: the first makes a thousand GPUs."""

SEEDS = (1, 2, 3)


def run(*, quick: bool) -> str:
    """Return the tables."""
    cases = CASES[:2] if quick else CASES
    seeds = SEEDS[:1] if quick else SEEDS
    ExactPlanner().plan(
        random_problem(100, 0)
    )  # compiles the pricing kernel, as the first plan on a machine does
    return (
        "## Planning at scale\n\n"
        "Each service has a random model of ParvaGPU's table, an SLO of 125 to 2,500 ms, and a rate that is a "
        "log-normal (2, 1) multiple of its best instance's throughput. There is one pool of A100-80GB without "
        "a count. Seconds are those of planning in one process with compiled "
        f"kernels:\n\n{_sizes(cases, seeds)}\n{_pools(seeds)}\n{_command(1000 if quick else 100_000)}\n{_start_up()}"
    )


def services(count: int, seed: int, factor: float = 1.0) -> list[tuple[str, str, float, float]]:
    """Return (name, model, rate, SLO) of random services, each of which can run somewhere."""
    rng = np.random.default_rng(seed)
    rows = read_table(TABLE)
    best = {
        (model, slo): max((p.throughput for p in _points(rows, model, slo).values()), default=0.0)
        for model in rows.models
        for slo in SLOS
    }
    runnable = [key for key, throughput in best.items() if throughput]
    drawn = rng.integers(len(runnable), size=count)
    factors = rng.lognormal(2.0, 1.0, size=count) * factor
    return [
        (f"s{i}", runnable[k][0], round(best[runnable[k]] * float(f), 3), runnable[k][1])
        for i, (k, f) in enumerate(zip(drawn, factors, strict=True))
    ]


def _points(rows: PerfTable, model: str, slo: float) -> dict[str, OperatingPoint]:
    return operating_points(rows.of(model, "a100-80gb"), Limits(0.45 * slo, max_batch=128, max_processes=5))


def random_problem(count: int, seed: int, factor: float = 1.0) -> Problem:
    """Return the problem of random services on A100-80GBs."""
    rows = read_table(TABLE)
    pool = Pool("a100", gpu_model("a100-80gb").restricted({row.profile for row in rows}))
    sizes = tuple(Size(0, profile.name) for profile in pool.gpu.profiles)
    drawn = services(count, seed, factor)
    points = {}
    for _, model, _, slo in drawn:
        if (model, slo) not in points:
            found = _points(rows, model, slo)
            points[model, slo] = tuple(found.get(size.profile) for size in sizes)
    made = (Service(name, model, rate, rate, slo, points[model, slo]) for name, model, rate, slo in drawn)
    return Problem((pool,), tuple(made), sizes)


def _sizes(cases: tuple[tuple[int, float], ...], seeds: tuple[int, ...]) -> str:
    rows: list[list[object]] = []
    for count, factor in cases:
        for seed in seeds:
            problem = random_problem(count, seed, factor)
            plan = ExactPlanner(seed=seed).plan(problem)
            value, bound = int(plan.objective.value), int(plan.objective.lower_bound)
            rows.append(
                [count, seed, value, bound, value - bound, f"{plan.objective.gap:.5%}", plan.solver.seconds]
            )
    return table(["services", "seed", "GPUs", "proven bound", "above it", "gap", "seconds"], rows)


def three_pools(count: int, seed: int) -> Problem:
    """Return services that run on A100s, H100s and A30s, of which there are so many, at a cost per hour.

    What an H100 or A30 does is the A100's throughput times a factor drawn for each service: no public table has
    all three.
    """
    rng = np.random.default_rng(seed)
    base = random_problem(count, seed, 0.3)
    pools, sizes = [], []
    for index, (name, cost, there) in enumerate(
        (("a100-80gb", 2.1, 600), ("h100-80gb", 3.9, 150), ("a30-24gb", 0.7, 500))
    ):
        gpu = gpu_model(name)
        gpu = gpu.restricted([profile.name for profile in gpu.profiles if not profile.media])
        pools.append(Pool(name, gpu, there, 8, cost))
        sizes += [Size(index, profile.name) for profile in gpu.profiles]
    made = []
    for service in base.services:
        by_size = {point.profile.split(".")[0]: point for point in service.points if point}
        factors = (1.0, float(rng.uniform(1.5, 2.2)), float(rng.uniform(0.4, 0.6)))
        points = tuple(
            replace(point, profile=size.profile, throughput=point.throughput * factors[size.pool])
            if (point := by_size.get(size.profile.split(".")[0]))
            else None
            for size in sizes
        )
        made.append(replace(service, points=points))
    return Problem(tuple(pools), tuple(made), tuple(sizes), "cost")


def _pools(seeds: tuple[int, ...]) -> str:
    rows: list[list[object]] = []
    for seed in seeds:
        problem = three_pools(300, seed)
        plan = ExactPlanner(seed=seed, deadline=Deadline(10.0)).plan(problem)
        objective = plan.objective
        rows.append(
            [
                seed,
                len(plan.gpus),
                objective.value,
                objective.lower_bound,
                f"{objective.gap:.4%}",
                plan.solver.seconds,
            ]
        )
    return (
        "300 services on three pools with counts (600 A100-80GB at 2.1, 150 H100-80GB at 3.9, 500 A30 at 0.7 "
        "per hour), objective `cost`, time limit 10 s:\n\n"
        + table(["seed", "GPUs", "cost per hour", "proven bound", "gap", "seconds"], rows)
    )


def write_workload(folder: Path, drawn: Sequence[tuple[str, str, float, float]]) -> Path:
    """Write a workload of services on A100-80GBs into a folder, with its table; return its path."""
    shutil.copy(TABLE, folder / "perf.csv")
    path = folder / "workload.json"
    workload = {
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
    path.write_text(json.dumps(workload))
    return path


def _command(count: int) -> str:
    """Run the whole command on a workload file, in a process of its own, and measure its memory."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        path = write_workload(home, services(count, 1))
        started = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "partita",
            "plan",
            "-f",
            str(path),
            "--out",
            str(home / "plan.json"),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = time.monotonic() - started
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        written = (home / "plan.json").stat().st_size / 2**20
    row: list[object] = [count, seconds, memory, written]
    header = ["services", "seconds", "peak memory, GiB", "plan written, MiB"]
    return f"The whole command, from reading the workload to the written plan:\n\n{table(header, [row])}"


def _start_up() -> str:
    seconds = []
    for _ in range(7):
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "partita", "--help"], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.monotonic() - started)
    return f"`partita --help`: median of 7 runs {sorted(seconds)[3]:.2f} s.\n"
