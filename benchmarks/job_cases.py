"""The cases of the benchmark of jobs: MISO's trace, mixes of Rodinia runs, random batches."""

from __future__ import annotations

import csv
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from partita.jobs.job import Job, job_on
from partita.jobs.simulate import PowerModel
from partita.mig.catalogue import gpu_model

if TYPE_CHECKING:
    from partita.jobs.simulate import SimulatedSchedule

DATA = Path(__file__).resolve().parents[1] / "../shared/data"
# MISO measured these; the double-memory 1g came with later drivers.
A100 = gpu_model("a100-40gb").restricted(["1g.5gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"])
BASE_W = PowerModel({}).idle_w + PowerModel({}).context_w


@dataclass(frozen=True)
class Case:
    """Jobs with the energy of their work."""

    jobs: list[Job]
    power: PowerModel

    def figures(self, outcome: SimulatedSchedule, gpus: int) -> tuple[float, float, float]:
        """Return mean completion time (s), makespan (s) and energy (kWh)."""
        return outcome.completion, outcome.makespan, self.power.energy(outcome, gpus) / 3.6e6


def rows(path: str) -> list[dict[str, str]]:
    with (DATA / path).open(newline="") as stream:
        return list(csv.DictReader(stream))


def miso_speeds() -> dict[tuple[str, str], dict[str, float]]:
    """Return, by model and batch, the run time on each profile over that on the whole GPU."""
    seconds: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows("jobs/miso_iteration_seconds.csv"):
        seconds.setdefault((row["model"], row["batch"]), {})[row["profile"]] = float(
            row["median_iteration_s"]
        )
    return {key: {p: t / each["7g.40gb"] for p, t in each.items()} for key, each in seconds.items()}


def miso(seed: int, gap: float) -> Case:
    """Return MISO's trace in random order, at once or with exponential gaps of this mean in seconds."""
    speeds, rng, now = miso_speeds(), random.Random(seed), 0.0
    watts = {
        (r["model"], r["batch"]): float(r["power_w_on_full_gpu"]) for r in rows("jobs/miso_memory_power.csv")
    }
    trace = rows("jobs/miso_trace_100.csv")
    rng.shuffle(trace)
    jobs, joules = [], {}
    for number, row in enumerate(trace):
        key, whole = (row["model"], row["batch"]), float(row["runtime_full_gpu_s"])
        jobs.append(job_on(A100, number, {p: whole * x for p, x in speeds[key].items()}, arrival=now))
        joules[number] = max(watts[key] - BASE_W, 0.0) * whole
        now += rng.expovariate(1.0 / gap) if gap else 0.0
    return Case(jobs, PowerModel(joules))


def batch(seed: int) -> tuple[list[Job], int]:
    """Return 50 to 500 jobs that are all there at once, and 1, 2, 4 or 8 GPUs.

    Models and batches are MISO's, run times on the whole GPU Philly's between a minute and two hours.
    """
    rng, speeds = random.Random(seed), miso_speeds()
    times = [float(row["runtime_s"]) for row in rows("traces/philly_runtime_quantiles.csv")]
    times = [t for t in times if 60 <= t <= 7200]
    gpus, jobs = rng.choice((1, 2, 4, 8)), []
    for number in range(rng.randint(50, 500)):
        speed, whole = speeds[rng.choice(sorted(speeds))], rng.choice(times)
        jobs.append(job_on(A100, number, {p: whole * x for p, x in speed.items()}))
    return jobs, gpus


def rodinia(seed: int, large: int, small: int, count: int = 32, *, alike: bool = False) -> Case:
    """Return a mix of Rodinia runs, large : small as given; large is what 1g.5gb does not hold (over 4.75 GiB).

    If `alike`, they are copies of one run.

    Run times are not in the data. The model: log-normal on a whole GPU, median 20 s, sigma 0.5; 30 % of it on the
    host or copying, the same on every slice; the rest on as many compute slices as the run can fill, 7 from 8 GiB
    on and down with the square root of its memory; on fewer slices it takes longer in proportion. It draws
    20 W and 25 W for each slice it fills, beyond idle and context, in 70 % of its time.
    """
    rng, runs = random.Random(seed), rows("jobs/rodinia_memory.csv")
    kinds = {
        True: [row for row in runs if row["smallest_profile_a100_40gb"] != "1g.5gb"],
        False: [row for row in runs if row["smallest_profile_a100_40gb"] == "1g.5gb"],
    }
    picks = [index < round(count * large / (large + small)) for index in range(count)]
    rng.shuffle(picks)
    jobs, joules = [], {}
    for number, is_large in enumerate(picks):
        if not alike or not number:
            row, whole = rng.choice(kinds[is_large]), rng.lognormvariate(3.0, 0.5)
        fills = min(max(7.0 * (float(row["peak_bytes"]) / 2**33) ** 0.5, 1.0), 7.0)
        names = [p.name for p in A100.profiles]
        held = A100.profiles[names.index(row["smallest_profile_a100_40gb"]) :]
        seconds = {p.name: whole * (0.3 + 0.7 * max(fills / p.compute, 1.0)) for p in held}
        jobs.append(job_on(A100, number, seconds))
        joules[number] = 0.7 * whole * (20.0 + 25.0 * fills)
    return Case(jobs, PowerModel(joules))
